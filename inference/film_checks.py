"""Reasons to doubt six points on a film: an end plate that shows twice, and two ways of measuring that disagree.

That a plate shows twice is noted and changes no grade: texture and noise beside a plate look alike to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from inference.film_contour import SixPoints
from inference.film_grid import FilmGrid
from inference.film_preparation import PreparedFilm

COLUMNS = np.linspace(0.25, 0.75, 13)
"""Parts of the depth at which a plate is crossed."""
REACH = 0.22
"""Part of the height to each side of a plate that is looked at."""
SMOOTHING = 0.02
APART = 0.08
"""Parts of the height: smoothing along the crossing, and the least distance of two contours."""
SAMPLES = 121
LEAST_STEP = 0.15
"""Grey levels per tenth of the height: a weaker edge is none."""
SECOND = 0.6
"""A second edge has at least this part of the strength of the first."""


def has_double_contour(film: PreparedFilm, grid: FilmGrid, six: SixPoints) -> bool:
    """Whether an end plate shows as two parallel edges: it was met obliquely, and its height is between the two."""
    height = float(np.mean(six.heights))
    offsets = np.linspace(-REACH, REACH, SAMPLES) * height
    return any(
        _edges(film.at(grid.to_film(_crossings(six, plate, offsets))), float(offsets[1] - offsets[0]), height) > 1
        for plate in (0, 1)
    )


def disagreement(first: SixPoints, second: SixPoints) -> float:
    """Largest difference of a height of two measurements of one body, as a part of the mean posterior height."""
    posterior = (float(first.heights[2]) + float(second.heights[2])) / 2
    return float(np.abs(first.heights - second.heights).max() / posterior)


def _crossings(six: SixPoints, plate: int, offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """(columns, offsets, 2): grid points across an end plate, from the disc into the bone."""
    corners = six.points[plate::2]  # anterior, middle, posterior
    local = (corners - corners[0]) @ six.axes.T
    course = np.polynomial.Polynomial.fit(local[:, 0], local[:, 1], 2)
    x = COLUMNS * local[2, 0]
    inward = 1.0 if plate else -1.0
    y = course(x)[:, None] + inward * offsets
    at = np.stack([np.broadcast_to(x[:, None], y.shape), y], axis=-1)
    return np.asarray(at @ six.axes + corners[0])


def _edges(seen: NDArray[np.float64], step: float, height: float) -> int:
    """How many edges from dark to bright the mean of crossings (columns, offsets) has."""
    smooth = gaussian_filter1d(seen.mean(axis=0), SMOOTHING * height / step)
    rise = np.gradient(smooth, step)
    strongest = float(rise.max())
    if strongest * height / 10 < LEAST_STEP / 10:
        return 0
    peaks, _ = find_peaks(rise, height=SECOND * strongest, distance=max(1, round(APART * height / step)))
    return len(peaks)
