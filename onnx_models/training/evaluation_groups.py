"""``phantom-eval/2``: ``phantom-eval/1`` and, beside it, groups of patients whose names are hard to tell.

``phantom-eval-2.json`` holds the seed and the groups: ordinary patients, T13, L6, eleven thoracic and four lumbar
vertebrae, a sacralised last lumbar vertebra, scoliosis, views that cut vertebrae at both ends, and views that hold no
anchor at all, where the only right answer is that the numbering is not known. Ranges are those of ``phantom-eval/1``,
whose file is named by its SHA-256. Volumes are small, so that all groups are judged in minutes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.evaluation_set import PARAMETERS as BASE
from onnx_models.training.evaluation_set import EvaluationCase, load_set
from onnx_models.training.labeller_scenes import named_centres
from onnx_models.training.phantom import Grid, Patient, Plan, Ranges, acquire, canonical_grid, sample_patient

PARAMETERS = Path(__file__).with_name("phantom-eval-2.json")
NO_ANCHOR = "no anchor"
"""The group where nothing may be named."""
DRAWS = 256
End = tuple[str, float, float]
"""Where a view ends: so many mm above the centre of that vertebra, drawn uniformly from low to high. "last rib" is the
lowest thoracic vertebra; of four lumbar ones L4 is L3."""


@dataclass(frozen=True)
class Group:
    """What its patients have in common, and the views of them, taken in turn."""

    views: tuple[str, ...]
    thoracic: int = 12
    lumbar: int = 5
    sacralised: bool = False
    cobb_deg: tuple[float, float] | None = None


@dataclass(frozen=True)
class GroupSet:
    """What the parameter file says, and its SHA-256."""

    name: str
    seed: int
    cases: int
    """Of each group."""
    groups: dict[str, Group]
    views: dict[str, tuple[End, End]]
    """Lower and upper end by name."""
    spacings_mm: tuple[tuple[float, float], ...]
    """Strata of slice spacing, taken in turn; within one it is drawn uniformly."""
    pixel_mm: tuple[float, float]
    width_mm: tuple[float, float]
    most_voxels: int
    ranges: Ranges
    sha256: str


def load_groups(path: Path = PARAMETERS) -> GroupSet:
    """Read the parameter file.

    Raises
    ------
    ValueError
        When ``phantom-eval/1`` is another one than the file names.
    TypeError
        For an unknown or missing name.
    """
    raw = path.read_bytes()
    values = json.loads(raw)
    base = load_set(BASE)
    if values.pop("base_sha256") != base.sha256:
        raise ValueError(f"{path.name} was made for another {BASE.name}: say so in a new version of the set")
    groups = {name: Group(**_tuples(group)) for name, group in values.pop("groups").items()}
    sha = hashlib.sha256(raw).hexdigest()
    return GroupSet(**_tuples(values), groups=groups, ranges=base.ranges, sha256=sha)


def _tuples(value: Any) -> Any:
    """JSON with its lists turned into tuples."""
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def group_patient(chosen: GroupSet, name: str, index: int) -> Patient:
    """Patient of that group: the first of its seeds whose number of vertebrae fits.

    Raises
    ------
    RuntimeError
        When no seed gives such a patient.
    """
    group = chosen.groups[name]
    ranges = replace(
        chosen.ranges,
        thoracic_variant=float(group.thoracic != 12),
        lumbar_variant=float(group.lumbar != 5),
        sacralised=float(group.sacralised),
    )
    for attempt in range(DRAWS):
        rng = np.random.default_rng([chosen.seed, 0, _number(chosen, name), index, attempt])
        plan = None if group.cobb_deg is None else Plan(cobb_deg=float(rng.uniform(*group.cobb_deg)))
        patient = sample_patient(rng, ranges, plan)
        levels = [v.level for v in patient.vertebrae]
        if (sum(n[0] == "T" for n in levels), sum(n[0] == "L" for n in levels)) == (group.thoracic, group.lumbar):
            return patient
    raise RuntimeError(f"no patient of the group {name} in {DRAWS} draws")


def group_case(chosen: GroupSet, name: str, index: int) -> EvaluationCase:
    """That case of a group, as a scanner shows it; ``region`` is the view."""
    patient = group_patient(chosen, name, index)
    group = chosen.groups[name]
    view = group.views[index % len(group.views)]
    rng = np.random.default_rng([chosen.seed, 1, _number(chosen, name), index])
    names, centres = named_centres(patient)
    low, high = _ends(chosen.views[view], dict(zip(names, centres[:, 2].tolist(), strict=True)), rng)
    stratum = chosen.spacings_mm[(index // len(group.views)) % len(chosen.spacings_mm)]
    spacing = float(rng.uniform(*stratum))
    grid = _grid(chosen, centres[(centres[:, 2] >= low) & (centres[:, 2] <= high)], (low, high), spacing, rng)
    return EvaluationCase(index, view, spacing, patient, acquire(patient, grid, rng, chosen.ranges))


def _number(chosen: GroupSet, name: str) -> int:
    return list(chosen.groups).index(name)


def _ends(ends: tuple[End, End], z: dict[str, float], rng: np.random.Generator) -> tuple[float, float]:
    """z of the lower and upper end of a view; ``z``: of the centre of each vertebra, C1 to S1."""
    last = max((n for n in z if n[0] == "T"), key=lambda n: int(n[1:]))
    stands_for = {"last rib": last, "L4": "L4" if "L5" in z else "L3"}
    low, high = (z[stands_for.get(level, level)] + float(rng.uniform(a, b)) for level, a, b in ends)
    return low, high


def _grid(
    chosen: GroupSet,
    centres: NDArray[np.float64],
    ends: tuple[float, float],
    spacing: float,
    rng: np.random.Generator,
) -> Grid:
    """A field of view about these vertebrae; pixels are made larger until it has at most ``most_voxels``."""
    width = float(rng.uniform(*chosen.width_mm))
    x0 = float(centres[:, 0].mean()) - width / 2 + float(rng.uniform(-12, 12))
    y1 = float(centres[:, 1].max()) + float(rng.uniform(50, 90))
    pixel = float(rng.uniform(*chosen.pixel_mm))
    pixel = max(pixel, width / float(np.sqrt(chosen.most_voxels * spacing / (ends[1] - ends[0]))))
    low, high = np.array([x0, y1 - width, ends[0]]), np.array([x0 + width, y1, ends[1]])
    return canonical_grid(low, high, (spacing, pixel, pixel))
