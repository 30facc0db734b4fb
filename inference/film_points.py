"""Six points of every vertebral body from a network that looks at each of them again, nearer: the second way.

Each body is cut out turned upright with the front towards column 0, so that a network need know one pose only; its
points come back the same way. Beside the film it is shown what was seen on the whole film: the map of all bodies, and
this body's share of it. It sees the film twice to three times as fine as the first network did. The first way, the
outline's corners, gives the cut; where both agree a height is sure.

Contract of the network: input "crops" float32 (bodies, 3, 64, 64): the film as `PreparedFilm.on` gives it on
`crop_grid`, the probability of bodies, and that of this body alone; output "points" float32 (bodies, 6, 2), (row,
column) index in the crop, in the order of ``KEYPOINTS``; and "spread" float32 (bodies, 3): expected absolute error of
the anterior, middle and posterior height, in pixels of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.film_contour import SixPoints
from inference.film_grid import FilmGrid
from inference.film_preparation import PreparedFilm
from inference.runtime import Models

Map = NDArray[np.float32]
SIZE = 64
"""Rows and columns of a crop."""
CHANNELS = 3
REACH = 2.0
"""Side of a crop in depths of the body, or in its heights where they are larger."""


@dataclass(frozen=True)
class PointSettings:
    """The second way of measuring.

    Limits are parts of the posterior height.

    Attributes
    ----------
    network
        Name in the manifest.
    agreement
        Heights of both ways that differ by more than this: ``MASK_DISAGREES``.
    unsure
        A body with a height that is expected to be off by more than this keeps the outline's points.
    sure
        Above this expected error of its worst height: ``LOW_CONFIDENCE``, whichever points it has.
    """

    network: str = "film_points"
    agreement: float = 0.1
    unsure: float = 0.2
    sure: float = 0.08


@dataclass(frozen=True)
class OutlinedBody:
    """A body as the first way sees it.

    Attributes
    ----------
    six
        Its points on the grid of the whole film.
    alone
        (rows, columns) of that grid: probability of this body, 0 where others are.
    """

    six: SixPoints
    alone: Map


@dataclass(frozen=True)
class NetworkPoints:
    """A body as the second way sees it.

    Attributes
    ----------
    six
        Its points on the grid of the whole film.
    spread
        Largest expected error of a height, as a part of the posterior one; infinite where it is no upright body.
    step
        Of the crop, in the film's units.
    inside
        Whether all points lie in the crop.
    """

    six: SixPoints
    spread: float
    step: float
    inside: bool

    @property
    def is_body(self) -> bool:
        """Whether these are points of an upright body that lies in the crop."""
        return self.inside and bool(np.isfinite(self.spread))


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


def shown(film: PreparedFilm, grid: FilmGrid, maps: Sequence[Map], crop: FilmGrid) -> Map:
    """(1 + maps, rows, columns) of a crop: the film, and what maps on ``grid`` show there."""
    origin, *ends = grid.to_grid(crop.to_film(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])))
    linear = np.column_stack([end - origin for end in ends])
    seen = [ndimage.affine_transform(m, linear, origin, crop.shape, np.float32, order=1) for m in maps]
    return np.stack([film.on(crop), *seen])


@dataclass(frozen=True)
class BodyCrops:
    """Every outlined body of a film, cut out upright.

    Attributes
    ----------
    outlined
        The bodies.
    grids
        Where each crop lies.
    shown
        float32 (bodies, `CHANNELS`, `SIZE`, `SIZE`): what networks are shown.
    """

    outlined: tuple[OutlinedBody, ...]
    grids: tuple[FilmGrid, ...]
    shown: Map


def body_crops(film: PreparedFilm, grid: FilmGrid, body: Map, outlined: Sequence[OutlinedBody]) -> BodyCrops:
    """The crops of bodies that were outlined on ``grid``; ``body`` is the probability of vertebral bodies there."""
    grids = tuple(crop_grid(grid, one.six) for one in outlined)
    seen = [shown(film, grid, (body, one.alone), crop) for one, crop in zip(outlined, grids, strict=True)]
    return BodyCrops(tuple(outlined), grids, np.array(seen, np.float32).reshape(-1, CHANNELS, SIZE, SIZE))


def network_points(
    crops: BodyCrops, grid: FilmGrid, models: Models, network: str = PointSettings.network
) -> list[NetworkPoints]:
    """What the network tells of each body, whatever it is worth.

    A second crop, placed by the network's own points, was tried and is not taken: shapes of bodies that are clearly
    seen became a little better by it, heights of all others worse.

    Parameters
    ----------
    grid
        On which the bodies were outlined.

    Raises
    ------
    ModelRunError
        When the network fails.
    """
    if not crops.outlined:
        return []
    said = models.run(network, {"crops": crops.shown})
    found = []
    for points, spread, crop, one in zip(said["points"], said["spread"], crops.grids, crops.outlined, strict=True):
        heights = points[1::2, 0] - points[0::2, 0]  # each lower point lies below its upper one
        part = float(spread.max() / heights[2]) if heights.min() > 0 else np.inf
        inside = bool((points > -0.5).all() and (points < SIZE - 0.5).all())
        six = SixPoints(grid.to_grid(crop.to_film(points)), one.six.axes, one.six.misfit)
        found.append(NetworkPoints(six, part, crop.step, inside))
    return found
