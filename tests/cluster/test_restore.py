"""Several machines lose storage and ledger at once: what was acknowledged before the back-up is answered, and once."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from node.backup import BackupError, back_up, restore
from node.service import ledger_of, restore_marker
from tests.archive import Archive
from tests.chaos.counts import record
from tests.chaos.department import RESULTS_PER_ANSWER
from tests.cluster.machines import LISTENER, PATIENCE_S, WORKER, cluster
from tests.cluster.server import fresh_database, postgres_server
from tests.cluster.test_machines import done, sections
from tests.cluster.traffic import SplitDepartment
from tests.conftest import wait_until

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]

STUDIES = 3


def test_two_machines_are_restored_and_every_acknowledged_study_is_answered_once(
    tmp_path: Path, shipped_models: Path
) -> None:
    backup = tmp_path / "backup"
    with postgres_server() as server, Archive(tmp_path / "pacs") as pacs:
        dsn = fresh_database(server)
        with cluster(dsn, {"listener": LISTENER, "worker": WORKER}, **sections(pacs.port)) as machines:
            port = machines.ports()[0]
            with SplitDepartment(tmp_path / "studies", STUDIES, lambda: port, every_s=1.0) as department:
                wait_until(lambda: not department.busy, PATIENCE_S, f"everything to be sent: {machines.tail()}")
            back_up(machines.settings, dsn, backup)  # of machines that run: the last study is not answered yet
            wait_until(lambda: done(machines.settings, STUDIES), PATIENCE_S, f"all answers: {machines.tail()}")
            with ledger_of(machines.settings) as database, database.transaction() as connection:
                rows = connection.execute("SELECT sop_instance_uid AS uid, sha256 FROM result").fetchall()
            sent = {row["uid"]: row["sha256"] for row in rows}
            assert len(sent) == STUDIES * RESULTS_PER_ANSWER == len(pacs.received)

            seen = [path for path in machines.storage.rglob("*") if not path.is_symlink()]
            assert {path.name for path in seen} >= {"machines", "spool", "outbox"}
            assert [path for path in seen if path.stat().st_mode & 0o077] == [], "nobody else reads the shared storage"

            third = machines.settings.model_copy(update={"data_dir": tmp_path / "third"})
            with pytest.raises(BackupError, match=r"has a ledger already"):
                restore(third, backup, "ledger")
            machines.machines["listener"].kill()
            empty(server, dsn)
            for folder in (third.spool_dir, third.outbox_dir):
                shutil.rmtree(folder)
                folder.mkdir(mode=0o700)
            with pytest.raises(BackupError, match=rf"machines are at work on .*{machines.storage.parent}/worker"):
                restore(third, backup)
            machines.machines["worker"].kill()
            wait_until(lambda: not sessions(dsn), PATIENCE_S, "the killed worker's sessions to end")
            manifest = restore(third, backup)
            assert (manifest.images, manifest.damaged) == (len(department.counts.acknowledged), 0)
            assert not restore_marker(third).exists()

            for machine in machines.machines.values():
                machine.start(wait=False)
            for machine in machines.machines.values():
                machine.await_ready(PATIENCE_S)
            wait_until(lambda: done(machines.settings, STUDIES), PATIENCE_S, f"all answers again: {machines.tail()}")
            with ledger_of(machines.settings) as database, database.transaction() as connection:
                rows = connection.execute("SELECT sop_instance_uid AS uid, sha256 FROM result").fetchall()
        digests: dict[str, set[str]] = {}
        for item in pacs.received:
            digests.setdefault(item.sop_instance_uid, set()).add(item.sha256)
    repeats = len(pacs.received) - len(digests)
    record("two machines restored", sent=department.counts.sent, acknowledged=len(department.counts.acknowledged),
           expected=STUDIES * RESULTS_PER_ANSWER, received=len(digests), duplicates=repeats,
           **{"digests per UID": dict(Counter(map(len, digests.values())))})  # fmt: skip
    assert {row["uid"]: row["sha256"] for row in rows} == sent, "the same results, made again"
    assert set(digests) == set(sent), "no study was answered under another UID"
    assert {len(found) for found in digests.values()} == {1}, "one digest under one UID"
    assert repeats <= len(sent), "sent again at most once: the restored ledger did not know"


def empty(server: str, dsn: str) -> None:
    """The database is lost, and made anew under its name; sessions in it end."""
    name = conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())


def sessions(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND application_name LIKE 'spine-node%'"
        ).fetchone()
    assert row is not None
    return int(row[0])
