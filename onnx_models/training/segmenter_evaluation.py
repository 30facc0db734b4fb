"""How good the shipped segmenter is: ``python -m onnx_models.training.segmenter_evaluation``.

Phantoms with ranges wider than those of the training and seeds of their own, by spacing and by region; vertebrae of the
label map that were never centre of a training patch; the real CTs with silver labels, with exact and with misplaced
centroids. Each goes through `inference.masks.segment`. The threshold is chosen by ``--threshold`` on other held-out
patches, and never on a real image.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Volume
from inference.masks import BODY, MaskSettings, on_grid, segment
from inference.masks_patch import SHAPE, STEP_MM, affine_of, points_of
from inference.runtime import Models, load_models
from onnx_models.training.export import MODELS
from onnx_models.training.metrics import bootstrapped, dice_of, surface_distance
from onnx_models.training.real_cases import real_folder
from onnx_models.training.segmenter_card import written
from onnx_models.training.segmenter_cases import (
    THRESHOLD_SEED,
    Case,
    misplaced,
    patch_case,
    phantom_cases,
    real_case_list,
    shape_cases,
)
from onnx_models.training.segmenter_data import read
from onnx_models.training.segmenter_task import HELD_OUT

THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
SPACINGS = ((0.7, 1.0), (1.0, 1.5), (1.5, 2.0), (2.0, 3.3))
"""Groups by spacing between slices, mm."""
REGIONS = {"neck": "C", "chest": "T", "loin": "L"}
VOLUME_GOAL = 0.05
JITTERS = 2


class Figure(NamedTuple):
    """One vertebra, as segmented against the truth.

    Attributes
    ----------
    group, level
        Patient or shape, and anatomical level.
    dice, body_dice, posterior_dice
        Of the masks on the grid of the volume.
    surface_mm
        Mean distance between the two surfaces, both ways.
    volume_ratio, body_ratio
        Voxels of the mask over the true volume (of which partial volume is counted).
    body_mask_ratio
        Voxels of the body's mask over those of the true one.
    spacing_mm
        Between slices.
    """

    group: int
    level: str
    dice: float
    body_dice: float
    posterior_dice: float
    surface_mm: float
    volume_ratio: float
    body_ratio: float
    body_mask_ratio: float
    spacing_mm: float


def figure_of(case: Case, models: Models, settings: MaskSettings) -> Figure:
    """Segment the vertebra and compare."""
    masks = segment(case.volume, case.centre[None], models, settings)
    said = masks.labels > 0
    body = said & (masks.parts == BODY)
    volumes = np.nan_to_num(masks.volumes_ml[0])
    return Figure(
        case.group,
        case.level,
        dice_of(said, case.vertebra),
        dice_of(body, case.body),
        dice_of(said & ~body, case.vertebra & ~case.body),
        surface_distance(said, case.vertebra, case.volume.spacing_mm),
        float(volumes[0] / case.vertebra_ml),
        float(volumes[1] / case.body_ml),
        float(body.sum() / case.body.sum()),
        case.volume.spacing_mm[0],
    )


def _of(name: str, over: Callable[[NDArray[np.float64]], Any]) -> Callable[[Sequence[Sequence[Figure]]], float]:
    return lambda groups: float(over(np.array([getattr(f, name) for g in groups for f in g])))


FIGURES: dict[str, Callable[[Sequence[Sequence[Figure]]], float]] = {
    "dice": _of("dice", np.nanmean),
    "dice_p5": _of("dice", lambda x: np.nanpercentile(x, 5)),
    "body_dice": _of("body_dice", np.nanmean),
    "posterior_dice": _of("posterior_dice", np.nanmean),
    "surface_mm": _of("surface_mm", np.nanmean),
    "volume_ratio": _of("volume_ratio", np.nanmean),
    "volume_error": _of("volume_ratio", lambda x: np.nanmean(np.abs(x - 1))),
    "body_ratio": _of("body_ratio", np.nanmean),
    "body_volume_error": _of("body_ratio", lambda x: np.nanmean(np.abs(x - 1))),
    "body_mask_ratio": _of("body_mask_ratio", np.nanmean),
    "body_within_5_percent": _of("body_ratio", lambda x: np.mean(np.abs(x - 1) <= VOLUME_GOAL)),
}


def summary(figures: Iterable[Figure], rounds: int = 400) -> dict[str, Any]:
    """Each of `FIGURES` as [value, low, high]: 95 % bootstrap over patients or shapes; value only of a single one."""
    groups: dict[int, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.group, []).append(figure)
    listed = list(groups.values())
    out: dict[str, Any] = {"vertebrae": sum(len(g) for g in listed), "groups": len(listed)}
    for name, figure_over in FIGURES.items():
        if len(listed) < 2:
            out[name] = round(figure_over(listed), 4)
        else:
            found = bootstrapped(listed, figure_over, repeats=rounds)
            out[name] = [round(x, 4) for x in (found.value, found.low, found.high)]
    return out


def evaluated(models: Models, settings: MaskSettings, patients: int, shapes_each: int = 4) -> dict[str, Any]:
    """Every figure of the segmenter; real shapes and images only where they are beside the project."""
    figures = [figure_of(c, models, settings) for c in phantom_cases(patients)]
    out: dict[str, Any] = {"settings": settings.__dict__, "patch": list(SHAPE), "phantoms": summary(figures)}
    for low, high in SPACINGS:
        group = [f for f in figures if low <= f.spacing_mm < high]
        if group:
            out[f"phantoms {low} to {high} mm"] = summary(group)
    for name, letter in REGIONS.items():
        group = [f for f in figures if f.level[0] == letter]
        if group:
            out[f"phantoms, {name}"] = summary(group)
    out["limits of the patch"] = limits(phantom_cases(patients))
    out["worst phantoms"] = [_brief(f) for f in sorted(figures, key=lambda f: f.dice)[:6]]
    if real_folder() is None:
        return {**out, "real": "not measured: the folder of real images is absent"}
    out["held-out shapes"] = summary(figure_of(c, models, settings) for c in shape_cases(each=shapes_each))
    for case in real_case_list():
        out[f"real {case.level}"] = _brief(figure_of(case, models, settings))
        moved = [figure_of(misplaced(case, seed), models, settings) for seed in range(JITTERS)]
        out[f"real {case.level}, centroids off by 4 mm"] = summary(moved)
    return out


def limits(cases: Iterable[Case]) -> dict[str, float]:
    """What the patch itself allows: Dice of the true vertebra, averaged to its voxels and brought back to the volume.

    And the part of the true vertebra that lies outside the patch.
    """
    offsets = (np.arange(4) - 1.5) * STEP_MM / 4  # 64 samples a voxel
    dice, outside = [], []
    for case in cases:
        affine = affine_of(case.centre)
        points = points_of(affine)
        share = np.zeros(SHAPE, np.float32)
        for offset in itertools.product(offsets, repeat=3):
            index = np.rint(case.volume.to_index(points + np.array(offset))).astype(int)
            seen = ((index >= 0) & (index < case.vertebra.shape)).all(axis=-1)
            index[~seen] = 0
            share += seen & case.vertebra[tuple(np.moveaxis(index, -1, 0))]
        k, j, i = case.vertebra.shape
        everywhere = (slice(0, k), slice(0, j), slice(0, i))
        dice.append(dice_of(on_grid(share / np.float32(64), affine, case.volume, everywhere) >= 0.5, case.vertebra))
        to_patch = np.linalg.inv(affine)
        at = case.volume.to_lps(np.argwhere(case.vertebra).astype(np.float64)) @ to_patch[:3, :3].T + to_patch[:3, 3]
        outside.append(float(((at < -0.5) | (at > np.array(SHAPE) - 0.5)).any(axis=1).mean()))
    return {
        "dice": round(float(np.mean(dice)), 4),
        "dice_p5": round(float(np.percentile(dice, 5)), 4),
        "outside": round(float(np.mean(outside)), 5),
    }


def _brief(figure: Figure) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in figure._asdict().items()}


@dataclass(frozen=True)
class _Once(Models):
    """Runs the network once for each patch, however many thresholds are compared."""

    known: dict[bytes, dict[str, NDArray[np.float32]]] = field(default_factory=dict)

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        key = inputs["patch"].tobytes()
        if key not in self.known:
            self.known[key] = super().run(name, inputs)
        return self.known[key]


def choose_threshold(models: Models, settings: MaskSettings, cases: list[Case]) -> dict[str, Any]:
    """Mean figures at each of `THRESHOLDS` on held-out patches."""
    once = _Once(models.sessions, models.identities, models.provider)
    found: dict[float, list[Figure]] = {threshold: [] for threshold in THRESHOLDS}
    for case in cases:
        once.known.clear()
        for threshold, figures in found.items():
            figures.append(figure_of(case, once, replace(settings, threshold=threshold)))
    return {
        str(threshold): {name: round(over([figures]), 4) for name, over in FIGURES.items()}
        for threshold, figures in found.items()
    }


def threshold_cases(each: int = 4) -> dict[str, list[Case]]:
    """Held-out patches by source, other ones than those that are judged."""
    phantoms = [patch_case(p, n) for n, p in enumerate(read(sorted(HELD_OUT.glob("held-out_*.npz"))))]
    shapes = shape_cases(THRESHOLD_SEED, each) if real_folder() is not None else []
    return {"phantoms": phantoms, "shapes": shapes}


def cost(models: Models, settings: MaskSettings, vertebrae: int = 18, slices: int = 300) -> dict[str, Any]:
    """Processor seconds of masks on a volume of ``slices`` x 512 x 512, 1.5 x .8 x .8 mm, with blocks for vertebrae."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 0.8], [0, 0.8, 0], [-1.5, 0, 0]])
    affine[:3, 3] = (-205.0, -200.0, 1.5 * slices - 10.0)
    volume = Volume(np.full((slices, 512, 512), -50, np.int16), affine)
    centroids = np.array([[0.0, 20.0, 1.5 * slices - 30.0 - 22.0 * n] for n in range(vertebrae)])
    for k, j, i in np.rint(volume.to_index(centroids)).astype(int):
        volume.hu[k - 6 : k + 7, j - 18 : j + 18, i - 22 : i + 22] = 250
        volume.hu[k - 4 : k + 4, j + 30 : j + 45, i - 25 : i + 25] = 300
        volume.hu[k - 5 : k + 5, j + 38 : j + 75, i - 6 : i + 6] = 300
    began = time.process_time()
    found = segment(volume, centroids, models, settings)
    return {
        "processor_s": round(time.process_time() - began, 2),
        "found": int(np.isfinite(found.volumes_ml[:, 0]).sum()),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.segmenter_evaluation", description=__doc__)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--mirrored", action="store_true", help="the mean of the patch and its mirror image")
    parser.add_argument("--threshold", action="store_true", help="compare thresholds on other held-out patches instead")
    parser.add_argument("--cost", action="store_true", help="processor time of one core instead")
    parser.add_argument("--card", action="store_true", help="write the figures into the model's card")
    options = parser.parse_args(arguments)
    models = load_models(options.models, "cpu", threads=1, names=["segmenter"])
    settings = replace(MaskSettings(), mirrored=MaskSettings().mirrored or options.mirrored)
    if options.threshold:
        answer = {n: choose_threshold(models, settings, cases) for n, cases in threshold_cases().items() if cases}
    elif options.cost:
        answer = cost(models, settings)
    else:
        answer = evaluated(models, settings, options.patients)
        if options.card:
            path = options.models / "segmenter.md"
            command = f"python -m onnx_models.training.segmenter_evaluation --card --patients {options.patients}"
            path.write_text(written(path.read_text(), answer, models.identities[0].sha256, command))
    print(json.dumps(answer, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
