"""The spool: an instance is acknowledged once one file here is on the disk, and recoverable from that file alone.

A file is created under its final name and flushed with one fdatasync before the acknowledgement; it is never renamed.
Its name is unique per reception and says nothing about the patient or the object. Length and CRC-32 of the data set,
both AE titles and the time of arrival stand in the file meta information (PS3.10 7.1, private information), so that a
torn file is told from a whole one, and a ledger row can be rebuilt, in every transfer syntax, deflated ones included.

A writer holds an exclusive lock (flock) on its file until it is whole, and whoever judges a file takes a shared one:
a file that is still being written is never taken for a torn one.

Several associations share one flush without further ado: each calls fdatasync itself, at the same time as the others,
and the journal of the file system commits them together.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from node.receive.shared_sync import SharedSync
from node.receive.spool_file import (
    SPOOL_CREATOR_UID,
    Incoming,
    Origin,
    OutOfSpaceError,
    ReceivedObject,
    Reception,
    read_reception,
)

__all__ = [
    "SPOOL_CREATOR_UID",
    "BusyError",
    "Incoming",
    "Origin",
    "OutOfSpaceError",
    "ReceivedObject",
    "Reception",
    "Spool",
    "filesystem_type",
]

DURABLE_WITHOUT_DIRECTORY_SYNC = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})
"""On these, fdatasync of a new file makes its name durable too (crash images of each were checked); on tmpfs, which
only measurements use, nothing is durable."""
QUARANTINE = "quarantine"
_HOUR = re.compile(r"[0-9]{10}")


class BusyError(Exception):
    """The file is still being written."""


def filesystem_type(path: Path) -> str:
    """Type of the file system that holds ``path``, as the kernel names it ("ext4", "nfs4", ...); "" if unknown."""
    try:
        device = path.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return ""


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Spool:
    """Folder of acknowledged instances: ``<hour of arrival>/<unique name>.dcm``."""

    def __init__(self, folder: Path, free_space_reserve_bytes: int = 0) -> None:
        self.folder = folder
        self._reserve = free_space_reserve_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        _sync_directory(folder.parent)
        needs_directory_sync = filesystem_type(folder) not in DURABLE_WITHOUT_DIRECTORY_SYNC
        self._directory_sync = SharedSync(_sync_directory) if needs_directory_sync else None
        self._hours_made: set[str] = set()
        self._path = str(folder)
        self._names, self._counter = os.urandom(8).hex(), itertools.count()

    def path(self, spool_name: str) -> Path:
        """Full path of a name that the ledger holds."""
        return self.folder / spool_name

    def receive(self, origin: Origin) -> Incoming:
        """Begin an instance whose data set is to come; nothing is on the disk until its first piece is written."""
        return Incoming(
            origin, self._path, self._new_name, self._make_hour, self._refuse_below_reserve, self._make_durable
        )

    def store(self, received: ReceivedObject) -> Reception:
        """Write one instance so that it survives a power cut, then say under which name.

        Raises
        ------
        OutOfSpaceError
            Less than the reserve is free, or the disk filled up while writing. Nothing is left behind.
        """
        return self.receive(received).commit([received.data_set])

    def names(self, among: Iterable[str] | None = None) -> Iterator[str]:
        """Names of all instances, or of those ``among`` these hours, oldest first; the quarantine is not looked at."""
        for hour in sorted(self.changes() if among is None else among):
            try:
                with os.scandir(self.folder / hour) as entries:
                    yield from sorted(f"{hour}/{entry.name}" for entry in entries if entry.name.endswith(".dcm"))
            except (FileNotFoundError, NotADirectoryError):
                continue

    def changes(self) -> dict[str, int]:
        """When each hour's directory got or lost a name, in ns. Whatever else lies in the spool is not looked at."""
        found = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _HOUR.fullmatch(entry.name):
                    try:
                        found[entry.name] = Path(entry.path).stat().st_mtime_ns  # DirEntry.stat may be an old one (NFS)
                    except FileNotFoundError:
                        continue
        return found

    def hours(self, among: Iterable[str] | None = None) -> dict[str, int]:
        """Number of files in each hour's directory, or in those ``among`` these."""
        counts = {}
        for hour in self.changes() if among is None else among:
            try:
                with os.scandir(self.folder / hour) as entries:
                    counts[hour] = sum(1 for entry in entries if entry.name.endswith(".dcm"))
            except (FileNotFoundError, NotADirectoryError):
                continue
        return counts

    def names_older_than(self, seconds: float, among: Iterable[str] | None = None) -> list[str]:
        """Names of the instances whose file was last written at least so long ago, oldest hour first."""
        latest = time.time() - seconds
        names = []
        for name in self.names(among):
            try:
                if self.path(name).stat().st_mtime <= latest:
                    names.append(name)
            except FileNotFoundError:
                continue
        return names

    def recover(self, spool_name: str) -> Reception | None:
        """What the file itself says of its reception; a torn or altered file is set aside, and ``None`` returned.

        Raises
        ------
        BusyError
            The file is being written: it will be announced, or found torn by a later look.
        FileNotFoundError
            The file is gone.
        OSError
            It cannot be read, which says nothing about its content.
        """
        with self.path(spool_name).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(spool_name) from error
            reception = self.read_reception(spool_name)
            if reception is None:
                self.quarantine(spool_name)  # under the lock: its writer notices, and starts over
            return reception

    def read_reception(self, spool_name: str) -> Reception | None:
        """What the file itself says of its reception; ``None`` for a torn or altered file.

        Raises
        ------
        OSError
            The file is gone or cannot be read.
        """
        return read_reception(self.path(spool_name), spool_name)

    def is_being_written(self, spool_name: str) -> bool:
        """Whether the file's writer is still at it: then nothing was acknowledged yet."""
        try:
            with self.path(spool_name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def quarantine(self, spool_name: str) -> Path:
        """Set a torn or altered file aside; it is kept, and no longer taken for an instance."""
        target = self.folder / QUARANTINE / Path(spool_name).name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        self.path(spool_name).rename(target)
        _sync_directory(target.parent)
        return target

    def remove(self, spool_name: str) -> None:
        """Delete an instance's file, and its hour's directory when that is empty and past."""
        path = self.path(spool_name)
        path.unlink(missing_ok=True)
        if path.parent.name < datetime.now(UTC).strftime("%Y%m%d%H"):
            try:
                path.parent.rmdir()
            except OSError:  # not empty, or already gone
                return

    def free_bytes(self) -> int:
        """Bytes free for the node's user."""
        status = os.statvfs(self._path)
        return status.f_bavail * status.f_frsize

    def _new_name(self) -> str:
        """Of no other reception: unlike other processes' by chance, unlike our own by number. Any thread may ask."""
        return f"{self._names}{next(self._counter):016x}"

    def _refuse_below_reserve(self, size: int) -> None:
        if self.free_bytes() < self._reserve + size:
            raise OutOfSpaceError(f"less than the reserve of {self._reserve // 2**20} MB is free on the spool's disk")

    def _make_hour(self, hour: str, look_again: bool) -> None:
        if hour in self._hours_made and not look_again:
            return
        (self.folder / hour).mkdir(mode=0o700, exist_ok=True)
        _sync_directory(self.folder)
        self._hours_made = {hour}

    def _make_durable(self, descriptor: int, spool_name: str) -> None:
        os.fdatasync(descriptor)
        if self._directory_sync is not None:
            self._directory_sync(self.path(spool_name).parent)
