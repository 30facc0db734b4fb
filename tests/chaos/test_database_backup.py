"""Back-up and restore: another machine goes on with what was outstanding, with the same UIDs and the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from pydicom import dcmread

from inference.geometry import Radiograph
from node.backup import BackupError, back_up, restore
from node.deliver.courier import Courier
from node.demo.pacs import AE_TITLE, SmallPacs
from node.ledger import Database, DatabaseError, intake
from node.ledger.dump import dump, load
from node.ledger.queue_schema import APPLICATION
from node.machines import at_work
from node.receive.registrar import Registrar
from node.receive.spool import Spool
from node.results import FilmAnswer
from node.service import database_of_stopped, restore_marker, run
from node.settings import ConfigurationError, Settings
from node.workflow import Workflow
from tests.chaos.counts import record
from tests.integration.test_films import LATERAL, NO_CT, OTHER_LATERAL, STUDY, House
from tests.toy_film_pipeline import bodies_of, toy_film_pipeline
from tests.unit.test_spool import ARRIVED

pytestmark = [pytest.mark.chaos]

THIRD, FOURTH = (replace(LATERAL, sop_uid=f"1.2.{number}", description=f"LWS seitl. {number}") for number in (3, 4))


@pytest.fixture
def empty_dsn(database_server: str) -> Iterator[str]:
    """DSN of a database with nothing in it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield psycopg.conninfo.make_conninfo(database_server, dbname=name)
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def deliver(settings: Settings, database: Database, port: int) -> None:
    """Send everything that is outstanding."""
    there = settings.destinations[0].model_copy(update={"port": port, "ae_title": AE_TITLE})
    courier = Courier(settings.model_copy(update={"destinations": (there,)}), database)
    with database.transaction() as connection:
        answers = [row["id"] for row in connection.execute("SELECT id FROM answer WHERE state = 'done' ORDER BY id")]
    for answer_id in answers:
        courier.deliver(answer_id, "pacs")


def half_finished(house: House) -> dict[str, str]:
    """Evaluate up to the outbox and die before the ledger knows; digest of each result that was built, by UID."""

    class DyingError(BaseException):
        pass

    def die(*_: object) -> None:
        raise DyingError

    workflow = Workflow(house.settings, house.database, NO_CT, house.films)
    before = set(house.settings.outbox_dir.rglob("*.dcm"))
    workflow._finish = die  # type: ignore[method-assign]
    with pytest.raises(DyingError):
        workflow.evaluate_study(STUDY)
    made = set(house.settings.outbox_dir.rglob("*.dcm")) - before
    return {
        str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in made
    }


def test_an_empty_machine_goes_on_with_what_was_undelivered(tmp_path: Path, database: Database, empty_dsn: str) -> None:
    (tmp_path / "lost").mkdir()
    house = House(tmp_path / "lost", database)
    with SmallPacs(tmp_path / "pacs") as pacs:
        house.receive(LATERAL.dataset())
        deliver(house.settings, database, pacs.port)
        assert len(pacs.received) == 3
        house.receive(OTHER_LATERAL.dataset())  # answered, and not delivered
        house.evaluate = lambda: None  # type: ignore[method-assign]
        house.receive(THIRD.dataset())
        built = half_finished(house)
        house.receive(FOURTH.dataset())  # registered, and not looked at
        back_up(house.settings, database.dsn, tmp_path / "backup")
        shutil.rmtree(tmp_path / "lost")

        settings = house.settings.model_copy(update={"data_dir": tmp_path / "new", "database_dsn": empty_dsn})
        manifest = restore(settings, tmp_path / "backup")
        assert (manifest.images, manifest.damaged) == (4, 0)
        with Database(empty_dsn) as restored:
            Registrar(Spool(settings.spool_dir), restored, lambda _connection, _study: None).enter_spool()
            Workflow(settings, restored, NO_CT, house.films).evaluate_study(STUDY)
            deliver(settings, restored, pacs.port)
            with restored.transaction() as connection:
                rows = connection.execute("SELECT sop_instance_uid AS uid, sha256 FROM result").fetchall()
                left = connection.execute("SELECT state FROM delivery WHERE state <> 'stored'").fetchall()
                events = [row["kind"] for row in intake.events(connection, 10)]
                images = connection.execute("SELECT count(*) AS n FROM instance").fetchone()
    results = {row["uid"]: row["sha256"] for row in rows}
    received = [item.sop_instance_uid for item in pacs.received]
    assert images == {"n": 4}
    assert len(results) == len(received) == len(set(received)) == 12, "each result once, none under a second UID"
    assert set(received) == set(results)
    assert {uid: results[uid] for uid in built} == built, "what was built and not entered has the same UIDs and bytes"
    assert len(built) == 3
    assert left == []
    assert "restored" in events
    record("restored into an empty machine", sent=4, acknowledged=4, expected=12, received=12, duplicates=0,
           **{"in the ledger": 4, "digests per UID": {1: 12}})  # fmt: skip


def test_an_answer_that_the_restored_ledger_does_not_know_comes_again_with_the_same_bytes(
    tmp_path: Path, database: Database, empty_dsn: str
) -> None:
    """The archive has results which were made after the back-up: under their UIDs there must never be other bytes."""
    (tmp_path / "lost").mkdir()
    house = House(tmp_path / "lost", database)
    house.films = toy_film_pipeline(with_durations)
    evaluate, house.evaluate = house.evaluate, lambda: None  # type: ignore[method-assign]
    with SmallPacs(tmp_path / "pacs") as pacs:
        house.receive(LATERAL.dataset())
        house.receive(OTHER_LATERAL.dataset())
        back_up(house.settings, database.dsn, tmp_path / "backup")
        evaluate()
        deliver(house.settings, database, pacs.port)
        assert len(pacs.received) == 6
        with database.transaction() as connection:
            connection.execute("UPDATE answer SET started_at = started_at - interval '1 day'")  # it was yesterday

        settings = house.settings.model_copy(update={"data_dir": tmp_path / "new", "database_dsn": empty_dsn})
        restore(settings, tmp_path / "backup")
        with Database(empty_dsn) as restored:
            Workflow(settings, restored, NO_CT, house.films).evaluate_study(STUDY)
            deliver(settings, restored, pacs.port)
        digests: dict[str, set[str]] = {}
        for item in pacs.received:
            digests.setdefault(item.sop_instance_uid, set()).add(item.sha256)
        dates = {(ds.ContentDate, ds.ContentTime) for ds in map(dcmread, pacs.stored().values())}
    record("ledger older than the last results", sent=2, acknowledged=2, expected=6, received=len(digests),
           duplicates=len(pacs.received) - len(digests),
           **{"digests per UID": dict(Counter(map(len, digests.values())))})  # fmt: skip
    assert len(pacs.received) == 12
    assert len(digests) == 6, "no result under a second UID"
    assert {len(found) for found in digests.values()} == {1}, "no second digest under one UID"
    assert dates == {(f"{ARRIVED:%Y%m%d}", f"{ARRIVED:%H%M%S}")}, "dated by the last image that they rest on"


def with_durations(film: Radiograph, age: float | None, progress: Callable[[str], None] | None) -> FilmAnswer:
    """As the networks answer: with the seconds that it took, which are never the same."""
    said = bodies_of(film, age, progress)
    return replace(said, findings=replace(said.findings, timings_s={"points": time.perf_counter()}))


def test_what_is_not_whole_or_not_empty_is_refused(tmp_path: Path, database: Database, empty_dsn: str) -> None:
    house = House(tmp_path, database)
    house.receive(LATERAL.dataset())
    backup = tmp_path / "backup"
    back_up(house.settings, database.dsn, backup)
    with pytest.raises(BackupError, match=r"is not empty"):
        back_up(house.settings, database.dsn, backup)
    with pytest.raises(BackupError, match=r"holds images or results already"):
        restore(house.settings, backup)
    fresh = house.settings.model_copy(update={"data_dir": tmp_path / "new", "database_dsn": empty_dsn})
    with pytest.raises(BackupError, match=r"is of site 'test', the configuration says 'other'"):
        restore(fresh.model_copy(update={"site": "other"}), backup)
    with pytest.raises(BackupError, match=r"has a ledger already"):
        restore(fresh.model_copy(update={"database_dsn": database.dsn}), backup)
    dump = (backup / "ledger.dump").read_bytes()
    (backup / "ledger.dump").write_bytes(dump[:-1] + b"?")
    with pytest.raises(BackupError, match=r"was altered"):
        restore(fresh, backup)
    (backup / "ledger.dump").write_bytes(dump)
    (backup / "manifest.json").rename(backup / "kept")
    with pytest.raises(BackupError, match=r"no whole back-up"):
        restore(fresh, backup)
    (backup / "kept").rename(backup / "manifest.json")
    assert not list(tmp_path.glob("new/spool/*/*"))
    image = next((backup / "spool").glob("*/*.dcm"))
    image.unlink()
    with pytest.raises(BackupError, match=r"files are missing"):
        restore(fresh, backup)
    with pytest.raises(DatabaseError, match=r"was interrupted: then empty it"):
        run(fresh)
    restore_marker(fresh).unlink()
    with pytest.raises(DatabaseError, match=r"pg_dump failed: .*refused"):
        back_up(fresh, "postgresql://postgres:secret@127.0.0.1:1/x", tmp_path / "other")


def test_half_a_dump_loads_nothing(tmp_path: Path, database: Database, empty_dsn: str) -> None:
    path = tmp_path / "ledger.dump"
    dump(database.dsn, path)
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:length])
        with pytest.raises(DatabaseError, match=r"pg_restore failed"):
            load(empty_dsn, path)
        with psycopg.connect(empty_dsn) as connection:
            assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    path.write_bytes(whole)
    load(empty_dsn, path)
    with pytest.raises(DatabaseError, match=r"psql failed: .*already exists"):
        load(empty_dsn, path)


def test_a_password_is_on_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[list[str], dict[str, str]]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **how: Any) -> None:
            called.append((command, how.get("env") or {}))
            super().__init__(["false"], **how)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    for step in (dump, load):
        with pytest.raises(DatabaseError):
            step("postgresql://somebody:geheim@db.example/ledger", tmp_path / "ledger.dump")
    assert [Path(command[0]).name for command, _ in called] == ["pg_dump", "pg_restore", "psql"]
    assert not [command for command, _ in called if "geheim" in " ".join(command)]
    assert [env.get("PGPASSWORD") for _, env in called] == ["geheim", None, "geheim"]


def spine_node(folder: Path, *arguments: str, major: str = "") -> str:
    """A command of the node with a configuration of its own; ``major`` chooses the private PostgreSQL's version."""
    configuration = folder / "node.yaml"
    configuration.write_text(yaml.safe_dump({"data_dir": str(folder / "data")}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", *arguments, "--config", str(configuration)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **({"PGSERVER_POSTGRES_VERSION": major} if major else {})},
    )
    return f"{done.returncode} {done.stdout} {done.stderr}"


@pytest.mark.skipif("SPINE_NODE_CHAOS_KILLS" not in os.environ, reason="part of `make chaos`: three private servers")
def test_the_mend_for_another_major_version_is_true() -> None:
    folder = Path(tempfile.mkdtemp(prefix="spine-"))
    try:
        assert spine_node(folder, "jobs", "list", major="16").startswith("0 ")
        refused = spine_node(folder, "jobs", "list")
        assert refused.startswith("1 ") and "was written by PostgreSQL 16" in refused
        assert "0 back-up of" in spine_node(folder, "backup", str(folder / "backup"), major="16")
        (folder / "data").rename(folder / "data.old")
        assert "0 back-up of" in spine_node(folder, "restore", str(folder / "backup"))
        assert "restored" in spine_node(folder, "jobs", "events")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TwoMachines(House):
    """A house whose storage and ledger are shared, as those of several machines."""

    def __init__(self, folder: Path, database: Database) -> None:
        super().__init__(folder, database)
        shared = {"storage_dir": folder / "storage", "database_dsn": database.dsn}
        self.settings = self.settings.model_copy(update=shared)
        self.mount()
        self.spool = Spool(self.settings.spool_dir)

    def mount(self) -> None:
        for made in (self.settings.spool_dir, self.settings.outbox_dir):
            made.mkdir(mode=0o700, parents=True)

    def other_machine(self, dsn: str) -> Settings:
        return self.settings.model_copy(update={"data_dir": self.folder / "other", "database_dsn": dsn})

    def files(self) -> set[Path]:
        assert self.settings.storage_dir is not None
        return set(self.settings.storage_dir.rglob("*.dcm"))


def test_where_the_ledger_alone_was_lost_the_files_stay(tmp_path: Path, database: Database, empty_dsn: str) -> None:
    house = TwoMachines(tmp_path, database)
    house.receive(LATERAL.dataset())
    back_up(house.settings, database.dsn, tmp_path / "backup")
    house.receive(OTHER_LATERAL.dataset())  # since the back-up: in the spool alone when the ledger is lost
    next(iter(house.settings.outbox_dir.rglob("*.dcm"))).unlink()
    settings = house.other_machine(empty_dsn)
    with pytest.raises(BackupError, match=r"or, where only the ledger was lost, with --lost ledger"):
        restore(settings, tmp_path / "backup")
    before = {path: path.read_bytes() for path in house.files()}
    manifest = restore(settings, tmp_path / "backup", "ledger")
    assert manifest.images == manifest.missing == 0
    assert manifest.results <= 1, "the one that was deleted, if the back-up has it"
    assert {path: path.read_bytes() for path in house.files() & set(before)} == before
    with Database(empty_dsn) as restored:
        Registrar(Spool(settings.spool_dir), restored, lambda _connection, _study: None).enter_spool()
        Workflow(settings, restored, NO_CT, house.films).evaluate_study(STUDY)
        with restored.transaction() as connection:
            again = connection.execute("SELECT sop_instance_uid AS uid, sha256 FROM result").fetchall()
            said = [event["detail"]["lost"] for event in intake.events(connection, 10) if event["kind"] == "restored"]
    with database.transaction() as connection:
        former = connection.execute("SELECT sop_instance_uid AS uid, sha256 FROM result").fetchall()
    assert {(row["uid"], row["sha256"]) for row in again} == {(row["uid"], row["sha256"]) for row in former}
    assert len(again) == len(former) == 6
    assert said == ["ledger"]


def test_where_the_files_alone_were_lost_what_was_erased_does_not_come_back(tmp_path: Path, database: Database) -> None:
    house = TwoMachines(tmp_path, database)
    house.receive(LATERAL.dataset())
    house.receive(OTHER_LATERAL.dataset())
    back_up(house.settings, database.dsn, tmp_path / "backup")
    house.receive(THIRD.dataset())  # since the back-up: nowhere when the volume is lost
    with database.transaction() as connection:
        row = connection.execute("SELECT id, spool_name FROM instance ORDER BY id LIMIT 1").fetchone()
        assert row is not None
        intake.mark_erased(connection, [row["id"]])
    before = house.files() - {house.spool.path(row["spool_name"])}
    assert house.settings.storage_dir is not None
    shutil.rmtree(house.settings.storage_dir)
    database.pool.close()  # the machines are stopped
    with pytest.raises(ConfigurationError, match=r"is its volume mounted\?"):
        restore(house.settings, tmp_path / "backup", "files")
    house.mount()
    with pytest.raises(BackupError, match=r"has a ledger already"):
        restore(house.settings, tmp_path / "backup", "ledger")
    manifest = restore(house.settings, tmp_path / "backup", "files")
    assert (manifest.images, manifest.results, manifest.missing) == (1, 6, 4), "an image and its results are nowhere"
    assert house.files() < before
    assert len(before - house.files()) == 4


def test_a_restore_beneath_machines_that_run_is_refused_and_says_who_they_are(
    tmp_path: Path, database: Database, empty_dsn: str
) -> None:
    house = TwoMachines(tmp_path, database)
    back_up(house.settings, database.dsn, tmp_path / "backup")
    settings = house.other_machine(empty_dsn)
    with at_work(house.settings), pytest.raises(BackupError, match=rf"machines are at work on .*{tmp_path}/node\)"):
        restore(settings, tmp_path / "backup")
    with (  # its storage was emptied beneath it, and its lock with it: it has sessions still
        psycopg.connect(empty_dsn, application_name=APPLICATION),
        pytest.raises(BackupError, match=r"at work on the database, from this machine: stop it on every machine"),
    ):
        restore(settings, tmp_path / "backup")
    assert not restore_marker(settings).exists(), "nothing was begun"
    restore_marker(settings).touch()
    with pytest.raises(DatabaseError, match=r"is under way, or was interrupted"):
        run(house.settings)
    restore_marker(settings).unlink()
    restore(settings, tmp_path / "backup")


def test_a_node_that_runs_is_not_restored_into(tmp_path: Path, database: Database) -> None:
    house = House(tmp_path, database)
    back_up(house.settings, database.dsn, tmp_path / "backup")
    fresh = house.settings.model_copy(update={"data_dir": tmp_path / "new", "database_dsn": database.dsn})
    with database_of_stopped(fresh), pytest.raises(Exception, match=r"another node works on"):
        restore(fresh, tmp_path / "backup")
