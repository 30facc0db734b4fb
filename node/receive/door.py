"""The door: takes connections of all entrances, and hands on only those that have asked for an association.

One thread waits for all of them at once, so that a silent, slow or senseless peer costs a socket and no thread: here
the TLS hand-shake is done and the first PDU is read, both without blocking and within one deadline. Whoever sends
anything but an A-ASSOCIATE-RQ of a sane length is hung up on, whoever is not allowed gets an A-ASSOCIATE-RJ; a
connection that was only opened and closed (the probe of a load balancer) leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from node.receive import access
from node.receive.notices import Notices
from node.settings import Entrance

log = structlog.get_logger(__name__)

MOST_WAITING = 200
"""Connections without a request; one more, and the oldest of the host that has most of them is dropped."""
PARTING_S = 5.0
"""How long a peer that was turned away may take to read the answer and hang up."""
_SELECTABLE = 1024
"""pynetdicom waits with select(2), which knows no descriptors from here on."""
_PAUSE_S = 0.1
_AT_ONCE = 50
_DISCARDED = 1 << 16
_MOST_DISCARDED = 1 << 20


@dataclass(frozen=True)
class Caller:
    """A connection whose whole A-ASSOCIATE-RQ PDU was read, and not a byte behind it."""

    socket: socket.socket
    address: tuple[Any, ...]
    request: bytes


@dataclass
class Opening:
    """A listening socket with its rules and, for TLS, its context; both may be replaced at any time."""

    socket: socket.socket
    rules: Entrance
    tls: ssl.SSLContext | None
    admit: Callable[[Caller], None]
    """Takes over a caller; called in the door's thread, so it must not wait for the peer."""


@dataclass
class _Waiting:
    socket: socket.socket
    address: tuple[Any, ...]
    opening: Opening
    deadline: float
    greeting: bool
    """Whether the TLS hand-shake goes on."""
    received: bytearray = field(default_factory=bytearray)
    parting: bool = False
    """Whether it was turned away, and only its hanging up is waited for."""
    thrown_away: int = 0
    """Bytes read since then."""

    @property
    def host(self) -> str:
        return str(self.address[0])


class Door:
    """The thread that waits for everybody who has not asked for an association yet."""

    def __init__(
        self,
        openings: list[Opening],
        notices: Notices,
        no_room: Callable[[str], access.Rejection | None],
        patience_s: float,
    ) -> None:
        self._openings = openings
        self._notices = notices
        self._no_room = no_room
        self._patience_s = patience_s
        self._waiting: dict[int, _Waiting] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)

    @property
    def waiting(self) -> int:
        """Number of connections without an association."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to accept connections."""
        self._selector.register(self._woken, selectors.EVENT_READ)
        for opening in self._openings:
            opening.socket.setblocking(False)
            self._selector.register(opening.socket, selectors.EVENT_READ, opening)
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections, close the listening sockets, and hang up on everybody who waits."""
        self._stopping = True
        self._wake.send(b"\0")
        self._thread.join()
        for waiting in list(self._waiting.values()):
            self._close(waiting)
        for opening in self._openings:
            opening.socket.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _run(self) -> None:
        while not self._stopping:
            try:
                for key, _ in self._selector.select(self._until_next_deadline()):
                    if isinstance(key.data, Opening):
                        self._accept(key.data)
                    elif isinstance(key.data, _Waiting) and key.fd in self._waiting:
                        self._attend(key.data)
                self._drop_the_late()
            except Exception:  # of one connection: the others must not notice
                log.exception("the door failed and goes on")
                time.sleep(_PAUSE_S)

    def _until_next_deadline(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, min(waiting.deadline for waiting in self._waiting.values()) - time.monotonic())

    def _accept(self, opening: Opening) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, address = opening.socket.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:  # out of descriptors: those who only wait make room
                if not self._drop_oldest():
                    log.error("no connection can be accepted", reason=error.strerror)
                    time.sleep(_PAUSE_S)
                return
            if client.fileno() >= _SELECTABLE:
                client.close()
                self._notices.tell("out_of_descriptors", "", str(address[0]))
                continue
            if len(self._waiting) >= MOST_WAITING:
                self._drop_oldest()
            self._receive(opening, client, address)

    def _receive(self, opening: Opening, client: socket.socket, address: tuple[Any, ...]) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = opening.tls
        if tls is not None:
            try:
                client = tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it has hung up already
                client.close()
                return
        waiting = _Waiting(client, address, opening, time.monotonic() + self._patience_s, greeting=tls is not None)
        self._waiting[client.fileno()] = waiting
        self._selector.register(client, selectors.EVENT_READ, waiting)
        self._attend(waiting)

    def _attend(self, waiting: _Waiting) -> None:
        """Go on with a connection as far as it goes without waiting."""
        try:
            if waiting.greeting:
                assert isinstance(waiting.socket, ssl.SSLSocket)
                waiting.socket.do_handshake()
                waiting.greeting = False
            while self._read(waiting):
                continue
        except (BlockingIOError, ssl.SSLWantReadError):
            self._selector.modify(waiting.socket, selectors.EVENT_READ, waiting)
        except ssl.SSLWantWriteError:
            self._selector.modify(waiting.socket, selectors.EVENT_WRITE, waiting)
        except ssl.SSLError as error:
            if not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                self._notices.tell("tls_refused", "", waiting.host, reason=error.reason or type(error).__name__)
            self._close(waiting)
        except OSError:  # it has hung up
            self._close(waiting)
        except Exception:
            self._close(waiting)
            raise

    def _read(self, waiting: _Waiting) -> bool:
        """Take what has come; whether there may be more."""
        if waiting.parting:
            waiting.thrown_away += len(discarded := waiting.socket.recv(_DISCARDED))
            if not discarded or waiting.thrown_away > _MOST_DISCARDED:
                self._close(waiting)
            return False  # not in a loop: the others wait
        received = waiting.received
        wanted = access.PDU_HEADER_BYTES
        if len(received) >= wanted:
            wanted += int.from_bytes(received[2:6], "big")
        chunk = waiting.socket.recv(wanted - len(received))
        if not chunk:
            if received:
                self._notices.tell("cut_off", "", waiting.host, bytes=len(received))
            self._close(waiting)
            return False
        received += chunk
        if len(received) == access.PDU_HEADER_BYTES and (reason := _senseless(bytes(received))):
            self._notices.tell("no_dicom", "", waiting.host, reason=reason)
            self._turn_away(waiting, access.UNRECOGNISED_PDU)
            return True
        if len(received) == wanted > access.PDU_HEADER_BYTES:
            return self._decide(waiting)
        return True

    def _decide(self, waiting: _Waiting) -> bool:
        """Let a caller in, or say no; whether there may be more to read."""
        request = bytes(waiting.received)
        titles = access.asked(request)
        rejection = access.judge(waiting.opening.rules, waiting.host, titles)
        if rejection is None:
            rejection = self._no_room(access.host_of(waiting.host))
        if rejection is not None:
            self._notices.tell(
                "association_rejected",
                titles.calling,
                waiting.host,
                called_ae_title=titles.called,
                reason=rejection.kind,
            )
            self._turn_away(waiting, rejection.pdu)
            return True
        self._forget(waiting)
        waiting.opening.admit(Caller(waiting.socket, waiting.address, request))
        return False

    def _turn_away(self, waiting: _Waiting, answer: bytes) -> None:
        """Send the answer, then wait a little for the peer to read it and hang up (PS3.8 9.2, state 13)."""
        waiting.parting = True
        waiting.deadline = time.monotonic() + PARTING_S
        waiting.received.clear()
        waiting.socket.send(answer)
        if not isinstance(waiting.socket, ssl.SSLSocket):
            waiting.socket.shutdown(socket.SHUT_WR)

    def _drop_the_late(self) -> None:
        now = time.monotonic()
        for waiting in [waiting for waiting in self._waiting.values() if waiting.deadline <= now]:
            if not waiting.parting:
                self._notices.tell("no_request_in_time", "", waiting.host, bytes=len(waiting.received))
            self._close(waiting)

    def _drop_oldest(self) -> bool:
        """Of the host with most of those who wait: who floods crowds out himself, not others."""
        hosts = Counter(waiting.host for waiting in self._waiting.values())
        for host, _ in hosts.most_common(1):
            oldest = next(waiting for waiting in self._waiting.values() if waiting.host == host)
            self._notices.tell("crowded_out", "", host)
            self._close(oldest)
            return True
        return False

    def _forget(self, waiting: _Waiting) -> None:
        self._waiting.pop(waiting.socket.fileno(), None)
        self._selector.unregister(waiting.socket)

    def _close(self, waiting: _Waiting) -> None:
        if waiting.socket.fileno() in self._waiting:
            self._forget(waiting)
        with contextlib.suppress(OSError):
            waiting.socket.close()


def _senseless(header: bytes) -> str | None:
    """Why these six bytes begin no A-ASSOCIATE-RQ; ``None`` where they do."""
    length = int.from_bytes(header[2:6], "big")
    if header[0] == access.ASSOCIATE_RQ:
        if access.SMALLEST_REQUEST <= length <= access.LARGEST_REQUEST:
            return None
        return f"an A-ASSOCIATE-RQ of {length} bytes"
    if header[:2] == b"\x16\x03":
        return "TLS where none is spoken"
    if header[:4] in (b"GET ", b"POST", b"HEAD", b"OPTI", b"PRI "):
        return "HTTP"
    return f"PDU type 0x{header[0]:02X} before any association"
