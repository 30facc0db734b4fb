"""report.dcm: lines that a ruler confirms, in the order in which a reader wants them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from results_synthetic import Case, completed, context, make_case

from inference.findings import Level, Numbering, Quality
from node.results import Result, ResultError, encode


def groups(report: Result) -> list[Dataset]:
    """The measurement groups of a report."""
    (measurements,) = [i for i in report.dataset.ContentSequence if _name(i) == "126010"]
    return list(measurements.ContentSequence)


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _numbers(group: Dataset) -> list[Dataset]:
    return [item for item in group.ContentSequence if item.ValueType == "NUM"]


def _comment(group: Dataset) -> str:
    (item,) = [item for item in group.ContentSequence if _name(item) == "121106"]
    return str(item.TextValue)


def test_the_title_is_the_one_that_viewers_draw(flagged_results: dict[str, Result]) -> None:
    report = flagged_results["report"].dataset
    assert _name(report) == "126000"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")


def test_flagged_vertebrae_come_first_worst_first_then_top_to_bottom(flagged_results: dict[str, Result]) -> None:
    comments = [_comment(group) for group in groups(flagged_results["report"])]
    assert comments == ["V4 severe, Hm -50 %", "V6 moderate, Ha -32 %", "V1", "V2", "V3", "V5", "V7"]


def test_names_of_levels_start_the_comment(whole_spine: Case) -> None:
    report = {r.kind: r for r in encode(whole_spine.source, whole_spine, context())}["report"]
    comments = [_comment(group) for group in groups(report)]
    assert comments[:4] == ["T9 severe, Ha -50 %", "T12 moderate, Ha -26 %", "T2 not graded", "T3 not graded"]
    assert comments[-1] == "L5"
    sites = [
        item.ConceptCodeSequence[0].CodeValue
        for item in groups(report)[0].ContentSequence
        if _name(item) == "363698007"
    ]
    assert sites == ["82687006"]


def _said_beside(report: Result) -> list[str]:
    """Texts of the container after the groups."""
    (beside,) = [i for i in report.dataset.ContentSequence if _name(i) == "C0034375"]
    return [str(i.TextValue) for i in beside.ContentSequence]


def test_how_levels_were_numbered_and_every_doubt_stand_beside_the_groups(
    validation_errors: Callable[[Result], list[str]],
) -> None:
    case = completed(make_case({4: (0.8, 0.5, 0.9), 6: (0.68, 0.8, 1.0)}, first_level=Level.T8))
    doubtful = {4: Quality.MASK_DISAGREES, 5: Quality.GAP_BELOW, 6: Quality.LOW_CONFIDENCE}
    vertebrae = tuple(
        replace(
            v,
            level_confidence=0.95 if v.ordinal == 6 else 0.558,
            quality=(*v.quality, *(flag for n, flag in doubtful.items() if n == v.ordinal)),
        )
        for v in case.findings.vertebrae
    )
    numbering = Numbering("last rib", 0.558, ("T9 to L4 (0.30)",))
    findings = replace(case.findings, vertebrae=vertebrae, numbering=numbering, quality=(Quality.AGE_UNKNOWN,))
    results = {r.kind: r for r in encode(case.source, replace(case, findings=findings), context())}
    said = _said_beside(results["report"])
    assert "between T12 and T13 at least one vertebra was not seen" in said[0]
    assert said[1] == ("Numbering: counted from last rib, confidence 0.55 (probable); alternatives T9 to L4 (0.30)")
    assert any(text.startswith("MASK_DISAGREES: T11: heights of the mask") for text in said)
    assert any(text.startswith("LOW_CONFIDENCE: T13: the network was unsure") for text in said)
    assert "AGE_UNKNOWN: age unknown" in said
    comments = [_comment(group) for group in groups(results["report"])]
    assert comments[:2] == ["T11 (probable) severe, Hm -50 %, score 74", "T13 moderate, Ha -32 %, score 48"]
    assert "T12; at least one not seen before T13" in comments
    for kind in ("segmentation", "bodies"):
        segments = {s.SegmentLabel[:3]: s.get("SegmentDescription") for s in results[kind].dataset.SegmentSequence}
        assert (segments["T11"], segments["T13"]) == ("probably T11, confidence 0.55", None)
    for kind in ("report", "details", "segmentation", "bodies"):
        assert validation_errors(results[kind]) == []


def test_scores_stand_in_the_comment_where_they_say_something(complete: Case) -> None:
    vertebrae = list(complete.findings.vertebrae)
    vertebrae[1] = replace(vertebrae[1], abnormality_score=31.4)
    changed = replace(complete, findings=replace(complete.findings, vertebrae=tuple(vertebrae)))
    report = {r.kind: r for r in encode(changed.source, changed, context())}["report"]
    comments = [_comment(group) for group in groups(report)]
    assert comments[:4] == ["T13 severe, Hm -50 %, score 74", "L2 moderate, Ha -32 %, score 48", "T8", "T9, score 31"]


def test_the_comment_is_the_first_line_a_viewer_shows(flagged_results: dict[str, Result]) -> None:
    for group in groups(flagged_results["report"]):
        contained = [
            i for i in group.ContentSequence if i.ValueType in ("TEXT", "NUM") and i.RelationshipType == "CONTAINS"
        ]
        assert [_name(i) for i in contained] == ["121106", "VFX001", "VFX002", "VFX003"]
        assert [i.ConceptNameCodeSequence[0].CodeMeaning for i in contained[1:]] == ["Ha", "Hm", "Hp"]


def test_no_group_is_without_coordinates(flagged_results: dict[str, Result]) -> None:
    reformat = flagged_results["reformat"].dataset
    for group in groups(flagged_results["report"]):
        assert len(_numbers(group)) == 3
        for number in _numbers(group):
            (scoord,) = number.ContentSequence
            assert (scoord.ValueType, scoord.RelationshipType) == ("SCOORD", "INFERRED FROM")
            assert scoord.GraphicType == "POLYLINE"
            (image,) = scoord.ContentSequence
            assert image.RelationshipType == "SELECTED FROM"
            assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == reformat.SOPInstanceUID


@pytest.mark.parametrize("bend", [(0.0, 0.0), (8.0, 25.0), (30.0, 60.0)])
def test_every_line_has_the_length_that_its_number_says(bend: tuple[float, float]) -> None:
    case = make_case({2: (0.6, 0.6, 0.9)}, count=6, scoliosis_mm=bend[0], kyphosis_mm=bend[1])
    results = {r.kind: r for r in encode(case.source, case, context())}
    spacing = [float(s) for s in results["reformat"].dataset.PixelSpacing]
    assert spacing[0] == spacing[1]
    checked = 0
    for group in groups(results["report"]):
        for number in _numbers(group):
            x0, y0, x1, y1 = number.ContentSequence[0].GraphicData
            length_mm = np.hypot((x1 - x0) * spacing[1], (y1 - y0) * spacing[0])
            value = float(number.MeasuredValueSequence[0].NumericValue)
            assert length_mm == pytest.approx(value, rel=0.02)
            checked += 1
    assert checked == 18


def test_the_lines_lie_where_the_points_are(flagged: Case, flagged_results: dict[str, Result]) -> None:
    """The image under a drawn end point is the patient's point again."""
    assert flagged.reformat is not None
    drawn = groups(flagged_results["report"])[0]
    points = flagged.findings.vertebrae[3].keypoints_lps_mm
    assert points is not None
    x0, y0, x1, y1 = _numbers(drawn)[0].ContentSequence[0].GraphicData
    back = flagged.reformat.to_lps(np.array([[x0, y0], [x1, y1]]))
    assert back == pytest.approx(np.array([points.anterior_superior, points.anterior_inferior]), abs=0.05)


def test_tid1500reader_reads_every_height_back(
    flagged: Case, flagged_results: dict[str, Result], tid1500: Callable[[Result], list[dict[str, Any]]]
) -> None:
    read = tid1500(flagged_results["report"])
    vertebrae = {f"spine-node {v.name}": v for v in flagged.findings.vertebrae if v.heights_mm}
    assert {group["TrackingIdentifier"] for group in read} == set(vertebrae)
    for group in read:
        heights = vertebrae[group["TrackingIdentifier"]].heights_mm
        assert heights is not None
        values = [float(item["value"]) for item in group["measurementItems"]]
        assert values == pytest.approx(list(heights.as_tuple()), abs=0.0051)
        assert {item["units"]["CodeValue"] for item in group["measurementItems"]} == {"mm"}


def test_evidence_is_the_reformat_alone(flagged_results: dict[str, Result]) -> None:
    (study,) = flagged_results["report"].dataset.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    reformat = flagged_results["reformat"].dataset
    assert series.SeriesInstanceUID == reformat.SeriesInstanceUID
    assert [i.ReferencedSOPInstanceUID for i in series.ReferencedSOPSequence] == [reformat.SOPInstanceUID]


def test_a_point_outside_the_reformat_is_an_error_and_not_a_wrong_line(flagged: Case) -> None:
    vertebrae = list(flagged.findings.vertebrae)
    points = vertebrae[1].keypoints_lps_mm
    assert points is not None
    vertebrae[1] = replace(vertebrae[1], keypoints_lps_mm=replace(points, anterior_superior=(0.0, -900.0, 500.0)))
    findings = replace(flagged.findings, vertebrae=tuple(vertebrae))
    with pytest.raises(ResultError, match="V2 lies outside the image"):
        encode(flagged.source, replace(flagged, findings=findings), context())


def test_measured_vertebrae_without_a_reformat_are_an_error(flagged: Case) -> None:
    with pytest.raises(ResultError, match="no reformat"):
        encode(flagged.source, replace(flagged, reformat=None), context())
