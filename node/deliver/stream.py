"""C-STORE requests straight from their files to the connection: nothing is gathered in memory, and nothing polls.

pynetdicom makes the association and ends it. In between, its upper layer's thread stands still (`OnLoan`), and requests
and responses go past it (PS3.7 9.3.1, PS3.8 9.3.5 and Annex E). Its own way takes a millisecond of waiting and five
copies for each PDU.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import structlog
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.dul import DULServiceProvider

from node.receive import command
from node.receive.command import COMMAND, LAST, P_DATA_TF, PDU_HEADER_BYTES, PDV_HEADER_BYTES, CommandError

log = structlog.get_logger(__name__)

BUFFER_BYTES = 1 << 20
LARGEST_PDU = 1 << 17
"""Of ours, where the peer takes longer ones."""
LARGEST_ANSWER = 1 << 17
"""Bytes of a PDU that is read: a response has some 150."""
_HEADERS = PDU_HEADER_BYTES + PDV_HEADER_BYTES
_PDU = struct.Struct(">BBIIBB")
_LARGEST_META = 1 << 12
"""Bytes of a file in which its meta information is looked for before pydicom is asked."""
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


class BrokenError(Exception):
    """The peer ended the association or broke the protocol; the message says which."""


class NoAnswerError(Exception):
    """The peer took the object and did not answer in time."""


@dataclass(frozen=True)
class Stored:
    """What the meta information of a file says, and where its data set begins."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    offset: int


def look_at(path: Path) -> Stored:
    """Read a file's meta information (PS3.10 7.1).

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It has no meta information, or this lacks a UID.
    """
    with path.open("rb", buffering=0) as file:
        found = _plain_meta(file.read(_LARGEST_META))
    if found is None:
        meta, offset = split_dataset(path)
        uids = {keyword: str(meta.get(keyword, "") or "") for keyword in _KEYWORDS.values()}
    else:
        uids, offset = found
    if not all(uids.values()):
        raise ValueError(f"{path.name} lacks file meta information that sending needs")
    sop_class, sop_instance, syntax = (uids[keyword] for keyword in _KEYWORDS.values())
    return Stored(path, sop_class, sop_instance, syntax, offset)


_KEYWORDS = {0x0002: "MediaStorageSOPClassUID", 0x0003: "MediaStorageSOPInstanceUID", 0x0010: "TransferSyntaxUID"}


def _plain_meta(raw: bytes) -> tuple[dict[str, str], int] | None:
    """UIDs by keyword and the offset behind the meta information; ``None`` where it is not as it should be."""
    if len(raw) < 144 or raw[128:140] != b"DICM\x02\0\0\0UL\x04\0":
        return None
    end = 144 + int.from_bytes(raw[140:144], "little")
    if end > len(raw):
        return None
    uids: dict[str, str] = {}
    position = 144
    while position + 8 <= end:
        group, number, vr, length = struct.unpack_from("<HH2sH", raw, position)
        position += 8
        if vr in _LONG:
            length = int.from_bytes(raw[position : position + 4], "little")
            position += 4
        if group != 2:
            return None
        if number in _KEYWORDS:
            uids[_KEYWORDS[number]] = raw[position : position + length].decode("latin-1").strip("\0 ")
        position += length
    return (uids, end) if position == end and len(uids) == len(_KEYWORDS) else None


class OnLoan(DULServiceProvider):
    """pynetdicom's upper layer, standing still while its connection is lent.

    Its loop calls `_is_transport_event` whenever it has nothing to send.
    """

    _standing: threading.Event
    _returned: threading.Event

    def _is_transport_event(self) -> bool:
        if self._returned.is_set():
            return bool(super()._is_transport_event())
        self._standing.set()
        self._returned.wait()
        return False


def can_be_lent() -> bool:
    """Whether pynetdicom's upper layer still looks for what comes in the way that `OnLoan` leans on."""
    code = getattr(getattr(DULServiceProvider, "run_reactor", None), "__code__", None)
    return code is not None and "_is_transport_event" in code.co_names


class Stores(Protocol):
    """Sends instances."""

    def store(self, instance: Stored, context_id: int) -> int:
        """Send one instance and return the status of the answer.

        Raises
        ------
        BrokenError
            The peer ended the association, or answered something else. Nothing more can be sent.
        NoAnswerError
            It did not answer in time.
        OSError
            The file cannot be read, or the connection broke.
        """


@contextmanager
def stores(association: Association, timeout_s: float) -> Iterator[Stores]:
    """What sends instances on an established association, until the end of the block."""
    if not can_be_lent():
        log.warning("sending without the fast path: pynetdicom has changed")
        yield PlainStores(association)
        return
    with StoreStream(association, timeout_s) as stream:
        yield stream


class PlainStores:
    """As pynetdicom sends."""

    def __init__(self, association: Association) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True
        self._association = association

    def store(self, instance: Stored, context_id: int) -> int:
        """As `Stores` says; the presentation context is found by pynetdicom."""
        try:
            answer = self._association.send_c_store(instance.path)
        except (ValueError, RuntimeError) as error:
            raise BrokenError(f"ended the association in the middle ({context_id}: {error})") from error
        if "Status" not in answer:
            raise NoAnswerError
        return int(answer.Status)


class StoreStream:
    """The connection of an established association, for C-STORE requests; given back at the end of the block.

    Parameters
    ----------
    timeout_s
        How long an answer is waited for, and how long the peer may take nothing of what is sent.
    """

    def __init__(self, association: Association, timeout_s: float) -> None:
        self._association = association
        self._timeout_s = timeout_s
        self._message_id = 0
        self._largest_pdu = int(association.acceptor.maximum_length or 0)
        room = min(self._largest_pdu or LARGEST_PDU, LARGEST_PDU) - PDV_HEADER_BYTES
        self._room = max(room - room % 2, 2)
        self._connection: socket.socket | None = None
        self._buffer = memoryview(bytearray(0))

    def __enter__(self) -> StoreStream:
        provider: Any = self._association.dul
        provider._standing, provider._returned = threading.Event(), threading.Event()
        provider.__class__ = OnLoan
        while not provider._standing.wait(0.1):
            if not provider.is_alive():
                break
        self._connection = provider.socket.socket if provider.socket is not None else None
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        provider: Any = self._association.dul
        if self._connection is not None:
            with suppress(OSError):  # closed
                self._connection.settimeout(self._timeout_s)
        provider._idle_timer.restart()
        provider._returned.set()

    def store(self, instance: Stored, context_id: int) -> int:
        """As `Stores` says."""
        if self._connection is None:
            raise BrokenError("ended the association at once")
        self._message_id = self._message_id % 0xFFFF + 1
        request = command.store_request(
            instance.sop_class_uid, instance.sop_instance_uid, self._message_id, context_id, self._largest_pdu
        )
        descriptor = os.open(instance.path, os.O_RDONLY)
        try:
            self._send_data_set(self._connection, request, descriptor, instance.offset, context_id)
        finally:
            os.close(descriptor)
        return self._status(self._connection)

    def _send_data_set(
        self, connection: socket.socket, request: bytes, descriptor: int, offset: int, context_id: int
    ) -> None:
        """The command set, then the data set, as many PDUs at a time as the buffer holds."""
        left = max(os.fstat(descriptor).st_size - offset, 0)
        filled = len(request)
        whole = self._room + _HEADERS
        self._make_room(filled + min(left + (left // self._room + 1) * _HEADERS, max(BUFFER_BYTES, whole)))
        buffer = self._buffer
        buffer[:filled] = request
        control = 0
        while not control:
            pieces = []
            while not control and filled + min(left, self._room) + _HEADERS <= len(buffer):
                size = min(left, self._room)
                left -= size
                control = 0 if left else LAST
                _PDU.pack_into(buffer, filled, P_DATA_TF, 0, size + 6, size + 2, context_id, control)
                pieces.append(buffer[filled + _HEADERS : filled + _HEADERS + size])
                filled += size + _HEADERS
            offset += _read_into(descriptor, pieces, offset)
            connection.settimeout(self._timeout_s)  # of each call: a slow peer that takes a little is waited for
            waiting = buffer[:filled]
            while waiting:
                waiting = waiting[connection.send(waiting) :]
            filled = 0

    def _make_room(self, size: int) -> None:
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))

    def _status(self, connection: socket.socket) -> int:
        deadline = time.monotonic() + self._timeout_s
        encoded = bytearray()
        while True:
            kind, length = struct.unpack(">BxI", _exactly(connection, PDU_HEADER_BYTES, deadline))
            if kind != P_DATA_TF:
                raise BrokenError("ended the association in the middle")
            if not PDV_HEADER_BYTES <= length <= LARGEST_ANSWER:
                raise BrokenError("answered a PDU that no answer needs")
            body = _exactly(connection, length, deadline)
            position = 0
            while position + PDV_HEADER_BYTES <= length:
                size, _, control = struct.unpack_from(">IBB", body, position)
                if not 2 <= size <= length - position - 4 or not control & COMMAND:
                    raise BrokenError("answered something else than a response")
                encoded += body[position + PDV_HEADER_BYTES : position + 4 + size]
                position += 4 + size
                if len(encoded) > command.LARGEST_COMMAND:
                    raise BrokenError("answered without end")
                if control & LAST:
                    return self._status_of(encoded)

    def _status_of(self, encoded: bytearray) -> int:
        try:
            status, message_id = command.decode_store_response(encoded)
        except CommandError as error:
            raise BrokenError(f"answered {error}") from error
        if message_id not in (self._message_id, None):
            raise BrokenError("answered another request")
        return status


def _exactly(connection: socket.socket, count: int, deadline: float) -> bytes:
    received = b""
    while len(received) < count:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            more = connection.recv(count - len(received))
        except TimeoutError as error:
            raise NoAnswerError from error
        if not more:
            raise BrokenError("ended the association in the middle")
        received += more
    return received


def _read_into(descriptor: int, pieces: list[memoryview], offset: int) -> int:
    """Fill all pieces from a file at an offset; their bytes.

    Raises
    ------
    OSError
        The file is shorter than it was.
    """
    total = sum(map(len, pieces))
    done = 0
    rest = pieces
    while done < total:
        got = os.preadv(descriptor, rest[:512], offset + done)
        if not got:
            raise OSError("the file has become shorter while it was sent")
        done += got
        while rest and got >= len(rest[0]):
            got -= len(rest[0])
            rest = rest[1:]
        if got:
            rest = [rest[0][got:], *rest[1:]]
    return total
