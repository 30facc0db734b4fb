"""Peers that associate and then break the protocol: an A-ABORT, an event, and the next client is served."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from tests import peer
from tests.conftest import wait_until
from tests.dicom import write_series
from tests.listening import Ear, listening, resident_mb, threads
from tests.peer import CT, CT_CONTEXT, ECHO_CONTEXT, EXPLICIT, Peer, fragment, p_data

COMMAND = fragment(peer.store_command(), command=True)
ECHO_COMMAND = fragment(peer.echo_command(), command=True, context=ECHO_CONTEXT)
DATA = fragment(b"\x08\0\0\0" + bytes(60), command=False)


def other_command(field: int, *more: tuple[int, bytes], with_data: bool = False) -> bytes:
    """A message of another kind in the CT context."""
    base = ((0x0002, CT.encode()), (0x0110, b"\1\0"))
    return p_data(fragment(peer.command_set(field, *base, *more, with_data=with_data), command=True))


BROKEN = {
    "a PDV longer than its PDU": peer.pdu(4, struct.pack(">IBB", 1000, CT_CONTEXT, 3) + bytes(20)),
    "a PDV of 4 GB": peer.pdu(4, struct.pack(">IBB", 0xFFFFFFFF, CT_CONTEXT, 3) + bytes(20)),
    "a PDV of no byte": peer.pdu(4, struct.pack(">I", 0)),
    "a PDV without its header byte": peer.pdu(4, struct.pack(">IB", 1, CT_CONTEXT)),
    "half a PDV behind a whole one": peer.pdu(4, COMMAND + b"\0\0\0"),
    "the data set before the command": p_data(DATA),
    "the data set twice": p_data(COMMAND, fragment(b"\0\0", command=False, last=False), COMMAND),
    "a second command before the data set": p_data(COMMAND) + p_data(COMMAND),
    "data behind a message that has none": p_data(ECHO_COMMAND, fragment(b"", command=False, context=ECHO_CONTEXT)),
    "a context that was not accepted": p_data(fragment(peer.store_command(), command=True, context=99)),
    "a data set in another context": p_data(COMMAND, fragment(b"\0\0", command=False, context=ECHO_CONTEXT)),
    "a C-STORE in the context of C-ECHO": p_data(fragment(peer.store_command(), command=True, context=ECHO_CONTEXT))
    + p_data(fragment(b"\0\0", command=False, context=ECHO_CONTEXT)),
    "a C-ECHO in the context of images": p_data(fragment(peer.echo_command(), command=True)),
    "a command set that is none": p_data(fragment(b"\xff" * 40, command=True)),
    "a command set of no element": p_data(fragment(b"", command=True)),
    "a command that there is not": other_command(0x7777),
    "a C-FIND": other_command(peer.C_FIND, with_data=True) + p_data(DATA),
    "an N-EVENT-REPORT": other_command(peer.N_EVENT_REPORT),
    "a response to nothing": other_command(0x8001, (0x0120, b"\1\0"), (0x0900, b"\0\0")),
    "a C-STORE without an instance": p_data(fragment(other_command(peer.C_STORE)[12:], command=True)),
    "a second request for an association": peer.request(),
    "an answer to an association": peer.pdu(2, peer.request()[6:]),
    "a release response without a request": peer.pdu(6, bytes(4)),
    "a PDU type that there is not": peer.pdu(0x17, bytes(4)),
    "an empty P-DATA of another type": peer.pdu(0, b""),
    "a PDU longer than negotiated": peer.pdu(4, b"", length=131073),
    "a PDU of 4 GB": peer.pdu(4, b"", length=0xFFFFFFFF),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
"""Of values that break the rules: in the node's own processes nobody hears them, here they would be errors."""


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with listening(tmp_path, network_timeout_s=5.0) as opened:
        yield opened


@pytest.mark.parametrize("name", BROKEN)
def test_who_breaks_the_protocol_is_aborted_and_the_next_is_served(
    ear: Ear, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = threads()
    with Peer(ear.port) as stranger:
        stranger.associate()
        stranger.send(BROKEN[name])
        assert stranger.last().kind in (0, peer.ABORTED)
    wait_until(lambda: ear.guests == 0 and threads() <= before, what="nothing is left of it")
    ear.echo()
    assert ear.receptions == []
    assert ear.events, "the ledger knows"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "request_pdu",
    [
        peer.request(contexts=[(2 * n + 1, CT, (EXPLICIT,)) for n in range(120)] + [(1, CT, (EXPLICIT,))] * 200),
        peer.request(contexts=[(n % 256, CT, (EXPLICIT,)) for n in range(400)]),
        peer.request(contexts=[]),
        peer.request(contexts=[(1, CT, ())]),
        peer.request(contexts=[(1, "1." * 200, (EXPLICIT,))]),
        peer.request(maximum_length=1),
        peer.request(extra=peer.item(0x99, bytes(20))),
        peer.request(extra=b"\x54\0\xff\xff" + bytes(10)),
        peer.request(calling=b"\0" * 16),
        peer.request(calling=b"\xc3\xa4\x1b[31m"),
        peer.pdu(1, peer.request()[6:-3]),
        peer.pdu(1, peer.request()[6:80] + bytes(60)),
    ],
    ids=[
        "hundreds of contexts",
        "contexts with a number twice",
        "no context",
        "no syntax",
        "a UID of 400",
        "answers of one byte",
        "an unknown item",
        "an item longer than the rest",
        "a title of zeros",
        "a title of other characters",
        "a cut-off item",
        "zeros for items",
    ],
)
def test_a_malformed_request_is_an_abort_or_an_answer_and_no_thread(
    ear: Ear, request_pdu: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    before = threads()
    with Peer(ear.port) as stranger:
        answer = stranger.ask(request_pdu)
        assert answer.kind in (peer.ABORTED, peer.REJECTED, peer.ACCEPTED), answer
    wait_until(lambda: ear.guests == 0 and threads() <= before, what="nothing is left of it")
    ear.echo()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize(
    "request_pdu",
    [
        peer.request(extra=peer.item(0x5F, b"new")),
        peer.pdu(1, peer.request()[6:] + peer.item(0x77, b"new")),
        peer.request(extra=peer.item(0x58, b"\x09\0\0\1T\0\0")),
        peer.request(extra=peer.item(0x55, "Größe eins, Version zwei".encode("latin-1"))),
        peer.request(extra=peer.item(0x53, b"\0\0")),
        peer.request(calling=b"SCANNER".ljust(16, b"\0")),
        peer.request(called=b"SPINENODE".ljust(16, b"\0")),
        peer.request(calling="MÜNCHEN".encode("latin-1")),
    ],
    ids=[
        "user information of a kind that is unknown",
        "an item of a kind that is unknown",
        "a user identity of a kind that is unknown",
        "a name of software that is too long and no ASCII",
        "a window of operations without numbers",
        "a calling title padded by zeros",
        "a called title padded by zeros",
        "a calling title of other characters",
    ],
)
def test_what_decides_nothing_costs_no_association(tmp_path: Path, request_pdu: bytes, plain: bool) -> None:
    with listening(tmp_path, plain=plain) as ear, Peer(ear.port) as sender:
        assert sender.ask(request_pdu).kind == peer.ACCEPTED
        sender.send(p_data(COMMAND, DATA))
        assert sender.read().status == 0
        assert sender.ask(peer.RELEASE).kind == peer.RELEASED
        assert len(ear.receptions) == 1
        assert ear.events == []


def test_another_protocol_version_is_rejected_as_such(ear: Ear) -> None:
    with Peer(ear.port) as stranger:
        assert stranger.ask(peer.request(version=2)).rejection == (1, 2, 2)
    wait_until(lambda: ear.guests == 0, what="nothing is left of it")


def test_128_contexts_are_negotiated(ear: Ear) -> None:
    contexts = [(2 * n + 1, CT, (EXPLICIT,)) for n in range(127)] + [(255, "1.2.3", (EXPLICIT,))]
    with Peer(ear.port) as sender:
        sender.associate(contexts=contexts)


def test_requests_without_waiting_for_answers_are_bounded(ear: Ear) -> None:
    """A few may be on their way; a flood is not queued."""
    with Peer(ear.port) as eager:
        eager.associate()
        assert [eager.ask(peer.ECHO).status for _ in range(3)] == [0, 0, 0]
        eager.send(peer.ECHO * 4)
        assert [eager.read().status for _ in range(4)] == [0] * 4
    memory = resident_mb()
    with Peer(ear.port) as flood:
        flood.associate()
        while flood.send(peer.ECHO * 500):
            continue
    wait_until(lambda: ear.guests == 0, what="the flood is over")
    assert "requests without waiting for their answers" in [event["why"] for event in ear.told("peer_refused")]
    assert resident_mb() - memory < 50


def test_a_command_set_without_end_is_not_gathered(ear: Ear) -> None:
    with Peer(ear.port) as stranger:
        stranger.associate()
        part = p_data(fragment(bytes(16000), command=True, last=False))
        while stranger.send(part):
            continue
    wait_until(lambda: ear.told("peer_refused") != [], what="the event")
    assert [event["why"] for event in ear.told("peer_refused")] == ["a command set without end"]


def test_a_message_in_fragments_of_one_byte_is_stored(ear: Ear) -> None:
    content = b"\x08\0\0\0" + bytes(60)
    with Peer(ear.port) as sender:
        sender.associate()
        sender.send(p_data(COMMAND))
        for index in range(len(content)):
            last = index == len(content) - 1
            sender.send(p_data(fragment(content[index : index + 1], command=False, last=last)))
        assert sender.read().status == 0
    assert ear.stored()[0].endswith(content)


def test_two_messages_in_one_pdu_are_both_answered(ear: Ear) -> None:
    """Not what the standard means, and not to be dropped silently either."""
    with Peer(ear.port) as sender:
        sender.associate()
        sender.send(p_data(ECHO_COMMAND, ECHO_COMMAND))
        assert [sender.read().status, sender.read().status] == [0, 0]


def test_a_cancel_of_nothing_is_passed_over(ear: Ear) -> None:
    cancel = peer.command_set(0x0FFF, (0x0120, b"\1\0"), with_data=False)
    with Peer(ear.port) as sender:
        sender.associate()
        sender.send(p_data(fragment(cancel, command=True)))
        assert sender.ask(peer.ECHO).status == 0


def test_the_next_association_after_any_of_these_stores(ear: Ear, tmp_path: Path) -> None:
    """A dozen strangers at once, in the middle of a series."""
    paths = write_series(tmp_path / "in", 6)
    strangers = [Peer(ear.port) for _ in range(12)]
    for stranger, content in zip(strangers, BROKEN.values(), strict=False):
        stranger.send(peer.request())
        stranger.send(content)
    assert {reply.status_code for reply in ear.send(paths)} == {0}
    for stranger in strangers:
        stranger.socket.close()
    assert [dcmread(ear.spool.path(r.spool_name)).InstanceNumber for r in ear.receptions] == [1, 2, 3, 4, 5, 6]
