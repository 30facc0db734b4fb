"""The second table: what the shipped pipeline says of the real images, where they are present."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_models.training.evaluation_records import Runner
from onnx_models.training.metrics import Floats, matched
from onnx_models.training.real_cases import WHOLE, RealCase, real_cases

MATCH_MM = 15.0
Record = dict[str, Any]


@dataclass(frozen=True)
class RealRow:
    """One real image.

    Attributes
    ----------
    expected, answer
        In words.
    line_mm
        Distance of the centre line from the silver body centroid in the axial plane, by level; ``None`` where the
        curve does not reach.
    centre_mm
        Distance of the found vertebra from the silver centroid, by level.
    extra
        Findings that match no whole lumbar vertebra nor the thoracic ones in view: on the sacrum, twice, or outside.
    height_error_mm
        Mean absolute difference to the silver heights (quantised to 1.5 mm), by level.
    """

    name: str
    expected: str
    answer: str
    line_mm: dict[str, float | None] = field(default_factory=dict)
    centre_mm: dict[str, float] = field(default_factory=dict)
    extra: int = 0
    height_error_mm: dict[str, float] = field(default_factory=dict)


def real_rows(runner: Runner) -> list[RealRow]:
    """One row per real CT; empty where the images are absent."""
    return [row_of(case, runner.answer(case.volume, _middles(case)), runner.localizer_only) for case in real_cases()]


def _middles(case: RealCase) -> list[list[float]]:
    return [list(p) for p in case.centroids_lps_mm.values()]


def row_of(case: RealCase, answer: Record, localizer_only: bool) -> RealRow:
    """Compare one answer with what is known."""
    levels = list(case.centroids_lps_mm)
    line = dict(zip(levels, answer["line_mm"], strict=True))
    centre, heights, extra = {}, {}, 0
    if levels and not localizer_only:
        truth: Floats = np.array([case.centroids_lps_mm[level] for level in levels])
        found = answer["found"]
        at = matched(np.array([f["centre"] for f in found], np.float64).reshape(-1, 3), truth, MATCH_MM)
        for f, t in zip(found, at, strict=True):
            level = None if t is None else levels[t]
            if level is None or level == "S1":
                extra += f["heights"] is not None or level == "S1"
                continue
            centre[level] = round(float(np.linalg.norm(np.subtract(f["centre"], case.centroids_lps_mm[level]))), 2)
            if f["heights"] and level in case.heights_mm:
                heights[level] = round(float(np.abs(np.subtract(f["heights"], case.heights_mm[level])).mean()), 2)
    return RealRow(case.name, _expected(case), _words(answer, localizer_only), line, centre, extra, heights)


def _expected(case: RealCase) -> str:
    if case.spine is None:
        return "not evaluable, or only the bodies that the edge does not cut; nothing on heart or aorta"
    if not case.spine:
        return "not evaluable: no spine in view"
    return f"{', '.join(WHOLE)} found, no flag" if case.centroids_lps_mm else "not evaluable: too little spine (40 mm)"


def _words(answer: Record, localizer_only: bool) -> str:
    if localizer_only:
        return "curve found" if answer["line_refusal"] is None else f"refused: {answer['line_refusal']}"
    if answer["refusal"] is not None:
        return f"not evaluable: {answer['refusal']}"
    counted = sum(f["heights"] is not None for f in answer["found"])
    return f"{'FLAG' if answer['flag'] else 'no flag'}, {counted} measured of {len(answer['found'])} found"
