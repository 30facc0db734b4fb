"""Six points of every vertebral body from a network that sees each of them alone: the second way of measuring.

Each body is cut out turned upright with the front towards column 0, so that a network need know one pose only; its
points come back the same way. The first way, the outline's corners, gives the cut; where both agree a height is sure.

Contract of the network: input "crops" float32 (bodies, 1, 64, 64), the film as `PreparedFilm.on` gives it on
`crop_grid`; output "points" float32 (bodies, 6, 2), (row, column) index in the crop, in the order of ``KEYPOINTS``;
and, of a network that tells it, "spread" float32 (bodies, 3): expected absolute error of the anterior, middle and
posterior height, in pixels of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.film_contour import SixPoints
from inference.film_grid import FilmGrid
from inference.film_preparation import PreparedFilm
from inference.runtime import Models

SIZE = 64
"""Rows and columns of a crop."""
REACH = 1.8
"""Side of a crop in depths of the body, or in its heights where they are larger."""


@dataclass(frozen=True)
class PointSettings:
    """The second way of measuring.

    Both limits were chosen before any network was trained; ``onnx_models.training.film_points_evaluation`` tells what
    they flag on held-out films.

    Attributes
    ----------
    network
        Name in the manifest.
    agreement
        Heights of both ways that differ by more than this part of the posterior height: ``MASK_DISAGREES``.
    unsure
        A body with a height that is expected to be off by more than this part of its posterior height keeps the
        outline's points, flagged likewise.
    """

    network: str = "film_points"
    agreement: float = 0.1
    unsure: float = 0.15


def crop_grid(grid: FilmGrid, six: SixPoints) -> FilmGrid:
    """The grid of `SIZE` x `SIZE` around a body whose points on ``grid`` are ``six``: head up, front to column 0."""
    back, up = six.axes
    depth = float(((six.points[4:] - six.points[:2]) @ back).mean())
    scale = REACH * max(depth, float(six.heights.max())) / SIZE
    linear = np.column_stack([-up, back]) * scale
    centre = six.points[[0, 1, 4, 5]].mean(axis=0)
    offset = centre - linear @ np.full(2, (SIZE - 1) / 2)
    matrix = np.column_stack([grid.matrix[:, :2] @ linear, grid.to_film(offset)])
    return FilmGrid((SIZE, SIZE), grid.film_shape, matrix, grid.step * scale)


def network_points(
    film: PreparedFilm, grid: FilmGrid, outlined: Sequence[SixPoints], models: Models, settings: PointSettings
) -> list[SixPoints | None]:
    """Six points on ``grid`` of each body; ``None`` where they have no height, lie outside the crop, or are unsure.

    Raises
    ------
    ModelRunError
        When the network fails.
    """
    if not outlined:
        return []
    crops = [crop_grid(grid, six) for six in outlined]
    seen = np.stack([film.on(crop) for crop in crops])[:, None]
    said = models.run(settings.network, {"crops": seen})
    found: list[SixPoints | None] = []
    for n, (points, crop, six) in enumerate(zip(said["points"], crops, outlined, strict=True)):
        inside = (points > -0.5).all() and (points < SIZE - 0.5).all()
        heights = points[1::2, 0] - points[0::2, 0]
        upright = heights.min() > 0  # each lower point lies below its upper one
        sure = "spread" not in said or said["spread"][n].max() <= settings.unsure * heights[2]
        good = inside and upright and sure
        found.append(SixPoints(grid.to_grid(crop.to_film(points)), six.axes) if good else None)
    return found
