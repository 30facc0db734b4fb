"""How good the shipped segmenter is: ``python -m onnx_models.training.segmenter_evaluation``.

Phantoms with ranges wider than those of the training and seeds of their own, by spacing; vertebrae of the label map
that were never centre of a training patch; the real CTs with silver labels, with exact and with misplaced centroids.
Each goes through `inference.masks.segment`. The threshold is chosen by ``--threshold`` on other held-out patches, and
never on a real image.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Volume
from inference.masks import BODY, MaskSettings, segment
from inference.masks_patch import SHAPE, affine_of
from inference.runtime import Models, load_models
from onnx_models.training.export import MODELS
from onnx_models.training.metrics import dice_of, surface_distance
from onnx_models.training.phantom import EVALUATION, acquire, canonical_grid, sample_patient
from onnx_models.training.real_cases import nifti, real_cases, real_folder
from onnx_models.training.segmenter_data import MARGIN, Patch, graded, read, sample_spacing, soft_truth, wide_points
from onnx_models.training.segmenter_shapes import HELD_OUT as HELD_OUT_SHAPES
from onnx_models.training.segmenter_shapes import shape_patch
from onnx_models.training.segmenter_task import HELD_OUT

PATIENT_SEED, SHAPE_SEED, THRESHOLD_SEED = 80_000_000, 81_000_000, 71_000_000
PER_PATIENT = 3
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
SPACINGS = ((0.7, 1.0), (1.0, 2.0), (2.0, 3.3))
"""Groups by spacing between slices, mm."""
JITTER_MM = 4.0
LUMBAR = ("L1", "L2", "L3", "L4", "L5")
SILVER = {"T12": 32, "L1": 31, "L2": 30, "L3": 29, "L4": 28, "L5": 27}


class Figure(NamedTuple):
    """One vertebra, as segmented against the truth.

    Attributes
    ----------
    dice, body_dice
        Of the masks on the grid of the volume.
    surface_mm
        Mean distance between the two surfaces, both ways.
    volume_ratio, body_ratio
        Predicted (partial volume counted) over true.
    spacing_mm
        Between slices.
    """

    dice: float
    body_dice: float
    surface_mm: float
    volume_ratio: float
    body_ratio: float
    spacing_mm: float


def figure_of(
    volume: Volume,
    centroid: NDArray[np.float64],
    truth: tuple[NDArray[np.bool_], NDArray[np.bool_] | None],
    true_ml: tuple[float, float | None],
    models: Models,
    settings: MaskSettings,
) -> Figure:
    """Segment the vertebra at ``centroid`` and compare; truth is (vertebra, body or ``None``), volumes likewise."""
    masks = segment(volume, centroid[None], models, settings)
    said = masks.labels > 0
    body = said & (masks.parts == BODY)
    volumes = np.nan_to_num(masks.volumes_ml[0])
    return Figure(
        dice_of(said, truth[0]),
        float("nan") if truth[1] is None else dice_of(body, truth[1]),
        surface_distance(said, truth[0], volume.spacing_mm),
        float(volumes[0] / true_ml[0]),
        float("nan") if true_ml[1] is None else float(volumes[1] / true_ml[1]),
        volume.spacing_mm[0],
    )


def phantom_figures(models: Models, settings: MaskSettings, patients: int) -> list[Figure]:
    """`PER_PATIENT` vertebrae of each patient, scanned one by one, centroids misplaced as detections are."""
    out = []
    for n in range(patients):
        rng = np.random.default_rng(PATIENT_SEED + n)
        patient = sample_patient(rng, EVALUATION)
        for v in rng.permutation(graded(patient))[:PER_PATIENT]:
            centroid = patient.vertebrae[int(v) - 1].centroid_lps_mm
            points = wide_points(centroid)
            flat = points.reshape(-1, 3)
            grid = canonical_grid(flat.min(axis=0) - 3, flat.max(axis=0) + 3, sample_spacing(rng))
            volume = acquire(patient, grid, rng, replace(EVALUATION, round_fov=0.0))
            index = np.stack(np.meshgrid(*(np.arange(s) for s in grid.shape), indexing="ij"), axis=-1)
            vertebra, part = patient.part(volume.to_lps(index).reshape(-1, 3))
            own = (vertebra == v).reshape(grid.shape)
            body = own & (part == 1).reshape(grid.shape)
            soft = soft_truth(patient, points, int(v)).sum(axis=(1, 2, 3)) * 8 / 1000
            place = centroid + rng.normal(0, JITTER_MM / np.sqrt(3), 3)
            truth_ml = (float(soft.sum()), float(soft[0]))
            out.append(figure_of(volume, place, (own, body), truth_ml, models, settings))
    return out


def patch_figure(patch: Patch, models: Models, settings: MaskSettings) -> Figure:
    """A patch with its margin as a small volume."""
    affine = affine_of(np.zeros(3))
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(MARGIN))
    share = np.stack([patch.body, patch.posterior]).astype(np.float64) / 255
    own = share.sum(axis=0) > 0.5
    volumes = share.sum(axis=(1, 2, 3)) * 8 / 1000
    truth = (own, own & (share[0] >= share[1]))
    return figure_of(
        Volume(patch.hu, affine), np.zeros(3), truth, (float(volumes.sum()), float(volumes[0])), models, settings
    )


def shape_patches_held_out(seed: int, each: int) -> list[Patch]:
    """``each`` patches of every held-out vertebra of the label map, neither bent nor scaled, in other intensities."""
    rng = np.random.default_rng(seed)
    return [shape_patch(rng, number, warp=False) for number in HELD_OUT_SHAPES for _ in range(each)]


def real_figures(models: Models, settings: MaskSettings, jitter_seeds: int = 2) -> dict[str, list[Figure]]:
    """T12 to L5 of the example CT and L3 of the TPTBox crop; the first figure of each has the silver centroid."""
    root = real_folder()
    if root is None:
        return {}
    case = next(c for c in real_cases() if c.name == "example_ct")
    report = root / "totalsegmentator" / "spine_report" / "example_ct_report"
    silver = nifti(report / "totalseg.nii.gz").hu
    inner = nifti(report / "totalseg_vertebrae_body.nii.gz").hu == 1
    voxel = float(np.prod(case.volume.spacing_mm)) / 1000
    out: dict[str, list[Figure]] = {}
    for level, number in SILVER.items():
        own = silver == number
        truth, ml = (own, own & inner), (own.sum() * voxel, (own & inner).sum() * voxel)
        out[level] = _jittered(case.volume, case.centroids_lps_mm[level], truth, ml, models, settings, jitter_seeds)
    folder = root / "tptbox"
    volume = nifti(folder / "sub-ct_label-22_ct.nii.gz")
    own = nifti(folder / "sub-ct_seg-vert_label-22_msk.nii.gz").hu == 22
    subregion = nifti(folder / "sub-ct_seg-subreg_label-22_msk.nii.gz").hu
    body = own & ((subregion == 49) | (subregion == 50))
    voxel = float(np.prod(volume.spacing_mm)) / 1000
    centre = volume.to_lps(np.argwhere(body).mean(axis=0))
    truth, ml = (own, body), (own.sum() * voxel, body.sum() * voxel)
    out["TPTBox L3"] = _jittered(volume, centre, truth, ml, models, settings, jitter_seeds)
    return out


def _jittered(
    volume: Volume, centre: NDArray[np.float64], truth: Any, ml: Any, models: Models, settings: MaskSettings, seeds: int
) -> list[Figure]:
    moved = [np.random.default_rng(s).normal(0, JITTER_MM / np.sqrt(3), 3) for s in range(seeds)]
    return [figure_of(volume, centre + m, truth, ml, models, settings) for m in [np.zeros(3), *moved]]


def summary(figures: list[Figure]) -> dict[str, float]:
    """Means and percentiles of one group."""
    table = np.array(figures, float)
    return {
        "vertebrae": len(figures),
        "dice": float(table[:, 0].mean()),
        "dice_p5": float(np.percentile(table[:, 0], 5)),
        "body_dice": float(np.nanmean(table[:, 1])),
        "surface_mm": float(np.nanmean(table[:, 2])),
        "volume_ratio": float(table[:, 3].mean()),
        "volume_error": float(np.abs(table[:, 3] - 1).mean()),
        "body_ratio": float(np.nanmean(table[:, 4])),
        "body_volume_error": float(np.nanmean(np.abs(table[:, 4] - 1))),
    }


def evaluated(models: Models, settings: MaskSettings, patients: int, shapes_each: int = 4) -> dict[str, Any]:
    """Every figure of the segmenter; real shapes and images only where they are beside the project."""
    figures = phantom_figures(models, settings, patients)
    out: dict[str, Any] = {"settings": settings.__dict__, "patch": list(SHAPE), "phantoms": summary(figures)}
    for low, high in SPACINGS:
        group = [f for f in figures if low <= f.spacing_mm < high]
        if group:
            out[f"phantoms {low} to {high} mm"] = summary(group)
    if real_folder() is not None:
        patches = shape_patches_held_out(SHAPE_SEED, shapes_each)
        out["held-out shapes"] = summary([patch_figure(p, models, settings) for p in patches])
        for name, found in real_figures(models, settings).items():
            out[f"real {name}"] = found[0]._asdict()
            out[f"real {name}, centroids off by 4 mm"] = summary(found[1:])
    return out


def choose_threshold(models: Models, settings: MaskSettings, patches: list[Patch]) -> dict[str, Any]:
    """Mean Dice of each of `THRESHOLDS` on held-out patches."""
    out: dict[str, Any] = {}
    for threshold in THRESHOLDS:
        figures = [patch_figure(p, models, replace(settings, threshold=threshold)) for p in patches]
        out[str(threshold)] = {k: round(v, 4) for k, v in summary(figures).items()}
    return out


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.segmenter_evaluation", description=__doc__)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--threshold", action="store_true", help="compare thresholds on other held-out patches instead")
    options = parser.parse_args(arguments)
    models = load_models(options.models, "cpu", threads=1, names=["segmenter"])
    settings = MaskSettings()
    if options.threshold:
        patches = read(sorted(HELD_OUT.glob("held-out_*.npz")))
        if real_folder() is not None:
            patches += shape_patches_held_out(THRESHOLD_SEED, 4)
        answer = choose_threshold(models, settings, patches)
    else:
        answer = evaluated(models, settings, options.patients)
    print(json.dumps(answer, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
