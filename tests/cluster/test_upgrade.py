"""An upgrade finds old jobs and runs them: a ledger of the schema before, work in every state, and nothing twice."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import procrastinate
import psycopg
import pytest
from procrastinate.schema import SchemaManager
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from node.ledger import Database
from node.queue import Queue
from node.receive.registrar import Registrar
from node.receive.spool import ReceivedObject, Spool
from node.service import ledger_of
from tests.archive import Archive
from tests.chaos.counts import record
from tests.chaos.department import RESULTS_PER_ANSWER, write_study
from tests.cluster.machines import LISTENER, WORKER, Cluster, cluster
from tests.cluster.server import fresh_database, postgres_server
from tests.cluster.test_machines import done, sections
from tests.cluster.traffic import SplitDepartment
from tests.conftest import wait_until
from tests.dicom import STUDY, ct_slice

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]

WAITING, HALF_DONE, UNREGISTERED, UNSENT = (f"{STUDY}.{number}" for number in (801, 802, 803, 804))
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def migrations() -> list[tuple[int, str, bytes]]:
    """(version, name, script) of each migration in order."""
    entries = [entry for entry in files("node.ledger").joinpath("migrations").iterdir() if entry.name.endswith(".sql")]
    return sorted((int(entry.name.split("_")[0]), entry.name, entry.read_bytes()) for entry in entries)


def former_schema(dsn: str) -> None:
    """Ledger and queue as the version before left them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE schema_version"
            " (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for version, name, script in migrations()[:-1]:
            connection.execute(script)
            connection.execute("INSERT INTO schema_version (version, name) VALUES (%s, %s)", (version, name))
        connection.execute(SchemaManager.get_schema().encode())


def store(spool: Spool, files: list[Path]) -> None:
    """Acknowledged by the former listener: in the spool, not yet in the ledger."""
    for path in files:
        raw = path.read_bytes()
        meta = dcmread(path, stop_before_pixels=True).file_meta
        spool.store(
            ReceivedObject(
                data_set=raw[144 + int.from_bytes(raw[140:144], "little") :],
                sop_class_uid=meta.MediaStorageSOPClassUID,
                sop_instance_uid=meta.MediaStorageSOPInstanceUID,
                transfer_syntax=meta.TransferSyntaxUID,
                calling_ae="CT1",
                called_ae="SPINENODE",
                received_at=datetime.now(UTC),
            )
        )


def work_in_every_state(machines: Cluster, dsn: str, folder: Path) -> None:
    """What the former version was at when it was stopped: a study each that waits, was begun, was not registered, and
    has a result that was not sent."""
    spool = Spool(machines.settings.spool_dir)
    for study_uid in (WAITING, HALF_DONE):
        store(spool, write_study(folder / study_uid, study_uid))
    queue = Queue(dsn)
    with Database(dsn) as database:
        registrar = Registrar(spool, database, lambda connection, uid: queue.wake_evaluation(connection, uid, 1.0))
        registrar.start()
        registrar.stop(30.0)
        store(spool, write_study(folder / UNREGISTERED, UNREGISTERED))
        with database.transaction() as connection:
            worker = connection.execute(
                "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour') RETURNING id"
            ).fetchone()
            assert worker is not None
            connection.execute(
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE lock = %s",
                (worker["id"], f"study:{HALF_DONE}"),
            )
            connection.execute("UPDATE study SET attempts = 1 WHERE study_uid = %s", (HALF_DONE,))
            connection.execute("INSERT INTO study (study_uid, last_instance_at) VALUES (%s, now())", (UNSENT,))
            answer = connection.execute(
                "INSERT INTO answer (study_uid, pipeline, series_uid, revision, input_sha256, configuration_sha256,"
                " software_version, started_at, attempt, state, status, sent)"
                " VALUES (%s, 'ct', '1.2', 1, 'in', 'c', '0', %s, 1, 'done', 'evaluated', true) RETURNING id",
                (UNSENT, STARTED),
            ).fetchone()
            assert answer is not None
            data_set = ct_slice(0, UNSENT, f"{UNSENT}.1")
            data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
            path = machines.settings.outbox_dir / "capture.dcm"
            data_set.save_as(path, enforce_file_format=True)
            raw = path.read_bytes()
            result = connection.execute(
                "INSERT INTO result (answer_id, position, kind, sop_class_uid, sop_instance_uid, series_uid,"
                " outbox_name, bytes, sha256) VALUES (%s, 0, 'capture', %s, %s, %s, %s, %s, %s) RETURNING id",
                (
                    answer["id"],
                    data_set.SOPClassUID,
                    data_set.SOPInstanceUID,
                    data_set.SeriesInstanceUID,
                    path.name,
                    len(raw),
                    hashlib.sha256(raw).hexdigest(),
                ),
            ).fetchone()
            assert result is not None
            connection.execute("INSERT INTO delivery (result_id, destination) VALUES (%s, 'pacs')", (result["id"],))
            app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=dsn))
            key = f"delivery:pacs:{answer['id']}"
            app.configure_task(  # the queue that all destinations shared
                "deliver", queue="deliver", lock=key, queueing_lock=key, connection=connection, allow_unknown=True
            ).defer(answer_id=answer["id"], destination="pacs")


def test_old_jobs_in_flight_are_finished_by_the_new_version_once(tmp_path: Path, shipped_models: Path) -> None:
    roles = {"listener": LISTENER, "worker1": WORKER}
    with postgres_server() as server, Archive(tmp_path / "pacs") as pacs:
        dsn = fresh_database(server)
        former_schema(dsn)
        with (
            cluster(
                dsn,
                roles,
                lambda made: work_in_every_state(made, dsn, tmp_path / "studies"),
                **sections(pacs.port),
            ) as machines,
            SplitDepartment(tmp_path / "new", 1, lambda: machines.ports()[0]) as department,
        ):
            wait_until(lambda: not department.busy, 120.0, f"the new study to be sent: {machines.tail()}")
            wait_until(
                lambda: done(machines.settings, 5), 180.0, f"old jobs and new ones to be finished: {machines.tail()}"
            )
            with ledger_of(machines.settings) as database, database.transaction() as connection:
                versions = [r["version"] for r in connection.execute("SELECT version FROM schema_version ORDER BY 1")]
                evaluated = connection.execute(
                    "SELECT study_uid, count(*) AS n, max(revision) AS revision FROM answer GROUP BY 1"
                ).fetchall()
                results = {r["uid"] for r in connection.execute("SELECT sop_instance_uid AS uid FROM result")}
        received = [item.sop_instance_uid for item in pacs.received]
    record(
        "old jobs in flight at an upgrade",
        expected=4 * RESULTS_PER_ANSWER + 1,
        received=len(set(received)),
        duplicates=len(received) - len(set(received)),
    )
    assert versions == [version for version, _, _ in migrations()]
    assert {row["study_uid"] for row in evaluated} == {
        WAITING,
        HALF_DONE,
        UNREGISTERED,
        UNSENT,
        *department.studies,
    }
    assert {(row["n"], row["revision"]) for row in evaluated} == {(1, 1)}, "nothing was answered twice"
    assert len(results) == 4 * RESULTS_PER_ANSWER + 1
    assert sorted(received) == sorted(results), "each result was sent once"
