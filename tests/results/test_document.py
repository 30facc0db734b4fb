"""findings.json: promised names, a schema that is kept, null for what was not measured."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from results_synthetic import Case, completed, context, make_case, refused

from inference.findings import KEYPOINTS, Findings, Heights, Numbering
from node.results import findings_document
from node.results.document import SCHEMA_FILE, json_schema


def document(case: Case, findings: Findings | None = None, **more: Any) -> dict[str, Any]:
    made = findings_document(case.source, findings or case.findings, context(), sent=True, **more)
    jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(made)
    return json.loads(json.dumps(made, allow_nan=False))  # type: ignore[no-any-return]


def test_the_shipped_schema_is_up_to_date() -> None:
    assert SCHEMA_FILE.read_text(encoding="ascii") == json_schema(), "run: python -m node.results.schema"
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))


def test_the_promised_names_are_there(flagged: Case) -> None:
    made = document(flagged, timings_s={"results": 0.7})
    assert list(made) == [
        "schema",
        "software",
        "input",
        "status",
        "sent",
        "quality",
        "refusal",
        "pipeline",
        "patient",
        "numbering",
        "acquisition",
        "spacing_along_spine_mm",
        "pixel_size",
        "vertebrae",
        "plan",
        "timings_s",
    ]
    assert made["schema"] == "spine-node/findings/1"
    assert made["software"] == {"name": "spine-node", "version": "0.1.0", "configuration_sha256": "d" * 64}
    assert made["input"]["instances"] == len(flagged.source)
    assert made["input"]["series_instance_uid"] == flagged.source[0].SeriesInstanceUID
    assert (made["status"], made["sent"], made["refusal"]) == ("evaluated", True, None)
    assert made["pipeline"]["models"][0] == {"name": "localizer", "version": "1.0.0", "sha256": "a" * 64}
    assert made["patient"] == {"worst_grade": "severe", "flag": True, "rule": "height-loss/1", "flag_loss": 0.25}
    assert made["quality"] == ["LEVELS_UNKNOWN"]
    assert made["timings_s"] == {"inference": 1.25, "gate": 0.5, "results": 0.7}
    assert (made["plan"], made["numbering"], made["acquisition"]) == (None, None, None)


def test_values_are_those_of_the_findings(flagged: Case) -> None:
    made = document(flagged)["vertebrae"]
    assert [v["ordinal"] for v in made] == list(range(1, 9))
    for given, vertebra in zip(flagged.findings.vertebrae[:7], made, strict=False):
        assert given.heights_mm is not None and given.keypoints_lps_mm is not None
        assert list(vertebra["heights_mm"].values()) == list(given.heights_mm.as_tuple())
        assert list(vertebra["keypoints_lps_mm"]) == list(KEYPOINTS)
        assert tuple(vertebra["keypoints_lps_mm"]["middle_inferior"]) == given.keypoints_lps_mm.middle_inferior
        assert vertebra["height_ratio"] == given.height_ratio
        assert vertebra["grade"] == given.grade
    assert made[0]["quality"] == ["G_ONLY"]


def test_what_was_not_measured_is_null(flagged: Case) -> None:
    last = document(flagged)["vertebrae"][-1]
    for name in (
        *("level", "level_confidence", "keypoints_lps_mm", "keypoints_px", "heights_mm", "height_ratio"),
        *("height_loss", "compression_ratio_percent", "grade", "abnormality_score"),
        *("vertebra_volume_ml", "body_volume_ml", "trabecular_mean_hu", "mask_heights_mm"),
    ):
        assert last[name] is None, name
    assert document(flagged)["vertebrae"][0]["height_loss"] is None, "the first vertebra has no neighbour above"


def test_a_height_of_zero_or_not_a_number_is_refused(flagged: Case) -> None:
    for broken in (Heights(0.0, 20.0, 20.0), Heights(float("nan"), 20.0, 20.0)):
        vertebra = replace(flagged.findings.vertebrae[0], heights_mm=broken)
        findings = replace(flagged.findings, vertebrae=(vertebra, *flagged.findings.vertebrae[1:]))
        with pytest.raises(ValidationError):
            document(flagged, findings)


def test_a_refusal(flagged: Case) -> None:
    made = document(flagged, refused())
    assert made["status"] == "not_evaluable"
    assert made["refusal"] == {
        "code": "GAP_IN_SERIES",
        "sentence": "Slices are missing inside the series. Two slices are missing.",
    }
    assert made["patient"] == {"worst_grade": None, "flag": None, "rule": "height-loss/1", "flag_loss": 0.25}
    assert made["vertebrae"] == []
    assert made["pipeline"]["provider"] is None


def test_an_unsent_refusal_says_so(flagged: Case) -> None:
    assert findings_document(flagged.source, refused(), context(), sent=False)["sent"] is False


def test_levels_and_numbering(whole_spine: Case) -> None:
    findings = replace(whole_spine.findings, numbering=Numbering("sacrum", 0.97, ("T12 as L1",)))
    made = document(whole_spine, findings)
    assert [v["level"] for v in made["vertebrae"]][11:15] == ["T12", "T13", "L1", "L2"]
    assert made["numbering"] == {"anchor": "sacrum", "confidence": 0.97, "alternatives": ["T12 as L1"], "absent": []}
    assert made["quality"] == []


def test_what_masks_give(complete: Case) -> None:
    made = document(complete)
    first = made["vertebrae"][2]
    given = complete.findings.vertebrae[2]
    assert given.mask_heights_mm is not None
    assert list(first["mask_heights_mm"].values()) == list(given.mask_heights_mm.as_tuple())
    assert (first["vertebra_volume_ml"], first["body_volume_ml"]) == (43.0, 25.0)
    assert (first["abnormality_score"], first["trabecular_mean_hu"]) == (given.abnormality_score, 147.0)
    assert made["acquisition"] == {"kvp": 120.0, "contrast": None, "kernel": "B30f", "sharp_kernel": False}


def test_a_numbering_that_is_not_known_keeps_its_alternatives() -> None:
    made = document(completed(make_case(count=3)))
    alternatives = ["T12 to L4 (0.61)", "T11 to L3 (0.35)"]
    assert made["numbering"] == {"anchor": "", "confidence": 0.0, "alternatives": alternatives, "absent": []}
    assert [v["level"] for v in made["vertebrae"]] == [None] * 3


def test_names_without_heights_are_evaluated_without_a_flag(thick: Case) -> None:
    made = document(thick)
    assert (made["status"], made["patient"]["flag"], made["patient"]["worst_grade"]) == ("evaluated", None, None)
    assert made["vertebrae"][0]["level"] == "T8"
    assert made["vertebrae"][0]["heights_mm"] is None


def test_a_document_of_the_version_before_is_still_valid(flagged: Case) -> None:
    made = document(flagged)
    del made["acquisition"]
    for vertebra in made["vertebrae"]:
        del vertebra["mask_heights_mm"], vertebra["mask_relative_heights"]
    jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(made)


def test_seen_but_never_measured_is_not_evaluable_here_too() -> None:
    case = make_case(count=2, unmeasured=(1, 2))
    made = document(case)
    assert (made["status"], made["refusal"]["code"]) == ("not_evaluable", "NO_VERTEBRA_FOUND")
