"""Headers and pixels of plain files, read without pydicom's parser: the same as with it, or left to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from node.gate import LoadedSeries, Unevaluable, load_volume, pixels, plain, read_headers
from node.gate.deflated import end_of_meta
from node.gate.headers import _HEADER_TAGS
from node.gate.plain import PlainReader
from node.gate.values import permissive, tidy
from tests.gate.conftest import POLICY, Ct, raw, save
from tests.gate.test_hostile import BINARY, FUZZ, KEYWORDS, TEXT, VRS
from tests.gate.test_pixels import big_endian, compressed, deflated

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def by_pydicom(path: Path) -> FileDataset:
    dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_HEADER_TAGS))
    tidy(dataset)
    tidy(dataset.file_meta)
    return dataset


def assert_same(fast: FileDataset | None, path: Path) -> None:
    slow = by_pydicom(path)
    assert fast is not None
    assert (fast.filename, fast.preamble) == (slow.filename, slow.preamble)
    assert fast.original_encoding == slow.original_encoding
    assert fast.original_character_set == slow.original_character_set
    for mine, theirs in ((fast, slow), (fast.file_meta, slow.file_meta)):
        assert [(e.tag, e.VR, repr(e.value)) for e in mine] == [(e.tag, e.VR, repr(e.value)) for e in theirs]
        assert [(e.is_undefined_length, e.validation_mode) for e in mine] == [
            (e.is_undefined_length, e.validation_mode) for e in theirs
        ]


def codes(name: str, undefined: bool) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", name
    item.AnatomicRegionModifierSequence = [Dataset()]
    item.is_undefined_length_sequence_item = undefined
    found = Sequence([item, Dataset()])
    return found


elements = st.lists(
    st.tuples(
        st.sampled_from(sorted(KEYWORDS)),
        st.one_of(st.none(), st.sampled_from([vr for vr in VRS if vr != "SQ"])),
        st.one_of(st.sampled_from(TEXT), st.sampled_from(BINARY), st.binary(max_size=24)),
    ),
    max_size=3,
)


@settings(FUZZ, max_examples=60)
@given(
    st.lists(st.sampled_from(SYNTAXES), min_size=3, max_size=3),
    st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 6\\ISO 2022 IR 87", "unheard of"]),
    st.sampled_from([0, 1, None]),
    st.booleans(),
    elements,
)
def test_headers_are_those_that_pydicom_finds(
    syntaxes: list[str],
    charset: str,
    signed: int | None,
    undefined: bool,
    edits: list[tuple[str, str | None, bytes]],
) -> None:
    """Three files by one reader, so that values of the first ones are met again in the next ones."""
    reader = PlainReader(_HEADER_TAGS)
    with tempfile.TemporaryDirectory() as folder, permissive(), config.disable_value_validation():
        for number, syntax in enumerate(syntaxes):
            dataset = Ct().dataset(number)
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.SpecificCharacterSet = charset.split("\\")
            dataset.PixelRepresentation = signed
            dataset.PixelPaddingValue = 0 if number else 63536 if not signed else -2000
            dataset.AnatomicRegionSequence = codes("trunk", undefined)
            dataset["AnatomicRegionSequence"].is_undefined_length = undefined
            dataset.add_new(0x0009_0010, "LO", "SOMEBODY")
            dataset.add_new(0x0009_1001, "SQ", codes("private", undefined))
            dataset[0x0009_1001].is_undefined_length = undefined
            dataset.add_new(0x0029_1010, "OB", bytes(200))
            for keyword, vr, value in edits:
                raw(dataset, keyword, vr or KEYWORDS[keyword], value)
            path = Path(folder) / f"{number}.dcm"
            try:
                dataset.save_as(path, enforce_file_format=False, implicit_vr=syntax == ImplicitVRLittleEndian)
            except Exception:  # what pydicom cannot write as that VR
                continue
            fast = reader.read(path)
            if fast is not None:
                assert_same(fast, path)
            elif not edits:
                raise AssertionError("a plain file was not taken for one")


def test_what_is_not_plain_is_left_to_pydicom(tmp_path: Path) -> None:
    def read(name: str) -> FileDataset | None:
        return PlainReader(_HEADER_TAGS).read(tmp_path / name)

    for path, change in {"deflated": deflated, "big": big_endian}.items():
        save(Ct().dataset(0), tmp_path / path)
        change(tmp_path / path)
        assert read(path) is None
    save(Ct().dataset(0), tmp_path / "plain")
    assert_same(read("plain"), tmp_path / "plain")
    content = (tmp_path / "plain").read_bytes()
    start = end_of_meta(content)
    for name, other in {
        "empty": b"",
        "no preamble": content[128:],
        "no prefix": content[:128] + b"DIMC" + content[132:],
        "cut meta": content[:150],
        "cut value": content[: start + 20],
        "unknown VR": content.replace(b"\x08\0\x60\0CS", b"\x08\0\x60\0ZZ"),
        "elements out of order": content[:start] + content[start:].replace(b"\x28\0\x10\0US", b"\x08\0\x10\0US", 1),
        "implicit after all": content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"),
    }.items():
        assert other != content, name
        (tmp_path / name).write_bytes(other)
        assert read(name) is None, name


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_headers_of_compressed_images_are_plain(tmp_path: Path, syntax: str) -> None:
    (path,) = Ct(count=1, rows=64, columns=48).write(tmp_path)
    compressed(syntax)(path)
    assert_same(PlainReader(_HEADER_TAGS).read(path), path)


def test_a_header_longer_than_the_chunk_is_read_all_the_same(tmp_path: Path) -> None:
    dataset = Ct().dataset(0)
    dataset.add_new(0x0019_1010, "OB", bytes(plain.CHUNK))
    save(dataset, tmp_path / "long.dcm")
    assert PlainReader(_HEADER_TAGS).read(tmp_path / "long.dcm") is None
    (header,), _ = read_headers([tmp_path / "long.dcm"])
    assert (header.images[0].rows, header.images[0].slope) == (10, 1.0)


def test_few_and_short_values_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Ct().write(tmp_path)
    monkeypatch.setattr(plain, "MOST_KEPT", 10)
    monkeypatch.setattr(plain, "LONGEST_KEPT", 20)
    reader = PlainReader(_HEADER_TAGS)
    for path in paths:
        assert_same(reader.read(path), path)
    assert len(reader._known) == 10
    assert max(len(key[3]) for key in reader._known) <= 20


def test_headers_with_equal_values_can_be_changed_apart(tmp_path: Path) -> None:
    one, other, *_ = read_headers(Ct().write(tmp_path)).headers
    one.dataset.PatientName = "Somebody^Else"
    assert other.dataset.PatientName == "Doe^Jane"


def _volume(paths: list[Path]) -> LoadedSeries | Unevaluable:
    headers, unreadable = read_headers(paths)
    assert unreadable == []
    return load_volume(headers, POLICY)


@settings(FUZZ, max_examples=40)
@given(
    st.sampled_from([*SYNTAXES, DeflatedExplicitVRLittleEndian]),
    st.sampled_from([(16, 15), (12, 11), (12, 15), (10, 12), (1, 0)]),
    st.sampled_from([0, 1]),
    st.sampled_from([(1, -1024), (1, 0), (2, -3000), (0.5, 12.25), (-1, 1000), (1, -40000)]),
    st.sampled_from([None, 63536, -2000, 0]),
    st.sampled_from(["", "padded", "longer", "shorter"]),
    st.integers(0, 2**32 - 1),
)
def test_volumes_are_the_same_as_with_pydicom_alone(
    syntax: str,
    bits: tuple[int, int],
    signed: int,
    rescale: tuple[float, float],
    padding: int | None,
    tail: str,
    seed: int,
) -> None:
    stored = np.random.default_rng(seed).integers(0, 1 << 16, (12, 9, 7), dtype=np.uint16)
    if seed % 2:  # as scanners write them: nothing above the stored bits
        stored &= (1 << bits[0]) - 1

    def edit(index: int, ds: FileDataset) -> None:
        ds.file_meta.TransferSyntaxUID = syntax
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = *bits, signed
        slope, intercept = rescale
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept + (index if seed % 3 == 0 else 0)
        ds.PixelData = stored[index].tobytes()
        if padding is not None:
            raw(ds, "PixelPaddingValue", "SS" if padding < 0 else "US", (padding & 0xFFFF).to_bytes(2, "little"))
        if index == 5 and tail == "padded":
            ds.DataSetTrailingPadding = bytes(10)
        elif index == 5 and tail in ("longer", "shorter"):
            ds.PixelData = ds.PixelData + bytes(2) if tail == "longer" else ds.PixelData[:-2]

    with tempfile.TemporaryDirectory() as folder:
        paths = Ct(rows=9, columns=7, edit=edit).write(Path(folder))
        fast = _volume(paths)
        (header,), _ = read_headers([paths[5]])
        values = next(pixels.stored_values(header, (None,))) if tail != "shorter" else None
        with mock.patch.object(pixels, "_at_end", return_value=None), mock.patch.object(PlainReader, "read") as read:
            read.return_value = None
            slow = _volume(paths)
            assert read.call_count == 12
    assert type(fast) is type(slow)
    assert fast.input_sha256 == slow.input_sha256
    assert isinstance(fast, Unevaluable) == (tail == "shorter")
    if isinstance(fast, LoadedSeries) and isinstance(slow, LoadedSeries):
        assert fast.volume.hu.dtype == slow.volume.hu.dtype
        assert np.array_equal(fast.volume.hu, slow.volume.hu)
        assert np.array_equal(fast.volume.affine, slow.volume.affine)
        assert (fast.volume.padding is None) == (slow.volume.padding is None)
        if fast.volume.padding is not None:
            assert np.array_equal(fast.volume.padding, slow.volume.padding)
        assert values is not None
        assert np.array_equal(values, _by_hand(stored[5], bits, signed))


def _by_hand(values: NDArray[np.uint16], bits: tuple[int, int], signed: int) -> NDArray[np.int64]:
    """PS3.5 8.1.1: the stored bits lie below High Bit, the sign is the highest of them."""
    stored, high = bits
    found = (values.astype(np.int64) >> (high + 1 - stored)) & ((1 << stored) - 1)
    return found - ((found >> (stored - 1)) << stored) if signed else found
