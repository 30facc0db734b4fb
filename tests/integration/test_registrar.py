"""The registrar beside a real ledger: one bad object, a ledger that is away, a spool that is being written."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from procrastinate.exceptions import ConnectorException
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from node.gate import deflated
from node.ledger import Database, intake
from node.receive import content
from node.receive import registrar as module
from node.receive.registrar import Registrar
from node.receive.spool import ReceivedObject, Reception, Spool
from tests.conftest import wait_until
from tests.dicom import STUDY, ct_slice


class Desk:
    """A registrar with its spool and ledger; studies that were woken are noted."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.spool = Spool(folder / "spool")
        self.woken: list[str] = []
        self.registrar = Registrar(self.spool, database, lambda _connection, study: self.woken.append(study))

    def encoded(self, number: int = 0) -> bytes:
        path = self.folder / "slice.dcm"
        ct_slice(number).save_as(path, enforce_file_format=True)
        raw = path.read_bytes()
        return raw[144 + int.from_bytes(raw[140:144], "little") :]

    def store(
        self,
        content: bytes | None = None,
        syntax: str = ExplicitVRLittleEndian,
        calling: str = "SCANNER",
        at: datetime | None = None,
    ) -> Reception:
        """Store one object (a good slice unless told otherwise) without announcing it."""
        return self.spool.store(
            ReceivedObject(
                data_set=self.encoded() if content is None else content,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                sop_instance_uid="1.2.3.4",
                transfer_syntax=syntax,
                calling_ae=calling,
                called_ae="SPINENODE",
                received_at=at or datetime.now(UTC),
            )
        )

    def arrive(self, *receptions: Reception) -> None:
        """Announce all, as one batch, to a registrar that then runs until they are entered."""
        for reception in receptions:
            self.registrar.arrived(reception)
        self.registrar.start()
        self.registrar.stop(30.0)

    def rows(self) -> dict[str, str]:
        """Study UID by name in the spool."""
        with self.database.transaction() as connection:
            found = connection.execute("SELECT spool_name, study_uid FROM instance").fetchall()
        return {row["spool_name"]: row["study_uid"] for row in found}

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        with self.database.transaction() as connection:
            found = connection.execute("SELECT kind, detail FROM event ORDER BY id").fetchall()
        return [(row["kind"], row["detail"]) for row in found]


@pytest.fixture
def desk(tmp_path: Path, database: Database) -> Desk:
    return Desk(tmp_path, database)


def unreadable_objects(desk: Desk) -> dict[str, Reception]:
    whole = zlib.compress(desk.encoded(), wbits=-15)
    return {
        "truncated deflate": desk.store(whole[: len(whole) // 2], DeflatedExplicitVRLittleEndian),
        "no deflate": desk.store(b"\xff" * 100, DeflatedExplicitVRLittleEndian),
        "nothing": desk.store(b""),
        "noise": desk.store(bytes(range(256)) * 4),
        "odd length": desk.store(b"\x08\x00\x60\x00CS\xff\xff" + b"x" * 11),
    }


def test_unreadable_objects_are_events_and_rows_without_a_study(desk: Desk) -> None:
    bad = {reception.spool_name for reception in unreadable_objects(desk).values()}
    good = desk.store()
    desk.arrive(good)
    assert desk.rows() == {good.spool_name: STUDY} | dict.fromkeys(bad, "")
    assert {detail["spool_name"] for kind, detail in desk.events() if kind == "unreadable"} == bad
    assert {kind for kind, _ in desk.events()} == {"unreadable"}


def test_a_deflate_bomb_is_not_inflated(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    small = 1 << 20
    monkeypatch.setattr(content, "inflates_too_far", lambda path: deflated.inflates_too_far(path, small))
    monkeypatch.setattr(content, "dcmread", lambda *_, **__: pytest.fail("parsed"))
    bomb = desk.store(zlib.compress(desk.encoded() + b"\0" * 2 * small, wbits=-15), DeflatedExplicitVRLittleEndian)
    desk.arrive(bomb)
    assert desk.rows() == {bomb.spool_name: ""}
    assert [kind for kind, _ in desk.events()] == ["unreadable"]


def test_texts_that_postgresql_does_not_take_are_cleaned(desk: Desk) -> None:
    good = desk.store()
    odd = good._replace(sop_instance_uid="1.2\0.3" + "4" * 5000, calling_ae="A\0B", called_ae="\udce4")
    desk.registrar.record("context_refused", "A\0B", {"contexts": [{"sop_class": "1.2\0", "reason": "\udce4"}]})
    desk.arrive(odd)
    assert desk.rows() == {good.spool_name: STUDY}
    assert desk.events() == [("context_refused", {"contexts": [{"sop_class": "1.2", "reason": "?"}]})]


def test_one_row_that_the_ledger_refuses_stops_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first, bad, last = desk.store(), desk.store(), desk.store()
    register = intake.register

    def refusing(connection: Any, rows: list[intake.InstanceRow]) -> set[str]:
        if any(row.spool_name == bad.spool_name and row.study_uid for row in rows):
            connection.execute("SELECT 1/0")
        return register(connection, rows)

    monkeypatch.setattr(intake, "register", refusing)
    desk.registrar.record("context_refused", "SCANNER", {})
    desk.arrive(first, bad, last)
    assert desk.rows() == {first.spool_name: STUDY, bad.spool_name: "", last.spool_name: STUDY}
    assert sorted(kind for kind, _ in desk.events()) == ["context_refused", "unregistrable"]
    assert ("unregistrable", {"spool_name": bad.spool_name, "reason": "DivisionByZero"}) in desk.events()


def test_a_wake_up_that_fails_costs_no_row(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(connection: Any, _study: str) -> None:
        connection.execute("SELECT 1/0")

    monkeypatch.setattr(desk.registrar, "_wake", failing)
    good = desk.store()
    desk.arrive(good)
    assert desk.rows() == {good.spool_name: STUDY}


@pytest.mark.parametrize(
    "trouble", [psycopg.OperationalError("gone"), psycopg.InterfaceError("closed"), ConnectorException("away")]
)
def test_a_ledger_that_was_away_misses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    register, failures = intake.register, []

    def away(connection: Any, rows: list[intake.InstanceRow]) -> set[str]:
        if rows and len(failures) < 2:
            failures.append(rows)
            raise trouble
        return register(connection, rows)

    monkeypatch.setattr(intake, "register", away)
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    desk.registrar.start()
    wait_until(lambda: not desk.rows(), what="an idle registrar")
    good = desk.store()
    desk.registrar.record("association_rejected", "STRANGER", {})
    desk.registrar.arrived(good)
    wait_until(lambda: desk.rows() == {good.spool_name: STUDY}, what="the instance in the ledger")
    desk.registrar.stop()
    assert len(failures) == 2
    assert [kind for kind, _ in desk.events()] == ["association_rejected"]


def test_a_file_that_is_being_written_is_found_when_it_is_whole(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by a process that never announces it, as when a listener is killed behind its acknowledgement."""
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    stored = desk.store()
    path = desk.spool.path(stored.spool_name)
    raw = path.read_bytes()
    path.write_bytes(raw[:200])
    writer = os.open(path, os.O_WRONLY)
    fcntl.flock(writer, fcntl.LOCK_EX)
    looks: list[str] = []
    recover = desk.spool.recover

    def look(name: str) -> Reception | None:
        looks.append(name)
        return recover(name)

    monkeypatch.setattr(desk.spool, "recover", look)
    desk.registrar.start()
    wait_until(lambda: len(looks) > 1, what="a second look")
    assert desk.rows() == {}
    os.write(writer, raw)
    os.close(writer)
    wait_until(lambda: desk.rows() == {stored.spool_name: STUDY}, what="the whole file in the ledger")
    desk.registrar.stop()
    assert desk.events() == []


def test_what_is_found_in_the_spool_is_entered_in_the_order_of_its_arrival(desk: Desk) -> None:
    """Without a ledger nothing else says which of two receptions corrects the other; names have no order."""
    hour = datetime(2026, 3, 4, 5, tzinfo=UTC)
    by_name = sorted(
        desk.store(desk.encoded() + bytes(2 * n), at=hour + timedelta(seconds=n)).spool_name for n in range(5)
    )
    contents = [desk.spool.path(name).read_bytes() for name in by_name]
    first_last = sorted(contents, key=lambda raw: -len(raw))
    for name, raw in zip(by_name, first_last, strict=True):
        desk.spool.path(name).write_bytes(raw)
    desk.registrar.enter_spool()
    with desk.database.transaction() as connection:
        entered = connection.execute("SELECT spool_name FROM instance ORDER BY id").fetchall()
    assert [row["spool_name"] for row in entered] == by_name[::-1]


def test_a_file_that_went_is_an_event_unless_it_was_erased(desk: Desk) -> None:
    erased = desk.store()
    desk.registrar.enter_spool()
    with desk.database.transaction() as connection:
        intake.mark_erased(connection, [row["id"] for row in connection.execute("SELECT id FROM instance").fetchall()])
    gone = desk.store()
    for reception in (erased, gone):
        desk.spool.path(reception.spool_name).unlink()
    desk.arrive(erased, gone)
    assert desk.events() == [("vanished", {"spool_name": gone.spool_name})]


def test_a_file_that_cannot_be_looked_at_is_not_taken_for_lost(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = desk.store()
    desk.registrar.enter_spool()
    looked: Callable[..., Any] = os.stat

    def stale(path: Any, *arguments: Any, **named: Any) -> Any:
        if path == desk.spool.path(first.spool_name):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))  # which Path.exists takes for "no"
        return looked(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", stale)
    again = desk.store()
    desk.arrive(again)
    with desk.database.transaction() as connection:
        found = connection.execute("SELECT duplicate_of, erased_at FROM instance ORDER BY id").fetchall()
    assert [(row["duplicate_of"], row["erased_at"]) for row in found] == [(None, None), (1, None)]


def test_where_images_never_cease_what_a_dead_listener_left_is_still_looked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ADOPT_PERIOD_S", 0.05)
    adopted = threading.Event()
    monkeypatch.setattr(desk.registrar, "_adopt", adopted.set)
    monkeypatch.setattr(desk.registrar, "_batch", lambda: time.sleep(0.01) or [("hello", "", {})])
    desk.registrar._adopt_at = time.monotonic()
    desk.registrar.start()
    assert adopted.wait(20)
    desk.registrar.stop()


def test_arrivals_are_entered_together_and_what_is_more_than_a_batch_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registrar sleeps while a batch gathers, but not while it is behind, and not when it is to stop."""
    monkeypatch.setattr(module, "BATCH", 4)
    naps: list[float] = []
    monkeypatch.setattr(desk.registrar._stop, "wait", naps.append)
    events = [("hello", str(number), {}) for number in range(10)]
    for event in events:
        desk.registrar.record(*event)
    batches = [desk.registrar._batch() for _ in range(4)]
    assert batches == [events[:4], events[4:8], events[8:], []]
    assert naps == [module.BATCH_WINDOW_S], "for the first batch alone: after it, more was waiting"
    desk.registrar.record(*events[0])
    assert desk.registrar._batch() == events[:1]
    assert len(naps) == 2


def failing_reads(monkeypatch: pytest.MonkeyPatch, number: int, *paths: Path) -> dict[Path, int]:
    """Have the opening of these files fail with an error; returns how often each has, and once cleared it succeeds."""
    opened: Callable[..., Any] = Path.open
    failures = dict.fromkeys(paths, 0)

    def failing(path: Path, *arguments: Any, **named: Any) -> Any:
        if path in failures:
            failures[path] += 1
            raise OSError(number, os.strerror(number))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", failing)
    return failures


def test_a_file_that_the_disk_cannot_read_blocks_nothing_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    bad, good = desk.store(), desk.store()
    failing_reads(monkeypatch, errno.EIO, desk.spool.path(bad.spool_name))
    desk.registrar.start()
    desk.registrar.arrived(bad)
    wait_until(lambda: desk.rows() == {bad.spool_name: "", good.spool_name: STUDY}, what="a row for each")
    desk.registrar.stop()
    assert [kind for kind, _ in desk.events()] == ["unregistrable"]
    assert desk.spool.path(bad.spool_name).is_file()


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_that_can_be_read_again_comes_into_its_study_late(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    """It was acknowledged: a network volume that was away for a few seconds must not cost an image."""
    for period in ("PAUSE_S", "ADOPT_PERIOD_S", "UNREAD_PERIOD_S"):
        monkeypatch.setattr(module, period, 0.05)
    desk.registrar._adopt_at = time.monotonic()
    bad = [desk.store(), desk.store()]
    failures = failing_reads(monkeypatch, errno.ESTALE, *(desk.spool.path(one.spool_name) for one in bad))
    for one in bad if announced else ():
        desk.registrar.arrived(one)
    desk.registrar.start()
    wait_until(lambda: desk.rows() == dict.fromkeys((one.spool_name for one in bad), ""), what="rows without a study")
    good = desk.store()
    desk.registrar.arrived(good._replace(sop_instance_uid="1.2.9"))
    wait_until(lambda: desk.rows().get(good.spool_name) == STUDY, what="another image of the study")
    assert desk.woken == [STUDY]
    failures.clear()
    everything = dict.fromkeys((one.spool_name for one in (*bad, good)), STUDY)
    wait_until(lambda: desk.rows() == everything, what="all images in the study")
    desk.registrar.stop()
    assert desk.woken == [STUDY] * 2, "the second of two equal ones is no news"
    with desk.database.transaction() as connection:
        late = connection.execute("SELECT spool_name, sha256 <> '' AS read FROM instance ORDER BY id").fetchall()
    assert late[0]["spool_name"] == good.spool_name, "an evaluation that has seen it has not seen the others"
    assert all(row["read"] for row in late)


def test_what_can_be_read_late_does_not_take_the_place_of_what_came_after_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TRIES", 1)
    old = desk.store(at=datetime(2026, 3, 4, 5, tzinfo=UTC))
    failures = failing_reads(monkeypatch, errno.EIO, desk.spool.path(old.spool_name))
    desk.registrar.enter_spool()
    corrected = desk.store(desk.encoded() + bytes(2))
    desk.registrar.enter_spool()
    failures.clear()
    desk.registrar._read_again()
    assert desk.rows() == {old.spool_name: "", corrected.spool_name: STUDY}
    with desk.database.transaction() as connection:
        assert intake.unread(connection) == [], "it is not looked at for ever"


def test_a_listener_without_descriptors_enters_its_images_when_it_has_some(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    one = desk.store()
    path = desk.spool.path(one.spool_name)
    failures = failing_reads(monkeypatch, errno.EMFILE, path)
    desk.registrar.start()
    desk.registrar.arrived(one)
    wait_until(lambda: failures[path] > 10 * module.READ_TRIES, what="many looks")
    assert desk.rows() == {}
    failures.clear()
    wait_until(lambda: desk.rows() == {one.spool_name: STUDY}, what="the image in its study")
    desk.registrar.stop()
    assert desk.events() == []


def test_a_header_that_could_not_be_read_for_want_of_the_disk_is_read_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    deflated_slice = desk.store(zlib.compress(desk.encoded(), wbits=-15), DeflatedExplicitVRLittleEndian)
    errors = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), OSError(errno.EIO, os.strerror(errno.EIO))]
    read: Callable[..., Any] = content.dcmread

    def failing(*arguments: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop()
        return read(*arguments, **named)

    monkeypatch.setattr(content, "dcmread", failing)
    desk.registrar.start()
    wait_until(lambda: desk.rows() == {deflated_slice.spool_name: STUDY}, what="the image in its study")
    desk.registrar.stop()
    assert desk.events() == []
