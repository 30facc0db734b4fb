"""From records to the figures and words of a card, on records made by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from inference.geometry import Volume
from onnx_models.training import evaluate
from onnx_models.training.evaluation_cards import BEGIN, END, localizer_section, replaced, screening_section
from onnx_models.training.evaluation_figures import (
    agreements,
    flagged,
    localizer_figures,
    measured,
    pairs,
    readable,
    screening_figures,
    strata,
    truly_deformed,
    undeformed,
)
from onnx_models.training.evaluation_real import row_of
from onnx_models.training.evaluation_records import pipeline_source
from onnx_models.training.real_cases import RealCase

pytestmark = pytest.mark.training


def true_vertebra(level: str, z: float, loss: float = 0.0, view: str = "whole", metal: bool = False) -> dict:
    """A vertebra of 20, 17, 20 mm that has lost part of its anterior height."""
    heights = [20.0 * (1 - loss), 17.0, 20.0]
    return {
        "level": level,
        "view": view,
        "centre": [0.0, 0.0, z],
        "middle": [0.0, 0.0, z],
        "points": [[0.0, 0.0, z]] * 6,
        "heights": heights,
        "loss": [loss, 0.0, 0.0],
        "G": min(heights) / max(heights),
        "deformity": "wedge" if loss else "none",
        "metal": metal,
    }


def found_vertebra(z: float, loss: float = 0.0, grade: str | None = "normal", quality: tuple[str, ...] = ()) -> dict:
    """A finding with the same heights, 1 mm off."""
    heights = [20.0 * (1 - loss), 17.0, 20.0]
    return {
        "centre": [0.0, 1.0, z],
        "points": [[0.0, 1.0, z]] * 6,
        "heights": heights,
        "loss": [loss, 0.0, 0.0],
        "G": min(heights) / max(heights),
        "grade": grade,
        "confidence": 0.9,
        "quality": list(quality),
    }


def record(truth: list[dict], found: list[dict], flag: bool | None = False, refusal: str | None = None) -> dict:
    return {
        "kind": "patient",
        "index": 0,
        "region": "chest",
        "spacing_mm": 1.2,
        "seconds": 2.0,
        "vertebrae": truth,
        "answer": {
            "line_mm": [1.0 if v["view"] == "whole" else None for v in truth],
            "line_refusal": refusal,
            "refusal": refusal,
            "flag": flag,
            "found": found,
        },
    }


@pytest.fixture
def healthy() -> dict:
    return record(
        [true_vertebra("T12", 0), true_vertebra("L1", -30), true_vertebra("L2", -60, view="cut")],
        [found_vertebra(0), found_vertebra(-30), found_vertebra(-60)],
    )


@pytest.fixture
def broken() -> dict:
    return record(
        [true_vertebra("T12", 0, 0.4), true_vertebra("L1", -30), true_vertebra("L2", -60), true_vertebra("S1", -90)],
        [found_vertebra(0, 0.38, "moderate"), found_vertebra(-30), found_vertebra(-29), found_vertebra(-90)],
        flag=True,
    )


def test_patients_whose_vertebrae_are_all_cut_must_be_refused(healthy: dict) -> None:
    cut = record([true_vertebra("L1", 0, view="cut"), true_vertebra("S1", -30)], [], None, "NO_SPINE_FOUND")
    assert readable(healthy) and not readable(cut)


def test_pairs(healthy: dict, broken: dict) -> None:
    right, missed, false = pairs(healthy)
    assert [p.truth["level"] for p in right] == ["T12", "L1", "L2"]
    assert not missed and not false, "a finding on a cut vertebra is no mistake"
    right, missed, false = pairs(broken)
    assert [p.truth["level"] for p in right] == ["T12", "L1"]
    assert [v["level"] for v in missed] == ["L2"]
    assert len(false) == 2, "L1 found twice, and the sacrum"
    assert [p.truth["level"] for p in measured(healthy)] == ["T12", "L1"], "cut ones are not compared"


def test_flag_rules(healthy: dict, broken: dict) -> None:
    assert truly_deformed(broken) and not truly_deformed(healthy)
    assert undeformed(healthy) and not undeformed(broken)
    implant = record([true_vertebra("L1", 0, 0.5, metal=True)], [])
    assert not truly_deformed(implant), "cement and hardware are never graded"
    assert not undeformed(implant)
    assert flagged(found_vertebra(0, grade="moderate"))
    assert not flagged(found_vertebra(0, grade="moderate", quality=("G_ONLY",)))
    assert flagged(found_vertebra(0, grade="severe", quality=("G_ONLY",)))
    assert not flagged(found_vertebra(0, grade=None))


def test_figures(healthy: dict, broken: dict) -> None:
    missed = copy.deepcopy(broken)
    missed["answer"]["flag"] = False
    negative = {**record([], [], None, "NO_SPINE_FOUND"), "kind": "negative"}
    found = screening_figures([healthy, broken, missed], [negative])
    assert found["recall"].value == pytest.approx(6 / 8)
    assert found["precision"].value == pytest.approx(7 / 11)
    assert found["sensitivity"].value == 0.5
    assert found["specificity"].value == 1.0
    assert found["specificity"].count == 1
    assert found["false_flags"].value == 0.0
    assert found["point_error_mm"].value == pytest.approx(1.0)
    assert found["height_error_mm"].value == pytest.approx(2 * 0.4 / 18)
    assert found["slope_of_loss"].value == pytest.approx(0.95)
    assert found["auc_loss_vertebra"].value == 1.0
    assert found["negatives_refused"].value == 1.0
    assert found["negatives_flagged"].value == 0.0
    line = localizer_figures([healthy, broken], [negative])
    assert line["error_mean_mm"].value == 1.0
    assert line["error_mean_mm"].count == 5, "the sacrum and cut vertebrae do not count"


def test_refused_patient_counts_against_sensitivity_only(broken: dict) -> None:
    refused = record(broken["vertebrae"], [], None, "TOO_LITTLE_SPINE")
    normal = record([true_vertebra("L1", 0)], [], None, "TOO_LITTLE_SPINE")
    found = screening_figures([broken, refused, normal], [])
    assert found["sensitivity"].value == 0.5
    assert found["specificity"].count == 0
    assert found["evaluated"].value == pytest.approx(1 / 3)


def test_strata_hold_every_patient(healthy: dict) -> None:
    patients = [{**healthy, "spacing_mm": s} for s in (0.6, 1.0, 1.01, 1.5, 2.0, 3.0)]
    assert [len(p) for p in strata(patients).values()] == [2, 2, 2]


def told(patients: list[dict]) -> dict:
    """As `evaluate.figures` makes it."""
    return {
        "set": "phantom-eval/1",
        "set_sha256": "a" * 64,
        "phantom_sha256": "b" * 64,
        "models": {"localizer": "c" * 64},
        "date": "2026-01-01",
        "patients_seen": len(patients),
        "patients": len(patients),
        "patients_of_the_set": 160,
        "negatives": 0,
        "vertebrae": 5,
        "seconds_per_patient": 2.0,
        "real": [],
        "localizer": {k: asdict(v) for k, v in localizer_figures(patients, []).items()},
        "screening": {k: asdict(v) for k, v in screening_figures(patients, []).items()},
        "agreement": {k: asdict(v) for k, v in agreements(patients).items()},
        "constant_d_g_above": 0.035,
        "strata": {
            n: {k: asdict(v) for k, v in screening_figures(p, []).items()} | {"patients": len(p)}
            for n, p in strata(patients).items()
        },
    }


def test_cards_are_written_between_their_markers(tmp_path: Path, healthy: dict, broken: dict) -> None:
    for name in ("localizer.md", "keypoints.md"):
        (tmp_path / name).write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    numbers = json.loads(json.dumps(told([healthy, broken])))
    assert evaluate.write_cards(tmp_path, numbers, "make evaluate") == ["localizer.md", "keypoints.md"]
    card = (tmp_path / "keypoints.md").read_text()
    assert card.startswith("# Before") and card.endswith("After\n") and "old" not in card
    assert "2 of 160 patients" in card, "a card says of how many patients it speaks"
    assert "`make evaluate`" in card and "`aaaaaaaaaaaa`" in card
    assert "the images are absent" in card
    again = card
    evaluate.write_cards(tmp_path, numbers, "make evaluate")
    assert (tmp_path / "keypoints.md").read_text() == again
    assert "error at the vertebra centres" in localizer_section(numbers, "x")
    assert "sensitivity" in screening_section(numbers, "x")


def test_card_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="two markers"):
        replaced("# a card", "figures")


def test_real_row() -> None:
    case = RealCase(
        "ct",
        Volume(np.zeros((2, 2, 2), np.int16), np.eye(4)),
        True,
        {"L4": np.array([0.0, 0, 0]), "S1": np.array([0.0, 0, -60])},
        {"L4": (20.0, 18.0, 20.0)},
    )
    answer = record([], [found_vertebra(0), found_vertebra(-60), found_vertebra(80)])["answer"]
    row = row_of(case, {**answer, "line_mm": [1.5, None]}, localizer_only=False)
    assert row.centre_mm == {"L4": 1.0}
    assert row.extra == 2, "the sacrum, and one outside"
    assert row.height_error_mm == {"L4": pytest.approx(1 / 3, abs=0.01)}
    assert row.line_mm == {"L4": 1.5, "S1": None}
    assert row.answer == "no flag, 3 measured of 3 found"


def test_negatives_are_among_the_first_jobs() -> None:
    todo = evaluate.jobs(3, 2)
    assert todo == [("patient", 0), ("negative", 0), ("patient", 1), ("negative", 1), ("patient", 2)]


def test_records_depend_on_the_modules_that_the_pipeline_imports_and_no_others() -> None:
    names = {path.stem for path in pipeline_source()}
    assert {"ct", "joining", "runtime", "findings", "sampling"} <= names
    assert not [name for name in names if name.startswith("film") or name == "radiograph"]
    assert {"radiograph", "film_bodies"} <= {path.stem for path in pipeline_source("radiograph")}
