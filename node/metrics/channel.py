"""How the supervisor asks its processes for their tallies: a pair of sockets for each, inherited at its start.

One byte asks, and the answer is one datagram of JSON that begins with that byte, so that an answer which comes too late
is told from the one that is waited for. There is no name in any folder that somebody else could open.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import structlog

from node.metrics.tally import Counts, Tally

log = structlog.get_logger(__name__)

LARGEST_ANSWER = 1 << 17
"""Labels are few by design; a socket takes twice as much."""


class Channel:
    """The supervisor's end of one process."""

    def __init__(self) -> None:
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asked = 0

    @property
    def inherited(self) -> int:
        """The descriptor that the process is to inherit."""
        return self._theirs.fileno()

    def started(self) -> None:
        """The process has its end: when it ends, nobody holds it open."""
        self._theirs.close()

    def ask(self, patience_s: float) -> Counts | None:
        """What the process counts; ``None`` where it does not answer in time or has ended."""
        self._asked = (self._asked + 1) % 256
        deadline = time.monotonic() + patience_s
        try:
            self._socket.settimeout(patience_s)
            self._socket.send(bytes([self._asked]))
            while (left_s := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left_s)
                answer = self._socket.recv(LARGEST_ANSWER)
                if not answer:
                    return None
                if answer[0] == self._asked:
                    return {(name, tuple(labels)): value for name, labels, value in json.loads(answer[1:])}
        except (OSError, ValueError):
            return None
        return None

    def close(self) -> None:
        """Nobody is asked any more."""
        self._socket.close()
        self._theirs.close()


def answer_from(descriptor: int, tally: Tally) -> None:
    """In the process: answer whenever the supervisor asks, in a thread of its own."""
    ours = socket.socket(fileno=descriptor)

    def answer() -> None:
        with ours, contextlib.suppress(OSError):  # the supervisor is gone: this process will follow
            while question := ours.recv(1):
                counts = [[name, labels, value] for (name, labels), value in tally.read().items()]
                encoded = json.dumps(counts).encode("ascii")
                if len(encoded) < LARGEST_ANSWER:
                    ours.send(question + encoded)
                else:
                    log.error("more is counted than can be told", bytes=len(encoded))

    threading.Thread(target=answer, name="figures", daemon=True).start()
