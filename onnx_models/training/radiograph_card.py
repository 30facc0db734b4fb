"""The figures of `radiograph_summary` as the tables that stand in the card of the network for films, and their plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnx_models.training.evaluation_cards import replaced
from onnx_models.training.film_evaluation_set import STRATA
from onnx_models.training.radiograph_summary import ROWS

BEGIN = "<!-- figures: written by onnx_models.training.radiograph_evaluation --card, do not edit -->"
END = "<!-- end of the film network's own figures -->"
GOALS = {
    "Dice, section": "≥ .90",
    "Dice, readable": "≥ .93",
    "Dice, clear": "≥ .93",
    "Dice of a vertebra, L2 to L5": "≥ .95",
    "found, T11 to L5": "≥ .97",
    "merged, T11 to L5": "≤ .02",
    "AUC, moderate or worse": "≥ .93",
    "VCR measured": "≥ .80",
}
AGREEMENT_GOALS = {"VCR": "r ≥ .95, ± 10"}
PIXELS = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "area under the ROC": "roc_auc",
    "area under the PR curve": "pr_auc",
}
Record = dict[str, Any]


def section(told: Record, command: str) -> str:
    """The section of the card; ``told`` is what `radiograph_evaluation` prints."""
    ways = list(told["ways"])
    first = told["ways"][ways[0]]
    lines = [
        f"Date {told['date']}; `{command}`; models "
        + ", ".join(f"{name} `{sha[:12]}`" for name, sha in told["models"].items())
        + ".",
        f"Set {told['set']} (SHA-256 `{told['set_sha256'][:12]}`): {first['films']} of {told['films_of_the_set']} "
        "films ("
        + ", ".join(f"{first['strata'][s]} {s}" for s in STRATA)
        + f"), {first['vertebrae']} whole vertebrae T11 to L5. Nothing was said of view or direction to the pipeline. "
        "Means with 95 % intervals by drawing films again.",
        "",
        "| | counted | goal | " + " | ".join(ways) + " |",
        "|---" * (3 + len(ways)) + "|",
    ]
    for name in first["estimates"]:
        cells = [interval(told["ways"][way]["estimates"][name]) for way in ways]
        lines.append(_row(name, ROWS[name].counts, GOALS.get(name, ""), *cells))
    for name in first["agreements"]:
        cells = [_agreement(told["ways"][way]["agreements"][name]) for way in ways]
        lines.append(_row(f"{name}, points", "without doubt", AGREEMENT_GOALS.get(name, ""), *cells))
    aucs = [_figure(told["ways"][way]["vcr_auc"]) for way in ways]
    lines.append(_row("AUC of VCR for a true one above 20 %", "without doubt", "", *aucs))
    for name, key in PIXELS.items():
        cells = [_figure(told["ways"][way]["pixels"][key], 4) for way in ways]
        lines.append(_row(f"pixels of the map of bodies, {name}", "all films", "", *cells))
    upper = first["upper thoracic"]
    given, count = first["names"]
    front, sides = first["front_right"]
    head, ends = first["head_right"]
    lines += [
        "",
        f"T1 to T6 ({upper['n']} whole ones): {_part(upper['found'])} found, of these "
        f"{_part(upper['flagged'])} flagged or not measured; "
        f"{100 * upper['sure']:.0f} % of all measured without doubt, with |dG| "
        f"{_figure(upper['sure G error'])}; {_part(upper['named'])} of those found have a name.",
        _foreign(first),
        f"Names: {_part(given)} of {count} given are right. Side of the front: right in {_part(front)} of {sides} "
        f"films; head up after turning: {_part(head)} of {ends}. "
        f"Median time {first['seconds']:.2f} s on one core. (All of {ways[0]}.)",
        "",
        *_all_graded(told, ways),
        "",
        "| lateral films | goal | " + " | ".join(ways) + " |",
        "|---" * (2 + len(ways)) + "|",
        _row(
            "refused of the first hundred",
            "at most 2",
            *("{} of {}".format(*told["ways"][way]["refused_of_first_hundred"]) for way in ways),
        ),
        _row("refused of all", "", *(_refusals(told["ways"][way]["refused"]) for way in ways)),
        "",
        "| films that must be refused: refused | " + " | ".join(ways) + " |",
        "|---" * (1 + len(ways)) + "|",
    ]
    for kind in first["negatives"]:
        shown = (told["ways"][way]["negatives"].get(kind, (0, 0)) for way in ways)
        lines.append(_row(kind, *("{} of {}".format(*counts) for counts in shown)))
    lines += [
        _row("**all**", *(_total(told["ways"][way]["negatives"]) for way in ways)),
        _row(
            "**all, with a header that says lateral**",
            *(_total(kinds) + _passed(kinds) for kinds in (told["ways"][way]["called lateral"] for way in ways)),
        ),
    ]
    lines += _real_lines(told, ways)
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _foreign(way: Record) -> str:
    """Which bodies were told to hold cement or metal."""
    with_, without = way["cement or metal"]["with"], way["cement or metal"]["without"]
    return (
        f"Cement or metal, which keeps a body from being graded: told of {with_[0]} of {with_[1]} whole bodies found "
        f"that hold some, and of {without[0]} of {without[1]} that hold none."
    )


def _all_graded(told: Record, ways: Sequence[str]) -> list[str]:
    """What the rule that unsure bodies have no grade is worth."""
    every = [told["ways"][way]["were all graded"] for way in ways]
    reals = [told["ways"][way]["real"] for way in ways]
    answered = ["" if r is None else f"{r['called']} of {r['films'] - r['refused']}" for r in reals]
    return [
        "| were unsure bodies graded too: moderate or worse | " + " | ".join(ways) + " |",
        "|---" * (1 + len(ways)) + "|",
        _row("of the healthy bodies measured, T11 to L5", *(_part(e["healthy"]) for e in every)),
        _row("(as it is, of those with a grade)", *(_part(e["healthy graded"]) for e in every)),
        _row("a body on answered films without a fracture", *("{} of {}".format(*e["films"]) for e in every)),
        _row("a body on answered films of the healthy real CT", *(cell or "not measured" for cell in answered)),
    ]


def _total(kinds: Record) -> str:
    return "{} of {}".format(*(sum(row[n] for row in kinds.values()) for n in (0, 1)))


def _passed(kinds: Record) -> str:
    """Of which kinds films passed."""
    passed = [f"{m - n} {kind}" for kind, (n, m) in kinds.items() if m > n]
    return f" (not {', '.join(passed)})" if passed else ""


def written(card: str, told: Record, command: str) -> str:
    """The card with its section replaced.

    Raises ``ValueError`` where it does not have the two markers.
    """
    return replaced(card, section(told, command), BEGIN, END)


def _real_lines(told: Record, ways: Sequence[str]) -> list[str]:
    reals = [told["ways"][way]["real"] for way in ways]
    if reals[0] is None:
        return ["", "Films of the real CT: not measured, the folder of real images is absent."]

    def row(name: str, goal: str, cell: Callable[[Record], str]) -> str:
        return _row(name, goal, *("not measured" if real is None else cell(real) for real in reals))

    def each(real: Record) -> str:
        return ", ".join("refused" if d is None else f"{d:.2f}" for d in real["each dice"])

    return [
        "",
        "Films rendered from the one real CT (healthy lumbar spine, 3 mm voxels, silver masks), "
        f"{reals[0]['films']} poses and formations; no training sees them, and they are a development case (see "
        "above):",
        "",
        "| | goal | " + " | ".join(ways) + " |",
        "|---" * (2 + len(ways)) + "|",
        row("Dice, projected mid-sagittal section, 0 where refused", "≥ .88", lambda r: _figure(r["dice"])),
        row("the same, answered films", "", lambda r: _figure(r["dice answered"])),
        row("the same, each film", "", each),
        row("Dice, silhouette, 0 where refused", "", lambda r: _figure(r["silhouette"])),
        row("the same, answered films", "", lambda r: _figure(r["silhouette answered"])),
        row("Dice of a vertebra, L2 to L5, 0 where not found", "", lambda r: _figure(r["vertebra dice"])),
        row("the same, found ones", "", lambda r: _figure(r["vertebra dice found"])),
        row("whole vertebrae found", "", lambda r: "{} of {}".format(*r["found"])),
        row(
            "false findings an answered film, and the most",
            "≤ 1",
            lambda r: f"{_figure(r['false findings'], 2)}, {r['most false findings']}",
        ),
        row("lateral films refused", "0", lambda r: f"{r['refused']} of {r['films']}"),
        row("AP films refused", "all", lambda r: "{} of {}".format(*r["frontal refused"])),
        row(
            "answered films flagged (the spine is healthy)",
            "0",
            lambda r: f"{r['flagged']} of {r['films'] - r['refused']}",
        ),
        row("names right", "", lambda r: f"{_part(r['names'][0])} of {r['names'][1]}"),
    ]


def plot(true: Sequence[float], said: Sequence[float], title: str) -> str:
    """A Bland-Altman plot as SVG: difference (measured - true) over their mean, per cent, with bias and limits."""
    t, m = np.array(true), np.array(said)
    mean, difference = (t + m) / 2, m - t
    bias, spread = (float(difference.mean()), 1.96 * float(difference.std(ddof=1))) if len(t) > 1 else (0.0, 0.0)
    left, right, top, bottom = 50, 590, 30, 340
    low_x, high_x = (float(np.floor(mean.min() / 10) * 10), float(np.ceil(mean.max() / 10) * 10)) if len(t) else (0, 1)
    reach = max(15.0, float(np.ceil(np.abs(difference).max() / 5) * 5)) if len(t) else 15.0

    def x(value: float) -> float:
        return left + (right - left) * (value - low_x) / max(high_x - low_x, 1e-9)

    def y(value: float) -> float:
        return (top + bottom) / 2 - (bottom - top) / 2 * value / reach

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 390" font-family="sans-serif" font-size="12">',
        '<rect width="700" height="390" fill="white"/>',
        f'<text x="{left}" y="18">{title}</text>',
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" stroke="#888"/>',
    ]
    for value in np.arange(low_x, high_x + 1, 10):
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:.0f}</text>')
    for value in np.linspace(-reach, reach, 5):
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0f}</text>')
    for name, value in (("bias", bias), ("+1.96 sd", bias + spread), ("-1.96 sd", bias - spread)):
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#c33" '
            f'stroke-dasharray="{"none" if name == "bias" else "5 4"}"/>'
            f'<text x="{right + 5}" y="{y(value) + 4:.1f}" fill="#c33">{name} {value:.1f}</text>'
        )
    parts += [
        f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2" fill="#246" fill-opacity=".5"/>'
        for a, b in zip(mean, difference, strict=True)
    ]
    parts += [
        f'<text x="{(left + right) / 2}" y="{bottom + 36}" text-anchor="middle">mean of both, points</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def interval(estimate: Sequence[float]) -> str:
    """A figure (value, low, high, ...) with its interval, in words."""
    value, low, high = estimate[:3]
    return f"{value:.3f} ({low:.3f} to {high:.3f})" if np.isfinite(value) else "not measured"


def _figure(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "not measured"


def _agreement(found: Sequence[float]) -> str:
    bias, low, high, correlation, count = found
    if count < 3:
        return "not measured"
    return f"r {correlation:.3f}, bias {bias:.1f}, limits {low:.1f} to {high:.1f}, n {count:.0f}"


def _part(value: float) -> str:
    return f"{100 * value:.0f} %" if np.isfinite(value) else "none"


def _refusals(refused: Sequence[tuple[int, str]]) -> str:
    if not refused:
        return "none"
    codes = sorted({code for _, code in refused})
    return "; ".join(f"{sum(c == code for _, c in refused)} {code}" for code in codes)
