"""Every transfer syntax that the node negotiates gives the same volume; broken pixel data give a refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from inference.findings import Quality
from inference.refusal import RefusalCode
from node.gate import LoadedSeries, Unevaluable, load_volume, read_headers
from tests.gate.conftest import POLICY, Ct, HeadersOf, raw, save


def load(paths: list[Path]) -> LoadedSeries:
    """The volume of some files, all readable."""
    headers, unreadable = read_headers(paths)
    assert unreadable == []
    result = load_volume(headers, POLICY)
    assert isinstance(result, LoadedSeries), getattr(result, "refusal", None)
    return result


@pytest.fixture
def series() -> Ct:
    """Large enough for the wavelets of JPEG 2000."""
    return Ct(rows=64, columns=48)


def implicit(path: Path) -> None:
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(path, implicit_vr=True, little_endian=True)


def deflated(path: Path) -> None:
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path)


def big_endian(path: Path) -> None:
    ds = pydicom.dcmread(path)
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    # pydicom swaps the header only; pixel data are bytes to it
    pydicom.dcmwrite(path, ds, implicit_vr=False, little_endian=False, enforce_file_format=False)


def compressed(syntax: str) -> Callable[[Path], None]:
    def compress(path: Path) -> None:
        ds = pydicom.dcmread(path)
        uid = ds.SOPInstanceUID
        ds.compress(syntax, generate_instance_uid=False)
        assert ds.SOPInstanceUID == uid
        ds.save_as(path)

    return compress


def by_gdcm(syntax: int) -> Callable[[Path], None]:
    def compress(path: Path) -> None:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()

    return compress


LOSSLESS = {
    "implicit": (implicit, ImplicitVRLittleEndian),
    "deflated": (deflated, DeflatedExplicitVRLittleEndian),
    "big endian": (big_endian, ExplicitVRBigEndian),
    "RLE": (compressed(RLELossless), RLELossless),
    "JPEG 2000": (compressed(JPEG2000Lossless), JPEG2000Lossless),
    "JPEG-LS": (compressed(JPEGLSLossless), JPEGLSLossless),
    "JPEG lossless": (by_gdcm(gdcm.TransferSyntax.JPEGLosslessProcess14_1), JPEGLosslessSV1),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_transcoded_series_is_the_same_input(tmp_path: Path, series: Ct, name: str) -> None:
    paths = series.write(tmp_path)
    before = load(paths)
    transcode, syntax = LOSSLESS[name]
    for path in paths:
        transcode(path)
    headers, _ = read_headers(paths)
    assert {h.transfer_syntax_uid for h in headers} == {str(syntax)}
    after = load(paths)
    assert np.array_equal(after.volume.hu, before.volume.hu)
    assert after.input_sha256 == before.input_sha256
    assert after.quality == ()


def test_lossy_jpeg_of_twelve_bits_is_read_and_flagged(tmp_path: Path) -> None:
    def twelve(_: int, ds: FileDataset) -> None:
        ds.BitsStored, ds.HighBit = 12, 11

    paths = Ct(rows=64, columns=48, edit=twelve).write(tmp_path)
    before = load(paths)
    for path in paths:
        by_gdcm(gdcm.TransferSyntax.JPEGExtendedProcess2_4)(path)
    headers, _ = read_headers(paths)
    assert {h.transfer_syntax_uid for h in headers} == {str(JPEGExtended12Bit)}
    after = load(paths)
    assert np.abs(after.volume.hu.astype(int) - before.volume.hu).max() <= 8
    assert Quality.LOSSY_SOURCE in after.quality


def test_a_file_without_meta_information_is_read(tmp_path: Path, series: Ct) -> None:
    paths = series.write(tmp_path)
    before = load(paths)
    for path in paths:
        ds = pydicom.dcmread(path)
        ds.file_meta.clear()
        ds.preamble = None
        pydicom.dcmwrite(path, ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    after = load(paths)
    assert {h.transfer_syntax_uid for h in read_headers(paths).headers} == {""}
    assert np.array_equal(after.volume.hu, before.volume.hu)
    assert after.input_sha256 == before.input_sha256


def test_a_trailer_behind_the_pixels_does_no_harm(tmp_path: Path, series: Ct) -> None:
    paths = series.write(tmp_path)
    before = load(paths)
    for path in paths:
        with path.open("ab") as file:
            file.write(b"\xfc\xff\xfc\xffOB\0\0" + (16).to_bytes(4, "little") + bytes(range(16)))
    assert load(paths).input_sha256 == before.input_sha256


@pytest.mark.parametrize("cut", [1, 100])
def test_truncated_pixel_data_are_refused(tmp_path: Path, series: Ct, cut: int) -> None:
    paths = series.write(tmp_path)
    content = paths[5].read_bytes()
    paths[5].write_bytes(content[:-cut])
    result = load_volume(read_headers(paths).headers, POLICY)
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is RefusalCode.PIXELS_UNREADABLE


def test_corrupt_compressed_data_are_refused(tmp_path: Path, series: Ct) -> None:
    paths = series.write(tmp_path)
    for path in paths:
        compressed(JPEG2000Lossless)(path)
    ds = pydicom.dcmread(paths[3])
    ds.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" + b"\x5a" * 400])
    ds.save_as(paths[3])
    result = load_volume(read_headers(paths).headers, POLICY)
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is RefusalCode.PIXELS_UNREADABLE
    assert len(result.datasets) == 12


def test_a_syntax_that_cannot_be_decoded_is_refused(tmp_path: Path, series: Ct) -> None:
    paths = series.write(tmp_path)
    for path in paths:
        compressed(RLELossless)(path)
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
        save(ds, path)
    result = load_volume(read_headers(paths).headers, POLICY)
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is RefusalCode.PIXELS_UNREADABLE


def no_pixels(_: int, ds: FileDataset) -> None:
    del ds.PixelData


def thirty_two_bits(_: int, ds: FileDataset) -> None:
    ds.PixelData += ds.PixelData
    ds.BitsAllocated = ds.BitsStored = 32
    ds.HighBit = 31


def more_bits_than_allocated(_: int, ds: FileDataset) -> None:
    ds.BitsStored = 17


def high_bit_outside(_: int, ds: FileDataset) -> None:
    ds.BitsStored, ds.HighBit = 12, 3


def bits_as_text(_: int, ds: FileDataset) -> None:
    raw(ds, "BitsAllocated", "LO", b"sixteen")


@pytest.mark.parametrize("edit", [no_pixels, thirty_two_bits, more_bits_than_allocated, high_bit_outside, bits_as_text])
def test_pixels_that_make_no_sense_are_refused(headers_of: HeadersOf, edit: Callable[[int, FileDataset], None]) -> None:
    result = load_volume(headers_of(Ct(edit=edit)), POLICY)
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is RefusalCode.PIXELS_UNREADABLE


def test_a_file_that_vanished_says_nothing_about_the_images(tmp_path: Path, series: Ct) -> None:
    paths = series.write(tmp_path)
    headers, _ = read_headers(paths)
    paths[2].unlink()
    with pytest.raises(FileNotFoundError):
        load_volume(headers, POLICY)
