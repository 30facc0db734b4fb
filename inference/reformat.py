"""The curved mid-sagittal reformat: the picture on which a reader checks every height with a ruler.

The surface x = f(z) (`inference.surface`) unrolled without stretching: rows at equal arc length of f from head to
feet, columns along y from front to back, square pixels. Kyphosis and wedges stay as they are. This is not the
straightened picture that the network sees: straightening along the sagittal curve scales a height at the offset r
from a curve of curvature k by 1 / (1 - k r), and is never shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Volume
from inference.sampling import OUTSIDE_HU, extent, sample
from inference.surface import CentreLine, CurvedSurface

MAX_ROWS = 2048
"""More than any spine at the finest pixel; a guard against absurd geometry."""
SLAB_OFFSETS_MM = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Each pixel is the mean over these distances from the surface: less noise, and no finer than a vertebra is flat."""
BEFORE_SPINE_MM = 80.0
BEHIND_SPINE_MM = 80.0
BEYOND_ENDS_MM = 30.0


@dataclass(frozen=True)
class CurvedReformat:
    """The unrolled picture and its exact map to the patient.

    Attributes
    ----------
    hu
        int16 (rows, columns), HU; rows head to feet, columns front to back (PatientOrientation ``P\\F``).
    spacing_mm
        Side of the square pixels.
    surface
        The unrolled surface.
    arc_origin_mm, y_origin_mm
        Unrolled coordinates of the upper left corner (not centre) of the first pixel.
    """

    hu: NDArray[np.int16]
    spacing_mm: float
    surface: CurvedSurface
    arc_origin_mm: float
    y_origin_mm: float

    def to_pixel(self, points_lps_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Points (..., 3) in LPS mm to (..., 2) as (column, row).

        Pixel edges are whole numbers, the first pixel's centre is (0.5, 0.5) (PS3.3 C.18.6.1.1). A point off the
        surface is moved along x on to it.
        """
        flat = self.surface.unroll(points_lps_mm)
        column = (flat[..., 1] - self.y_origin_mm) / self.spacing_mm
        row = (flat[..., 0] - self.arc_origin_mm) / self.spacing_mm
        return np.stack([column, row], axis=-1)

    def to_lps(self, pixels: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(..., 2) as (column, row) to points (..., 3) in LPS mm on the surface."""
        p = np.asarray(pixels, np.float64)
        arc = self.arc_origin_mm + p[..., 1] * self.spacing_mm
        y = self.y_origin_mm + p[..., 0] * self.spacing_mm
        return self.surface.roll(np.stack([arc, y], axis=-1))


def pixel_spacing_mm(volume: Volume) -> float:
    """The finest spacing of the source, kept between 0.5 and 1 mm."""
    return float(np.clip(min(volume.spacing_mm), 0.5, 1.0))


def reformat(volume: Volume, line: CentreLine, surface: CurvedSurface) -> CurvedReformat:
    """Unroll ``surface`` around the spine ``line``, as far as ``volume`` reaches.

    Rows reach 30 mm beyond both ends of the line, columns 80 mm before and behind it, less where the volume ends.
    """
    s = pixel_spacing_mm(volume)
    lower, upper = extent(volume)
    top = min(line.top_mm + BEYOND_ENDS_MM, upper[2])
    bottom = max(line.bottom_mm - BEYOND_ENDS_MM, lower[2])
    y = line.points_lps_mm[:, 1]
    front, back = max(y.min() - BEFORE_SPINE_MM, lower[1]), min(y.max() + BEHIND_SPINE_MM, upper[1])
    ends = np.array([[0.0, 0.0, top], [0.0, 0.0, bottom]])
    first, last = (float(a) for a in surface.unroll(ends)[:, 0])
    rows = int(np.clip(round((last - first) / s), 1, MAX_ROWS))
    columns = int(np.clip(round((back - front) / s), 1, MAX_ROWS))
    arc, across = np.meshgrid(
        first + (np.arange(rows) + 0.5) * s, front + (np.arange(columns) + 0.5) * s, indexing="ij"
    )
    flat = np.stack([arc, across], axis=-1)
    layers = [sample(volume, surface.roll(flat, offset)) for offset in SLAB_OFFSETS_MM]
    hu = np.clip(np.rint(np.mean(layers, axis=0)), OUTSIDE_HU, 32767).astype(np.int16)
    return CurvedReformat(hu, s, surface, first, float(front))


CORONAL_HALF_WIDTH_MM = 70.0
CORONAL_OFFSETS_MM = (-8.0, -4.0, 0.0, 4.0, 8.0)
"""Each pixel is the mean over these distances before and behind the spine: vertebrae and the roots of ribs."""


@dataclass(frozen=True)
class CoronalPicture:
    """A coronal view along the spine's sagittal curve, for the numbering; nothing is measured on it.

    Attributes
    ----------
    hu
        int16 (rows, columns), HU; rows head to feet at equal steps of z, columns right to left of the patient
        (PatientOrientation ``L\\F``).
    spacing_mm
        Side of the square pixels.
    top_mm, x_origin_mm
        z of the upper and x of the left edge (LPS) of the first pixel.
    """

    hu: NDArray[np.int16]
    spacing_mm: float
    top_mm: float
    x_origin_mm: float

    def to_pixel(self, points_lps_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Points (..., 3) in LPS mm to (..., 2) as (column, row); the first pixel's centre is (0.5, 0.5)."""
        p = np.asarray(points_lps_mm, np.float64)
        return np.stack([p[..., 0] - self.x_origin_mm, self.top_mm - p[..., 2]], axis=-1) / self.spacing_mm


def coronal(volume: Volume, line: CentreLine) -> CoronalPicture:
    """The coronal view through the spine ``line``, 30 mm beyond its ends and 70 mm to each side, within ``volume``."""
    s = max(pixel_spacing_mm(volume), 1.0)
    lower, upper = extent(volume)
    top, bottom = min(line.top_mm + BEYOND_ENDS_MM, upper[2]), max(line.bottom_mm - BEYOND_ENDS_MM, lower[2])
    x = line.points_lps_mm[:, 0]
    left = max(x.min() - CORONAL_HALF_WIDTH_MM, lower[0])
    right = min(x.max() + CORONAL_HALF_WIDTH_MM, upper[0])
    rows = int(np.clip(round((top - bottom) / s), 1, MAX_ROWS))
    columns = int(np.clip(round((right - left) / s), 1, MAX_ROWS))
    z = top - (np.arange(rows) + 0.5) * s
    order = line.points_lps_mm[::-1]
    y = np.interp(z, order[:, 2], order[:, 1])
    points = np.empty((rows, columns, 3))
    points[..., 0] = left + (np.arange(columns) + 0.5) * s
    points[..., 1] = y[:, None]
    points[..., 2] = z[:, None]
    layers = [sample(volume, points + np.array([0.0, offset, 0.0])) for offset in CORONAL_OFFSETS_MM]
    hu = np.clip(np.rint(np.mean(layers, axis=0)), OUTSIDE_HU, 32767).astype(np.int16)
    return CoronalPicture(hu, s, float(top), float(left))
