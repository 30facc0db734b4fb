"""A patient: anatomy and truth, before any scanner."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.bodies import VertebraTruth
from onnx_models.training.phantom.bones import sample_bone, spine_bones
from onnx_models.training.phantom.implants import implants
from onnx_models.training.phantom.organs import organs
from onnx_models.training.phantom.parts import distances, owners, parts
from onnx_models.training.phantom.ranges import TRAINING, Ranges
from onnx_models.training.phantom.scene import F32, Packed, Scene, noise_field
from onnx_models.training.phantom.skeleton import neck_and_head, pelvis, ribs, sacrum, shoulders
from onnx_models.training.phantom.spine import Column, Plan, build_column, curve_of
from onnx_models.training.phantom.trunk import sample_trunk, table_and_covers

F64 = NDArray[np.float64]


@dataclass
class Patient:
    """Anatomy that answers at any point (LPS mm), and the truth about its vertebrae.

    ``vertebrae`` runs from the top (C3) to S1 and is empty for a patient without a spine (a negative).
    """

    vertebrae: list[VertebraTruth]
    packed: Packed
    column: Column | None
    scale: float
    presence_mm: tuple[float, float]
    """z of the bottom of S1 and of the top of C1; equal when there is no spine."""
    extent_mm: tuple[float, float]
    """z from the thighs to the top of the head that is modelled."""
    labels: NDArray[np.uint8] = field(repr=False, default_factory=lambda: np.zeros(0, np.uint8))

    @property
    def has_spine(self) -> bool:
        """Whether there is anything to find."""
        return self.column is not None

    @property
    def deformed(self) -> bool:
        """Whether any vertebra T1 to L6 is deformed."""
        return any(v.deformity != "none" for v in self.vertebrae)

    @cached_property
    def _spline(self) -> CubicSpline:
        if self.column is None:
            raise ValueError("this patient has no spine, so there is no centre line")
        return curve_of(self.column)

    def centre_line(self, z: ArrayLike) -> tuple[F64, F64]:
        """(x, y) in LPS mm of the curve through the mid-height points at z; linear beyond its ends.

        Raises ``ValueError`` for a patient without a spine.
        """
        q = np.asarray(z, np.float64)
        low, high = self._spline.x[0], self._spline.x[-1]
        inside = np.clip(q, low, high)
        beyond = (q - inside)[..., None]
        p = self._spline(inside) + self._spline(inside, 1) * beyond
        return p[..., 0], p[..., 1]

    def hu(self, points_lps_mm: ArrayLike, footprint_mm: float = 0.6) -> F32:
        """HU (N,) float32 at points (N, 3), before acquisition; a sample is as wide as ``footprint_mm``."""
        p = np.ascontiguousarray(points_lps_mm, np.float32).reshape(-1, 3)
        return np.asarray(ker.hu_points(p, np.float32(footprint_mm), *self.packed), np.float32)

    def label(self, points_lps_mm: ArrayLike) -> NDArray[np.uint8]:
        """(N,) uint8: index into ``vertebrae`` + 1 where the point lies in that body, else 0."""
        return self._label(points_lps_mm)[0]

    def body_distance(self, points_lps_mm: ArrayLike) -> F32:
        """(N,) signed distance in mm to the nearest body of ``vertebrae`` (negative inside; 1e6 where far)."""
        return self._label(points_lps_mm)[1]

    def part(self, points_lps_mm: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(vertebra, part) at points (N, 3): index into ``vertebrae`` + 1, and 1 body or 2 posterior elements; else 0.

        Osteophytes are body. Of the sacrum only the body of S1 is a member of ``vertebrae``.
        """
        p = np.ascontiguousarray(points_lps_mm, np.float32).reshape(-1, 3)
        return parts(p, self.packed, *self._owners)

    def part_distances(self, points_lps_mm: ArrayLike, vertebra: int) -> F32:
        """(N, 3) signed distances in mm at points (N, 3), negative inside: to the body of ``vertebrae[vertebra - 1]``,
        to its posterior elements, and to the nearest other vertebra. Exact within 3 mm of a surface."""
        p = np.ascontiguousarray(points_lps_mm, np.float32).reshape(-1, 3)
        return distances(p, vertebra, self.packed, *self._owners)

    @cached_property
    def _owners(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return owners(self.packed, self.labels)

    def _label(self, points: ArrayLike) -> tuple[NDArray[np.uint8], F32]:
        p = np.ascontiguousarray(points, np.float32).reshape(-1, 3)
        distance = np.full(len(p), ker.FAR, np.float32)
        if not len(self.labels):
            return np.zeros(len(p), np.uint8), distance
        found = ker.label_points(p, self.packed[12], self.labels, self.packed[13], distance)
        return np.asarray(found), distance


def sample_patient(rng: np.random.Generator, ranges: Ranges = TRAINING, plan: Plan | None = None) -> Patient:
    """Draw a patient with a spine. The same state of ``rng`` gives the same patient.

    ``plan`` prescribes what is otherwise drawn (deformities, curves, number of vertebrae).
    """
    column = build_column(rng, ranges, plan or Plan())
    bone = sample_bone(rng, ranges)
    scene = Scene()
    table, z0, g, inner = sample_trunk(rng, ranges, column)
    shift = float(g[ker.G_SHIFT])
    table_and_covers(rng, scene, inner)
    down = bool(rng.random() < ranges.arms_down)
    organs(rng, scene, column, ranges, inner, shift)
    shoulders(rng, scene, column, bone, inner, down)
    ribs(rng, scene, column, bone, inner)
    neck_and_head(scene, column, bone, shift)
    sacrum(rng, scene, column, bone)
    hips = pelvis(rng, scene, column, bone)
    spine_bones(rng, scene, column, ranges, bone, shift)
    implants(rng, scene, column, ranges, hips)
    packed = scene.pack(column.table, noise_field(rng), table, z0, g)
    graded = [i for i, name in enumerate(column.levels) if name != "S2"]
    labels = np.zeros(len(column.levels), np.uint8)
    labels[graded] = np.arange(1, len(graded) + 1)
    top = column.at(0, 0, 0, float(column.table[0, ker.B_S0]) + 38 * column.scale)
    s1 = column.truth[column.levels.index("S1")]
    presence = (float(s1.keypoints_lps_mm[[1, 3, 5], 2].min()), float(top[2]))
    return Patient(
        [column.truth[i] for i in graded],
        packed,
        column,
        column.scale,
        presence,
        (z0, z0 + len(table)),
        labels,
    )
