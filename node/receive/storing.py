"""Takes one instance of an association into the spool and says with which status it is answered.

Nothing is rejected for its content; the only failures are a full disk or a limit of size (0xA700), an internal error
(0x0110), and a request that names no instance (0xC000). After a failure the rest of the data set is taken and
forgotten, so that the answer can be given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from node.receive.spool import Origin, OutOfSpaceError, Reception, Spool
from node.receive.spool_file import Piece

log = structlog.get_logger(__name__)

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
PROCESSING_FAILURE = 0x0110
"""PS3.4 table B.2-1, PS3.7 annex C."""

Record = Callable[[str, dict[str, Any]], None]
"""(kind, detail): recorded in the ledger, behind the acknowledgement."""


class StoringInSpool:
    """One instance on its way into the spool.

    Parameters
    ----------
    largest
        Bytes that a data set may have.
    registered
        Told of the instance once it is safe, before it is acknowledged.
    record
        Told of a refusal.
    """

    def __init__(
        self, spool: Spool, origin: Origin, largest: int, registered: Callable[[Reception], None], record: Record
    ) -> None:
        self._incoming = spool.receive(origin)
        self._left = largest
        self._largest = largest
        self._registered = registered
        self._record = record
        self._status = SUCCESS
        if not origin.sop_instance_uid[:1].isalnum() and not _names_something(origin.sop_instance_uid):
            self._status = CANNOT_UNDERSTAND
            record("no_instance_uid", {})

    @property
    def length(self) -> int:
        """Bytes of the data set so far."""
        return self._incoming.length

    def write(self, pieces: Sequence[Piece]) -> None:
        """Take pieces of the data set, which may be overwritten afterwards."""
        self._attempt(pieces, self._incoming.write)

    def finish(self, pieces: Sequence[Piece]) -> int:
        """Take the last pieces; return the status of the response once the instance is safe."""
        self._attempt(pieces, self._commit)
        return self._status

    def discard(self) -> None:
        """There will be no more; what came is no instance."""
        try:
            self._incoming.discard()
        except OSError as error:  # it is found torn at the next start
            log.error("an incomplete instance could not be removed", reason=error.strerror)

    def _commit(self, pieces: Sequence[Piece]) -> None:
        self._registered(self._incoming.commit(pieces))

    def _attempt(self, pieces: Sequence[Piece], store: Callable[[Sequence[Piece]], None]) -> None:
        if self._status != SUCCESS:
            return
        self._left -= sum(map(len, pieces))
        try:
            if self._left < 0:
                self._status = OUT_OF_RESOURCES
                self._record("instance_too_large", {"more_than_bytes": self._largest})
                self.discard()
            else:
                store(pieces)
        except OutOfSpaceError as error:
            log.error("refused for want of space", reason=str(error))
            self._status = OUT_OF_RESOURCES
            self._record("out_of_space", {"reason": str(error)})
        except Exception:
            log.exception("an instance could not be stored")
            self._status = PROCESSING_FAILURE


def _names_something(uid: str) -> bool:
    """Whether the first of the values has a letter or a digit."""
    first, *_ = uid.split("\\")
    return any(character.isalnum() for character in first)
