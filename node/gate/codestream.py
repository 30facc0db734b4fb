"""What a compressed image says of its own size, read before anything is decoded.

A header of 3000 x 2400 pixels may stand over a codestream of 60,000 x 60,000: the decoder would allocate the latter.
"""

from __future__ import annotations

from typing import NamedTuple

from pydicom.config import IGNORE
from pydicom.uid import UID, RLELossless

JPEG_2000 = frozenset({f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)})
"""JPEG 2000 and HTJ2K, one codestream syntax (ISO/IEC 15444-1 annex A, 15444-15)."""
SIZ = b"\xff\x4f\xff\x51"
"""Start of codestream and the marker of its size, which follows at once."""
SEARCHED = 4096
"""Bytes in which a codestream must begin: some writers wrap it in the boxes of a file format."""
FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Markers SOF0 to SOF15 of JPEG (ISO/IEC 10918-1 table B.1) and SOF55 of JPEG-LS (14495-1)."""
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
SCAN = 0xDA
RLE_HEADER = 64


class CodedSize(NamedTuple):
    """Size of a coded image; ``rows`` and ``columns`` are ``None`` in a syntax that does not state them (RLE)."""

    rows: int | None
    columns: int | None
    components: int


def coded_size(frame: bytes, transfer_syntax_uid: str) -> CodedSize | None:
    """Size that a compressed frame states; ``None`` where it states none."""
    if transfer_syntax_uid == RLELossless:
        return _rle(frame)
    return _jpeg_2000(frame) if transfer_syntax_uid in JPEG_2000 else _jpeg(frame)


def too_long_for_rle(length: int, expected: int) -> bool:
    """Whether an RLE frame of that length cannot be one of ``expected`` bytes: it would be inflated all the same.

    Literal runs add one byte to 128, and segments their header and padding (PS3.5 G.3).
    """
    return length > expected + expected // 64 + 3 * RLE_HEADER


def is_compressed(transfer_syntax_uid: str) -> bool:
    """Whether pixel data of that syntax are encapsulated, as far as it is known here."""
    syntax = UID(transfer_syntax_uid, IGNORE)  # else pydicom would quote what stands in its place
    return bool(transfer_syntax_uid) and syntax.is_transfer_syntax and not syntax.is_private and syntax.is_encapsulated


def _rle(fragment: bytes) -> CodedSize | None:
    """Number of segments: one for each byte of each component (PS3.5 G.5). It is stated as the components."""
    segments = int.from_bytes(fragment[:4], "little")
    offsets = [int.from_bytes(fragment[4 * n : 4 * n + 4], "little") for n in range(1, min(segments, 15) + 1)]
    inside = all(RLE_HEADER <= at < len(fragment) for at in offsets) and offsets == sorted(offsets)
    return CodedSize(None, None, segments) if 0 < segments <= 15 and inside else None


def _jpeg_2000(fragment: bytes) -> CodedSize | None:
    at = fragment[:SEARCHED].find(SIZ)
    segment = fragment[at + len(SIZ) :] if at >= 0 else b""
    if len(segment) < 38:
        return None
    right, lower, left, upper = (int.from_bytes(segment[n : n + 4], "big") for n in (4, 8, 12, 16))
    return CodedSize(lower - upper, right - left, int.from_bytes(segment[36:38], "big"))


def _jpeg(fragment: bytes) -> CodedSize | None:
    at = fragment[:SEARCHED].find(b"\xff\xd8")
    if at < 0:
        return None
    at += 2
    while at + 4 <= len(fragment) and fragment[at] == 0xFF:
        marker = fragment[at + 1]
        if marker == SCAN:
            return None
        if marker == 0xFF or marker in ALONE:  # fill bytes, and markers without a segment
            at += 1 if marker == 0xFF else 2
            continue
        if marker in FRAMES:
            frame = fragment[at + 5 : at + 10]
            if len(frame) < 5:
                return None
            return CodedSize(int.from_bytes(frame[:2], "big"), int.from_bytes(frame[2:4], "big"), frame[4])
        at += 2 + max(2, int.from_bytes(fragment[at + 2 : at + 4], "big"))
    return None
