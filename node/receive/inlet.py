"""Reads a connection through one buffer of fixed size; nothing is copied until it is written or decoded.

Every PDU has to be complete within the network time-out, and none may be longer than allowed: its length is checked
before its body is read. Waiting in the midst of a PDU ends when the association is told to.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable

from node.receive.command import P_DATA_TF, PDU_HEADER_BYTES

BUFFER_BYTES = 1 << 20
SMALLEST_PATIENCE_S = 0.05
_PDU_HEADER = struct.Struct(">BBI")


class ProtocolError(Exception):
    """The peer breaks the protocol; the message says how, in words of ours only."""


class HungUpError(Exception):
    """The connection is closed or broken."""


class InterruptedInletError(Exception):
    """The association is to end; what was begun is not waited for."""


class Wake:
    """Wakes a thread that waits for its connection: an eventfd that is polled together with the socket."""

    descriptor = -1

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __call__(self) -> None:
        """Wake; of no effect once the waiting thread has ended."""
        with self._lock:
            if self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """What was called for is looked at now."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Nobody waits any more."""
        with self._lock:  # the number may be another file's in a moment
            descriptor, self.descriptor = self.descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)

    def __del__(self) -> None:
        """Nobody ever waited: the thread that was to close it never ran."""
        self.close()


class Inlet:
    """The receiving side of one connection.

    Parameters
    ----------
    client
        A connected socket, TLS or not, with a time-out.
    largest_pdu, largest_other_pdu
        Bytes allowed in the body of a P-DATA-TF, and of any other PDU.
    interrupted
        Whether the association is to end.
    """

    def __init__(
        self,
        client: socket.socket,
        timeout_s: float,
        largest_pdu: int,
        largest_other_pdu: int,
        interrupted: Callable[[], bool],
    ) -> None:
        self._client = client
        self._tls = isinstance(client, ssl.SSLSocket)
        self._timeout_s = timeout_s
        self.largest_pdu = largest_pdu
        self._largest_other_pdu = largest_other_pdu
        self._interrupted = interrupted
        self.before_reuse: Callable[[], None] = lambda: None
        """Called before bytes that were handed out are overwritten."""
        self.before_waiting: Callable[[], None] = lambda: None
        """Called before the peer is waited for."""
        self.wake = Wake()
        self._poll = select.poll()
        self._poll.register(client, select.POLLIN)
        self._poll.register(self.wake.descriptor, select.POLLIN)
        self._view = memoryview(b"")
        self._start = self._end = 0
        self._deadline = 0.0

    @property
    def buffered(self) -> int:
        """Bytes that are here and not taken yet."""
        return self._end - self._start

    def wait(self, patience_s: float) -> bool:
        """Wait until there is something to read (or the peer has hung up), a wake-up, or for so long.

        Returns
        -------
        bool
            Whether there is something to read.
        """
        if self._start < self._end or (self._tls and self._client.pending()):  # type: ignore[attr-defined]
            return True
        return self._wait(patience_s)

    def _wait(self, patience_s: float) -> bool:
        self.before_waiting()
        readable = False
        for descriptor, _ in self._poll.poll(max(patience_s, SMALLEST_PATIENCE_S) * 1000):
            if descriptor == self.wake.descriptor:
                self.wake.clear()
            else:
                readable = True
        return readable

    def fill(self) -> bool:
        """Read what has come, without waiting.

        Returns
        -------
        bool
            Whether anything came.

        Raises
        ------
        HungUpError
            The peer has hung up.
        """
        if self._end == len(self._view):
            self._make_room()
        try:
            count = self._read(self._view[self._end :])
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except (OSError, ValueError) as error:
            raise HungUpError from error
        if count == 0:
            raise HungUpError
        self._end += count
        return True

    def begin_pdu(self) -> tuple[int, int]:
        """Take the header of the next PDU, which has to be complete within the time-out from now on.

        Returns
        -------
        tuple[int, int]
            Type and length of the body (PS3.8 9.3.1).

        Raises
        ------
        ProtocolError, HungUpError, InterruptedInletError
        """
        self._deadline = time.monotonic() + self._timeout_s
        self._need(PDU_HEADER_BYTES)
        kind, _, length = _PDU_HEADER.unpack_from(self._view, self._start)
        if length > (self.largest_pdu if kind == P_DATA_TF else self._largest_other_pdu):
            raise ProtocolError(f"a PDU of {length} bytes")
        self._start += PDU_HEADER_BYTES
        return kind, length

    def next_kind(self) -> int | None:
        """Type of the next PDU where its first byte is here."""
        return self._view[self._start] if self._start < self._end else None

    def window(self) -> tuple[memoryview, int, int]:
        """The buffer, and where in it the bytes that are here begin and end; PDUs are taken by :meth:`skip_to`."""
        return self._view, self._start, self._end

    def skip_to(self, position: int) -> None:
        """Everything before a position of the window is taken."""
        self._start = position

    def take(self, count: int) -> memoryview:
        """The next few bytes, all of them; to be used before anything else is taken.

        Raises
        ------
        ProtocolError, HungUpError, InterruptedInletError
        """
        self._need(count)
        self._start += count
        return self._view[self._start - count : self._start]

    def some(self, most: int) -> memoryview:
        """The next bytes as they come, at least one; valid until ``before_reuse`` is called.

        Raises
        ------
        ProtocolError, HungUpError, InterruptedInletError
        """
        if self._start == self._end:
            self._need(1)
        count = min(most, self._end - self._start)
        self._start += count
        return self._view[self._start - count : self._start]

    def exactly(self, count: int) -> bytearray:
        """The next ``count`` bytes, or fewer where the peer has hung up: what pynetdicom asks its socket for.

        Raises
        ------
        OSError
            The peer is too slow, or the association is to end.
        """
        if count > max(self.largest_pdu, self._largest_other_pdu):
            raise OSError(f"the peer announced a PDU of {count} bytes")
        self._deadline = time.monotonic() + self._timeout_s
        taken = bytearray()
        try:
            while len(taken) < count:
                taken += self.some(count - len(taken))
        except HungUpError:
            return taken
        except (ProtocolError, InterruptedInletError) as error:
            raise OSError(str(error)) from error
        return taken

    def discard(self, most_bytes: int, patience_s: float) -> None:
        """Read and forget what the peer still sends, so that it sees our last words before the connection closes."""
        self._start = self._end = 0
        deadline = time.monotonic() + patience_s
        seen = 0
        try:
            while seen < most_bytes and (left := deadline - time.monotonic()) > 0:
                if self.fill():
                    seen += self._end
                    self._start = self._end = 0
                elif not self._poll.poll(left * 1000):
                    return
                else:
                    self.wake.clear()
        except HungUpError:
            return

    def close(self) -> None:
        """Nobody reads any more: the connection is closed, too."""
        self.wake.close()
        self._client.close()
        self._view = memoryview(b"")
        self._start = self._end = 0

    def _need(self, count: int) -> None:
        while self._end - self._start < count:
            if self.fill():
                continue
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise ProtocolError("a PDU that does not arrive in time")
            self._wait(left_s)
            if self._interrupted():
                raise InterruptedInletError

    def _make_room(self) -> None:
        """The buffer is full, or there is none yet: what was handed out is done with, the rest goes to its front."""
        self.before_reuse()
        if not self._view:
            self._view = memoryview(mmap.mmap(-1, BUFFER_BYTES))  # takes no memory until it is written to
        left = self._end - self._start
        self._view[:left] = self._view[self._start : self._end]
        self._start, self._end = 0, left

    def rewind(self) -> None:
        """Nothing that was handed out is in use: begin at the front again where everything is taken."""
        if self._start == self._end:
            self._start = self._end = 0

    def _read(self, into: memoryview) -> int:
        if not self._tls:
            return os.readv(self._client.fileno(), [into])
        timeout = self._client.gettimeout()
        self._client.settimeout(0.0)
        try:
            return self._client.recv_into(into)
        finally:
            self._client.settimeout(timeout)
