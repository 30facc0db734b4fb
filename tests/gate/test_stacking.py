"""Which slices make one regular grid, and where: order, gaps, duplicates, phases, tilt, orientation, matrix."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from inference.findings import Quality
from inference.refusal import RefusalCode
from tests.gate.conftest import Ct, HeadersOf, assert_field, loaded, refused


def test_unsorted_slices_are_sorted_by_position_and_not_by_instance_number(headers_of: HeadersOf) -> None:
    result = loaded(headers_of(Ct()))
    assert result.volume.hu.shape == (12, 10, 8)
    assert result.volume.hu.dtype == np.int16
    assert [float(d.ImagePositionPatient[2]) for d in result.datasets] == [-20.0 + 3 * i for i in range(12)]
    assert result.quality == ()
    assert_field(result)


def test_a_missing_slice_in_a_long_series_leaves_the_longer_block(headers_of: HeadersOf) -> None:
    positions = [(0.0, 0.0, 3.0 * i) for i in range(60) if i != 15]
    result = loaded(headers_of(Ct(count=59, positions=positions, spacing=3.0)))
    assert Quality.SPLIT_SERIES in result.quality
    assert result.volume.hu.shape[0] == 44
    assert result.volume.affine[2, 3] == 48.0
    assert_field(result)


def test_a_missing_slice_in_a_short_series_is_refused(headers_of: HeadersOf) -> None:
    positions = [(0.0, 0.0, 3.0 * i) for i in range(20) if i != 10]
    refusal = refused(headers_of(Ct(count=19, positions=positions, spacing=3.0))).refusal
    assert refusal.code is RefusalCode.GAP_IN_SERIES
    assert "1 gap of up to 6.0 mm where 3.0 mm is usual" in refusal.sentence


def test_a_missing_slice_at_the_end_is_no_gap(headers_of: HeadersOf) -> None:
    result = loaded(headers_of(Ct(positions=[(0.0, 0.0, 3.0 * i) for i in range(1, 13)])))
    assert result.quality == ()


def test_two_blocks_of_different_spacing_are_split_and_the_longer_is_taken(headers_of: HeadersOf) -> None:
    chest = [(0.0, 0.0, 1.25 * i) for i in range(40)]
    abdomen = [(0.0, 0.0, 400.0 + 2.5 * i) for i in range(50)]
    result = loaded(headers_of(Ct(count=90, positions=[*chest, *abdomen])))
    assert result.quality == (Quality.SPLIT_SERIES,)
    assert (result.volume.hu.shape[0], result.spacing_along_normal_mm) == (50, 2.5)
    assert_field(result)


def test_variable_spacing_is_refused(headers_of: HeadersOf) -> None:
    random = np.random.default_rng(3)
    positions = [(0.0, 0.0, float(2 * i + random.uniform(-0.3, 0.3))) for i in range(30)]
    assert refused(headers_of(Ct(count=30, positions=positions))).refusal.code is RefusalCode.UNEVEN_SPACING


def test_spacing_that_drifts_is_refused(headers_of: HeadersOf) -> None:
    positions = [(0.0, 0.0, i + 0.0008 * i * i) for i in range(40)]
    assert refused(headers_of(Ct(count=40, positions=positions))).refusal.code is RefusalCode.UNEVEN_SPACING


@pytest.mark.parametrize("jitter_mm", [0.02, 0.045])
def test_small_jitter_is_accepted(headers_of: HeadersOf, jitter_mm: float) -> None:
    random = np.random.default_rng(4)
    positions = [(0.0, 0.0, float(i + random.uniform(-jitter_mm, jitter_mm))) for i in range(40)]
    result = loaded(headers_of(Ct(count=40, positions=positions)))
    assert result.spacing_along_normal_mm == pytest.approx(1.0, abs=4e-3)
    assert result.quality == ()


def test_the_same_instance_twice_is_dropped(headers_of: HeadersOf) -> None:
    series = Ct()
    once = loaded(headers_of(series))
    twice = loaded(headers_of(series, replace(series, count=5)))
    assert twice.volume.hu.shape == once.volume.hu.shape
    assert twice.input_sha256 == once.input_sha256


def test_one_instance_uid_for_two_different_images_is_refused(headers_of: HeadersOf) -> None:
    def brighter(_: int, ds: FileDataset) -> None:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") + 1).tobytes()

    series = Ct()
    refusal = refused(headers_of(series, replace(series, count=3, edit=brighter))).refusal
    assert refusal.code is RefusalCode.DUPLICATE_POSITIONS
    assert "same SOP Instance UID" in refusal.sentence


def test_same_positions_without_a_difference_are_refused(headers_of: HeadersOf) -> None:
    series = Ct()

    def other_uid(_: int, ds: FileDataset) -> None:
        ds.SOPInstanceUID = generate_uid()

    headers = headers_of(series, replace(series, edit=other_uid))
    assert refused(headers).refusal.code is RefusalCode.DUPLICATE_POSITIONS


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("AcquisitionNumber", 2),
        ("TemporalPositionIdentifier", 2),
        ("EchoTime", "5"),
        ("KVP", "140"),
        ("ConvolutionKernel", "Bl57"),
        ("NominalPercentageOfCardiacPhase", 70.0),
    ],
)
def test_two_phases_in_one_series_are_told_apart(headers_of: HeadersOf, keyword: str, value: object) -> None:
    series = Ct()

    def second_phase(_: int, ds: FileDataset) -> None:
        ds.SOPInstanceUID = generate_uid()
        setattr(ds, keyword, value)

    result = loaded(headers_of(series, replace(series, count=11, edit=second_phase)))
    assert result.quality == (Quality.SPLIT_SERIES,)
    assert {str(d.get(keyword, "")) for d in result.datasets} != {str(value)}
    assert result.volume.hu.shape[0] == 12
    assert_field(result)


def test_interleaved_phases_do_not_pass_for_one_finer_grid(headers_of: HeadersOf) -> None:
    def alternate(index: int, ds: FileDataset) -> None:
        ds.TemporalPositionIdentifier = 1 + index % 2

    result = loaded(headers_of(Ct(count=24, spacing=1.5, edit=alternate)))
    assert (result.spacing_along_normal_mm, result.volume.hu.shape[0]) == (3.0, 12)
    assert result.quality == (Quality.SPLIT_SERIES,)


def test_a_value_that_only_the_ends_share_is_no_phase(headers_of: HeadersOf) -> None:
    def ends(index: int, ds: FileDataset) -> None:
        ds.AcquisitionNumber = 2 if index in (0, 11) else 1

    result = loaded(headers_of(Ct(edit=ends)))
    assert (result.volume.hu.shape[0], result.quality) == (12, ())


def test_gantry_tilt_becomes_a_sheared_affine(headers_of: HeadersOf) -> None:
    angle = math.radians(20)
    orientation = (1.0, 0.0, 0.0, 0.0, math.cos(angle), -math.sin(angle))

    def tilted(_: int, ds: FileDataset) -> None:
        ds.GantryDetectorTilt = "-20"

    result = loaded(headers_of(Ct(orientation=orientation, step=(0.0, 0.0, 3.0), count=14, edit=tilted)))
    assert result.quality == (Quality.TILT_CORRECTED,)
    assert result.volume.affine[:3, 0] == pytest.approx([0.0, 0.0, 3.0])
    assert result.spacing_along_normal_mm == pytest.approx(3.0 * math.cos(angle), abs=1e-6)
    assert_field(result)


def test_an_oblique_stack_that_is_not_sheared_needs_no_flag(headers_of: HeadersOf) -> None:
    angle = math.radians(20)
    orientation = (1.0, 0.0, 0.0, 0.0, math.cos(angle), -math.sin(angle))
    result = loaded(headers_of(Ct(orientation=orientation, step=(0.0, 3 * math.sin(angle), 3 * math.cos(angle)))))
    assert result.quality == ()
    assert_field(result)


def test_a_tilt_that_the_orientation_denies_is_refused(headers_of: HeadersOf) -> None:
    def tilted(_: int, ds: FileDataset) -> None:
        ds.GantryDetectorTilt = "15"

    assert refused(headers_of(Ct(edit=tilted))).refusal.code is RefusalCode.GANTRY_TILT


def test_localizers_inside_a_series_are_dropped(headers_of: HeadersOf) -> None:
    def scout(_: int, ds: FileDataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.SOPInstanceUID = generate_uid()

    series = Ct()
    coronal = replace(series, count=2, orientation=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0), edit=scout)
    result = loaded(headers_of(series, coronal))
    assert result.volume.hu.shape[0] == 12
    assert result.quality == ()


def test_mixed_orientation_leaves_the_biggest_axial_block(headers_of: HeadersOf) -> None:
    def other_uid(_: int, ds: FileDataset) -> None:
        ds.SOPInstanceUID = generate_uid()

    series = Ct()
    sagittal = replace(
        series, count=15, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0), step=(1.0, 0.0, 0.0), edit=other_uid
    )
    result = loaded(headers_of(replace(series, count=45), sagittal))
    assert result.volume.hu.shape[0] == 45
    assert result.quality == (Quality.SPLIT_SERIES,)


def test_every_image_turned_another_way_is_refused(headers_of: HeadersOf) -> None:
    def turn(index: int, ds: FileDataset) -> None:
        angle = math.radians(index * 0.2)
        ds.ImageOrientationPatient = [
            f"{v:.8f}" for v in (math.cos(angle), math.sin(angle), 0, -math.sin(angle), math.cos(angle), 0)
        ]

    headers = headers_of(Ct(count=45, edit=turn))
    assert refused(headers).refusal.code is RefusalCode.MIXED_ORIENTATION


@pytest.mark.parametrize(
    "orientation",
    [
        (2.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        (1.0, 0.0, 0.0, 0.2, 1.0, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    ],
)
def test_orientation_that_is_not_orthonormal_is_refused(headers_of: HeadersOf, orientation: tuple[float, ...]) -> None:
    def bend(_: int, ds: FileDataset) -> None:
        ds.ImageOrientationPatient = list(orientation)

    assert refused(headers_of(Ct(edit=bend))).refusal.code is RefusalCode.INVALID_ORIENTATION


def test_two_frames_of_reference_are_split(headers_of: HeadersOf) -> None:
    other = str(generate_uid())

    def move(index: int, ds: FileDataset) -> None:
        if index >= 45:
            ds.FrameOfReferenceUID = other

    result = loaded(headers_of(Ct(count=55, edit=move)))
    assert result.volume.hu.shape[0] == 45
    assert result.quality == (Quality.SPLIT_SERIES,)
    assert result.volume.frame_of_reference_uid != other


def test_a_frame_of_reference_for_each_image_is_refused(headers_of: HeadersOf) -> None:
    def move(_: int, ds: FileDataset) -> None:
        ds.FrameOfReferenceUID = generate_uid()

    headers = headers_of(Ct(count=45, edit=move))
    assert refused(headers).refusal.code is RefusalCode.SEVERAL_FRAMES_OF_REFERENCE


def test_no_frame_of_reference_is_refused_because_of_the_segmentation(headers_of: HeadersOf) -> None:
    def forget(_: int, ds: FileDataset) -> None:
        del ds.FrameOfReferenceUID

    assert refused(headers_of(Ct(edit=forget))).refusal.code is RefusalCode.NO_FRAME_OF_REFERENCE


def test_mixed_matrix_and_pixel_spacing_are_split(headers_of: HeadersOf) -> None:
    def other(index: int, ds: FileDataset) -> None:
        if index >= 45:
            ds.PixelSpacing = [0.5, 0.5]

    result = loaded(headers_of(Ct(count=55, edit=other)))
    assert (result.volume.hu.shape[0], result.quality) == (45, (Quality.SPLIT_SERIES,))


def test_a_pixel_spacing_for_each_image_is_refused(headers_of: HeadersOf) -> None:
    def other(index: int, ds: FileDataset) -> None:
        ds.PixelSpacing = [0.5 + 0.01 * index, 0.5]

    headers = headers_of(Ct(count=45, edit=other))
    assert refused(headers).refusal.code is RefusalCode.MIXED_GEOMETRY
