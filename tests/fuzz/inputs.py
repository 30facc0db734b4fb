"""What is tried: conversations of a scripted peer, and data sets, from nearly right to senseless."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from io import BytesIO
from typing import Any, cast

from hypothesis import strategies as st
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset

from tests import peer
from tests.dicom import ct_slice
from tests.peer import CT, CT_CONTEXT, ECHO_CONTEXT, EXPLICIT, IMPLICIT, VERIFICATION

HOSTILE = [
    b"",
    b" ",
    b"../../../../etc/passwd",
    b"C:\\windows\\system32",
    b"'; DROP TABLE instance; --",
    b"<script>alert(1)</script>",
    b"\x1b[2J\x1b[31m",
    b"${jndi:ldap://x/y}",
    b"%s%n%x",
    b"\0\0\0\0",
    b"\xff\xfe\xfd",
    "Müller^Jörg=山田^太郎".encode(),
    b"\x1b$B;3ED\x1b(B",
    b"1.2.3.4.5",
    b"9" * 65,
    b"A" * 65536,
    b"\\" * 300,
    b"\r\n\r\n",
]
hostile = st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=80))
lengths = st.sampled_from([0, 1, 2, 3, 4, 5, 67, 0xFFFF, 2**17, 2**17 + 1, 2**31 - 1, 2**31, 2**32 - 1])
contexts_ids = st.sampled_from([CT_CONTEXT, ECHO_CONTEXT, 0, 2, 5, 255])


@cache
def slice_bytes(number: int = 0) -> bytes:
    """A CT slice in Explicit VR Little Endian, as it travels."""
    buffer = DicomIO(cast(Any, BytesIO()))
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ct_slice(number))
    return cast(BytesIO, buffer.parent).getvalue()


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with some replaced, cut out, put in or cut off."""
    raw = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        kind = draw(st.sampled_from(["replace", "remove", "insert", "length"]))
        if kind == "replace":
            raw[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "remove":
            del raw[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            raw[at:at] = draw(hostile)[:2000]
        else:
            raw[at : at + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", draw(lengths))
    if draw(st.booleans()):
        del raw[draw(st.integers(0, len(raw))) :]
    return bytes(raw)


# Data sets --------------------------------------------------------------------------------------------------------

VRS = [b"UI", b"PN", b"LO", b"DA", b"DS", b"IS", b"US", b"SQ", b"UN", b"OB", b"OW", b"UT", b"FD", b"AT", b"ZZ", b"\0\0"]
TAGS = [
    (0x0008, 0x0005),
    (0x0008, 0x0016),
    (0x0008, 0x0018),
    (0x0008, 0x0020),
    (0x0008, 0x0060),
    (0x0010, 0x0010),
    (0x0010, 0x0020),
    (0x0018, 0x0050),
    (0x0020, 0x000D),
    (0x0020, 0x000E),
    (0x0020, 0x0032),
    (0x0028, 0x0010),
    (0x0028, 0x0011),
    (0x0028, 0x0100),
    (0x5200, 0x9230),
    (0x7FE0, 0x0010),
    (0xFFFE, 0xE000),
    (0xFFFE, 0xE00D),
    (0xFFFC, 0xFFFC),
    (0x0009, 0x0010),
    (0x0000, 0x0100),
    (0x0002, 0x0010),
]
_LONG = (b"OB", b"OW", b"UN", b"UT", b"SQ")


def explicit(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """A data element in Explicit VR Little Endian; ``length`` lies about its value where it is given."""
    size = len(value) if length is None else length
    if vr in _LONG:
        return struct.pack("<HH2sHI", group, number, vr, 0, size & 0xFFFFFFFF) + value
    return struct.pack("<HH2sH", group, number, vr, size & 0xFFFF) + value


@st.composite
def elements(draw: st.DrawFn) -> bytes:
    """Some elements, of any tag, VR, value and length."""
    found = b""
    for _ in range(draw(st.integers(0, 6))):
        group, number = draw(st.sampled_from(TAGS))
        value = draw(hostile)
        lie = draw(st.one_of(st.none(), st.none(), lengths))
        found += explicit(group, number, draw(st.sampled_from(VRS)), value, lie)
    return found


@st.composite
def nested(draw: st.DrawFn) -> bytes:
    """Sequences in sequences, closed or not."""
    depth = draw(st.sampled_from([1, 5, 60, 400, 1500, 5000]))
    begin = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return begin * depth + draw(hostile)[:200] + end * draw(st.sampled_from([0, depth - 1, depth]))


@st.composite
def with_other_pixels(draw: st.DrawFn) -> bytes:
    """A slice whose pixel data are shorter or longer than its matrix, or whose matrix is another."""
    content = slice_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW")
    rows = draw(st.sampled_from([0, 1, 16, 17, 512, 65535]))
    head = content[:at].replace(
        b"\x28\x00\x10\x00US\x02\x00\x10\x00", explicit(0x28, 0x10, b"US", struct.pack("<H", rows))
    )
    pixels = draw(st.sampled_from([b"", b"\0", bytes(511), bytes(512), bytes(513), bytes(100_000)]))
    return head + explicit(
        0x7FE0, 0x10, draw(st.sampled_from([b"OW", b"OB", b"UN", b"SQ"])), pixels, draw(st.none() | lengths)
    )


@st.composite
def deflated(draw: st.DrawFn) -> bytes:
    """Deflated data sets: whole, cut off, altered, or much of nothing."""
    inner = draw(st.one_of(st.just(slice_bytes()), elements(), st.just(bytes(1 << 22))))
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return draw(mutated(stream.compress(inner) + stream.flush()))


data_sets = st.one_of(
    mutated(slice_bytes()),
    elements(),
    st.builds(lambda more: slice_bytes()[:600] + more, elements()),
    st.builds(lambda more: more + slice_bytes(), elements()),
    nested(),
    st.builds(lambda more: slice_bytes() + more, nested()),
    with_other_pixels(),
    deflated(),
)
syntaxes = st.sampled_from(
    [
        EXPLICIT,
        EXPLICIT,
        IMPLICIT,
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.5",
    ]
)

# Conversations ----------------------------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Requests for an association, many of them good."""
    titles = st.one_of(st.just("SPINENODE"), hostile.map(lambda raw: raw[:16]))
    proposed = draw(
        st.lists(
            st.tuples(
                st.integers(0, 255),
                st.sampled_from([CT, VERIFICATION, "1.2.3", "", "1." * 60]),
                st.lists(st.sampled_from([EXPLICIT, IMPLICIT, "1.2.3"]), max_size=3).map(tuple),
            ),
            max_size=6,
        )
    )
    extra = draw(
        st.one_of(st.just(b""), st.builds(peer.item, st.integers(0, 255), hostile.map(lambda raw: raw[:3000])))
    )
    whole = peer.request(
        called=draw(titles),
        calling=draw(titles),
        contexts=draw(st.one_of(st.just(peer.CONTEXTS), st.just(proposed))),
        maximum_length=draw(st.sampled_from([0, 1, 7, 63, 64, 1000, 16384, 2**32 - 1])),
        extra=extra,
        version=draw(st.sampled_from([0, 1, 1, 1, 3, 0xFFFF])),
    )
    return draw(st.one_of(st.just(whole), mutated(whole)))


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    """Command sets of any field, with elements of any value."""
    field = draw(st.sampled_from([1, 1, 0x30, 0x20, 0x10, 0x21, 0x100, 0x110, 0x140, 0xFFF, 0x8001, 0x8030, 0x7777]))
    more = draw(
        st.lists(
            st.tuples(
                st.sampled_from(
                    [0x0000, 0x0002, 0x0003, 0x0100, 0x0110, 0x0120, 0x0600, 0x0700, 0x0800, 0x0900, 0x1000]
                ),
                st.one_of(hostile, st.just(CT.encode()), st.just(VERIFICATION.encode()), st.just(b"\1\0")),
            ),
            max_size=6,
        )
    )
    good = {0x0002: CT.encode(), 0x0110: b"\1\0", 0x1000: b"1.2.3"}
    chosen = {**(good if draw(st.booleans()) else {}), **dict(more)}
    chosen = {number: value for number, value in chosen.items() if number != 0}
    whole = peer.command_set(field, *chosen.items(), with_data=draw(st.booleans()))
    return draw(st.one_of(st.just(whole), mutated(whole)))


@st.composite
def fragments(draw: st.DrawFn) -> bytes:
    """One PDV, command or data, with a length that may lie."""
    content = draw(st.one_of(commands(), data_sets.map(lambda raw: raw[:40_000]), st.just(peer.store_command())))
    whole = peer.fragment(content, command=draw(st.booleans()), last=draw(st.booleans()), context=draw(contexts_ids))
    lie = draw(st.one_of(st.none(), st.none(), st.none(), lengths))
    return whole if lie is None else struct.pack(">I", lie) + whole[4:]


steps = st.one_of(
    st.lists(fragments(), min_size=1, max_size=3).map(lambda found: peer.p_data(*found)),
    st.builds(lambda content: peer.store(content[:60_000]), data_sets),
    st.builds(lambda content, uid: peer.store(content[:60_000], uid), data_sets, hostile),
    st.just(peer.ECHO),
    st.just(peer.RELEASE),
    st.just(peer.ABORT),
    requests(),
    st.builds(peer.pdu, st.integers(0, 255), hostile, st.none() | lengths),
    hostile,
)
conversations = st.tuples(
    st.one_of(st.just(peer.request(maximum_length=0)), st.just(peer.request()), requests(), hostile),
    st.lists(steps, max_size=5),
    st.integers(0, 1),
)
"""(first bytes, what follows them, how it ends: 0 waits for the other side, 1 hangs up at once)."""
