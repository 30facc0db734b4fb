"""Deliveries of which senders died: what counts against which, and when it is forgotten. One process is started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from node.deliver.apart import PASSING, Careful
from node.demo.pacs import AE_TITLE, SmallPacs
from node.ledger import Database, deaths
from node.metrics.tally import DELIVERIES, TALLY
from node.queue import Queue, release_stalled
from tests.desk import Desk

KILLED = -9


class Night:
    """A courier whose processes end as the test says; without a word of it, a delivery is sent right here."""

    def __init__(self, folder: Path, database: Database, port: int = 1, **destination: object) -> None:
        self.desk = Desk(folder, database, port, {"ae_title": AE_TITLE, **destination})
        self.endings: list[int] = []
        self.apart: list[int] = []
        self.careful = Careful(self.desk.settings, database, self.desk.courier)
        self.careful._run = self._run  # type: ignore[method-assign]

    def _run(self, answer_id: int, destination: str) -> int:
        self.apart.append(answer_id)
        if self.endings:
            return self.endings.pop(0)
        self.desk.courier.deliver(answer_id, destination)
        return 0

    def deliver(self, *endings: int, answer_id: int | None = None) -> set[str]:
        """One try for each ending, or one that nothing happens to; states of all deliveries."""
        self.endings = list(endings)
        for _ in endings or (0,):
            self.desk.later(3600)
            self.careful.deliver(answer_id or self.desk.answer_id, "pacs")
        return {row["state"] for row in self.desk.rows()}

    def killed_among_others(self, times: int = 1) -> None:
        for _ in range(times):
            with self.desk.database.transaction() as connection:
                deaths.died_among_others(connection, self.desk.answer_id, "pacs")

    def rows(self) -> list[tuple[int, int, int]]:
        with self.desk.database.transaction() as connection:
            found = connection.execute("SELECT * FROM sender_death ORDER BY answer_id").fetchall()
        return [(row["answer_id"], row["among_others"], row["alone"]) for row in found]


@pytest.fixture
def night(tmp_path: Path, database: Database) -> Night:
    return Night(tmp_path, database)


def test_without_a_death_nothing_is_tried_apart(night: Night) -> None:
    assert night.deliver() == {"pending"}
    assert night.apart == []


@pytest.mark.parametrize("among_others", [1, 7])
def test_deaths_among_others_are_one_of_three(night: Night, among_others: int) -> None:
    night.killed_among_others(among_others)
    assert night.deliver(KILLED) == {"pending"}
    assert night.deliver(KILLED) == {"parked"}
    assert "died 3 times at this delivery" in night.desk.rows()[0]["reason"]
    assert night.rows() == [(night.desk.answer_id, 0, 0)], "remembered until something ends at this destination"
    with night.desk.database.transaction() as connection:
        found = connection.execute("SELECT detail FROM event WHERE kind = 'worker_died'").fetchall()
    assert [row["detail"]["alone"] for row in found] == [True, True]


def test_one_death_alone_is_never_enough(tmp_path: Path, database: Database) -> None:
    night = Night(tmp_path, database)
    strict = night.desk.settings.work.model_copy(update={"max_attempts": 1})
    night.careful._settings = night.desk.settings.model_copy(update={"work": strict})
    night.killed_among_others()
    assert night.deliver() == {"pending"}, "a neighbour's death parks nobody"
    night.killed_among_others()
    assert night.deliver(KILLED) == {"parked"}


def test_a_try_that_ends_makes_a_new_beginning(night: Night) -> None:
    night.killed_among_others()
    assert night.deliver(KILLED) == {"pending"}
    assert night.deliver() == {"pending"}, "nobody listens there, but the process lives"
    assert night.rows() == []
    night.deliver()
    assert len(night.apart) == 2, "and it is sent among others again"


def test_a_process_that_could_not_do_its_work_is_no_death(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    night.killed_among_others()
    assert night.deliver(*[PASSING] * 5) == {"pending"}
    assert night.rows() == [(night.desk.answer_id, 1, 0)]
    assert (night.desk.waiting_job() or 0) > 0, "tried again after a pause"

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError("no process left")

    monkeypatch.setattr(subprocess, "Popen", full)
    del night.careful._run  # type: ignore[method-assign]
    assert night.deliver() == {"pending"}
    assert night.rows() == [(night.desk.answer_id, 1, 0)]


def test_the_process_that_tries_apart_delivers_and_what_it_counts_is_counted(
    tmp_path: Path, database: Database
) -> None:
    def stored() -> float:
        return TALLY.read().get((DELIVERIES.name, ("pacs", "stored")), 0)

    with SmallPacs(tmp_path / "pacs") as pacs:
        night = Night(tmp_path, database, pacs.port)
        del night.careful._run  # type: ignore[method-assign]
        night.killed_among_others()
        before = stored()
        assert night.deliver() == {"stored"}
        assert len(pacs.received) == 3
    assert night.rows() == []
    assert stored() == before + 3


def test_what_goes_to_the_same_destination_or_belongs_to_the_same_answer_is_tried_apart(night: Night) -> None:
    night.killed_among_others()
    other, elsewhere = night.desk.answer(1, "pacs"), night.desk.answer(2, "another")
    with night.desk.database.transaction() as connection:
        assert deaths.is_tried_apart(connection, other, "pacs")
        assert deaths.is_tried_apart(connection, night.desk.answer_id, "another")
        assert not deaths.is_tried_apart(connection, elsewhere, "another")
    night.deliver(KILLED, KILLED)
    night.deliver(KILLED, answer_id=other)
    assert night.rows() == [(night.desk.answer_id, 0, 0), (other, 0, 1)], "that one was never among others"
    night.deliver(answer_id=other)
    assert night.rows() == [], "it ended: the destination does not kill, and what was parked has its own tries"


def test_a_try_that_ends_elsewhere_leaves_the_deaths_of_what_is_outstanding(night: Night) -> None:
    night.killed_among_others()
    night.deliver(KILLED)
    night.deliver(answer_id=night.desk.answer(1, "pacs"))
    assert night.rows() == [(night.desk.answer_id, 1, 1)]


def test_an_archive_that_kills_whoever_asks_for_a_proof_is_asked_no_more(tmp_path: Path, database: Database) -> None:
    with SmallPacs(tmp_path / "pacs") as pacs:
        night = Night(tmp_path, database, pacs.port, commitment="find")
        assert night.deliver() == {"stored"}
        with database.transaction() as connection:
            connection.execute("UPDATE delivery SET proof_due_at = now()")
        night.killed_among_others()
        assert night.deliver(KILLED, KILLED) == {"parked"}
    assert "nobody could be asked for a proof: the sending process died 3 times" in night.desk.rows()[0]["reason"]
    with database.transaction() as connection:
        told = connection.execute("SELECT subject FROM event WHERE kind = 'delivery_parked'").fetchall()
    assert [row["subject"] for row in told] == [row["sop_instance_uid"] for row in night.desk.rows()]


def test_the_jobs_of_a_dead_sender_are_tried_apart(night: Night, dsn: str) -> None:
    database = night.desk.database
    with database.transaction() as connection:
        Queue(dsn).wake_delivery(connection, night.desk.answer_id, "pacs")
        Queue(dsn).wake_evaluation(connection, "1.2.3", 0.0)
        connection.execute(
            """
            WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour')
                          RETURNING id)
            UPDATE procrastinate_jobs SET status = 'doing', worker_id = dead.id FROM dead
            """
        )
    assert release_stalled(dsn, 30.0) == 2
    assert night.rows() == [(night.desk.answer_id, 1, 0)]


def test_a_process_that_died_when_all_was_delivered_leaves_no_death_behind(night: Night) -> None:
    def arrive() -> None:
        with night.desk.database.transaction() as connection:
            connection.execute("UPDATE delivery SET state = 'stored'")

    def killed_too_late(*_: object) -> int:
        arrive()
        return KILLED

    night.killed_among_others()
    night.careful._run = killed_too_late  # type: ignore[method-assign]
    assert night.deliver() == {"stored"}
    assert night.rows() == []
    night.killed_among_others()
    assert night.rows() == [], "no try of it will ever end"
