"""A destination in every mood: what is tried again, how often, what is parked. The clock is moved, not waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pynetdicom import evt
from pynetdicom.pdu import P_DATA_TF

from node.demo.pacs import Received
from node.ledger import Database
from tests.archive import Archive
from tests.conftest import wait_until
from tests.desk import Desk

DAY_S = 24 * 3600.0


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as running:
        yield running


@dataclass(frozen=True)
class Mood:
    """What a destination answers to every C-STORE, and what becomes of it when it is tried once a day."""

    status: int
    tries: int
    ends: str
    says: str


MOODS = (
    Mood(0x0000, 1, "stored", ""),
    Mood(0xB000, 1, "stored", "coerced"),
    Mood(0xB006, 1, "stored", "discarded"),
    Mood(0xB007, 1, "stored", "does not match the SOP class"),
    Mood(0x0111, 1, "stored", "has an object of this UID already"),
    Mood(0xA700, 8, "parked", "out of resources (0xA700)"),  # a week and a day
    Mood(0xA7FF, 8, "parked", "out of resources (0xA7FF)"),
    Mood(0xA900, 1, "parked", "does not match its SOP class (0xA900)"),
    Mood(0xA9FF, 1, "parked", "does not match its SOP class (0xA9FF)"),
    Mood(0x0122, 1, "parked", "does not support this SOP class"),
    Mood(0x0124, 1, "parked", "register our AE title"),
    Mood(0xC000, 3, "parked", "see its log (0xC000)"),
    Mood(0x0110, 3, "parked", "processing failure"),
    Mood(0x4321, 3, "parked", "unknown status (0x4321)"),
)


@pytest.mark.parametrize("mood", MOODS, ids=lambda mood: f"0x{mood.status:04X}")
def test_every_status_is_retried_or_parked_as_it_asks_for(
    tmp_path: Path, database: Database, archive: Archive, mood: Mood
) -> None:
    desk = Desk(tmp_path, database, archive.port)
    archive.answer = lambda _item: mood.status
    for _ in range(12):
        desk.deliver(later_s=DAY_S)
    capture = desk.rows()[2]
    tries = [item for item in archive.received if item.sop_instance_uid == capture["sop_instance_uid"]]
    assert (len(tries), capture["attempts"], capture["state"]) == (mood.tries, mood.tries, mood.ends)
    assert mood.says in (capture["reason"] or "")
    assert len({item.sha256 for item in tries}) == 1
    with database.transaction() as connection:
        parked = connection.execute("SELECT subject FROM event WHERE kind = 'delivery_parked'").fetchall()
    assert (capture["sop_instance_uid"] in [row["subject"] for row in parked]) is (mood.ends == "parked")


def test_tries_are_spaced_and_none_comes_early(tmp_path: Path, database: Database, archive: Archive) -> None:
    desk = Desk(tmp_path, database, archive.port, backoff_s=[60, 600])
    archive.answer = lambda _item: 0xC000
    for later_s, tries in ((0, 1), (30, 1), (30, 2), (60, 2), (500, 2), (40, 3), (10_000, 3)):
        desk.deliver(later_s=later_s)
        assert desk.rows()[2]["attempts"] == tries


def test_an_archive_that_aborts_in_mid_object_gets_it_again(
    tmp_path: Path, database: Database, archive: Archive
) -> None:
    desk = Desk(tmp_path, database, archive.port)
    (server,) = archive._ae._servers
    aborted: list[object] = []

    def abort(event: evt.Event) -> None:
        if isinstance(event.pdu, P_DATA_TF) and event.assoc not in aborted and len(aborted) < 2:
            aborted.append(event.assoc)
            event.assoc.abort()

    server.bind(evt.EVT_PDU_RECV, abort)
    for _ in range(2):
        desk.deliver()
        assert {row["state"] for row in desk.rows()} == {"pending"}
        assert "nothing listens" not in desk.rows()[0]["reason"]
    desk.deliver()
    assert {row["state"] for row in desk.rows()} == {"stored"}
    assert len(archive.received) == 3


def test_an_answer_after_the_time_out_costs_one_repeat_of_the_same_bytes(
    tmp_path: Path, database: Database, archive: Archive
) -> None:
    desk = Desk(tmp_path, database, archive.port, {"timeout_s": 2})
    late, goes_on = desk.rows()[0]["sop_instance_uid"], threading.Event()

    def dawdle(item: Received) -> int:
        if item.sop_instance_uid == late:
            goes_on.wait(30)
        return 0x0000

    archive.answer = dawdle
    desk.deliver()
    assert {row["state"] for row in desk.rows()} == {"pending"}
    assert "did not answer within" in desk.rows()[0]["reason"]
    goes_on.set()
    wait_until(lambda: len(archive.received) == 1, what="the late answer")
    desk.deliver()
    assert {row["state"] for row in desk.rows()} == {"stored"}
    sent = [item.sha256 for item in archive.received if item.sop_instance_uid == late]
    assert len(sent) == 2
    assert len(set(sent)) == 1
    assert len(archive.received) == 4, "and nothing else came twice"


@pytest.mark.parametrize("recovers", [True, False])
def test_an_archive_that_never_answers_is_waited_for_a_week(
    tmp_path: Path, database: Database, archive: Archive, recovers: bool
) -> None:
    desk = Desk(tmp_path, database, archive.port, {"timeout_s": 1})
    released = threading.Event()
    archive.answer = lambda _item: 0x0000 if released.wait(30) else 0xC000
    for _ in range(3):
        desk.deliver(later_s=DAY_S)
        assert {row["state"] for row in desk.rows()} == {"pending"}
    released.set()
    if not recovers:
        archive.answer = lambda _item: 0xA700
        desk.deliver(later_s=8 * DAY_S)
    else:
        desk.deliver(later_s=DAY_S)
    assert {row["state"] for row in desk.rows()} == {"stored" if recovers else "parked"}
