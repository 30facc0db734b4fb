"""A pipeline of radiographs that knows the four bodies of `tests.films.shades`, for tests without networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from inference.findings import (
    KEYPOINTS,
    Findings,
    Grade,
    Heights,
    ModelIdentity,
    PatientFinding,
    PixelSize,
    VertebraFinding,
)
from inference.geometry import Radiograph
from inference.grading import RULE
from inference.refusal import Refusal, RefusalCode
from inference.runtime import CPU, Models
from node.answering import FilmPipeline
from node.results import FilmAnswer

MODELS = Models({}, (ModelIdentity("film", "1.0.0", "f" * 64),), CPU)
SMALLEST_ROWS = 90
"""Smaller films are called something else than a lateral spine."""


def toy_film_pipeline(evaluate: Callable[..., FilmAnswer] | None = None) -> FilmPipeline:
    """The pipeline, with another function in the place of `bodies_of` where one is given."""
    return FilmPipeline("1.0.0", MODELS, evaluate or bodies_of, (("least", str(SMALLEST_ROWS)),))


def bodies_of(film: Radiograph, age_years: float | None, progress: Callable[[str], None] | None) -> FilmAnswer:
    """Four undeformed bodies."""
    if progress is not None:
        progress("film")
    rows, columns = film.pixels.shape
    if rows < SMALLEST_ROWS:
        return FilmAnswer(_findings((), film, Refusal(RefusalCode.NOT_A_LATERAL_SPINE)))
    labels = np.zeros((rows, columns), np.uint8)
    vertebrae = []
    for n in range(4):
        top, left = 8 + n * (rows - 8) // 4, columns // 2 - 8
        bottom, right = top + (rows - 40) // 4, columns // 2 + 10
        labels[top:bottom, left:right] = n + 1
        middle = (left + right) / 2
        points = [(x, y) for x in (float(left), middle, float(right)) for y in (float(top), float(bottom))]
        size = film.pixel_mm[0] * (bottom - top)
        vertebrae.append(
            VertebraFinding(
                ordinal=n + 1,
                centroid_px=(middle, (top + bottom) / 2),
                keypoints_px=dict(zip(KEYPOINTS, points, strict=True)),
                heights_mm=Heights(size, size, size) if film.spacing_mm is not None else None,
                relative_heights=Heights(1.0, 1.0, 1.0),
                height_ratio=1.0,
                compression_ratio_percent=0.0 if n in (1, 2) else None,
                grade=Grade.NORMAL,
                rule=RULE,
                confidence=0.9,
            )
        )
    return FilmAnswer(_findings(tuple(vertebrae), film, None), film, labels)


def _findings(vertebrae: tuple[VertebraFinding, ...], film: Radiograph, refusal: Refusal | None) -> Findings:
    judged = PatientFinding(Grade.NORMAL, False, RULE) if refusal is None else PatientFinding(None, None, RULE)
    return Findings(
        pipeline="radiograph",
        pipeline_version="1.0.0",
        provider=CPU,
        models=MODELS.identities,
        patient=judged,
        vertebrae=vertebrae,
        refusal=refusal,
        spine_found=refusal is None,
        pixel_size=PixelSize(film.spacing_mm, film.spacing_source),
    )
