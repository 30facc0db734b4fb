"""segmentation.dcm and bodies.dcm: the masks on the source grid, each segment with its name and code."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage
from results_synthetic import Case, context, make_case

from inference.findings import Grade, Level
from node.gate.volume import SliceReference
from node.results import Result, ResultError, codes, encode
from node.results.segmentation import body_labels, segment_colour


def _labelled_points(case: Case, labels: np.ndarray) -> set[tuple[float, ...]]:
    """(label, x, y, z) of every voxel, from the case's own affine."""
    index = np.argwhere(labels)
    points = case.volume.to_lps(index.astype(np.float64))
    values = labels[tuple(index.T)]
    return {(int(v), *np.round(p, 2).tolist()) for v, p in zip(values, points, strict=True)}


@pytest.mark.parametrize("reversed_slices", [False, True])
def test_dcmqi_finds_every_voxel_where_it_was_in_the_patient(
    reversed_slices: bool, program: Callable[[str], str], tmp_path: Path
) -> None:
    case = make_case(count=4)
    assert case.labels is not None
    source, given = case.source, case
    if reversed_slices:
        source, given = case.source[::-1], replace(case, labels=case.labels[::-1], parts=None)
    results = {r.kind: r for r in encode(source, given, context())}
    (tmp_path / "seg.dcm").write_bytes(results["segmentation"].encoded())
    subprocess.run(
        [
            program("segimage2itkimage"),
            *("--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path)),
            *("--outputType", "nrrd", "--mergeSegments"),
        ],
        check=True,
        capture_output=True,
    )
    image = SimpleITK.ReadImage(str(tmp_path / "1.nrrd"))
    dk, dj, di = case.volume.spacing_mm
    assert image.GetSpacing() == pytest.approx((di, dj, dk))
    array = SimpleITK.GetArrayFromImage(image)
    found = {
        (
            int(array[tuple(index)]),
            *np.round(image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]), 2).tolist(),
        )
        for index in np.argwhere(array)
    }
    assert found == _labelled_points(case, case.labels)


def test_highdicom_gives_the_same_label_map(flagged: Case, flagged_results: dict[str, Result], tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(flagged_results["segmentation"].encoded())
    seg = hd.seg.segread(path)
    back = seg.get_pixels_by_source_instance([h.SOPInstanceUID for h in flagged.source], combine_segments=True)
    assert np.array_equal(back, flagged.labels)


def test_labels_are_the_names_of_the_vertebrae(flagged_results: dict[str, Result]) -> None:
    segments = flagged_results["segmentation"].dataset.SegmentSequence
    assert [s.SegmentLabel for s in segments] == [f"V{i}" for i in range(1, 8)]
    assert [s.TrackingID for s in segments] == [f"spine-node V{i}" for i in range(1, 8)]
    assert len({s.TrackingUID for s in segments}) == 7
    assert {s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in segments} == {"51282000"}
    assert {s.SegmentAlgorithmType for s in segments} == {"AUTOMATIC"}


def test_segment_types_are_levels_where_they_are_known(whole_spine: Case) -> None:
    results = {r.kind: r for r in encode(whole_spine.source, whole_spine, context())}
    segments = results["segmentation"].dataset.SegmentSequence
    assert segments[0].SegmentLabel == "T2"
    assert segments[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "53733008"


def test_vertebrae_without_a_voxel_leave_no_gap_in_the_numbers(flagged: Case, tmp_path: Path) -> None:
    assert flagged.labels is not None
    labels = flagged.labels.copy()
    labels[labels == 3] = 0
    results = {r.kind: r for r in encode(flagged.source, replace(flagged, labels=labels), context())}
    for kind, words in (("segmentation", ""), ("bodies", " body")):
        segments = results[kind].dataset.SegmentSequence
        assert [s.SegmentNumber for s in segments] == [1, 2, 3, 4, 5, 6]
        assert [s.SegmentLabel for s in segments] == [f"V{i}{words}" for i in (1, 2, 4, 5, 6, 7)]
    path = tmp_path / "seg.dcm"
    path.write_bytes(results["segmentation"].encoded())
    uids = [h.SOPInstanceUID for h in flagged.source]
    back = hd.seg.segread(path).get_pixels_by_source_instance(uids, combine_segments=True)
    assert np.array_equal(np.array([0, 1, 2, 4, 5, 6, 7])[back], labels)


def test_bodies_are_segments_of_their_own_with_codes_of_bodies(
    complete: Case, complete_results: dict[str, Result], tmp_path: Path
) -> None:
    assert complete.labels is not None and complete.parts is not None
    whole, bodies = (complete_results[kind].dataset for kind in ("segmentation", "bodies"))
    assert whole.SeriesInstanceUID != bodies.SeriesInstanceUID
    assert (int(whole.SeriesNumber), int(bodies.SeriesNumber)) == (9005, 9006)
    assert [s.SegmentLabel for s in bodies.SegmentSequence][:2] == ["T8 body", "T9 body"]
    assert [s.TrackingID for s in bodies.SegmentSequence][:1] == ["spine-node T8 body"]
    assert not {s.TrackingUID for s in whole.SegmentSequence} & {s.TrackingUID for s in bodies.SegmentSequence}
    types = [s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in bodies.SegmentSequence]
    assert types[0] == "77435000"
    assert types[5] == "1186895000", "T13 has a code of its own"
    assert "280849005" in types
    path = tmp_path / "bodies.dcm"
    path.write_bytes(complete_results["bodies"].encoded())
    uids = [h.SOPInstanceUID for h in complete.source]
    back = hd.seg.segread(path).get_pixels_by_source_instance(uids, combine_segments=True)
    assert np.array_equal(back, np.where(complete.parts == 1, complete.labels, 0))
    assert back.any() and (complete.parts == 2).any()


def test_no_body_is_named_as_another() -> None:
    values = {level: codes.vertebral_body(level).value for level in Level}
    named = [value for value in values.values() if value != "3572006"]
    assert len(set(named)) == len(named) == 23
    assert {level for level, value in values.items() if value == "3572006"} == {
        *(Level.C1, Level.C2, Level.L6, Level.S1)
    }
    assert codes.vertebral_body(None).value == "3572006"


def test_a_vertebra_without_a_body_is_in_one_segmentation_only(small: Case) -> None:
    assert small.parts is not None and small.labels is not None
    parts = np.where((small.parts == 1) & (small.labels == 2), np.uint8(2), small.parts)
    results = {r.kind: r.dataset for r in encode(small.source, replace(small, parts=parts), context())}
    assert [s.SegmentLabel for s in results["segmentation"].SegmentSequence] == ["V1", "V2", "V3"]
    assert [s.SegmentLabel for s in results["bodies"].SegmentSequence] == ["V1 body", "V3 body"]
    only_posterior = np.where(parts == 1, np.uint8(2), parts)
    kinds = [r.kind for r in encode(small.source, replace(small, parts=only_posterior), context())]
    assert kinds == ["reformat", "capture", "segmentation", "report", "details"]


def test_label_maps_are_passed_on_and_not_copied(flagged: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte a voxel, three dimensions, the pipeline's own array where numbers are ordinals."""
    given: list[np.ndarray] = []
    original = hd.seg.Segmentation.__init__

    def init(self, *more, pixel_array, **named):  # type: ignore[no-untyped-def]
        given.append(pixel_array)
        original(self, *more, pixel_array=pixel_array, **named)

    monkeypatch.setattr(hd.seg.Segmentation, "__init__", init)
    encode(flagged.source, flagged, context())
    assert given[0] is flagged.labels
    assert [(a.dtype, a.ndim) for a in given] == [(np.dtype(np.uint8), 3)] * 2


def test_empty_frames_are_left_out_and_the_grid_is_the_source_s(
    flagged: Case, flagged_results: dict[str, Result]
) -> None:
    seg = flagged_results["segmentation"].dataset
    assert flagged.labels is not None
    expected = sum(len(np.flatnonzero((flagged.labels == k).any(axis=(1, 2)))) for k in range(1, 8))
    assert seg.NumberOfFrames == expected
    assert seg.SegmentationType == "BINARY"
    assert seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert seg.FrameOfReferenceUID == flagged.source[0].FrameOfReferenceUID
    assert (seg.Rows, seg.Columns) == (flagged.source[0].Rows, flagged.source[0].Columns)


def test_an_unknown_label_or_another_grid_is_an_error(flagged: Case) -> None:
    assert flagged.labels is not None
    stranger = flagged.labels.copy()
    stranger[0, 0, 0] = 99
    with pytest.raises(ResultError, match="label 99"):
        encode(flagged.source, replace(flagged, labels=stranger), context())
    with pytest.raises(ResultError, match="masks have the shape"):
        encode(flagged.source, replace(flagged, labels=flagged.labels[:, :, 1:]), context())
    assert flagged.parts is not None
    with pytest.raises(ResultError, match="masks have the shape"):
        encode(flagged.source, replace(flagged, parts=flagged.parts[:, 1:]), context())
    with pytest.raises(ResultError, match="their parts"):
        body_labels(flagged.labels, flagged.parts[1:])


def test_colours_differ_between_grades_and_between_neighbours(flagged: Case) -> None:
    vertebra = flagged.findings.vertebrae[0]
    colours = {
        tuple(segment_colour(replace(vertebra, ordinal=o, grade=g)).value) for o in (1, 2) for g in (*Grade, None)
    }
    assert len(colours) == 10


def _enhanced(case: Case, order: list[int]) -> Dataset:
    """The case's series as one Enhanced CT header whose frames come in the given order of slices."""
    first = case.source[0]
    header = Dataset()
    for keyword in (
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "SpecificCharacterSet",
        "PatientID",
        "PatientName",
    ):
        header[keyword] = first[keyword]
    header.SOPClassUID, header.SOPInstanceUID = EnhancedCTImageStorage, f"{first.SOPInstanceUID}.77"
    header.Modality, header.SeriesNumber = "CT", 4
    header.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    header.Rows, header.Columns, header.NumberOfFrames = first.Rows, first.Columns, len(order)
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = []
    for slice_index in order:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = case.source[slice_index].ImagePositionPatient
        group.PlanePositionSequence = [position]
        header.PerFrameFunctionalGroupsSequence.append(group)
    return header


def test_masks_of_a_multi_frame_source_go_to_the_frames_that_the_references_name(
    validation_errors: Callable[[Result], list[str]], tmp_path: Path
) -> None:
    case = make_case({2: (0.55, 0.5, 0.8)}, count=3)
    assert case.labels is not None
    order = np.random.default_rng(3).permutation(len(case.source)).tolist()
    header = _enhanced(case, order)
    references = [
        SliceReference(header.SOPClassUID, header.SOPInstanceUID, order.index(k) + 1) for k in range(len(order))
    ]
    results = {r.kind: r for r in encode([header], case, context(), references)}
    assert {kind: validation_errors(r) for kind, r in results.items()} == {kind: [] for kind in results}
    path = tmp_path / "seg.dcm"
    path.write_bytes(results["segmentation"].encoded())
    back = hd.seg.segread(path).get_volume(combine_segments=True)
    index = np.argwhere(back.array)
    points = np.round(back.map_indices_to_reference(index), 2)
    found = {(int(back.array[tuple(i)]), *p.tolist()) for i, p in zip(index, points, strict=True)}
    assert found == _labelled_points(case, case.labels)


def test_a_multi_frame_source_without_references_gets_no_segmentation_rather_than_a_wrong_one() -> None:
    case = make_case(count=2)
    header = _enhanced(case, list(range(len(case.source))))
    assert [r.kind for r in encode([header], case, context())] == ["reformat", "capture", "report", "details"]


def test_references_that_do_not_fit_are_an_error(small: Case) -> None:
    references = [SliceReference(h.SOPClassUID, h.SOPInstanceUID, None) for h in small.source]
    assert [r.encoded() for r in encode(small.source, small, context(), references)] == [
        r.encoded() for r in encode(small.source, small, context())
    ]
    with pytest.raises(ResultError, match="not in the order"):
        encode(small.source, small, context(), references[::-1])
    with pytest.raises(ResultError, match="references"):
        encode(small.source, small, context(), references[1:])


def test_expected_bodies_are_a_prediction_and_no_anatomy(small: Case) -> None:
    assert small.labels is not None and small.parts is not None
    expected = np.where(small.parts == 1, small.labels, np.uint8(0))
    results = {r.kind: r for r in encode(small.source, replace(small, expected_labels=expected), context())}
    made = results["expected"].dataset
    assert results["expected"].filename == "expected.dcm" and int(made.SeriesNumber) == 9007
    assert made.SegmentSequence[0].SegmentLabel == "V1 expected body, predicted"
    types = {s.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator for s in made.SegmentSequence}
    assert types == {"99SPINE"}, "nobody takes it for a vertebra"
    others = [s.TrackingUID for kind in ("segmentation", "bodies") for s in results[kind].dataset.SegmentSequence]
    assert not {s.TrackingUID for s in made.SegmentSequence} & set(others)
    assert "expected" not in [r.kind for r in encode(small.source, small, context())]
