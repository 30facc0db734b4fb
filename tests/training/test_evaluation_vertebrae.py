"""Records of ``phantom-eval/2`` hold what is true and what was said, and their figures count what they claim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.ct import CtAnswer
from inference.findings import Findings, Level, Numbering, PatientFinding, VertebraFinding
from onnx_models.training.evaluation_group_cards import group_figures, masks_section, names_section, scores_section
from onnx_models.training.evaluation_group_figures import mask_figures, name_figures, reliability, score_figures
from onnx_models.training.evaluation_groups import group_case, load_groups
from onnx_models.training.evaluation_set import EvaluationCase
from onnx_models.training.evaluation_vertebrae import judged, named_truth, parts_of


@pytest.fixture(scope="module")
def case() -> EvaluationCase:
    chosen = replace(load_groups(), most_voxels=250_000, spacings_mm=((2.0, 2.2),))
    return group_case(chosen, "partial views", 1)


def answer_of(case: EvaluationCase, wrong: str | None = None) -> CtAnswer:
    """The truth as an answer, with one name wrong, and half of the mask of the lowest vertebra missing."""
    parts, truth = parts_of(case), named_truth(case)
    whole = [v for v in truth["vertebrae"] if v["view"] == "whole"]
    labels = np.zeros(case.volume.hu.shape, np.uint8)
    vertebrae = []
    for n, v in enumerate(whole, start=1):
        own = parts[0] == v["number"]
        labels[own] = n
        name = Level(v["level"]) if v["level"] != wrong else Level.T6
        x, y, z = v["centre"]
        vertebrae.append(VertebraFinding(n, (x, y, z), level=name, level_confidence=0.95, vertebra_volume_ml=10.0))
    own = np.argwhere(labels == len(whole))
    labels[tuple(own[: len(own) // 2].T)] = 0
    findings = Findings("ct", "2", None, (), PatientFinding(None, None, ""), tuple(vertebrae))
    findings = replace(findings, numbering=Numbering("last rib", 0.9))
    return CtAnswer(findings, labels=labels, parts=parts[1])


def test_parts_lie_at_the_centres_of_their_vertebrae(case: EvaluationCase) -> None:
    parts = parts_of(case)
    for number, vertebra in enumerate(case.patient.vertebrae, start=1):
        index = np.rint(case.volume.to_index(vertebra.centroid_lps_mm)).astype(int)
        if np.all((index >= 0) & (index < parts.shape[1:])):
            assert parts[:, index[0], index[1], index[2]].tolist() == [number, 1]


def test_a_record_compares_masks_and_names(case: EvaluationCase) -> None:
    truth = named_truth(case)
    names = [v["level"] for v in truth["vertebrae"] if v["view"] == "whole"]
    record = judged(case.volume, parts_of(case), truth, answer_of(case, wrong=names[0])) | {"group": "partial views"}
    found = {v["level"]: v["found"] for v in record["vertebrae"] if "found" in v}
    assert list(found) == names
    assert found[names[0]]["level"] == "T6"
    assert found[names[1]]["dice"] == 1.0
    assert found[names[1]]["surface_mm"] == 0.0
    assert found[names[-1]]["dice"] == pytest.approx(2 / 3, abs=0.01)
    made = name_figures([record])
    assert made["found"].value == 1.0
    assert made["identified"].value == pytest.approx(1 - 1 / len(names))
    assert made["sure_right"].value == pytest.approx(1 - 1 / len(names))
    assert made["numbering_known"].value == 1.0


def vertebra(name: str, loss: float = 0.0, **found: Any) -> dict[str, Any]:
    usual = {"level": name, "level_confidence": 0.95, "score": 5.0, "volumes_ml": [11.0, 6.0]}
    usual |= {"dice": 0.9, "body_dice": 0.92, "surface_mm": 0.6}
    return {
        "level": name,
        "view": "whole",
        "loss": [loss, 0.0, 0.0],
        "metal": False,
        "true_ml": [10.0, 6.0],
        "found": usual | found,
    }


def record(vertebrae: list[dict[str, Any]], group: str = "ordinary", **answer: Any) -> dict[str, Any]:
    said = {"refusal": None, "numbering": True, "anchor": "sacrum", "elsewhere": []} | answer
    return {"group": group, "spacing_mm": 1.5, "seconds": 2.0, "vertebrae": vertebrae, "answer": said}


def test_a_vertebra_without_a_mask_counts_with_nothing() -> None:
    missed = vertebra("L3")
    del missed["found"]
    made = mask_figures([record([vertebra("L1"), vertebra("L2", dice=None, surface_mm=None), missed])])
    assert made["dice"].value == pytest.approx(0.3)
    assert made["surface_mm"].value == pytest.approx(0.6)
    assert made["volume_error"].value == pytest.approx(0.1)
    assert made["body_volume_error"].value == pytest.approx(0.0)


def test_names_given_to_nothing_are_wrong() -> None:
    elsewhere = [{"level": "L4", "level_confidence": 0.97}]
    made = [record([vertebra("L1"), vertebra("L2", level=None)], elsewhere=elsewhere)]
    figures = name_figures(made)
    assert figures["identified"].value == 0.5
    assert figures["sure_right"].value == 0.5
    assert [row["names"] for row in reliability(made)] == [1, 1]


def test_scores_tell_the_deformed_from_the_others() -> None:
    vertebrae = [vertebra(f"T{n}", score=float(n)) for n in range(5, 10)]
    vertebrae += [vertebra("T10", loss=0.3, score=40.0), vertebra("T11", loss=0.5, score=70.0)]
    made = score_figures([record(vertebrae)])
    assert made["auc"].value == 1.0
    assert made["specificity_at_90"].value == 1.0
    assert made["normal"].value == pytest.approx(7.0)
    assert made["severe"].value == 70.0


def test_sections_say_every_group() -> None:
    records = [record([vertebra("L1")]), record([vertebra("L1")], group="L6")]
    head = {"set": "phantom-eval/2", "set_sha256": "0" * 64, "phantom_sha256": "1" * 64, "date": "today"}
    told = group_figures(records, head | {"models": {"labeller": "2" * 64}})
    for section in (names_section, masks_section, scores_section):
        text = section(told, "the command")
        assert "| ordinary |" in text and "| L6 |" in text and "the command" in text
    assert "1 to 2 mm" in masks_section(told, "")
