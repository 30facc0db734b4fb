"""One test for each row of the input checklist (dicom-results.md section 6) that concerns CT."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from inference.findings import Quality
from inference.refusal import Outcome, RefusalCode
from node.gate import GatePolicy, InstanceHeader, LoadedSeries, Unevaluable, choose, load_volume, read_headers
from tests.gate.conftest import Ct, field_hu, raw, save

HeadersOf = Callable[..., list[InstanceHeader]]
POLICY = GatePolicy()


def loaded(headers: list[InstanceHeader], policy: GatePolicy = POLICY) -> LoadedSeries:
    """The volume; fails with the refusal where there is none. Every voxel must hold the field at its place."""
    result = load_volume(headers, policy)
    assert isinstance(result, LoadedSeries), getattr(result, "refusal", None)
    return result


def refused(headers: list[InstanceHeader], policy: GatePolicy = POLICY) -> Unevaluable:
    """The refusal; fails where a volume came."""
    result = load_volume(headers, policy)
    assert isinstance(result, Unevaluable)
    return result


def assert_field(result: LoadedSeries, within_hu: float = 0.75) -> None:
    """Each voxel holds the linear field at the place that the affine gives it: order, axes and spacing are right."""
    index = np.stack(np.meshgrid(*map(np.arange, result.volume.hu.shape), indexing="ij"), axis=-1)
    expected = field_hu(result.volume.to_lps(index.astype(float)))
    assert np.abs(result.volume.hu - expected).max() <= within_hu


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


def test_rescale_is_applied_slice_by_slice(headers_of: HeadersOf) -> None:
    series = Ct(slope=1.0)

    def per_slice(index: int, ds: FileDataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = f"{0.5 + 0.01 * index:.2f}", str(-1000 - index)
        stored = (series.hu(index) - float(ds.RescaleIntercept)) / float(ds.RescaleSlope)
        ds.PixelData = np.rint(stored).astype("<u2").tobytes()

    result = loaded(headers_of(replace(series, edit=per_slice)))
    assert result.volume.hu.dtype == np.float32
    assert_field(result, within_hu=1.0)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_missing_rescale_is_refused(headers_of: HeadersOf, keyword: str) -> None:
    def forget(index: int, ds: FileDataset) -> None:
        if index == 7:
            delattr(ds, keyword)

    assert refused(headers_of(Ct(edit=forget))).refusal.code is RefusalCode.NOT_HOUNSFIELD


def test_rescale_type_other_than_hu_is_refused(headers_of: HeadersOf) -> None:
    def density(_: int, ds: FileDataset) -> None:
        ds.RescaleType = "MGML"

    assert refused(headers_of(Ct(edit=density))).refusal.code is RefusalCode.NOT_HOUNSFIELD


def test_absent_rescale_type_means_hounsfield(headers_of: HeadersOf) -> None:
    def forget(_: int, ds: FileDataset) -> None:
        del ds.RescaleType

    assert_field(loaded(headers_of(Ct(edit=forget))))


def test_padding_is_masked_and_becomes_air(headers_of: HeadersOf) -> None:
    def pad(_: int, ds: FileDataset) -> None:
        stored = np.frombuffer(ds.PixelData, "<u2").reshape(10, 8).copy()
        stored[0, :] = 63536  # -2000 as unsigned
        ds.PixelData = stored.tobytes()
        ds.PixelPaddingValue = 63536

    result = loaded(headers_of(Ct(edit=pad)))
    assert result.volume.padding is not None
    assert result.volume.padding[:, 0].all()
    assert not result.volume.padding[:, 1:].any()
    assert (result.volume.hu[:, 0] == -1024).all()
    assert np.abs(result.volume.hu[:, 1:]).max() < 400


def test_padding_with_the_wrong_sign_and_a_range(headers_of: HeadersOf) -> None:
    series = Ct(intercept=0.0)

    def pad(_: int, ds: FileDataset) -> None:
        stored = np.frombuffer(ds.PixelData, "<u2").astype("<i2").reshape(10, 8).copy()
        stored[0, :4], stored[0, 4:] = -2000, -1990
        ds.PixelData, ds.PixelRepresentation = stored.tobytes(), 1
        raw(ds, "PixelPaddingValue", "US", (63536).to_bytes(2, "little"))
        raw(ds, "PixelPaddingRangeLimit", "US", (63546).to_bytes(2, "little"))

    result = loaded(headers_of(replace(series, edit=pad)))
    assert result.volume.padding is not None
    assert result.volume.padding.sum() == 12 * 8


def test_padding_in_the_range_of_tissue_is_ignored(headers_of: HeadersOf) -> None:
    def pad(_: int, ds: FileDataset) -> None:
        ds.PixelPaddingValue = 1024  # 0 HU

    result = loaded(headers_of(Ct(edit=pad)))
    assert result.volume.padding is None
    assert_field(result)


def test_twelve_signed_bits_without_sign_extension(headers_of: HeadersOf) -> None:
    series = Ct(intercept=0.0)

    def twelve(index: int, ds: FileDataset) -> None:
        overlay = 0xF000 if index % 2 else 0x5000  # rubbish above Bits Stored
        stored = (series.hu(index) & 0x0FFF) | overlay
        ds.PixelData = stored.astype("<u2").tobytes()
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 1

    result = loaded(headers_of(replace(series, edit=twelve)))
    assert result.volume.hu.min() < 0
    assert_field(result)


def test_twelve_bits_at_the_upper_end_of_the_word(headers_of: HeadersOf) -> None:
    def shifted(_: int, ds: FileDataset) -> None:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") << 4).astype("<u2").tobytes()
        ds.BitsStored, ds.HighBit = 12, 15

    assert_field(loaded(headers_of(Ct(edit=shifted))))


def test_signed_sixteen_bits(headers_of: HeadersOf) -> None:
    series = Ct(intercept=0.0)

    def signed(index: int, ds: FileDataset) -> None:
        ds.PixelData, ds.PixelRepresentation = series.hu(index).astype("<i2").tobytes(), 1

    assert_field(loaded(headers_of(replace(series, edit=signed))))


def test_values_beyond_int16_are_cut_off_and_do_not_wrap(headers_of: HeadersOf) -> None:
    def metal(_: int, ds: FileDataset) -> None:
        stored = np.frombuffer(ds.PixelData, "<u2").copy()
        stored[0] = 65535
        ds.PixelData = stored.tobytes()

    result = loaded(headers_of(Ct(edit=metal)))
    assert result.volume.hu.dtype == np.int16
    assert (result.volume.hu[:, 0, 0] == 32767).all()


def test_multi_echo_or_other_modalities_are_not_eligible_yet(headers_of: HeadersOf) -> None:
    def magnetic(_: int, ds: FileDataset) -> None:
        ds.Modality, ds.SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"

    (decision,) = choose(headers_of(Ct(edit=magnetic)), POLICY)
    assert decision.outcome is Outcome.NOT_ELIGIBLE
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.UNSUPPORTED_MODALITY


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [("1.2.840.10008.5.1.4.1.1.1", "CR"), ("1.2.840.10008.5.1.4.1.1.1.1", "DX"), ("1.2.840.10008.5.1.4.1.1.128", "PT")],
)
def test_radiographs_and_pet_are_not_eligible_yet(headers_of: HeadersOf, sop_class: str, modality: str) -> None:
    def change(_: int, ds: FileDataset) -> None:
        ds.Modality, ds.SOPClassUID = modality, sop_class

    (decision,) = choose(headers_of(Ct(count=9, edit=change)), POLICY)
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.UNSUPPORTED_MODALITY
    assert modality in decision.refusal.sentence


@pytest.mark.parametrize("spacing", [3.2, 5.0, 7.5])
def test_too_thick_to_measure_is_not_evaluable(headers_of: HeadersOf, spacing: float) -> None:
    found = refused(headers_of(Ct(spacing=spacing)))
    assert found.refusal.code is RefusalCode.SLICES_TOO_THICK
    assert f"{spacing:.2f} mm" in found.refusal.sentence


def test_too_short_is_not_eligible(headers_of: HeadersOf) -> None:
    (decision,) = choose(headers_of(Ct(count=10)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.TOO_FEW_IMAGES)  # type: ignore[union-attr]


def test_bolus_tracking_at_one_position_is_not_eligible(headers_of: HeadersOf) -> None:
    (decision,) = choose(headers_of(Ct(positions=[(0.0, 0.0, 5.0)] * 12)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.TOO_FEW_IMAGES)  # type: ignore[union-attr]


@pytest.mark.parametrize("photometric", ["RGB", "PALETTE COLOR", "YBR_FULL"])
def test_colour_images_are_not_eligible(headers_of: HeadersOf, photometric: str) -> None:
    def colour(_: int, ds: FileDataset) -> None:
        ds.PhotometricInterpretation = photometric

    (decision,) = choose(headers_of(Ct(edit=colour)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.COLOUR_IMAGE)  # type: ignore[union-attr]


def eight_bits(_: int, ds: FileDataset) -> None:
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelData = np.arange(80, dtype=np.uint8).tobytes()


def burned_in(_: int, ds: FileDataset) -> None:
    ds.BurnedInAnnotation = "YES"


@pytest.mark.parametrize("edit", [eight_bits, burned_in])
def test_pictures_of_a_screen_are_not_eligible(headers_of: HeadersOf, edit: Callable[[int, FileDataset], None]) -> None:
    (decision,) = choose(headers_of(Ct(edit=edit)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.SCREEN_CAPTURE)  # type: ignore[union-attr]


def test_monochrome1_changes_nothing_about_hounsfield_units(headers_of: HeadersOf) -> None:
    def inverse(_: int, ds: FileDataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME1"

    assert_field(loaded(headers_of(Ct(edit=inverse))))


def test_lossy_source_is_accepted_with_a_flag(headers_of: HeadersOf) -> None:
    def lossy(index: int, ds: FileDataset) -> None:
        if index == 3:
            ds.LossyImageCompression = "01"

    assert loaded(headers_of(Ct(edit=lossy))).quality == (Quality.LOSSY_SOURCE,)


@pytest.mark.parametrize(
    ("image_type", "code"),
    [
        (["DERIVED", "PRIMARY", "AXIAL"], RefusalCode.DERIVED_IMAGE),
        (["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"], RefusalCode.REFORMATTED),
        (["ORIGINAL", "PRIMARY", "AXIAL", "CSA MPR"], RefusalCode.REFORMATTED),
        (["DERIVED", "SECONDARY", "MIP"], RefusalCode.REFORMATTED),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], RefusalCode.SCREEN_CAPTURE),
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], RefusalCode.LOCALIZER),
        (["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"], RefusalCode.LOCALIZER),
    ],
)
def test_derived_and_reformatted_images_are_not_eligible(
    headers_of: HeadersOf, image_type: list[str], code: RefusalCode
) -> None:
    def change(_: int, ds: FileDataset) -> None:
        ds.ImageType = image_type

    (decision,) = choose(headers_of(Ct(edit=change)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, code)  # type: ignore[union-attr]


def test_projections_that_call_themselves_primary_are_known_by_their_description(headers_of: HeadersOf) -> None:
    (decision,) = choose(headers_of(Ct(description="AX MIP 10x3")), POLICY)
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.REFORMATTED


def own_manufacturer(_: int, ds: FileDataset) -> None:
    ds.Manufacturer = "spine-node"


def own_equipment(_: int, ds: FileDataset) -> None:
    item = Dataset()
    item.Manufacturer = "spine-node"
    ds.ContributingEquipmentSequence = Sequence([item])


def own_description(_: int, ds: FileDataset) -> None:
    ds.SeriesDescription = "AI spine: no flag (research)"


@pytest.mark.parametrize("mark", [own_manufacturer, own_equipment, own_description])
def test_own_results_are_known_also_after_an_archive_coerced_their_uids(
    headers_of: HeadersOf, mark: Callable[[int, FileDataset], None]
) -> None:
    def ours(index: int, ds: FileDataset) -> None:
        ds.SOPInstanceUID = generate_uid()
        mark(index, ds)

    (decision,) = choose(headers_of(Ct(edit=ours)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.OWN_RESULT)  # type: ignore[union-attr]


def test_own_results_are_known_by_their_creator(headers_of: HeadersOf) -> None:
    def ours(_: int, ds: FileDataset) -> None:
        ds.InstanceCreatorUID = "1.2.3.4"

    headers = headers_of(Ct(edit=ours))
    (decision,) = choose(headers, GatePolicy(own_creator_uids=("1.2.3.4",)))
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.OWN_RESULT


def test_two_patients_in_one_study_are_never_answered(headers_of: HeadersOf) -> None:
    series = Ct()

    def other_patient(_: int, ds: FileDataset) -> None:
        ds.PatientID = "P2"

    other = Ct(study_uid=series.study_uid, edit=other_patient)
    for decision in choose(headers_of(series, other), POLICY):
        assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.PATIENT_MISMATCH)  # type: ignore[union-attr]


def test_own_results_with_an_older_patient_id_do_not_block_the_study(headers_of: HeadersOf) -> None:
    series = Ct()

    def ours(index: int, ds: FileDataset) -> None:
        own_manufacturer(index, ds)
        ds.PatientID = "P-before-correction"

    outcomes = [
        d.outcome for d in choose(headers_of(series, Ct(study_uid=series.study_uid, count=1, edit=ours)), POLICY)
    ]
    assert sorted(outcomes) == [Outcome.ANSWERED, Outcome.NOT_ELIGIBLE]


@pytest.mark.parametrize("patient_id", ["", "   ", None])
def test_an_empty_patient_id_is_never_answered(headers_of: HeadersOf, patient_id: str | None) -> None:
    def forget(_: int, ds: FileDataset) -> None:
        ds.PatientID = patient_id

    (decision,) = choose(headers_of(Ct(edit=forget)), POLICY)
    assert (decision.outcome, decision.refusal.code) == (Outcome.NOT_ELIGIBLE, RefusalCode.NO_PATIENT_ID)  # type: ignore[union-attr]


def test_private_elements_bad_charsets_and_malformed_values_are_read_permissively(
    headers_of: HeadersOf, caplog: pytest.LogCaptureFixture
) -> None:
    def odd(_: int, ds: FileDataset) -> None:
        raw(ds, "SeriesNumber", "IS", b"two")
        raw(ds, "KVP", "DS", b"a lot of kilovolts")
        raw(ds, "StudyDate", "DA", b"yesterday")
        raw(ds, "PatientName", "PN", b"Secret^" + b"x" * 200)
        raw(ds, "PatientID", "LO", b"Secret" + b"x" * 100)
        ds.add_new(0x00091010, "LO", "private")

    headers = headers_of(Ct(edit=odd))
    caplog.clear()
    result = loaded(headers)
    assert_field(result)
    assert not any(element.is_private for d in result.datasets for element in d)
    assert not [r for r in caplog.records if "Secret" in r.getMessage()]


def test_nothing_of_a_malformed_value_reaches_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ds = Ct().dataset(0)
    raw(ds, "PatientBirthDate", "DA", b"Secret birthday")
    raw(ds, "PatientID", "LO", b"Secret" + b"x" * 100)
    save(ds, tmp_path / "one.dcm")
    caplog.clear()
    (header,), unreadable = read_headers([tmp_path / "one.dcm"])
    assert (caplog.records, unreadable) == ([], [])
    assert header.modality == "CT"


def test_an_unknown_character_set_is_read_all_the_same(tmp_path: Path) -> None:
    ds = Ct().dataset(0)
    save(ds, tmp_path / "one.dcm")
    content = (tmp_path / "one.dcm").read_bytes()
    element = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 999"
    group = content.index(b"\x08\x00\x08\x00CS")
    (tmp_path / "one.dcm").write_bytes(content[:group] + element + content[group:])
    (header,), unreadable = read_headers([tmp_path / "one.dcm"])
    assert unreadable == []
    assert str(header.dataset.PatientName) == "Doe^Jane"
