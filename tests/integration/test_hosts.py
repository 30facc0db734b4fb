"""One host takes what is its own and no more: 127.0.0.1 floods, 127.0.0.2 is served. Both are loopback on Linux."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.receive.door import MOST_WAITING
from tests import peer
from tests.conftest import wait_until
from tests.listening import listening
from tests.peer import Peer

FLOODER, OTHER = "127.0.0.1", "127.0.0.2"


def call(host: str, port: int) -> Peer:
    """A peer whose connection comes from ``host``."""
    return Peer(port, connection=socket.create_connection(("127.0.0.1", port), 20, source_address=(host, 0)))


@contextlib.contextmanager
def calls(host: str, port: int, count: int) -> Iterator[list[Peer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(call(host, port)) for _ in range(count)]


def test_the_flood_of_one_host_leaves_room_for_another(tmp_path: Path) -> None:
    more = [{"port": 0, "ae_title": "SECOND"}]
    with (
        listening(tmp_path, max_associations=10, max_associations_per_host=4, listeners=more) as ear,
        calls(FLOODER, ear.port, 9) as flood,
    ):
        answers = [one.ask(peer.request()) for one in flood]
        assert [answer.kind for answer in answers] == [peer.ACCEPTED] * 4 + [peer.REJECTED] * 5
        assert {answer.rejection for answer in answers[4:]} == {(2, 3, 2)}, "transient, local limit exceeded"
        with calls(FLOODER, ear.listener.ports[1], 1) as (elsewhere,):
            assert elsewhere.ask(peer.request(called="SECOND")).kind == peer.REJECTED, "one limit for all entrances"
        with calls(OTHER, ear.port, 4) as others:
            for one in others:
                one.associate()
                assert one.ask(peer.ECHO).status == 0
        assert all(one.ask(peer.ECHO).status == 0 for one in flood[:4]), "who is in, stays"
        told = [detail for detail in ear.told("association_rejected") if detail["from"] == FLOODER]
        assert told[0]["reason"] == "as many associations as one host may have are open"
        flood[0].send(peer.RELEASE)
        assert flood[0].read().kind == peer.RELEASED
        wait_until(lambda: ear.guests == 3, what="one has left, and the others with it")
        with call(FLOODER, ear.port) as again:
            again.associate()


def test_without_a_limit_of_its_own_a_host_may_take_all(tmp_path: Path) -> None:
    with listening(tmp_path, max_associations=3) as ear, calls(FLOODER, ear.port, 3) as flood:
        for one in flood:
            one.associate()
        with call(OTHER, ear.port) as late:
            assert late.ask(peer.request()).rejection == (2, 3, 2)


def test_who_floods_with_silence_crowds_out_himself(tmp_path: Path) -> None:
    with listening(tmp_path) as ear, call(OTHER, ear.port) as patient:
        wait_until(lambda: ear.waiting == 1, what="the patient one to wait at the door")
        with calls(FLOODER, ear.port, MOST_WAITING + 50):
            wait_until(lambda: ear.told("crowded_out") != [], what="the door to be crowded")
            patient.associate()
        assert {detail["from"] for detail in ear.told("crowded_out")} == {FLOODER}


def test_ipv4_on_an_ipv6_socket_is_the_same_host(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    more = [{"host": "127.0.0.1", "port": 0}]
    with listening(tmp_path, host="::", max_associations_per_host=1, listeners=more) as ear:
        first, second = ear.listener.ports
        with call(FLOODER, first) as one, call(FLOODER, second) as other:
            one.associate()
            assert other.ask(peer.request()).kind == peer.REJECTED
