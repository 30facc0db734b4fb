"""SIGTERM while a study is evaluated and results are sent: the node ends by itself in time, and its successor goes on.

The evaluation cannot end because the test holds a lock in the ledger, and the archive does not answer until it is told
to: nothing depends on who is faster.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from node.demo.pacs import AE_TITLE
from node.demo.stage import RunningNode, stage
from node.ledger import overview
from node.process import read_state
from node.service import ledger_of
from tests.chaos.counts import end_to_end
from tests.chaos.department import RESULTS_PER_ANSWER, Department
from tests.chaos.town import Gate, MoodyPacs
from tests.conftest import wait_until

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]

PATIENCE_S = 240.0
STUDIES = 2
RESULTS = RESULTS_PER_ANSWER * STUDIES


@dataclass
class Busy:
    """A node whose first study is being sent, whose second is being evaluated, and neither gets on."""

    node: RunningNode
    pacs: MoodyPacs
    departments: list[Department]
    holding: psycopg.Connection[Any]
    gate: Gate

    def terminate(self) -> None:
        """Send SIGTERM, and return once the node has begun to end: it does not listen any more."""
        port = self.node.port
        self.node.process.send_signal(signal.SIGTERM)

        def closed() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) != 0

        wait_until(closed, PATIENCE_S, f"the node to begin to end: {self.node.tail()}")

    def let_go(self) -> None:
        """Nothing is in the way any more."""
        with suppress(psycopg.OperationalError):  # the database is gone already
            self.holding.rollback()
        self.gate.open()

    def ask(self, question: str) -> list[dict[str, Any]]:
        """Rows of the ledger, whether the node runs or not."""
        with ledger_of(self.node.settings) as database, database.transaction() as connection:
            return connection.execute(question.encode()).fetchall()

    def finish(self, fault: str) -> int:
        """Start the node again; how many requests were repeats, once everything is answered and sent."""
        self.node.start()
        wait_until(self._done, PATIENCE_S, f"everything to be answered and sent: {self.node.tail(40)}")
        sent = sum(department.counts.sent for department in self.departments)
        acknowledged = set[str]().union(*(department.counts.acknowledged for department in self.departments))
        found = end_to_end(fault, self.node, self.pacs.requests, sent, acknowledged)
        assert found["expected"] == RESULTS, "each study was answered once"
        return int(found["duplicates"])

    def _done(self) -> bool:
        with ledger_of(self.node.settings) as database, database.transaction() as connection:
            studies = overview.studies(connection)
        assert [study["parked"] for study in studies] == [None] * STUDIES
        return sum(study["deliveries"].get("stored", 0) for study in studies) == RESULTS


@contextmanager
def busy_node(folder: Path, **work: Any) -> Iterator[Busy]:
    """Start a node, with those settings of its workers, and bring it there."""
    gate = Gate()
    with MoodyPacs(folder / "pacs", mood=gate) as pacs:
        destination = {"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE, "timeout_s": 600}
        sections = {
            "site": "drain",
            "study": {"quiet_s": 3.0},
            "receive": {"port": 0},
            "destinations": [destination],
            "deliver": {"backoff_s": [0.5]},
            "work": work,
        }
        with stage(**sections) as node:
            departments = [Department(folder / f"studies-{n}", 1, lambda: node.port) for n in range(STUDIES)]
            departments[1].studies = [f"{study_uid}.2" for study_uid in departments[1].studies]
            dsn = str(read_state(node.settings)["dsn"])
            holding = psycopg.connect(dsn)
            try:
                with departments[0]:
                    wait_until(lambda: bool(pacs.requests), PATIENCE_S, f"a result to be sent: {node.tail()}")
                holding.execute("LOCK TABLE result IN SHARE MODE")
                with departments[1]:
                    wait_until(lambda: _enters_results(dsn), PATIENCE_S, f"an evaluation to be at work: {node.tail()}")
                yield Busy(node, pacs, departments, holding, gate)
            finally:
                gate.open()
                holding.close()


def _enters_results(dsn: str) -> bool:
    """Whether an evaluation waits for the lock."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO result%'"
        ).fetchone()
    return row is not None and row[0] > 0


def test_what_cannot_end_within_the_deadline_is_done_by_the_next_node_and_comes_once(
    tmp_path: Path, shipped_models: Path
) -> None:
    with busy_node(tmp_path, drain_s=2, stalled_after_s=4) as busy:
        family = psutil.Process(busy.node.process.pid).children(recursive=True)
        busy.terminate()
        assert busy.node.process.wait(PATIENCE_S) == 0, "by itself, while nothing got on"
        assert [process for process in family if process.is_running()] == [], "and nothing of it is left"
        assert read_state(busy.node.settings) == {}
        assert len(busy.pacs.requests) == 1
        busy.let_go()
        assert {row["state"] for row in busy.ask("SELECT state FROM delivery")} == {"pending"}
        assert busy.finish("SIGTERM, and work that does not end in time") == 1, "what had no answer yet"
        assert busy.ask("SELECT * FROM event WHERE kind = 'delivery_parked'") == []


def test_what_can_end_within_the_deadline_ends_and_the_rest_comes_once(tmp_path: Path, shipped_models: Path) -> None:
    with busy_node(tmp_path, drain_s=PATIENCE_S, stalled_after_s=4) as busy:
        busy.terminate()
        busy.let_go()
        assert busy.node.process.wait(PATIENCE_S) == 0
        assert busy.ask("SELECT id FROM procrastinate_jobs WHERE status = 'doing'") == []
        assert [row["attempts"] for row in busy.ask("SELECT attempts FROM study")] == [0] * STUDIES
        states = [row["state"] for row in busy.ask("SELECT state FROM delivery ORDER BY id")]
        assert len(states) == RESULTS, "the evaluation was finished"
        assert states[:RESULTS_PER_ANSWER] == ["stored"] * RESULTS_PER_ANSWER, "and so was the delivery"
        assert len(busy.pacs.requests) == states.count("stored")
        assert busy.finish("SIGTERM, and work that ends in time") == 0
        assert busy.ask("SELECT * FROM event WHERE kind = 'worker_died'") == []


def test_what_cannot_end_within_the_deadline_is_handed_back_and_is_no_death(
    tmp_path: Path, shipped_models: Path
) -> None:
    with busy_node(tmp_path, drain_s=2, stalled_after_s=3600, max_attempts=1) as busy:
        busy.terminate()
        assert busy.node.process.wait(PATIENCE_S) == 0
        busy.let_go()
        assert busy.ask("SELECT id FROM procrastinate_jobs WHERE status = 'doing'") == []
        assert [row["attempts"] for row in busy.ask("SELECT attempts FROM study")] == [0] * STUDIES
        assert busy.finish("SIGTERM, and work that is handed back") == 1
        assert busy.ask("SELECT * FROM sender_death") == []
        assert busy.ask("SELECT * FROM event WHERE kind = 'worker_died'") == []
