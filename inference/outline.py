"""The six-point outline of each vertebra on the source grid: a thin plate in the mid-sagittal surface, not a volume.

A voxel belongs to a vertebra when its centre lies within the polygon of the six points on the unrolled surface and
near enough to the surface. Only the voxels around each vertebra are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Volume
from inference.surface import CurvedSurface

THICKNESS_MM = 4.0
AROUND = (0, 2, 4, 5, 3, 1)
"""Order of the key points around the outline: superior front to back, inferior back to front."""


def outlines(
    volume: Volume, surface: CurvedSurface, keypoints_lps_mm: Sequence[NDArray[np.floating[Any]] | None]
) -> NDArray[np.uint8]:
    """Label map of the shape of ``volume.hu``: 1 + index of the vertebra whose outline a voxel lies in, else 0.

    Parameters
    ----------
    keypoints_lps_mm
        Per vertebra (6, 3) in LPS mm in the order of `inference.findings.KEYPOINTS`, or ``None`` where not measured.

    Raises
    ------
    ValueError
        For more than 255 vertebrae.
    """
    if len(keypoints_lps_mm) > 255:
        raise ValueError("a label map of one byte holds no more than 255 vertebrae")
    labels = np.zeros(volume.hu.shape, np.uint8)
    half = max(THICKNESS_MM, max(volume.spacing_mm) * 1.01) / 2
    for number, points in enumerate(keypoints_lps_mm, start=1):
        if points is None:
            continue
        index = volume.to_index(_reach(points, half))
        low = np.clip(np.floor(index.min(axis=0)).astype(int), 0, labels.shape)
        high = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, labels.shape)
        if np.any(high <= low):
            continue
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1)
        lps = volume.to_lps(grid)
        near = np.abs(surface.lateral(lps)) <= half
        near[near] = in_polygon(surface.unroll(lps[near]), surface.unroll(points)[list(AROUND)])
        labels[box][near & (labels[box] == 0)] = number
    return labels


def _reach(points: NDArray[np.floating[Any]], half_mm: float) -> NDArray[np.float64]:
    """Corners of a box in LPS that holds the outline with its thickness."""
    low, high = np.min(points, axis=0) - 2 * half_mm, np.max(points, axis=0) + 2 * half_mm
    return np.array([[(high if (n >> a) & 1 else low)[a] for a in range(3)] for n in range(8)])


def in_polygon(points: NDArray[np.floating[Any]], corners: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Whether points (n, 2) lie in the polygon of corners (k, 2), by the number of edges that a ray crosses."""
    found = np.zeros(len(points), bool)
    u, v = points[:, 0], points[:, 1]
    for (u1, v1), (u2, v2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if v1 == v2:
            continue
        crosses = (v1 > v) != (v2 > v)
        found ^= crosses & (u < (u2 - u1) * (v - v1) / (v2 - v1) + u1)
    return found
