"""Ends what nobody waits for any more: files that outlived their rows, attempts that were killed, the quarantine.

The ledger says first that a file is to go, then it goes: where the keeper dies in between, or the disk refuses, a file
is left that nothing else looks for. Folders are listed now and then, and looked at a portion at a time. Whatever is
deleted here is wanted by nobody, so that the keepers of several machines may meet at it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from node.ledger import Database, intake
from node.ledger.outbox import wanted
from node.receive.spool import QUARANTINE, Spool
from node.settings import Settings

log = structlog.get_logger(__name__)

PORTION = 500
LIST_PERIOD_S = 600.0
UNTOUCHED_S = 24 * 3600.0
"""To a folder of the outbox that changed less long ago somebody may still write: it takes minutes."""
_FOLDER = re.compile(r"([0-9]{8,18})-(?:([0-9]{1,9})|[a-z]+-[0-9a-f]+)")
"""Of the outbox: an answer's id with an attempt, or with the digest of a note on it."""


def delete_each(names: Iterable[str], delete: Callable[[str], object]) -> int:
    """Delete files one by one; how many are gone. One that cannot be deleted holds up no other (`Leftovers`)."""
    gone, refused = 0, Counter[str]()
    for name in names:
        try:
            delete(name)
            gone += 1
        except OSError as error:
            refused[os.strerror(error.errno) if error.errno else type(error).__name__] += 1
    if refused:
        log.warning("files could not be deleted; this is tried again", reasons=dict(refused))
    return gone


def delete_result(outbox: Path, name: str) -> None:
    """Delete a file of the outbox, and its folder when that is empty.

    Raises
    ------
    OSError
        The file cannot be deleted.
    """
    path = outbox / name
    path.unlink(missing_ok=True)
    if path.parent != outbox:
        with contextlib.suppress(OSError):  # not empty, or already gone
            path.parent.rmdir()


class Leftovers:
    """Looks through spool, quarantine and outbox for what is to go."""

    def __init__(self, settings: Settings, database: Database, spool: Spool) -> None:
        self._settings = settings
        self._database = database
        self._spool = spool
        self._quarantine = _Portions(partial(_listed, spool.folder / QUARANTINE))
        self._images = _Portions(self._suspicious_images)
        self._folders = _Portions(partial(_listed, settings.outbox_dir))

    def sweep(self) -> None:
        """Look at the next portion of each.

        Raises
        ------
        psycopg.Error, PoolTimeout, OSError
            The ledger or the storage is away; nothing is lost by it.
        """
        counts = {
            "quarantined": self._end_quarantine(self._quarantine.next()),
            "images": self._end_images(self._images.next()),
            "results": self._end_results(self._folders.next()),
        }
        if any(counts.values()):
            log.info("left behind and deleted", **counts)

    def _end_quarantine(self, names: list[str]) -> int:
        """What was set aside ``retention.quarantine_days`` ago: its change of name is the last of its inode."""
        folder = self._spool.folder / QUARANTINE
        latest = time.time() - 86400 * self._settings.retention.quarantine_days
        old = [name for name in names if (at := _time_of(folder / name, "st_ctime")) is not None and at <= latest]
        return delete_each(old, lambda name: (folder / name).unlink(missing_ok=True))

    def _suspicious_images(self) -> list[str]:
        """Names in hours of the spool that do not have as many files as the ledger has images there."""
        with self._database.transaction() as connection:
            registered = intake.registered_per_hour(connection, datetime.min.replace(tzinfo=UTC))
        hours = [hour for hour, files in self._spool.hours().items() if files != registered.get(hour, 0)]
        return list(self._spool.names(hours))

    def _end_images(self, names: list[str]) -> int:
        if not names:
            return 0
        with self._database.transaction() as connection:
            known = intake.registered(connection, names)
        return delete_each([name for name, erased in known.items() if erased], self._spool.remove)

    def _end_results(self, names: list[str]) -> int:
        outbox, latest = self._settings.outbox_dir, time.time() - UNTOUCHED_S
        found = {name: match for name in names if (match := _FOLDER.fullmatch(name))}
        old = {
            name: match
            for name, match in found.items()
            if (at := _time_of(outbox / name, "st_mtime")) is not None and at <= latest
        }
        if not old:
            return 0
        with self._database.transaction() as connection:
            kept = wanted(connection, sorted({int(match[1]) for match in old.values()}), UNTOUCHED_S)
        gone = 0
        for name, match in old.items():
            first = kept.writing.get(int(match[1]))
            if first is not None and (match[2] is None or int(match[2]) >= first):
                continue
            files = [f"{name}/{file}" for file in _listed(outbox / name)]
            gone += delete_each(set(files) - kept.names, partial(delete_result, outbox))
            if not files:
                with contextlib.suppress(OSError):  # another keeper was first
                    (outbox / name).rmdir()
        return gone


class _Portions:
    """What a place holds, listed at most every ``LIST_PERIOD_S`` and handed out ``PORTION`` at a time."""

    def __init__(self, names: Callable[[], list[str]]) -> None:
        self._names = names
        self._left: deque[str] = deque()
        self._due = 0.0

    def next(self) -> list[str]:
        if not self._left and time.monotonic() >= self._due:
            self._left.extend(self._names())
            self._due = time.monotonic() + LIST_PERIOD_S
        return [self._left.popleft() for _ in range(min(PORTION, len(self._left)))]


def _listed(folder: Path) -> list[str]:
    """Names in a folder, in order; none where it is no folder, or gone."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _time_of(path: Path, which: str) -> float | None:
    """A time of a file's (``st_mtime`` or ``st_ctime``), in s since 1970; ``None`` where it cannot be asked."""
    try:
        return float(getattr(path.lstat(), which))
    except OSError:
        return None
