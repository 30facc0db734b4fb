"""Enhanced multi-frame CT: geometry, rescale and type come from the functional groups of each frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless

from inference.findings import Quality
from inference.refusal import Outcome, RefusalCode
from node.gate import LoadedSeries, Unevaluable, choose, load_volume, read_headers
from tests.gate.conftest import POLICY, Ct, field_hu, save

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def of(**values: object) -> Sequence:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Sequence([item])


def enhanced(series: Ct, order: list[int], stack: Callable[[int], str] = lambda _: "1") -> FileDataset:
    """One multi-frame instance with the slices of a series in some order of frames."""
    ds = series.dataset(0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(ds, keyword)
    for keyword in ("RescaleIntercept", "RescaleType", "ConvolutionKernel", "SliceThickness"):
        delattr(ds, keyword)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PixelMeasuresSequence = of(PixelSpacing=list(series.pixel_spacing), SliceThickness=series.spacing)
    shared.PlaneOrientationSequence = of(ImageOrientationPatient=list(series.orientation))
    shared.CTReconstructionSequence = of(ConvolutionKernel="Br38f")
    shared.CTImageFrameTypeSequence = of(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups, pixels = [], b""
    for number, index in enumerate(order):
        intercept = -1000 - number
        group = Dataset()
        group.PlanePositionSequence = of(ImagePositionPatient=list(series.place(index)))
        group.PixelValueTransformationSequence = of(RescaleSlope=1, RescaleIntercept=intercept, RescaleType="HU")
        group.FrameContentSequence = of(StackID=stack(number), InStackPositionNumber=number + 1)
        groups.append(group)
        pixels += (series.hu(index) - intercept).astype("<u2").tobytes()
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.PixelData = pixels
    return ds


def load(ds: FileDataset, folder: Path) -> LoadedSeries | Unevaluable:
    """Write one instance and load it."""
    save(ds, folder / "enhanced.dcm")
    headers, unreadable = read_headers([folder / "enhanced.dcm"])
    assert unreadable == []
    return load_volume(headers, POLICY)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_frames_in_any_order_become_one_volume(tmp_path: Path, syntax: str | None) -> None:
    series = Ct(rows=64, columns=48)
    order = [int(i) for i in np.random.default_rng(1).permutation(12)]
    ds = enhanced(series, order)
    if syntax is not None:
        ds.compress(syntax, generate_instance_uid=False)
    result = load(ds, tmp_path)
    assert isinstance(result, LoadedSeries)
    assert (len(result.datasets), result.instances) == (1, 1)
    assert [r.frame for r in result.references] == [order.index(k) + 1 for k in range(12)]
    index = np.stack(np.meshgrid(*map(np.arange, result.volume.hu.shape), indexing="ij"), axis=-1)
    assert np.abs(result.volume.hu - field_hu(result.volume.to_lps(index.astype(float)))).max() <= 0.75
    assert result.quality == ()


def test_stacks_are_told_apart(tmp_path: Path) -> None:
    ds = enhanced(Ct(), [*range(12), *range(11)], stack=lambda n: "1" if n < 12 else "2")
    result = load(ds, tmp_path)
    assert isinstance(result, LoadedSeries)
    assert [r.frame for r in result.references] == list(range(1, 13))
    assert result.quality == (Quality.SPLIT_SERIES,)


def test_frames_that_are_localizers_are_dropped(tmp_path: Path) -> None:
    ds = enhanced(Ct(count=13), list(range(13)))
    ds.PerFrameFunctionalGroupsSequence[0].CTImageFrameTypeSequence = of(
        FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    )
    result = load(ds, tmp_path)
    assert isinstance(result, LoadedSeries)
    assert [r.frame for r in result.references] == list(range(2, 14))


def test_derived_frames_are_not_eligible(tmp_path: Path) -> None:
    ds = enhanced(Ct(), list(range(12)))
    ds.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType = [
        "DERIVED",
        "PRIMARY",
        "VOLUME",
        "MAX_IP",
    ]
    save(ds, tmp_path / "enhanced.dcm")
    (decision,) = choose(read_headers([tmp_path / "enhanced.dcm"]).headers, POLICY)
    assert decision.outcome is Outcome.NOT_ELIGIBLE
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.REFORMATTED


@pytest.mark.parametrize("frames", [1, 11, 13, 2_000_000_000])
def test_a_number_of_frames_that_disagrees_with_the_groups_is_no_volume(tmp_path: Path, frames: int) -> None:
    ds = enhanced(Ct(), list(range(12)))
    ds.NumberOfFrames = frames
    result = load(ds, tmp_path)
    assert isinstance(result, Unevaluable)


def test_several_frames_without_functional_groups_are_no_volume(tmp_path: Path) -> None:
    ds = Ct().dataset(0)
    ds.NumberOfFrames = 12
    ds.PixelData *= 12
    result = load(ds, tmp_path)
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is RefusalCode.TOO_FEW_IMAGES


def test_truncated_frames_are_refused(tmp_path: Path) -> None:
    ds = enhanced(Ct(), list(range(12)))
    ds.PixelData = ds.PixelData[:-500]
    result = load(ds, tmp_path)
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is RefusalCode.PIXELS_UNREADABLE
