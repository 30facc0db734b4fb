"""``phantom-eval/1``: the patients that every shipped model is judged on, fixed by one file.

``phantom-eval-1.json`` holds the seed and every range, apart from the training's and wider; its SHA-256 stands in each
model card, and a commit that changes it scores old and new weights again. Patients with an even index are undeformed,
deformities go through the levels in turn, as do fields of view and spacings. A second list holds images that must be
refused: fields of view beside the spine, limbs, heads, test objects.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference.geometry import Volume
from onnx_models.training.phantom import (
    Grid,
    Patient,
    Plan,
    Ranges,
    acquire,
    sample_grid,
    sample_negative,
    sample_patient,
)

PARAMETERS = Path(__file__).with_name("phantom-eval-1.json")
_ANATOMY, _DEFORMITY, _ACQUISITION, _NEGATIVE = range(4)


@dataclass(frozen=True)
class EvaluationSet:
    """What the parameter file says, and its SHA-256."""

    name: str
    seed: int
    patients: int
    negatives: int
    regions: tuple[str, ...]
    spacings_mm: tuple[tuple[float, float], ...]
    """Strata of slice spacing, taken in turn; within one it is drawn uniformly."""
    pixel_mm: tuple[float, float]
    most_voxels: int
    levels: dict[str, tuple[str, ...]]
    """Levels deformed in turn, by region, so that they lie in the field of view."""
    kinds: tuple[str, ...]
    loss: tuple[float, float]
    deformed_count: tuple[int, int]
    ranges: Ranges
    sha256: str


@dataclass(frozen=True)
class EvaluationCase:
    """One acquired patient with its truth."""

    index: int
    region: str
    spacing_mm: float
    patient: Patient
    volume: Volume


def load_set(path: Path = PARAMETERS) -> EvaluationSet:
    """Read the parameter file. An unknown or missing name raises ``TypeError``."""
    raw = path.read_bytes()
    values: dict[str, Any] = json.loads(raw)
    ranges = Ranges.from_json(json.dumps(values.pop("ranges")))
    levels = {region: tuple(names) for region, names in values.pop("levels").items()}
    spacings = tuple(tuple(pair) for pair in values.pop("spacings_mm"))
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return EvaluationSet(
        **plain, levels=levels, spacings_mm=spacings, ranges=ranges, sha256=hashlib.sha256(raw).hexdigest()
    )


def _rng(chosen: EvaluationSet, index: int, part: int) -> np.random.Generator:
    return np.random.default_rng([chosen.seed, part, index])


def anatomy(chosen: EvaluationSet, index: int) -> tuple[Patient, str]:
    """Patient of that index and the region that is scanned, before acquisition."""
    region = chosen.regions[(index // 2) % len(chosen.regions)]
    deformities: dict[str, tuple[str, float]] = {}
    if index % 2:
        rng = _rng(chosen, index, _DEFORMITY)
        levels = chosen.levels[region]
        first = (index // 2 // len(chosen.regions)) % len(levels)
        count = int(rng.integers(chosen.deformed_count[0], chosen.deformed_count[1] + 1))
        others = rng.permutation([name for name in levels if name != levels[first]])[: count - 1]
        for name in [levels[first], *(str(o) for o in others)]:
            deformities[name] = (str(rng.choice(chosen.kinds)), float(rng.uniform(*chosen.loss)))
    return sample_patient(_rng(chosen, index, _ANATOMY), chosen.ranges, Plan(deformities=deformities)), region


def case(chosen: EvaluationSet, index: int) -> EvaluationCase:
    """Patient of that index as a scanner shows it."""
    patient, region = anatomy(chosen, index)
    rng = _rng(chosen, index, _ACQUISITION)
    spacing = float(rng.uniform(*chosen.spacings_mm[(index // 2) % len(chosen.spacings_mm)]))
    grid = _field_of_view(chosen, patient, rng, spacing, region)
    return EvaluationCase(index, region, spacing, patient, acquire(patient, grid, rng, chosen.ranges))


def negative(chosen: EvaluationSet, index: int) -> EvaluationCase:
    """Image of that index that must be refused: in turn a view beside the spine, and an object without one."""
    rng = _rng(chosen, index, _NEGATIVE)
    spacing = float(rng.uniform(*chosen.spacings_mm[(index // 2) % len(chosen.spacings_mm)]))
    if index % 2:
        patient, region = sample_negative(rng, chosen.ranges), "no spine"
        grid = _field_of_view(chosen, patient, rng, spacing, "part")
    else:
        patient, region = sample_patient(rng, chosen.ranges), "off-spine"
        grid = _field_of_view(chosen, patient, rng, spacing, region)
    return EvaluationCase(index, region, spacing, patient, acquire(patient, grid, rng, chosen.ranges))


def _field_of_view(
    chosen: EvaluationSet, patient: Patient, rng: np.random.Generator, spacing: float, region: str
) -> Grid:
    """A grid of that slice spacing; pixels are made larger until the volume has at most ``most_voxels``."""
    pixel = float(rng.uniform(*chosen.pixel_mm))
    while True:
        grid = sample_grid(patient, copy.deepcopy(rng), chosen.ranges, (spacing, pixel, pixel), region)
        voxels = int(np.prod(grid.shape, dtype=np.int64))
        if voxels <= chosen.most_voxels:
            rng.random()
            return grid
        pixel *= 1.02 * float(np.sqrt(voxels / chosen.most_voxels))
