"""What is said of one vertebral body on a film, before it is compared with others: points, heights, doubts.

Points lie on the film as it was sent. Heights are in mm where the film is calibrated, else they are not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.film_bodies import FilmBody
from inference.film_checks import has_double_contour
from inference.film_contour import SixPoints
from inference.film_grid import FilmGrid
from inference.film_names import FilmNames
from inference.film_preparation import PreparedFilm
from inference.film_ratios import relative_heights
from inference.findings import KEYPOINTS, Heights, Quality, WithoutSide
from inference.findings import VertebraFinding as Vertebra
from inference.grading import height_uncertainty_mm

SD_OF_MEAN_ERROR = float(np.sqrt(np.pi / 2))
"""A normal distribution's standard deviation over its mean absolute error."""


@dataclass(frozen=True)
class MeasuredBody:
    """One body with its six points: those that are told, and those of the outline where both were measured.

    ``step`` is that of the grid on which they were measured, in the film's units; ``spread`` the expected error of the
    worst height as a part of the posterior one, where a network tells it; ``foreign``: it holds cement or metal.
    """

    body: FilmBody
    alone: NDArray[np.float32]
    six: SixPoints | None
    step: float
    outlined: SixPoints | None = None
    disagrees: bool = False
    spread: float | None = None
    foreign: bool = False


def vertebra(
    measured: MeasuredBody, film: PreparedFilm, grid: FilmGrid, *, calibrated: bool, sure: bool, front_unsure: bool
) -> Vertebra:
    """One body on the film as it was sent, not graded yet.

    Parameters
    ----------
    grid
        On which its points are told.
    calibrated
        Whether the film's unit is a mm in the plane of the spine.
    sure
        Whether its heights are; ``LOW_CONFIDENCE`` else.
    """
    column, row = (float(v) for v in grid.image_points(measured.body.centre))
    found = Vertebra(measured.body.label, centroid_px=(column, row), confidence=measured.body.probability)
    if measured.body.partial:
        return replace(found, quality=(Quality.PARTIAL,))
    if measured.six is None:
        return replace(
            found, quality=(*([Quality.FOREIGN_MATERIAL] if measured.foreign else []), Quality.NO_END_PLATES)
        )
    points = grid.image_points(measured.six.points)
    flags = (
        (Quality.FOREIGN_MATERIAL, measured.foreign),
        (Quality.LOW_CONFIDENCE, not sure),
        (Quality.MASK_DISAGREES, measured.disagrees),
        (Quality.DOUBLE_CONTOUR, has_double_contour(film, grid, measured.six)),
        (Quality.FRONT_UNSURE, front_unsure),
    )
    beside = Heights(*(float(h) for h in measured.outlined.heights)) if measured.outlined is not None else None
    return replace(
        found,
        keypoints_px={name: (float(x), float(y)) for name, (x, y) in zip(KEYPOINTS, points, strict=True)},
        heights_mm=Heights(*(float(h) * grid.step for h in measured.six.heights)) if calibrated else None,
        height_uncertainty_mm=_uncertainty_mm(measured, grid.step) if calibrated else None,
        mask_heights_mm=Heights(*(h * grid.step for h in beside.as_tuple())) if beside and calibrated else None,
        mask_relative_heights=relative_heights(beside) if beside else None,
        quality=tuple(flag for flag, so in flags if so),
    )


def with_names(vertebrae: Sequence[Vertebra], names: FilmNames) -> list[Vertebra]:
    """With their levels; measured ones beside them are flagged, so that no T1 to T3 is graded for want of a name."""
    out = []
    for v, level, confidence in zip(vertebrae, names.levels, names.confidences, strict=True):
        unnamed = level is None and v.keypoints_px is not None and any(names.levels)
        quality = (*v.quality, Quality.NOT_NAMED) if unnamed else v.quality
        out.append(replace(v, level=level, level_confidence=confidence, quality=quality))
    return out


def untold(vertebra: Vertebra) -> Vertebra:
    """A vertebra on so coarse a grid that its heights mean nothing; one that was not measured stays as it is."""
    if vertebra.keypoints_px is None:
        return vertebra
    return replace(
        vertebra,
        keypoints_px=None,
        heights_mm=None,
        height_uncertainty_mm=None,
        mask_heights_mm=None,
        mask_relative_heights=None,
        quality=(*vertebra.quality, Quality.HEIGHTS_NOT_TOLD),
    )


def without_side(vertebra: Vertebra) -> Vertebra:
    """What of a measured vertebra can be told while its front may be on either side; its grade needs no side."""
    points, lost, heights = vertebra.keypoints_px, vertebra.height_loss, vertebra.heights_mm
    if points is None:
        return vertebra
    return replace(
        vertebra,
        keypoints_px={name: at for name, at in points.items() if name.startswith("middle")},
        without_side=WithoutSide(
            middle_mm=None if heights is None else heights.middle,
            middle_loss=None if lost is None else lost.middle,
            wall_loss=None if lost is None else max(lost.anterior, lost.posterior),
        ),
        heights_mm=None,
        mask_heights_mm=None,
        mask_relative_heights=None,
        relative_heights=None,
        height_loss=None,
        compression_ratio_percent=None,
        compared_with=None,
    )


def _uncertainty_mm(measured: MeasuredBody, step: float) -> float:
    """Of a height, one standard deviation: by the fineness of its grid or, where that is more, as the network expects
    it; ``step`` is the grid's on which the points are told."""
    posterior = float(measured.six.heights[2]) * step if measured.six is not None else 0.0
    return max(height_uncertainty_mm(measured.step), SD_OF_MEAN_ERROR * (measured.spread or 0.0) * posterior)
