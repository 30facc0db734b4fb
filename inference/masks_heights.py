"""Heights of a vertebral body from its mask: a second opinion beside the six key points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from inference.findings import Heights
from inference.geometry import Volume
from inference.masks import BODY, VertebraMasks

STEP_MM = 0.5
REACH_MM = 34.0
SLAB_MM = (-3.0, -1.5, 0.0, 1.5, 3.0)
"""Sagittal planes, from the middle, whose mean is measured."""
WALL = 0.5
"""The wall is where a column has this part of the median height."""
BANDS = ((0.05, 0.15), (0.42, 0.58), (0.85, 0.95))
"""Columns of the anterior, middle and posterior height, as parts of the depth from the anterior wall."""


def body_surface_heights(
    volume: Volume,
    masks: VertebraMasks,
    vertebra: int,
    centroid_lps_mm: NDArray[np.float64],
    frame: NDArray[np.float64],
) -> Heights | None:
    """Anterior, middle and posterior height in mm of the body with label ``vertebra`` (1-based).

    Parameters
    ----------
    volume, masks
        The volume, and its masks.
    centroid_lps_mm
        (3,), a point near the middle of the body.
    frame
        (3, 3): rows are unit vectors to the left, back and head of the vertebra, in LPS.

    Returns ``None`` where there is no body, it is cut off, or it is thinner than a few columns.
    """
    if masks.partial[vertebra - 1]:
        return None
    steps = np.arange(-REACH_MM, REACH_MM + STEP_MM / 2, STEP_MM)
    across = np.array(SLAB_MM)
    offset = (
        across[:, None, None, None] * frame[0]
        + steps[None, :, None, None] * frame[1]
        + steps[None, None, :, None] * frame[2]
    )
    index = volume.to_index(centroid_lps_mm + offset)
    low = np.maximum(np.floor(index.reshape(-1, 3).min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(index.reshape(-1, 3).max(axis=0)).astype(int) + 1, volume.hu.shape)
    if (high <= low).any():
        return None
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    body = ((masks.labels[box] == vertebra) & (masks.parts[box] == BODY)).astype(np.float32)
    there = map_coordinates(body, (index - low).reshape(-1, 3).T, order=1, output=np.float32)
    height = there.reshape(index.shape[:-1]).mean(axis=0).sum(axis=1) * STEP_MM
    tall = height > 2.0
    if tall.sum() * STEP_MM < 8.0:
        return None
    columns = np.flatnonzero(height > WALL * np.median(height[tall]))
    front, depth = int(columns[0]), float(columns[-1] - columns[0])
    values = []
    for low_part, high_part in BANDS:
        first, last = front + round(low_part * depth), front + round(high_part * depth)
        values.append(float(height[first : last + 1].mean()))
    return Heights(*values)
