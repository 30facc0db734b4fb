"""From anatomy to images: partial volume, blur, kernel, noise, streaks of metal, the reconstruction circle."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.geometry import Volume
from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.fields import Grid
from onnx_models.training.phantom.patient import Patient
from onnx_models.training.phantom.ranges import TRAINING, Ranges
from onnx_models.training.phantom.scene import F32

F64 = NDArray[np.float64]
AIR_HU = -1024
METAL_HU = 2200.0


def render(patient: Patient, grid: Grid) -> F32:
    """HU (slices, rows, columns) float32 on a grid with partial volume, without noise or blur.

    Thick slices are averages of thinner ones.
    """
    sk, sj, si = grid.spacing_mm
    plane = 0.5 * (sj + si)
    parts = int(np.clip(np.ceil(sk / max(1.5 * plane, 1.0) - 0.01), 1, 6))
    affine = grid.affine[:3].copy()
    shape = np.array(grid.shape, np.int64)
    if parts > 1:
        step = affine[:, 0] / parts
        affine[:, 3] -= 0.5 * (parts - 1) * step
        affine[:, 0] = step
        shape[0] *= parts
    footprint = np.float32(np.clip((sk / parts + sj + si) / 3, 0.3, 5.0))
    out = ker.hu_grid(affine.astype(np.float32), shape, footprint, *patient.packed)
    if parts > 1:
        out = out.reshape(grid.shape[0], parts, *grid.shape[1:]).mean(1)
    return np.asarray(out, np.float32)


def acquire(patient: Patient, grid: Grid, rng: np.random.Generator, ranges: Ranges = TRAINING) -> Volume:
    """The patient through a scanner: an int16 ``Volume`` in HU on ``grid``.

    Point spread, slice profile, kernel, correlated noise, HU offset, slow drift and the reconstruction circle are drawn
    from ``ranges``. The same state of ``rng`` gives the same voxels.
    """
    hu = render(patient, grid)
    sk, sj, si = grid.spacing_mm
    if hu.max() > METAL_HU:
        _streaks(hu, rng, sj, si)
    in_plane, along = rng.uniform(*ranges.blur_mm), rng.uniform(*ranges.slice_blur_mm)
    sigma = [along / sk, in_plane / sj, in_plane / si]
    sigma = [x if x > 0.25 else 0.0 for x in sigma]
    if max(sigma) > 0:
        hu = ndimage.gaussian_filter(hu, sigma, truncate=2.5)
    sharp = bool(rng.random() < ranges.sharp_kernel)
    if sharp:
        wide = [0.0, max(0.5, 1.3 / sj), max(0.5, 1.3 / si)]
        hu += rng.uniform(0.3, 1.1) * (hu - ndimage.gaussian_filter(hu, wide, truncate=2.5))
    level = float(np.exp(rng.uniform(*np.log(ranges.noise_hu)))) * (1.4 if sharp else 1.0)
    volume = sk * sj * si
    level *= float(np.clip(volume**-0.22, 0.4, 1.4))  # large voxels average their noise
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    grain = rng.uniform(0.0, 0.9) if not sharp else rng.uniform(0.0, 0.35)
    if grain > 0.2:
        noise = ndimage.gaussian_filter(noise, [0.2 * grain, grain, grain], truncate=2.5)
        noise /= max(float(noise[:: max(1, noise.shape[0] // 4)].std()), 1e-6)
    slices = np.exp(
        0.25 * np.interp(np.arange(grid.shape[0]), np.linspace(0, grid.shape[0], 6), rng.standard_normal(6))
    )
    hu += noise * (level * slices)[:, None, None].astype(np.float32)
    hu += np.float32(rng.uniform(*ranges.hu_offset))
    if rng.random() < ranges.bias:
        ramp = [np.linspace(-1, 1, n) * rng.uniform(-12, 12) for n in grid.shape]
        hu += (ramp[0][:, None, None] + ramp[1][None, :, None] + ramp[2][None, None, :]).astype(np.float32)
    padding = None
    if rng.random() < ranges.round_fov:
        rows = (np.arange(grid.shape[1]) - (grid.shape[1] - 1) / 2) * sj
        columns = (np.arange(grid.shape[2]) - (grid.shape[2] - 1) / 2) * si
        outside = np.hypot(rows[:, None], columns[None, :]) > 0.5 * max(grid.shape[1] * sj, grid.shape[2] * si)
        hu[:, outside] = AIR_HU
        padding = np.broadcast_to(outside, grid.shape)
    np.clip(hu, AIR_HU, 3071, out=hu)
    return Volume(np.rint(hu, out=hu).astype(np.int16), grid.affine.copy(), padding=padding)


def _streaks(hu: F32, rng: np.random.Generator, sj: float, si: float) -> None:
    """Bright and dark rays from metal, and darkness between two pieces of it, slice by slice (in place)."""
    strength = rng.uniform(20, 260)
    rays = rng.standard_normal(180).astype(np.float32)
    rows = np.arange(hu.shape[1], dtype=np.float32)[:, None] * np.float32(sj)
    columns = np.arange(hu.shape[2], dtype=np.float32)[None, :] * np.float32(si)
    for k in np.flatnonzero(hu.max((1, 2)) > METAL_HU):
        image = hu[k]
        pieces, count = ndimage.label(image > METAL_HU)
        centres = ndimage.center_of_mass(pieces > 0, pieces, range(1, min(count, 6) + 1))
        metal = pieces > 0
        added = np.zeros_like(image)
        for cj, ci in centres:
            dy, dx = rows - cj * sj, columns - ci * si
            angle = (np.arctan2(dy, dx) * (180 / (2 * np.pi)) + 180).astype(np.int64) % 180
            added += np.roll(rays, int(rng.integers(0, 12)))[angle] / (1 + np.hypot(dy, dx) / 18)
        for (aj, ai), (bj, bi) in itertools.pairwise(centres):
            along = np.array([(bj - aj) * sj, (bi - ai) * si])
            length = max(float(np.hypot(*along)), 1e-3)
            across = np.abs((rows - aj * sj) * along[1] - (columns - ai * si) * along[0]) / length
            share = ((rows - aj * sj) * along[0] + (columns - ai * si) * along[1]) / length**2
            added -= 2.0 * np.exp(-0.5 * (across / 4.0) ** 2) * ((share > 0) & (share < 1))
        image += np.where(metal, 0.0, strength * ndimage.gaussian_filter(added, 0.7)).astype(np.float32)
