"""A scripted peer: builds PDUs byte by byte (PS3.8 9.3), well formed or not, and says what came back."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
APPLICATION = "1.2.840.10008.3.1.1.1"
C_STORE, C_ECHO, C_FIND, N_EVENT_REPORT = 0x0001, 0x0030, 0x0020, 0x0100
ACCEPTED, REJECTED, DATA, RELEASED, ABORTED = 2, 3, 4, 6, 7
CT_CONTEXT, ECHO_CONTEXT = 1, 3
CONTEXTS = ((CT_CONTEXT, CT, (EXPLICIT,)), (ECHO_CONTEXT, VERIFICATION, (IMPLICIT,)))

Context = tuple[int, str, tuple[str, ...]]


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU; ``length`` lies about its body where it is given."""
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def item(kind: int, body: bytes) -> bytes:
    """An item or sub-item of a request."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def title(text: str | bytes) -> bytes:
    """An AE title as it travels: 16 bytes."""
    raw = text if isinstance(text, bytes) else text.encode("ascii")
    return raw.ljust(16)[:16]


def request(
    called: str | bytes = "SPINENODE",
    calling: str | bytes = "SCANNER",
    contexts: Iterable[Context] = CONTEXTS,
    maximum_length: int = 16384,
    extra: bytes = b"",
    version: int = 1,
) -> bytes:
    """An A-ASSOCIATE-RQ."""
    proposed = b"".join(
        item(0x20, bytes([number, 0, 0, 0]) + item(0x30, abstract.encode()) + _syntaxes(syntaxes))
        for number, abstract, syntaxes in contexts
    )
    user = item(0x50, item(0x51, struct.pack(">I", maximum_length)) + item(0x52, b"1.2.3.4") + extra)
    fixed = struct.pack(">HH", version, 0) + title(called) + title(calling) + b"\0" * 32
    return pdu(1, fixed + item(0x10, APPLICATION.encode()) + proposed + user)


def _syntaxes(syntaxes: Iterable[str]) -> bytes:
    return b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)


def fragment(content: bytes, *, command: bool, last: bool = True, context: int = CT_CONTEXT) -> bytes:
    """A PDV: one fragment of a message."""
    return struct.pack(">IBB", len(content) + 2, context, command | last << 1) + content


def p_data(*fragments: bytes) -> bytes:
    """A P-DATA-TF."""
    return pdu(4, b"".join(fragments))


RELEASE = pdu(5, b"\0" * 4)
ABORT = pdu(7, b"\0" * 4)


def element(number: int, value: bytes, group: int = 0) -> bytes:
    """A data element in Implicit VR Little Endian, padded to even length."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value)) + value


def command_set(field: int, *more: tuple[int, bytes], with_data: bool) -> bytes:
    """A command set (PS3.7 6.3.1): the group length, the command field, ``more``, the data set type."""
    rest = {0x0100: struct.pack("<H", field), 0x0800: struct.pack("<H", 1 if with_data else 0x0101)}
    rest.update(dict(more))
    body = b"".join(element(number, value) for number, value in sorted(rest.items()))
    return element(0, struct.pack("<I", len(body))) + body


def store_command(instance_uid: bytes = b"1.2.3.4.5", sop_class: str = CT, message_id: int = 1) -> bytes:
    """The command set of a C-STORE-RQ."""
    return command_set(
        C_STORE,
        (0x0002, sop_class.encode()),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, b"\0\0"),
        (0x1000, instance_uid),
        with_data=True,
    )


def echo_command(message_id: int = 1) -> bytes:
    """The command set of a C-ECHO-RQ."""
    more = ((0x0002, VERIFICATION.encode()), (0x0110, struct.pack("<H", message_id)))
    return command_set(C_ECHO, *more, with_data=False)


def store(data_set: bytes, instance_uid: bytes = b"1.2.3.4.5", message_id: int = 1) -> bytes:
    """A whole C-STORE-RQ, command and data set each in a PDU of its own."""
    return p_data(fragment(store_command(instance_uid, message_id=message_id), command=True)) + p_data(
        fragment(data_set, command=False)
    )


ECHO = p_data(fragment(echo_command(), command=True, context=ECHO_CONTEXT))


@dataclass(frozen=True)
class Pdu:
    """What came back. ``kind`` 0: the connection was closed."""

    kind: int
    body: bytes = b""

    @property
    def rejection(self) -> tuple[int, int, int]:
        """Result, source and reason of an A-ASSOCIATE-RJ."""
        assert self.kind == REJECTED, self
        return self.body[1], self.body[2], self.body[3]

    @property
    def status(self) -> int:
        """The DIMSE status in a response's command set."""
        assert self.kind == DATA, self
        at = self.body.index(struct.pack("<HHI", 0, 0x0900, 2))
        return int(struct.unpack_from("<H", self.body, at + 8)[0])


class Peer:
    """A connection that sends bytes and reads PDUs."""

    def __init__(self, port: int, timeout_s: float = 20.0, connection: socket.socket | None = None) -> None:
        self.socket = connection or socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.settimeout(timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, content: bytes) -> bool:
        """Send everything; whether the other side was still there to take it."""
        try:
            self.socket.sendall(content)
        except OSError:
            return False
        return True

    def read(self) -> Pdu:
        """The next PDU; kind 0 where there is none any more."""
        header = self._exactly(6)
        if len(header) < 6:
            return Pdu(0)
        return Pdu(header[0], self._exactly(int.from_bytes(header[2:6], "big")))

    def _exactly(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            try:
                chunk = self.socket.recv(count - len(received))
            except ConnectionError:
                return received
            if not chunk:
                return received
            received += chunk
        return received

    def ask(self, content: bytes) -> Pdu:
        """Send, then read one PDU."""
        self.send(content)
        return self.read()

    def associate(self, **what: object) -> Pdu:
        """Ask for an association, which is expected to be granted."""
        answer = self.ask(request(**what))  # type: ignore[arg-type]
        assert answer.kind == ACCEPTED, answer
        return answer

    def last(self) -> Pdu:
        """Read until the other side hangs up; the last PDU that it sent (kind 0: none)."""
        last = Pdu(0)
        while (found := self.read()).kind:
            last = found
        return last
