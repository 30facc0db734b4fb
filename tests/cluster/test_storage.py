"""A storage that several machines share: what makes a name durable there, who enters what a dead listener left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from node.backup import back_up
from node.erasing import erase_patient
from node.ledger import Database, DatabaseError, answers, intake
from node.ledger.intake import InstanceRow
from node.probe import probe
from node.process import check_storage
from node.receive import registrar as registrar_module
from node.receive import spool as spool_module
from node.receive.backlog import Backlog
from node.receive.registrar import Registrar
from node.receive.spool import OutOfSpaceError, Spool
from node.service import restore_marker, run
from node.settings import ConfigurationError, Settings, load_settings
from tests.conftest import wait_until
from tests.dicom import SERIES, STUDY
from tests.unit.test_spool import encoded_slice, received

LATER_S = 30.0


class Calls:
    """What is flushed, in order: a file by its descriptor's path, a directory by its path."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        fsync, fdatasync = os.fsync, os.fdatasync

        def note(name: str, call: Any, descriptor: int) -> None:
            self.made.append((name, str(Path(f"/proc/self/fd/{descriptor}").readlink())))
            call(descriptor)

        monkeypatch.setattr(os, "fsync", lambda descriptor: note("fsync", fsync, descriptor))
        monkeypatch.setattr(os, "fdatasync", lambda descriptor: note("fdatasync", fdatasync, descriptor))

    def after(self, position: int) -> list[tuple[str, str]]:
        return self.made[position:]


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "ceph", "fuse.glusterfs", "cifs", "overlay", ""])
def test_where_a_name_is_not_durable_by_itself_the_directory_is_flushed_before_the_acknowledgement(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "filesystem_type", lambda _path: kind)
    spool = Spool(tmp_path / "spool")
    calls = Calls(monkeypatch)
    first = str(spool.path(spool.store(received(b"12345678")).spool_name))
    folder = str(Path(first).parent)
    assert calls.made[-2:] == [("fdatasync", first), ("fsync", folder)]
    assert ("fsync", str(spool.folder)) in calls.made, "the hour's directory has a name, too"
    before = len(calls.made)
    second = str(spool.path(spool.store(received(b"12345678")).spool_name))
    assert calls.after(before) == [("fdatasync", second), ("fsync", folder)], "and so for every further instance"


@pytest.mark.parametrize("kind", sorted(spool_module.DURABLE_WITHOUT_DIRECTORY_SYNC))
def test_elsewhere_one_fdatasync_is_all(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "filesystem_type", lambda _path: kind)
    spool = Spool(tmp_path / "spool")
    spool.store(received(b"12345678"))
    calls = Calls(monkeypatch)
    second = str(spool.path(spool.store(received(b"12345678")).spool_name))
    assert calls.made == [("fdatasync", second)]


def test_a_directory_that_cannot_be_flushed_is_no_acknowledgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "filesystem_type", lambda _path: "nfs4")
    spool = Spool(tmp_path / "spool")
    spool.store(received(b"12345678"))
    stale = OSError(116, "Stale file handle")

    def fail(_descriptor: int) -> None:
        raise stale

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutOfSpaceError, match="Stale file handle"):
        spool.store(received(b"12345678"))
    assert len(list(spool.names())) == 1, "nothing is left of what was not acknowledged"


class Shared:
    """A spool with a study that a listener acknowledged, and did not live to register."""

    def __init__(self, folder: Path, database: Database, count: int = 3) -> None:
        self.database = database
        self.spool = Spool(folder / "spool")
        content = encoded_slice(folder)
        self.names = [self.spool.store(received(content + bytes(2 * n))).spool_name for n in range(count)]

    def age(self, seconds: float) -> None:
        """Move the files back in time, and their directories."""
        for name in self.names:
            for path in (self.spool.path(name), self.spool.path(name).parent):
                os.utime(path, (time.time() - seconds, time.time() - seconds))

    def registered(self) -> int:
        with self.database.transaction() as connection:
            return len(intake.registered(connection, self.names))

    def events(self) -> list[str]:
        with self.database.transaction() as connection:
            return [event["kind"] for event in intake.events(connection, 10)]

    def backlog(self, looks: Backlog, older_than_s: float = 0.0) -> list[str]:
        with self.database.transaction() as connection:
            return looks.names(connection, older_than_s)


def test_what_a_dead_listener_left_is_entered_by_another(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar_module, "ADOPT_PERIOD_S", 0.2)
    woken: list[str] = []
    living = Registrar(Spool(tmp_path / "spool"), database, lambda _connection, study: woken.append(study))
    living.start()
    try:
        shared = Shared(tmp_path, database, count=0)
        living.record("hello", "", {})
        wait_until(lambda: shared.events() == ["hello"], what="the living registrar to have read the spool")
        shared = Shared(tmp_path, database)
        torn = shared.spool.path(f"{Path(shared.names[0]).parent}/torn.dcm")
        torn.write_bytes(b"half of an instance")
        os.utime(torn, (time.time() - LATER_S, time.time() - LATER_S))
        time.sleep(0.6)
        assert shared.registered() == 0, "its own listener is given time"
        shared.age(LATER_S)
        wait_until(lambda: shared.registered() == 3, what="the instances to be adopted")
        wait_until(lambda: not torn.exists(), what="the torn file to be set aside: it would hold up every study")
    finally:
        living.stop()
    assert set(woken) == {STUDY}


def test_a_directory_that_is_wholly_registered_is_not_read_again_until_it_changes(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Shared(tmp_path, database)
    looks = Backlog(shared.spool)
    assert shared.backlog(looks) == sorted(shared.names)
    registrar = Registrar(shared.spool, database, lambda _connection, _study: None)
    registrar.enter_spool()
    shared.age(LATER_S)
    assert shared.backlog(looks) == []
    read: list[list[str]] = []
    hours = shared.spool.hours
    monkeypatch.setattr(shared.spool, "hours", lambda among: read.append(list(among)) or hours(among))
    assert shared.backlog(looks) == []
    assert read == [], "nothing has changed"
    late = shared.spool.store(received(encoded_slice(tmp_path) + bytes(64))).spool_name
    assert shared.backlog(looks) == [late]
    assert shared.backlog(looks, older_than_s=5.0) == [], "its registrar is given time"
    assert shared.backlog(Backlog(shared.spool)) == [late], "as by who looks for the first time"


def test_files_that_are_lost_do_not_hide_one_that_is_new(tmp_path: Path, database: Database) -> None:
    shared = Shared(tmp_path, database)
    Registrar(shared.spool, database, lambda _connection, _study: None).enter_spool()
    for name in shared.names[:2]:
        shared.spool.path(name).unlink()
    late = shared.spool.store(received(encoded_slice(tmp_path) + bytes(64))).spool_name
    assert shared.backlog(Backlog(shared.spool)) == [late]


def row(name: str, study_uid: str = STUDY) -> InstanceRow:
    uid = f"1.2.{int.from_bytes(name.encode(), 'big')}"
    at = datetime.now(UTC)
    return InstanceRow(name, at, "CT1", "NODE", "1.2", "1.2", uid, study_uid, SERIES, "P", "CT", 10, name)


def test_instances_of_one_study_become_visible_in_the_order_of_their_numbers(dsn: str) -> None:
    """Two listeners register at the same time: whoever began first is through before the other gets a number."""
    with Database(dsn, connections=3) as database:
        second_done = threading.Event()

        def second() -> None:
            with database.transaction() as connection:
                intake.register(connection, [row("second")])
            second_done.set()

        with database.transaction() as connection:
            intake.register(connection, [row("first")])
            thread = threading.Thread(target=second)
            thread.start()
            assert not second_done.wait(0.5), "an evaluation would see the second one, and never look for the first"
            with database.transaction() as other:
                intake.register(other, [row("elsewhere", "1.2.840")])  # another study is not held up
        thread.join(20)
        with database.transaction() as connection:
            names = [r["spool_name"] for r in connection.execute("SELECT spool_name FROM instance ORDER BY id")]
            assert answers.seconds_until_quiet(connection, STUDY, 0.0) == 0.0
    assert [name for name in names if name != "elsewhere"] == ["first", "second"]


def test_two_listeners_with_the_same_studies_do_not_wait_for_each_other_in_a_circle(dsn: str) -> None:
    studies = [f"1.2.3.{n}" for n in range(12)]
    failed: list[psycopg.Error] = []

    with Database(dsn, connections=3) as database:

        def listener(name: str, order: list[str]) -> None:
            try:
                for turn in range(10):
                    with database.transaction() as connection:
                        intake.register(connection, [row(f"{name}{turn}.{uid}", uid) for uid in order])
            except psycopg.Error as error:
                failed.append(error)

        threads = [
            threading.Thread(target=listener, args=(name, order))
            for name, order in (("a", studies), ("b", studies[::-1]))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with database.transaction() as connection:
            counted = connection.execute("SELECT sum(instances) AS n FROM study").fetchone()
    assert failed == []
    assert counted is not None
    assert counted["n"] == 2 * 10 * len(studies)


def shared_settings(folder: Path, **more: Any) -> Settings:
    at = {"data_dir": folder / "own", "storage_dir": folder / "storage", "database_dsn": "postgresql://127.0.0.1:1/no"}
    return load_settings(**{**at, **more})


def test_a_volume_that_is_not_mounted_is_no_storage(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    settings = shared_settings(tmp_path)
    with pytest.raises(ConfigurationError, match=r"has no folder spool: is its volume mounted\?"):
        run(settings, threading.Event())
    assert list((tmp_path / "storage").iterdir()) == [], "nothing is made beside a volume"
    settings.spool_dir.mkdir()
    settings.outbox_dir.mkdir()
    check_storage(settings)


def test_nothing_is_done_beside_a_volume_that_went_while_the_node_ran(tmp_path: Path, database: Database) -> None:
    (tmp_path / "storage").mkdir()
    settings = shared_settings(tmp_path, database_dsn=database.dsn)
    with pytest.raises(ConfigurationError, match="is its volume mounted"):
        back_up(settings, database.dsn, tmp_path / "backup")
    with pytest.raises(ConfigurationError, match="is its volume mounted"):
        erase_patient(settings, database, "P")
    assert not (tmp_path / "backup").exists()
    order = json.dumps({"settings": settings.model_dump(mode="json"), "dsn": database.dsn}) + "\n"
    for program in (["node.role", "deliver"], ["node.deliver.apart"]):
        command = [sys.executable, "-m", *program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stderr is not None
            process.stdin.write(order)
            process.stdin.flush()
            assert process.wait(60) > 0, program
            assert "ConfigurationError" in process.stderr.read()
    assert list((tmp_path / "storage").iterdir()) == []


def test_a_restore_that_was_interrupted_is_seen_by_every_machine_of_the_storage(tmp_path: Path) -> None:
    settings = shared_settings(tmp_path)
    for folder in (settings.spool_dir, settings.outbox_dir):
        folder.mkdir(parents=True)
    restore_marker(shared_settings(tmp_path, data_dir=tmp_path / "another machine's")).touch()
    with pytest.raises(DatabaseError, match="was interrupted"):
        run(settings, threading.Event())


def test_a_machine_that_does_not_listen_is_not_asked_for_its_listener(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    worker = [check.name for check in probe(shared_settings(tmp_path, roles=["evaluate", "deliver"]), 2.0)]
    listener = [check.name for check in probe(shared_settings(tmp_path, roles=["receive"]), 2.0)]
    assert (worker, listener) == (["disk", "database"], ["listener", "disk", "database"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"storage_dir": "/srv/spine"}, "storage_dir is for several machines and needs database_dsn"),
        ({"roles": ["receive"]}, "a machine that does not do everything needs database_dsn"),
        ({"roles": [], "database_dsn": "postgresql://db"}, "roles"),
        ({"roles": ["listen"], "database_dsn": "postgresql://db"}, "roles"),
    ],
)
def test_settings_of_several_machines_that_cannot_work(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_settings(**more)


def test_only_studies_with_news_are_asked_about_and_none_of_them_is_forgotten(database: Database) -> None:
    def outstanding() -> list[str]:
        with database.transaction() as connection:
            return answers.outstanding_studies(connection)

    def arrive(name: str) -> None:
        with database.transaction() as connection:
            intake.register(connection, [row(name)])

    def begin() -> answers.Evaluation:
        with database.transaction() as connection:
            evaluation = answers.begin_evaluation(connection, STUDY)
        assert evaluation is not None
        return evaluation

    def end(evaluation: answers.Evaluation) -> None:
        with database.transaction() as connection:
            answers.end_evaluation(connection, evaluation)

    arrive("first")
    assert outstanding() == [STUDY]
    early = begin()
    arrive("during the evaluation")
    end(early)
    assert outstanding() == [STUDY]
    end(begin())
    assert outstanding() == []
    arrive("late")
    assert outstanding() == [STUDY]
    end(begin())
    with database.transaction() as connection:  # as the version before ends an evaluation, in a rolling upgrade
        intake.register(connection, [row("later")])
    with database.transaction() as connection:
        connection.execute("UPDATE study SET evaluated_up_to = (SELECT max(id) FROM instance), evaluated_at = now()")
    assert outstanding() == []
    arrive("latest")
    assert outstanding() == [STUDY]
