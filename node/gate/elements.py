"""Elements of a plainly encoded data set, walked over as PS3.5 7.1 and 7.5 have them: little endian, not deflated.

What is not plain is not guessed at: it raises, and the caller leaves the file to pydicom.
"""

from __future__ import annotations

import struct

LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs with a length of 32 bits (PS3.5 7.1.2)."""
SHORT = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
UNDEFINED = 0xFFFF_FFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_DEEPEST = 16
_EXPLICIT = struct.Struct("<HH2sH")
_IMPLICIT = struct.Struct("<HHI")
_LENGTH = struct.Struct("<I")


class NotPlainError(Exception):
    """Something for pydicom."""


def element(data: memoryview, position: int, explicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, VR (empty where implicit), length, and position of the value.

    Raises
    ------
    NotPlainError
        A VR that there is not, or one of undefined length that is no sequence.
    struct.error
        The data end before the value begins.
    """
    if not explicit:
        group, number, length = _IMPLICIT.unpack_from(data, position)
        return group << 16 | number, b"", length, position + 8
    group, number, vr, length = _EXPLICIT.unpack_from(data, position)
    if vr in SHORT:
        return group << 16 | number, vr, length, position + 8
    if group == 0xFFFE:  # items have no VR
        (length,) = _LENGTH.unpack_from(data, position + 4)
        return group << 16 | number, b"", length, position + 8
    if vr not in LONG:
        raise NotPlainError
    (length,) = _LENGTH.unpack_from(data, position + 8)
    if length == UNDEFINED and vr != b"SQ":  # unknown and of undefined length: in another encoding (PS3.5 6.2.2)
        raise NotPlainError
    return group << 16 | number, vr, length, position + 12


def after_sequence(data: memoryview, position: int, explicit: bool, depth: int = _DEEPEST) -> int:
    """Position behind a sequence of undefined length (PS3.5 7.5.2), given that of its first item.

    Raises
    ------
    NotPlainError
        It holds something else than items, or is nested too deeply.
    struct.error
        The data end before it does.
    """
    if not depth:
        raise NotPlainError
    while True:
        tag, _, length, position = element(data, position, explicit)
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise NotPlainError
        if length != UNDEFINED:
            position += length
            continue
        while tag != _ITEM_END:
            tag, _, length, position = element(data, position, explicit)
            position = after_sequence(data, position, explicit, depth - 1) if length == UNDEFINED else position + length
