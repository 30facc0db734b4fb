"""Stored values to Hounsfield units: rescaling, padding, signs and bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from inference.refusal import RefusalCode
from tests.gate.conftest import Ct, HeadersOf, assert_field, loaded, raw, refused


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
