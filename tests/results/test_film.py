"""Results of a radiograph: lines lie on the film, the capture shows it as it was sent, nothing is made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from films_synthetic import SPACING_MM, FilmCase, film_case, film_context
from numpy.typing import NDArray
from PIL import ImageDraw
from pydicom.dataset import Dataset
from results_synthetic import context

from inference.film_points import PointSettings
from inference.findings import (
    KEYPOINTS,
    Grade,
    Heights,
    Level,
    Numbering,
    PixelSize,
    Quality,
    VertebraFinding,
    WithoutSide,
)
from inference.refusal import Refusal, RefusalCode
from node.results import FilmAnswer, Result, ResultError, encode_film, findings_document
from node.results.anatomy import NAMES, View
from node.results.capture import picture
from node.results.drawing import ANCHOR_COLOUR, FRAME, GRADE_COLOURS
from node.results.film_lines import height_ends, outline
from node.results.film_notes import NO_SEGMENTATION, compression, compression_text
from node.results.film_picture import FilmPicture, film_picture, marks
from node.results.identity import SERIES_OFFSETS, Identity
from node.results.notes import CUT, Caption
from node.results.picture import draw_picture, lay_out
from node.results.wording import as_answered, measured, quality_sentence
from tests.films import RF

CAPTION = Caption("series 1, image 1, LWS", "spine-node 0.1.0, radiograph 1.0.0", "2026-11-20 23:30")
CASES = {
    "calibrated": {"calibrated": True},
    "uncalibrated": {"calibrated": False},
    "front to the right": {"calibrated": False, "front_left": False},
    "pixels that are not square": {"calibrated": True, "aspect": 1.5},
    "pixels that are not square and have no size": {"calibrated": False, "aspect": 0.8},
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> FilmCase:
    """V2 severely wedged, V5 seen only."""
    return film_case({2: 0.55, 4: 1.1}, unmeasured=(5,), **CASES[request.param])


@pytest.fixture(scope="module")
def wedged() -> FilmCase:
    return film_case({2: 0.55, 4: 1.1}, unmeasured=(5,))


@pytest.fixture(scope="module")
def unsized() -> FilmCase:
    return film_case({2: 0.55, 4: 1.1}, unmeasured=(5,), calibrated=False)


def encoded(case: FilmCase, **more: Any) -> dict[str, Result]:
    return {r.kind: r for r in encode_film(case.source, case.answer, film_context(), **more)}


def items(node: Dataset, kind: str) -> Iterator[Dataset]:
    """Every content item of that value type below a node."""
    for child in node.get("ContentSequence", []):
        if child.ValueType == kind:
            yield child
        yield from items(child, kind)


def name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def numbers(group: Dataset) -> dict[str, tuple[float, str, NDArray[np.float64]]]:
    """Name to (value, unit, ends) of each NUM of a group that is inferred from a line."""
    found = {}
    for item in items(group, "NUM"):
        lines = [child for child in item.get("ContentSequence", []) if child.ValueType == "SCOORD"]
        if not lines:
            continue
        (line,) = lines
        assert (line.RelationshipType, line.GraphicType) == ("INFERRED FROM", "POLYLINE")
        measured_value = item.MeasuredValueSequence[0]
        unit = measured_value.MeasurementUnitsCodeSequence[0].CodeValue
        found[name(item)] = (
            float(measured_value.NumericValue),
            unit,
            np.array(line.GraphicData, np.float64).reshape(2, 2),
        )
    return found


def groups(report: Dataset) -> list[Dataset]:
    return [item for item in items(report, "CONTAINER") if name(item) == "Measurement Group"]


# what is sent


def test_capture_report_and_details_are_sent_and_the_segmentation_on_request(wedged: FilmCase) -> None:
    assert list(encoded(wedged)) == ["capture", "report", "details"]
    results = encoded(wedged, with_segmentation=True)
    assert list(results) == ["capture", "report", "details", "film_segmentation"]
    assert results["film_segmentation"].filename == "segmentation.dcm"


def test_every_object_is_valid(case: FilmCase, validation_errors: Callable[[Result], list[str]]) -> None:
    for result in encoded(case, with_segmentation=True).values():
        assert validation_errors(result) == []


@pytest.mark.parametrize(
    ("sop_class", "modality"), [("1.2.840.10008.5.1.4.1.1.1", "CR"), ("1.2.840.10008.5.1.4.1.1.12.2", "RF")]
)
def test_objects_of_other_kinds_of_film_with_a_senseless_plane_are_valid(
    sop_class: str, modality: str, validation_errors: Callable[[Result], list[str]]
) -> None:
    other = film_case({2: 0.6}, count=3, sop_class=sop_class)
    other.source.Modality, other.source.FrameOfReferenceUID = modality, "1.2.3.4"
    other.source.ImageOrientationPatient, other.source.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    results = encoded(other, with_segmentation=True)
    assert ("film_segmentation" in results) is (modality == "CR")
    for result in results.values():
        assert validation_errors(result) == []
        assert result.dataset.Modality in (modality, "SR", "SEG")


@pytest.mark.parametrize(
    "change",
    [
        {"PatientOrientation": None},
        {"PatientOrientation": ""},
        {"InstanceNumber": None, "SeriesNumber": None, "SeriesDescription": None},
        {"LossyImageCompression": "01"},
        {"Modality": None, "StudyID": None},
        {"PatientName": "Müller^Jürgen", "SpecificCharacterSet": "ISO_IR 100"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_objects_are_valid_whatever_the_header_lacks(
    change: dict[str, str | None], validation_errors: Callable[[Result], list[str]]
) -> None:
    case = film_case({2: 0.6}, count=3, calibrated=False)
    for keyword, value in change.items():
        if value is None:
            del case.source[keyword]
        else:
            setattr(case.source, keyword, value)
    for result in encoded(case, with_segmentation=True).values():
        assert validation_errors(result) == []


def test_dsrdump_reads_every_number(unsized: FilmCase, dumped: Callable[[Result], str]) -> None:
    results = encoded(unsized)
    shown = dumped(results["report"])
    for said in ('"Ha/Hp")="0.55"', '"Hm/Hp")=', '"Hp/Hp")="1.0"', '"VCR")="45.0"', "DX image", "V2 severe, Ha -45 %"):
        assert said in shown
    assert "(mm," not in shown, "no millimetres where none are known"
    assert "not measured" in dumped(results["details"])


def test_dcmqi_reads_every_group(wedged: FilmCase, tid1500: Callable[[Result], list[dict[str, Any]]]) -> None:
    found = tid1500(encoded(wedged)["report"])
    assert len(found) == 4
    meanings = [i["quantity"]["CodeMeaning"] for i in found[0]["measurementItems"]]
    assert meanings == ["Ha", "Hm", "Hp", "VCR", "Ha/Hp", "Hm/Hp"]


def test_the_same_answer_gives_the_same_bytes(wedged: FilmCase) -> None:
    first, again = (encode_film(wedged.source, wedged.answer, film_context(), with_segmentation=True) for _ in "12")
    assert [r.sha256() for r in first] == [r.sha256() for r in again]


def test_descriptions_and_numbers_tell_a_film_from_a_ct(wedged: FilmCase) -> None:
    results = encoded(wedged, with_segmentation=True)
    assert [(r.dataset.SeriesNumber, r.dataset.SeriesDescription) for r in results.values()] == [
        (9011, "AI spine: FLAG film (research)"),
        (9013, "AI spine: FLAG film report (research)"),
        (9014, "AI spine: FLAG film details (research)"),
        (9015, "AI spine: FLAG film segmentation (research)"),
    ]
    for result in results.values():
        assert result.dataset.StudyInstanceUID == wedged.source.StudyInstanceUID
        assert result.dataset.PatientID == "P1"


def test_no_flag_says_of_how_many_vertebrae_before_anything_is_opened() -> None:
    """Where eight of nine are not seen surely enough "no flag" speaks of one."""
    case = film_case(count=5, unmeasured=(5,))
    unsure = tuple(
        replace(v, grade=None, rule=None, quality=(*v.quality, Quality.LOW_CONFIDENCE)) if v.ordinal in (2, 3) else v
        for v in case.findings.vertebrae
    )
    case = replace(case, answer=replace(case.answer, findings=replace(case.findings, vertebrae=unsure)))
    results = encoded(case, with_segmentation=True)
    assert {kind: r.dataset.SeriesDescription for kind, r in results.items()} == {
        "capture": "AI spine: no flag film 2/5 graded (research)",
        "report": "AI spine: no flag film 2/5 graded report (research)",
        "details": "AI spine: no flag film details (research)",
        "film_segmentation": "AI spine: no flag film segmentation (research)",
    }
    longest = Identity("", "", 999, 9010, "no flag", True, "99/99 graded")
    assert all(len(longest.series_description(kind)) <= 64 for kind in SERIES_OFFSETS)


# the report


def test_lines_of_the_report_are_the_points_on_the_original_image(case: FilmCase) -> None:
    report = encoded(case)["report"].dataset
    found = groups(report)
    assert len(found) == len(measured(case.findings)) == 4
    tracked = {next(items(g, "TEXT")).TextValue: numbers(g) for g in found}
    for vertebra in measured(case.findings):
        lines = tracked[f"spine-node {vertebra.name}"]
        assert vertebra.keypoints_px is not None
        for number, (upper, lower) in zip(lines.values(), np.arange(6).reshape(3, 2), strict=False):
            expected = [vertebra.keypoints_px[KEYPOINTS[upper]], vertebra.keypoints_px[KEYPOINTS[lower]]]
            assert np.allclose(number[2], expected, atol=1e-3)
    (reference,) = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(report, "IMAGE")}
    assert reference == case.source.SOPInstanceUID


def test_ends_of_the_lines_lie_on_the_end_plates_in_pixels(case: FilmCase) -> None:
    """Two pixels inside the end of a line is bone, two pixels beyond it is not; columns and rows are not swapped."""
    film = case.film.pixels
    for group in groups(encoded(case)["report"].dataset):
        for label, (_, _, (upper, lower)) in list(numbers(group).items())[:3]:
            along = (lower - upper) / np.linalg.norm(lower - upper)
            aside = np.array([0.0, 0.0])
            if not label.startswith("Hm"):  # the walls: a little into the body
                middle = height_ends_of(case, upper)
                aside = 3 * (middle - upper) / np.linalg.norm(middle - upper)
            for end, inward in ((upper, along), (lower, -along)):
                inside, outside = end + 4 * inward + aside, end - 4 * inward
                assert film[tuple(np.floor(inside[::-1]).astype(int))] == pytest.approx(0.75), "bone"
                assert film[tuple(np.floor(outside[::-1]).astype(int))] < 0.5, "beyond the end plate"


def height_ends_of(case: FilmCase, point: NDArray[np.float64]) -> NDArray[np.float64]:
    """The centre of the vertebra that a point belongs to."""
    nearest = min(
        measured(case.findings), key=lambda v: float(np.abs(height_ends(v).reshape(6, 2) - point).sum(1).min())
    )
    return np.array(nearest.centroid_px)


def test_calibrated_heights_are_the_lengths_of_their_lines(wedged: FilmCase) -> None:
    for group in groups(encoded(wedged)["report"].dataset):
        found = numbers(group)
        assert list(found)[:3] == ["Ha", "Hm", "Hp"]
        for value, unit, (upper, lower) in list(found.values())[:3]:
            assert unit == "mm"
            assert value == pytest.approx(SPACING_MM[0] * np.linalg.norm(lower - upper), abs=0.01)


@pytest.mark.parametrize("which", ["uncalibrated", "pixels that are not square and have no size"])
def test_without_calibration_there_are_ratios_and_no_millimetres_anywhere(which: str) -> None:
    case = film_case({2: 0.55}, **CASES[which])
    for kind in ("report", "details"):
        document = encoded(case)[kind].dataset
        units = {
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue for item in items(document, "NUM")
        }
        assert units <= ({"{ratio}", "%"} if kind == "report" else {"{ratio}", "%", "1"})
    found = [numbers(group) for group in groups(encoded(case)["report"].dataset)]
    assert list(found[0]) == ["Ha/Hp", "Hm/Hp", "Hp/Hp", "VCR"]
    assert found[0]["Ha/Hp"][0] == pytest.approx(0.55, abs=0.001)
    assert found[0]["VCR"][:2] == (pytest.approx(45.0), "%")


def test_ratios_of_the_own_heights_stand_beside_millimetres(
    wedged: FilmCase, dumped: Callable[[Result], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In report, details and capture; in the report after what viewers write beside the lines."""
    results = encoded(wedged)
    first = numbers(groups(results["report"].dataset)[0])
    assert list(first) == ["Ha", "Hm", "Hp", "VCR", "Ha/Hp", "Hm/Hp"]
    assert first["Ha/Hp"][:2] == (pytest.approx(0.55, abs=0.001), "{ratio}")
    assert np.array_equal(first["Ha/Hp"][2], first["Ha"][2])
    assert '"Ha/Hp")="0.55"' in dumped(results["report"])
    assert '"Anterior height over posterior height")="0.55"' in dumped(results["details"])
    layout = lay_out(as_answered(wedged.findings), shown_of(wedged), CAPTION)
    headings = [c.heading for c in layout.table.columns]
    assert {"Ha", "Hm", "Hp", "Ha/Hp", "Hm/Hp", "VCR", "G"} <= set(headings)
    assert layout.table.letters >= 20
    said = said_on(wedged, monkeypatch)
    assert "0.55" in said.split() and "12.4" in said.split()
    assert "over the own posterior height" in said


def test_without_room_for_columns_the_notes_have_the_ratios() -> None:
    """A film so wide that millimetres and ratios leave it no room keeps its size; nothing is left unsaid."""
    case = film_case({2: 0.55}, count=5)
    assert case.answer.labels is not None
    wide = lambda image: np.pad(image, ((0, 0), (900, 900)))  # noqa: E731
    moved = tuple(
        replace(
            v,
            centroid_px=(v.centroid_px[0] + 900, v.centroid_px[1]),
            keypoints_px={k: (x + 900, y) for k, (x, y) in v.keypoints_px.items()},
        )
        for v in case.findings.vertebrae
        if v.centroid_px is not None and v.keypoints_px is not None
    )
    moved = (replace(moved[0], centroid_px=(20.0, moved[0].centroid_px[1])), *moved[1:])
    film = replace(case.film, pixels=wide(case.film.pixels))
    findings = as_answered(replace(case.findings, vertebrae=moved))
    layout = lay_out(findings, film_picture(film, findings, None), CAPTION)
    headings = [c.heading for c in layout.table.columns]
    assert {"Ha", "Hm", "Hp", "VCR"} <= set(headings) and {"Ha/Hp", "Hm/Hp"}.isdisjoint(headings)
    assert "V2 0.55, 0.70" in " ".join(line[0] for line in layout.notes)
    unsized = tuple(replace(v, heights_mm=None) for v in moved)
    findings = replace(findings, vertebrae=unsized, pixel_size=PixelSize(None, "uncalibrated: no spacing"))
    layout = lay_out(findings, film_picture(replace(film, spacing_mm=None), findings, None), CAPTION)
    assert {"Ha/Hp", "Hm/Hp"} <= {c.heading for c in layout.table.columns}, "all that there is"


def test_end_vertebrae_have_no_compression_ratio_and_negative_ones_stay_negative(wedged: FilmCase) -> None:
    by_name = {
        str(next(items(g, "TEXT")).TextValue).split()[-1]: numbers(g) for g in groups(encoded(wedged)["report"].dataset)
    }
    assert "VCR" not in by_name["V1"]
    assert by_name["V3"]["VCR"][0] == pytest.approx(100 * (1 - 1 / ((0.55 + 1.1) / 2)), abs=0.05)
    assert by_name["V3"]["VCR"][0] < 0


def test_the_flagged_vertebra_comes_first(wedged: FilmCase) -> None:
    comments = [i.TextValue for i in items(encoded(wedged)["report"].dataset, "TEXT") if name(i) == "Comment"]
    assert comments == ["V2 severe, Ha -45 %", "V1", "V3", "V4"]


def test_a_point_outside_the_film_is_an_error(wedged: FilmCase) -> None:
    first = wedged.findings.vertebrae[0]
    assert first.keypoints_px is not None
    moved = replace(first, keypoints_px={**first.keypoints_px, "anterior_superior": (-3.0, 10.0)})
    spoilt = replace(wedged.findings, vertebrae=(moved, *wedged.findings.vertebrae[1:]))
    with pytest.raises(ResultError, match="V1 lies outside the image"):
        encode_film(wedged.source, replace(wedged.answer, findings=spoilt), film_context())


def test_millimetres_on_a_film_that_has_none_are_an_error(unsized: FilmCase) -> None:
    first = replace(unsized.findings.vertebrae[0], heights_mm=Heights(20.0, 18.0, 20.0))
    spoilt = replace(unsized.findings, vertebrae=(first, *unsized.findings.vertebrae[1:]))
    with pytest.raises(ResultError, match="size of the radiograph's pixels is not known"):
        encode_film(unsized.source, replace(unsized.answer, findings=spoilt), film_context())


def test_a_film_of_another_size_than_its_header_is_an_error(wedged: FilmCase) -> None:
    other = replace(wedged.film, pixels=wedged.film.pixels[:-1])
    with pytest.raises(ResultError, match="its header says"):
        encode_film(wedged.source, replace(wedged.answer, film=other), film_context())


def test_a_context_of_another_pipeline_is_an_error(wedged: FilmCase) -> None:
    with pytest.raises(ResultError, match="pipeline ct"):
        encode_film(wedged.source, wedged.answer, context())


# details


def test_details_hold_the_outline_the_lines_and_where_millimetres_come_from(wedged: FilmCase) -> None:
    details = encoded(wedged)["details"].dataset
    rings = [item for item in items(details, "SCOORD") if len(item.GraphicData) == 14]
    assert len(rings) == 4
    ring = np.array(rings[0].GraphicData, np.float64).reshape(7, 2)
    assert np.allclose(ring, outline(wedged.findings.vertebrae[0]), atol=1e-3)
    assert np.array_equal(ring[0], ring[-1])
    texts = {name(i): i.TextValue for i in items(details, "TEXT")}
    assert texts["Size of a pixel at the spine"] == (
        "Millimetres: Pixel Spacing, calibrated (fiducial); 0.250 x 0.250 mm a pixel"
    )
    assert texts["Source series"] == "series 1, image 1, LWS seitl."


def test_details_and_document_have_both_ways_of_measuring_without_millimetres(
    unsized: FilmCase, validation_errors: Callable[[Result], list[str]]
) -> None:
    by_mask = Heights(0.8125, 0.75, 1.0)
    second = replace(unsized.findings.vertebrae[1], mask_relative_heights=by_mask, quality=(Quality.MASK_DISAGREES,))
    vertebrae = (unsized.findings.vertebrae[0], second, *unsized.findings.vertebrae[2:])
    findings = replace(unsized.findings, vertebrae=vertebrae)
    result = encoded(replace(unsized, answer=replace(unsized.answer, findings=findings)))["details"]
    assert validation_errors(result) == []
    told = {
        name(i): float(i.MeasuredValueSequence[0].NumericValue)
        for i in items(result.dataset, "NUM")
        if "mask" in name(i)
    }
    assert told == {
        "Anterior height of the body mask over its posterior height": 0.8125,
        "Middle height of the body mask over its posterior height": 0.75,
    }
    made = findings_document([unsized.source], findings, film_context(), sent=True)
    assert list(made["vertebrae"][1]["mask_relative_heights"].values()) == [0.8125, 0.75, 1.0]
    assert made["vertebrae"][0]["mask_relative_heights"] is None


def test_the_error_of_the_calibration_is_said_not_to_be_in_that_of_heights(wedged: FilmCase) -> None:
    """A stated magnification may be a tenth off: the +/- of heights knows nothing of it."""
    stated = tuple(replace(v, height_uncertainty_mm=0.8) for v in wedged.findings.vertebrae)
    findings = replace(wedged.findings, vertebrae=stated)
    lines = lay_out(as_answered(findings), shown_of(wedged), CAPTION).notes
    said = " ".join(line[0] for line in lines)
    assert "+/- 0.8 mm, one SD" in said
    assert "0.250 x 0.250 mm a pixel, whose error is not in the +/- of heights." in said


# segmentation


def test_the_segmentation_is_the_mask_on_the_films_own_grid(case: FilmCase) -> None:
    segmentation = encoded(case, with_segmentation=True)["film_segmentation"].dataset
    labels = case.answer.labels
    assert labels is not None
    assert (segmentation.Rows, segmentation.Columns) == labels.shape
    assert "FrameOfReferenceUID" not in segmentation
    assert list(segmentation.PatientOrientation) == list(case.source.PatientOrientation)
    frames = segmentation.pixel_array.reshape(-1, *labels.shape)
    for number, frame in enumerate(frames, start=1):
        assert np.array_equal(frame > 0, labels == number)
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == [f"V{n} body" for n in range(1, 6)]
    (shared,) = segmentation.SharedFunctionalGroupsSequence
    assert len(shared) == 0, "one item (C.7.6.16), and neither plane nor spacing of a projection in it"


# the capture


def drawn_page(case: FilmCase) -> tuple[NDArray[np.uint8], View]:
    findings = as_answered(case.findings)
    shown = film_picture(case.film, findings, case.answer.labels)
    page = np.array(picture(findings, shown, [case.source], film_context()))
    return page, lay_out(findings, shown, CAPTION).view


def test_lines_and_points_of_the_capture_lie_on_the_anatomy(case: FilmCase) -> None:
    page, _ = drawn_page(case)
    findings = as_answered(case.findings)
    shown = film_picture(case.film, findings, case.answer.labels)
    caption_free = lay_out(findings, shown, caption_of(case))
    view = caption_free.view
    for vertebra in measured(findings):
        for upper, lower in (shown.heights(vertebra) - view.first) * view.scale + (view.left, view.top):
            middle = (upper + lower) / 2
            place = page[round(middle[1]) - 2 : round(middle[1]) + 3, round(middle[0]) - 2 : round(middle[0]) + 3]
            wanted = np.array(GRADE_COLOURS[vertebra.grade])
            assert (np.abs(place.astype(int) - wanted).sum(axis=-1) < 60).any(), f"the line of {vertebra.name}"
            for x, y in (upper, lower):
                at = page[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3]
                assert (at.min(axis=-1) > 200).any(), f"a point of {vertebra.name}"


@pytest.mark.parametrize("aspect", [1.0, 1.5])
def test_the_capture_shows_what_levels_were_counted_from(
    aspect: float, validation_errors: Callable[[Result], list[str]]
) -> None:
    """A name is as good as its anchor: whoever reads it sees what was taken for S1, and nothing where it has none."""
    case = film_case({2: 0.55}, first_level=Level.L1, calibrated=False, aspect=aspect)
    square = np.array([[240.0, 630], [330, 630], [330, 690], [240, 690], [240, 630]]) / [1.0, aspect]
    named = replace(case.findings, numbering=Numbering("sacrum", 0.86))
    counted = replace(case, answer=replace(case.answer, findings=named, sacrum_px=square))

    def violet(case: FilmCase) -> tuple[NDArray[np.bool_], View, str]:
        (capture,) = (r for r in encode_film(case.source, case.answer, film_context()) if r.kind == "capture")
        assert validation_errors(capture) == []
        findings = as_answered(case.findings)
        shown = film_picture(case.film, findings, case.answer.labels, case.answer.sacrum_px)
        layout = lay_out(findings, shown, CAPTION)
        far = np.abs(capture.dataset.pixel_array.astype(int) - ANCHOR_COLOUR).sum(axis=-1)
        return far < 90, layout.view, " ".join(line[0] for line in layout.notes)

    drawn, view, said = violet(counted)
    rows, columns = np.nonzero(drawn)
    places = np.stack([columns, rows], axis=1) - (view.left, view.top)
    on_film = places / view.scale + view.first
    stretched = square * [1.0, aspect]
    assert np.allclose(on_film.min(axis=0), stretched.min(axis=0), atol=3)
    assert np.allclose(on_film.max(axis=0), stretched.max(axis=0), atol=3)
    assert 0.3 < len(set(columns.tolist())) / np.ptp(columns) <= 1.02, "dashes"
    assert "Violet dashes: what was taken for S1, from which L1 to L5 are counted." in said
    for without in (
        replace(counted, answer=replace(counted.answer, findings=replace(named, numbering=None))),
        replace(counted, answer=replace(counted.answer, sacrum_px=None)),
    ):
        drawn, _, said = violet(without)
        assert not drawn.any() and "S1" not in said


def shown_of(case: FilmCase) -> FilmPicture:
    return film_picture(case.film, as_answered(case.findings), case.answer.labels)


def caption_of(case: FilmCase) -> Caption:
    return Caption("series 1, image 1, LWS seitl.", "spine-node 0.1.0, radiograph 1.0.0", "2026-11-20 23:30")


def test_no_word_of_the_capture_lies_on_the_film(case: FilmCase, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[tuple[str, tuple[float, ...]]] = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, text, fill=None, font=None, anchor=None, **more):  # type: ignore[no-untyped-def]
        boxes.append((text, self.textbbox(xy, text, font=font, anchor=anchor)))
        return original(self, xy, text, fill, font, anchor, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    _, view = drawn_page(case)
    assert len(boxes) > 20
    for word, (left, top, right, bottom) in boxes:
        if word.strip():
            outside = right <= view.left or left >= view.right or bottom <= view.top or top >= view.bottom
            assert outside, f"{word!r} lies on the film"


def said_on(case: FilmCase, monkeypatch: pytest.MonkeyPatch) -> str:
    words: list[str] = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, text, *rest, **more):  # type: ignore[no-untyped-def]
        words.append(text)
        return original(self, xy, text, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    encode_film(case.source, case.answer, film_context())
    return " ".join(words)


def test_the_capture_says_uncalibrated_and_shows_no_scale(
    unsized: FilmCase, wedged: FilmCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = said_on(unsized, monkeypatch)
    assert "UNCALIBRATED: ratios only, no millimetres" in said
    assert "50 mm" not in said
    assert "height in mm" not in said
    other = said_on(wedged, monkeypatch)
    assert "UNCALIBRATED" not in other
    assert "50 mm" in other
    assert "Pixel Spacing, calibrated (fiducial)" in other


def test_the_capture_says_which_vertebrae_have_no_compression_ratio(
    wedged: FilmCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = said_on(wedged, monkeypatch)
    assert "V1, V4." in said
    assert "-21 %" in said, "a negative ratio is printed as it is"
    assert "not measured" in said
    assert "AI - research use only" in said
    assert "please check on the radiograph" in said
    assert "reformat" not in said


def test_marks_follow_the_points_then_the_header(wedged: FilmCase, unsized: FilmCase) -> None:
    assert marks(wedged.film, wedged.findings) == ("A", "P", "H", "F")
    flipped = film_case(front_left=False)
    assert marks(flipped.film, flipped.findings) == ("P", "A", "H", "F")
    contradicting = replace(wedged.film, orientation=("L", "F"))
    assert marks(contradicting, wedged.findings) == ("A", "P", "H", "F"), "what was measured counts"
    nothing = replace(wedged.findings, vertebrae=())
    assert marks(replace(wedged.film, orientation=("F", "A")), nothing) == ("H", "F", "P", "A")
    assert marks(replace(wedged.film, orientation=None), nothing) == ("", "", "", "")


def test_the_film_is_shown_with_square_pixels() -> None:
    case = film_case(aspect=1.5)
    shown = film_picture(case.film, case.findings, case.answer.labels)
    rows, columns = case.film.pixels.shape
    assert shown.shape == (round(1.5 * rows), columns)
    assert shown.masks is not None
    assert shown.masks.shape == shown.shape
    ends = shown.heights(case.findings.vertebrae[2])
    assert np.linalg.norm(ends[2, 1] - ends[2, 0]) == pytest.approx(90, abs=0.5), "as on a film with square pixels"


def test_labels_of_another_shape_are_an_error(wedged: FilmCase) -> None:
    assert wedged.answer.labels is not None
    with pytest.raises(ResultError, match="labels have the shape"):
        encode_film(wedged.source, replace(wedged.answer, labels=wedged.answer.labels[:-1]), film_context())


def test_the_frame_stands_around_the_film(wedged: FilmCase) -> None:
    page, view = drawn_page(wedged)
    assert tuple(page[view.top - 1, (view.left + view.right) // 2]) == FRAME


def test_a_capture_without_masks_and_with_names(monkeypatch: pytest.MonkeyPatch) -> None:
    named = film_case({2: 0.7}, first_level=Level.T11, calibrated=False)
    bare = replace(named, answer=replace(named.answer, labels=None))
    said = said_on(bare, monkeypatch)
    assert "FLAG: T12 moderate" in said
    assert "outlines" not in said


# not evaluable


def refusal(code: RefusalCode = RefusalCode.NOT_A_LATERAL_SPINE) -> FilmAnswer:
    findings = film_case(count=3, calibrated=False).findings
    unjudged = replace(findings.patient, worst_grade=None, flag=None)
    return FilmAnswer(replace(findings, vertebrae=(), refusal=Refusal(code), patient=unjudged))


def test_a_film_that_is_not_evaluable_has_a_page_and_a_text(
    wedged: FilmCase, validation_errors: Callable[[Result], list[str]], dumped: Callable[[Result], str]
) -> None:
    results = {r.kind: r for r in encode_film(wedged.source, refusal(), film_context(), with_segmentation=True)}
    assert list(results) == ["capture", "report"]
    assert all(validation_errors(result) == [] for result in results.values())
    shown = dumped(results["report"])
    assert "NOT_A_LATERAL_SPINE" in shown
    assert "UNCALIBRATED" not in shown, "of vertebrae, and there are none"
    assert "not a lateral view" in shown
    assert results["capture"].dataset.SeriesDescription == "AI spine: not evaluable film (research)"


def test_vertebrae_that_were_only_seen_are_not_evaluable(wedged: FilmCase) -> None:
    seen = film_case(unmeasured=(1, 2, 3, 4, 5))
    results = encode_film(seen.source, seen.answer, film_context())
    assert [r.kind for r in results] == ["capture", "report"]
    assert results[0].dataset.SeriesDescription.startswith("AI spine: not evaluable")


def test_named_vertebrae_without_heights_have_a_text_report(validation_errors: Callable[[Result], list[str]]) -> None:
    seen = film_case(unmeasured=(1, 2, 3, 4, 5), first_level=Level.L1)
    results = encode_film(seen.source, seen.answer, film_context())
    assert [r.kind for r in results] == ["capture", "report", "details"]
    assert results[1].dataset.SOPClassUID.name == "Basic Text SR Storage"
    assert all(validation_errors(result) == [] for result in results)


# the document


def test_the_document_of_a_film(unsized: FilmCase) -> None:
    made = findings_document([unsized.source], unsized.findings, film_context(), sent=True)
    assert made["input"]["sop_instance_uid"] == unsized.source.SOPInstanceUID
    assert made["input"]["instances"] == 1
    assert made["pipeline"]["name"] == "radiograph"
    assert made["quality"] == ["UNCALIBRATED", "LEVELS_UNKNOWN"]
    assert made["pixel_size"] == {"spacing_mm": None, "source": "uncalibrated: no spacing"}
    second = made["vertebrae"][1]
    assert second["heights_mm"] is None
    assert second["relative_heights"] == {
        "anterior": pytest.approx(0.55),
        "middle": pytest.approx(0.6975),
        "posterior": 1.0,
    }
    assert second["centroid_lps_mm"] is second["keypoints_lps_mm"] is None
    assert set(second["keypoints_px"]) == set(KEYPOINTS)
    assert second["compression_ratio_percent"] == pytest.approx(45.0)
    assert made["vertebrae"][0]["compression_ratio_percent"] is None
    last = made["vertebrae"][4]
    assert last["keypoints_px"] is last["relative_heights"] is None
    assert last["quality"] == ["PARTIAL"]


def test_the_document_of_a_calibrated_film(wedged: FilmCase) -> None:
    made = findings_document([wedged.source], wedged.findings, film_context(), sent=True)
    assert made["pixel_size"]["spacing_mm"] == list(SPACING_MM)
    assert made["vertebrae"][1]["heights_mm"]["anterior"] == pytest.approx(0.55 * 90 * 0.25, abs=0.01)


# words


@pytest.mark.parametrize("side_known", [True, False])
def test_every_result_says_what_is_not_recognised_on_a_film(
    side_known: bool, monkeypatch: pytest.MonkeyPatch, validation_errors: Callable[[Result], list[str]]
) -> None:
    """On CT hardware tells of a fusion: whoever knows that must not expect it of a film."""
    case = film_case({2: 0.55})
    case = case if side_known else without_side(case)
    limit = (
        "On radiographs fusion is not recognised: fused vertebrae are graded like others. Cement and metal are told "
        "by a network that was trained on rendered ones; where it misses them a vertebra is graded like others."
    )
    assert limit in said_on(case, monkeypatch)
    results = encoded(case)
    for kind in ("report", "details"):
        told = " ".join(str(item.TextValue) for item in items(results[kind].dataset, "TEXT"))
        assert limit in told.replace("\r\n", " "), kind
        assert validation_errors(results[kind]) == []


def test_a_vertebra_with_cement_has_its_heights_and_the_reason_why_it_has_no_grade(
    monkeypatch: pytest.MonkeyPatch, dumped: Callable[[Result], str]
) -> None:
    case = film_case()
    second = case.findings.vertebrae[1]
    cement = replace(second, grade=None, rule=None, quality=(*second.quality, Quality.FOREIGN_MATERIAL))
    vertebrae = (case.findings.vertebrae[0], cement, *case.findings.vertebrae[2:])
    case = replace(case, answer=replace(case.answer, findings=replace(case.findings, vertebrae=vertebrae)))
    reason = "taken for a body with cement or metal: no grade (CT: no HU either)"
    assert f"V2: {reason}" in said_on(case, monkeypatch)
    shown = dumped(encoded(case)["details"])
    assert reason in shown
    rows = findings_document([case.source], case.findings, film_context(), sent=True)["vertebrae"]
    assert [row["grade"] is None for row in rows] == [v.ordinal == 2 for v in vertebrae]
    assert rows[1]["heights_mm"] is not None


def test_a_refusal_says_nothing_of_what_is_graded(wedged: FilmCase) -> None:
    results = {r.kind: r for r in encode_film(wedged.source, refusal(), film_context())}
    assert "fusion" not in " ".join(str(item.TextValue) for item in items(results["report"].dataset, "TEXT"))


def test_compression_is_said_for_none_some_and_all(wedged: FilmCase) -> None:
    assert compression(replace(wedged.findings, vertebrae=())) == ""
    alone = replace(wedged.findings, vertebrae=wedged.findings.vertebrae[:1])
    assert compression(alone) == (
        "No compression ratio (VCR). None without a sure, undeformed one near by on both sides: V1."
    )
    middle = replace(wedged.findings, vertebrae=wedged.findings.vertebrae[1:3])
    assert "None" not in compression(middle)
    assert "passed over" not in compression(middle)


def test_why_there_is_no_compression_ratio_is_said_of_each_as_it_is(wedged: FilmCase) -> None:
    """One that is unsure itself is not said to lack neighbours."""
    unsure = replace(
        wedged.findings.vertebrae[1],
        compression_ratio_percent=None,
        compared_with=None,
        quality=(Quality.LOW_CONFIDENCE,),
    )
    third = replace(wedged.findings.vertebrae[2], compared_with=(1, 4))
    findings = replace(wedged.findings, vertebrae=(wedged.findings.vertebrae[0], unsure, third))
    said = compression(findings)
    passed_over = "deformed, unsure, with cement or metal, not measured or not seen"
    assert f"A neighbour that is {passed_over} is passed over: V3 with V1 and V4; " in said
    assert "None of an unsure vertebra: V2. None without a sure, undeformed one near by on both sides: V1." in said
    assert "healthy" not in said
    filled = replace(third, quality=(Quality.FOREIGN_MATERIAL,))
    said = compression(replace(findings, vertebrae=(*findings.vertebrae[:2], filled)))
    assert "None without a sure, undeformed one without cement or metal near by on both sides: V1." in said


def test_a_neighbour_that_was_replaced_is_said(wedged: FilmCase, dumped: Callable[[Result], str]) -> None:
    third = replace(wedged.findings.vertebrae[2], compared_with=(1, 4))
    findings = replace(wedged.findings, vertebrae=(*wedged.findings.vertebrae[:2], third))
    weighted = "the mean is then weighted by distance, the nearer one counts more"
    assert f"passed over: V3 with V1 and V4; {weighted}." in compression(findings)
    details = encoded(replace(wedged, answer=replace(wedged.answer, findings=findings)))["details"]
    shown = dumped(details)
    why = "a neighbour is deformed, unsure, with cement or metal, not measured or not seen"
    assert f"compression ratio against V1 and V4: {why}; {weighted}" in shown
    assert weighted not in compression(wedged.findings), "both are neighbours"
    assert findings_document([wedged.source], findings, film_context(), sent=True)["vertebrae"][2]["compared_with"] == [
        1,
        4,
    ]


@pytest.mark.parametrize(("value", "said"), [(45.04, "45 %"), (-3.6, "-4 %"), (-0.3, "0 %"), (None, None)])
def test_compression_ratios_in_words(value: float | None, said: str | None) -> None:
    vertebra = VertebraFinding(ordinal=1, centroid_px=(1.0, 1.0), compression_ratio_percent=value)
    assert compression_text(vertebra) == said


def test_a_vertebra_has_one_centre() -> None:
    with pytest.raises(ValueError, match="one centre"):
        VertebraFinding(ordinal=1)
    with pytest.raises(ValueError, match="one centre"):
        VertebraFinding(ordinal=1, centroid_lps_mm=(0.0, 0.0, 0.0), centroid_px=(1.0, 1.0))


def test_the_flags_of_a_film_have_sentences(wedged: FilmCase, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = replace(wedged.findings, quality=(Quality.FOR_PROCESSING, Quality.LOSSY_SOURCE))
    said = said_on(replace(wedged, answer=replace(wedged.answer, findings=raw)), monkeypatch)
    assert "not processed for reading" in said
    assert "lossy compressed" in said
    assert wedged.findings.pixel_size == PixelSize(SPACING_MM, "Pixel Spacing, calibrated (fiducial)")
    assert wedged.findings.patient.worst_grade is Grade.SEVERE


def test_double_contours_and_a_contradicting_header_are_told_by_every_result(
    validation_errors: Callable[[Result], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a film with many of them the capture tells each flag once, whole, in letters that can be read."""
    case = film_case({3: 0.7})
    vertebrae = tuple(
        replace(v, quality=(*v.quality, Quality.DOUBLE_CONTOUR)) if v.ordinal != 2 else v
        for v in case.findings.vertebrae
    )
    whole = (Quality.HEADER_CONTRADICTED, Quality.HEAD_UNSURE, Quality.AGE_UNKNOWN)
    findings = replace(case.findings, vertebrae=vertebrae, quality=whole)
    case = replace(case, answer=replace(case.answer, findings=findings))
    twice, said_otherwise = "V1, V3 to V5: an end plate shows twice (oblique)", "the header says otherwise"
    said = said_on(case, monkeypatch)
    assert said.count(twice) == 1 and said.count(said_otherwise) == 1
    layout = lay_out(as_answered(findings), shown_of(case), CAPTION)
    assert min(size for _, size, _ in layout.notes) >= 16
    assert CUT.strip() not in " ".join(line[0] for line in layout.notes)
    results = encoded(case)
    report = [str(item.TextValue) for item in items(results["report"].dataset, "TEXT")]
    assert sum(text.startswith(f"DOUBLE_CONTOUR: {twice}") for text in report) == 1
    details = [str(item.TextValue) for item in items(results["details"].dataset, "TEXT")]
    assert sum(text.startswith("DOUBLE_CONTOUR: an end plate shows twice") for text in details) == 4
    for texts in (report, details):
        assert sum(text.startswith(f"HEADER_CONTRADICTED: {said_otherwise}") for text in texts) == 1
        assert sum(text.startswith("HEAD_UNSURE: ") for text in texts) == 1
    assert validation_errors(results["report"]) == []


def test_how_far_mask_and_points_may_differ_is_said_as_it_is_on_films() -> None:
    said = quality_sentence(Quality.MASK_DISAGREES)
    assert f"radiograph: by more than {100 * PointSettings().agreement:g} % of Hp" in said
    assert "CT: by more than their stated error" in said


# the front may lie on either side


def without_side(case: FilmCase) -> FilmCase:
    """The same findings as a pipeline tells them that does not know where the front is."""

    def said(v: VertebraFinding) -> VertebraFinding:
        if v.keypoints_px is None or v.height_loss is None:
            return v
        loss = v.height_loss
        return replace(
            v,
            keypoints_px={k: at for k, at in v.keypoints_px.items() if k.startswith("middle")},
            without_side=WithoutSide(
                v.heights_mm.middle if v.heights_mm is not None else None,
                loss.middle,
                max(loss.anterior, loss.posterior),
            ),
            heights_mm=None,
            relative_heights=None,
            height_loss=None,
            compression_ratio_percent=None,
            compared_with=None,
            quality=(*v.quality, Quality.FRONT_UNSURE),
        )

    findings = replace(case.findings, vertebrae=tuple(said(v) for v in case.findings.vertebrae))
    findings = replace(findings, quality=(*findings.quality, Quality.FRONT_UNSURE))
    return replace(case, answer=replace(case.answer, findings=findings))


@pytest.mark.parametrize("calibrated", [True, False])
def test_without_a_side_the_answer_says_so_and_names_no_wall(
    calibrated: bool, validation_errors: Callable[[Result], list[str]]
) -> None:
    case = without_side(film_case({2: 0.55}, unmeasured=(5,), calibrated=calibrated))
    results = encoded(case, with_segmentation=True)
    assert list(results) == ["capture", "report", "details", "film_segmentation"]
    for result in results.values():
        assert validation_errors(result) == []
    assert all(
        r.dataset.SeriesDescription.startswith("AI spine: FLAG") for r in (results["capture"], results["report"])
    )
    words = " ".join(str(item.TextValue) for item in items(results["report"].dataset, "TEXT")).replace("\r\n", " ")
    assert "FLAG: V2 severe" in words and "ossible fracture" in words
    assert "Not sure to which side the front lies" in words and "FRONT_UNSURE" in words
    assert "V2, severe" in words and "wall -45 %" in words
    assert ("Hm" in words.split("V2, severe")[1].split("V3")[0]) and "Ha" not in words and "Hp" not in words
    measured_numbers = {name(item) for item in items(results["details"].dataset, "NUM")}
    assert not any("nterior" in n or "osterior" in n or "ompression" in n for n in measured_numbers)
    lines = [numbers(g) for g in groups(results["details"].dataset)]
    middles = [n for found in lines for n in found]
    assert len(middles) == (4 if calibrated else 0)


def test_without_a_side_the_capture_draws_the_middle_and_marks_no_front() -> None:
    case = without_side(film_case({2: 0.55}, unmeasured=(5,)))
    shown = film_picture(case.film, as_answered(case.findings), case.answer.labels)
    assert (shown.marks.left, shown.marks.right, shown.marks.above, shown.marks.below) == ("", "", "H", "F")
    (ends,) = shown.heights(case.findings.vertebrae[1])
    points = case.findings.vertebrae[1].keypoints_px
    assert points is not None
    np.testing.assert_allclose(ends, [points["middle_superior"], points["middle_inferior"]])
    layout = lay_out(as_answered(case.findings), shown, CAPTION)
    headings = [c.heading for c in layout.table.columns]
    assert {"Hm", "G", "loss", "grade"} <= set(headings)
    assert {"Ha", "Hp", "Ha/Hp", "Hm/Hp", "VCR"}.isdisjoint(headings)
    text = " ".join(line[0] for line in layout.notes)
    assert "wall" in text and "not sure to which side" in text and "4 of 5 vertebrae measured" in text


def test_without_a_side_the_document_keeps_what_needs_none() -> None:
    case = without_side(film_case({2: 0.55}, unmeasured=(5,)))
    made = findings_document([case.source], case.findings, film_context(), sent=True)
    second = made["vertebrae"][1]
    assert made["patient"]["flag"] is True and second["grade"] == "severe"
    assert second["without_side"]["wall_loss"] == pytest.approx(0.45)
    assert second["heights_mm"] is None and second["keypoints_px"]["anterior_superior"] is None
    assert second["keypoints_px"]["middle_superior"] is not None


def test_bodies_on_too_coarse_a_grid_are_outlined_and_nothing_is_graded() -> None:
    case = film_case({2: 0.55}, unmeasured=(1, 2, 3, 4, 5))
    vertebrae = tuple(replace(v, quality=(Quality.HEIGHTS_NOT_TOLD,)) for v in case.findings.vertebrae)
    coarse = replace(case, answer=replace(case.answer, findings=replace(case.findings, vertebrae=vertebrae)))
    assert as_answered(coarse.findings).refusal is None
    results = encoded(coarse, with_segmentation=True)
    assert list(results) == ["capture", "report", "details", "film_segmentation"]
    assert "not graded" in results["report"].dataset.SeriesDescription


# a film that was sent turned by a quarter


def turned(case: FilmCase, clockwise: bool) -> FilmCase:
    """The film as a console sends it that turned it by a quarter, and its findings."""
    rows, columns = case.film.pixels.shape
    turns = 3 if clockwise else 1

    def at(point: tuple[float, float]) -> tuple[float, float]:
        column, row = point
        return (rows - row, column) if clockwise else (row, columns - column)

    def moved(v: VertebraFinding) -> VertebraFinding:
        assert v.centroid_px is not None
        points = None if v.keypoints_px is None else {k: at(p) for k, p in v.keypoints_px.items()}
        return replace(v, centroid_px=at(v.centroid_px), keypoints_px=points)

    film = replace(case.film, pixels=np.ascontiguousarray(np.rot90(case.film.pixels, turns)), orientation=None)
    findings = replace(case.findings, vertebrae=tuple(moved(v) for v in case.findings.vertebrae))
    assert case.answer.labels is not None
    labels = np.ascontiguousarray(np.rot90(case.answer.labels, turns))
    return replace(case, film=film, answer=FilmAnswer(findings, film, labels))


@pytest.mark.parametrize("clockwise", [True, False])
def test_a_film_turned_by_a_quarter_has_its_rows_in_order_and_no_slanted_lines(
    wedged: FilmCase, clockwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying = turned(wedged, clockwise)
    findings = as_answered(lying.findings)
    shown = film_picture(lying.film, findings, lying.answer.labels)
    assert (shown.marks.left, shown.marks.right) == (("F", "H") if clockwise else ("H", "F"))
    texts: list[tuple[float, float, str]] = []
    lines: list[tuple[float, ...]] = []
    write, join = ImageDraw.ImageDraw.text, ImageDraw.ImageDraw.line

    def text(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, *args: Any, **named: Any) -> None:
        texts.append((*xy, text))
        write(self, xy, text, *args, **named)

    def line(self: ImageDraw.ImageDraw, xy: tuple[float, ...], *args: Any, **named: Any) -> None:
        lines.append(tuple(xy))
        join(self, xy, *args, **named)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    monkeypatch.setattr(ImageDraw.ImageDraw, "line", line)
    layout = lay_out(findings, shown, CAPTION)
    draw_picture(findings, shown, CAPTION)
    view, names = layout.view, [v.name for v in findings.vertebrae]
    rows = [next(y for x, y, t in texts if t == n and x >= layout.table_left) for n in names]
    assert rows == sorted(rows) and min(np.diff(rows)) >= layout.table.letters
    assert not [at for at in lines if at[2:3] == (layout.table_left - 8,)], "nothing joins rows and image"
    centres = view.left + (shown.centres(findings.vertebrae)[:, 0] - view.first[0]) * view.scale
    below = [next(x for x, y, t in texts if t == n and view.bottom < y <= view.bottom + NAMES) for n in names]
    np.testing.assert_allclose(below, centres, atol=2)


def test_a_film_head_down_has_its_rows_beside_its_vertebrae(wedged: FilmCase) -> None:
    down = turned(turned(wedged, True), True)
    findings = as_answered(down.findings)
    shown = film_picture(down.film, findings, down.answer.labels)
    assert (shown.marks.above, shown.marks.below) == ("F", "H")
    rows = lay_out(findings, shown, CAPTION).view.rows_of(findings, shown)
    assert rows == sorted(rows, reverse=True)


@pytest.mark.parametrize("clockwise", [True, False])
def test_heights_of_a_turned_film_lie_on_its_bodies(wedged: FilmCase, clockwise: bool) -> None:
    lying = turned(wedged, clockwise)
    for vertebra in measured(lying.findings):
        for upper, lower in height_ends(vertebra)[[1]]:
            column, row = (upper + lower) / 2
            assert lying.answer.labels is not None
            assert lying.answer.labels[int(row), int(column)] == vertebra.ordinal
            assert abs(upper[0] - lower[0]) > abs(upper[1] - lower[1])


def test_of_a_fluoroscopic_image_there_is_no_segmentation_and_the_details_say_so(wedged: FilmCase) -> None:
    def said(case: FilmCase) -> bool:
        results = encoded(case, with_segmentation=True)
        assert ("film_segmentation" in results) is (case is wedged)
        return NO_SEGMENTATION in [item.TextValue for item in items(results["details"].dataset, "TEXT")]

    spot = film_case({2: 0.55, 4: 1.1}, unmeasured=(5,), sop_class=RF)
    assert said(spot) and not said(wedged)
