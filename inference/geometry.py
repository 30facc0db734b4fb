"""Images with their place in the patient. Geometry is never guessed and never transposed by shape.

Patient coordinates are LPS in mm: +x to the patient's left, +y to the back, +z to the head (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Volume:
    """A regular grid of attenuation values with its place in the patient.

    Attributes
    ----------
    hu
        Array of shape (slices, rows, columns), int16 or float32, in HU.
    affine
        4 x 4 float64: maps an index (slice, row, column, 1), counted from 0 at voxel centres, to LPS mm. Slices are
        in the order of ``source_uids``; nothing is said about which way they run.
    frame_of_reference_uid
        Copied to results on the same grid.
    padding
        True where a voxel carries no measurement (pixel padding); same shape as ``hu``, or ``None``.
    """

    hu: NDArray[np.int16] | NDArray[np.float32]
    affine: NDArray[np.float64]
    frame_of_reference_uid: str = ""
    padding: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.hu.ndim != 3:
            raise ValueError(f"a volume has three axes (slice, row, column), this one has {self.hu.ndim}")
        if self.affine.shape != (4, 4):
            raise ValueError(f"the affine is 4 x 4, this one is {self.affine.shape}")
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise ValueError("the affine is singular: two axes coincide")

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (slice, row, column) index."""
        s = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(s[0]), float(s[1]), float(s[2]))

    @cached_property
    def _inverse(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.inv(self.affine), np.float64)

    def to_lps(self, index: FloatArray) -> NDArray[np.float64]:
        """Index (..., 3) as (slice, row, column) to points (..., 3) in LPS mm."""
        return np.asarray(np.asarray(index, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_index(self, points_lps_mm: FloatArray) -> NDArray[np.float64]:
        """Points (..., 3) in LPS mm to fractional index (..., 3) as (slice, row, column)."""
        return np.asarray(points_lps_mm, np.float64) @ self._inverse[:3, :3].T + self._inverse[:3, 3]


@dataclass(frozen=True)
class Radiograph:
    """One projection image as a reader sees it: modality LUT, VOI LUT or window and inverse presentation applied.

    Attributes
    ----------
    pixels
        (rows, columns) float32, 0 to 1; bone is bright, air is dark. Rows and columns are those of the image as it was
        sent: nothing is turned, mirrored or cut.
    spacing_mm
        Distance between neighbouring pixels along (row, column) index in the plane of the spine; ``None`` where it is
        not known there: ratios only, no millimetres.
    aspect
        Height of a pixel over its width: ratios need it where millimetres are not known.
    spacing_source
        Where ``spacing_mm`` comes from, or why it is ``None``, in words for the report.
    orientation
        What the header says of the patient's direction along increasing (column, row) index, as in PatientOrientation:
        ("A", "F"); ``None`` where it says nothing.
    lateral
        Whether the header calls it a lateral view; ``None`` where it says nothing.
    """

    pixels: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None = None
    aspect: float = 1.0
    spacing_source: str = ""
    orientation: tuple[str, str] | None = None
    lateral: bool | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2:
            raise ValueError(f"a radiograph has two axes (row, column), this one has {self.pixels.ndim}")
        if self.spacing_mm is not None and not all(s > 0 for s in self.spacing_mm):
            raise ValueError(f"pixel spacing is positive, this one is {self.spacing_mm}")
        if not self.aspect > 0:
            raise ValueError(f"the aspect of a pixel is positive, this one is {self.aspect}")

    @cached_property
    def pixel_mm(self) -> tuple[float, float]:
        """(row, column) size of a pixel: mm where known, else in units of its width, which serve for ratios only."""
        return self.spacing_mm if self.spacing_mm is not None else (self.aspect, 1.0)
