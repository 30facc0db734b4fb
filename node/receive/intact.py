"""Whether images of the spool are still what was received: nothing is analysed that was deleted or altered since.

The ledger has the SHA-256 of each data set, and the transfer syntax that says how to read it; both are compared with
the file before its study is evaluated, not only with what its own header says of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from node.receive.spool import Spool

GONE, ALTERED = "gone", "altered"
OF_THE_MACHINE = frozenset(
    {errno.EAGAIN, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EPIPE}
)
"""Errors that say nothing of the file that was to be read: descriptors, memory, room for something else."""
_BEFORE_META = 144
"""Preamble, prefix, and the group length of the file meta information with its value."""


class SpoolDamagedError(Exception):
    """Images of a study are gone from the spool, or altered; the message says what a person can do.

    Attributes
    ----------
    found
        Row id of each such image to "gone" or "altered".
    """

    def __init__(self, found: Mapping[int, str], images: int) -> None:
        self.found = dict(found)
        gone = sum(what == GONE for what in found.values())
        super().__init__(
            f"{gone} of {images} images are gone from the spool and {len(found) - gone} were altered there: nothing "
            "was analysed. Send the study again, or put the files back, then `spine-node jobs retry`"
        )


class SpoolUnreadableError(OSError):
    """An image of the spool cannot be read (``filename``: its name there; ``errno``); that may pass, or not."""

    @classmethod
    def of(cls, error: OSError, spool_name: str) -> OSError:
        """The error that this one is: itself where it is the machine's."""
        return error if error.errno in OF_THE_MACHINE else cls(error.errno, error.strerror, spool_name)


def check_intact(spool: Spool, rows: Sequence[Mapping[str, Any]]) -> None:
    """Compare files with their rows (``id``, ``spool_name``, ``sha256``, ``transfer_syntax``).

    Raises
    ------
    SpoolDamagedError
        Some are gone or altered.
    SpoolUnreadableError
        A file cannot be read for another reason; that may pass, and says nothing about its content.
    OSError
        The machine cannot read files for the moment.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="intact") as pool:
        states = list(pool.map(lambda row: _state(spool, row), rows))
    found = {row["id"]: state for row, state in zip(rows, states, strict=True) if state is not None}
    if found:
        raise SpoolDamagedError(found, len(rows))


def _state(spool: Spool, row: Mapping[str, Any]) -> str | None:
    try:
        with spool.path(row["spool_name"]).open("rb") as file:
            beginning = file.read(_BEFORE_META)
            meta = file.read(int.from_bytes(beginning[140:144], "little") % (1 << 16))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return GONE
    except OSError as error:
        raise SpoolUnreadableError.of(error, str(row["spool_name"])) from error
    syntax = row["transfer_syntax"].encode("latin-1", "replace")
    syntax += b"\0" * (len(syntax) % 2)
    says = struct.pack("<HH2sH", 2, 0x0010, b"UI", len(syntax)) + syntax
    return None if digest == row["sha256"] and says in meta else ALTERED
