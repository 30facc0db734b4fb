"""Radiographs of the phantom, first half: line integrals of density along every ray of a cone beam.

Bone is marched by its signed distance, so that end plates stay as sharp as the implicit spine describes them; soft
tissue is voxelised at 3 mm and projected at half the resolution. ``film_formation`` makes images of them, as many as
wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from onnx_models.training import film_kernels as rays
from onnx_models.training.film_geometry import ConeBeam
from onnx_models.training.phantom import Patient
from onnx_models.training.phantom import kernels as ker
from onnx_models.training.phantom.scene import F32, Packed

F64 = NDArray[np.float64]
SOFT_MM = 3.0
FINE_HU = 180.0
"""Tissues that reach this attenuation are marched; the rest is voxelised."""
METAL_HU = 2000.0
COUCH_SIDE_MM = 190.0
"""Where the phantom's couch has its rails."""


@dataclass(frozen=True)
class LineIntegrals:
    """cm of water along each ray, float32 (rows, columns).

    ``bone`` and ``metal`` are what these add to ``soft``: the tissue as it would be without them.
    """

    soft: F32
    bone: F32
    metal: F32

    @property
    def total(self) -> F32:
        """Of everything."""
        return np.asarray(self.soft + self.bone + self.metal, np.float32)

    def mirrored(self) -> LineIntegrals:
        """Left and right exchanged."""
        return LineIntegrals(*(m[:, ::-1] for m in (self.soft, self.bone, self.metal)))


def render_film(patient: Patient, beam: ConeBeam, couch: bool = False, finest_mm: float = 0.5) -> LineIntegrals:
    """Line integrals through a phantom; ``couch`` keeps the CT couch behind the patient.

    Raises
    ------
    ValueError
        Where the source lies within the patient.
    """
    packed = patient.packed
    groups = np.unique(packed[5])
    drop = np.zeros(len(packed[6]), bool)
    if not couch and patient.has_spine:
        drop[couch_groups(packed)] = True
    fine = fine_groups(packed) & ~drop
    soft_scene = only(packed, ~fine & ~drop)
    volume, low = voxels(patient, soft_scene, beam)
    coarse = beam.coarser(2)
    spacing = np.float32(SOFT_MM)
    soft = rays.soft_integrals(volume, low, spacing, *_rays(coarse), np.float32(SOFT_MM))
    if len(groups) == 0 or not fine.any():
        nothing = np.zeros(beam.shape, np.float32)
        return LineIntegrals(_finer(soft, beam.shape), nothing, nothing.copy())
    bones = only(packed, fine)
    metal = np.asarray(bones[6][:, [ker.P_INNER, ker.P_SHELL]].max(1) > METAL_HU)
    width = np.float32(np.clip(beam.pitch_mm / float(beam.magnification(_middle(packed))), 0.5, 1.5))
    both = rays.bone_integrals(
        *_rays(beam), width, np.float32(finest_mm), rays.WIDEST_MM, metal, volume, low, spacing, *bones[3:]
    )
    return LineIntegrals(_finer(soft, beam.shape), both[0], both[1])


def fine_groups(packed: Packed) -> NDArray[np.bool_]:
    """(groups,) whether a tissue is marched: bone, metal, cement, calcification.

    What is clipped by the trunk's cavity is not: only the voxels know the cavity.
    """
    props = packed[6]
    dense = props[:, [ker.P_INNER, ker.P_SHELL]].max(1) > FINE_HU
    return np.asarray(dense & (props[:, ker.P_CLIP] == 0))


def couch_groups(packed: Packed) -> list[int]:
    """The groups of the couch of ``trunk.table_and_covers``: the first two, and the rails where there are any."""
    first = np.flatnonzero(packed[5] == 2)
    rails = len(first) == 2 and bool(np.all(np.abs(packed[4][first, 0]) == COUCH_SIDE_MM))
    return [0, 1, 2] if rails else [0, 1]


def only(packed: Packed, keep: NDArray[np.bool_]) -> Packed:
    """The same scene with some of its groups: the lists of the cells are thinned, all else is shared."""
    start, items = packed[10], packed[11]
    kept = keep[packed[5][items]]
    count = np.concatenate([[0], np.cumsum(kept)])
    return (*packed[:10], count[start].astype(np.int32), items[kept], *packed[12:])


def voxels(patient: Patient, packed: Packed, beam: ConeBeam) -> tuple[F32, F32]:
    """(HU (k, j, i), first voxel's centre (3,)) of what the beam may cross, at `SOFT_MM`: z, y, x increasing."""
    low, high = _bounds(patient, packed)
    corners = beam.place([[0, 0], [0, beam.shape[1] - 1], [beam.shape[0] - 1, 0], np.array(beam.shape) - 1.0])
    if np.all((beam.source_lps_mm > low) & (beam.source_lps_mm < high)):
        raise ValueError("the source lies within the patient: place it further away")
    # what the pyramid of rays takes in within the bounds: its section with both ends of the patient along the beam
    reach = []
    for depth in _depths(beam, low, high):
        reach.append(beam.source_lps_mm + (corners - beam.source_lps_mm) * depth)
    seen = np.concatenate(reach)
    low, high = np.maximum(low, seen.min(0) - SOFT_MM), np.minimum(high, seen.max(0) + SOFT_MM)
    shape = np.maximum(2, np.ceil((high - low) / SOFT_MM).astype(np.int64) + 1)
    affine = np.zeros((3, 4), np.float32)
    affine[2, 0] = affine[1, 1] = affine[0, 2] = SOFT_MM
    affine[:, 3] = low
    hu = ker.hu_grid(affine, shape[::-1].copy(), np.float32(SOFT_MM), *packed)
    return hu, low.astype(np.float32)


def _depths(beam: ConeBeam, low: F64, high: F64) -> tuple[float, float]:
    """Nearest and farthest part of the way from source to detector at which the box is met."""
    box = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    depth = (box - beam.source_lps_mm) @ beam.normal / beam.source_detector_mm
    return max(0.0, float(depth.min())), min(1.0, float(depth.max()))


def _bounds(patient: Patient, packed: Packed) -> tuple[F64, F64]:
    """Corners (x, y, z) of the trunk and of all primitives."""
    low = packed[7].astype(np.float64)
    high = low + float(packed[8]) * packed[9]
    if packed[2][ker.G_HAS_TRUNK]:
        table = packed[0]
        low[0] = min(low[0], float((table[:, ker.T_CX] - table[:, ker.T_A]).min()) - SOFT_MM)
        low[1] = min(low[1], float((table[:, ker.T_CY] - table[:, ker.T_B]).min()) - SOFT_MM)
        high[0] = max(high[0], float((table[:, ker.T_CX] + table[:, ker.T_A]).max()) + SOFT_MM)
        high[1] = max(high[1], float((table[:, ker.T_CY] + table[:, ker.T_B]).max()) + SOFT_MM)
        low[2], high[2] = min(low[2], patient.extent_mm[0]), max(high[2], patient.extent_mm[1])
    return low, high


def _middle(packed: Packed) -> F64:
    return np.asarray(packed[7] + 0.5 * packed[8] * packed[9], np.float64)


def _rays(beam: ConeBeam) -> tuple[F32, F32, F32, F32, NDArray[np.int64]]:
    return (
        beam.source_lps_mm.astype(np.float32),
        beam.corner_lps_mm.astype(np.float32),
        beam.row_step_mm.astype(np.float32),
        beam.column_step_mm.astype(np.float32),
        np.array(beam.shape, np.int64),
    )


def _finer(half: F32, shape: tuple[int, int]) -> F32:
    """An image of ``beam.coarser(2)`` on the pixels of the beam."""
    rows, columns = (np.arange(n) / 2 - 0.25 for n in shape)
    at = np.meshgrid(rows, columns, indexing="ij")
    return np.asarray(ndimage.map_coordinates(half, at, order=1, mode="nearest"), np.float32)
