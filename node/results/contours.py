"""Outlines of masks at the size at which a picture is drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Box = tuple[slice, slice]


def outlines(labels: NDArray[np.uint8], factor: float, thickness: int) -> Iterator[tuple[int, Box, NDArray[np.bool_]]]:
    """(ordinal, box, pixels of its outline within the box) of every label, ``factor`` times enlarged.

    Parameters
    ----------
    labels
        (rows, columns), 0 or an ordinal.
    thickness
        Of the line, in pixels of the enlarged picture; it lies inside the mask.
    """
    for ordinal, found in enumerate(ndimage.find_objects(labels), start=1):
        if found is None:
            continue
        rows, columns = (slice(max(0, s.start - 2), s.stop + 2) for s in found)
        part = np.where(labels[rows, columns] == ordinal, np.uint8(255), np.uint8(0))
        top, left = round(rows.start * factor), round(columns.start * factor)
        size = (max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor)))
        smooth = np.array(Image.fromarray(part).resize(size, Image.Resampling.BICUBIC)) > 127
        edge = smooth & ~ndimage.binary_erosion(smooth, iterations=thickness)
        yield ordinal, (slice(top, top + size[1]), slice(left, left + size[0])), edge


def dashed(edge: NDArray[np.bool_], dash: float) -> NDArray[np.bool_]:
    """The outline (rows, columns) in dashes of ``dash`` pixels, as seen from its middle: for shapes without bays."""
    rows, columns = np.nonzero(edge)
    if not len(rows):
        return edge
    y, x = rows - rows.mean(), columns - columns.mean()
    around = 2 * np.pi * float(np.hypot(y, x).mean())
    pairs = max(2, round(around / (2 * dash)))
    drawn = np.floor((np.arctan2(y, x) / (2 * np.pi) + 0.5) * 2 * pairs).astype(int) % 2 == 0
    broken = np.zeros_like(edge)
    broken[rows[drawn], columns[drawn]] = True
    return broken
