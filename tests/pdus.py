"""A raw sender: PDUs built byte by byte (PS3.8 9.3, PS3.7 6.3), well formed or not, over a bare socket.

The benchmark sends with it, since nothing is slower in it than the receiver; tests send with it what no library would.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.sop_class import Verification

CT, ECHO = 1, 3
"""Presentation contexts that :func:`associate` proposes."""
COMMAND, LAST = 1, 2
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 3, 4, 5, 6, 7
RELEASE = struct.pack(">BBII", RELEASE_RQ, 0, 4, 0)
A_ABORT = struct.pack(">BBII", ABORT, 0, 4, 0)


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_request(called: str = "SPINENODE", calling: str = "RAW", syntax: str = ExplicitVRLittleEndian) -> bytes:
    """An A-ASSOCIATE-RQ for CT images (context 1) and verification (context 3)."""
    contexts = b"".join(
        _item(0x20, bytes([number, 0, 0, 0]) + _item(0x30, abstract.encode()) + _item(0x40, syntax.encode()))
        for number, abstract in ((CT, CTImageStorage), (ECHO, Verification))
    )
    user = _item(0x50, _item(0x51, struct.pack(">I", 0)) + _item(0x52, b"1.2.3.4"))
    body = (
        struct.pack(">HH", 1, 0)
        + called.ljust(16).encode()
        + calling.ljust(16).encode()
        + b"\0" * 32
        + _item(0x10, b"1.2.840.10008.3.1.1.1")
        + contexts
        + user
    )
    return struct.pack(">BBI", 1, 0, len(body)) + body


def pdv(content: bytes, control: int, context: int = CT) -> bytes:
    """A fragment with its header."""
    return struct.pack(">IBB", len(content) + 2, context, control) + content


def p_data(*fragments: bytes) -> bytes:
    """A P-DATA-TF."""
    body = b"".join(fragments)
    return struct.pack(">BBI", P_DATA, 0, len(body)) + body


def _element(number: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


def command_set(field: int, elements: Iterable[tuple[int, bytes]], with_data: bool) -> bytes:
    """A command set in Implicit VR Little Endian."""
    values = {0x0100: struct.pack("<H", field), 0x0800: struct.pack("<H", 0 if with_data else 0x0101), **dict(elements)}
    body = b"".join(_element(number, value) for number, value in sorted(values.items()))
    return _element(0, struct.pack("<I", len(body))) + body


def store_command(instance_uid: str, message_id: int = 1, sop_class: str = CTImageStorage) -> bytes:
    """The command set of a C-STORE-RQ."""
    elements = (
        (0x0002, sop_class.encode()),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, b"\0\0"),
        (0x1000, instance_uid.encode("latin-1")),
    )
    return command_set(0x0001, elements, with_data=True)


def echo_command(message_id: int = 1) -> bytes:
    """The command set of a C-ECHO-RQ."""
    return command_set(0x0030, ((0x0002, Verification.encode()), (0x0110, struct.pack("<H", message_id))), False)


def data_pdus(data_set: bytes, most: int = 131072) -> bytes:
    """A data set in PDUs whose bodies have at most so many bytes."""
    room = most - 6
    starts = range(0, max(len(data_set), 1), room)
    return b"".join(
        p_data(pdv(data_set[start : start + room], LAST if start + room >= len(data_set) else 0)) for start in starts
    )


def store(instance_uid: str, data_set: bytes, message_id: int = 1, most: int = 131072) -> bytes:
    """A whole C-STORE-RQ."""
    return p_data(pdv(store_command(instance_uid, message_id), COMMAND | LAST)) + data_pdus(data_set, most)


class RawSender:
    """A connection and, after :meth:`associate`, an association."""

    def __init__(self, port: int, timeout_s: float = 20.0, connection: socket.socket | None = None) -> None:
        self.socket = connection or socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.settimeout(timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def __enter__(self) -> RawSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def associate(self, called: str = "SPINENODE", calling: str = "RAW", syntax: str = ExplicitVRLittleEndian) -> None:
        """Ask for an association, which has to be granted."""
        self.socket.sendall(associate_request(called, calling, syntax))
        kind, _ = self.read()
        assert kind == ASSOCIATE_AC, kind

    def send(self, *pdus: bytes) -> None:
        """Send bytes as they are."""
        for pdu in pdus:
            self.socket.sendall(pdu)

    def read(self) -> tuple[int, bytes]:
        """Type and body of the next PDU; type 0 where the other side has hung up."""
        header = self._exactly(6)
        if len(header) < 6:
            return 0, b""
        return header[0], self._exactly(int.from_bytes(header[2:6], "big"))

    def status(self) -> int:
        """The status of the next response."""
        kind, body = self.read()
        assert kind == P_DATA, kind
        at = body.index(struct.pack("<HHI", 0, 0x0900, 2))
        return int.from_bytes(body[at + 8 : at + 10], "little")

    def store_all(self, requests: Sequence[bytes]) -> list[int]:
        """Send prepared C-STORE requests one after the other, each after the answer to the one before."""
        statuses = []
        for request in requests:
            self.socket.sendall(request)
            statuses.append(self.status())
        return statuses

    def release(self) -> int:
        """End the association in order; the type of the PDU that answers."""
        self.socket.sendall(RELEASE)
        return self.read()[0]

    def _exactly(self, count: int) -> bytes:
        while len(self.received) < count:
            try:
                chunk = self.socket.recv(1 << 16)
            except ConnectionError:
                chunk = b""
            if not chunk:
                break
            self.received += chunk
        taken, self.received = self.received[:count], self.received[count:]
        return taken
