"""SIGKILL of the sending process at each of its steps: what was not sent is, what was is sent with the same bytes.

Each step is held by the other side of it, an archive's answer or a lock in the ledger, until the process is dead.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pynetdicom import evt

from node.keeper import Keeper
from node.ledger import Database
from node.queue import Queue
from node.settings import Settings, Work
from tests.archive import Archive
from tests.archive import Request as ProofRequest
from tests.chaos.counts import record
from tests.chaos.town import PATIENCE_S, Request, role_process
from tests.conftest import wait_until
from tests.desk import KINDS, Desk

pytestmark = [pytest.mark.chaos]


class SteppedArchive(Archive):
    """An archive that commits what it has, and counts every C-STORE-RQ as it arrives.

    Attributes
    ----------
    arrived
        Every C-STORE-RQ, whatever became of its answer.
    reached
        Called with the name of each step that the sender is at, before it gets on.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.arrived: list[Request] = []
        self.reached: Callable[[str, Any], None] = lambda _step, _event: None
        self.report_at_once()
        self._commit, self.on_request = self.on_request, self._on_proof

    def __enter__(self) -> SteppedArchive:
        super().__enter__()
        (server,) = self._ae._servers
        server.bind(evt.EVT_REQUESTED, lambda event: self.reached("asks for an association", event))
        server.bind(evt.EVT_ESTABLISHED, self._on_established)
        return self

    def _on_established(self, event: evt.Event) -> None:
        state_machine = event.assoc.dul.state_machine
        wait_until(lambda: state_machine.current_state != "Sta3", what="the acceptance to be sent (PS3.8 9.2.1)")
        self.reached("has its association", event)

    def _on_store(self, event: evt.Event) -> int:
        digest = hashlib.sha256(event.request.DataSet.getvalue()).hexdigest()
        self.arrived.append(Request(str(event.request.AffectedSOPInstanceUID), digest))
        self.reached("waits for the answer to an object", event)
        return super()._on_store(event)

    def _on_proof(self, request: ProofRequest) -> int:
        self.reached("waits for the answer to a request for a proof", request)
        return self._commit(request)


STEPS = {
    "has a job and is not connected": 0,
    "asks for an association": 0,
    "has its association": 0,
    "waits for the answer to an object": 1,
    "has the answer to an object, which the ledger does not know": 1,
    "waits for the answer to a request for a proof": 0,
}
"""Step to the number of requests that come twice where the sender dies there."""


@contextmanager
def locked(dsn: str, table: str, mode: str) -> Iterator[psycopg.Connection[Any]]:
    """Keep others out of a table of the ledger."""
    with closing(psycopg.connect(dsn)) as connection:
        connection.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
        yield connection


def waits_for(dsn: str, table: str) -> bool:
    """Whether somebody waits to be let in."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass", (table,)
        ).fetchone()
    return row is not None and row[0] > 0


def kill_at(step: str, archive: SteppedArchive, settings: Settings, dsn: str) -> None:
    """Start the sending process, and kill it when it is at a step for the first time."""
    killer: list[threading.Thread] = []

    def kill() -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)

    def kill_before_the_ledger_knows(open_lock: psycopg.Connection[Any]) -> None:
        with closing(open_lock):
            wait_until(lambda: waits_for(dsn, "delivery"), PATIENCE_S, "the answer to be noted")
            kill()

    def reached(now_at: str, at: Any) -> None:
        if now_at == step:
            archive.reached = lambda _step, _event: None
            kill()
            if step == "has its association":
                at.assoc.abort()
        elif step == "has the answer to an object, which the ledger does not know" and not killer and archive.arrived:
            connection = psycopg.connect(dsn)
            connection.execute("LOCK TABLE delivery IN SHARE MODE")
            killer.append(threading.Thread(target=kill_before_the_ledger_knows, args=(connection,)))
            killer[0].start()

    archive.reached = reached
    if step == "has a job and is not connected":
        with (
            locked(dsn, "sender_death", "ACCESS EXCLUSIVE"),
            role_process(settings, dsn, "node.role", "deliver") as process,
        ):
            wait_until(lambda: waits_for(dsn, "sender_death"), PATIENCE_S, "the job to be taken")
            kill()
    else:
        with role_process(settings, dsn, "node.role", "deliver") as process:
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
    for thread in killer:
        thread.join(PATIENCE_S)
    archive.reached = lambda _step, _event: None


@pytest.mark.parametrize("step", STEPS)
def test_a_sender_that_is_killed_at_a_step_loses_nothing(tmp_path: Path, database: Database, step: str) -> None:
    with SteppedArchive(tmp_path / "pacs") as archive:
        proof = {"report_patience_s": (1, 2, 4), "report_wait_s": 5}
        desk = Desk(tmp_path, database, archive.port, {"commitment": "storage_commitment", "timeout_s": 60}, **proof)
        settings = desk.settings.model_copy(update={"work": Work(stalled_after_s=2, drain_s=10)})
        with database.transaction() as connection:
            Queue(database.dsn).wake_delivery(connection, desk.answer_id, "pacs")
        kill_at(step, archive, settings, database.dsn)
        before = len(archive.arrived)
        keeper = Keeper(settings, database)

        def confirmed() -> bool:
            keeper.round()
            return {row["state"] for row in desk.rows()} == {"confirmed"}

        with role_process(settings, database.dsn, "node.role", "deliver"):
            wait_until(confirmed, PATIENCE_S, f"everything to be proven: {[row['state'] for row in desk.rows()]}")
            wait_until(lambda: _deaths(database) == 0, PATIENCE_S, "the death to be forgotten")
        digests: dict[str, set[str]] = {}
        for request in archive.arrived:
            digests.setdefault(request.sop_instance_uid, set()).add(request.sha256)
        repeats = len(archive.arrived) - len(digests)
    record(
        f"sender killed when it {step}",
        kills=1,
        expected=len(KINDS),
        received=len(digests),
        duplicates=repeats,
        **{"digests per UID": {1: len(digests)}, "before the kill": before},
    )
    assert set(digests) == {row["sop_instance_uid"] for row in desk.rows()}
    assert {len(found) for found in digests.values()} == {1}, "the same bytes"
    assert repeats == STEPS[step]
    with database.transaction() as connection:
        died = connection.execute("SELECT subject FROM event WHERE kind = 'worker_died'").fetchall()
    assert [row["subject"] for row in died] == [f"delivery:pacs:{desk.answer_id}"], "and the ledger says so"


def _deaths(database: Database) -> int:
    with database.transaction() as connection:
        row = connection.execute("SELECT count(*) AS n FROM sender_death").fetchone()
    return 0 if row is None else int(row["n"])
