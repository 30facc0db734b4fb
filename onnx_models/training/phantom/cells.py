"""A coarse grid of cells, each with the list of primitives near it."""

from __future__ import annotations

import math

import numba as nb
import numpy as np


@nb.njit(cache=True)
def fill_cells(boxes, cell0, cell, dims):
    """Compressed lists of the primitives whose box (x0, y0, z0, x1, y1, z1) touches each cell, in paint order."""
    n_cells = dims[0] * dims[1] * dims[2]
    count = np.zeros(n_cells + 1, np.int64)
    for turn in range(2):
        if turn == 1:
            total = 0
            for c in range(n_cells + 1):
                here = count[c]
                count[c] = total
                total += here
            items = np.empty(total, np.int32)
            cursor = count.copy()
        for p in range(boxes.shape[0]):
            lo = np.empty(3, np.int64)
            hi = np.empty(3, np.int64)
            for axis in range(3):
                lo[axis] = max(0, math.floor((boxes[p, axis] - cell0[axis]) / cell))
                hi[axis] = min(dims[axis] - 1, math.floor((boxes[p, axis + 3] - cell0[axis]) / cell))
            for ck in range(lo[2], hi[2] + 1):
                for cj in range(lo[1], hi[1] + 1):
                    for ci in range(lo[0], hi[0] + 1):
                        c = (ck * dims[1] + cj) * dims[0] + ci
                        if turn == 0:
                            count[c] += 1
                        else:
                            items[cursor[c]] = p
                            cursor[c] += 1
    return count.astype(np.int32), items
