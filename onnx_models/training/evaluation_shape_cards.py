"""The table on real shapes as lines of the model cards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Record = dict[str, Any]
SOURCES = {
    "label map": "one patient, T6 to L5",
    "surfaces": "Visible Human, L1 to L5",
    "mean surface": "mean of 87, L2 to L5",
}


def shape_lines(told: Record, *, localizer: bool) -> list[str]:
    """The table of a card: the localizer's part, or the whole pipeline's."""
    shapes = told.get("shapes")
    if not shapes:
        return ["**On real shapes**: not measured here, their sources are absent."]
    rows = _LOCALIZER_ROWS if localizer else _SCREENING_ROWS
    names = [n for n in (*SOURCES, "all") if n in shapes]
    out = [
        "**On real shapes** with other grey values than the phantom's (rendered, not scanned; "
        f"{shapes['all']['images']} images of **three** spines, two persons and one mean shape, so no intervals; "
        "known deformities by warping single bodies, wedge, biconcave and crush of 20 to 60 %; no ribs, no sacrum)",
        "",
        f"| figure | {' | '.join(f'{n} ({SOURCES[n]})' if n in SOURCES else n for n in names)} |",
        f"| --- |{' --- |' * len(names)}",
    ]
    return out + [f"| {title} | {' | '.join(text(shapes[n]) for n in names)} |" for title, text in rows]


def _of(part: str, whole: str) -> Callable[[Record], str]:
    return lambda f: f"{f[part]} of {f[whole]}"


def _number(key: str, digits: int = 2) -> Callable[[Record], str]:
    return lambda f: "–" if f[key] is None else f"{f[key]:.{digits}f}"


_LOCALIZER_ROWS = (
    ("images, vertebrae", lambda f: f"{f['images']}, {f['vertebrae']}"),
    ("images not evaluable", lambda f: str(f["refused"])),
    ("error at the vertebra centres, mean (mm)", _number("line_mm")),
    ("the same, 95th percentile (mm)", _number("line_p95_mm")),
)
_SCREENING_ROWS = (
    ("images, vertebrae (deformed)", lambda f: f"{f['images']}, {f['vertebrae']} ({f['hurt']} measured)"),
    ("found, missed, false", lambda f: f"{f['found']}, {f['missed']}, {f['false']}"),
    ("centre error, mean (mm)", _number("centre_mm")),
    ("height error, undeformed, mean absolute (mm)", _number("height_intact_mm")),
    ("the same, deformed", _number("height_hurt_mm")),
    ("\\|dG\\|, undeformed", _number("d_g_intact", 3)),
    ("the same, deformed", _number("d_g_hurt", 3)),
    ("largest loss of the deformed, mean absolute error", _number("loss_error", 3)),
    ("slope of measured on true loss, deformed", _number("slope")),
    ("grade of the true loss, from mild on: the same", _of("same_grade", "graded")),
    ("the same or a neighbouring one", _of("within_one", "graded")),
    ("low confidence, undeformed vertebrae", _of("doubtful_intact", "intact")),
    ("the same, deformed", _of("doubtful_hurt", "hurt")),
    ("undeformed images flagged", _of("undeformed_flagged", "undeformed")),
    ("images with a true loss of .25 or more flagged", _of("deformed_flagged", "deformed")),
)
