"""The canonical grid that networks see a whole volume on, whichever way its own grid lies.

Axis-aligned: slices run towards the feet, rows towards the back, columns towards the left.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from inference.geometry import Volume
from inference.sampling import OUTSIDE_HU, extent

CLIP_HU = (-1024.0, 2000.0)
MAX_EXTENT_MM = (3000.0, 1500.0, 1500.0)
"""Along z, y and x: no patient is larger, and no network takes more."""

Floats = NDArray[np.float64]


def canonical(volume: Volume, step_mm: float) -> tuple[NDArray[np.float32], Floats]:
    """HU (slices, rows, columns) float32 at steps of ``step_mm``, and the LPS mm (3,) of voxel (0, 0, 0).

    Means of whole voxels where the source is finer, then linear; -1024 where nothing was measured.

    Raises
    ------
    ValueError
        Where the volume is larger than any patient (`MAX_EXTENT_MM`).
    """
    lower, upper = extent(volume)
    size = (upper - lower)[::-1]
    if np.any(size > MAX_EXTENT_MM):
        raise ValueError(f"the images span {size[0]:.0f} x {size[1]:.0f} x {size[2]:.0f} mm, more than a patient")
    shape = tuple(int(n) for n in np.maximum(np.ceil(size / step_mm - 0.01), 1))
    small = reduced(volume, step_mm)
    padded = np.pad(small.hu, 1, mode="edge")
    affine = small.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.ones(3)
    origin = np.array([lower[0] + step_mm / 2, lower[1] + step_mm / 2, upper[2] - step_mm / 2])
    # canonical index (k, j, i) to LPS, then to the index of the padded, reduced source
    axes = np.array([[0, 0, step_mm], [0, step_mm, 0], [-step_mm, 0, 0]])
    back = np.linalg.inv(affine[:3, :3])
    matrix, offset = back @ axes, back @ (origin - affine[:3, 3])
    hu = affine_transform(padded, matrix, offset, shape, np.float32, order=1, mode="constant", cval=OUTSIDE_HU)
    return np.asarray(hu, np.float32), origin


def network_input(hu: NDArray[np.float32], multiple: int) -> NDArray[np.float32]:
    """(1, 1, D, H, W): clipped, zero mean and unit variance over this grid, then padded at the ends with air.

    Each size becomes a multiple of ``multiple``, the network's coarsest stride.
    """
    clipped = np.clip(hu, *CLIP_HU)
    mean, deviation = float(clipped.mean(dtype=np.float64)), max(float(clipped.std(dtype=np.float64)), 1.0)
    pad = [(0, -n % multiple) for n in clipped.shape]
    padded = np.pad((clipped - mean) / deviation, pad, constant_values=(CLIP_HU[0] - mean) / deviation)
    return np.ascontiguousarray(padded[None, None], np.float32)


def reduced(volume: Volume, to_mm: float) -> Volume:
    """Means of blocks of whole voxels up to ``to_mm`` long along each axis, float32; the affine follows."""
    hu: NDArray[np.generic] = volume.hu
    affine = volume.affine.copy()
    for axis in (2, 1, 0):
        factor = max(1, min(int(to_mm / volume.spacing_mm[axis] + 0.25), hu.shape[axis]))
        if factor == 1:
            continue
        blocks = hu.shape[axis] // factor
        used = np.take(hu, np.arange(blocks * factor), axis=axis) if hu.shape[axis] % factor else hu
        starts = np.arange(0, blocks * factor, factor)
        hu = np.add.reduceat(used, starts, axis=axis, dtype=np.float32) / np.float32(factor)
        affine[:3, 3] += affine[:3, axis] * (factor - 1) / 2
        affine[:3, axis] *= factor
    values = np.nan_to_num(hu.astype(np.float32), nan=OUTSIDE_HU, posinf=OUTSIDE_HU, neginf=OUTSIDE_HU)
    return Volume(values, affine, volume.frame_of_reference_uid)


def cropped(volume: Volume, lower_lps_mm: Floats, upper_lps_mm: Floats) -> Volume | None:
    """The part of a volume that holds an axis-parallel box, without copying voxels; ``None`` where they do not meet."""
    corners = np.array(
        [[(upper_lps_mm if (n >> a) & 1 else lower_lps_mm)[a] for a in range(3)] for n in range(8)], np.float64
    )
    index = volume.to_index(corners)
    first = np.maximum(np.floor(index.min(axis=0)).astype(int), 0)
    last = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 1, volume.hu.shape)
    if np.any(last <= first):
        return None
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    hu = volume.hu[first[0] : last[0], first[1] : last[1], first[2] : last[2]]
    return replace(volume, hu=hu, affine=affine, padding=None)
