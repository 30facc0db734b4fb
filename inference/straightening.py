"""Spine straightening (Pisov et al. 2020, section 3.1): the picture that the key point network sees, never shown.

A grid on which the centre line is a vertical straight line and the planes normal to it are parallel. It is built on
the surface x = f(z) (`inference.surface`): the centre line's sagittal course is straightened inside the unrolled
surface, and the lateral axis is the surface's normal. So every point of the grid's central plane lies exactly on the
surface that the reader's picture shows, scoliosis included, and the map between grid, patient and reader's picture is
exact both ways.

Grid coordinates are (row, column, plane): row along the arc of the centre line (head to feet), column from front to
back, plane towards the patient's left; row and column in pixels counted from 0 at pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Volume
from inference.sampling import sample
from inference.surface import STEP_MM, CentreLine, CurvedSurface, Floats, interpolate, smooth, smooth_centre_line

PIXEL_MM = 1.0
COLUMNS = 80
"""Width of the picture: 40 mm in front of the centre line and 40 mm behind it."""
PLANES_MM = (-6.0, -3.0, 0.0, 3.0, 6.0)
"""Distances of the sagittal planes (the network's channels) from the surface, right to left."""
ROW_MULTIPLE = 16
"""The network's coarsest stride: the number of rows is a multiple of it."""
SMOOTHING_MM = 8.0
BEYOND_ENDS_MM = 24.0
"""The picture goes on straight beyond both ends of the centre line, so that the last vertebrae are seen whole."""


@dataclass(frozen=True)
class Straightening:
    """The straightened grid and its exact map to the patient.

    Attributes
    ----------
    surface
        x = f(z), unrolled to (arc, y).
    along_mm
        (n,) arc length along the centre line within the unrolled surface, from 0, at its nodes.
    curve_mm
        (n, 2) the centre line's (arc, y) at the nodes.
    angle
        (n,) its direction in radians: 0 along the arc, positive when it runs backward on its way to the feet.
    rows
        Number of rows; row 0 lies at ``along_mm`` = half a pixel.
    """

    surface: CurvedSurface
    along_mm: Floats
    curve_mm: Floats
    angle: Floats
    rows: int

    @classmethod
    def along(cls, line: CentreLine, surface: CurvedSurface, sigma_mm: float = SMOOTHING_MM) -> Straightening:
        """Straighten ``line``, smoothed by a Gaussian of ``sigma_mm``, inside ``surface``."""
        flat = surface.unroll(line.points_lps_mm)
        count = max(int(np.ceil((flat[-1, 0] - flat[0, 0]) / STEP_MM)) + 1, 3)
        arc = np.linspace(flat[0, 0], flat[-1, 0], count)
        y = smooth(np.interp(arc, flat[:, 0], flat[:, 1]), sigma_mm / ((arc[-1] - arc[0]) / (count - 1)))
        length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(arc), np.diff(y)))])
        nodes = np.linspace(0.0, length[-1], max(int(np.ceil(length[-1] / STEP_MM)) + 1, 3))
        curve = np.column_stack([np.interp(nodes, length, arc), np.interp(nodes, length, y)])
        angle = np.arctan2(np.gradient(curve[:, 1], nodes), np.gradient(curve[:, 0], nodes))
        rows = max(int(np.ceil(length[-1] / PIXEL_MM / ROW_MULTIPLE)), 1) * ROW_MULTIPLE
        return cls(surface, nodes, curve, angle, rows)

    def covers(self, grid: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Whether (row, column) positions (..., 2) lie on the picture."""
        row, column = grid[..., 0], grid[..., 1]
        seen = (row >= -0.5) & (row <= self.rows - 0.5) & (column >= -0.5) & (column <= COLUMNS - 0.5)
        return np.asarray(seen)

    def to_lps(self, grid: NDArray[np.floating[Any]]) -> Floats:
        """Grid (..., 3) as (row, column, lateral offset in mm), or (..., 2) on the central plane, to LPS mm."""
        g = np.asarray(grid, np.float64)
        s, u = self._metric(g)
        lateral: Floats | float = g[..., 2] if g.shape[-1] == 3 else 0.0
        return self.surface.roll(self._flat(s, u), lateral)

    def to_grid(self, points_lps_mm: NDArray[np.floating[Any]]) -> Floats:
        """Points (..., 3) in LPS mm to (..., 2) as (row, column): moved along x on to the surface, then located on it.

        The inverse of `to_lps` on the central plane wherever the planes normal to the curve do not cross.
        """
        target = self.surface.unroll(points_lps_mm)
        shape = target.shape[:-1]
        q = target.reshape(-1, 2)
        distance = ((q[:, None, :] - self.curve_mm[None, ::8, :]) ** 2).sum(axis=-1)
        s = self.along_mm[::8][np.argmin(distance, axis=1)]
        turn = np.gradient(self.angle, self.along_mm)
        u = np.zeros_like(s)
        for _ in range(40):
            a = np.interp(s, self.along_mm, self.angle)
            r = q - self._flat(s, np.zeros_like(s))
            u = -np.sin(a) * r[:, 0] + np.cos(a) * r[:, 1]
            ahead = np.cos(a) * r[:, 0] + np.sin(a) * r[:, 1]
            shrink = np.maximum(1.0 - u * np.interp(s, self.along_mm, turn), 0.3)
            s = s + ahead / shrink
            if np.all(np.abs(ahead) < 1e-7):
                break
        row = s / PIXEL_MM - 0.5
        column = u / PIXEL_MM + (COLUMNS - 1) / 2
        return np.stack([row, column], axis=-1).reshape(*shape, 2)

    def grid_points(self, planes_mm: tuple[float, ...] = PLANES_MM, margin: int = 0) -> NDArray[np.float32]:
        """LPS mm of every sample, (planes, rows, columns, 3), with ``margin`` more columns on both sides."""
        columns = np.arange(-margin, COLUMNS + margin, dtype=float)
        row, column = np.meshgrid(np.arange(self.rows, dtype=float), columns, indexing="ij")
        s, u = self._metric(np.stack([row, column], axis=-1))
        flat = self._flat(s, u)
        return np.stack([self.surface.roll(flat, v) for v in planes_mm]).astype(np.float32)

    def picture(self, volume: Volume) -> NDArray[np.float32]:
        """HU of the straightened slab, (planes, rows, columns); -1024 outside the volume."""
        return sample(volume, self.grid_points())

    def _metric(self, grid: Floats) -> tuple[Floats, Floats]:
        return (grid[..., 0] + 0.5) * PIXEL_MM, (grid[..., 1] - (COLUMNS - 1) / 2) * PIXEL_MM

    def _flat(self, s: Floats, u: Floats) -> Floats:
        """Arc length s along the curve and offset u along its normal to unrolled (arc, y)."""
        a = np.interp(s, self.along_mm, self.angle)
        arc = interpolate(s, self.along_mm, self.curve_mm[:, 0]) - u * np.sin(a)
        y = interpolate(s, self.along_mm, self.curve_mm[:, 1]) + u * np.cos(a)
        return np.stack([arc, y], axis=-1)


def straighten(line: CentreLine) -> tuple[CentreLine, Straightening]:
    """The smoothed centre line and the straightened grid along it; the one way for training and inference.

    ``line`` is as the localizer gives it, about one point per 3 mm.
    """
    smoothed = smooth_centre_line(line)
    longer = smooth_centre_line(smoothed.extended(BEYOND_ENDS_MM, BEYOND_ENDS_MM), sigma_mm=0.0, median_points=0)
    return smoothed, Straightening.along(longer, CurvedSurface.through(longer))
