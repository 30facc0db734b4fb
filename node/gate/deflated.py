"""Deflated files are inflated whole by pydicom: a few megabytes can become a terabyte. Count before."""

from __future__ import annotations

import zlib
from pathlib import Path

DEFLATED_SYNTAX = b"1.2.840.10008.1.2.1.99"
MAX_INFLATED_BYTES = 2**31
_CHUNK = 1 << 20
_META_LIMIT = 1 << 16


def inflates_too_far(path: Path, limit: int = MAX_INFLATED_BYTES) -> bool:
    """Whether a file in Deflated Explicit VR Little Endian (PS3.5 A.5) holds more than ``limit`` bytes, inflated.

    False for files in any other syntax, and for those that are no deflate stream at all: pydicom reports these.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_META_LIMIT)
        if start[128:132] != b"DICM" or DEFLATED_SYNTAX not in start:
            return False
        file.seek(end_of_meta(start))
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        total = 0
        try:
            while (compressed := file.read(_CHUNK)) and not stream.eof:
                while compressed and not stream.eof:
                    total += len(stream.decompress(compressed, _CHUNK))
                    if total > limit:
                        return True
                    compressed = stream.unconsumed_tail
        except zlib.error:
            return False
    return False


def end_of_meta(start: bytes) -> int:
    """Offset of the first byte behind the file meta information, which is Explicit VR Little Endian (PS3.10, 7.1)."""
    offset = 132
    while start[offset : offset + 2] == b"\x02\x00":
        long = start[offset + 4 : offset + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        header = 12 if long else 8
        field = slice(offset + 8, offset + 12) if long else slice(offset + 6, offset + 8)
        offset += header + int.from_bytes(start[field], "little")
    return offset
