"""Which vertebra a point lies in, and in which part of it: the exact shapes that the HU are painted from.

A vertebra is one group of primitives: its posterior elements, its body, then its osteophytes, which count as body.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.kernels import _OPTIONS, BODY, FAR, _primitive_distance, body_distance
from onnx_models.training.phantom.scene import Packed

BODY_PART, POSTERIOR_PART = 1, 2
NO_LABEL = 255
"""Owner of vertebrae that are no members of ``Patient.vertebrae`` (S2)."""


def owners(packed: Packed, labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(owner, part) of every primitive: 1-based label of its vertebra (0: no vertebra), and 1 body or 2 posterior.

    ``labels`` maps rows of the body table to labels.
    """
    kinds, prims, groups = packed[3], packed[4], packed[5]
    owner = np.zeros(len(kinds), np.uint8)
    part = np.zeros(len(kinds), np.uint8)
    for i in np.flatnonzero(kinds == ker.BODY):
        label = int(labels[int(prims[i, 0])]) or NO_LABEL
        same = np.flatnonzero(groups == groups[i])
        owner[same] = label
        part[same] = np.where(same < i, POSTERIOR_PART, BODY_PART)
    return owner, part


def distances(
    points: NDArray[np.float32], target: int, packed: Packed, owner: NDArray[np.uint8], part: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """(N, 3) signed distances in mm: to the body of vertebra ``target``, to its posterior elements, to all others.

    Negative inside; ``kernels.FAR`` where nothing is near (a few mm at least are exact).
    """
    cells = (packed[7], packed[8], packed[9], packed[10], packed[11])
    found = _distances(points, np.uint8(target), packed[3], packed[4], owner, part, *cells, packed[12], packed[13])
    return np.asarray(found, np.float32)


def parts(
    points: NDArray[np.float32], packed: Packed, owner: NDArray[np.uint8], part: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(vertebra, part) of points (N, 3); a body goes before posterior elements, the deeper one before the other."""
    cells = (packed[7], packed[8], packed[9], packed[10], packed[11])
    vertebra, which = _parts(points, packed[3], packed[4], owner, part, *cells, packed[12], packed[13])
    other = vertebra == NO_LABEL
    return np.where(other, 0, vertebra).astype(np.uint8), np.where(other, 0, which).astype(np.uint8)


@nb.njit(**_OPTIONS)
def _cell_of(x: Any, y: Any, z: Any, cell0: Any, cell: Any, dims: Any) -> int:
    if x < cell0[0] or y < cell0[1] or z < cell0[2]:
        return -1
    ci = int((x - cell0[0]) / cell)
    cj = int((y - cell0[1]) / cell)
    ck = int((z - cell0[2]) / cell)
    if ci >= dims[0] or cj >= dims[1] or ck >= dims[2]:
        return -1
    return int((ck * dims[1] + cj) * dims[0] + ci)


@nb.njit(**_OPTIONS)
def _distances(
    points: Any, target: Any, kinds: Any, prims: Any, owner: Any, part: Any, cell0: Any, cell: Any, dims: Any,
    start: Any, items: Any, bodies: Any, field: Any,
) -> Any:  # fmt: skip
    out = np.full((points.shape[0], 3), FAR, np.float32)
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        c = _cell_of(x, y, z, cell0, cell, dims)
        if c < 0:
            continue
        for m in range(start[c], start[c + 1]):
            i = items[m]
            if owner[i] == 0:
                continue
            if kinds[i] == BODY:
                d = body_distance(x, y, z, bodies[int(prims[i, 0])], field)[0]
            else:
                d = _primitive_distance(kinds[i], prims[i], x, y, z)
            column = 2 if owner[i] != target else part[i] - 1
            out[n, column] = min(out[n, column], d)
    return out


@nb.njit(**_OPTIONS)
def _parts(
    points: Any, kinds: Any, prims: Any, owner: Any, part: Any, cell0: Any, cell: Any, dims: Any,
    start: Any, items: Any, bodies: Any, field: Any,
) -> Any:  # fmt: skip
    vertebra = np.zeros(points.shape[0], np.uint8)
    which = np.zeros(points.shape[0], np.uint8)
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        c = _cell_of(x, y, z, cell0, cell, dims)
        if c < 0:
            continue
        nearest = FAR
        for m in range(start[c], start[c + 1]):
            i = items[m]
            if owner[i] == 0 or (which[n] == 1 and part[i] == 2):
                continue
            if kinds[i] == BODY:
                d = body_distance(x, y, z, bodies[int(prims[i, 0])], field)[0]
            else:
                d = _primitive_distance(kinds[i], prims[i], x, y, z)
            if d <= 0 and (d < nearest or part[i] < which[n]):
                nearest = d
                vertebra[n] = owner[i]
                which[n] = part[i]
    return vertebra, which
