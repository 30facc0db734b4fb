"""Command sets as the fast paths need them (PS3.7 6.3.1, 9.3.1): C-STORE requests and responses, told from the rest.

A command set is always Implicit VR Little Endian, of group 0000 alone; what is not a C-STORE request with a data set
is left to pynetdicom.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

C_STORE_RQ = 0x0001
C_STORE_RSP = 0x8001
DATA_SET, NO_DATA_SET = 0x0001, 0x0101
LOW_PRIORITY = 0x0002
LARGEST_COMMAND = 64 * 1024
"""Bytes of a command set: many times what a UID of any length seen in the field needs."""
COMMAND, LAST = 1, 2
"""Bits of a message control header (PS3.8 E.2)."""
P_DATA_TF = 0x04
PDU_HEADER_BYTES = 6
PDV_HEADER_BYTES = 6
"""Length of the item, presentation context, message control header (PS3.8 9.3.5.1)."""
_LONGEST_ECHOED_UID = 64
_ELEMENT, _GROUP_LENGTH = struct.Struct("<HHI"), struct.Struct("<HHII")
_DATA_PDU = struct.Struct(">BBIIBB")
_RESPONSE = _REQUEST = struct.Struct("<" + 4 * "HHIH")


class CommandError(Exception):
    """A command set that cannot be understood; the message says why, in words of ours only."""


class Command(NamedTuple):
    """What stands in a command set, as far as it is looked at."""

    field: int
    message_id: int | None
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool

    @property
    def is_store_request(self) -> bool:
        """Whether this is a C-STORE-RQ whose data set follows."""
        return self.field == C_STORE_RQ and self.has_data_set


def decode(encoded: bytes | bytearray) -> Command:
    """Decode a command set.

    Raises
    ------
    CommandError
        An element reaches beyond the end, is of another group, or a mandatory one is missing.
    """
    values = _elements(encoded)
    field, data_set = _short(values, 0x0100), _short(values, 0x0800)
    if field is None or data_set is None:
        raise CommandError("a command set without its command field or data set type")
    return Command(
        field=field,
        message_id=_short(values, 0x0110),
        sop_class_uid=_uid(values, 0x0002),
        sop_instance_uid=_uid(values, 0x1000),
        has_data_set=data_set != NO_DATA_SET,
    )


def decode_store_response(encoded: bytes | bytearray) -> tuple[int, int | None]:
    """Status of a C-STORE-RSP, and the message id that it responds to.

    Raises
    ------
    CommandError
        As in :func:`decode`, or this is no such response.
    """
    values = _elements(encoded)
    status = _short(values, 0x0900)
    if _short(values, 0x0100) != C_STORE_RSP or status is None:
        raise CommandError("a command set that is no C-STORE response")
    return status, _short(values, 0x0120)


def _elements(encoded: bytes | bytearray) -> dict[int, bytes | bytearray]:
    values: dict[int, bytes | bytearray] = {}
    position, end, unpack = 0, len(encoded), _ELEMENT.unpack_from
    while position < end:
        if end - position < 8:
            raise CommandError("a command set that ends in an element's header")
        group, number, length = unpack(encoded, position)
        position += 8
        if group != 0:
            raise CommandError("a command set with an element of another group")
        if length > end - position:
            raise CommandError("a command set with an element longer than itself")
        values[number] = encoded[position : position + length]
        position += length
    return values


def _short(values: dict[int, bytes | bytearray], number: int) -> int | None:
    raw = values.get(number, b"")
    return int.from_bytes(raw[:2], "little") if len(raw) >= 2 else None


def _uid(values: dict[int, bytes | bytearray], number: int) -> str:
    return values.get(number, b"").rstrip(b"\0 ").decode("latin-1")


def store_request(
    sop_class_uid: str, sop_instance_uid: str, message_id: int, context_id: int, largest_pdu: int
) -> bytes:
    """The P-DATA-TF PDUs of the command set of a C-STORE-RQ of low priority; its data set is to follow.

    Parameters
    ----------
    largest_pdu
        As in :func:`store_response`.
    """
    short_values = _REQUEST.pack(
        *(0, 0x0100, 2, C_STORE_RQ),
        *(0, 0x0110, 2, message_id),
        *(0, 0x0700, 2, LOW_PRIORITY),
        *(0, 0x0800, 2, DATA_SET),
    )
    rest = _uid_element(0x0002, sop_class_uid) + short_values + _uid_element(0x1000, sop_instance_uid)
    return command_pdus(_GROUP_LENGTH.pack(0, 0, 4, len(rest)) + rest, context_id, largest_pdu)


def store_response(request: Command, status: int, context_id: int, largest_pdu: int) -> bytes:
    """The P-DATA-TF PDUs of a C-STORE-RSP.

    Parameters
    ----------
    largest_pdu
        Bytes that the peer takes in one PDU; 0: any number (PS3.8 D.1).
    """
    sop_class = _echoed_class(request.sop_class_uid)
    sop_instance = _echoed(0x1000, request.sop_instance_uid)
    short_values = _RESPONSE.pack(
        *(0, 0x0100, 2, C_STORE_RSP),
        *(0, 0x0120, 2, request.message_id or 0),
        *(0, 0x0800, 2, NO_DATA_SET),
        *(0, 0x0900, 2, status),
    )
    rest = sop_class + short_values + sop_instance
    return command_pdus(_GROUP_LENGTH.pack(0, 0, 4, len(rest)) + rest, context_id, largest_pdu)


def _echoed(number: int, uid: str) -> bytes:
    """A UID of the request; one that breaks the rules is not repeated (both are optional in a response)."""
    if not 0 < len(uid) <= _LONGEST_ECHOED_UID:
        return b""
    return _uid_element(number, uid)


@lru_cache(maxsize=256)
def _echoed_class(uid: str) -> bytes:
    return _echoed(0x0002, uid)


def _uid_element(number: int, uid: str) -> bytes:
    raw = uid.encode("latin-1")
    raw += b"\0" * (len(raw) % 2)
    return _ELEMENT.pack(0, number, len(raw)) + raw


def command_pdus(encoded: bytes, context_id: int, largest_pdu: int) -> bytes:
    """A whole command set in as few P-DATA-TF PDUs as the peer takes."""
    room = largest_pdu - PDV_HEADER_BYTES if largest_pdu else len(encoded)
    room = max(room - room % 2, 2)
    if len(encoded) <= room:
        return data_pdu(context_id, COMMAND | LAST, encoded)
    pdus = b""
    for start in range(0, len(encoded), room):
        part = encoded[start : start + room]
        control = COMMAND | (LAST if start + room >= len(encoded) else 0)
        pdus += data_pdu(context_id, control, part)
    return pdus


def data_pdu(context_id: int, control: int, content: bytes | bytearray) -> bytes:
    """A P-DATA-TF PDU with one fragment (PS3.8 9.3.5)."""
    return _DATA_PDU.pack(P_DATA_TF, 0, len(content) + 6, len(content) + 2, context_id, control) + content
