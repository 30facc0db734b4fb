"""Patches of phantoms for the segmenter: each vertebra seen by its own scanner, with exact soft truth.

A patch is wider than the network's by `MARGIN` voxels on each side, so that the
centroid can be misplaced in training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.masks_patch import SHAPE, affine_of, image_of, points_of
from onnx_models.training.phantom import TRAINING, Patient, Ranges, acquire, canonical_grid, sample_patient

FOLDER = Path("build/training/segmenter")
MARGIN = 4
WIDE = (SHAPE[0] + 2 * MARGIN, SHAPE[1] + 2 * MARGIN, SHAPE[2] + 2 * MARGIN)
PER_PATIENT = 6
SOFT_MM = 2.0
"""Width of the ramp from 0 to 1 across a surface: the voxel, so that the sum over voxels is the volume."""


class Patch(NamedTuple):
    """Attributes
    ----------
    hu
        `WIDE`, int16; -1024 outside the field of view.
    body, posterior
        `WIDE`, uint8: 255 times the part of the voxel that is body, and posterior elements, of this vertebra.
    """

    hu: NDArray[np.int16]
    body: NDArray[np.uint8]
    posterior: NDArray[np.uint8]


def wide_points(centroid_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(*WIDE, 3) LPS mm of a patch with its margin."""
    affine = affine_of(centroid_lps_mm)
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(MARGIN))
    return points_of(affine, WIDE)


def sample_spacing(rng: np.random.Generator) -> tuple[float, float, float]:
    """Spacing (slice, row, column) in mm of a scan: fine in plane, .7 to 3 mm along; now and then 3 mm every way."""
    if rng.random() < 0.15:
        return (rng.uniform(2.0, 3.2),) * 3
    plane = float(rng.uniform(0.7, 1.6))
    return (float(np.exp(rng.uniform(np.log(0.7), np.log(3.2)))), plane, plane)


def soft_truth(patient: Patient, points: NDArray[np.float64], vertebra: int) -> NDArray[np.float32]:
    """(2, *points.shape[:-1]) part of each sample that is body, and posterior elements, of a vertebra (1-based)."""
    body, posterior, others = patient.part_distances(points, vertebra).T
    posterior = np.maximum(posterior, 0.5 * (posterior - np.minimum(others, 50.0)))
    whole = np.clip(0.5 - np.minimum(body, posterior) / SOFT_MM, 0, 1)
    inner = np.minimum(np.clip(0.5 - body / SOFT_MM, 0, 1), whole)
    return np.stack([inner, whole - inner]).reshape(2, *points.shape[:-1]).astype(np.float32)


def phantom_patch(
    rng: np.random.Generator,
    patient: Patient,
    vertebra: int,
    ranges: Ranges = TRAINING,
    spacing_mm: tuple[float, float, float] | None = None,
) -> Patch:
    """The patch around ``patient.vertebrae[vertebra - 1]``, scanned with a spacing of its own."""
    centroid = patient.vertebrae[vertebra - 1].centroid_lps_mm
    points = wide_points(centroid)
    low, high = points.reshape(-1, 3).min(axis=0) - 3.0, points.reshape(-1, 3).max(axis=0) + 3.0
    grid = canonical_grid(low, high, spacing_mm or sample_spacing(rng))
    volume = acquire(patient, grid, rng, replace(ranges, round_fov=0.0))
    truth = np.rint(255 * soft_truth(patient, points, vertebra)).astype(np.uint8)
    return Patch(np.rint(image_of(volume, points)).astype(np.int16), truth[0], truth[1])


def graded(patient: Patient) -> list[int]:
    """1-based labels of the vertebrae above the sacrum."""
    return [i + 1 for i, v in enumerate(patient.vertebrae) if v.level != "S1"]


def phantom_patches(seed: int, ranges: Ranges = TRAINING) -> list[Patch]:
    """`PER_PATIENT` vertebrae of one patient, spread over the spine."""
    rng = np.random.default_rng(seed)
    patient = sample_patient(rng, ranges)
    chosen = rng.permutation(graded(patient))[:PER_PATIENT]
    return [phantom_patch(rng, patient, int(v), ranges) for v in chosen]


def write(path: Path, patches: list[Patch]) -> None:
    """Patches of one file; a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **{name: np.stack([getattr(p, name) for p in patches]) for name in Patch._fields})
    partial.replace(path)


def read(paths: list[Path]) -> list[Patch]:
    """All patches of some files."""
    out: list[Patch] = []
    for path in paths:
        with np.load(path) as arrays:
            stacks = [arrays[name] for name in Patch._fields]
        out += [Patch(*values) for values in zip(*stacks, strict=True)]
    return out
