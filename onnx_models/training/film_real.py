"""Films rendered from a real CT, with projected silver masks. For evaluation only: nothing is trained on them.

They are the only look at real anatomy in projection that there is: the voxels are 3 mm wide, so end plates are soft.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.geometry import Volume
from onnx_models.training import film_kernels as rays
from onnx_models.training.film_formation import form
from onnx_models.training.film_geometry import FRONTAL, LATERAL, ConeBeam, cone_beam
from onnx_models.training.film_look import clinical_look
from onnx_models.training.film_rendering import LineIntegrals
from onnx_models.training.phantom.scene import F32
from onnx_models.training.real_cases import LABELS, nifti

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
GRID_MM = 1.5
BONE_HU = (120.0, 260.0)
"""Between these attenuations tissue turns from soft into bone."""
SOFT_HU = 60.0
"""What would be in the place of bone."""
MARGIN_MM = 9.0
POSES = 12
SEED = 2026
SHADOW_CM = 0.1
"""A silhouette is where a ray runs so far through a body."""


@dataclass(frozen=True)
class Block:
    """``values`` (k, j, i) with axes z, y, x increasing, `GRID_MM` apart, the first one's centre at ``low`` (x, y, z).

    Of a label they are the part of each voxel that it fills.
    """

    values: F32
    low: F64

    @cached_property
    def centroid(self) -> F64:
        """(3,): centre of mass in LPS mm."""
        return np.asarray(self.low + GRID_MM * np.array(ndimage.center_of_mass(self.values))[::-1])


@dataclass(frozen=True)
class RealSpineCt:
    """A CT, with silver labels of vertebral bodies and posterior elements by level, from the top.

    ``cut`` are the levels that reach the first or last slice.
    """

    hu: Block
    bodies: dict[str, Block]
    posterior: dict[str, Block]
    cut: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RealFilm:
    """One film of a real CT.

    Attributes
    ----------
    image
        (rows, columns) float32, 0 to 1; front towards column 0 unless ``mirrored``.
    sections, silhouettes
        (V, rows, columns) bool by ``levels``: the silver body in its own mid-sagittal plane, projected; its shadow.
    whole
        (V,): the whole body is in the CT and on the film.
    """

    image: F32
    exposed: Bools
    view: str
    levels: list[str]
    sections: Bools
    silhouettes: Bools
    whole: Bools
    mirrored: bool
    pitch_mm: float
    magnification: float


def example_ct(root: Path) -> RealSpineCt:
    """The real abdomen CT of the folder of real images, with its silver labels."""
    folder = root / "totalsegmentator"
    silver = folder / "spine_report" / "example_ct_report"
    volume = nifti(folder / "example_ct.nii.gz")
    labels, body = nifti(silver / "totalseg.nii.gz"), nifti(silver / "totalseg_vertebrae_body.nii.gz")
    hu = _block(volume, np.asarray(volume.hu, np.float32), -1000.0)
    bodies, posterior, cut = {}, {}, set()
    for number, level in LABELS.items():
        mask = labels.hu == number
        front = mask & (body.hu == 1)
        if not front.any() or not (mask & ~front).any():
            continue
        bodies[level] = _block(labels, front.astype(np.float32), 0.0, around=front)
        posterior[level] = _block(labels, (mask & ~front).astype(np.float32), 0.0, around=mask & ~front)
        if front[0].any() or front[-1].any():
            cut.add(level)
    return RealSpineCt(hu, bodies, posterior, frozenset(cut))


def _block(volume: Volume, values: F32, outside: float, around: Bools | None = None) -> Block:
    """``values`` on the voxels of ``volume`` resampled, all of them or with a margin where ``around`` is true."""
    last = np.array(values.shape) - 1.0
    ends = np.array([np.zeros(3), last])
    if around is not None:
        index = np.argwhere(around)
        ends = np.clip([index.min(0) - 2, index.max(0) + 2], 0, last)
    corners = volume.to_lps(np.array([[a, b, c] for a in ends[:, 0] for b in ends[:, 1] for c in ends[:, 2]]))
    low = corners.min(0)
    shape = tuple(int(n) for n in (np.floor((corners.max(0) - low) / GRID_MM) + 1)[::-1])
    inverse = np.linalg.inv(volume.affine[:3, :3])
    matrix = inverse[:, ::-1] * GRID_MM  # from (k, j, i)
    offset = inverse @ (low - volume.affine[:3, 3])
    found = ndimage.affine_transform(values, matrix, offset, shape, order=1, mode="constant", cval=outside)
    return Block(np.asarray(found, np.float32), low)


def line_integrals(ct: RealSpineCt, beam: ConeBeam) -> LineIntegrals:
    """cm of water through the CT; what is denser than soft tissue counts as bone."""
    hu, low = ct.hu.values, ct.hu.low
    share = np.clip((hu - BONE_HU[0]) / (BONE_HU[1] - BONE_HU[0]), 0, 1)
    excess = share * (hu - SOFT_HU)
    soft = _through(Block(hu - excess, low), beam)
    bone = _through(Block(excess - 1000, low), beam)
    return LineIntegrals(soft, bone, np.zeros_like(soft))


def _through(block: Block, beam: ConeBeam) -> F32:
    places = (beam.source_lps_mm, beam.corner_lps_mm, beam.row_step_mm, beam.column_step_mm)
    values, low = np.ascontiguousarray(block.values, np.float32), block.low.astype(np.float32)
    step, shape = np.float32(0.5 * GRID_MM), np.array(beam.shape, np.int64)
    arrays = (a.astype(np.float32) for a in places)
    return np.asarray(rays.soft_integrals(values, low, np.float32(GRID_MM), *arrays, shape, step), np.float32)


def section_mask(ct: RealSpineCt, level: str, beam: ConeBeam) -> Bools:
    """Where the rays cross the silver body in its mid-sagittal plane.

    That plane holds the body's centroid, the spine's direction there and the centroid of the posterior elements.
    """
    body = ct.bodies[level]
    centre = body.centroid
    names = list(ct.bodies)
    at = names.index(level)
    ends = [ct.bodies[names[n]].centroid for n in (max(at - 1, 0), min(at + 1, len(names) - 1))]
    left = np.cross(ct.posterior[level].centroid - centre, ends[0] - ends[1])
    left /= np.linalg.norm(left)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in beam.shape), indexing="ij"), axis=-1)
    way = beam.place(index) - beam.source_lps_mm
    part = ((centre - beam.source_lps_mm) @ left) / (way @ left)
    points = beam.source_lps_mm + part[..., None] * way
    voxel = (points - body.low) / GRID_MM
    return np.asarray(ndimage.map_coordinates(body.values, voxel[..., ::-1].reshape(-1, 3).T, order=1) >= 0.5).reshape(
        beam.shape
    )


def pose(ct: RealSpineCt, number: int, view: str = LATERAL, long_side: int = 512) -> ConeBeam:
    """One of the twelve poses. The film ends where rays would leave the CT through its first or last slice."""
    rng = np.random.default_rng([SEED, number])
    far, near = float(rng.uniform(1300, 1900)), float(rng.uniform(160, 320))
    low = ct.hu.low
    high = low + GRID_MM * (np.array(ct.hu.values.shape)[::-1] - 1)
    beside = 150.0 if view == LATERAL else 110.0  # half of the patient along the beam
    spread = 1 + beside / (far - near - beside)  # of the beam, at the side of the patient that is nearer to the source
    tallest = (float(high[2] - low[2]) - 2 * MARGIN_MM) / spread
    height = tallest * float(rng.uniform(0.75, 0.95))
    middle = ct.bodies["L2"].centroid
    aside = float(rng.uniform(-45, 15)) if view == LATERAL else 0.0
    target = middle + np.array([0, aside, 0])
    target[2] = high[2] - MARGIN_MM  # the central ray runs along the upper edge: none leaves the CT through its top
    return cone_beam(
        target, height, float(rng.uniform(0.65, 0.95)) * height, view=view, source_detector_mm=far,
        object_detector_mm=near, reverse=bool(rng.random() < 0.5), rotation_deg=float(rng.normal(0, 4)),
        tilt_deg=float(np.clip(rng.normal(0, 1), -2, 2)), roll_deg=float(np.clip(rng.normal(0, 1), -2, 2)),
        off_centre_mm=(0.5 * height, 0.0),
        long_side=long_side,
    )  # fmt: skip


def real_film(ct: RealSpineCt, number: int, view: str = LATERAL, long_side: int = 512) -> RealFilm:
    """The film of one pose, with a look that a department would pass."""
    if view not in (LATERAL, FRONTAL):
        raise ValueError(f"views are {LATERAL} and {FRONTAL}, not {view!r}")
    beam = pose(ct, number, view, long_side)
    rng = np.random.default_rng([SEED, number, 1])
    look = clinical_look(rng)
    integrals = line_integrals(ct, beam)
    if mirrored := bool(number % 2):
        integrals = integrals.mirrored()
    image, exposed = form(integrals, look, rng)
    levels = list(ct.bodies)
    sections = np.array([section_mask(ct, level, beam) for level in levels])
    shadows = np.array([_shadow(ct.bodies[v], beam) for v in levels])
    if mirrored:
        sections, shadows = sections[..., ::-1], shadows[..., ::-1]
    edge = np.ones(beam.shape, bool)
    edge[1:-1, 1:-1] = False
    whole = [not (cut & (edge | ~exposed)).any() and v not in ct.cut for v, cut in zip(levels, sections, strict=True)]
    return RealFilm(
        image, exposed, view, levels, sections, shadows, np.array(whole), mirrored, beam.pitch_mm,
        float(beam.magnification(ct.bodies["L2"].centroid)),
    )  # fmt: skip


def _shadow(body: Block, beam: ConeBeam) -> Bools:
    filled = np.where(body.values >= 0.5, 0.0, -1000.0)  # the fringe of 3 mm voxels would widen it
    return np.asarray(_through(Block(filled, body.low), beam) > SHADOW_CM)
