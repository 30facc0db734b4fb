"""The keeper: takes over from the dead, wakes what is outstanding, lets old images go, and nothing undelivered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from procrastinate.manager import JobManager

from node.keeper import Keeper
from node.ledger import Database, answers, deliveries, intake
from node.queue import Queue, release_stalled
from node.receive.registrar import Registrar
from node.receive.spool import Spool
from node.settings import load_settings
from tests import ledger
from tests.conftest import wait_until
from tests.dicom import STUDY
from tests.unit.test_spool import encoded_slice, received

LONG_AGO = "now() - interval '100 hours'"


class House:
    """A spool with one registered study of three instances, its ledger and a keeper."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.database = database
        self.settings = load_settings(data_dir=folder / "node", study={"quiet_s": 0})
        self.settings.data_dir.mkdir()
        self.spool = Spool(self.settings.spool_dir)
        content = encoded_slice(folder)
        for number in range(3):
            self.spool.store(received(content + bytes(2 * number)))
        registrar = Registrar(self.spool, database, lambda _connection, _study: None)
        registrar.start()
        wait_until(lambda: self.value("SELECT count(*) FROM instance") == 3, what="three instances in the ledger")
        registrar.stop()
        self.keeper = Keeper(self.settings, database)

    def value(self, query: str) -> Any:
        with self.database.transaction() as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return next(iter(row.values()))

    def run(self, statement: str) -> None:
        with self.database.transaction() as connection:
            connection.execute(statement.encode())

    def evaluated(self) -> None:
        with self.database.transaction() as connection:
            evaluation = answers.begin_evaluation(connection, STUDY)
            assert evaluation is not None
            answers.end_evaluation(connection, evaluation)

    def answered(self) -> None:
        """One answer with one result that is still to be delivered."""
        with self.database.transaction() as connection:
            ids = ledger.finish(connection, ledger.claim(connection))
            deliveries.plan(connection, ids[0], "pacs")


@pytest.fixture
def house(tmp_path: Path, database: Database) -> House:
    return House(tmp_path, database)


def test_an_outstanding_study_is_woken_once(house: House) -> None:
    house.keeper.round()
    house.keeper.round()
    assert house.value("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'") == 1
    assert house.value("SELECT lock FROM procrastinate_jobs") == f"study:{STUDY}"


def test_an_evaluated_or_parked_study_is_left_alone(house: House) -> None:
    house.evaluated()
    house.keeper.round()
    house.run("UPDATE study SET evaluated_up_to = NULL, parked = 'by hand'")
    house.keeper.round()
    assert house.value("SELECT count(*) FROM procrastinate_jobs") == 0


def test_a_study_that_fails_again_and_again_is_parked(house: House) -> None:
    with house.database.transaction() as connection:
        begun = [answers.begin_evaluation(connection, STUDY) for _ in range(4)]
        assert [answers.park_after_deaths(connection, found, 3) for found in begun if found] == [False] * 3 + [True]
        assert answers.begin_evaluation(connection, STUDY) is None, "parked is parked"
    assert "stopped after 3 attempts" in house.value("SELECT parked FROM study")


def test_the_work_of_a_dead_worker_is_taken_over(house: House) -> None:
    house.keeper.wake_outstanding()
    house.run("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour')")
    house.run("UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT max(id) FROM procrastinate_workers)")
    house.keeper.wake_outstanding()
    assert house.value("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'") == 0
    house.keeper.round()
    assert house.value("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'") == 1
    assert release_stalled(house.database.dsn, 30) == 0


def test_a_job_that_another_keeper_ended_first_holds_up_none_and_is_not_counted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.keeper.wake_outstanding()
    with house.database.transaction() as connection:
        Queue(house.database.dsn).wake_evaluation(connection, "1.2.3", 0.0)
    house.run("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour')")
    house.run("UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT max(id) FROM procrastinate_workers)")
    listed = JobManager.get_stalled_jobs

    async def while_another_is_at_it(*arguments: Any, **named: Any) -> Any:
        found = list(await listed(*arguments, **named))
        house.run(f"DELETE FROM procrastinate_jobs WHERE id = {found[0].id}")
        return found

    monkeypatch.setattr(JobManager, "get_stalled_jobs", while_another_is_at_it)
    assert release_stalled(house.database.dsn, 30) == 1
    assert house.value("SELECT count(*) FROM event WHERE kind = 'worker_died'") == 1
    assert house.value("SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'") == 0


def test_outstanding_deliveries_are_woken(house: House) -> None:
    house.evaluated()
    house.answered()
    house.keeper.round()
    assert house.value("SELECT lock FROM procrastinate_jobs") == "delivery:pacs:1"


def test_two_wakings_of_one_key_do_not_lose_the_state_change(house: House) -> None:
    queue = Queue(house.database.dsn)
    for _ in range(2):
        with house.database.transaction() as connection:
            intake.record_event(connection, "changed")
            queue.wake_evaluation(connection, STUDY, 5.0)
    assert house.value("SELECT count(*) FROM event WHERE kind = 'changed'") == 2
    assert house.value("SELECT count(*) FROM procrastinate_jobs") == 1


def test_images_go_after_their_time_and_not_before_everything_is_delivered(house: House) -> None:
    house.answered()
    house.run(f"UPDATE instance SET received_at = {LONG_AGO}")
    house.keeper.expire()
    assert len(list(house.spool.names())) == 3, "not evaluated yet"
    house.evaluated()
    house.keeper.expire()
    assert len(list(house.spool.names())) == 3, "a delivery is outstanding"
    house.run("UPDATE delivery SET state = 'stored'")
    house.keeper.expire()
    assert list(house.spool.names()) == []
    assert house.value("SELECT count(*) FROM instance WHERE erased_at IS NOT NULL") == 3


def test_results_leave_the_outbox_after_their_time_and_not_before_they_are_delivered(house: House) -> None:
    house.answered()
    house.settings.outbox_dir.mkdir()
    file = house.settings.outbox_dir / "x.dcm"
    file.touch()
    house.run("UPDATE answer SET finished_at = now() - interval '100 hours'")
    house.keeper.expire()
    assert file.exists(), "a delivery is outstanding"
    house.run("UPDATE delivery SET state = 'stored', last_try_at = now()")
    house.keeper.expire()
    assert file.exists(), "delivered a moment ago"
    house.run("UPDATE delivery SET last_try_at = now() - interval '100 hours'")
    house.keeper.expire()
    assert not file.exists()
    assert house.value("SELECT sha256 FROM result") == "aa", "UID and digest stay"


def test_young_images_stay(house: House) -> None:
    house.evaluated()
    house.run("UPDATE instance SET received_at = now()")
    house.keeper.expire()
    assert len(list(house.spool.names())) == 3


def test_an_interrupted_erasure_is_finished(house: House) -> None:
    house.run("UPDATE instance SET erased_at = now()")
    Registrar(house.spool, house.database, lambda _connection, _study: None).enter_spool()
    assert list(house.spool.names()) == []


def test_only_the_newest_attempt_may_finish_an_answer(house: House) -> None:
    with house.database.transaction() as connection:
        first, second = ledger.claim(connection), ledger.claim(connection)
    assert first is not None and second is not None
    assert (first.id, first.revision, first.started_at) == (second.id, second.revision, second.started_at)
    with pytest.raises(answers.SupersededError), house.database.transaction() as connection:
        ledger.finish(connection, first)
    with house.database.transaction() as connection:
        assert len(ledger.finish(connection, second)) == 1
        again = ledger.claim(connection)
    assert again is None, "this input has its answer"
