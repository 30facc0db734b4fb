"""The patch around one centroid that the segmenter sees: axis-aligned, 2 mm, whatever the grid of the volume.

Index (k, j, i): k towards the feet, j towards the back, i towards the patient's left.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Volume
from inference.sampling import sample

STEP_MM = 2.0
SHAPE = (40, 56, 48)
"""Voxels along (k, j, i)."""
CENTRE = (16.0, 15.0, 23.5)
"""Index of the centroid: 32 mm above and 46 below, 30 in front and 80 behind, 47 to each side are seen."""
HEAT_MM = 8.0
"""Standard deviation of the heat map around the centroid."""
WINDOW_HU = (-200.0, 1000.0)
CENTRE_HU, SCALE_HU = 150.0, 200.0
SPREAD_MM = 0.5
"""A voxel of the patch is the mean of four samples, so far from its centre along each axis: point samples of a finer
volume would carry all its noise."""
_TETRAHEDRON = SPREAD_MM * np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)], np.float64)

Floats = NDArray[np.float64]


def affine_of(centroid_lps_mm: NDArray[np.floating[Any]]) -> Floats:
    """(4, 4): index (k, j, i, 1) of the patch around a centroid (3,) to LPS mm."""
    affine = np.eye(4)
    affine[:3, :3] = STEP_MM * np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float64)
    affine[:3, 3] = np.asarray(centroid_lps_mm, np.float64) - affine[:3, :3] @ np.array(CENTRE)
    return affine


def points_of(affine: Floats, shape: tuple[int, int, int] = SHAPE) -> Floats:
    """(*shape, 3) LPS mm of the voxel centres of a patch."""
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij"), axis=-1)
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3], np.float64)


def image_of(volume: Volume, points_lps_mm: Floats) -> NDArray[np.float32]:
    """HU at the voxels of a patch, each the mean of four samples around its centre; -1024 outside the volume."""
    parts = [sample(volume, points_lps_mm + offset) for offset in _TETRAHEDRON]
    return np.asarray(np.mean(parts, axis=0), np.float32)


def normalised(hu: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """HU of any shape to the network's input: cut to `WINDOW_HU`, minus 150, divided by 200."""
    return np.asarray((np.clip(hu, *WINDOW_HU) - CENTRE_HU) / SCALE_HU, np.float32)


@lru_cache(maxsize=1)
def heat_map() -> NDArray[np.float32]:
    """`SHAPE`: 1 at the centroid, falling as a Gaussian of `HEAT_MM`."""
    axes = [np.exp(-0.5 * ((np.arange(n) - c) * STEP_MM / HEAT_MM) ** 2) for n, c in zip(SHAPE, CENTRE, strict=True)]
    heat = np.asarray(axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :], np.float32)
    heat.setflags(write=False)
    return heat
