"""Two listeners behind one address, three workers, one PostgreSQL and storage: killed at random, nothing lost or twice.

The short form is part of every test run; ``SPINE_NODE_CHAOS_KILLS`` sets how often something dies (``make chaos``).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from node.demo.pacs import AE_TITLE
from node.ledger import overview
from node.service import ledger_of
from node.settings import Settings
from tests.archive import Archive
from tests.chaos.counts import record
from tests.chaos.department import RESULTS_PER_ANSWER
from tests.cluster.killer import MachineKiller
from tests.cluster.machines import LISTENER, WORKER, cluster
from tests.cluster.server import fresh_database, postgres_server
from tests.cluster.splitter import Splitter
from tests.cluster.traffic import SplitDepartment
from tests.conftest import wait_until

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]

KILLS = int(os.environ.get("SPINE_NODE_CHAOS_KILLS", "4"))
SEED = int(os.environ.get("SPINE_NODE_CHAOS_SEED", "7"))
PATIENCE_S = 300.0
IN_FULL = KILLS > 20
SHORT_WORKERS = {"worker1": WORKER, "worker2": ("evaluate",), "worker3": ("deliver",)}
"""Fewer processes to start."""


def sections(pacs_port: int, stalled_after_s: float = 15.0) -> dict[str, Any]:
    """A configuration that waits for nothing longer than needed.

    On a machine with too much to do a living worker's heartbeat may be seconds late; a result is then sent twice.
    """
    destination = {"name": "pacs", "host": "127.0.0.1", "port": pacs_port, "ae_title": AE_TITLE, "timeout_s": 10}
    return {
        "site": "cluster",
        "study": {"quiet_s": 2.0},
        "receive": {"port": 0},
        "destinations": [destination],
        "work": {"stalled_after_s": stalled_after_s, "max_attempts": 50, "drain_s": 5},
        "deliver": {"backoff_s": [0.5]},
    }


def test_machines_die_at_random_and_every_result_comes_once(tmp_path: Path, shipped_models: Path) -> None:
    workers = dict.fromkeys(SHORT_WORKERS, WORKER) if IN_FULL else SHORT_WORKERS
    roles = {"listener1": LISTENER, "listener2": LISTENER, **workers}
    with (
        postgres_server() as server,
        Archive(tmp_path / "pacs") as pacs,
        cluster(fresh_database(server), roles, **sections(pacs.port, 4.0)) as machines,
        Splitter(machines.ports) as splitter,
    ):
        killer = MachineKiller(machines, SEED)
        studies = max(4, KILLS // 2)
        with SplitDepartment(tmp_path / "studies", studies, lambda: splitter.port, every_s=0.5) as department:
            for _ in range(KILLS):
                killer.strike()
            wait_until(lambda: not department.busy, PATIENCE_S, f"everything to be sent: {machines.tail()}")
            wait_until(lambda: done(machines.settings, studies), PATIENCE_S, f"all answers: {machines.tail()}")
        with ledger_of(machines.settings) as database, database.transaction() as connection:
            entered = {r["uid"] for r in connection.execute("SELECT DISTINCT sop_instance_uid AS uid FROM instance")}
            answers = overview.counts(connection)["answers"]
            results = {r["uid"] for r in connection.execute("SELECT sop_instance_uid AS uid FROM result")}
            last = connection.execute(
                "SELECT DISTINCT ON (study_uid) status FROM answer ORDER BY study_uid, id DESC"
            ).fetchall()
        digests: dict[str, set[str]] = {}
        for item in list(pacs.received):
            digests.setdefault(item.sop_instance_uid, set()).add(item.sha256)
        repeats = len(pacs.received) - len(digests)
    killed = {f"{name}/{what}": count for (name, what), count in sorted(killer.killed.items())}
    record(
        f"{sum(killed.values())} kills among five machines",
        sent=department.counts.sent,
        acknowledged=len(department.counts.acknowledged),
        expected=RESULTS_PER_ANSWER * answers,
        received=len(digests),
        duplicates=repeats,
        answers=f"{answers} of {studies} studies",
        connections_by_listener=sorted(splitter.served.values()),
        killed=killed,
        **{"in the ledger": len(entered), "digests per UID": dict(Counter(map(len, digests.values())))},
    )
    assert len(splitter.served) >= 2, "series were split across the listeners"
    assert department.counts.acknowledged <= entered
    assert len(entered) == 12 * studies
    assert [row["status"] for row in last] == ["not_evaluable"] * studies
    assert len(results) == RESULTS_PER_ANSWER * answers
    assert set(digests) == results
    assert {len(found) for found in digests.values()} == {1}, "one digest under one UID"
    assert repeats <= killer.deaths("deliver") * RESULTS_PER_ANSWER * 2


def done(settings: Settings, studies: int) -> bool:
    """Every study evaluated and every result delivered; not asked more than twice a second."""
    time.sleep(0.5)
    try:
        with ledger_of(settings) as database, database.transaction() as connection:
            found = overview.studies(connection, limit=10_000)
    except (psycopg.Error, PoolTimeout):
        return False
    return (
        len(found) == studies
        and all(study["state"] == "evaluated" and study["answers"] for study in found)
        and not any(study["deliveries"].get("pending") for study in found)
    )
