"""Single vertebrae with known truth on which the segmenter is judged; nothing here is trained on.

Phantoms with ranges wider than those of the training and seeds of their own are kept under
``build/training/segmenter/evaluation`` once made: remove that folder when the phantom changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Volume
from inference.masks_patch import affine_of
from onnx_models.training.phantom import EVALUATION, acquire, canonical_grid, sample_patient
from onnx_models.training.real_cases import nifti, real_cases, real_folder
from onnx_models.training.segmenter_data import (
    FOLDER,
    MARGIN,
    Patch,
    graded,
    sample_spacing,
    soft_truth,
    wide_points,
)
from onnx_models.training.segmenter_shapes import HELD_OUT as HELD_OUT_SHAPES
from onnx_models.training.segmenter_shapes import shape_patch

CACHE = FOLDER / "evaluation"
PATIENT_SEED, SHAPE_SEED, THRESHOLD_SEED = 80_000_000, 81_000_000, 71_000_000
PER_PATIENT = 3
JITTER_MM = 4.0
"""Root mean square distance by which centroids are misplaced, as detections are."""
SILVER = {"T12": 32, "L1": 31, "L2": 30, "L3": 29, "L4": 28, "L5": 27}
SHAPE_LEVELS = {15: "T8", 18: "T11", 22: "L3"}


class Case(NamedTuple):
    """One vertebra in its volume.

    Attributes
    ----------
    group
        Patient, or shape: what is drawn again when an interval is estimated.
    level
        Anatomical level.
    volume
        With the vertebra in it.
    centre
        (3,) LPS mm: where the segmenter is told that the body is.
    vertebra, body
        Shape of ``volume.hu``: truth.
    vertebra_ml, body_ml
        True volumes, partial volume taken into account.
    """

    group: int
    level: str
    volume: Volume
    centre: NDArray[np.float64]
    vertebra: NDArray[np.bool_]
    body: NDArray[np.bool_]
    vertebra_ml: float
    body_ml: float


def phantom_cases(patients: int, seed: int = PATIENT_SEED, cache: Path = CACHE) -> Iterator[Case]:
    """`PER_PATIENT` vertebrae of each patient, each scanned with a spacing of its own, centroids misplaced."""
    for n in range(patients):
        path = cache / f"{seed + n}.npz"
        if not path.is_file():
            _write(path, _phantom(n, seed))
        yield from _read(path)


def _phantom(n: int, seed: int) -> list[Case]:
    rng = np.random.default_rng(seed + n)
    patient = sample_patient(rng, EVALUATION)
    out = []
    for v in rng.permutation(graded(patient))[:PER_PATIENT]:
        truth = patient.vertebrae[int(v) - 1]
        points = wide_points(truth.centroid_lps_mm)
        flat = points.reshape(-1, 3)
        grid = canonical_grid(flat.min(axis=0) - 3, flat.max(axis=0) + 3, sample_spacing(rng))
        volume = acquire(patient, grid, rng, replace(EVALUATION, round_fov=0.0))
        index = np.stack(np.meshgrid(*(np.arange(s) for s in grid.shape), indexing="ij"), axis=-1)
        vertebra, part = patient.part(volume.to_lps(index).reshape(-1, 3))
        own = (vertebra == v).reshape(grid.shape)
        soft = soft_truth(patient, points, int(v)).sum(axis=(1, 2, 3)) * 8 / 1000
        place = truth.centroid_lps_mm + rng.normal(0, JITTER_MM / np.sqrt(3), 3)
        body = own & (part == 1).reshape(grid.shape)
        out.append(Case(n, truth.level, volume, place, own, body, float(soft.sum()), float(soft[0])))
    return out


def _write(path: Path, cases: list[Case]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"count": len(cases)}
    for n, case in enumerate(cases):
        arrays[f"hu{n}"], arrays[f"affine{n}"], arrays[f"centre{n}"] = case.volume.hu, case.volume.affine, case.centre
        arrays[f"truth{n}"] = case.vertebra.astype(np.uint8) + case.body
        arrays[f"said{n}"] = np.array([case.group, case.vertebra_ml, case.body_ml])
        arrays[f"level{n}"] = case.level
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def _read(path: Path) -> list[Case]:
    out = []
    with np.load(path) as f:
        for n in range(int(f["count"])):
            truth, (group, vertebra_ml, body_ml) = f[f"truth{n}"], f[f"said{n}"]
            volume = Volume(f[f"hu{n}"], f[f"affine{n}"])
            out.append(
                Case(
                    int(group),
                    str(f[f"level{n}"]),
                    volume,
                    f[f"centre{n}"],
                    truth > 0,
                    truth == 2,
                    float(vertebra_ml),
                    float(body_ml),
                )
            )
    return out


def patch_case(patch: Patch, group: int = 0, level: str = "") -> Case:
    """A patch with its margin as a small volume of 2 mm."""
    affine = affine_of(np.zeros(3))
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(MARGIN))
    share = np.stack([patch.body, patch.posterior]).astype(np.float64) / 255
    own = share.sum(axis=0) > 0.5
    ml = share.sum(axis=(1, 2, 3)) * 8 / 1000
    body = own & (share[0] >= share[1])
    return Case(group, level, Volume(patch.hu, affine), np.zeros(3), own, body, float(ml.sum()), float(ml[0]))


def shape_cases(seed: int = SHAPE_SEED, each: int = 4) -> list[Case]:
    """``each`` patches of every held-out vertebra of the label map, neither bent nor scaled, in other intensities."""
    rng = np.random.default_rng(seed)
    return [
        patch_case(shape_patch(rng, number, warp=False), number, SHAPE_LEVELS[number])
        for number in HELD_OUT_SHAPES
        for _ in range(each)
    ]


def real_case_list() -> list[Case]:
    """T12 to L5 of the example CT and L3 of the TPTBox crop, at their silver centroids; empty without real data."""
    root = real_folder()
    if root is None:
        return []
    case = next(c for c in real_cases() if c.name == "example_ct")
    report = root / "totalsegmentator" / "spine_report" / "example_ct_report"
    silver = nifti(report / "totalseg.nii.gz").hu
    inner = nifti(report / "totalseg_vertebrae_body.nii.gz").hu == 1
    out = []
    for level, number in SILVER.items():
        own = silver == number
        out.append(_real(level, case.volume, case.centroids_lps_mm[level], own, own & inner))
    folder = root / "tptbox"
    volume = nifti(folder / "sub-ct_label-22_ct.nii.gz")
    own = nifti(folder / "sub-ct_seg-vert_label-22_msk.nii.gz").hu == 22
    subregion = nifti(folder / "sub-ct_seg-subreg_label-22_msk.nii.gz").hu
    body = own & ((subregion == 49) | (subregion == 50))
    out.append(_real("TPTBox L3", volume, volume.to_lps(np.argwhere(body).mean(axis=0)), own, body))
    return out


def _real(level: str, volume: Volume, centre: NDArray[np.float64], own: Any, body: Any) -> Case:
    voxel = float(np.prod(volume.spacing_mm)) / 1000
    return Case(0, level, volume, centre, own, body, float(own.sum()) * voxel, float(body.sum()) * voxel)


def misplaced(case: Case, seed: int) -> Case:
    """The same vertebra with its centroid off by `JITTER_MM`."""
    moved = np.random.default_rng(seed).normal(0, JITTER_MM / np.sqrt(3), 3)
    return case._replace(centre=case.centre + moved)
