"""Training pictures of the key point network: straightened slabs sampled from the phantom itself, never resampled.

A *slab* is one patient seen along one curve, that errs as the localizer does, through one scanner's voxels. Making
one takes about half a second, so slabs are made in the background
(``python -m onnx_models.training.keypoints_data --count 1000``) and kept on disk; their number may grow while
training runs. A *crop* (`onnx_models.training.keypoints_crops`) is what the network sees of one.

The geometry is `inference.straightening`, the same for training and for patients.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from inference.straightening import PLANES_MM, Straightening, straighten
from inference.surface import CentreLine
from onnx_models.training.phantom import TRAINING, Patient, Ranges, sample_patient

FOLDER = Path("build/training/keypoints/slabs")
MARGIN = 8
"""Columns kept on both sides of the network's picture, so that a crop may be shifted, turned and scaled."""
OUTSIDE_HU = -1024
FINEST_MM = 0.9
"""A slice profile is sampled at this distance at least."""
WHOLE_MM, CUT_MM = 1.0, 1.5
"""A vertebra is a positive when all its points lie this far inside the field of view, and a negative when one lies
that far outside; in between nothing is taught."""
POSITIVE, NEGATIVE, UNTAUGHT = 1, 0, 2
DEFORMED = replace(TRAINING, deformed_patient=0.85, deformed_count=(1, 9))
"""More deformed vertebrae than patients have: the network shall not learn that they are rare."""


@dataclass(frozen=True)
class Slab:
    """One straightened picture with its truth.

    Attributes
    ----------
    hu
        (planes, rows, columns) int16, with `MARGIN` more columns on both sides than the network sees.
    tissue
        (rows, columns) uint8: 1 body of a vertebra, 2 body of S1, else 0.
    points
        (n, 6, 2) float32 as (row, column of ``hu``).
    kind
        (n,) uint8: `POSITIVE`, `NEGATIVE` or `UNTAUGHT`.
    """

    hu: NDArray[np.int16]
    tissue: NDArray[np.uint8]
    points: NDArray[np.float32]
    kind: NDArray[np.uint8]

    def save(self, path: Path) -> None:
        """Appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, hu=self.hu, tissue=self.tissue, points=self.points, kind=self.kind)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Slab:
        """Inverse of `save`."""
        with np.load(path) as data:
            return cls(data["hu"], data["tissue"], data["points"], data["kind"])


@dataclass(frozen=True)
class Scanner:
    """Voxels and field of view of one acquisition, in mm and LPS mm."""

    spacing_mm: tuple[float, float]
    """In the plane, and between slices."""
    thickness_mm: float
    phase_mm: NDArray[np.float64]
    bottom_mm: float
    top_mm: float
    back_mm: float
    """Where the field of view ends behind the spine (y), infinite where it does not."""

    def seen(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Distance (...) of points (..., 3) inside the field of view; negative outside."""
        z, y = points[..., 2], points[..., 1]
        return np.minimum(np.minimum(z - self.bottom_mm, self.top_mm - z), self.back_mm - y)

    def measure(self, patient: Patient, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """HU (n,) at points (n, 3), as interpolated linearly between the voxels of this scanner."""
        plane, between = self.spacing_mm
        count = int(np.ceil(self.thickness_mm / FINEST_MM))
        profile = self.thickness_mm * ((np.arange(count) + 0.5) / count - 0.5)
        plane = max(plane, self.thickness_mm / count)
        if self.spacing_mm[0] > 1.25:
            return self._from_voxels(patient, points, profile)
        if between <= 1.25:
            return _profiled(patient, points, profile, plane)
        lower = np.floor((points[:, 2] - self.phase_mm[2]) / between)
        share = (points[:, 2] - self.phase_mm[2]) / between - lower
        values = np.zeros(len(points), np.float32)
        for step, weight in ((0, 1 - share), (1, share)):
            at = points.copy()
            at[:, 2] = (lower + step) * between + self.phase_mm[2]
            values += weight.astype(np.float32) * _profiled(patient, at, profile, plane)
        return values

    def _from_voxels(
        self, patient: Patient, points: NDArray[np.float32], profile: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        size = np.array([self.spacing_mm[0], self.spacing_mm[0], self.spacing_mm[1]])
        place = (points - self.phase_mm) / size
        base = np.floor(place).astype(np.int64)
        share = place - base
        low = base.min(axis=0)
        extent = base.max(axis=0) - low + 2
        flat = ((base - low) @ np.array([extent[1] * extent[2], extent[2], 1])).astype(np.int64)
        corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        offset = [i * extent[1] * extent[2] + j * extent[2] + k for i, j, k in corners]
        needed = np.unique(np.concatenate([flat + o for o in offset]))
        index = np.stack(np.unravel_index(needed, extent), axis=1) + low
        nodes = (index * size + self.phase_mm).astype(np.float32)
        quarter = size[0] / 4
        grid = np.zeros(int(np.prod(extent)), np.float32)
        for dx in (-quarter, quarter):
            for dy in (-quarter, quarter):
                shifted = nodes + np.array([dx, dy, 0], np.float32)
                grid[needed] += 0.25 * _profiled(patient, shifted, profile, size[0] / 2)
        values = np.zeros(len(points), np.float32)
        for (i, j, k), o in zip(corners, offset, strict=True):
            weight = np.prod(np.where(np.array([i, j, k]) == 1, share, 1 - share), axis=1)
            values += weight.astype(np.float32) * grid[flat + o]
        return values


def _profiled(
    patient: Patient, points: NDArray[np.float32], profile: NDArray[np.float64], footprint_mm: float
) -> NDArray[np.float32]:
    """Mean over the slice profile."""
    total = np.zeros(len(points), np.float32)
    for dz in profile:
        total += patient.hu(points + np.array([0, 0, dz], np.float32), max(0.6, footprint_mm))
    return total / len(profile)


def sample_scanner(rng: np.random.Generator, patient: Patient) -> Scanner:
    """Half of the scans have thin slices; half show only a part of the spine."""
    drawn = rng.random()
    between = (
        rng.uniform(0.5, 1.25) if drawn < 0.5 else rng.uniform(1.25, 2.5) if drawn < 0.75 else rng.uniform(2.5, 3.2)
    )
    coarse = rng.random() < (0.6 if between > 2.5 else 0.12)
    plane = rng.uniform(1.3, 3.1) if coarse else rng.uniform(0.4, 1.0)
    low, high = patient.presence_mm
    bottom, top = low - rng.uniform(0, 120), high + rng.uniform(0, 60)
    if rng.random() < 0.5:
        length = rng.uniform(110, 420)
        top = rng.uniform(low + 0.6 * length, high + 0.2 * length)
        bottom = top - length
    back = np.inf
    if rng.random() < 0.15:
        middle = 0.5 * (max(low, bottom) + min(high, top))
        back = float(patient.centre_line(middle)[1]) + rng.uniform(25, 60)
    return Scanner((plane, between), between * rng.uniform(0.9, 1.4), rng.uniform(-2, 2, 3), bottom, top, back)


def erring_line(rng: np.random.Generator, patient: Patient, scanner: Scanner, aside: bool) -> CentreLine | None:
    """The centre line as the localizer would give it: a point per 3 mm, off by some mm, ended too early or too late.

    ``aside`` leads it beside the spine, where nothing may be found. ``None`` where less than 60 mm are in view.
    """
    low, high = patient.presence_mm
    top, bottom = min(scanner.top_mm, high), max(scanner.bottom_mm, low)
    if rng.random() < 0.3:
        top -= rng.uniform(0, 50)
    if rng.random() < 0.3:
        bottom += rng.uniform(0, 50)
    if rng.random() < 0.3:
        bottom = max(scanner.bottom_mm, bottom - rng.uniform(0, 90))
    if rng.random() < 0.15:
        top = min(scanner.top_mm, top + rng.uniform(0, 50))
    if top - bottom < 60:
        return None
    z = np.arange(top, bottom, -3.0)
    points = np.column_stack([*patient.centre_line(z), z])
    size = rng.choice([0.4, 1.0, 2.0], p=[0.4, 0.45, 0.15])
    for axis in (0, 1):
        slow = gaussian_filter1d(rng.normal(size=len(z)), rng.uniform(4, 18), mode="reflect")
        points[:, axis] += size * slow / max(slow.std(), 1e-9) + rng.normal(0, 0.6) + rng.normal(0, 0.4, len(z))
    if aside:
        points[:, 0] += rng.choice([-1, 1]) * rng.uniform(34, 90)
        points[:, 1] += rng.uniform(-60, 20)
    return CentreLine(points, np.ones(len(z)))


def straightened_slab(patient: Patient, line: CentreLine, scanner: Scanner, aside: bool = False) -> Slab:
    """What `inference.straightening` shows of ``patient`` along ``line`` through ``scanner``, with the truth."""
    _, straight = straighten(line)
    points = straight.grid_points(margin=MARGIN)
    shape = points.shape[:3]
    flat = points.reshape(-1, 3)
    seen = scanner.seen(flat) > 0
    hu = np.full(len(flat), OUTSIDE_HU, np.float32)
    if seen.any():
        hu[seen] = scanner.measure(patient, flat[seen])
    middle = PLANES_MM.index(0.0)
    tissue = _tissue(patient, points[middle]) * (scanner.seen(points[middle]) > 0)
    truth, kind = _truth(patient, straight, scanner, aside)
    truth[..., 1] += MARGIN
    return Slab(
        np.clip(np.rint(hu), OUTSIDE_HU, 3071).astype(np.int16).reshape(shape),
        tissue.astype(np.uint8),
        truth.astype(np.float32),
        kind,
    )


def _tissue(patient: Patient, points: NDArray[np.float32]) -> NDArray[np.uint8]:
    label = patient.label(points.reshape(-1, 3)).reshape(points.shape[:2])
    kinds = np.array([0] + [2 if v.level == "S1" else 1 for v in patient.vertebrae], np.uint8)
    return kinds[label]


def _truth(
    patient: Patient, straight: Straightening, scanner: Scanner, aside: bool
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    points, kinds = [], []
    for vertebra in [] if aside else patient.vertebrae:
        grid = straight.to_grid(vertebra.keypoints_lps_mm)
        if not straight.covers(grid.mean(axis=0)):
            continue
        inside = float(scanner.seen(vertebra.keypoints_lps_mm).min())
        off = float(np.abs(straight.surface.lateral(vertebra.keypoints_lps_mm)).max())
        if vertebra.level == "S1" or inside < -CUT_MM:
            kind = NEGATIVE
        else:
            kind = POSITIVE if inside > WHOLE_MM and off < 10 and straight.covers(grid).all() else UNTAUGHT
        points.append(grid)
        kinds.append(kind)
    return np.array(points, np.float64).reshape(-1, 6, 2), np.array(kinds, np.uint8)


def make_slab(seed: int, ranges: Ranges = DEFORMED) -> Slab:
    """The slab of one seed."""
    rng = np.random.default_rng([2020, seed])
    while True:
        patient = sample_patient(rng, ranges)
        scanner = sample_scanner(rng, patient)
        aside = bool(rng.random() < 0.06)
        line = erring_line(rng, patient, scanner, aside)
        if line is not None:
            return straightened_slab(patient, line, scanner, aside)


def main(arguments: list[str] | None = None) -> int:
    """Make slabs that are not there yet; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.keypoints_data", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="first seed; held-out slabs begin at 1000000")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    for seed in range(options.first, options.first + options.count):
        path = options.folder / f"{seed:07d}.npz"
        if not path.exists():
            make_slab(seed).save(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
