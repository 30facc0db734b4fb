"""Every object of every sort of answer, judged by programs that others wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from results_synthetic import Case, context, from_disk, make_case, refused

from inference.refusal import RefusalCode
from node.results import Result, encode

Validate = Callable[[Result], list[str]]
Change = Callable[[Dataset], None]


def _drop(*keywords: str) -> Change:
    def change(header: Dataset) -> None:
        for keyword in keywords:
            if keyword in header:
                del header[keyword]

    return change


def _set(**values: object) -> Change:
    def change(header: Dataset) -> None:
        for keyword, value in values.items():
            setattr(header, keyword, value)

    return change


def _code() -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "CTTHX", "99LOCAL", "CT Thörax"
    return item


def _other_id() -> Dataset:
    item = Dataset()
    item.PatientID, item.TypeOfPatientID, item.IssuerOfPatientID = "OLD-1", "TEXT", "Städtische Klinik"
    return item


HOSTILE: dict[str, Change] = {
    "as it comes": _set(),
    "no study ID, accession number or referring physician": _drop(
        "StudyID", "AccessionNumber", "ReferringPhysicianName"
    ),
    "empty names and birth date": _set(PatientName="", PatientBirthDate="", PatientSex="", ReferringPhysicianName=""),
    "no date of study": _drop("StudyDate", "StudyTime"),
    "Japanese with escape sequences": _set(
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
        ReferringPhysicianName="",
    ),
    "Chinese in UTF-8": _set(
        SpecificCharacterSet="ISO_IR 192", PatientName="Wang^XiaoDong=王^小東", StudyDescription="胸部 CT"
    ),
    "Russian": _set(SpecificCharacterSet="ISO_IR 144", PatientName="Люкceмбypг", ReferringPhysicianName=""),
    "no character set": lambda h: (
        _drop("SpecificCharacterSet")(h),
        _set(PatientName="Muller", ReferringPhysicianName="")(h),
    )[0],
    "no time zone": _drop("TimezoneOffsetFromUTC"),
    "negative time zone": _set(TimezoneOffsetFromUTC="-0330"),
    "senseless time zone": _set(TimezoneOffsetFromUTC="MEZ"),
    "lossy": _set(
        LossyImageCompression="01", LossyImageCompressionRatio=[8.5], LossyImageCompressionMethod="ISO_15444_1"
    ),
    "lossy, stated without ratio or method": _set(LossyImageCompression="01"),
    "no series number or description": _drop("SeriesNumber", "SeriesDescription"),
    "more of the patient": _set(
        OtherPatientIDsSequence=[_other_id()],
        ProcedureCodeSequence=[_code()],
        PatientSize=1.7,
        PatientWeight=70,
        PatientSex="O",
        AdditionalPatientHistory="Sturz vor 3 Wochen",
        EthnicGroup="",
        PatientIdentityRemoved="NO",
    ),
    "body part in free text": _set(BodyPartExamined="CHEST_ABDOMEN"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_objects_of_an_evaluated_series_are_valid(name: str, small: Case, validation_errors: Validate) -> None:
    source = [from_disk(header) for header in small.source]
    for header in source:
        HOSTILE[name](header)
    source = [from_disk(header) for header in source]
    results = encode(source, small, context())
    assert [r.kind for r in results] == ["reformat", "capture", "segmentation", "bodies", "report", "details"]
    assert {r.kind: validation_errors(r) for r in results} == {r.kind: [] for r in results}


@pytest.mark.parametrize("name", HOSTILE)
def test_objects_of_a_refused_series_are_valid(name: str, flagged: Case, validation_errors: Validate) -> None:
    header = from_disk(flagged.source[0])
    HOSTILE[name](header)
    results = encode([from_disk(header)], refused(), context())
    assert [r.kind for r in results] == ["capture", "report"]
    assert {r.kind: validation_errors(r) for r in results} == {r.kind: [] for r in results}


def test_a_source_without_any_geometry_can_still_be_refused(flagged: Case, validation_errors: Validate) -> None:
    header = from_disk(flagged.source[0])
    _drop("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")(
        header
    )
    results = encode([header], refused(RefusalCode.MISSING_GEOMETRY), context())
    assert [validation_errors(r) for r in results] == [[], []]


def test_every_refusal_can_be_said(flagged: Case) -> None:
    for code in RefusalCode:
        report = encode(flagged.source[:1], refused(code, "Seen: a gap of 7 mm after slice 12."), context())[1]
        findings, conclusions = report.dataset.ContentSequence[-2:]
        assert [item.TextValue for item in findings.ContentSequence[1:]][-1] == str(code)
        assert "gap of 7 mm" in " ".join(findings.ContentSequence[1].TextValue.split())
        assert "neither a normal nor an abnormal" in conclusions.ContentSequence[0].TextValue


def test_no_flag_one_vertebra_and_eighteen_are_valid(
    normal: Case, whole_spine: Case, complete: Case, validation_errors: Validate
) -> None:
    for case in (normal, make_case(count=1), whole_spine, complete):
        results = encode(case.source, case, context())
        assert {r.kind: validation_errors(r) for r in results} == {r.kind: [] for r in results}


def test_a_revision_with_predecessors_is_valid(flagged: Case, validation_errors: Validate) -> None:
    first = {r.kind: r for r in encode(flagged.source, flagged, context())}
    second = encode(
        flagged.source,
        flagged,
        context(
            revision=2,
            predecessor_report=first["report"].reference(),
            predecessor_details=first["details"].reference(),
        ),
    )
    assert {r.kind: validation_errors(r) for r in second} == {r.kind: [] for r in second}
    for result in second:
        if result.kind in ("report", "details"):
            item = result.dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
            assert item.SeriesInstanceUID == first[result.kind].dataset.SeriesInstanceUID
            referenced = item.ReferencedSOPSequence[0]
            assert referenced.ReferencedSOPInstanceUID == first[result.kind].dataset.SOPInstanceUID
            assert referenced.ReferencedSOPClassUID == first[result.kind].dataset.SOPClassUID


def test_without_masks_there_is_no_segmentation_and_the_rest_is_valid(
    flagged: Case, validation_errors: Validate
) -> None:
    results = encode(flagged.source, replace(flagged, labels=None, parts=None), context())
    assert [r.kind for r in results] == ["reformat", "capture", "report", "details"]
    assert [validation_errors(r) for r in results] == [[], [], [], []]
    empty = replace(flagged, labels=np.zeros_like(flagged.labels), parts=np.zeros_like(flagged.parts))
    assert [r.kind for r in encode(flagged.source, empty, context())] == [r.kind for r in results]


def test_masks_of_another_number_of_slices_are_an_error(flagged: Case) -> None:
    with pytest.raises(ValueError, match="masks have the shape"):
        encode(flagged.source[:-1], flagged, context())


def test_sr_dumpers_accept_every_document(
    flagged: Case, whole_spine: Case, complete: Case, dumped: Callable[[Result], str]
) -> None:
    for case in (flagged, whole_spine, complete):
        for result in encode(case.source, case, context())[4:]:
            text = dumped(result)
            assert "Comprehensive 3D SR Document" in text
            assert "CONTINUOUS" not in text
    assert "Basic Text SR Document" in dumped(encode(flagged.source, refused(), context())[1])


def test_highdicom_reads_the_documents_and_the_segmentation_back(flagged_results: dict[str, Result], tmp_path) -> None:
    for kind in ("report", "details"):
        path = tmp_path / flagged_results[kind].filename
        path.write_bytes(flagged_results[kind].encoded())
        document = hd.sr.srread(path)
        assert isinstance(document, hd.sr.Comprehensive3DSR)
        groups = document.content.get_image_measurement_groups() if kind == "report" else []
        assert len(groups) == (7 if kind == "report" else 0)
    path = tmp_path / "segmentation.dcm"
    path.write_bytes(flagged_results["segmentation"].encoded())
    segmentation = hd.seg.segread(path)
    assert segmentation.number_of_segments == 7


def test_names_without_heights_give_masks_and_a_text_report(
    thick: Case, validation_errors: Validate, dumped: Callable[[Result], str]
) -> None:
    """A report of title 126000 without lines opens as a black view: what was named is said in text."""
    results = {r.kind: r for r in encode(thick.source, thick, context())}
    assert list(results) == ["reformat", "capture", "segmentation", "bodies", "report", "details"]
    assert {kind: validation_errors(r) for kind, r in results.items()} == {kind: [] for kind in results}
    assert {r.dataset.SeriesDescription[:20] for r in results.values()} == {"AI spine: not graded"}
    report = dumped(results["report"])
    assert "Basic Text SR Document" in report
    for words in (
        "Not all algorithms succeeded; with findings",
        "no heights were measured",
        "levels not seen: T4, T5, T6, T7, L5",
        "Numbering: counted from last rib and sacrum",
        "L4 (confidence 0.97), 50.0 ml, body 32.0 ml, 140 HU",
        "no diagnosis of osteoporosis",
        "neither a normal nor an abnormal result",
    ):
        assert words in report
    assert "Comprehensive 3D SR Document" in dumped(results["details"])


def test_a_refusal_supersedes_both_documents_of_the_answer_before(small: Case, validation_errors: Validate) -> None:
    first = {r.kind: r for r in encode(small.source, small, context())}
    again = context(
        revision=2, predecessor_report=first["report"].reference(), predecessor_details=first["details"].reference()
    )
    report = encode(small.source, refused(), again)[1]
    assert validation_errors(report) == []
    superseded = {
        i.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for i in report.dataset.PredecessorDocumentsSequence
    }
    assert superseded == {first["report"].dataset.SOPInstanceUID, first["details"].dataset.SOPInstanceUID}
