"""Grids: what a scanner's field of view takes in, and the centre line on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.phantom.patient import Patient
from onnx_models.training.phantom.ranges import TRAINING, Ranges
from onnx_models.training.phantom.scene import F32

F64 = NDArray[np.float64]
REGIONS = ("chest", "abdomen", "chest-abdomen", "spine", "part")


@dataclass(frozen=True)
class Grid:
    """Where the voxels are: ``affine`` (4, 4) maps (slice, row, column, 1) to LPS mm; ``shape`` is (slices, rows,
    columns)."""

    affine: F64
    shape: tuple[int, int, int]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (slice, row, column)."""
        s = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(s[0]), float(s[1]), float(s[2]))


def canonical_grid(low_mm: F64, high_mm: F64, spacing_mm: tuple[float, float, float]) -> Grid:
    """An axis-aligned grid: slices from head to feet, rows from front to back, columns from right to left.

    ``low_mm`` and ``high_mm`` are the corners (x, y, z) in LPS mm; spacing is along (slice, row, column).
    """
    low, high = np.asarray(low_mm, np.float64), np.asarray(high_mm, np.float64)
    sk, sj, si = spacing_mm
    shape = tuple(
        max(1, round(float(n))) for n in ((high[2] - low[2]) / sk, (high[1] - low[1]) / sj, (high[0] - low[0]) / si)
    )
    affine = np.eye(4)
    affine[:3, 0] = (0, 0, -sk)
    affine[:3, 1] = (0, sj, 0)
    affine[:3, 2] = (si, 0, 0)
    affine[:3, 3] = (low[0] + si / 2, low[1] + sj / 2, high[2] - sk / 2)
    return Grid(affine, (shape[0], shape[1], shape[2]))


def sample_grid(
    patient: Patient,
    rng: np.random.Generator,
    ranges: Ranges = TRAINING,
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0),
    region: str | None = None,
) -> Grid:
    """A field of view as scanners choose them: chest, abdomen, both, whole spine, or a part; full, narrow, or cropped
    close behind the spine; sometimes with the spine leaving it at the side or behind.

    ``region`` is one of "chest", "abdomen", "chest-abdomen", "spine", "part", "off-spine" (a narrow field of view that
    misses the spine: a negative), or ``None`` for any but the last.
    """
    region = region or str(rng.choice(REGIONS, p=[0.25, 0.25, 0.25, 0.1, 0.15]))
    z0, z1 = _along(patient, rng, region)
    z = np.arange(z0, z1, 3.0)
    if patient.has_spine:
        sx, sy = patient.centre_line(np.clip(z, *patient.presence_mm))
    else:
        sx, sy = np.zeros_like(z), np.zeros_like(z)
    if region == "off-spine":
        fov, x_mid, y1 = _beside(rng, ranges, patient.scale, sx, sy)
    else:
        fov, x_mid, y1 = _around(rng, ranges, patient.scale, sx, sy)
        if patient.has_spine and rng.random() < ranges.truncated_fov:
            if rng.random() < 0.5:
                x_mid = float(rng.choice(sx)) + rng.uniform(-10, 10) + rng.choice([-1.0, 1.0]) * fov / 2
            else:
                y1 = float(rng.choice(sy)) + rng.uniform(-10, 10)
    depth = fov * rng.uniform(0.85, 1.0)
    grid = canonical_grid(np.array([x_mid - fov / 2, y1 - depth, z0]), np.array([x_mid + fov / 2, y1, z1]), spacing_mm)
    most = rng.uniform(*ranges.oblique_deg)
    return _turned(grid, rng, most) if most > 0 else grid


def _along(patient: Patient, rng: np.random.Generator, region: str) -> tuple[float, float]:
    """z of the lower and upper end."""
    low, high = patient.extent_mm
    bottom, top = patient.presence_mm if patient.has_spine else patient.extent_mm
    length = top - bottom
    if region == "chest":
        z0, z1 = bottom + length * rng.uniform(0.22, 0.42), bottom + length * rng.uniform(0.78, 0.95)
    elif region == "abdomen":
        z0, z1 = bottom - rng.uniform(0, 130), bottom + length * rng.uniform(0.38, 0.58)
    elif region == "chest-abdomen":
        z0, z1 = bottom - rng.uniform(-30, 130), bottom + length * rng.uniform(0.78, 0.95)
    elif region == "spine":
        z0, z1 = bottom - rng.uniform(10, 150), top + rng.uniform(-40, 60)
    elif region in ("part", "off-spine"):
        extent = rng.uniform(90, 260)
        z0 = rng.uniform(bottom - 60, top - extent * 0.6)
        z1 = z0 + extent
    else:
        raise ValueError(f"no such region: {region!r}")
    return max(z0, low), min(z1, high)


def _around(rng: np.random.Generator, ranges: Ranges, s: float, sx: F64, sy: F64) -> tuple[float, float, float]:
    """(width, x of the middle, y of the posterior edge) of a field of view that holds the spine at (sx, sy)."""
    if rng.random() < ranges.narrow_fov:
        fov = rng.uniform(*ranges.narrow_fov_mm)
        behind = max(rng.uniform(*ranges.posterior_margin) * fov, float(sy.max() - sy.mean()) + 18)
        if rng.random() < 0.5:
            behind = rng.uniform(0.3, 0.6) * fov
        return fov, float(sx.mean()) + rng.uniform(-0.2, 0.2) * fov, float(sy.mean()) + behind
    fov = rng.uniform(300, 460) * s
    behind = rng.uniform(70, 130) * s
    if rng.random() < 0.2:
        behind = max(18.0, rng.uniform(*ranges.posterior_margin) * fov)
    return fov, rng.uniform(-25, 25), float(sy.max()) + behind


def _beside(rng: np.random.Generator, ranges: Ranges, s: float, sx: F64, sy: F64) -> tuple[float, float, float]:
    """The same for one that misses the spine, at its side or in front of it."""
    fov = rng.uniform(*ranges.narrow_fov_mm)
    if rng.random() < 0.5:
        side = rng.choice([-1.0, 1.0])
        edge = float((side * sx).max()) + rng.uniform(22, 50) * s
        return fov, side * (edge + fov / 2), float(sy.mean()) + rng.uniform(0, 80)
    return fov, float(sx.mean()) + rng.uniform(-60, 60), float(sy.min()) - rng.uniform(24, 60) * s


def _turned(grid: Grid, rng: np.random.Generator, degrees: float) -> Grid:
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    t = np.radians(degrees)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(t) * k + (1 - np.cos(t)) * (k @ k)
    middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    affine = np.eye(4)
    affine[:3, :3] = turn @ grid.affine[:3, :3]
    affine[:3, 3] = middle + turn @ (grid.affine[:3, 3] - middle)
    return Grid(affine, grid.shape)


@dataclass(frozen=True)
class SliceTruth:
    """The centre line on a canonical grid.

    Attributes
    ----------
    centre
        (D, 2) float32: (row, column) in voxels from 0 at voxel centres; beyond the spine's ends it is continued.
    present
        (D,) bool: the slice crosses the spine (top of C1 to bottom of S1) and its centre lies within the image.
    inside_mm
        (D,) float32: distance of the centre to the nearest edge of the image (negative outside).
    """

    centre: F32
    present: NDArray[np.bool_]
    inside_mm: F32


def slice_truth(patient: Patient, grid: Grid) -> SliceTruth:
    """Truth for a localizer on an axis-aligned grid; all absent for a patient without a spine."""
    depth = grid.shape[0]
    if not patient.has_spine:
        nothing = np.zeros((depth, 2), np.float32)
        return SliceTruth(nothing, np.zeros(depth, bool), np.full(depth, -1e3, np.float32))
    if not np.allclose(grid.affine[2, 1:3], 0):
        raise ValueError("the slices of an oblique grid cross the spine at several heights: use an axis-aligned grid")
    z = grid.affine[2, 0] * np.arange(depth) + grid.affine[2, 3]
    x, y = patient.centre_line(z)
    index = np.stack([x, y, z, np.ones(depth)], 1) @ np.linalg.inv(grid.affine).T
    centre = index[:, 1:3].astype(np.float32)
    sj, si = grid.spacing_mm[1:]
    edge = np.minimum(
        np.minimum(centre[:, 0] + 0.5, grid.shape[1] - 0.5 - centre[:, 0]) * sj,
        np.minimum(centre[:, 1] + 0.5, grid.shape[2] - 0.5 - centre[:, 1]) * si,
    )
    low, high = patient.presence_mm
    present = (z >= low) & (z <= high) & (edge > 0)
    return SliceTruth(centre, present, edge.astype(np.float32))
