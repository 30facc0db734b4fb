"""CRC-32 (ISO 3309) of what is received: the one cost of the fast path that grows with the bytes and is not a copy.

ISA-L computes it four times as fast as zlib (0.05 instead of 0.20 ms for a slice of 512 x 512); the values are the
same, and zlib stands in where ISA-L has no build.
"""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
