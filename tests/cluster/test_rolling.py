"""A rolling upgrade with the real former program: taken from the history of this checkout, before its newest migration.

Part of ``make chaos``: in a short run, or without a history, it is skipped, saying so.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from node.demo.stage import RunningNode
from node.service import ledger_of
from tests.archive import Archive
from tests.chaos.counts import record
from tests.chaos.department import RESULTS_PER_ANSWER
from tests.cluster.machines import LISTENER, PATIENCE_S, WORKER, Cluster, cluster
from tests.cluster.server import fresh_database, postgres_server
from tests.cluster.splitter import Splitter
from tests.cluster.test_machines import IN_FULL, done, sections
from tests.cluster.test_upgrade import migrations
from tests.cluster.traffic import SplitDepartment
from tests.conftest import REPOSITORY, wait_until

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]

BEFORE, DURING = 3, 5
"""Studies that are sent to the former program alone, and while both are at work."""


@pytest.fixture
def former_program(tmp_path: Path) -> Path:
    """The sources as they were before the newest migration came."""
    if not IN_FULL:
        pytest.skip("a rolling upgrade from the former program is part of make chaos")
    newest = f"node/ledger/migrations/{migrations()[-1][1]}"
    git = ["git", "-C", str(REPOSITORY)]
    added = subprocess.run(
        [*git, "log", "--first-parent", "-m", "--diff-filter=A", "--format=%H", "--", newest],
        capture_output=True,
        text=True,
        check=False,
    )
    if added.returncode != 0 or not added.stdout.strip():
        pytest.skip(f"the history of {newest} is not here: this is no checkout")
    folder = tmp_path / "former"
    folder.mkdir()
    commit = added.stdout.split()[-1] + "^"
    archive = subprocess.run([*git, "archive", commit], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def test_the_former_program_and_the_new_one_share_ledger_and_storage_for_a_while(
    tmp_path: Path, former_program: Path, shipped_models: Path
) -> None:
    class Former(RunningNode):
        source = former_program

    with postgres_server() as server, Archive(tmp_path / "pacs") as pacs:
        dsn = fresh_database(server)
        (tmp_path / "old").mkdir()
        common = sections(pacs.port)
        former: list[RunningNode] = []

        def start_former(made: Cluster) -> None:
            machine = Former(tmp_path / "old", data_dir=str(made.storage), database_dsn=dsn, **common)
            stack.callback(machine.stop)
            machine.start(wait=False)
            machine.await_ready(PATIENCE_S)
            former.append(machine)
            assert versions(dsn) == migrations_of(former_program)
            stack.enter_context(early)
            wait_until(lambda: len(pacs.received) >= 2, 240.0, f"first results of the former program: {machine.tail()}")

        ports: list[int] = []
        with ExitStack() as stack, Splitter(lambda: ports or [former[0].port]) as splitter:
            early = SplitDepartment(tmp_path / "early", BEFORE, lambda: splitter.port, every_s=1.0)
            late = SplitDepartment(tmp_path / "late", DURING, lambda: splitter.port, every_s=1.0)
            late.studies = [f"{study_uid}.2" for study_uid in late.studies]
            with cluster(dsn, {"listener": LISTENER, "worker": WORKER}, start_former, **common) as machines:
                assert versions(dsn) == [version for version, _, _ in migrations()]
                ports = [former[0].port, *machines.ports()]
                os.kill(former[0].pids["evaluate"], signal.SIGKILL)  # its successor finds the new schema
                sent = len(pacs.received)
                stack.enter_context(late)
                wait_until(lambda: len(pacs.received) >= sent + 4, 240.0, f"both at work: {machines.tail()}")
                ports = machines.ports()
                assert former[0].stop() == 0
                wait_until(lambda: not (early.busy or late.busy), 240.0, f"everything to be sent: {machines.tail()}")
                wait_until(lambda: done(machines.settings, BEFORE + DURING), 240.0, f"answers: {machines.tail()}")
                with ledger_of(machines.settings) as database, database.transaction() as connection:
                    results = {r["uid"] for r in connection.execute("SELECT sop_instance_uid AS uid FROM result")}
                    answers = connection.execute(
                        "SELECT study_uid, count(*) AS n FROM answer WHERE state = 'done' GROUP BY 1"
                    ).fetchall()
                    entered = connection.execute("SELECT count(DISTINCT sop_instance_uid) AS n FROM instance")
                    images = entered.fetchone()
        received = [item.sop_instance_uid for item in pacs.received]
    assert images is not None
    acknowledged = early.counts.acknowledged | late.counts.acknowledged
    record(
        "former program and new one side by side, one kill",
        sent=early.counts.sent + late.counts.sent,
        acknowledged=len(acknowledged),
        expected=len(results),
        received=len(set(received)),
        duplicates=len(received) - len(set(received)),
        **{"in the ledger": images["n"]},
    )
    assert images["n"] == len(acknowledged) == 12 * (BEFORE + DURING)
    assert len(answers) == BEFORE + DURING
    assert sum(row["n"] for row in answers) * RESULTS_PER_ANSWER == len(results)
    assert sorted(received) == sorted(results), "each result was sent once"


def migrations_of(program: Path) -> list[int]:
    """Versions that a program brings: at least one fewer than this one, more where several came by one merge."""
    brought = sorted(int(path.name.split("_")[0]) for path in (program / "node/ledger/migrations").glob("*.sql"))
    assert brought == [version for version, _, _ in migrations()][: len(brought)]
    assert len(brought) < len(migrations())
    return brought


def versions(dsn: str) -> list[int]:
    """Versions of the schema that are applied."""
    with psycopg.connect(dsn) as connection:
        return [int(row[0]) for row in connection.execute("SELECT version FROM schema_version ORDER BY 1")]
