"""A compressed image states its own size, and a decoder that believes it allocates that: it is read before."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from inference.refusal import RefusalCode
from node.gate import LoadedFilm, Unevaluable, load_film, pixels, read_headers
from node.gate.codestream import CodedSize, coded_size, too_long_for_rle
from tests.films import Film, shades
from tests.gate.conftest import POLICY
from tests.gate.test_pixels import LOSSLESS

Loaded = LoadedFilm | Unevaluable
BYTES = Film(stored=shades(bits=8), bits=8, allocated=8)


def compressed(tmp_path: Path, name: str, film: Film | None = None, **header: int) -> Loaded:
    """A film in that syntax whose header is changed afterwards."""
    path = (film or Film()).write(tmp_path / "film.dcm")
    transcode, _ = LOSSLESS[name]
    transcode(path)
    ds = dcmread(path)
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return load_film(read_headers([path]).headers, POLICY)


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("the decoder was called")

    monkeypatch.setattr(pixels, "iter_pixels", decode)
    monkeypatch.setattr(pixels, "_by_gdcm", decode)


@pytest.mark.parametrize("film", [Film(), BYTES], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_every_syntax_states_the_size_that_it_has(tmp_path: Path, name: str, film: Film) -> None:
    assert isinstance(compressed(tmp_path, name, film), LoadedFilm)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("header", [{"Rows": 32}, {"Columns": 200}, {"Rows": 64, "Columns": 96}], ids=str)
@pytest.mark.parametrize("name", ["JPEG 2000", "JPEG-LS", "JPEG lossless"])
def test_another_size_than_the_header_says_is_refused_undecoded(
    tmp_path: Path, name: str, header: dict[str, int]
) -> None:
    assert_other_size(compressed(tmp_path, name, **header))


def assert_other_size(found: Loaded) -> None:
    assert isinstance(found, Unevaluable)
    assert found.refusal.code is RefusalCode.PIXELS_UNREADABLE
    assert "another size than the header says" in found.refusal.sentence


@pytest.mark.usefixtures("no_decoder")
def test_run_lengths_of_other_bytes_than_the_header_says_are_refused_undecoded(tmp_path: Path) -> None:
    """RLE states the number of its segments only: one for each byte of a pixel."""
    assert_other_size(compressed(tmp_path, "RLE", BYTES, BitsAllocated=16, BitsStored=16, HighBit=15))


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("fragment", [b"\0\0", b"\xff\xd8", b"\0" * 200, b"\xff\xd8\xff\xda" + b"\0" * 20], ids=repr)
@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_a_codestream_without_a_size_is_refused_undecoded(tmp_path: Path, syntax: str, fragment: bytes) -> None:
    def edit(ds: object) -> None:
        ds.PixelData, ds.file_meta.TransferSyntaxUID = encapsulate([fragment]), syntax  # type: ignore[attr-defined]
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True  # type: ignore[index]

    path = Film(edit=edit).write(tmp_path / "film.dcm")
    found = load_film(read_headers([path]).headers, POLICY)
    assert isinstance(found, Unevaluable)
    assert found.refusal.code is RefusalCode.PIXELS_UNREADABLE


def siz(rows: int, columns: int, components: int = 1, offset: int = 0) -> bytes:
    sizes = (columns + offset, rows + offset, offset, offset, columns, rows, 0, 0)
    return b"\xff\x4f\xff\x51\0\x29\0\0" + b"".join(n.to_bytes(4, "big") for n in sizes) + components.to_bytes(2, "big")


def sof(marker: int, rows: int, columns: int, components: int = 1) -> bytes:
    app = b"\xff\xe0\0\x04ab"
    return (
        b"\xff\xd8" + app + b"\xff\xff" + bytes([marker]) + b"\0\x0b\x0c"
        + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + bytes([components, 1, 17, 0])
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fragment", "syntax", "expected"),
    [
        (siz(60_000, 50_000), JPEG2000Lossless, CodedSize(60_000, 50_000, 1)),
        (siz(30, 20, 3, offset=7), JPEG2000Lossless, CodedSize(30, 20, 3)),
        (b"\0" * 85 + siz(30, 20), JPEG2000Lossless, CodedSize(30, 20, 1)),
        (siz(30, 20)[:-3], JPEG2000Lossless, None),
        (sof(0xC3, 3000, 2400), JPEGLosslessSV1, CodedSize(3000, 2400, 1)),
        (sof(0xF7, 3000, 2400), JPEGLSLossless, CodedSize(3000, 2400, 1)),
        (sof(0xC1, 65_535, 65_535, 4), JPEGExtended12Bit, CodedSize(65_535, 65_535, 4)),
        (sof(0xC4, 30, 20), JPEGBaseline8Bit, None),
        ((2).to_bytes(4, "little") + (64).to_bytes(4, "little") + (90).to_bytes(4, "little") + b"\0" * 90,
         RLELossless, CodedSize(None, None, 2)),
        ((2).to_bytes(4, "little") + (64).to_bytes(4, "little") + (900).to_bytes(4, "little") + b"\0" * 90,
         RLELossless, None),
        ((4_000_000_000).to_bytes(4, "little") + b"\0" * 90, RLELossless, None),
    ],
)  # fmt: skip
def test_sizes_of_codestreams(fragment: bytes, syntax: str, expected: CodedSize | None) -> None:
    assert coded_size(fragment, syntax) == expected


def test_a_progressive_jpeg_with_comments_states_its_size() -> None:
    buffer = BytesIO()
    picture = Image.fromarray(np.zeros((40, 30, 3), np.uint8))
    picture.save(buffer, "JPEG", progressive=True, comment=b"c" * 500, exif=b"Exif\0\0" + bytes(1000))
    assert coded_size(buffer.getvalue(), JPEGBaseline8Bit) == CodedSize(40, 30, 3)


def test_a_frame_of_literal_runs_is_not_too_long_for_rle() -> None:
    expected = 512 * 512 * 2
    literal = expected + expected // 128 + 64 + 2
    assert not too_long_for_rle(literal, expected)
    assert too_long_for_rle(2 * expected, expected)
