"""Databases that a node must not start with, each refused with what a person can do; and the private one's deaths."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest

from node.ledger import DatabaseError, check_server, migrate, private_database, revive_private_database
from node.service import run
from node.settings import load_settings
from tests.chaos.counts import record
from tests.chaos.hospital import DATABASE, HospitalServer, free_port, owner

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]


@pytest.fixture(scope="module")
def hospital() -> Iterator[HospitalServer]:
    with HospitalServer() as server:
        yield server


@pytest.fixture
def pooled(program: Callable[[str], str], hospital: HospitalServer) -> Iterator[Callable[[str], str]]:
    """Starts a PgBouncer before the server, with a mode of pooling; its DSN."""
    pgbouncer = program("pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="pool-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)

        def started(mode: str) -> str | None:
            port = free_port()
            (folder / "users").write_text('"postgres" ""\n', encoding="ascii")
            configuration = folder / f"{mode}.ini"
            configuration.write_text(
                f"[databases]\n{DATABASE} = host=127.0.0.1 port={hospital.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
                f"listen_port = {port}\nauth_type = trust\nauth_file = {folder / 'users'}\nunix_socket_dir =\n"
                f"pool_mode = {mode}\n",
                encoding="ascii",
            )
            process = subprocess.Popen([pgbouncer, "-q", str(configuration)], stderr=subprocess.DEVNULL, **owner())
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
            dsn = f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}"
            deadline = time.monotonic() + 30
            while process.poll() is None:
                try:
                    psycopg.connect(dsn, connect_timeout=2).close()
                    return dsn
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline, "PgBouncer does not answer"
                    time.sleep(0.05)
            return None  # another test was faster to take the port

        def start(mode: str) -> str:
            return next(dsn for dsn in (started(mode) for _ in range(5)) if dsn is not None)

        yield start


@pytest.mark.debian
def test_a_proxy_that_pools_by_transaction_is_refused(
    tmp_path: Path, pooled: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.ledger.database.NOTIFICATION_PATIENCE_S", 1.0)
    check_server(pooled("session"))
    settings = load_settings(data_dir=tmp_path / "node", database_dsn=pooled("transaction"))
    with pytest.raises(DatabaseError, match=r"LISTEN.*pools by transaction.*Point database_dsn at the server"):
        run(settings)


def test_a_server_that_cannot_be_written_to_or_reached_is_refused(hospital: HospitalServer) -> None:
    check_server(hospital.dsn)
    with pytest.raises(DatabaseError, match=r"is read-only.*point database_dsn at the server that is written to"):
        check_server(f"{hospital.dsn}?options=-c%20default_transaction_read_only%3Don")
    with pytest.raises(DatabaseError, match=r"cannot be reached"):
        check_server(hospital.dsn.replace(str(hospital.port), str(free_port())))
    with ExitStack() as others, pytest.raises(DatabaseError, match=r"cannot be reached: .*too many clients"):
        for _ in range(200):
            others.enter_context(psycopg.connect(hospital.dsn, connect_timeout=5))
            check_server(hospital.dsn)


def test_a_ledger_of_a_newer_program_is_refused(hospital: HospitalServer) -> None:
    hospital.execute("CREATE DATABASE newer", "postgres")
    dsn = hospital.dsn.replace(DATABASE, "newer")
    migrate(dsn)
    hospital.execute("INSERT INTO schema_version (version, name) VALUES (999, 'later')", "newer")
    with pytest.raises(DatabaseError, match=r"schema version 999.*start the newer program"):
        migrate(dsn)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Short: a Unix socket's path has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="spine-pg-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_files_of_another_major_version_are_refused_with_the_mend(short_folder: Path) -> None:
    (short_folder / "postgres").mkdir()
    (short_folder / "postgres" / "PG_VERSION").write_text("16\n", encoding="ascii")
    before = sorted(short_folder.rglob("*"))
    with (
        pytest.raises(DatabaseError, match=r"written by PostgreSQL 16, .* brings 18.*backup FOLDER.*restore FOLDER"),
        private_database(short_folder),
    ):
        pytest.fail("it started")
    assert sorted(short_folder.rglob("*")) == before


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("left_running", [True, False])
def test_a_private_database_whose_making_was_interrupted_is_made_again(
    short_folder: Path, left_running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut within the first seconds of the first start: nobody can connect, and it holds nothing."""
    with private_database(short_folder) as dsn:
        with psycopg.connect(dsn.replace("/spine_node?", "/template1?"), autocommit=True) as connection:
            for last_made in ("spine_node", "postgres"):
                connection.execute(f"DROP DATABASE {last_made}")
        unfinished = int((short_folder / "postgres" / "postmaster.pid").read_text().split()[0])
        if left_running:  # as by a node that was killed
            monkeypatch.setattr("node.ledger.database._postmaster_lives", lambda folder: False)
    monkeypatch.undo()
    assert runs(unfinished) is left_running
    with private_database(short_folder) as dsn:
        migrate(dsn)
        check_server(dsn)
    assert not runs(unfinished)
    assert (short_folder / "postgres.unfinished" / "PG_VERSION").is_file()


def test_an_initdb_that_hardly_began_is_begun_again(short_folder: Path) -> None:
    private = short_folder / "postgres"
    (private / "base" / "1").mkdir(parents=True)
    (private / "PG_VERSION").write_text("18\n", encoding="ascii")
    with private_database(short_folder) as dsn:
        check_server(dsn)
    assert (short_folder / "postgres.unfinished" / "PG_VERSION").is_file()


def test_a_damaged_database_that_held_a_ledger_is_never_set_aside(short_folder: Path) -> None:
    with private_database(short_folder) as dsn:
        migrate(dsn)
    control = short_folder / "postgres" / "global" / "pg_control"
    control.rename(control.with_name("pg_control.away"))
    with pytest.raises(DatabaseError, match="does not start"), private_database(short_folder):
        pytest.fail("it started")
    assert not (short_folder / "postgres.unfinished").exists()
    control.with_name("pg_control.away").rename(control)
    with private_database(short_folder) as dsn:
        check_server(dsn)


def test_the_private_database_comes_back_from_every_death_and_ends_with_its_node(short_folder: Path) -> None:
    """SIGTERM makes a server wait for its clients, and let nobody in: the node's own sessions would keep it so."""
    lock = short_folder / "postgres" / "postmaster.pid"
    pids = []
    with private_database(short_folder) as dsn:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with psycopg.connect(dsn) as held:
                pids.append(int(lock.read_text().split()[0]))
                os.kill(pids[-1], number)
                deadline = time.monotonic() + 20
                while True:
                    try:
                        psycopg.connect(dsn, connect_timeout=2).close()
                    except psycopg.OperationalError:
                        break
                    assert time.monotonic() < deadline, "it does not die"
                revive_private_database(short_folder, dsn)
                with psycopg.connect(dsn) as connection:
                    assert connection.execute("SELECT 1").fetchone() == (1,)
                with pytest.raises(psycopg.OperationalError):
                    held.execute("SELECT 1")
        pids.append(int(lock.read_text().split()[0]))
    assert len(set(pids)) == 5
    alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert not alive
    record("private database killed by four signals", kills=len(pids) - 1, left_behind=len(alive))
