"""The demo's radiograph: the phantom from the side, and the findings on it beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node.demo.reading import ReadBody, ReadFilm

NEAR = 0.5
"""A body is at the place of a true one where their centres are nearer than this part of the true one's height."""


@dataclass(frozen=True)
class TrueBody:
    """What the phantom knows of a vertebral body on the film.

    Attributes
    ----------
    points_px
        (3, 2, 2) as ``ReadBody.lines_px``.
    heights_mm
        Anterior, middle, posterior, in space.
    """

    level: str
    deformity: str
    points_px: NDArray[np.float64]
    heights_mm: tuple[float, float, float]

    @property
    def centre_px(self) -> NDArray[np.float64]:
        """(2,), column and row."""
        return np.asarray(self.points_px.mean(axis=(0, 1)))


def phantom_film(folder: Path) -> tuple[list[TrueBody], Path]:
    """Make the film and write it; returns what is true of it as well."""
    from onnx_models.training.film_cases import demo_film  # noqa: PLC0415 (numba: not in a production install)
    from onnx_models.training.film_dicom import write_film  # noqa: PLC0415

    film = demo_film()
    truth = film.truth
    bodies = [
        TrueBody(level, deformity, points.reshape(3, 2, 2)[..., ::-1] + 0.5, (float(h[0]), float(h[1]), float(h[2])))
        for level, deformity, points, h in zip(
            truth.levels, truth.deformity, truth.points, truth.heights_mm, strict=True
        )
        if level != "S1"
    ]
    return bodies, write_film(film, folder / "film.dcm")


def true_compression_percent(bodies: Sequence[TrueBody], n: int) -> float | None:
    """Anterior height lost against the mean of the next undeformed ones above and below, weighted by how many vertebrae
    away they are, as `inference.film_ratios` does; none at the ends."""
    whole = [k for k, body in enumerate(bodies) if body.deformity == "none"]
    above, below = max((k for k in whole if k < n), default=None), min((k for k in whole if k > n), default=None)
    if above is None or below is None:
        return None
    upper, lower = bodies[above].heights_mm[0], bodies[below].heights_mm[0]
    return 100 * (1 - bodies[n].heights_mm[0] / (upper + (lower - upper) * (n - above) / (below - above)))


def print_film(answer: ReadFilm, truth: Sequence[TrueBody], console: Console) -> None:
    """Findings beside the truth, where there is one."""
    title = {True: "FLAG: vertebral height loss, possible fracture", False: "no flag", None: "not graded"}[answer.flag]
    table = Table(title=f"Radiograph: {title} (research use only)", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("", "Ha/Hp", "Hm/Hp", "VCR %", "grade", *(("truth", "Ha/Hp", "Hm/Hp", "VCR %") if truth else ())):
        table.add_column(header, no_wrap=True)
    for body in answer.bodies:
        relative = body.relative_heights
        row = [
            escape(body.name.removeprefix("spine-node ")),
            *((f"{r:.2f}" for r in relative) if relative is not None else ("", "")),
            _percent(body.compression_ratio_percent),
            str(body.grade or ""),
        ]
        table.add_row(*row, *(_truth_columns(body, truth) if truth else ()))
    console.print(table if answer.bodies else f"{table.title}: no anterior or posterior height; the capture says why")
    found = {nearest(body, truth) for body in answer.bodies}
    missed = [t.level for n, t in enumerate(truth) if t.deformity != "none" and n not in found]
    if missed:
        console.print(f"fractured and not found on the radiograph: {', '.join(missed)}")


def nearest(body: ReadBody, truth: Sequence[TrueBody]) -> int | None:
    """Index of the true body at this place; ``None``: there is none, or the SR does not say where it is."""
    if body.lines_px is None or not truth:
        return None
    centre = body.lines_px.mean(axis=(0, 1))
    away = [float(np.linalg.norm(t.centre_px - centre)) for t in truth]
    n = int(np.argmin(away))
    height = float(np.linalg.norm(truth[n].points_px[:, 0] - truth[n].points_px[:, 1], axis=1).max())
    return n if away[n] < NEAR * height else None


def _truth_columns(body: ReadBody, truth: Sequence[TrueBody]) -> list[str]:
    n = nearest(body, truth)
    if n is None:
        return ["not drawn" if body.lines_px is None else "[red]none here[/red]", "", "", ""]
    true = truth[n]
    name = true.level if true.deformity == "none" else f"{true.level} {true.deformity}"
    anterior, middle, posterior = true.heights_mm
    return [
        name, f"{anterior / posterior:.2f}", f"{middle / posterior:.2f}", _percent(true_compression_percent(truth, n))
    ]  # fmt: skip


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
