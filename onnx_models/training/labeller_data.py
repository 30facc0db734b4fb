"""What the labeller is shown: windows of scenes, each with its own view, noise, vessels, metal and centre line.

Windows of all lengths and places: necks, chests, abdomens, pelvises, whole spines, and parts that hold no anchor at
all. Rows are 2 mm along z towards the feet.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.findings import Level
from inference.labelling import EVIDENCE, LEVELS, STEP_MM, views_of
from onnx_models.training.labeller_scenes import MARGIN, Scene, scene_files

LENGTHS = (36, 52, 72, 96, 120, 150, 190, 240, 300)
CHANCES = (0.10, 0.12, 0.16, 0.18, 0.16, 0.12, 0.08, 0.05, 0.03)
AIR_HU = np.float32(-1024.0)
SIDE = 60


class Window(NamedTuple):
    """One training example.

    Attributes
    ----------
    views
        (4, rows, 60) float32.
    centre
        (rows,) float32: Gaussian of 4 mm at each centre, the largest of them.
    weight
        (rows,) float32: Gaussian of 3 mm at the nearest centre: how much the name of a row is taught.
    level
        (rows,) int64: index of the nearest vertebra's name.
    evidence
        (3, rows) float32: whether the nearest vertebra bears a rib, is S1, is C2.
    offset_mm
        (2, rows) float32: the nearest centre minus the line, left and back.
    """

    views: NDArray[np.float32]
    centre: NDArray[np.float32]
    weight: NDArray[np.float32]
    level: NDArray[np.int64]
    evidence: NDArray[np.float32]
    offset_mm: NDArray[np.float32]


def evidence_of(level: int) -> tuple[float, float, float]:
    """What is seen of a vertebra of that name: a rib, the sacrum, the axis."""
    name = LEVELS[level]
    return float(name.startswith("T")), float(name == Level.S1), float(name == Level.C2)


def draw_window(scene: Scene, rows: int, rng: np.random.Generator) -> Window:
    """A window of that many rows: cut, stretched, shifted off its line, mirrored, and seen by a scanner of its own."""
    total = len(scene.hu)
    step = float(np.exp(rng.uniform(-0.1, 0.1)))
    length = rows * step
    if rng.random() < 0.35:  # an end of the window near the lowest rib, the sacrum or the axis
        anchor = scene.row[rng.choice([1, -1, -2, -6, -7])]
        first = anchor - length * rng.uniform(0, 1)
    else:
        first = rng.uniform(-6, max(total - length + 6, -5.9))
    at = first + step * np.arange(rows)
    index = np.rint(at).astype(int)
    shift = _drift(rows, rng)
    block = np.asarray(scene.hu[np.clip(index, 0, total - 1)])
    cut = np.empty((rows, SIDE, SIDE), np.float32)
    for k in range(rows):
        r, c = shift[k]
        cut[k] = block[k, r : r + SIDE, c : c + SIDE]
    cut[(index < 0) | (index >= total)] = AIR_HU
    offset = np.column_stack([(MARGIN - shift[:, 1]) * STEP_MM, (MARGIN - shift[:, 0]) * STEP_MM])  # centre - line
    mirrored = bool(rng.random() < 0.5)
    if mirrored:
        cut = cut[:, :, ::-1]
        offset[:, 0] *= -1
    cut = changed(np.ascontiguousarray(cut), rng)
    return _taught(scene, cut, at, step, offset, mirrored)


def _drift(rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(rows, 2) first voxel of the box in its scene (back, left): a detected line is a few mm off, and wanders."""
    nodes = np.linspace(0, rows, max(3, rows // 25))
    wander = [np.interp(np.arange(rows), nodes, rng.normal(0, 0.8, len(nodes))) for _ in range(2)]
    out = np.rint(MARGIN + rng.normal(0, 1.4, 2) + np.stack(wander, axis=1))
    return np.clip(out, 0, 2 * MARGIN).astype(np.int64)


def _taught(
    scene: Scene,
    hu: NDArray[np.float32],
    at: NDArray[np.float64],
    step: float,
    offset: NDArray[np.float64],
    mirrored: bool,
) -> Window:
    rows = len(hu)
    distance = np.abs(at[:, None] - scene.row[None]) / step * STEP_MM
    inside = (scene.row >= at[0] - 1) & (scene.row <= at[-1] + 1)
    distance[:, ~inside] = 1e3
    nearest = distance.argmin(axis=1)
    near = distance[np.arange(rows), nearest]
    flip = np.array([-1.0 if mirrored else 1.0, 1.0])
    level = scene.level[nearest]
    return Window(
        views_of(hu),
        np.exp(-0.5 * (near / 4.0) ** 2).astype(np.float32),
        np.exp(-0.5 * (near / 3.0) ** 2).astype(np.float32),
        level,
        np.array([evidence_of(int(i)) for i in level], np.float32).T.reshape(len(EVIDENCE), rows),
        (scene.offset_mm[nearest] * flip + offset).T.astype(np.float32),
    )


def changed(hu: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Vessels, metal, calibration, thick slices, blur, noise and a narrow field of view, in the order of the chain."""
    for _ in range(int(rng.integers(0, 4))):
        _blob(hu, rng, rng.uniform(120, 560), in_front=True)
    if rng.random() < 0.12:
        for _ in range(int(rng.integers(1, 4))):
            _blob(hu, rng, rng.uniform(1500, 3500), in_front=False)
    if rng.random() < 0.5:
        stretch = np.float32(rng.uniform(0.6, 1.6))
        hu = np.where(hu > 100, 100 + (hu - 100) * stretch, hu)
    hu = hu * np.float32(rng.uniform(0.93, 1.07)) + np.float32(rng.normal(0, 20))
    sigma = (
        rng.uniform(0, 1.3) * (rng.random() < 0.5),
        *([rng.uniform(0.2, 0.8) * (rng.random() < 0.5)] * 2),
    )
    if max(sigma) > 0.15:
        hu = ndimage.gaussian_filter(hu, sigma, truncate=2.0)
    noise = rng.standard_normal(hu.shape, np.float32)
    if rng.random() < 0.4:
        noise = ndimage.gaussian_filter(noise, (0.0, 0.7, 0.7), truncate=2.0)
        noise /= max(float(noise[::8].std()), 1e-6)
    hu = hu + np.float32(np.exp(rng.uniform(np.log(2), np.log(80)))) * noise
    if rng.random() < 0.15:  # a field of view that ends behind or beside the spine
        hu[:, SIDE - int(rng.integers(1, 14)) :] = AIR_HU
    if rng.random() < 0.15:
        columns = int(rng.integers(1, 16))
        hu[:, :, (slice(0, columns) if rng.random() < 0.5 else slice(SIDE - columns, SIDE))] = AIR_HU
    return hu.astype(np.float32, copy=False)


def _blob(hu: NDArray[np.float32], rng: np.random.Generator, value: float, in_front: bool) -> None:
    """Paint a soft-edged ellipsoid: a vessel or organ in front of the spine, or metal anywhere."""
    rows = len(hu)
    centre = np.array(
        [rng.uniform(0, rows), rng.uniform(0, 18) if in_front else rng.uniform(18, 56), rng.uniform(4, 56)]
    )
    radii = np.array([rng.uniform(4, 60), *rng.uniform(2, 9, 2)]) if in_front else rng.uniform(1.0, 4.0, 3)
    low = np.maximum(np.floor(centre - radii), 0).astype(int)
    high = np.minimum(np.ceil(centre + radii + 1), hu.shape).astype(int)
    if (high <= low).any():
        return
    a, b, c = (((np.arange(p, q) - m) / r) ** 2 for p, q, m, r in zip(low, high, centre, radii, strict=True))
    radius = np.sqrt(a[:, None, None] + b[None, :, None] + c[None, None, :])
    cover = np.clip((1 - radius) * float(radii.min()) + 0.5, 0, 1).astype(np.float32)
    block = hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    block += cover * (np.float32(value) - block)


class WindowSource:
    """Windows from a growing folder of scenes; the list is read again now and then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._drawn = 0

    def batch(self, rng: np.random.Generator, count: int) -> Window:
        """`count` windows of one length, stacked.

        Raises ``FileNotFoundError`` where there is no scene yet.
        """
        if self._drawn % 50 == 0:
            self._files = scene_files(self._folder)
        self._drawn += 1
        if not self._files:
            raise FileNotFoundError(
                f"no scenes in {self._folder}: python -m onnx_models.training.labeller_scenes makes them"
            )
        rows = int(rng.choice(LENGTHS, p=CHANCES))
        chosen = [self._files[int(i)] for i in rng.integers(len(self._files), size=count)]
        return Window(
            *(np.stack(parts) for parts in zip(*(draw_window(Scene.load(p), rows, rng) for p in chosen), strict=True))
        )
