"""What the key point network sees of a slab in training, and what it shall say of it.

A *crop* is a window of a slab, turned, sheared and scaled, mirrored left to right, with its own sharpness, noise and
grey scale. Targets are those of Pisov et al. 2020, section 3.2: an anchor is positive where the box around a
vertebra's six points overlaps it by more than half.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

from inference.keypoints import ANCHORS, boxes_of, normalised
from inference.straightening import COLUMNS
from onnx_models.training.keypoints_data import MARGIN, OUTSIDE_HU, POSITIVE, UNTAUGHT, Slab

ROWS = 224
POSITIVE_OVERLAP = 0.5
UNSURE_OVERLAP = 0.4
"""Between this overlap and the positive one objectness is not taught."""


class Crop(NamedTuple):
    """Attributes
    ----------
    hu
        (planes, rows, columns) float32.
    tissue
        (rows, columns) uint8, as in `Slab`.
    points, kind
        As in `Slab`, with (row, column) of this crop.
    """

    hu: NDArray[np.float32]
    tissue: NDArray[np.uint8]
    points: NDArray[np.float64]
    kind: NDArray[np.uint8]


class Positives(NamedTuple):
    """Positive anchors of a batch.

    Attributes
    ----------
    image, anchor, row, column
        (n,) int64: where they are.
    vertebra
        (n,) int64: the vertebra each belongs to, counted over the batch.
    points
        (vertebrae, 6, 2) float32 as (row, column).
    owner
        (vertebrae,) int64: the image each vertebra is in.
    """

    image: NDArray[np.int64]
    anchor: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    vertebra: NDArray[np.int64]
    points: NDArray[np.float32]
    owner: NDArray[np.int64]


class Batch(NamedTuple):
    """Attributes
    ----------
    image
        (batch, planes, rows, columns) float32, normalised.
    tissue
        (batch, rows, columns) uint8.
    taught
        (batch, 16, rows, columns) bool: where objectness is taught.
    positives
        The anchors whose objectness is 1.
    """

    image: NDArray[np.float32]
    tissue: NDArray[np.uint8]
    taught: NDArray[np.bool_]
    positives: Positives


def crop_of(rng: np.random.Generator, slab: Slab) -> Crop:
    """A random window of a slab, changed at random."""
    turn, shear = rng.uniform(-0.1, 0.1), rng.uniform(-0.08, 0.08)
    scale = np.exp(rng.uniform(-0.13, 0.13)) * np.exp(rng.uniform(-0.06, 0.06, 2))
    cosine, sine = np.cos(turn), np.sin(turn)
    # matrix: offset from the crop's centre (row, column) to offset in the slab
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[1, shear], [0, 1]]) @ np.diag(1 / scale)
    middle = np.array([(ROWS - 1) / 2, (COLUMNS - 1) / 2])
    rows = slab.hu.shape[1]
    half = ROWS / 2 / scale[0]
    row = rng.uniform(min(half, rows / 2), max(rows - half, rows / 2)) + rng.uniform(-20, 20)
    there = np.array([row, MARGIN + (COLUMNS - 1) / 2 + rng.uniform(-4, 4)])
    offset = there - matrix @ middle
    shape = (ROWS, COLUMNS)
    planes = slab.hu[::-1] if rng.random() < 0.5 else slab.hu
    hu = np.stack(
        [
            affine_transform(p.astype(np.float32), matrix, offset, shape, order=1, mode="constant", cval=OUTSIDE_HU)
            for p in planes
        ]
    )
    tissue = affine_transform(slab.tissue, matrix, offset, shape, order=0, mode="constant", cval=0)
    points = (slab.points - offset) @ np.linalg.inv(matrix).T
    kind = slab.kind.copy()
    inside = np.all((points > -0.5) & (points < np.array(shape) - 0.5), axis=(1, 2))
    kind[~inside & (kind == POSITIVE)] = UNTAUGHT
    return Crop(_scanned(rng, hu), tissue, points, kind)


def _scanned(rng: np.random.Generator, hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sharpness, noise and grey scale; what lies outside the field of view stays outside."""
    outside = hu <= OUTSIDE_HU + 1
    x = hu
    drawn = rng.random()
    if drawn < 0.45:
        wide = rng.uniform(0.3, 1.4)
        x = gaussian_filter(x, (0, wide * rng.uniform(0.7, 1.3), wide))
    elif drawn < 0.65:
        x = x + rng.uniform(0.3, 1.2) * (x - gaussian_filter(x, (0, 1.0, 1.0)))
    deviation = np.exp(rng.uniform(np.log(2.0), np.log(70.0)))
    noise = rng.normal(size=hu.shape).astype(np.float32)
    if rng.random() < 0.7:
        wide = rng.uniform(0.4, 1.4)
        noise = gaussian_filter(noise, (rng.uniform(0, 0.6), wide * rng.uniform(0.6, 1.6), wide))
        noise /= max(float(noise.std()), 1e-6)
    x = x * rng.normal(1.0, 0.07) + rng.normal(0, 20.0) + deviation * noise
    return np.asarray(np.where(outside, OUTSIDE_HU, x), np.float32)


@lru_cache(maxsize=1)
def _window() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the pixels around a vertebra where an anchor may be positive."""
    reach = np.arange(-22, 23)
    row, column = np.meshgrid(reach, reach, indexing="ij")
    return row.ravel(), column.ravel()


def anchor_overlap(box: NDArray[np.float64], row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float64]:
    """(16, n): overlap of a box (top, left, bottom, right) with each anchor at n pixels."""
    width, height = ANCHORS[:, :1], ANCHORS[:, 1:]
    shared_height = np.minimum(box[2], row + height / 2) - np.maximum(box[0], row - height / 2)
    shared_width = np.minimum(box[3], column + width / 2) - np.maximum(box[1], column - width / 2)
    shared = np.clip(shared_height, 0, None) * np.clip(shared_width, 0, None)
    return np.asarray(shared / ((box[2] - box[0]) * (box[3] - box[1]) + width * height - shared))


def batch_of(crops: list[Crop]) -> Batch:
    """Pictures and targets of several crops."""
    shape = crops[0].tissue.shape
    taught = np.ones((len(crops), len(ANCHORS), *shape), bool)
    best = np.zeros_like(taught, dtype=np.float32)
    owner = np.full(taught.shape, -1, np.int32)
    points: list[NDArray[np.float64]] = []
    images: list[int] = []
    for b, crop in enumerate(crops):
        for corners, kind in zip(crop.points, crop.kind, strict=True):
            if kind not in (POSITIVE, UNTAUGHT):
                continue
            middle = np.rint(corners.mean(axis=0)).astype(int)
            row, column = _window()[0] + middle[0], _window()[1] + middle[1]
            inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
            row, column = row[inside], column[inside]
            if not len(row):
                continue
            covered = anchor_overlap(boxes_of(corners[None])[0], row, column)
            anchor, pixel = np.nonzero(covered > min(UNSURE_OVERLAP, 0.8 * covered.max()))
            taught[b, anchor, row[pixel], column[pixel]] = False
            if kind == UNTAUGHT:
                continue
            # a very flat vertebra fits no anchor by half: its best anchors are taken
            anchor, pixel = np.nonzero(covered > min(POSITIVE_OVERLAP, 0.92 * covered.max()))
            at = (b, anchor, row[pixel], column[pixel])
            more = covered[anchor, pixel] > best[at]
            at = (b, anchor[more], row[pixel][more], column[pixel][more])
            best[at] = covered[anchor, pixel][more]
            owner[at] = len(points)
            points.append(corners)
            images.append(b)
    image, anchor, row, column = np.nonzero(owner >= 0)
    taught[image, anchor, row, column] = True
    return Batch(
        normalised(np.stack([c.hu for c in crops])),
        np.stack([c.tissue for c in crops]),
        taught,
        Positives(
            image,
            anchor,
            row,
            column,
            owner[image, anchor, row, column].astype(np.int64),
            np.array(points, np.float32).reshape(-1, 6, 2),
            np.array(images, np.int64),
        ),
    )


class SlabSource:
    """Slabs of a folder; looks for new ones now and then, because they are made while training runs."""

    def __init__(self, folder: Path, look_again: int = 50) -> None:
        self._folder = folder
        self._look_again = look_again
        self._asked = 0
        self._files: list[Path] = []
        self._kept: dict[Path, Slab] = {}

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """A random batch.

        Raises FileNotFoundError where no slab has been made yet.
        """
        if self._asked % self._look_again == 0:
            self._files = sorted(self._folder.glob("*.npz"))
        self._asked += 1
        if not self._files:
            raise FileNotFoundError(f"no slabs in {self._folder}: python -m onnx_models.training.keypoints_data")
        chosen = [self._files[i] for i in rng.integers(len(self._files), size=size)]
        return batch_of([crop_of(rng, self._slab(path)) for path in chosen])

    def _slab(self, path: Path) -> Slab:
        if path not in self._kept:
            self._kept[path] = Slab.load(path)
        return self._kept[path]
