"""Masks as the reader's picture shows them: which vertebral body lies at a pixel of the curved reformat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from inference.abnormality import GRID_MM, Expected
from inference.geometry import Volume
from inference.masks import BODY, on_grid
from inference.reformat import CurvedReformat

ROWS_AT_ONCE = 128


def bodies_on(
    picture: CurvedReformat, volume: Volume, labels: NDArray[np.uint8], parts: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """uint8 of the shape of ``picture.hu``: the label of the vertebral body at each pixel's centre, else 0.

    ``labels`` and ``parts`` are of the shape of ``volume.hu``; the nearest voxel counts.
    """
    out = np.zeros(picture.hu.shape, np.uint8)
    height, width = picture.hu.shape
    limit = np.array(volume.hu.shape)
    for first in range(0, height, ROWS_AT_ONCE):
        rows = slice(first, min(first + ROWS_AT_ONCE, height))
        index = np.rint(volume.to_index(picture.to_lps(_centres(rows, slice(0, width))))).astype(np.int64)
        seen = np.all((index >= 0) & (index < limit), axis=-1)
        at = tuple(index[seen].T)
        out[rows][seen] = np.where(parts[at] == BODY, labels[at], 0)
    return out


def expected_on(picture: CurvedReformat, expected: Mapping[int, Expected]) -> NDArray[np.uint8]:
    """uint8 of the shape of ``picture.hu``: ordinal of the vertebra whose expected body a pixel's centre lies in."""
    out = np.zeros(picture.hu.shape, np.uint8)
    for ordinal, body in expected.items():
        shape = np.array(body.occupancy.shape)
        middle = body.affine[:3, :3] @ ((shape - 1) / 2) + body.affine[:3, 3]
        column, row = (float(v) for v in picture.to_pixel(middle))
        reach = GRID_MM * float(shape.max()) / 2 / picture.spacing_mm
        rows, columns = _around(row, reach, picture.hu.shape[0]), _around(column, reach, picture.hu.shape[1])
        points = picture.to_lps(_centres(rows, columns))
        inverse = np.linalg.inv(body.affine)
        index = points @ inverse[:3, :3].T + inverse[:3, 3]
        said = map_coordinates(body.occupancy, index.reshape(-1, 3).T, order=1, output=np.float32)
        block = out[rows, columns]
        block[(said.reshape(block.shape) >= 0.5) & (block == 0)] = ordinal
    return out


def expected_in(volume: Volume, expected: Mapping[int, Expected]) -> NDArray[np.uint8]:
    """uint8 of the shape of ``volume.hu``: ordinal of the vertebra whose expected body a voxel's centre lies in.

    Where two expected bodies overlap the upper one has the voxel.
    """
    out = np.zeros(volume.hu.shape, np.uint8)
    for ordinal, body in sorted(expected.items()):
        last = np.array(body.occupancy.shape) - 1.0
        corners = np.array([[(last if (n >> a) & 1 else 0 * last)[a] for a in range(3)] for n in range(8)])
        index = volume.to_index(corners @ body.affine[:3, :3].T + body.affine[:3, 3])
        low = np.clip(np.floor(index.min(axis=0)).astype(int), 0, out.shape)
        high = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, out.shape)
        if (high <= low).any():
            continue
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        block = out[box]
        block[(on_grid(body.occupancy, body.affine, volume, box) >= 0.5) & (block == 0)] = ordinal
    return out


def _around(middle: float, reach: float, size: int) -> slice:
    """Indices within ``reach`` of ``middle``, of an axis of that size."""
    return slice(min(max(int(middle - reach), 0), size), min(max(int(middle + reach) + 1, 0), size))


def _centres(rows: slice, columns: slice) -> NDArray[np.floating[Any]]:
    """(column, row) of pixel centres, (rows, columns, 2)."""
    column, row = np.meshgrid(np.arange(columns.start, columns.stop) + 0.5, np.arange(rows.start, rows.stop) + 0.5)
    return np.stack([column, row], axis=-1)
