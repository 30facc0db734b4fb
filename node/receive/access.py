"""Who is let in: networks, calling and called AE titles; and the PDUs that say no (PS3.8 9.3.3, 9.3.4, 9.3.8).

Everything here is plain values: what is asked, what the rules are, what is answered.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from node.settings import Entrance, Receive

ASSOCIATE_RQ = 0x01
PDU_HEADER_BYTES = 6
PROTOCOL_VERSION = 1
SMALLEST_REQUEST = 68
"""Bytes of an A-ASSOCIATE-RQ behind its header, without any item."""
LARGEST_REQUEST = 256 * 1024
"""128 contexts with every transfer syntax that there is need half of it."""
_ITEMS = frozenset({0x10, 0x20, 0x50})
"""Items of a request (PS3.8 9.3.2): application context, presentation context, user information."""
_USER_INFORMATION = 0x50
_USED_OF_IT = frozenset({0x51, 0x52, 0x54})
"""Maximum length, implementation class, role selection: nothing else in the user information decides anything here."""
_CALLED, _CALLING, _TITLE_BYTES, _ITEMS_BEGIN = 10, 26, 16, 74
"""Where things are in a request, from its first byte."""


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 Table 9-21) and, for the ledger, why."""

    kind: str
    result: int
    source: int
    reason: int

    @property
    def pdu(self) -> bytes:
        """The encoded PDU."""
        return struct.pack(">BBIBBBB", 0x03, 0, 4, 0, self.result, self.source, self.reason)


VERSION = Rejection("protocol version is not ours", 1, 2, 2)
CALLED_TITLE = Rejection("called AE title is not ours", 1, 1, 7)
CALLING_TITLE = Rejection("calling AE title is not on the list", 1, 1, 3)
NETWORK = Rejection("address is in none of the networks", 1, 1, 1)
TOO_MANY = Rejection("as many associations as allowed are open", 2, 3, 2)
TOO_MANY_OF_HOST = Rejection("as many associations as one host may have are open", 2, 3, 2)


def abort_pdu(reason: int) -> bytes:
    """An A-ABORT of the service provider; reason 1: unrecognised PDU, 2: unexpected PDU, 6: invalid parameter."""
    return struct.pack(">BBIBBBB", 0x07, 0, 4, 0, 0, 2, reason)


UNRECOGNISED_PDU = abort_pdu(1)
INVALID_PARAMETER = abort_pdu(6)


@dataclass(frozen=True)
class Asked:
    """What an A-ASSOCIATE-RQ says before its items."""

    called: str
    calling: str
    version: int


def asked(request: bytes) -> Asked:
    """Of a whole A-ASSOCIATE-RQ PDU (Table 9-11), the titles without what pads them; undecodable bytes as "?"."""
    called, calling = (_title(request[begin : begin + _TITLE_BYTES]) for begin in (_CALLED, _CALLING))
    return Asked(called, calling, int.from_bytes(request[6:8], "big"))


def essence(request: bytes) -> bytes:
    """A whole A-ASSOCIATE-RQ PDU with only what is looked at here; where its items do not fit, as it is.

    Items of kinds that we do not know, and proposals that we never take up (user identity, extended negotiation,
    asynchronous operations) or that only name the sender's software, must not cost a sender its association, however
    they are spelled. The titles are those that the rules have judged (`asked`).
    """
    try:
        items = b"".join(
            _item(kind, b"".join(_item(*sub) for sub in _items(body) if sub[0] in _USED_OF_IT))
            if kind == _USER_INFORMATION
            else _item(kind, body)
            for kind, body in _items(request[_ITEMS_BEGIN:])
            if kind in _ITEMS
        )
    except ValueError:
        return request
    titles = asked(request)
    fixed = request[PDU_HEADER_BYTES:_CALLED] + b"".join(
        title.encode("ascii").ljust(_TITLE_BYTES) for title in (titles.called, titles.calling)
    )
    fixed += bytes(_ITEMS_BEGIN - PDU_HEADER_BYTES - len(fixed))  # reserved
    return struct.pack(">BBI", ASSOCIATE_RQ, 0, len(fixed) + len(items)) + fixed + items


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each item.

    Raises
    ------
    ValueError
        One of them reaches beyond the end.
    """
    position = 0
    while position < len(encoded):
        begin = position + 4
        position = begin + int.from_bytes(encoded[position + 2 : begin], "big")
        if position > len(encoded):
            raise ValueError("an item that does not fit")
        yield encoded[begin - 4], encoded[begin:position]


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def judge(rules: Entrance, address: str, request: Asked) -> Rejection | None:
    """Whether a request is turned away by the rules of the entrance; the network counts first, then the titles."""
    if rules.networks and not _within(rules, address):
        return NETWORK
    if rules.require_called_ae_title and request.called != rules.ae_title:
        return CALLED_TITLE
    if rules.calling_ae_titles and request.calling not in rules.calling_ae_titles:
        return CALLING_TITLE
    if request.version != PROTOCOL_VERSION:
        return VERSION
    return None


def left_open(receive: Receive) -> list[str]:
    """What is off in the configuration of the listeners, one sentence each: said at start."""
    sentences = []
    for entrance in receive.entrances:
        where = f"{entrance.host}:{entrance.port}"
        if not entrance.calling_ae_titles:
            sentences.append(f"{where}: every calling AE title may send (calling_ae_titles is empty)")
        if not entrance.networks and not _is_loopback(entrance.host):
            sentences.append(f"{where}: senders of every network are let in (networks is empty)")
        if not entrance.require_called_ae_title:
            sentences.append(f"{where}: the called AE title is not checked")
        if entrance.tls is None:
            sentences.append(f"{where}: plain, without TLS")
        elif not entrance.tls.require_client_certificate:
            sentences.append(f"{where}: TLS without a certificate of the sender")
    if receive.max_associations_per_host is None and not all(_is_loopback(e.host) for e in receive.entrances):
        sentences.append(
            f"all listeners: one host may take all {receive.max_associations} associations (max_associations_per_host)"
        )
    return sentences


def host_of(address: str) -> str:
    """An address as it is counted: without zone, and one of IPv4 the same on a socket of IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else str(ip)


def _within(rules: Entrance, address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip.version == network.version and ip in network for network in rules.networks)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _title(field: bytes) -> str:
    """Padded by spaces, or against the standard by zeros."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in field.rstrip(b"\0")).strip()
