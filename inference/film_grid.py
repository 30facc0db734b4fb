"""Where a square network grid lies on a film, and the exact way back.

A network sees squares: pixels as high as wide, whatever those of the film are. Index coordinates are (row, column) with
pixel centres at whole numbers, on the grid as on the film. Image coordinates of findings are (column, row), the centre
of the first pixel being (0.5, 0.5) as in SCOORD (PS3.3 C.18.6): `image_points` is the only place where one becomes the
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.floating[Any]]
TURNS = 4
"""Quarter turns after which a film stands as before."""


@dataclass(frozen=True)
class FilmGrid:
    """An isotropic grid on a film.

    Attributes
    ----------
    shape
        (rows, columns) of the grid.
    film_shape
        (rows, columns) of the film.
    matrix
        (2, 3) float64: maps a grid index (row, column, 1) to a film index (row, column).
    step
        Distance of two neighbouring grid points in the film's units: mm where its spacing is known, else widths of one
        of its pixels.
    """

    shape: tuple[int, int]
    film_shape: tuple[int, int]
    matrix: NDArray[np.float64]
    step: float

    @cached_property
    def _inverse(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.inv(self.matrix[:, :2]), np.float64)

    def to_film(self, index: Floats) -> NDArray[np.float64]:
        """Grid index (..., 2) as (row, column) to film index (..., 2)."""
        return np.asarray(np.asarray(index, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2])

    def to_grid(self, index: Floats) -> NDArray[np.float64]:
        """Film index (..., 2) as (row, column) to grid index (..., 2)."""
        return np.asarray((np.asarray(index, np.float64) - self.matrix[:, 2]) @ self._inverse.T)

    def window(self, first: tuple[int, int], shape: tuple[int, int]) -> FilmGrid:
        """The ``shape`` of points of this grid that begin with its point ``first``; it may reach beyond the grid."""
        matrix = np.column_stack([self.matrix[:, :2], self.to_film(np.asarray(first, np.float64))])
        return FilmGrid(shape, self.film_shape, matrix, self.step)

    def image_points(self, index: Floats) -> NDArray[np.float64]:
        """Grid index (..., 2) as (row, column) to image coordinates (..., 2) as (column, row)."""
        return np.asarray(self.to_film(index)[..., ::-1] + 0.5)

    def from_film(self, picture: Floats, order: int = 1) -> NDArray[np.float32]:
        """What ``picture`` (of the film's shape) shows at the grid points; 0 outside it. It is not smoothed before."""
        return _sampled(picture, self.matrix, self.shape, order)

    def onto_film(self, picture: Floats, order: int = 1) -> NDArray[np.float32]:
        """What ``picture`` (of the grid's shape) shows at the film's pixels; 0 outside it."""
        back = np.column_stack([self._inverse, -self._inverse @ self.matrix[:, 2]])
        return _sampled(picture, back, self.film_shape, order)


def whole_film(film_shape: tuple[int, int], pixel: tuple[float, float], size: int, turn: int = 0) -> FilmGrid:
    """The grid of ``size`` x ``size`` that holds the whole film, aspect kept, in its middle.

    Parameters
    ----------
    film_shape, pixel
        (rows, columns) of the film; height and width of its pixel.
    turn
        So many quarter turns counter-clockwise bring the film to what the grid shows (as ``numpy.rot90``).
    """
    extent = np.multiply(film_shape, pixel)
    step = float(extent.max() / size)
    middle = (size - 1) / 2
    # a grid index, turned back, about the middle of both
    quarter = np.linalg.matrix_power(np.array([[0.0, 1.0], [-1.0, 0.0]]), turn % TURNS)
    linear = np.diag(step / np.array(pixel)) @ quarter
    offset = (np.array(film_shape) - 1) / 2 - linear @ np.full(2, middle)
    return FilmGrid((size, size), film_shape, np.column_stack([linear, offset]), step)


def pixel_centres(shape: tuple[int, int]) -> NDArray[np.float64]:
    """(rows, columns, 2) float64: the index (row, column) of each pixel of a picture of that shape."""
    return np.asarray(np.moveaxis(np.indices(shape, np.float64), 0, -1))


def _sampled(picture: Floats, matrix: NDArray[np.float64], shape: tuple[int, int], order: int) -> NDArray[np.float32]:
    out: NDArray[np.float32] = ndimage.affine_transform(
        np.asarray(picture, np.float32),
        matrix[:, :2],
        matrix[:, 2],
        output_shape=shape,
        output=np.float32,
        order=order,
        mode="grid-constant",
    )
    return out
