"""``phantom-eval/2`` is what it says: fixed, in its groups, with and without anchors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.sampling import extent
from onnx_models.training.evaluation_groups import (
    NO_ANCHOR,
    PARAMETERS,
    GroupSet,
    group_case,
    group_patient,
    load_groups,
)
from onnx_models.training.evaluation_set import load_set
from onnx_models.training.labeller_scenes import named_centres


@pytest.fixture(scope="module")
def chosen() -> GroupSet:
    return load_groups()


def small(chosen: GroupSet) -> GroupSet:
    """The same patients through a coarser scanner, so that a test need not wait."""
    return replace(chosen, most_voxels=60_000, spacings_mm=((3.0, 3.2),))


def test_hash_and_base(chosen: GroupSet) -> None:
    assert chosen.sha256 == hashlib.sha256(PARAMETERS.read_bytes()).hexdigest()
    assert chosen.name == "phantom-eval/2"
    assert chosen.ranges == load_set().ranges
    assert all(set(group.views) <= set(chosen.views) for group in chosen.groups.values())


def test_another_base_is_refused(tmp_path: Path) -> None:
    values = json.loads(PARAMETERS.read_text())
    values["base_sha256"] = "0" * 64
    path = tmp_path / "set.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"phantom-eval-1\.json"):
        load_groups(path)


def test_unknown_parameters_are_refused(tmp_path: Path) -> None:
    values = json.loads(PARAMETERS.read_text())
    values["surprise"] = 1
    path = tmp_path / "set.json"
    path.write_text(json.dumps(values))
    with pytest.raises(TypeError, match="surprise"):
        load_groups(path)


@pytest.mark.parametrize(
    ("group", "last"),
    [("T13", "T13"), ("L6", "L6"), ("eleven thoracic", "T11"), ("four lumbar", "L4"), ("scoliosis", "L5")],
)
def test_patients_are_of_their_group(chosen: GroupSet, group: str, last: str) -> None:
    patient = group_patient(chosen, group, 0)
    levels = [v.level for v in patient.vertebrae]
    kind = [n for n in levels if n[0] == last[0]]
    assert kind[-1] == last
    assert patient.column is not None
    if group == "scoliosis":
        assert abs(patient.column.cobb_deg) >= 20


def test_a_sacralised_vertebra_has_hardly_a_disc_below_it(chosen: GroupSet) -> None:
    patient = group_patient(chosen, "sacralised", 1)
    assert patient.column is not None and patient.column.sacralised


def test_views_keep_or_lack_their_anchors(chosen: GroupSet) -> None:
    for index in range(3):
        for group, anchored in ((NO_ANCHOR, False), ("partial views", True)):
            made = group_case(small(chosen), group, index)
            low, high = (float(corner[2]) for corner in extent(made.volume))
            names, centres = named_centres(made.patient)
            inside = {n for n, c in zip(names, centres, strict=True) if low + 8 <= c[2] <= high - 8}
            anchors = {"C2", "S1"} & inside or {"T12", "L1"} <= inside
            assert bool(anchors) == anchored, (group, index, inside)


def test_a_case_is_the_same_every_time(chosen: GroupSet) -> None:
    first, again = (group_case(small(chosen), NO_ANCHOR, 2) for _ in range(2))
    assert np.array_equal(first.volume.hu, again.volume.hu)
    assert np.array_equal(first.volume.affine, again.volume.affine)
