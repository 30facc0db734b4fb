"""Whole phantom spines through the shipped segmenter, as cases of the abnormality score: its masks, not perfect ones.

Scans are kept under ``build/training/completion/scans`` once made: remove that folder when the phantom changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.abnormality import Body
from inference.findings import Level
from inference.geometry import Volume
from inference.masks import MaskSettings, segment
from inference.runtime import Models
from onnx_models.training.completion_cases import MILD, Case, phantom_plan
from onnx_models.training.phantom import EVALUATION, Ranges, acquire, canonical_grid, sample_patient

CACHE = Path("build/training/completion/scans")
MARGIN_MM = np.array([[-62.0, -42.0, -30.0], [62.0, 86.0, 30.0]])
"""Field of view about the centroids along (left, back, up)."""
JITTER_MM = 3.0
"""Root mean square distance by which the centroids given to the segmenter are off."""


@dataclass(frozen=True)
class Scan:
    """C7 to the last lumbar vertebra of a phantom in a volume that is narrow about the spine.

    ``loss`` (n,) is the largest loss of height of each; ``centroids`` (n, 3) are what the segmenter is told.
    """

    volume: Volume
    levels: tuple[Level, ...]
    centroids: NDArray[np.float64]
    loss: NDArray[np.float64]


def scan_of(seed: int, index: int, ranges: Ranges = EVALUATION, cache: Path = CACHE) -> Scan:
    """Scan of that index; odd ones are deformed. One seed belongs to one set of ranges."""
    path = cache / f"{seed}-{index:04}.npz"
    if not path.is_file():
        _write(path, _made(seed, index, ranges))
    with np.load(path) as f:
        levels = tuple(Level(str(x)) for x in f["levels"])
        return Scan(Volume(f["hu"], f["affine"]), levels, f["centroids"], f["loss"])


def _made(seed: int, index: int, ranges: Ranges) -> Scan:
    rng = np.random.default_rng([seed, index, 2])
    patient = sample_patient(rng, ranges, phantom_plan(rng, index % 2 == 1))
    shown = [v for v in patient.vertebrae if v.level[0] in "TL" or v.level == "C7"]
    middle = np.array([v.centroid_lps_mm for v in shown])
    plane = float(rng.uniform(0.9, 1.5))
    grid = canonical_grid(
        middle.min(axis=0) + MARGIN_MM[0],
        middle.max(axis=0) + MARGIN_MM[1],
        (float(rng.uniform(0.8, 3.0)), plane, plane),
    )
    volume = acquire(patient, grid, rng, replace(ranges, round_fov=0.0))
    told = middle + rng.normal(0, JITTER_MM / np.sqrt(3), middle.shape)
    loss = np.array([float(v.loss.max()) for v in shown])
    return Scan(volume, tuple(Level(v.level) for v in shown), told, loss)


def _write(path: Path, scan: Scan) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        hu=scan.volume.hu,
        affine=scan.volume.affine,
        levels=[str(x) for x in scan.levels],
        centroids=scan.centroids,
        loss=scan.loss,
    )
    partial.replace(path)


def segmented(scan: Scan, models: Models, settings: MaskSettings | None = None) -> Case:
    """The scan's masks by the segmenter, with the truth about its losses; deformed ones are told as deformed."""
    masks = segment(scan.volume, scan.centroids, models, settings)
    bodies = tuple(
        Body(n + 1, level, bool(loss >= MILD), bool(cut))
        for n, (level, loss, cut) in enumerate(zip(scan.levels, scan.loss, masks.partial, strict=True))
    )
    return Case(masks.labels, masks.parts, scan.volume.affine, bodies, scan.loss)
