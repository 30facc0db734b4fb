"""Training volumes of the localizer: phantoms acquired at 3 mm, kept on disk, cropped and changed anew for each batch.

A *scene* is one acquired patient with its curve; making one takes about a second, so scenes are made in the background
(``python -m onnx_models.training.localizer_data --minutes 30``) while training runs, and grow in number. A *crop* is
what the network sees: a window of a scene, scaled, turned, sheared, mirrored, with its own field of view, noise,
vessels and metal, cut so that the spine is in it, truncated by its edge, or absent.

Everything is on the canonical grid (slice towards the feet, row towards the back, column towards the left), 3 mm.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

SPACING_MM = 3.0
AIR_HU = -1024.0
CLIP_HU = (-1024.0, 2000.0)
CACHE = Path("build/training/cache/localizer")
WHOLE_BODY_MM = 15.0
"""A slice counts as spine when the centre of the body is at least this far inside the field of view."""
CUT_BODY_MM = 8.0
"""A slice counts as no spine when the centre is nearer to the edge than this; between the two nothing is taught."""


@dataclass(frozen=True)
class Scene:
    """One acquired phantom.

    Attributes
    ----------
    hu
        (slices, rows, columns) int16.
    centre
        (slices, 2) float32: (row, column) of the curve in voxels; nan where there is no spine.
    vertebrae
        (n, 3) float32: (slice, row, column) of the centres of the vertebral bodies inside the volume.
    """

    hu: NDArray[np.int16]
    centre: NDArray[np.float32]
    vertebrae: NDArray[np.float32]

    def save(self, folder: Path, name: str) -> None:
        """Two files; the one with the curve appears last, and only then the scene is listed."""
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, write in (
            (".npy", lambda f: np.save(f, self.hu)),
            (".npz", lambda f: np.savez(f, centre=self.centre, vertebrae=self.vertebrae)),
        ):
            partial = folder / f".{name}.{os.getpid()}{suffix}"
            with partial.open("wb") as file:
                write(file)
            partial.replace(folder / f"{name}{suffix}")

    @classmethod
    def load(cls, curve_file: Path) -> Scene:
        """By its ``.npz``; voxels are mapped, not read."""
        with np.load(curve_file) as curve:
            return cls(np.load(curve_file.with_suffix(".npy"), mmap_mode="r"), curve["centre"], curve["vertebrae"])


class Crop(NamedTuple):
    """What the network sees and what it shall say.

    Attributes
    ----------
    volume
        (1, D, H, W) float32, normalised.
    centre
        (D, 2) float32, (row, column) in voxels.
    taught
        (D,) bool: the centre is known and inside.
    presence
        (D,) float32: 1 spine, 0 none, -1 not taught.
    """

    volume: NDArray[np.float32]
    centre: NDArray[np.float32]
    taught: NDArray[np.bool_]
    presence: NDArray[np.float32]


def normalised(hu: NDArray[np.floating]) -> NDArray[np.float32]:
    """Clipped to `CLIP_HU`, zero mean and unit variance over the volume (the contract of the manifest)."""
    clipped = np.clip(hu, *CLIP_HU).astype(np.float32)
    return (clipped - clipped.mean()) / max(float(clipped.std()), 1.0)


def padded(volume: NDArray[np.float32], air: float, multiple: int = 8) -> NDArray[np.float32]:
    """Each axis padded at its end up to a multiple, with `air` (what -1,024 HU became)."""
    return np.pad(volume, [(0, -n % multiple) for n in volume.shape], constant_values=air)


def prepared(hu: NDArray[np.floating]) -> NDArray[np.float32]:
    """(slices, rows, columns) in HU at 3 mm to the network's input, (1, 1, D, H, W)."""
    clipped = np.clip(hu, *CLIP_HU)
    mean, sd = float(clipped.mean()), max(float(clipped.std()), 1.0)
    return padded(normalised(hu), (AIR_HU - mean) / sd)[None, None]


# --- scenes -----------------------------------------------------------------------------------------------------------


def scene_files(folder: Path) -> list[Path]:
    """The scenes that are complete, in a fixed order."""
    return sorted(p for p in folder.glob("*.npz") if not p.name.startswith("."))


# --- crops ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CropRanges:
    """How crops are varied. Lengths in voxels of 3 mm unless they say otherwise."""

    depths: tuple[int, ...] = (16, 48, 64, 80)
    sides: tuple[int, ...] = (48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 136, 168)
    voxels: int = 420_000
    """Largest size of one crop; a wide one is made shorter."""
    absent: float = 0.10
    truncated: float = 0.14
    scale: float = 0.18
    turn_degrees: float = 10.0
    shear: float = 0.15
    posterior_margin: tuple[float, float] = (0.06, 0.45)
    at_side: float = 0.2
    vessels: int = 4
    circle: float = 0.2


def crop_size(rng: np.random.Generator, ranges: CropRanges) -> tuple[int, int, int]:
    """(D, H, W), multiples of 8; H and W are drawn together, so that a batch shares them."""
    height = int(rng.choice(ranges.sides))
    width = int(np.clip(height + 8 * rng.integers(-1, 4), ranges.sides[0], ranges.sides[-1]))
    depth = int(rng.choice(ranges.depths))
    while depth > 24 and depth * height * width > ranges.voxels:
        depth -= 8
    return depth, height, width


@dataclass(frozen=True)
class _Window:
    """Maps voxels of a crop to voxels of its scene: slices to slices, an affine map inside each slice."""

    first: float
    step: float
    matrix: NDArray[np.float64]  # 2 x 2, crop (row, column) offset to scene offset
    centres: NDArray[np.float64]  # (D, 2), place of the crop's middle in the scene
    middle: NDArray[np.float64]  # (2,), the crop's middle

    def slices(self) -> NDArray[np.float64]:
        return self.first + self.step * np.arange(len(self.centres))

    def from_scene(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(D, 2) scene (row, column) of each slice to the crop."""
        out: NDArray[np.float64] = (points - self.centres) @ np.linalg.inv(self.matrix).T + self.middle
        return out


def _curve_at(centre: NDArray[np.float32], slices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve at fractional slices, nan where either neighbour has none."""
    index = np.arange(len(centre), dtype=np.float64)
    low = np.floor(slices).astype(int)
    inside = (low >= 0) & (low < len(centre) - 1)
    low = np.clip(low, 0, len(centre) - 2)
    known = inside & np.isfinite(centre[low, 0]) & np.isfinite(centre[low + 1, 0])
    filled = np.stack([np.interp(slices, index, np.nan_to_num(centre[:, a])) for a in (0, 1)], axis=1)
    filled[~known] = np.nan
    return filled


def draw_window(
    scene: Scene, size: tuple[int, int, int], rng: np.random.Generator, ranges: CropRanges, kind: str
) -> _Window:
    """Place a crop of `size` on a scene: ``present``, ``truncated`` (the edge cuts the bodies) or ``absent``."""
    depth, height, width = size
    scale = float(np.exp(rng.uniform(-ranges.scale, ranges.scale)))
    step = scale * float(np.exp(rng.uniform(-0.08, 0.08)))
    angle = np.deg2rad(rng.uniform(-ranges.turn_degrees, ranges.turn_degrees))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * turn @ np.diag(np.exp(rng.uniform(-0.06, 0.06, 2)))
    if rng.random() < 0.5:
        matrix[:, 1] *= -1.0  # left and right change places
    _, rows, columns = scene.hu.shape
    wanted = 0.6 if rng.random() < 0.75 else 0.0  # mostly windows along the spine, some on head and thighs
    for _ in range(6):
        slices = _draw_slices(scene, step, depth, rng)
        curve = _curve_at(scene.centre, slices)
        known = np.isfinite(curve[:, 0])
        if known.mean() >= wanted:
            break
    anchor = np.median(curve[known], axis=0) if known.any() else np.array([rows * 0.6, columns * 0.5])
    middle = (np.array([height, width]) - 1) / 2
    if kind == "present":  # where the spine lies in the field of view, as parts of its height and width
        if height * SPACING_MM * scale > 250:  # the whole patient: the spine lies behind the middle
            row = middle[0] + rng.normal(60, 25) / SPACING_MM
        else:
            row = (1 - rng.uniform(*ranges.posterior_margin)) * height
        column = width * (0.5 + rng.normal(0, 0.12))
        column = float(np.clip(column, min(10, width / 3), width - min(10, width / 3)))
        if rng.random() < ranges.at_side:  # a scoliosis, or a heart scanned with a narrow field of view
            column = float(rng.uniform(4, width - 4))
        row = float(min(row, height - 7))
    elif kind == "truncated":
        row, column = height + rng.uniform(-5, 7), width * rng.uniform(0.1, 0.9)
        if rng.random() < 0.25:
            row, column = height * rng.uniform(0.4, 0.9), rng.choice([rng.uniform(-4, 5), width + rng.uniform(-5, 4)])
    else:
        row, column = height + rng.uniform(8, 40), width * rng.uniform(0.1, 0.9)
        if rng.random() < 0.2:
            row, column = height * rng.uniform(0, 1), rng.choice([-rng.uniform(18, 40), width + rng.uniform(18, 40)])
    centre = anchor - matrix @ (np.array([row, column]) - middle)
    shear = rng.normal(0, ranges.shear / 2, 2)
    centres = centre + (slices - slices.mean())[:, None] * shear
    return _Window(float(slices[0]), step, matrix, centres, middle)


def _draw_slices(scene: Scene, step: float, depth: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Slices of the scene that the crop's slices fall on: anywhere, across its ends, or across an end of the spine."""
    total = len(scene.hu)
    spine = np.flatnonzero(np.isfinite(scene.centre[:, 0]))
    ends = [int(i) for i in (spine[:1].tolist() + spine[-1:].tolist()) if 0 < i < total - 1]
    chance = rng.random()
    if chance < 0.1:
        first = rng.uniform(-step * depth / 3, total - step * depth * 2 / 3)
    elif chance < 0.35 and ends:
        first = ends[-1 if rng.random() < 0.75 else 0] - step * depth * rng.uniform(0.15, 0.85)
    else:
        first = rng.uniform(-4, max(total - step * depth + 4, -3.9))
    slices: NDArray[np.float64] = first + step * np.arange(depth)
    return slices


def sampled(scene: Scene, window: _Window, size: tuple[int, int, int]) -> NDArray[np.float32]:
    """The scene on the window, (D, H, W) in HU, linear; air outside the scene."""
    depth, height, width = size
    offset = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1) - window.middle
    plane = offset @ window.matrix.T  # (H, W, 2)
    where = window.centres[:, None, None, :] + plane  # (D, H, W, 2)
    slices = window.slices()
    low = np.maximum(np.floor([slices.min(), where[..., 0].min(), where[..., 1].min()]).astype(int), 0)
    high = np.ceil([slices.max(), where[..., 0].max(), where[..., 1].max()]).astype(int) + 2
    high = np.maximum(np.minimum(high, scene.hu.shape), low + 1)
    if (low >= scene.hu.shape).any():
        return np.full(size, AIR_HU, np.float32)
    block = np.asarray(scene.hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]], np.float32) - AIR_HU
    shape = np.maximum(np.array(block.shape) - 1, 1)
    grid = np.empty((depth, height, width, 3), np.float32)
    grid[..., 2] = (2 * (slices - low[0]) / shape[0] - 1)[:, None, None]
    grid[..., 1] = 2 * (where[..., 0] - low[1]) / shape[1] - 1
    grid[..., 0] = 2 * (where[..., 1] - low[2]) / shape[2] - 1
    with torch.no_grad():
        out = torch.nn.functional.grid_sample(
            torch.from_numpy(block)[None, None], torch.from_numpy(grid)[None], align_corners=True
        )
    return out[0, 0].numpy() + np.float32(AIR_HU)


def draw_crop(scene: Scene, size: tuple[int, int, int], rng: np.random.Generator, ranges: CropRanges) -> Crop:
    """One training example of that size."""
    kind = rng.choice(
        ["absent", "truncated", "present"], p=[ranges.absent, ranges.truncated, 1 - ranges.absent - ranges.truncated]
    )
    window = draw_window(scene, size, rng, ranges, str(kind))
    hu = sampled(scene, window, size)
    centre = window.from_scene(_curve_at(scene.centre, window.slices()))
    pad = rng.integers(0, 8, 3) if rng.random() < 0.5 else np.zeros(3, int)
    real = np.array(size) - pad
    hu = hu[: real[0], : real[1], : real[2]]
    hu = _changed(hu, centre[: real[0]], rng, ranges)
    clipped = np.clip(hu, *CLIP_HU)
    mean, sd = float(clipped.mean()), max(float(clipped.std()), 1.0)
    volume = np.full(size, (AIR_HU - mean) / sd, np.float32)
    volume[: real[0], : real[1], : real[2]] = (clipped - mean) / sd
    margin = _margin_mm(centre, (int(real[1]), int(real[2])))
    margin[real[0] :] = np.nan
    inside = np.nan_to_num(margin, nan=-1e3)
    presence = np.where(inside >= WHOLE_BODY_MM, 1.0, np.where(inside < CUT_BODY_MM, 0.0, -1.0))
    taught = inside >= CUT_BODY_MM
    return Crop(
        volume[None],
        np.where(taught[:, None], centre, 0.0).astype(np.float32),
        taught,
        presence.astype(np.float32),
    )


def _margin_mm(centre: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Distance of each slice's centre to the nearest edge of the field of view, mm; negative outside."""
    edges = np.stack([centre[:, 0], shape[0] - 1 - centre[:, 0], centre[:, 1], shape[1] - 1 - centre[:, 1]])
    out: NDArray[np.float64] = edges.min(axis=0) * SPACING_MM
    return out


# --- changes of intensity ---------------------------------------------------------------------------------------------


def _changed(
    hu: NDArray[np.float32], centre: NDArray[np.float64], rng: np.random.Generator, ranges: CropRanges
) -> NDArray[np.float32]:
    """Vessels, metal, calibration, blur, noise, a round field of view: in the order of the real chain."""
    hu = hu.copy()
    for _ in range(rng.integers(0, ranges.vessels + 1)):
        _add_ellipsoid(hu, centre, rng, rng.uniform(120, 540), clear_mm=28.0)
    if rng.random() < 0.4:
        for _ in range(rng.integers(1, 5)):
            _add_ellipsoid(hu, centre, rng, rng.uniform(20, 300), clear_mm=25.0, shell_hu=rng.uniform(250, 900))
    if rng.random() < 0.15:
        for _ in range(rng.integers(1, 5)):
            _add_ellipsoid(hu, centre, rng, rng.uniform(1500, 6000), clear_mm=8.0, largest_mm=9.0)
    if rng.random() < 0.5:
        stretch = rng.uniform(0.6, 1.6)  # bone and contrast, not soft tissue
        hu = np.where(hu > 100, 100 + (hu - 100) * np.float32(stretch), hu)
    if rng.random() < 0.15:
        hu = np.maximum(hu, np.float32(rng.uniform(-1024, -150)))  # a scanner or export that cuts low values
    hu = hu * np.float32(rng.uniform(0.92, 1.08)) + np.float32(rng.normal(0, 25))
    blur = (rng.uniform(0, 1.1) * (rng.random() < 0.4), *([rng.uniform(0, 0.8) * (rng.random() < 0.4)] * 2))
    if max(blur) > 0.1:
        hu = ndimage.gaussian_filter(hu, blur)
    sd = float(np.exp(rng.uniform(np.log(2), np.log(60))))
    noise = rng.standard_normal(hu.shape, np.float32)
    if rng.random() < 0.4:
        noise = ndimage.gaussian_filter(noise, (0.0, 0.8, 0.8))
        noise /= max(float(noise.std()), 1e-6)
    hu = hu + np.float32(sd) * noise
    if rng.random() < ranges.circle:
        hu = _rounded(hu, centre, rng)
    return hu.astype(np.float32)


def _add_ellipsoid(
    hu: NDArray[np.float32],
    centre: NDArray[np.float64],
    rng: np.random.Generator,
    value: float,
    clear_mm: float,
    largest_mm: float = 45.0,
    shell_hu: float | None = None,
) -> None:
    """Paint a soft-edged ellipsoid or tube, nowhere nearer to the curve than its own radius and `clear_mm`.

    With `shell_hu` it is a bone that is no vertebra: marrow of `value` in a shell. Without these the map chose the
    ilium beside the sacroiliac joint of the real pelvis.
    """
    place = rng.uniform(0, 1, 3) * (np.array(hu.shape) - 1)
    radii = rng.uniform(3.0, largest_mm, 3) / SPACING_MM
    if shell_hu is not None:
        radii = np.array([rng.uniform(9, 60), rng.uniform(7, 28), rng.uniform(7, 28)]) / SPACING_MM
    elif rng.random() < 0.4:
        radii = np.array([rng.uniform(20, 120), *([rng.uniform(3.0, 16.0)] * 2)]) / SPACING_MM
    k = round(float(place[0]))
    near = centre[max(k - int(radii[0]), 0) : k + int(radii[0]) + 1]
    if len(near) and np.isfinite(near).any():
        distance = np.nanmin(np.linalg.norm(near - place[1:], axis=1))
        if distance < max(radii[1:]) + clear_mm / SPACING_MM:
            return
    low = np.maximum(np.floor(place - radii - 1), 0).astype(int)
    high = np.minimum(np.ceil(place + radii + 2), hu.shape).astype(int)
    if (high <= low).any():
        return
    axes = [((np.arange(a, b) - c) / r) ** 2 for a, b, c, r in zip(low, high, place, radii, strict=True)]
    radius = np.sqrt(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])
    weight = np.clip((1 - radius) * float(radii.min()) + 0.5, 0, 1).astype(np.float32)
    block = hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    block += weight * (np.float32(value) - block)
    if shell_hu is not None:
        rim = np.clip(1.2 - np.abs((radius - 1) * float(radii.min()) + 0.3), 0, 1).astype(np.float32)
        block += 0.8 * rim * np.clip(np.float32(shell_hu) - block, 0, None)


def _rounded(hu: NDArray[np.float32], centre: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    """A round field of view, unless it would cut the spine."""
    _, rows, columns = hu.shape
    middle = np.array([rows - 1, columns - 1]) / 2 + rng.normal(0, 2, 2)
    radius = max(rows, columns) / 2 * rng.uniform(0.95, 1.1)
    if np.isfinite(centre).any() and np.nanmax(np.linalg.norm(centre - middle, axis=1)) > radius - 6:
        return hu
    r, c = np.ogrid[:rows, :columns]
    outside = (r - middle[0]) ** 2 + (c - middle[1]) ** 2 > radius**2
    hu = hu.copy()
    hu[:, outside] = AIR_HU
    return hu


def noise_scene(rng: np.random.Generator) -> Scene:
    """No patient at all: air, water, blobs and bars."""
    shape = tuple(int(n) for n in rng.integers(48, 120, 3))
    hu = np.full(shape, rng.choice([-1000.0, 0.0, 40.0, -100.0]), np.float32)
    nowhere = np.full((shape[0], 2), np.nan)
    for _ in range(rng.integers(0, 30)):
        _add_ellipsoid(hu, nowhere, rng, float(rng.uniform(-1000, 1500)), clear_mm=0.0, largest_mm=120.0)
    return Scene(hu.astype(np.int16), nowhere.astype(np.float32), np.zeros((0, 3), np.float32))


class CropSource:
    """Crops from a growing folder of scenes; waits for the first ones."""

    def __init__(self, folder: Path = CACHE / "train", ranges: CropRanges | None = None, fewest: int = 12) -> None:
        self.folder = folder
        self.ranges = ranges or CropRanges()
        self.fewest = fewest
        self._files: list[Path] = []
        self._listed = 0.0

    def _refresh(self) -> None:
        while time.monotonic() - self._listed > 30 or len(self._files) < self.fewest:
            self._files = scene_files(self.folder)
            self._listed = time.monotonic()
            if len(self._files) < self.fewest:
                time.sleep(2.0)

    def batch(self, rng: np.random.Generator, count: int) -> Crop:
        """`count` crops of one size, stacked."""
        self._refresh()
        size = crop_size(rng, self.ranges)
        crops = []
        for _ in range(count):
            if rng.random() < 0.03:
                scene = noise_scene(rng)
            else:
                scene = Scene.load(self._files[int(rng.integers(len(self._files)))])
            crops.append(draw_crop(scene, size, rng, self.ranges))
        return Crop(*(np.stack(parts) for parts in zip(*crops, strict=True)))
