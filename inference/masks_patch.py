"""The patch around one centroid that the segmenter sees: axis-aligned, 2 mm, whatever the grid of the volume.

Index (k, j, i): k towards the feet, j towards the back, i towards the patient's left.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Volume
from inference.sampling import OUTSIDE_HU, inside, sample

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


def seen_by(volume: Volume, affine: Floats) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(HU, whether its centre lies in the volume) of each voxel of a patch, both `SHAPE`; HU as by `image_of`.

    Where the axes of the volume run along those of the patch, as in nearly every scan, the axes are interpolated one
    after the other, which gives the same and takes a quarter of the time.
    """
    to_volume = np.linalg.inv(volume.affine) @ affine
    linear = to_volume[:3, :3]
    order = np.abs(linear).argmax(axis=0)
    if len(set(order.tolist())) < 3 or np.abs(linear).sum() - np.abs(linear).max(axis=0).sum() > 1e-6:
        points = points_of(affine)
        return image_of(volume, points), inside(volume, points)
    places = [
        linear[v, p] * np.arange(SHAPE[p]) + to_volume[v, 3] for p, v in enumerate(order)
    ]  # index of each voxel of patch axis p along the volume's axis v
    sizes = [volume.hu.shape[v] for v in order]
    within = [(at >= -0.5) & (at <= n - 0.5) for at, n in zip(places, sizes, strict=True)]
    steps = [SPREAD_MM / STEP_MM * linear[v, p] for p, v in enumerate(order)]
    ends = [
        (max(int(at.min() - abs(step)) - 1, 0), min(int(at.max() + abs(step)) + 3, n))
        for at, step, n in zip(places, steps, sizes, strict=True)
    ]
    seen = within[0][:, None, None] & within[1][None, :, None] & within[2][None, None, :]
    if any(last <= first for first, last in ends):
        return np.full(SHAPE, OUTSIDE_HU, np.float32), seen
    box = [slice(None)] * 3
    for v, (first, last) in zip(order, ends, strict=True):
        box[v] = slice(first, last)
    values = volume.hu[tuple(box)].transpose(*order).astype(np.float32) - np.float32(OUTSIDE_HU)

    def along(axis: int, sign: int, block: NDArray[np.float32]) -> NDArray[np.float32]:
        return _interpolated(block, axis, places[axis] + sign * steps[axis], ends[axis][0], sizes[axis])

    total = np.zeros(SHAPE, np.float32)
    # the four corners of `_TETRAHEDRON`: k runs against z, so the product of the signs along (k, j, i) is -1
    for k in (1, -1):
        one = along(0, k, values)
        for j in (1, -1):
            total += along(2, -k * j, along(1, j, one))
    return np.nan_to_num(total / 4 + np.float32(OUTSIDE_HU), nan=OUTSIDE_HU), seen


def _interpolated(block: NDArray[np.float32], axis: int, at: Floats, first: int, size: int) -> NDArray[np.float32]:
    """``block``, which begins at index ``first`` of ``size``, linear at the indices ``at`` of one axis; 0 outside."""
    place = np.clip(at, 0, size - 1) - first
    low = np.minimum(place.astype(int), block.shape[axis] - 1)
    high = np.minimum(low + 1, block.shape[axis] - 1)
    known = (at >= -0.5) & (at <= size - 0.5)
    share = [-1 if a == axis else 1 for a in range(3)]
    upper = (known * (place - low)).astype(np.float32).reshape(share)
    lower = (known * (1 - (place - low))).astype(np.float32).reshape(share)
    return np.asarray(lower * block.take(low, axis) + upper * block.take(high, axis), np.float32)


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
