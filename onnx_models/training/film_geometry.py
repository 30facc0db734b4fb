"""Where a film lies in the patient: source, detector, and the perspective between them.

Patient coordinates are LPS mm. Places on the detector are (row, column) index, counted from 0 at pixel centres; only
``to_image`` turns them into the (column, row) of results, whose first pixel has its centre at (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
LATERAL, FRONTAL = "lateral", "frontal"


@dataclass(frozen=True)
class ConeBeam:
    """A point source and a flat detector.

    Attributes
    ----------
    source_lps_mm
        (3,): the focal spot.
    corner_lps_mm
        (3,): centre of the detector's pixel at row 0, column 0.
    row_step_mm, column_step_mm
        (3,): from a pixel to the next one along increasing row, or column, index.
    shape
        (rows, columns).
    """

    source_lps_mm: F64
    corner_lps_mm: F64
    row_step_mm: F64
    column_step_mm: F64
    shape: tuple[int, int]

    @property
    def pitch_mm(self) -> float:
        """Pixel spacing in the plane of the detector (pixels are square)."""
        return float(np.linalg.norm(self.row_step_mm))

    @cached_property
    def normal(self) -> F64:
        """(3,): unit normal of the detector, away from the source."""
        n = np.cross(self.row_step_mm, self.column_step_mm)
        n = n / np.linalg.norm(n)
        return np.asarray(n * np.sign(n @ (self.corner_lps_mm - self.source_lps_mm)))

    @property
    def source_detector_mm(self) -> float:
        """Distance from the source to the plane of the detector."""
        return float(self.normal @ (self.corner_lps_mm - self.source_lps_mm))

    def magnification(self, points_lps_mm: ArrayLike) -> F64:
        """(...): how much larger than life something at points (..., 3) is on the detector."""
        depth = (np.asarray(points_lps_mm, np.float64) - self.source_lps_mm) @ self.normal
        return np.asarray(self.source_detector_mm / depth)

    def project(self, points_lps_mm: ArrayLike) -> F64:
        """Points (..., 3) in LPS mm to (..., 2) fractional (row, column) index on the detector."""
        p = np.asarray(points_lps_mm, np.float64) - self.source_lps_mm
        hit = p * self.magnification(points_lps_mm)[..., None] + self.source_lps_mm - self.corner_lps_mm
        pitch = np.array([self.row_step_mm @ self.row_step_mm, self.column_step_mm @ self.column_step_mm])
        return np.stack([hit @ self.row_step_mm, hit @ self.column_step_mm], axis=-1) / pitch

    def place(self, index: ArrayLike) -> F64:
        """(row, column) index (..., 2) to points (..., 3) on the detector in LPS mm."""
        at = np.asarray(index, np.float64)
        return np.asarray(
            self.corner_lps_mm + at[..., :1] * self.row_step_mm + at[..., 1:] * self.column_step_mm, np.float64
        )

    def coarser(self, factor: int) -> ConeBeam:
        """The same detector with pixels ``factor`` times as wide; the last ones may reach beyond its edge."""
        shift = 0.5 * (factor - 1)
        corner = self.corner_lps_mm + shift * (self.row_step_mm + self.column_step_mm)
        rows, columns = (-(-n // factor) for n in self.shape)
        return ConeBeam(
            self.source_lps_mm, corner, factor * self.row_step_mm, factor * self.column_step_mm, (rows, columns)
        )


def to_image(index: ArrayLike) -> F64:
    """(row, column) index (..., 2) to image coordinates (column, row), counted as SCOORD does: the first pixel's centre
    is (0.5, 0.5) (PS3.3 C.18.6)."""
    return np.asarray(np.asarray(index, np.float64)[..., ::-1] + 0.5)


def cone_beam(
    centre_lps_mm: ArrayLike,
    height_mm: float,
    width_mm: float,
    *,
    view: str = LATERAL,
    source_detector_mm: float = 1150.0,
    object_detector_mm: float = 220.0,
    reverse: bool = False,
    rotation_deg: float = 0.0,
    tilt_deg: float = 0.0,
    roll_deg: float = 0.0,
    off_centre_mm: tuple[float, float] = (0.0, 0.0),
    long_side: int = 512,
) -> ConeBeam:
    """A film whose central ray passes through a point of the patient.

    Rows run to the feet; columns run to the back ("lateral") or to the patient's left ("frontal").

    Parameters
    ----------
    centre_lps_mm
        (3,): on the central ray, ``object_detector_mm`` before the detector; what lies in its plane fills ``height_mm``
        by ``width_mm`` of the film.
    source_detector_mm, object_detector_mm
        Distances of the source and of the centre to the detector.
    reverse
        The beam runs from the left to the right, or from the back to the front, instead of the other way round.
    rotation_deg, tilt_deg, roll_deg
        The patient turned about the long axis; the beam tilted to the head or feet; the detector turned in its plane.
    off_centre_mm
        (row, column): how far the middle of the film lies beside the central ray, in the plane of the centre.
    long_side
        Pixels along the longer side.

    Raises
    ------
    ValueError
        For another view, or a centre that is not between source and detector.
    """
    if view not in (LATERAL, FRONTAL):
        raise ValueError(f"views are {LATERAL} and {FRONTAL}, not {view!r}")
    if not 0 < object_detector_mm < source_detector_mm:
        raise ValueError(f"an object {object_detector_mm} mm before the detector is not between it and the source")
    a, b = np.radians([rotation_deg, tilt_deg])
    across, away = (np.array([0.0, 1, 0]), np.array([1.0, 0, 0])) if view == LATERAL else np.eye(3)[:2]
    away = np.cos(a) * away + np.sin(a) * across
    across = across - (across @ away) * away
    across /= np.linalg.norm(across)
    up = np.array([0.0, 0, 1])
    beam = (np.cos(b) * away + np.sin(b) * up) * (-1.0 if reverse else 1.0)
    down = -(up - (up @ beam) * beam)
    down /= np.linalg.norm(down)
    c = np.radians(roll_deg)
    row, column = np.cos(c) * down + np.sin(c) * across, np.cos(c) * across - np.sin(c) * down
    magnification = source_detector_mm / (source_detector_mm - object_detector_mm)
    pitch = magnification * max(height_mm, width_mm) / long_side
    shape = (max(1, round(magnification * height_mm / pitch)), max(1, round(magnification * width_mm / pitch)))
    centre = np.asarray(centre_lps_mm, np.float64)
    source = centre - beam * (source_detector_mm - object_detector_mm)
    middle = centre + beam * object_detector_mm + magnification * (off_centre_mm[0] * row + off_centre_mm[1] * column)
    corner = middle - pitch * (0.5 * (shape[0] - 1) * row + 0.5 * (shape[1] - 1) * column)
    return ConeBeam(source, corner, pitch * row, pitch * column, shape)
