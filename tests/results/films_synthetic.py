"""A lateral film of known geometry with findings on it: bodies are quadrangles, so every line has a known place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from results_synthetic import MODELS, context

from inference.findings import (
    KEYPOINTS,
    Findings,
    Grade,
    Heights,
    Level,
    PatientFinding,
    PixelSize,
    Quality,
    VertebraFinding,
)
from inference.geometry import Radiograph
from inference.grading import RULE
from node.results import FilmAnswer, ResultContext
from tests.films import Film

ROWS, COLUMNS = 700, 500
BODY_PX, DEPTH_PX, GAP_PX = 90.0, 110.0, 18.0
SPACING_MM = (0.25, 0.25)


@dataclass(frozen=True)
class FilmCase:
    """A film, its header, what was found, and the mask of the bodies."""

    film: Radiograph
    source: Dataset
    answer: FilmAnswer

    @property
    def findings(self) -> Findings:
        return self.answer.findings


def film_context(**changes: object) -> ResultContext:
    return context(pipeline="radiograph", series_number_base=9010, **changes)


def film_case(
    crushed: dict[int, float] | None = None,
    *,
    count: int = 5,
    calibrated: bool = True,
    front_left: bool = True,
    aspect: float = 1.0,
    unmeasured: Sequence[int] = (),
    first_level: Level | None = None,
    sop_class: str | None = None,
) -> FilmCase:
    """``crushed``: ordinals and the factors of their anterior heights. ``aspect``: height of a pixel over its width."""
    crushed = crushed or {}
    rows = round(ROWS / aspect)
    bodies = {n: _points(n, crushed.get(n, 1.0), front_left, aspect) for n in range(1, count + 1)}
    labels = np.zeros((rows, COLUMNS), np.uint8)
    for n, points in bodies.items():
        labels |= np.where(_filled(points, labels.shape), np.uint8(n), np.uint8(0)) * (labels == 0)
    pixels = np.where(labels > 0, 0.75, 0.3).astype(np.float32)
    pixels[:, :20] = 0.02
    side = SPACING_MM[1]
    spacing = (side * aspect, side) if calibrated else None
    size = PixelSize(spacing, "Pixel Spacing, calibrated (fiducial)" if calibrated else "uncalibrated: no spacing")
    film = Radiograph(pixels, spacing, aspect, size.source, ("P", "F") if front_left else ("A", "F"), True)
    vertebrae = tuple(
        _vertebra(n, points, crushed, count, film, None if first_level is None else _level(first_level, n), unmeasured)
        for n, points in bodies.items()
    )
    graded = [v.grade for v in vertebrae if v.grade is not None]
    findings = Findings(
        pipeline="radiograph",
        pipeline_version="1.0.0",
        provider="CPUExecutionProvider",
        models=MODELS,
        patient=PatientFinding(
            max(graded, key=lambda g: g.rank, default=None), any(g.rank > 1 for g in graded) if graded else None, RULE
        ),
        vertebrae=vertebrae,
        spine_found=True,
        quality=() if calibrated else (Quality.UNCALIBRATED,),
        pixel_size=size,
    )
    stored = np.rint(pixels * 4095).astype(np.int64)
    made = Film(stored=stored, sop_uid="1.2.826.0.1.3680043.8.498.7.7", study_uid="1.2.826.0.1.3680043.8.498.7")
    if sop_class is not None:
        made = replace(made, sop_class=sop_class)
    source = made.dataset()
    del source.PixelData
    source.PatientOrientation = list(film.orientation or ())
    return FilmCase(film, source, FilmAnswer(findings, film, labels))


def _level(first: Level, ordinal: int) -> Level:
    levels = list(Level)
    return levels[levels.index(first) + ordinal - 1]


def _points(n: int, crushed: float, front_left: bool, aspect: float) -> NDArray[np.float64]:
    """(3, 2, 2) as (part; superior, inferior; column, row): tilted a little more from body to body."""
    tilt = np.deg2rad(4.0 * (n - 3))
    across, down = np.array([np.cos(tilt), np.sin(tilt)]), np.array([-np.sin(tilt), np.cos(tilt)])
    centre = np.array([COLUMNS / 2 + 6.0 * (n - 3) ** 2, 90 + (n - 1) * (BODY_PX + GAP_PX) + BODY_PX / 2])
    sides = (-1, 0, 1) if front_left else (1, 0, -1)
    ends = [
        [centre + side * DEPTH_PX / 2 * across + sign * BODY_PX / 2 * factor * down for sign in (-1, 1)]
        for side, factor in zip(sides, (crushed, 0.9 * (1 + crushed) / 2, 1.0), strict=True)
    ]
    return np.array(ends) / [1.0, aspect]


def _filled(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    image = Image.new("1", shape[::-1])
    ring = points.reshape(6, 2)[[0, 2, 4, 5, 3, 1]]
    ImageDraw.Draw(image).polygon([tuple(p - 0.5) for p in ring], fill=1)
    return np.array(image)


def _vertebra(
    n: int,
    points: NDArray[np.float64],
    crushed: dict[int, float],
    count: int,
    film: Radiograph,
    level: Level | None,
    unmeasured: Sequence[int],
) -> VertebraFinding:
    centre = points.mean(axis=(0, 1))
    found = VertebraFinding(
        ordinal=n,
        centroid_px=(float(centre[0]), float(centre[1])),
        level=level,
        level_confidence=None if level is None else 0.9,
        confidence=0.95,
    )
    if n in unmeasured:
        return replace(found, quality=(Quality.PARTIAL,))
    factor = crushed.get(n, 1.0)
    lengths = np.linalg.norm((points[:, 0] - points[:, 1]) * np.array(film.pixel_mm[::-1]), axis=1)
    neighbours = [crushed.get(m, 1.0) for m in (n - 1, n + 1) if 1 <= m <= count and m not in unmeasured]
    vcr = None if len(neighbours) < 2 else 100 * (1 - factor / (sum(neighbours) / 2))
    loss = round(1 - factor, 9)
    grade = (
        Grade.SEVERE if loss >= 0.4 else Grade.MODERATE if loss >= 0.25 else Grade.MILD if loss >= 0.2 else Grade.NORMAL
    )
    return replace(
        found,
        keypoints_px={
            name: (float(p[0]), float(p[1])) for name, p in zip(KEYPOINTS, points.reshape(6, 2), strict=True)
        },
        heights_mm=Heights(*(float(v) for v in lengths)) if film.spacing_mm is not None else None,
        relative_heights=Heights(*(float(v) for v in lengths[:2] / lengths[2]), 1.0),
        height_ratio=float(lengths.min() / lengths.max()),
        height_loss=Heights(loss, loss / 2, 0.0),
        compression_ratio_percent=vcr,
        compared_with=None if vcr is None else (n - 1, n + 1),
        grade=grade,
        rule=RULE,
    )
