"""A film as the networks see it: contrast equalised, smoothed, shrunk with its aspect kept, padded with zeros.

The order is that of the method (CLAHE, Gaussian filter, shrink, zero padding). Two things are added: what lies outside
the exposed field is zero and takes no part in the histograms, and a film of more than `LONGEST` pixels is first reduced
to blocks of its pixels, because histograms of tiles do not need each of seven million.

CLAHE is scikit-image's: BSD, wheels of its own without foreign libraries, 1.2 s at 3000 x 2400 and .09 s at 1024 x 819
on one core. OpenCV's takes .08 s at full size, but its wheel carries 150 MB with FFmpeg, OpenSSL and an OpenBLAS beside
numpy's; SimpleITK's adaptive equalisation has no clip limit and takes 6.5 s for 375 x 300.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.exposure import equalize_adapthist

from inference.film_field import ExposedField, block_mean, exposed_field
from inference.film_grid import FilmGrid, pixel_centres
from inference.geometry import Radiograph

LONGEST = 1024
"""Longest side in pixels at which contrast is equalised."""
CLIP_LIMIT = 0.01
"""Of a tile's histogram (8 x 8 tiles): no grey level counts for more than this share of the tile."""
BLACK, WHITE = 0.5, 99.5
"""Percentiles within the field that become 0 and 1 before the histograms are taken."""
SMOOTHING = 0.5
"""Standard deviation of the Gaussian filter in pixels of the grid that is made."""
REACH = 3.0
"""Standard deviations at which it is cut off."""


@dataclass(frozen=True)
class PreparedFilm:
    """A film with equalised contrast, from which grids of any place and fineness are made.

    Attributes
    ----------
    picture
        (rows, columns) float32, 0 to 1, each pixel the mean of ``block`` x ``block`` pixels of the film.
    exposed
        True where ``picture`` lies within the field; outside it ``picture`` repeats the nearest grey within.
    field
        The exposed field, in film index.
    film_shape
        (rows, columns) of the film itself.
    pixel
        (height, width) of the film's pixels.
    """

    picture: NDArray[np.float32]
    exposed: NDArray[np.bool_]
    field: ExposedField
    block: int
    film_shape: tuple[int, int]
    pixel: tuple[float, float]

    def on(self, grid: FilmGrid) -> NDArray[np.float32]:
        """The film on ``grid``: Gaussian filter, shrunk, zero outside the field and the film."""
        sigma = [SMOOTHING * grid.step / (p * self.block) for p in self.pixel]
        shift = (self.block - 1) / 2
        matrix = np.column_stack([grid.matrix[:, :2], grid.matrix[:, 2] - shift]) / self.block
        box = _reached(matrix, grid.shape, self.picture.shape, sigma)
        smooth = ndimage.gaussian_filter(self.picture[box], sigma, truncate=REACH)
        matrix[:, 2] -= [part.start for part in box]
        seen = FilmGrid(grid.shape, (smooth.shape[0], smooth.shape[1]), matrix, grid.step).from_film(smooth)
        return np.asarray(np.where(self.measured_on(grid), seen.clip(0, 1), 0), np.float32)

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The film at points (..., 2), film index as (row, column)."""
        index = (points - (self.block - 1) / 2) / self.block
        seen = ndimage.map_coordinates(self.picture, index.reshape(-1, 2).T, order=1, mode="nearest", output=np.float64)
        return np.asarray(seen.reshape(points.shape[:-1]))

    def measured_on(self, grid: FilmGrid) -> NDArray[np.bool_]:
        """Which points of ``grid`` lie on the film and within its field."""
        points = grid.to_film(pixel_centres(grid.shape))
        on_film = ((points > -0.5) & (points < np.array(self.film_shape) - 0.5)).all(axis=-1)
        return np.asarray(on_film & self.field.inside(points))


def _reached(
    matrix: NDArray[np.float64], grid: tuple[int, int], picture: tuple[int, ...], sigma: Sequence[float]
) -> tuple[slice, slice]:
    """The part of a picture that a grid of that shape shows, with what the filter spreads into it."""
    corners = np.array([[r, c, 1.0] for r in (0, grid[0] - 1) for c in (0, grid[1] - 1)]) @ matrix.T
    margin = np.ceil(REACH * np.array(sigma)) + 2
    low, high = np.floor(corners.min(axis=0) - margin), np.ceil(corners.max(axis=0) + margin)
    first = np.clip(low, 0, np.array(picture) - 1).astype(int)
    last = np.clip(high, first, np.array(picture) - 1).astype(int)
    return slice(int(first[0]), int(last[0]) + 1), slice(int(first[1]), int(last[1]) + 1)


def prepare(film: Radiograph) -> PreparedFilm:
    """Find the field of ``film`` and equalise the contrast within it."""
    shape = (film.pixels.shape[0], film.pixels.shape[1])
    field = exposed_field(film.pixels)
    block = max(1, -(-max(shape) // LONGEST))
    small = block_mean(film.pixels, block)
    rows_columns = (small.shape[0], small.shape[1])
    exposed = field.inside(pixel_centres(rows_columns) * block + (block - 1) / 2)
    rows, columns = (np.flatnonzero(exposed.any(axis=axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    inside, there = small[box], exposed[box]
    black, white = np.percentile(inside[there], (BLACK, WHITE))
    stretched = np.clip((inside - black) / max(float(white - black), 1e-6), 0, 1).astype(np.float32)
    if not there.all():
        nearest = ndimage.distance_transform_edt(~there, return_distances=False, return_indices=True)
        stretched = stretched[tuple(nearest)]
    picture = np.zeros(small.shape, np.float32)
    picture[box] = equalize_adapthist(stretched, clip_limit=CLIP_LIMIT) if white > black else stretched
    return PreparedFilm(picture, exposed, field, block, shape, film.pixel_mm)
