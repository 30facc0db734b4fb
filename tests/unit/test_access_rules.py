"""The rules of access as values, and the notices that strangers cause."""

from __future__ import annotations

from typing import Any

import pytest

from node.receive import access
from node.receive.notices import MOST_IN_A_PERIOD, Notices
from node.settings import ConfigurationError, Entrance, Receive, load_settings
from tests import peer


def rules(**values: Any) -> Entrance:
    return Entrance.model_validate({"calling_ae_titles": ["CT1"], "networks": ["10.1.0.0/16", "fd00::/8"], **values})


def test_titles_are_read_without_padding_and_without_what_is_no_character() -> None:
    read = access.asked(peer.request(called=" NODE ", calling=b"A\x1b[1m\xff"))
    assert (read.called, read.calling, read.version) == ("NODE", "A?[1m?", 1)


def test_titles_that_are_padded_by_zeros_are_read_without_them() -> None:
    read = access.asked(peer.request(called=b"NODE".ljust(16, b"\0"), calling=b"A\0B \0".ljust(16, b"\0")))
    assert (read.called, read.calling) == ("NODE", "A?B")


def test_of_a_request_only_what_is_looked_at_goes_on() -> None:
    extra = b"".join(peer.item(kind, b"\xff") for kind in (0x53, 0x55, 0x56, 0x57, 0x58, 0x5F))
    role = peer.item(0x54, b"\0\3" + b"1.2" + b"\0\1")
    unknown = peer.pdu(1, peer.request(extra=extra + role)[6:] + peer.item(0x77, b"") * 2)
    assert access.essence(unknown) == peer.request(extra=role)


def test_a_request_whose_items_do_not_fit_stays_as_it_is() -> None:
    for cut in (1, 3, 60):
        request = peer.pdu(1, peer.request(calling=bytes(16))[6:-cut])
        assert access.essence(request) == request


@pytest.mark.parametrize(
    ("address", "called", "calling", "version", "expected"),
    [
        ("10.1.2.3", "SPINENODE", "CT1", 1, None),
        ("fd00::7", "SPINENODE", "CT1", 1, None),
        ("::ffff:10.1.2.3", "SPINENODE", "CT1", 1, None),
        ("fe80::1%eth0", "SPINENODE", "CT1", 1, access.NETWORK),
        ("10.2.0.1", "SPINENODE", "CT1", 1, access.NETWORK),
        ("no address", "SPINENODE", "CT1", 1, access.NETWORK),
        ("10.2.0.1", "OTHER", "CT2", 1, access.NETWORK),
        ("10.1.2.3", "OTHER", "CT2", 1, access.CALLED_TITLE),
        ("10.1.2.3", "SPINENODE", "CT2", 1, access.CALLING_TITLE),
        ("10.1.2.3", "SPINENODE", "ct1", 1, access.CALLING_TITLE),
        ("10.1.2.3", "SPINENODE", "CT1", 2, access.VERSION),
    ],
)
def test_who_is_let_in(
    address: str, called: str, calling: str, version: int, expected: access.Rejection | None
) -> None:
    assert access.judge(rules(), address, access.Asked(called, calling, version)) is expected


def test_the_answers_are_those_of_the_standard() -> None:
    assert access.CALLED_TITLE.pdu == bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 7])
    assert access.TOO_MANY.pdu == bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 2])
    assert access.abort_pdu(1) == bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 1])


def test_what_is_left_open_is_said() -> None:
    assert access.left_open(Receive()) == [
        "127.0.0.1:11112: every calling AE title may send (calling_ae_titles is empty)",
        "127.0.0.1:11112: plain, without TLS",
    ]
    closed = {"certificate": "a", "key": "b", "client_authorities": "c"}
    shut = Receive.model_validate(
        {
            "host": "0.0.0.0",
            "calling_ae_titles": ["A"],
            "networks": ["10.0.0.0/8"],
            "tls": closed,
            "max_associations_per_host": 20,
        }
    )
    assert access.left_open(shut) == []
    half = {"certificate": "a", "key": "b", "require_client_certificate": False}
    other = Receive.model_validate({"host": "0.0.0.0", "require_called_ae_title": False, "tls": half})
    assert [sentence.partition(": ")[2].split(" ")[0] for sentence in access.left_open(other)] == [
        "every",
        "senders",
        "the",
        "TLS",
        "one",
    ]


@pytest.mark.parametrize(
    ("receive", "named"),
    [
        ({"networks": ["10.1.2.3/8"]}, "networks"),
        ({"networks": ["hospital"]}, "networks"),
        ({"listeners": [{"port": 11112}]}, "same host and port"),
        ({"tls": {"certificate": "a", "key": "b"}}, "client_authorities is missing"),
        ({"tls": {"certificate": "a", "key": "b", "key_password": "geheim"}}, "key_password"),
        (
            {"tls": {"certificate": "a", "key": "b", "require_client_certificate": False, "crl_file": "c"}},
            "crl_file says nothing",
        ),
        ({"max_associations_per_host": 0}, "max_associations_per_host"),
    ],
)
def test_a_wrong_value_is_named(receive: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load_settings(receive=receive)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_equal_events_are_told_once_a_minute_and_counted() -> None:
    clock, told = Clock(), []
    notices = Notices(lambda *event: told.append(event), clock)
    for _ in range(5):
        notices.tell("no_dicom", "", "10.0.0.1", reason="HTTP")
    notices.tell("no_dicom", "", "10.0.0.2", reason="HTTP")
    assert [(kind, detail) for kind, _, detail in told] == [
        ("no_dicom", {"reason": "HTTP", "from": "10.0.0.1"}),
        ("no_dicom", {"reason": "HTTP", "from": "10.0.0.2"}),
    ]
    clock.now += 61
    notices.tell("no_dicom", "", "10.0.0.1", reason="HTTP")
    assert told[-1] == ("no_dicom", "", {"reason": "HTTP", "from": "10.0.0.1", "times_before": 4})


def test_nobody_fills_the_ledger_with_other_titles_each_time() -> None:
    clock, told = Clock(), []
    notices = Notices(lambda *event: told.append(event), clock)
    for index in range(10_000):
        notices.tell("association_rejected", f"CT{index}", "10.0.0.1")
    assert len(told) == MOST_IN_A_PERIOD
    clock.now += 61
    notices.tell("association_rejected", "CT1", "10.0.0.1")
    assert ("events_dropped", "", {"count": 10_000 - MOST_IN_A_PERIOD}) in told


@pytest.mark.parametrize(
    ("address", "host"),
    [("10.1.2.3", "10.1.2.3"), ("::ffff:10.1.2.3", "10.1.2.3"), ("fe80::1%eth0", "fe80::1"), ("a name", "a name")],
)
def test_a_host_is_counted_as_one_whichever_way_it_comes(address: str, host: str) -> None:
    assert access.host_of(address) == host
