"""SIGKILL at random: nothing acknowledged is lost, nothing comes twice under another name, and the node goes on.

The short form is part of every test run; ``SPINE_NODE_CHAOS_KILLS`` sets how often something dies (``make chaos``).
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import RunningNode, stage
from node.ledger import Database, intake, overview
from node.service import ledger_of
from tests import ledger
from tests.chaos.counts import record, unexplained_answers
from tests.chaos.department import RESULTS_PER_ANSWER, Department
from tests.chaos.killer import Killer
from tests.conftest import wait_until
from tests.integration.test_ledger import instance

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]

KILLS = int(os.environ.get("SPINE_NODE_CHAOS_KILLS", "12"))
SEED = int(os.environ.get("SPINE_NODE_CHAOS_SEED", "7"))
PATIENCE_S = 300.0


def test_random_kills_lose_nothing_and_repeat_only_the_same_bytes(
    tmp_path: Path, shipped_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with SmallPacs(tmp_path / "pacs") as pacs:
        destination = {"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE, "timeout_s": 10}
        sections = {
            "study": {"quiet_s": 3.0},
            "receive": {"port": 0},
            "destinations": [destination],
            "work": {"stalled_after_s": 3.0, "max_attempts": 50, "drain_s": 5},
            "deliver": {"backoff_s": [0.5]},
        }
        with stage(site="chaos", **sections) as node:
            killer = Killer(node, SEED)
            with Department(tmp_path / "studies", max(4, KILLS), lambda: node.port, every_s=0.5) as department:
                for _ in range(KILLS):
                    killer.strike()
                wait_until(lambda: not department.busy, PATIENCE_S, f"everything to be sent: {node.tail()}")
                wait_until(lambda: _done(node, len(department.studies)), PATIENCE_S, f"all answers: {node.tail()}")
            with ledger_of(node.settings) as database, database.transaction() as connection:
                entered = {
                    r["uid"] for r in connection.execute("SELECT DISTINCT sop_instance_uid AS uid FROM instance")
                }
                answers = overview.counts(connection)["answers"]
                results = {r["uid"] for r in connection.execute("SELECT sop_instance_uid AS uid FROM result")}
                last = connection.execute(
                    "SELECT DISTINCT ON (study_uid) study_uid, status, state FROM answer ORDER BY study_uid, id DESC"
                ).fetchall()
                unexplained = unexplained_answers(connection)
            quarantined = list((node.settings.spool_dir / "quarantine").glob("*"))
        digests: dict[str, set[str]] = {}
        for item in pacs.received:
            digests.setdefault(item.sop_instance_uid, set()).add(item.sha256)
        repeats = len(pacs.received) - len(digests)
        with capsys.disabled():
            record(
                f"{sum(killer.killed.values())} kills",
                sent=department.counts.sent,
                acknowledged=len(department.counts.acknowledged),
                **{"in the ledger": len(entered), "torn files set aside": len(quarantined)},
                answers=f"{answers} of {len(department.studies)} studies",
                expected=len(results),
                received=len(digests),
                duplicates=repeats,
                **{"digests per UID": dict(Counter(len(found) for found in digests.values()))},
                killed=dict(killer.killed),
            )
        assert department.counts.acknowledged <= entered
        assert len(entered) == 12 * len(department.studies)
        assert {row["status"] for row in last} == {"not_evaluable"}
        assert len(last) == len(department.studies)
        assert unexplained == [], "one answer of each series, and one more only where images of it came later"
        assert len(results) == RESULTS_PER_ANSWER * answers
        assert set(digests) == results
        assert {len(found) for found in digests.values()} == {1}, "one digest under one UID"
        assert repeats <= killer.killed["deliver"] + killer.killed["everything"] + killer.killed["database"]


def _done(node: RunningNode, studies: int) -> bool:
    """Every study evaluated and every result delivered; the ledger may be away for a while."""
    try:
        with ledger_of(node.settings) as database, database.transaction() as connection:
            found = overview.studies(connection, limit=10_000)
    except (psycopg.Error, PoolTimeout):
        return False
    return (
        len(found) == studies
        and all(study["state"] == "evaluated" and study["answers"] for study in found)
        and not any(study["deliveries"].get("pending") for study in found)
    )


def test_an_answer_that_no_image_explains_is_seen(database: Database) -> None:
    with database.transaction() as connection:
        for number, (uid, digest) in enumerate((("1.2.1", "a"), ("1.2.1", "a"), ("1.2.2", "a")), 1):
            intake.register(connection, [instance(str(number), uid, digest)])
            ledger.finish(connection, ledger.claim(connection, f"in{number}"), [])
            connection.execute(
                "UPDATE answer SET provenance = jsonb_build_object('last_instance_id', %s::bigint) WHERE id = %s",
                (number, number),
            )
        assert [row["revision"] for row in unexplained_answers(connection)] == [2], "a duplicate explains nothing"
        connection.execute("UPDATE answer SET state = 'superseded' WHERE id = 2")
        assert [row["revision"] for row in unexplained_answers(connection)] == [3], "the second one is missing"
        connection.execute("UPDATE answer SET revision = 2 WHERE id = 3")
        assert unexplained_answers(connection) == []
        intake.register(connection, [instance("4", "1.2.3", "a")])
        assert [row["revision"] for row in unexplained_answers(connection)] == [2], "it does not rest on all of them"
