"""Patches of real vertebra shapes with made-up intensities, for the segmenter.

The shapes are the vertebrae of one healthy label map (``bone-cement-bukas``: C7, T1, T3, T4, T6 to L5) beside the
project; nothing of it is copied here. Each patch is bent, mirrored, scaled and wedged, and given bone, muscle, fat and
noise of another kind than the phantom's. T8, T11 and L3 are held out: they are never centre of a training patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.masks_patch import CENTRE, STEP_MM
from onnx_models.training.real_cases import real_folder
from onnx_models.training.segmenter_data import FOLDER, MARGIN, WIDE, Patch

F32 = NDArray[np.float32]
HELD_OUT = (15, 18, 22)
"""VerSe numbers of T8, T11 and L3."""
CACHE = FOLDER / "label_map.npz"
FAR_MM = 30.0
DRAWN = {23: 2.0, 24: 4.0}
"""L4 and L5 are drawn so much more often than the others: where spine meets pelvis the network was weakest."""
WITH_PELVIS = {23: 0.5, 24: 0.9}
"""How often a sacrum and iliac bones stand below them; the label map ends with L5."""


@dataclass(frozen=True)
class Shapes:
    """The label map on a 1 mm grid (head to feet, front to back, right to left).

    Attributes
    ----------
    labels
        VerSe numbers, uint8.
    depth
        float16, signed distance in mm to the nearest surface of any vertebra, negative inside; the borders between
        touching vertebrae count as surfaces.
    body
        True in front of the posterior wall of its vertebra.
    centroids
        Index (3,) of each body's centre by number.
    """

    labels: NDArray[np.uint8]
    depth: NDArray[np.float16]
    body: NDArray[np.bool_]
    centroids: dict[int, NDArray[np.float64]]


@lru_cache(maxsize=1)
def shapes() -> Shapes:
    """The label map at 1 mm; made once from the file beside the project, then read from ``build``.

    Raises ``FileNotFoundError`` where the folder of real data is absent.
    """
    if not CACHE.is_file():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        labels = _isotropic()
        depth = np.full(labels.shape, FAR_MM, np.float16)
        body = np.zeros(labels.shape, bool)
        centres = {}
        numbers = [int(n) for n in np.unique(labels) if n]
        for number in numbers:
            box = ndimage.find_objects((labels == number).astype(np.uint8))[0]
            box = tuple(slice(max(0, s.start - 6), s.stop + 6) for s in box)
            mask = labels[box] == number
            smooth = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
            mask = smooth > 0.5
            signed = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
            signed += np.where(mask, 0.5, -0.5)
            depth[box] = np.minimum(depth[box], signed)
            inner, centre = _body_of(mask)
            body[box] |= inner
            centres[number] = centre + [s.start for s in box]
        np.savez_compressed(
            CACHE, labels=labels, depth=depth, body=body, numbers=numbers, centres=[centres[n] for n in numbers]
        )
    with np.load(CACHE) as f:
        centroids = {int(n): c for n, c in zip(f["numbers"], f["centres"], strict=True)}
        return Shapes(f["labels"], f["depth"], f["body"], centroids)


def _isotropic() -> NDArray[np.uint8]:
    """The label map at 1 mm, each label interpolated for itself."""
    root = real_folder()
    if root is None:
        raise FileNotFoundError("the folder of real data is absent: see onnx_models/training/real_cases.py")
    image = nibabel.as_closest_canonical(nibabel.load(root / "bone-cement-bukas" / "healthy_ref_mask.nii.gz"))
    values = np.asarray(image.dataobj).astype(np.uint8)  # type: ignore[attr-defined]
    spacing = image.header.get_zooms()[:3]  # type: ignore[attr-defined]
    # right to left stays (RAS: +x is right, flipped below), then front to back and head to feet
    values = np.ascontiguousarray(values.transpose(2, 1, 0)[::-1, ::-1, ::-1])
    zoom = np.array(spacing[::-1], float)
    shape = tuple(int(n * z) for n, z in zip(values.shape, zoom, strict=True))
    best = np.full(shape, 0.5, np.float32)
    out = np.zeros(shape, np.uint8)
    for number in np.unique(values):
        if number == 0:
            continue
        box = ndimage.find_objects((values == number).astype(np.uint8))[0]
        low = [max(0, s.start - 8) for s in box]
        part = (values[tuple(slice(a, s.stop + 8) for a, s in zip(low, box, strict=True))] == number).astype(np.float32)
        part = ndimage.gaussian_filter(part, 0.4 / zoom)
        first = [int(np.ceil(a * z)) for a, z in zip(low, zoom, strict=True)]
        count = [
            min(n, int(np.floor((a + m - 1) * z)) + 1) - f
            for n, a, m, z, f in zip(shape, low, part.shape, zoom, first, strict=True)
        ]
        axes = [(np.arange(c) + f) / z - a for c, f, z, a in zip(count, first, zoom, low, strict=True)]
        there = np.stack(np.meshgrid(*axes, indexing="ij"))
        share = ndimage.map_coordinates(part, there, order=1, output=np.float32)
        here = tuple(slice(f, f + c) for f, c in zip(first, count, strict=True))
        better = share > best[here]
        out[here][better] = number
        best[here][better] = share[better]
    return out


def _body_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(what lies in front of the posterior wall, centre of the body) of one vertebra at 1 mm.

    In the middle the canal parts the body from the arch: each row of the mid-sagittal slab is body up to the first gap.
    The wall is the plane that fits where those rows end.
    """
    middle = float(np.median(np.argwhere(mask)[:, 2]))
    slab = mask[:, :, int(middle) - 3 : int(middle) + 4].mean(axis=2) > 0.5
    ends, rows = [], []
    for k in range(slab.shape[0]):
        on = np.flatnonzero(slab[k])
        if len(on) < 8:
            continue
        gap = np.flatnonzero(np.diff(on) > 3)
        end = on[gap[0]] if len(gap) else on[-1]
        if end - on[0] >= 10 and len(gap):
            rows.append(k)
            ends.append(end)
    slope, offset = np.polyfit(rows, ends, 1) if len(rows) > 5 else (0.0, float(np.median(ends)))
    wall = slope * np.arange(mask.shape[0]) + offset + 0.5
    inner = mask & (np.arange(mask.shape[1])[None, :, None] <= wall[:, None, None])
    inner = ndimage.binary_opening(inner, iterations=2) | (inner & ndimage.binary_erosion(mask, iterations=2))
    pieces, _ = ndimage.label(inner)
    inner = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    return inner, np.argwhere(inner).mean(axis=0)


def shape_patches(seed: int, count: int, held_out: bool = False) -> list[Patch]:
    """Patches of vertebrae drawn at random; of `HELD_OUT` only, or of the others only."""
    rng = np.random.default_rng(seed)
    numbers = [n for n in shapes().centroids if (n in HELD_OUT) == held_out]
    weights = np.array([DRAWN.get(n, 1.0) for n in numbers])
    return [
        shape_patch(rng, int(rng.choice(numbers, p=weights / weights.sum())), warp=not held_out) for _ in range(count)
    ]


def shape_patch(rng: np.random.Generator, number: int, warp: bool = True) -> Patch:
    """The patch around one vertebra of the label map; ``warp`` also bends, wedges and scales it."""
    s = shapes()
    there = _places(rng, s.centroids[number], warp)
    labels = ndimage.map_coordinates(s.labels, there, order=0, output=np.uint8)
    depth = ndimage.map_coordinates(s.depth.astype(np.float32), there, order=1, cval=FAR_MM, output=np.float32)
    own = labels == number
    # within a voxel of another vertebra the signed distance alone does not say whose it is
    own_share = ndimage.uniform_filter(own.astype(np.float32), 3)
    other = (labels > 0) & ~own
    share = np.where(other, 0.0, np.clip(0.5 - depth, 0, 1)) * (own_share > 0)
    body = ndimage.map_coordinates(s.body.astype(np.float32), there, order=1, output=np.float32) > 0.5
    near_body = ndimage.uniform_filter(body.astype(np.float32), 3) > 0.2
    body_share = np.where(near_body & (body | ~own), share, 0.0)
    if rng.random() < WITH_PELVIS.get(number, 0.0):
        gap = rng.uniform(0.3, 3.0)
        depth = np.minimum(depth, np.maximum(_pelvis(rng, there - s.centroids[24][:, None, None, None]), gap - depth))
    hu = _scanned(rng, _painted(rng, depth, labels))
    truth = [np.rint(255 * _halved(x)).astype(np.uint8) for x in (body_share, share - body_share)]
    return Patch(np.rint(np.clip(_halved(hu), -1024, 3000)).astype(np.int16), truth[0], truth[1])


def _places(rng: np.random.Generator, centre: NDArray[np.float64], warp: bool) -> F32:
    """(3, k, j, i) index into the label map for each sample of a 1 mm grid of twice `WIDE`."""
    axes = [
        (np.arange(2 * n) - 2 * (c + MARGIN) - 0.5).astype(np.float32) * (STEP_MM / 2)
        for n, c in zip(WIDE, CENTRE, strict=True)
    ]
    k, j, i = np.meshgrid(*axes, indexing="ij")
    if rng.random() < 0.5:
        i = -i
    turn = rng.normal(0, [6, 5, 5] if warp else [2, 2, 2]) * np.pi / 180
    if warp:
        # a wedge: the body is pressed together in front or behind, and what lies beyond moves along
        press = np.clip(1 + rng.normal(0, 0.07) - rng.normal(0, 0.10) * np.clip(j / 15, -1, 1), 0.6, 1.4)
        k = np.where(np.abs(k) < 14, k / press, np.sign(k) * 14 / press + (k - np.sign(k) * 14))
    p = np.stack([k, j, i])
    matrix = np.eye(3)
    for axis, angle in enumerate(turn):
        a, b = [n for n in range(3) if n != axis]
        r = np.eye(3)
        r[a, a] = r[b, b] = np.cos(angle)
        r[a, b], r[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ r
    scale = np.exp(rng.normal(0, 0.09) + rng.normal(0, 0.06, 3)) if warp else np.ones(3)
    p = np.tensordot((matrix / scale).astype(np.float32), p, axes=1)
    if warp:
        for axis in range(3):
            coarse = rng.normal(0, rng.uniform(0.0, 1.6), (6, 7, 6)).astype(np.float32)
            factors = [n / c for n, c in zip(p.shape[1:], coarse.shape, strict=True)]
            p[axis] += ndimage.zoom(coarse, factors, order=1, grid_mode=True, mode="nearest")
    return np.asarray(p + np.asarray(centre, np.float32)[:, None, None, None], np.float32)


def _pelvis(rng: np.random.Generator, p: F32) -> F32:
    """Signed distance in mm (roughly, negative inside) to a made-up sacrum and iliac bones.

    ``p`` (3, k, j, i) is mm down, back and left of the centre of L5. The sacrum runs backward from behind and below L5;
    alae and iliac crests come close to the transverse processes, as they do in patients.
    """

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float], degrees: float = 0.0) -> F32:
        q = p - np.asarray(centre, np.float32)[:, None, None, None]
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        # of fourth order: flat above and below, as end plates are
        turned = ((c * q[0] + s * q[1]) / radii[0], (c * q[1] - s * q[0]) / radii[1], q[2] / radii[2])
        return np.asarray((sum(x**4 for x in turned) ** 0.25 - 1) * min(radii), np.float32)

    down, back, tilt = rng.uniform(28, 36), rng.uniform(6, 18), rng.uniform(25, 55)
    parts = [ellipsoid((down, back, 0), (rng.uniform(12, 16), rng.uniform(14, 18), rng.uniform(22, 28)), tilt)]
    lower, behind = down + 22 * np.cos(np.radians(tilt)), back + 22 * np.sin(np.radians(tilt))
    parts.append(ellipsoid((lower, behind, 0), (12, 12, 20), tilt))
    for side in (-1, 1):
        wide = rng.uniform(32, 42)
        ala = (rng.uniform(12, 20), rng.uniform(12, 18), rng.uniform(14, 20))
        parts.append(ellipsoid((down + rng.uniform(-4, 6), back + rng.uniform(2, 14), side * wide), ala, tilt))
        iliac = (rng.uniform(30, 50), rng.uniform(25, 40), rng.uniform(4, 9))
        there = (down + rng.uniform(-6, 22), back + rng.uniform(0, 20), side * (wide + rng.uniform(12, 26)))
        parts.append(ellipsoid(there, iliac, rng.uniform(-20, 40)))
    return np.minimum.reduce(parts)


def _painted(rng: np.random.Generator, depth: F32, labels: NDArray[np.uint8]) -> F32:
    """HU at 1 mm: soft tissue of blurred blobs, bone with a shell."""
    shape = depth.shape
    blobs = ndimage.gaussian_filter(rng.standard_normal([n // 2 for n in shape]).astype(np.float32), 3.0)
    blobs = np.repeat(np.repeat(np.repeat(blobs / blobs.std(), 2, 0), 2, 1), 2, 2)
    muscle, fat = rng.uniform(20, 85), rng.uniform(-125, -60)
    hu = np.where(blobs > rng.uniform(0.2, 1.6), fat, muscle).astype(np.float32)
    around = ndimage.gaussian_filter((depth < 4).astype(np.float32), 2.0)
    hu += np.where(around > 0.5, rng.uniform(0, 1) * (rng.uniform(40, 100) - hu), 0).astype(np.float32)
    hu += 12 * blobs
    if rng.random() < 0.6:  # vessels, gut with contrast, stones
        for _ in range(int(rng.integers(1, 4))):
            centre = [rng.uniform(0, shape[0]), rng.uniform(0, 0.25 * shape[1]), rng.uniform(0, shape[2])]
            radius = rng.uniform(6, 16, 3) * [rng.uniform(1, 5), 1, 1]
            d = sum(
                ((np.arange(n) - c).reshape([-1 if a == b else 1 for b in range(3)]) / r) ** 2
                for a, (n, c, r) in enumerate(zip(shape, centre, radius, strict=True))
            )
            hu = np.where((d < 1) & (depth > 1), rng.uniform(30, 480), hu).astype(np.float32)
    if rng.random() < 0.4:  # lungs beside the spine
        gap = rng.uniform(22, 40)
        side = np.abs(np.arange(shape[2]) - shape[2] / 2)[None, None, :] > gap
        front = np.arange(shape[1])[None, :, None] < rng.uniform(0.4, 0.7) * shape[1]
        hu = np.where(side & front & (depth > 6), rng.uniform(-900, -700), hu).astype(np.float32)
    spongy = rng.uniform(20, 300)
    cortical = max(rng.uniform(250, 900), spongy + 100)
    thick = rng.uniform(0.5, 1.8)
    texture = rng.uniform(0, 35) * rng.standard_normal(shape).astype(np.float32)
    inner = spongy + texture + (rng.uniform(0, 80) * (labels % 3 - 1)).astype(np.float32) * (rng.random() < 0.3)
    share = np.clip(0.5 - depth - thick, 0, 1)
    bone = cortical + share * (inner - cortical)
    hu += np.clip(0.5 - depth, 0, 1) * (bone - hu)
    return np.asarray(hu, np.float32)


def _scanned(rng: np.random.Generator, hu: F32) -> F32:
    """Point spread, slice thickness, kernel and correlated noise."""
    plane = rng.uniform(0.3, 1.3)
    along = np.sqrt(rng.uniform(0.3, 1.2) ** 2 + (np.exp(rng.uniform(np.log(0.7), np.log(3.2))) * 0.29) ** 2)
    hu = ndimage.gaussian_filter(hu, [along, plane, plane], truncate=2.5)
    if rng.random() < 0.3:
        hu = hu + rng.uniform(0.3, 1.0) * (hu - ndimage.gaussian_filter(hu, [0, 1.3, 1.3], truncate=2.5))
    noise = rng.standard_normal(hu.shape).astype(np.float32)
    grain = rng.uniform(0.0, 0.9)
    if grain > 0.25:
        noise = ndimage.gaussian_filter(noise, [0.2 * grain, grain, grain], truncate=2.5)
        noise /= max(float(noise[::8].std()), 1e-6)
    level = float(np.exp(rng.uniform(np.log(3.0), np.log(70.0))))
    return np.asarray(hu + level * noise + rng.uniform(-20, 20), np.float32)


def _halved(x: NDArray[np.floating]) -> F32:
    """Means of 2 x 2 x 2 samples."""
    k, j, i = (n // 2 for n in x.shape)
    return np.asarray(x.reshape(k, 2, j, 2, i, 2).mean(axis=(1, 3, 5)), np.float32)
