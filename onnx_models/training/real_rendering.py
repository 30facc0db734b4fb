"""Real shapes as CT volumes with grey values of another kind than the phantom's, and single bodies deformed by warping.

The vertebrae are those of ``real_shapes``; the rest is deliberately unlike the phantom: the soft tissue is a random
field of muscle and fat in an elliptical trunk with a few vessels and pockets of gas, the spongy bone has its own grain
and a cortex that fades into it instead of ending. There are no ribs, no pelvis and no other bone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.geometry import Volume
from onnx_models.training.real_shapes import RealSpine, RealVertebra

Floats = NDArray[np.float64]
F32 = NDArray[np.float32]
KINDS = ("wedge", "biconcave", "crush")
CAUDAL_SHARE = 0.25
"""Part of the lost height that the lower end plate gives; the rest is the upper one's."""
FADE_MM = 6.0
"""So far behind the posterior wall a deformity fades out: pedicles and arch keep their shape."""


@dataclass(frozen=True)
class Deformity:
    """``kind`` of `KINDS`, and the part of the height lost where most is: in front, in the middle, or all over."""

    kind: str
    loss: float

    def along(self, place: Floats) -> Floats:
        """Part lost at places from -1 (anterior wall) to 1 (posterior wall).

        Raises
        ------
        ValueError
            For another kind.
        """
        u = np.clip(place, -1, 1)
        shapes = {"wedge": (1 - u) / 2, "biconcave": 1 - u**2, "crush": np.ones_like(u)}
        if self.kind not in shapes:
            raise ValueError(f"deformities are {', '.join(KINDS)}, not {self.kind!r}")
        return np.asarray(self.loss * shapes[self.kind])


@dataclass(frozen=True)
class Body:
    """A vertebra with its deformity, or none; the true points follow from it.

    A point of the body moves along the vertebra's up axis towards a level a quarter of the way up, by the part lost at
    its place between front and back.
    """

    shape: RealVertebra
    deformity: Deformity | None = None

    @property
    def points_lps_mm(self) -> Floats:
        """(6, 3): the six points after the deformity."""
        points = self.shape.keypoints_lps_mm
        lost, above = self._local(points)
        return np.asarray(points - (above * lost)[:, None] * self.shape.frame[2])

    @property
    def loss(self) -> Floats:
        """(3,): 1 - height / height before the deformity."""
        points = self.points_lps_mm
        return np.asarray(1 - np.linalg.norm(points[0::2] - points[1::2], axis=1) / self.shape.heights_mm)

    def distance(self, points_lps_mm: Floats) -> F32:
        """(...) signed distance of points (..., 3) to the deformed vertebra in mm (a little too large where warped)."""
        if self.deformity is None:
            return self.shape.vertebra_distance(points_lps_mm)
        lost, above = self._local(points_lps_mm)
        back = points_lps_mm + (above * lost / (1 - lost))[..., None] * self.shape.frame[2]
        return np.asarray(self.shape.vertebra_distance(back) * (1 - 0.5 * lost), np.float32)

    def _local(self, points: Floats) -> tuple[Floats, Floats]:
        """Part lost at points (..., 3), and their height in mm above the level that stays."""
        v = self.shape
        offset = np.asarray(points, np.float64) - v.centroid_lps_mm
        own = (v.keypoints_lps_mm - v.centroid_lps_mm) @ v.frame.T
        front, behind = own[:2, 1].mean(), own[4:, 1].mean()
        low, high = own[1::2, 2].mean(), own[0::2, 2].mean()
        back, above = offset @ v.frame[1], offset @ v.frame[2] - (low + CAUDAL_SHARE * (high - low))
        if self.deformity is None:
            return np.zeros_like(back), above
        fade = np.clip(1 - (back - behind) / FADE_MM, 0, 1)
        lost = self.deformity.along(2 * (back - front) / (behind - front) - 1) * fade
        return np.asarray(lost), np.asarray(above)


@dataclass(frozen=True)
class Look:
    """What an image looks like: all of it drawn from one generator."""

    spacing_mm: tuple[float, float, float]
    trabecular_hu: float
    cortical_hu: float
    fade_mm: float
    """The cortex falls to a third over this depth."""
    muscle_hu: float
    fat_hu: float
    fat_part: float
    vessel_hu: float
    blur_mm: float
    noise_hu: float
    grain: float


def sample_look(rng: np.random.Generator) -> Look:
    """Draw a look; spacing along z 0.8 to 2 mm, in the plane 0.8 to 1.1 mm."""
    pixel = float(rng.uniform(0.8, 1.1))
    return Look(
        (float(rng.uniform(0.8, 2.0)), pixel, pixel),
        trabecular_hu=float(rng.uniform(60, 240)),
        cortical_hu=float(rng.uniform(450, 900)),
        fade_mm=float(rng.uniform(0.8, 2.0)),
        muscle_hu=float(rng.uniform(30, 70)),
        fat_hu=float(rng.uniform(-115, -85)),
        fat_part=float(rng.uniform(0.2, 0.5)),
        vessel_hu=float(rng.uniform(40, 320)),
        blur_mm=float(rng.uniform(0.4, 1.0)),
        noise_hu=float(rng.uniform(6, 35)),
        grain=float(rng.uniform(0.0, 0.8)),
    )


def render(bodies: list[Body], look: Look, rng: np.random.Generator) -> Volume:
    """An int16 volume of the bodies, axial slices from the feet up; the same generator state gives the same voxels."""
    centres = np.array([b.shape.centroid_lps_mm for b in bodies])
    lower = np.array([centres[:, 0].mean() - 85, centres[:, 1].min() - 85, centres[:, 2].min() - 38])
    upper = np.array([centres[:, 0].mean() + 85, centres[:, 1].max() + 80, centres[:, 2].max() + 34])
    sk, sj, si = look.spacing_mm
    affine = np.array([[0, 0, si, lower[0]], [0, sj, 0, lower[1]], [sk, 0, 0, lower[2]], [0, 0, 0, 1.0]])
    shape = np.ceil((upper - lower)[::-1] / look.spacing_mm).astype(int)
    hu = _tissue(shape, affine, centres, look, rng)
    for body in bodies:
        _put(hu, affine, body, look, rng)
    hu = ndimage.gaussian_filter(hu, [0.5 * look.blur_mm / sk, look.blur_mm / sj, look.blur_mm / si], truncate=2.5)
    noise = rng.standard_normal(hu.shape, np.float32)
    if look.grain > 0.2:
        noise = ndimage.gaussian_filter(noise, [0, look.grain, look.grain], truncate=2.5)
        noise /= noise[0].std()
    hu += np.float32(look.noise_hu) * noise
    return Volume(np.rint(np.clip(hu, -1024, 3071)).astype(np.int16), affine)


def _tissue(shape: NDArray[np.int64], affine: Floats, centres: Floats, look: Look, rng: np.random.Generator) -> F32:
    """Muscle and fat in an ellipse, air around it, a vessel in front of the spine on either side, pockets of gas."""
    field = _field(shape, look, rng, 14.0)
    fat = 1 / (1 + np.exp(-8 * (field - np.float32(np.quantile(field[::4, ::4, ::4], 1 - look.fat_part)))))
    hu = np.asarray(look.muscle_hu + (look.fat_hu - look.muscle_hu) * fat, np.float32)
    gas = _field(shape, look, rng, 9.0) > 2.6
    z = affine[2, 3] + look.spacing_mm[0] * np.arange(shape[0])
    y = (affine[1, 3] + look.spacing_mm[1] * np.arange(shape[1]))[:, None]
    x = (affine[0, 3] + look.spacing_mm[2] * np.arange(shape[2]))[None, :]
    order = np.argsort(centres[:, 2])
    mx, my = (np.interp(z, centres[order, 2], centres[order, axis]) for axis in (0, 1))
    sway = ndimage.gaussian_filter1d(rng.standard_normal((2, shape[0])), 30 / look.spacing_mm[0], axis=1) * 25
    for k in range(shape[0]):
        for side, radius in ((1, 10.0), (-1, 12.0)):
            gap = np.hypot(x - mx[k] - 14 * side - sway[0, k], y - my[k] + 34 + sway[1, k] * side)
            hu[k][gap < radius] = look.vessel_hu if side > 0 else 0.5 * (look.vessel_hu + look.muscle_hu)
        front = y - my[k] < -45
        hu[k][gas[k] & front] = -900
        outside = ((x - mx[k]) / 150) ** 2 + ((y - my[k] + 20) / 100) ** 2 > 1
        hu[k][outside] = -1000
    return hu


def _field(shape: NDArray[np.int64], look: Look, rng: np.random.Generator, length_mm: float) -> F32:
    """Gaussian random field of unit variance, made on a coarse grid of half its length."""
    step = length_mm / 2
    coarse = np.ceil(shape * np.array(look.spacing_mm) / step).astype(int) + 3
    small = ndimage.gaussian_filter(rng.standard_normal(coarse), 1.0)
    small /= small.std()
    out = small.astype(np.float32)
    for axis, (n, spacing) in enumerate(zip(shape, look.spacing_mm, strict=True)):
        at = np.arange(n) * spacing / step
        weights = np.maximum(1 - np.abs(at[:, None] - np.arange(coarse[axis])), 0).astype(np.float32)
        out = np.moveaxis(np.tensordot(weights, out, (1, axis)), 0, axis)
    return np.ascontiguousarray(out)


def _put(hu: F32, affine: Floats, body: Body, look: Look, rng: np.random.Generator) -> None:
    """Paint one vertebra over what is there (in place), with partial volume at its surface."""
    low, high = (np.asarray(corner) for corner in body.shape.whole.box_lps_mm)
    spacing = np.array(look.spacing_mm)
    first = np.maximum(np.floor((low - affine[:3, 3])[::-1] / spacing).astype(int), 0)
    last = np.minimum(np.ceil((high - affine[:3, 3])[::-1] / spacing).astype(int) + 1, hu.shape)
    if (last <= first).any():
        return
    axes = np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last, strict=True)), indexing="ij")
    points = np.stack(axes, axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    distance = body.distance(points)
    grain = ndimage.gaussian_filter(rng.standard_normal(distance.shape, np.float32), 0.8) * 60
    spongy = look.trabecular_hu * (1 + 0.15 * rng.standard_normal()) + grain
    depth = np.clip(-distance, 0, None)
    bone = spongy + (look.cortical_hu - spongy) * np.exp(-1.1 * depth / look.fade_mm)
    width = float(spacing.mean())
    share = np.clip(0.5 - distance / width, 0, 1)
    part = hu[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    part += np.asarray(share * (bone - part), np.float32)


def cast(spine: RealSpine, deformities: dict[str, Deformity]) -> list[Body]:
    """The vertebrae of a spine, some of them deformed.

    S1 is left out: its source has the body without the rest of the sacrum, and a body alone is a vertebra to anyone.

    Raises
    ------
    ValueError
        Where the spine lacks a level that is to be deformed.
    """
    unknown = set(deformities) - {v.level for v in spine.vertebrae}
    if unknown:
        raise ValueError(f"the {spine.name} has no {', '.join(sorted(unknown))}")
    return [Body(v, deformities.get(v.level)) for v in spine.vertebrae if v.level != "S1"]
