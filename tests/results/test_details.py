"""details.dcm: everything that an auditor needs, with values that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from results_synthetic import MODELS, Case, context

from node.results import Result, encode, wording


def _items(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _items(child)


def _texts(result: Result, code: str) -> list[str]:
    return [
        str(i.TextValue)
        for i in _items(result.dataset)
        if i.ValueType == "TEXT" and i.ConceptNameCodeSequence[0].CodeValue == code
    ]


def test_the_root_is_our_own_so_that_no_viewer_draws_it(flagged_results: dict[str, Result]) -> None:
    name = flagged_results["details"].dataset.ConceptNameCodeSequence[0]
    assert (name.CodingSchemeDesignator, name.CodeValue) == ("99SPINE", "VFX000")
    (scheme,) = flagged_results["details"].dataset.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99SPINE"
    assert scheme.CodingSchemeName and scheme.CodingSchemeVersion and scheme.CodingSchemeResponsibleOrganization


def test_every_number_is_read_back(
    flagged: Case, flagged_results: dict[str, Result], tid1500: Callable[[Result], list[dict[str, Any]]]
) -> None:
    read = tid1500(flagged_results["details"])
    for vertebra in flagged.findings.vertebrae:
        found = [g for g in read if g["TrackingIdentifier"] == f"spine-node {vertebra.name}"]
        assert len(found) == (2 if vertebra.heights_mm else 1)
        values: dict[str, float] = {}
        for group in found:
            for item in group["measurementItems"]:
                code, value = item["quantity"]["CodeValue"], float(item["value"])
                assert values.setdefault(code, value) == value
        expected: dict[str, float | None] = {"VFX010": vertebra.height_ratio, "VFX021": vertebra.confidence}
        expected["VFX004"] = vertebra.height_uncertainty_mm if vertebra.heights_mm else None
        for i, axis in enumerate(vertebra.centroid_lps_mm, start=1):
            expected[f"VFX03{i}"] = axis
        for numbers, first in ((vertebra.heights_mm, 1), (vertebra.height_loss, 5)):
            for i, value in enumerate(numbers.as_tuple() if numbers else (None, None, None)):
                expected[f"VFX00{first + i}"] = value
        assert values == {code: pytest.approx(v, abs=0.0051) for code, v in expected.items() if v is not None}


def test_end_points_stand_in_patient_coordinates(flagged: Case, flagged_results: dict[str, Result]) -> None:
    lines = [i for i in _items(flagged_results["details"].dataset) if i.ValueType == "SCOORD3D"]
    measured = [v.keypoints_lps_mm for v in flagged.findings.vertebrae if v.keypoints_lps_mm]
    assert len(lines) == 3 * len(measured)
    assert {i.ReferencedFrameOfReferenceUID for i in lines} == {flagged.source[0].FrameOfReferenceUID}
    expected = [
        [*getattr(points, f"{part}_superior"), *getattr(points, f"{part}_inferior")]
        for points in measured
        for part in ("anterior", "middle", "posterior")
    ]
    assert np.array([list(i.GraphicData) for i in lines]) == pytest.approx(np.array(expected), abs=1e-3)


def test_tracking_and_segments_are_those_of_the_segmentation(flagged_results: dict[str, Result]) -> None:
    segmentations = [flagged_results[kind].dataset for kind in ("segmentation", "bodies")]
    segments = {
        s.TrackingUID: (file.SOPInstanceUID, s.SegmentNumber, s.TrackingID)
        for file in segmentations
        for s in file.SegmentSequence
    }
    (measurements,) = [
        i
        for i in flagged_results["details"].dataset.ContentSequence
        if i.ConceptNameCodeSequence[0].CodeValue == "126010"
    ]
    referred = {}
    for group in measurements.ContentSequence:
        uid = next(i.UID for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "112040")
        name = next(i.TextValue for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "112039")
        for item in group.ContentSequence:
            if item.ConceptNameCodeSequence[0].CodeValue == "121191":
                reference = item.ReferencedSOPSequence[0]
                referred[uid] = (reference.ReferencedSOPInstanceUID, reference.ReferencedSegmentNumber, name)
    assert referred == segments
    report_uids = {i.UID for i in _items(flagged_results["report"].dataset) if i.ValueType == "UIDREF"}
    assert {s.TrackingUID for s in segmentations[0].SegmentSequence} <= report_uids


def test_grades_and_the_published_cut_offs_are_coded(flagged_results: dict[str, Result]) -> None:
    coded = [
        (i.ConceptNameCodeSequence[0].CodeValue, i.ConceptCodeSequence[0].CodeValue)
        for i in _items(flagged_results["details"].dataset)
        if i.ValueType == "CODE"
    ]
    severity = [value for name, value in coded if name == "246112005"]
    assert severity == ["17621005"] * 3 + ["24484000", "17621005", "6736007", "17621005"]
    assert [value for name, value in coded if name == "VFX011"].count("VFX112") == 2
    assert ("VFX050", "VFX150") in coded
    assert ("VFX051", "24484000") in coded
    assert not any(name == "42942008" for name, _ in coded), "a fracture code is never sent unasked"


def test_provenance_is_complete(flagged: Case, flagged_results: dict[str, Result]) -> None:
    details = flagged_results["details"]
    assert _texts(details, "VFX063") == [f"{m.name} {m.version} sha256 {m.sha256}" for m in MODELS]
    assert _texts(details, "VFX065") == ["d" * 64]
    assert _texts(details, "VFX066") == ["c" * 64]
    assert _texts(details, "VFX064") == ["CPUExecutionProvider"]
    assert _texts(details, "VFX061") == ["spine-node 0.1.0"]
    assert _texts(details, "VFX077") == ["2026-11-20T23:30:05+01:00"]
    assert _texts(details, "VFX071") == ["gate 0.500 s", "inference 1.250 s"]
    assert _texts(details, "VFX072") == ["mild_loss = 0.2", "moderate_loss = 0.25"]
    assert "height-loss/1" in _texts(details, "VFX040")
    assert any("severe from a loss of 40 %" in t and "flag from a loss of 25 %" in t for t in _texts(details, "VFX040"))
    assert any(t.startswith("G_ONLY: ") for t in _texts(details, "VFX041"))
    assert any(t.startswith("LEVELS_UNKNOWN: ") for t in _texts(details, "VFX041"))
    assert "nor new from old" in _texts(details, "VFX052")[0]
    uids = {i.UID for i in _items(details.dataset) if i.ValueType == "UIDREF"}
    assert flagged.source[0].SeriesInstanceUID in uids
    evidence = {
        s.SeriesInstanceUID: len(s.ReferencedSOPSequence)
        for s in details.dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    }
    assert evidence == {
        flagged.source[0].SeriesInstanceUID: len(flagged.source),
        flagged_results["segmentation"].dataset.SeriesInstanceUID: 1,
        flagged_results["bodies"].dataset.SeriesInstanceUID: 1,
    }


def test_a_vertebra_that_was_not_measured_has_no_number_for_a_height(flagged_results: dict[str, Result]) -> None:
    (measurements,) = [
        i
        for i in flagged_results["details"].dataset.ContentSequence
        if i.ConceptNameCodeSequence[0].CodeValue == "126010"
    ]
    last = measurements.ContentSequence[-1]
    codes = [i.ConceptNameCodeSequence[0].CodeValue for i in last.ContentSequence if i.ValueType == "NUM"]
    assert codes == ["VFX021", "VFX031", "VFX032", "VFX033"]
    texts = [i.TextValue for i in last.ContentSequence if i.ValueType == "TEXT"]
    assert "seen but not measured" in texts


def test_levels_are_coded_where_they_are_known(whole_spine: Case) -> None:
    details = {r.kind: r for r in encode(whole_spine.source, whole_spine, context())}["details"]
    sites = [
        i.ConceptCodeSequence[0]
        for i in _items(details.dataset)
        if i.ValueType == "CODE" and i.ConceptNameCodeSequence[0].CodeValue == "363698007"
    ]
    codes = [s.CodeValue for s in sites]
    assert codes[0] == "64864005"
    assert codes[-2:] == ["49668003", "21799000"]
    assert "35769007" in codes, "T13 is a thoracic vertebra, never T12"
    assert codes.count("23215003") == 2
    assert codes.count("280849005") == 1, "its body has a group of its own"


def test_everything_that_masks_give_stands_in_the_group_of_the_vertebra(
    complete: Case, complete_results: dict[str, Result], tid1500: Callable[[Result], list[dict[str, Any]]]
) -> None:
    read = tid1500(complete_results["details"])
    for vertebra in complete.findings.vertebrae:
        group = next(g for g in read if g["TrackingIdentifier"] == f"spine-node {vertebra.name}")
        items = {item["quantity"]["CodeValue"]: item for item in group["measurementItems"]}
        values = {code: float(item["value"]) for code, item in items.items()}
        assert values["VFX020"] == pytest.approx(vertebra.abnormality_score, abs=0.101)
        assert values["VFX022"] == vertebra.level_confidence
        assert values["118565006"] == vertebra.vertebra_volume_ml
        assert values["VFX023"] == vertebra.body_volume_ml
        assert {items[code]["units"]["CodeValue"] for code in ("118565006", "VFX023")} == {"cm3"}
        assert vertebra.mask_heights_mm is not None
        heights = [values[f"VFX01{i}"] for i in (3, 4, 5)]
        assert heights == pytest.approx(list(vertebra.mask_heights_mm.as_tuple()), abs=0.0051)
        if vertebra.trabecular_mean_hu is None:
            assert "112031" not in values
        else:
            assert values["112031"] == vertebra.trabecular_mean_hu
            assert items["112031"]["units"]["CodeValue"] == "[hnsf'U]"
            assert items["112031"]["derivationModifier"]["CodeValue"] == "373098007"
        (body,) = [g for g in read if g["TrackingIdentifier"] == f"spine-node {vertebra.name} body"]
        assert [float(item["value"]) for item in body["measurementItems"]] == [vertebra.body_volume_ml]


def test_numbering_acquisition_and_how_to_read_are_said(complete: Case, complete_results: dict[str, Result]) -> None:
    details = complete_results["details"]
    said = "Numbering: counted from last rib and sacrum, confidence 0.97; alternatives T13 to L5, T13 (0.03)"
    assert _texts(details, "VFX054") == [said] * (len(complete.findings.vertebrae) + 1)
    with_density = sum(v.trabecular_mean_hu is not None for v in complete.findings.vertebrae)
    assert _texts(details, "VFX043") == ["120 kV, contrast agent: unknown, kernel B30f"] * (with_density + 1)
    assert _texts(details, "VFX044") == [wording.SCORE_SENTENCE, wording.DENSITY_SENTENCE]
    assert "no T-score, no diagnosis of osteoporosis" in wording.DENSITY_SENTENCE
    assert any(t.startswith("CONTRAST_UNKNOWN: unknown whether") for t in _texts(details, "VFX041"))
