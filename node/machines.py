"""Which machines are at work on a shared storage: each holds a lock there while it runs, and says who it is."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.settings import Settings

MACHINES = "machines"


@contextmanager
def at_work(settings: Settings) -> Iterator[None]:
    """Let others see that this machine works on the shared storage; of no effect without one."""
    if settings.storage_dir is None:
        yield
        return
    folder = settings.storage_dir / MACHINES
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / f"{_own_name(settings.data_dir)}.lock").open("a+", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # free, or looked at just now
        lock.truncate(0)
        lock.write(f"{socket.gethostname()} (process {os.getpid()}, {settings.data_dir})")
        lock.flush()
        yield


def _own_name(data_dir: Path) -> str:
    """Of this machine, always the same; containers may all have one host name."""
    path = data_dir / "machine"
    if not path.exists():
        path.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
    return path.read_text(encoding="ascii").strip()


def machines_at_work(settings: Settings) -> list[str]:
    """Who works on the shared storage: host, process and data directory of each machine that runs."""
    if settings.storage_dir is None:
        return []
    return [
        path.read_text(encoding="utf-8")
        for path in sorted((settings.storage_dir / MACHINES).glob("*.lock"))
        if _is_held(path)
    ]


def _is_held(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
