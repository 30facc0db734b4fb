"""``phantom-eval/1`` is what it says: fixed, half undeformed, stratified, and like real vertebrae."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.sampling import inside
from onnx_models.training import evaluation_set
from onnx_models.training.evaluation_set import PARAMETERS, EvaluationSet, anatomy, case, load_set, negative
from onnx_models.training.phantom import TRAINING, Patient, Ranges


@pytest.fixture(scope="module")
def chosen() -> EvaluationSet:
    return load_set()


@pytest.fixture(scope="module")
def patients(chosen: EvaluationSet) -> list[Patient]:
    """Every fourth pair: undeformed and deformed alike."""
    return [anatomy(chosen, i)[0] for i in range(chosen.patients) if i // 2 % 4 == 0]


def test_hash_and_size(chosen: EvaluationSet) -> None:
    assert chosen.sha256 == hashlib.sha256(PARAMETERS.read_bytes()).hexdigest()
    assert chosen.name == "phantom-eval/1"
    assert chosen.patients >= 150


def test_apart_from_the_training_and_wider(chosen: EvaluationSet) -> None:
    for name in ("size", "kyphosis_spread", "cobb_deg", "trabecular_hu", "noise_hu", "contrast_hu", "hu_offset"):
        low, high = getattr(TRAINING, name)
        wide = getattr(chosen.ranges, name)
        assert wide[0] <= low and wide[1] >= high and wide != (low, high), name


def test_half_of_the_patients_are_undeformed(chosen: EvaluationSet, patients: list[Patient]) -> None:
    deformed = [any(v.deformity != "none" for v in p.vertebrae) for p in patients]
    assert deformed == [bool(i % 2) for i in range(len(patients))]


def test_thoracic_shapes_are_those_of_real_chests(patients: list[Patient]) -> None:
    # median, 75 and 95 % of 1,339 vertebrae in 100 chest CTs; the lower percentiles there include fractures
    g = [v.G for p in patients for v in p.vertebrae if v.level[0] == "T"]
    assert len(g) > 450
    assert np.percentile(g, [50, 75, 95]) == pytest.approx([0.844, 0.874, 0.919], abs=0.02)


def test_lumbar_shapes_are_those_of_healthy_lumbar_spines(patients: list[Patient]) -> None:
    # healthy L1 to L5 have G of .77 to .84, and L4 and L5 are lower behind than in front
    for level in ("L1", "L2", "L3", "L4", "L5"):
        heights = np.array([v.healthy_heights_mm for p in patients for v in p.vertebrae if v.level == level])
        g = float(np.median(heights.min(axis=1) / heights.max(axis=1)))
        assert 0.76 <= g <= 0.85, (level, g)
        if level in ("L4", "L5"):
            assert float(np.median(heights[:, 0] / heights[:, 2])) > 1.03, level


def test_deformities_go_through_the_levels(chosen: EvaluationSet, patients: list[Patient]) -> None:
    hit = {v.level for p in patients for v in p.vertebrae if v.deformity != "none"}
    assert len(hit & {"T6", "T7", "T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5"}) >= 10
    losses = [float(v.loss.max()) for p in patients for v in p.vertebrae if v.deformity != "none"]
    assert min(losses) < 0.25 and max(losses) > 0.4, "mild, moderate and severe"


def test_a_case_is_the_same_every_time(chosen: EvaluationSet) -> None:
    first, again, other = (case(_small(chosen), i) for i in (4, 4, 6))
    assert np.array_equal(first.volume.hu, again.volume.hu)
    assert first.volume.hu.shape != other.volume.hu.shape or not np.array_equal(first.volume.hu, other.volume.hu)
    low, high = chosen.spacings_mm[2]
    assert low <= first.spacing_mm <= high


def _small(chosen: EvaluationSet) -> EvaluationSet:
    """The same patients through a coarser scanner, so that a test need not wait."""
    return replace(chosen, most_voxels=300_000)


def test_negatives_have_no_whole_vertebra(chosen: EvaluationSet) -> None:
    for i in range(4):
        made = negative(_small(chosen), i)
        whole = [v.level for v in made.patient.vertebrae if inside(made.volume, v.keypoints_lps_mm).all()]
        assert whole == [], made.region


def test_unknown_parameters_are_refused(tmp_path: Path) -> None:
    values = json.loads(PARAMETERS.read_text())
    values["surprise"] = 1
    path = tmp_path / "set.json"
    path.write_text(json.dumps(values))
    with pytest.raises(TypeError, match="surprise"):
        evaluation_set.load_set(path)


def test_ranges_are_kept_whole(chosen: EvaluationSet) -> None:
    assert Ranges.from_json(chosen.ranges.to_json()) == chosen.ranges
