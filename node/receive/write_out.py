"""Has the disk begin with what is written already, while more of a file is still to come.

Nothing is promised by it: what is on the disk is decided by the flush that follows, which has less left to do then. An
error of such a write-out is kept by the kernel for that flush, which fails with it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

PAGE_BYTES = 4096
_WRITE = 2
"""SYNC_FILE_RANGE_WRITE: begin with pages that are not under way yet, wait for none (sync_file_range(2))."""


def _none(_descriptor: int, _begin: int, _count: int) -> None:
    """Where the system has no such call, the flush does all."""


def _linux() -> Callable[[int, int, int], None]:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return _none
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    call.restype = ctypes.c_int

    def begin(descriptor: int, begin: int, count: int) -> None:
        call(descriptor, begin, count, _WRITE)

    return begin


begin_write_out = _linux()
"""(descriptor, first byte, bytes): whole pages; returns at once, and fails in silence."""
