"""segmentation.dcm: the outlines on the source grid, and what they are not."""

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

from inference.findings import Grade
from node.gate.volume import SliceReference
from node.results import Result, ResultError, encode
from node.results.segmentation import segment_colour


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
    assert case.outlines is not None
    source, given = case.source, case
    if reversed_slices:
        source, given = case.source[::-1], replace(case, outlines=case.outlines[::-1])
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
    assert found == _labelled_points(case, case.outlines)


def test_highdicom_gives_the_same_label_map(flagged: Case, flagged_results: dict[str, Result], tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(flagged_results["segmentation"].encoded())
    seg = hd.seg.segread(path)
    back = seg.get_pixels_by_source_instance([h.SOPInstanceUID for h in flagged.source], combine_segments=True)
    assert np.array_equal(back, flagged.outlines)


def test_labels_say_that_an_outline_is_no_volume(flagged_results: dict[str, Result]) -> None:
    segments = flagged_results["segmentation"].dataset.SegmentSequence
    assert [s.SegmentLabel for s in segments] == [f"V{i} midline outline, not a volume" for i in range(1, 8)]
    assert [s.TrackingID for s in segments] == [f"spine-node V{i}" for i in range(1, 8)]
    assert len({s.TrackingUID for s in segments}) == 7
    assert {s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in segments} == {"51282000"}
    assert {s.SegmentAlgorithmType for s in segments} == {"AUTOMATIC"}


def test_segment_types_are_levels_where_they_are_known(whole_spine: Case) -> None:
    results = {r.kind: r for r in encode(whole_spine.source, whole_spine, context())}
    segments = results["segmentation"].dataset.SegmentSequence
    assert segments[0].SegmentLabel.startswith("T2 ")
    assert segments[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "53733008"


def test_vertebrae_without_a_voxel_leave_no_gap_in_the_numbers(flagged: Case) -> None:
    assert flagged.outlines is not None
    outlines = flagged.outlines.copy()
    outlines[outlines == 3] = 0
    results = {r.kind: r for r in encode(flagged.source, replace(flagged, outlines=outlines), context())}
    segments = results["segmentation"].dataset.SegmentSequence
    assert [s.SegmentNumber for s in segments] == [1, 2, 3, 4, 5, 6]
    assert [s.SegmentLabel.split()[0] for s in segments] == ["V1", "V2", "V4", "V5", "V6", "V7"]


def test_empty_frames_are_left_out_and_the_grid_is_the_source_s(
    flagged: Case, flagged_results: dict[str, Result]
) -> None:
    seg = flagged_results["segmentation"].dataset
    assert flagged.outlines is not None
    expected = sum(len(np.flatnonzero((flagged.outlines == k).any(axis=(1, 2)))) for k in range(1, 8))
    assert seg.NumberOfFrames == expected
    assert seg.SegmentationType == "BINARY"
    assert seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert seg.FrameOfReferenceUID == flagged.source[0].FrameOfReferenceUID
    assert (seg.Rows, seg.Columns) == (flagged.source[0].Rows, flagged.source[0].Columns)


def test_an_unknown_label_or_another_grid_is_an_error(flagged: Case) -> None:
    assert flagged.outlines is not None
    stranger = flagged.outlines.copy()
    stranger[0, 0, 0] = 99
    with pytest.raises(ResultError, match="label 99"):
        encode(flagged.source, replace(flagged, outlines=stranger), context())
    with pytest.raises(ResultError, match="outlines have the shape"):
        encode(flagged.source, replace(flagged, outlines=flagged.outlines[:, :, 1:]), context())


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


def test_outlines_of_a_multi_frame_source_go_to_the_frames_that_the_references_name(
    validation_errors: Callable[[Result], list[str]], tmp_path: Path
) -> None:
    case = make_case({2: (0.55, 0.5, 0.8)}, count=3)
    assert case.outlines is not None
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
    assert found == _labelled_points(case, case.outlines)


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
