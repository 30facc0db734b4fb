"""What a compressed frame says of its own size, read before it is decoded: a decoder allocates what it is told.

A few bytes can claim an image of 65,535 × 65,535. The claim stands at the beginning of the stream, in the SIZ segment
of JPEG 2000 (ISO/IEC 15444-1 A.5.1) or in the frame header of JPEG and JPEG-LS (ITU-T T.81 B.2.2, T.87 C.2.2). RLE
claims nothing, but a frame cannot be longer than literal runs make it (PS3.5 G.3).
"""

from __future__ import annotations

from dataclasses import dataclass

RLE = "1.2.840.10008.1.2.5"
_RLE_HEADER = 64
_SEARCHED = 1 << 16
_SOI, _SIZ_START, _SOS, _EOI = 0xFFD8, b"\xff\x4f\xff\x51", 0xDA, 0xD9
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True)
class Claim:
    """Size of a frame as its codestream claims it."""

    rows: int
    columns: int
    components: int


def claim(frame: bytes) -> Claim | None:
    """The size that a JPEG, JPEG-LS or JPEG 2000 codestream claims; ``None`` where it says none at its beginning."""
    if (start := frame[:_SEARCHED].find(_SIZ_START)) >= 0:
        return _siz(frame[start + 4 : start + 42])
    if int.from_bytes(frame[:2], "big") == _SOI:
        return _frame_header(frame)
    return None


def too_long_for_rle(length: int, expected: int) -> bool:
    """Whether an RLE frame of that length cannot be one of ``expected`` bytes: it would be inflated all the same."""
    return length > expected + expected // 64 + 2 * _RLE_HEADER + 64


def _siz(segment: bytes) -> Claim | None:
    if len(segment) < 38:
        return None
    width, height, left, top = (int.from_bytes(segment[at : at + 4], "big") for at in (4, 8, 12, 16))
    return Claim(height - top, width - left, int.from_bytes(segment[36:38], "big"))


def _frame_header(frame: bytes) -> Claim | None:
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _FRAME_HEADERS:
            rows, columns = (int.from_bytes(frame[at + place : at + place + 2], "big") for place in (5, 7))
            return Claim(rows, columns, frame[at + 9])
        if marker in (_SOS, _EOI):
            return None
        if marker == 0xFF:
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
