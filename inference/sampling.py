"""Values of a volume at points of the patient, whichever way its grid lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from inference.geometry import Volume

OUTSIDE_HU = -1024.0
"""What stands where nothing was measured."""


def inside(
    volume: Volume, points_lps_mm: NDArray[np.floating[Any]], margin_mm: float | NDArray[np.float64] = 0.0
) -> NDArray[np.bool_]:
    """Whether points (..., 3) lie in the measured volume, ``margin_mm`` away from its faces at least.

    The margin may differ by axis: (3,) along (slice, row, column).

    The volume ends at the outer faces of its voxels, half a voxel beyond the outermost centres.
    """
    index = volume.to_index(points_lps_mm)
    margin = margin_mm / np.asarray(volume.spacing_mm) - 0.5
    upper = np.asarray(volume.hu.shape) - 1 - margin
    return np.asarray(np.all((index >= margin) & (index <= upper), axis=-1))


def sample(volume: Volume, points_lps_mm: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """HU (...) at points (..., 3) in LPS mm, trilinear between voxel centres; `OUTSIDE_HU` outside the volume."""
    shape = points_lps_mm.shape[:-1]
    index = volume.to_index(points_lps_mm).reshape(-1, 3).T
    limit = (np.asarray(volume.hu.shape) - 1)[:, None]
    seen = np.all((index >= -0.5) & (index <= limit + 0.5), axis=0)
    values = np.full(index.shape[1], OUTSIDE_HU, np.float32)
    if seen.any():
        values[seen] = map_coordinates(
            volume.hu, np.clip(index[:, seen], 0, limit), output=np.float32, order=1, mode="nearest"
        )
    return np.nan_to_num(values, nan=OUTSIDE_HU, posinf=OUTSIDE_HU, neginf=OUTSIDE_HU).reshape(shape)


def extent(volume: Volume) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest axis-parallel box (lower corner (3,), upper corner (3,)) in LPS mm around all voxels, faces included."""
    upper = np.asarray(volume.hu.shape) - 0.5
    corners = np.array([[(upper[a] if (n >> a) & 1 else -0.5) for a in range(3)] for n in range(8)])
    points = volume.to_lps(corners)
    return points.min(axis=0), points.max(axis=0)


def spacing_along_z_mm(volume: Volume) -> float:
    """Distance in mm at which the patient's long axis (z) crosses the samples of the axis that runs along it most.

    On oblique slices that is never finer than they are apart: many columns are crossed between two slices, and none of
    them tells where between the two an end plate lies.
    """
    across = np.linalg.inv(volume.affine[:3, :3])[:, 2]
    along = int(np.argmax(np.abs(volume.affine[2, :3])))
    return float(1.0 / abs(across[along]))
