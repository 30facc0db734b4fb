"""What compressed frames claim of their size, checked with frames of real encoders."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from node.gate.codestream import Claim, claim, too_long_for_rle
from tests.dicom import ct_slice


def frame(syntax: str, rows: int, columns: int) -> bytes:
    data_set = ct_slice(0)
    data_set.Rows, data_set.Columns = rows, columns
    data_set.PixelData = np.arange(rows * columns, dtype=np.uint16).tobytes()
    data_set.compress(syntax, generate_instance_uid=False)
    return get_frame(data_set.PixelData, 0, number_of_frames=1)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_the_claim_of_a_frame_is_its_size(syntax: str) -> None:
    assert claim(frame(syntax, 96, 64)) == Claim(96, 64, 1)


@pytest.mark.parametrize("progressive", [False, True])
def test_the_claim_of_a_jpeg_with_application_data(progressive: bool) -> None:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.zeros((40, 30, 3), np.uint8))
    picture.save(buffer, "JPEG", progressive=progressive, comment=b"c" * 500, exif=b"Exif\0\0" + bytes(1000))
    assert claim(buffer.getvalue()) == Claim(40, 30, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"\xff\xd8",
        b"\xff\xd8\xff\xda\0\x08",
        b"\xff\xd8" + b"\xff" * 100,
        b"\xff\x4f\xff\x51\0\x29",
        bytes(99),
    ],
)
def test_no_claim_is_read_into_what_has_none(content: bytes) -> None:
    assert claim(content) is None


def test_an_offset_of_the_image_on_its_grid_counts() -> None:
    start = b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIIIH", 41, 0, 110, 220, 10, 20, 110, 220, 0, 0, 1)
    assert claim(start) == Claim(200, 100, 1)


def test_a_frame_of_literal_runs_is_not_too_long_for_rle() -> None:
    expected = 512 * 512 * 2
    literal = expected + expected // 128 + 64 + 2
    assert not too_long_for_rle(literal, expected)
    assert too_long_for_rle(2 * expected, expected)
