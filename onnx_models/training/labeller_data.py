"""What the labeller is shown: windows of scenes, each with its own view, noise, vessels, metal and centre line.

Windows of all lengths and places: necks, chests, abdomens, pelvises, whole spines, and parts that hold no anchor at
all. Rows are 2 mm along z towards the feet.
"""

from __future__ import annotations

import functools
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
HANG_ROWS = 16
"""A rib or transverse process is moved along z by so many rows at most."""


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
    if rng.random() < 0.5:  # an end of the window near the lowest rib, the sacrum or the axis
        lowest_rib = int(np.flatnonzero([LEVELS[level].startswith("T") for level in scene.level])[-1])
        count = len(scene.row)
        anchor = scene.row[
            rng.choice([lowest_rib, lowest_rib + 1, count - 1, count - 2, 1], p=[0.4, 0.2, 0.15, 0.1, 0.15])
        ]
        near = rng.uniform(1.5, 9.0)  # so that it is cut, or all but cut
        first = anchor - rng.choice([near, length - near, length * rng.uniform(0, 1)], p=[0.4, 0.2, 0.4])
    else:
        first = rng.uniform(-6, max(total - length + 6, -5.9))
    at = first + step * np.arange(rows)
    index = np.rint(at).astype(int)
    block, scale = _reshaped(scene, index, rng)
    shift = _drift(rows, rng)
    cut = np.empty((rows, SIDE, SIDE), np.float32)
    for k in range(rows):
        r, c = shift[k]
        cut[k] = block[k, r : r + SIDE, c : c + SIDE]
    cut = _other_processes(cut, scene, at, rng)
    cut[(index < 0) | (index >= total)] = AIR_HU
    offset = np.column_stack([(MARGIN - shift[:, 1]) * STEP_MM, (MARGIN - shift[:, 0]) * STEP_MM])  # centre - line
    mirrored = bool(rng.random() < 0.5)
    if mirrored:
        cut = cut[:, :, ::-1]
        offset[:, 0] *= -1
    cut = changed(np.ascontiguousarray(cut), rng)
    return _taught(scene, scene.offset_mm * scale, cut, at, step, offset, mirrored)


def _reshaped(
    scene: Scene, index: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The scene's rows ``index``, ribs and transverse processes hanging more or less, wider or narrower; and the
    factors (left, back) on distances from the line."""
    total = len(scene.hu)
    low = int(np.clip(index[0] - HANG_ROWS, 0, total - 1))
    high = int(np.clip(index[-1] + HANG_ROWS + 1, low + 1, total))
    part = np.array(scene.hu[low:high])
    width = part.shape[2]
    if rng.random() < 0.6:
        slopes = rng.uniform(-0.25, 0.8) + rng.normal(0, 0.05, 2)
        left = np.arange(width) - MARGIN - 29.5
        drop = np.clip(np.abs(left) - 9, 0, None) * np.where(left < 0, *slopes)
        rows = np.arange(len(part))
        for column, by in enumerate(np.rint(np.clip(drop, -HANG_ROWS, HANG_ROWS)).astype(int)):
            if by:
                part[:, :, column] = part[np.clip(rows - by, 0, len(part) - 1), :, column]
    part = part[np.clip(index, low, high - 1) - low]
    scale = np.ones(2)
    if rng.random() < 0.6:
        scale = np.exp(rng.uniform(-0.12, 0.12, 2))
        for axis, zero, by in ((2, MARGIN + 29.5, scale[0]), (1, MARGIN + 35.5, scale[1])):
            source = np.rint(zero + (np.arange(width) - zero) / by).astype(int)
            part = np.take(part, np.clip(source, 0, width - 1), axis=axis)
    return part, scale


def _other_processes(
    hu: NDArray[np.float32], scene: Scene, at: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Transverse processes and ribs thinner, lumbar processes shorter, facets bright.

    The phantom's processes are bars as long and thick as stumps of ribs, and no brighter than the body; people's are
    short and thin, and their facets outshine everything: seen beside a real scan, that was the plainest difference.
    """
    left = np.abs((np.arange(SIDE) - 29.5) * STEP_MM)
    if rng.random() < 0.6:
        rows = int(rng.integers(2, 5))
        beside = left > rng.uniform(15, 22)
        hu[:, :, beside] = ndimage.minimum_filter1d(hu[:, :, beside], rows, axis=0)
    nearest = np.abs(at[:, None] - scene.row[None]).argmin(axis=1)
    lumbar = np.array([LEVELS[level].startswith("L") for level in scene.level])
    if lumbar.any() and rng.random() < 0.6:
        muscle = np.float32(rng.uniform(20, 70))
        for which in np.flatnonzero(lumbar)[:-1]:  # beside the last one lie sacrum and ilium
            mine = np.flatnonzero(nearest == which)
            if len(mine):
                beyond = left > rng.uniform(20, 44)
                part = hu[mine[0] : mine[-1] + 1, :, beyond]
                hu[mine[0] : mine[-1] + 1, :, beyond] = np.where(part > 100, muscle, part)
    if rng.random() < 0.6:
        _facets(hu, scene.row, at, rng)
    return hu


def _facets(
    hu: NDArray[np.float32], centre: NDArray[np.float32], at: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Bone brighter where the joints are: between two vertebrae, behind the canal, to both sides."""
    more, wide = rng.uniform(100, 700), rng.uniform(9, 18)
    depth = np.exp(-0.5 * ((np.arange(SIDE) - rng.uniform(46, 52)) / 3.0) ** 2)
    left = np.abs((np.arange(SIDE) - 29.5) * STEP_MM)
    across = np.exp(-0.5 * ((left - wide) / 3.5) ** 2)
    between = 0.5 * (centre[1:] + centre[:-1]) + rng.uniform(-3, 1)
    along = np.exp(-0.5 * ((at[:, None] - between[None]) / rng.uniform(1.5, 3.5)) ** 2).max(axis=1, initial=0.0)
    bright = (more * along[:, None, None] * depth[:, None] * across).astype(np.float32)
    hu += np.where(hu > 80, bright, np.float32(0))


def _drift(rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(rows, 2) first voxel of the box in its scene (back, left): a detected line is a few mm off, and wanders."""
    nodes = np.linspace(0, rows, max(3, rows // 25))
    wander = [np.interp(np.arange(rows), nodes, rng.normal(0, 0.8, len(nodes))) for _ in range(2)]
    out = np.rint(MARGIN + rng.normal(0, 1.4, 2) + np.stack(wander, axis=1))
    return np.asarray(np.clip(out, 0, 2 * MARGIN), np.int64)


def _taught(
    scene: Scene,
    centre_mm: NDArray[np.float64],
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
        (centre_mm[nearest] * flip + offset).T.astype(np.float32),
    )


def changed(hu: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Vessels, metal, density of the bone, calibration, thick slices, blur, noise and a narrow field of view, in the
    order of the chain; ``hu`` (rows, 60, 60) is painted on."""
    for _ in range(int(rng.integers(0, 4))):
        _blob(hu, rng, rng.uniform(120, 560), in_front=True)
    if rng.random() < 0.12:
        for _ in range(int(rng.integers(1, 4))):
            _blob(hu, rng, rng.uniform(1500, 3500), in_front=False)
    if rng.random() < 0.8:
        _denser(hu, rng)
    hu *= np.float32(rng.uniform(0.93, 1.07))
    hu += np.float32(rng.normal(0, 20))
    if rng.random() < 0.5:
        hu = _blurred(hu, 0, rng.uniform(0, 1.3))
    if rng.random() < 0.5:
        in_plane = rng.uniform(0.2, 0.8)
        hu = _blurred(_blurred(hu, 1, in_plane), 2, in_plane)
    noise = _noise()[int(rng.random() < 0.4)]
    at = int(rng.integers(len(noise) - len(hu)))
    side = 1 if rng.random() < 0.5 else -1
    hu += np.float32(np.exp(rng.uniform(np.log(2), np.log(80)))) * noise[at : at + len(hu), ::side]
    if rng.random() < 0.15:  # a field of view that ends behind or beside the spine
        hu[:, SIDE - int(rng.integers(1, 14)) :] = AIR_HU
    if rng.random() < 0.15:
        columns = int(rng.integers(1, 16))
        hu[:, :, (slice(0, columns) if rng.random() < 0.5 else slice(SIDE - columns, SIDE))] = AIR_HU
    return hu


def _denser(hu: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Bone brighter or darker, and not alike everywhere: bodies, posterior elements, ribs and pelvis each have a
    density of their own, and compact bone outshines spongy bone more in one person than in another."""
    bone = hu - np.float32(100.0)
    np.clip(bone, 0.0, 2000.0, out=bone)
    depth = _curve(np.array([0, 30, 42, 50, 59]), 0.35, SIDE, rng)  # front, body, canal, facets, spinous processes
    across = _curve(np.array([0, 12, 22, 30, 37, 47, 59]), 0.25, SIDE, rng)
    rows = _curve(np.linspace(0, len(hu) - 1, max(2, len(hu) // 12)), 0.12, len(hu), rng)
    gain = np.exp(rng.uniform(-0.5, 0.5)) * rows[:, None] * depth
    more = bone * np.float32(rng.uniform(-0.25, 1.0) / 500.0)
    more += np.float32(1.0)
    more *= gain.astype(np.float32)[:, :, None]
    more *= across.astype(np.float32)
    more -= np.float32(1.0)
    more *= bone
    hu += more
    np.clip(hu, -1024.0, 4000.0, out=hu)


def _curve(nodes: NDArray[np.floating], deviation: float, length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(length,) smooth factors about 1."""
    return np.asarray(np.exp(np.interp(np.arange(length), nodes, rng.normal(0, deviation, len(nodes)))))


def _blurred(hu: NDArray[np.float32], axis: int, sigma: float) -> NDArray[np.float32]:
    """Blur along one axis, about as a Gaussian of ``sigma`` voxels, by passes of three taps."""
    passes = int(np.ceil(sigma**2 / 0.6))
    for _ in range(passes):
        tap = np.float32(sigma**2 / passes / 2)
        moved = np.moveaxis(hu, axis, 0)
        out = np.empty_like(hu)
        to = np.moveaxis(out, axis, 0)
        np.multiply(moved, 1 - 2 * tap, out=to)
        side = moved * tap
        to[1:] += side[:-1]
        to[:-1] += side[1:]
        to[0] += side[0]
        to[-1] += side[-1]
        hu = out
    return hu


@functools.cache
def _noise() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Noise (1200, 60, 60) of unit deviation to take parts of: white, and correlated within the rows."""
    white = np.random.default_rng(23).standard_normal((1200, SIDE, SIDE), np.float32)
    smooth = ndimage.gaussian_filter(white, (0.0, 0.7, 0.7), truncate=2.0)
    return white, smooth / smooth.std()


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
