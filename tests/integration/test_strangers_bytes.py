"""Strangers that speak no DICOM, or too slowly, or too much at once: a socket for a while, no thread, no memory."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import peer
from tests.conftest import wait_until
from tests.listening import Certificates, Ear, descriptors, listening, resident_mb, threads
from tests.peer import Peer

TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))

SENSELESS = {
    "garbage": b"\xde\xad\xbe\xef" * 64,
    "zeros": bytes(1000),
    "http": b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS on the plain port": TLS_HELLO,
    "a request of 4 GB": struct.pack(">BBI", 1, 0, 0xFFFFFFFF) + bytes(100),
    "a request of no byte": struct.pack(">BBI", 1, 0, 0),
    "a request of 67 bytes": peer.pdu(1, bytes(67)),
    "a request longer than the longest": struct.pack(">BBI", 1, 0, 256 * 1024 + 1),
    "P-DATA of 1 GB before any association": struct.pack(">BBI", 4, 0, 2**30) + bytes(100),
    "P-DATA first": peer.ECHO,
    "an answer first": peer.pdu(2, bytes(68)),
    "a release first": peer.RELEASE,
    "an abort first": peer.ABORT,
    "a PDU type that there is not": peer.pdu(0x17, bytes(4)),
}


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with listening(tmp_path, network_timeout_s=2.0) as opened:
        yield opened


@pytest.mark.parametrize("name", SENSELESS)
def test_what_is_no_request_is_answered_by_an_abort_and_hung_up_on(ear: Ear, name: str) -> None:
    before = threads()
    with Peer(ear.port) as stranger:
        answer = stranger.ask(SENSELESS[name])
        assert (answer.kind, answer.body) == (peer.ABORTED, b"\0\0\2\1")
        assert threads() <= before, "no thread was made for it"
        ear.echo()
        assert stranger.read().kind == 0, "hung up"
    (event,) = ear.told("no_dicom")
    assert event["from"] == "127.0.0.1"


def test_a_request_of_50_mb_is_not_taken(ear: Ear) -> None:
    """All of it is sent, not only announced: it ends with its header, and nothing of it is kept."""
    memory = resident_mb()
    with Peer(ear.port) as stranger:
        stranger.send(struct.pack(">BBI", 1, 0, 50 * 2**20))
        sent = 0
        while sent < 50 * 2**20 and stranger.send(bytes(2**20)):
            sent += 2**20
        assert sent < 50 * 2**20, "it is hung up on"
    assert resident_mb() - memory < 10
    assert len(ear.told("no_dicom")) == 1
    ear.echo()


def test_the_kind_of_stranger_is_told(ear: Ear) -> None:
    for name in ("http", "TLS on the plain port"):
        ear.listener._notices._told.clear()
        with Peer(ear.port) as stranger:
            stranger.ask(SENSELESS[name])
    assert [event["reason"] for event in ear.told("no_dicom")] == ["HTTP", "TLS where none is spoken"]


def test_every_truncation_of_a_valid_association_leaves_nothing(ear: Ear) -> None:
    """Cut at each byte of the request's header, at some of its body, and at bytes of what follows."""
    conversation = peer.request() + peer.store(b"\x08\0\0\0" + bytes(60)) + peer.RELEASE
    cuts = [*range(80), *random.Random(6).sample(range(80, len(conversation)), 60)]
    before, files = threads(), descriptors()
    for cut in cuts:
        with Peer(ear.port) as stranger:
            stranger.send(conversation[:cut])
    wait_until(lambda: ear.waiting == 0 and ear.guests == 0, what="everybody is gone")
    wait_until(lambda: threads() <= before and descriptors() <= files, what="no thread and no descriptor is left")
    ear.echo()
    assert len(ear.receptions) <= len(cuts)
    assert all(name in {r.spool_name for r in ear.receptions} for name in ear.spool.names())


@pytest.mark.parametrize("sent", [b"", b"\x01\x00\x00", peer.request()[:100]], ids=["nothing", "header", "body"])
def test_half_a_request_is_waited_for_within_its_time_and_no_longer(ear: Ear, sent: bytes) -> None:
    with Peer(ear.port) as stranger:
        stranger.send(sent)
        wait_until(lambda: ear.waiting == 1, what="it waits")
        ear.echo()
        assert stranger.read().kind == 0
    assert [event["bytes"] for event in ear.told("no_request_in_time")] == [len(sent)]


def test_a_request_that_drips_has_one_deadline_for_all_of_it(ear: Ear) -> None:
    """Each byte alone would be in time: the request as a whole is not."""
    with Peer(ear.port, timeout_s=0.2) as stranger:
        for byte in peer.request():
            if not stranger.send(bytes([byte])):
                break
            try:
                if not stranger.socket.recv(1):
                    break
            except TimeoutError:
                continue
        else:
            pytest.fail("the whole request was taken")
    assert ear.told("no_request_in_time")


@pytest.mark.parametrize("name", ["stalls in mid-PDU", "drips"])
def test_a_peer_that_stalls_in_mid_pdu_loses_its_place(ear: Ear, name: str) -> None:
    """One deadline for a PDU, however many bytes of it come."""
    with Peer(ear.port, timeout_s=0.3) as stranger:
        stranger.associate()
        stranger.send(peer.pdu(4, b"\0\0\x10\0\x01", length=0x1004))
        for _ in range(60):
            try:
                if not stranger.socket.recv(1):
                    break
            except TimeoutError:
                if name == "drips" and not stranger.send(b"\1"):  # a command set without end
                    break
            except ConnectionError:
                break
        else:
            pytest.fail("it kept its place")
        ear.echo()
    wait_until(lambda: ear.guests == 0, what="its place is free")
    assert [event["why"] for event in ear.told("peer_refused")] == ["a PDU that does not arrive in time"]


def test_five_hundred_connections_keep_nobody_out(ear: Ear) -> None:
    before, files, memory = threads(), descriptors(), resident_mb()
    crowd = [socket.create_connection(("127.0.0.1", ear.port), timeout=20) for _ in range(250)]
    try:
        for index, one in enumerate(crowd):  # a third is silent, a third begins, a third speaks something else
            if index % 3:
                one.sendall(b"\x01\x00\x00" if index % 3 == 1 else b"GET / HTTP/1.1\r\n\r\n")
        crowd += [socket.create_connection(("127.0.0.1", ear.port), timeout=20) for _ in range(250)]
        ear.echo()
        assert ear.waiting <= 200
        wait_until(lambda: threads() <= before, what="no thread was made for any of them")
        assert descriptors() - files <= 500 + 200 + 20
        assert resident_mb() - memory < 50
    finally:
        for one in crowd:
            one.close()
    wait_until(lambda: ear.waiting == 0, what="the crowd is gone")
    wait_until(lambda: descriptors() <= files, what="all descriptors are given back")
    assert len(ear.events) < 10, "a crowd is a few events"


def test_fifty_associations_at_once_and_one_more(tmp_path: Path) -> None:
    before = threads()
    with listening(tmp_path, max_associations=50) as ear:
        guests = [Peer(ear.port) for _ in range(50)]
        try:
            for guest in guests:
                guest.associate()
            with Peer(ear.port) as late:
                assert late.ask(peer.request()).rejection == (2, 3, 2), "transient, local limit exceeded"
            assert all(guest.ask(peer.ECHO).status == 0 for guest in guests)
            guests[0].send(peer.RELEASE)
            assert guests[0].read().kind == peer.RELEASED
            wait_until(lambda: ear.guests == 49, what="one has left")
            ear.echo()
        finally:
            for guest in guests:
                guest.socket.close()
        wait_until(lambda: ear.guests == 0, what="all have left")
    wait_until(lambda: threads() <= before, what="no thread is left")


def test_the_limit_holds_for_all_entrances_together(tmp_path: Path) -> None:
    with listening(tmp_path, max_associations=2, listeners=[{"port": 0, "ae_title": "OTHER"}]) as ear:
        first, second = ear.listener.ports
        with Peer(first) as one, Peer(second) as other, Peer(second) as late:
            one.associate()
            other.associate(called="OTHER")
            assert late.ask(peer.request(called="OTHER")).rejection == (2, 3, 2)


def test_after_a_rejection_it_is_waited_for_the_peer_to_hang_up_and_not_listened_to(ear: Ear) -> None:
    with Peer(ear.port) as stranger:
        assert stranger.ask(peer.request(called="OTHER")).rejection == (1, 1, 7)
        while stranger.send(bytes(100_000)):
            continue
    wait_until(lambda: ear.waiting == 0, what="it was hung up on")
    ear.echo()


@pytest.mark.parametrize(
    "sent",
    [b"", peer.request(), b"GET / HTTP/1.1\r\n\r\n", TLS_HELLO[:20]],
    ids=["silence", "a plain request", "http", "half a hand-shake"],
)
def test_plain_on_the_tls_port_harms_nobody(tmp_path: Path, certificates: Certificates, sent: bytes) -> None:
    """Silence, a plain request, HTTP, half a hand-shake: one deadline, and meanwhile others are served."""
    with listening(tmp_path, network_timeout_s=2.0, tls=certificates.listener()) as ear, Peer(ear.port) as stranger:
        stranger.send(sent)
        ear.echo(tls=certificates.destination())
        assert stranger.last().kind != peer.ACCEPTED
        wait_until(lambda: ear.waiting == 0, what="it is gone")
        assert {kind for kind, *_ in ear.events} <= {"tls_refused", "no_request_in_time"}


def test_many_silent_clients_on_the_tls_port_keep_nobody_out(tmp_path: Path, certificates: Certificates) -> None:
    with listening(tmp_path, tls=certificates.listener()) as ear:
        before = threads()
        crowd = [socket.create_connection(("127.0.0.1", ear.port), timeout=20) for _ in range(30)]
        try:
            ear.echo(tls=certificates.destination())
            wait_until(lambda: threads() <= before, what="no thread for the silent ones")
        finally:
            for one in crowd:
                one.close()


def test_a_tls_peer_that_stalls_in_mid_pdu_loses_its_place(tmp_path: Path, certificates: Certificates) -> None:
    with listening(tmp_path, network_timeout_s=1.0, tls=certificates.listener()) as ear:
        context = ssl.create_default_context(cafile=str(certificates.folder / "ca.pem"))
        context.load_cert_chain(certificates.folder / "scanner.pem", certificates.folder / "scanner.key")
        plain = socket.create_connection(("127.0.0.1", ear.port), timeout=20)
        with Peer(0, connection=context.wrap_socket(plain, server_hostname="127.0.0.1")) as stranger:
            stranger.associate()
            stranger.send(peer.pdu(4, b"\0\0", length=1000))
            ear.echo(tls=certificates.destination())
            assert stranger.read().kind in (0, peer.ABORTED)
        wait_until(lambda: ear.guests == 0, what="its place is free")
