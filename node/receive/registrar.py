"""Tells the ledger what lies in the spool: in batches, behind the acknowledgement, within a second.

The ledger may be away for hours; receiving goes on, and everything is entered when it is back. At start, and after
every trouble with the database, the spool itself is read again: the files are the truth. One object that cannot be
entered never stands in the way of the others: it becomes an event and a row without a study.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
import structlog
from procrastinate.exceptions import ConnectorException

from node.ledger import Database, intake
from node.ledger.intake import InstanceRow
from node.leftovers import delete_each
from node.receive.backlog import Backlog
from node.receive.content import Content, ContentReader
from node.receive.intact import OF_THE_MACHINE
from node.receive.spool import BusyError, Reception, Spool

log = structlog.get_logger(__name__)

BATCH = 200
BATCH_WINDOW_S = 0.25
PAUSE_S = 1.0
READ_TRIES = 3
LONGEST_UID = 64
ADOPT_PERIOD_S = 20.0
ORPHANED_AFTER_S = 20.0
"""A file that nobody has registered for so long was left by a listener that died, perhaps on another machine."""
UNREAD_PERIOD_S = 300.0
"""How often files that could not be read, and were entered without a study, are tried again."""
_BEFORE = datetime.min.replace(tzinfo=UTC)

Wake = Callable[[psycopg.Connection[Any], str], None]
"""Defers the evaluation of a study on the registrar's own transaction."""
Event = tuple[str, str, dict[str, Any]]
"""(kind, subject, detail)"""


class Registrar:
    """One thread that enters receptions and events into the ledger."""

    def __init__(self, spool: Spool, database: Database, wake: Wake) -> None:
        self._spool = spool
        self._database = database
        self._wake = wake
        self._reader = ContentReader()
        self._arrivals: queue.SimpleQueue[Reception | Event] = queue.SimpleQueue()
        self._behind = False
        """Whether the last batch left something."""
        self._kept: list[Reception | Event] = []  # of a batch that failed: the next round begins with it
        self._look_again: set[str] = set()  # files that were busy or could not be read
        self._look_at = 0.0
        self._backlog = Backlog(spool)
        self._adopt_at = time.monotonic() + ADOPT_PERIOD_S
        self._unread_at = time.monotonic()
        self._read_failures: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registrar", daemon=True)

    def start(self) -> None:
        """Begin with what the spool holds."""
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """Enter what has arrived, then end."""
        self._stop.set()
        self._thread.join(patience_s)

    def arrived(self, reception: Reception) -> None:
        """An instance was stored; called by the listener before it acknowledges, never blocks."""
        self._arrivals.put(reception)

    def record(self, kind: str, subject: str, detail: dict[str, Any]) -> None:
        """An event for the ledger; never blocks."""
        self._arrivals.put((kind, subject, detail))

    def _run(self) -> None:
        spool_read = False
        while True:
            stopping = self._stop.is_set()
            try:
                kept, self._kept = self._kept, []
                self._enter(kept)
                if not spool_read:
                    self.enter_spool()
                    spool_read = True
                if self._look_again and time.monotonic() >= self._look_at:
                    again, self._look_again = sorted(self._look_again), set()
                    self._enter_files(again)
                batch = self._batch()
                self._enter(batch)
                late_s = time.monotonic() - self._adopt_at
                if late_s >= (ADOPT_PERIOD_S if batch else 0.0):  # where images never cease, later, but not never
                    self._adopt()
            except Exception as error:
                if _is_trouble(error):
                    log.warning("the ledger is away; receiving goes on", reason=type(error).__name__)
                else:
                    log.exception("the registrar failed; it begins again with the spool")
                spool_read = False
                if stopping:  # what is left is found in the spool at the next start
                    return
                self._stop.wait(PAUSE_S)
            if stopping and self._arrivals.empty():
                return

    def _batch(self) -> list[Reception | Event]:
        """What has arrived: at once where more of it waits than was taken last time, else a moment after the first.

        This thread sleeps meanwhile: woken by each arrival, it would get in the way of the threads that receive.
        """
        batch: list[Reception | Event] = []
        try:
            batch.append(self._arrivals.get(timeout=BATCH_WINDOW_S))
            if not self._behind:
                self._stop.wait(BATCH_WINDOW_S)
            while len(batch) < BATCH:
                batch.append(self._arrivals.get_nowait())
        except queue.Empty:
            self._behind = False
        else:
            self._behind = True
        return batch

    def _enter(self, items: list[Reception | Event]) -> None:
        """Enter all in one transaction or, where one of them is at fault, each in its own; keep what is left over."""
        if not items:
            return
        try:
            self._transact(items)
            return
        except Exception as error:
            if _is_trouble(error):
                self._kept += items
                raise
            log.warning("a batch could not be entered; one by one", reason=type(error).__name__)
        for position, item in enumerate(items):
            try:
                self._transact([item])
            except Exception as error:
                try:
                    if _is_trouble(error):
                        raise
                    self._give_up(item, type(error).__name__)
                except Exception:
                    self._kept += items[position:]
                    raise

    def _transact(self, items: list[Reception | Event]) -> None:
        events = [item for item in items if not isinstance(item, Reception)]
        receptions = [item for item in items if isinstance(item, Reception)]
        rows = []
        with self._database.transaction() as connection:
            known = intake.registered(connection, [item.spool_name for item in receptions])
        for item in receptions:
            name = item.spool_name
            if known.get(name) or (name in known and self._spool.path(name).exists()):
                continue  # found in the spool before it was announced
            try:
                row = self._row(item)
                if not row.study_uid:
                    events.append(("unreadable", row.calling_ae, {"spool_name": name, "bytes": row.bytes}))
            except FileNotFoundError:  # and not erased: it was acknowledged, and must not go
                events.append(("vanished", item.calling_ae, {"spool_name": name}))
                continue
            except OSError as error:
                if not self._read_failed(name, error):
                    continue
                events.append(("unregistrable", item.calling_ae, _detail(name, type(error).__name__)))
                row = _row_of(item)
            rows.append(row)
        with self._database.transaction() as connection:
            _record(connection, events)
            self._let_go_of_lost(connection, rows)
            for study_uid in sorted(intake.register(connection, rows)):
                self._wake_study(connection, study_uid)

    def _let_go_of_lost(self, connection: psycopg.Connection[dict[str, Any]], rows: list[InstanceRow]) -> None:
        """What was received before and lost its file since must not make a duplicate of what came in its place."""
        before = intake.same_objects(connection, rows)
        lost = [row["id"] for row in before if _is_gone(self._spool.path(row["spool_name"]))]
        if lost:
            intake.mark_erased(connection, lost)

    def _wake_study(self, connection: psycopg.Connection[Any], study_uid: str) -> None:
        """A wake-up that fails for itself costs no instance its row: the keeper wakes forgotten studies."""
        try:
            with connection.transaction():
                self._wake(connection, study_uid)
        except Exception as error:
            if _is_trouble(error):
                raise
            log.error("a study was not woken", reason=type(error).__name__)

    def _give_up(self, item: Reception | Event, reason: str) -> None:
        """What cannot be entered as it is: a row that says only that the file exists, so that nothing waits for it."""
        if not isinstance(item, Reception):
            log.error("an event could not be recorded", kind=item[0], reason=reason)
            return
        log.error("an instance could not be registered", spool_name=item.spool_name, reason=reason)
        bare = Reception(item.spool_name, "", "", "", "", "", item.received_at)
        try:
            with self._database.transaction() as connection:
                _record(connection, [("unregistrable", item.calling_ae, _detail(item.spool_name, reason))])
                intake.register(connection, [_row_of(bare)])
        except Exception as error:
            if _is_trouble(error):
                raise
            log.error("an instance has no row", spool_name=item.spool_name, reason=type(error).__name__)

    def _read_failed(self, spool_name: str, error: OSError) -> bool:
        """Count; whether the file has failed often enough to be given up (until then it is looked at again).

        What the machine lacks (descriptors, memory) is no fault of the file, and is waited for.
        """
        log.warning("a file of the spool cannot be read", spool_name=spool_name, reason=error.strerror)
        self._read_failures[spool_name] += error.errno not in OF_THE_MACHINE
        if self._read_failures[spool_name] >= READ_TRIES:
            return True
        self._again(spool_name)
        return False

    def _again(self, spool_name: str) -> None:
        self._look_again.add(spool_name)
        self._look_at = time.monotonic() + PAUSE_S

    def _row(self, reception: Reception) -> InstanceRow:
        path = self._spool.path(reception.spool_name)
        return _row_of(reception, self._reader.read(path, reception.transfer_syntax))

    def enter_spool(self) -> None:
        """Enter every instance that lies in the spool and is not in the ledger; finish interrupted erasures.

        A file whose length or checksum is wrong was never acknowledged, or was altered since: it is set aside. One
        that is still being written is looked at again a little later.
        """
        for _, names in groupby(self._spool.names(), key=lambda name: Path(name).parent):
            self._enter_files(list(names))

    def _adopt(self) -> None:
        """Enter what a listener left behind that shares our spool and does not come back: its studies wait for it."""
        self._adopt_at = time.monotonic() + ADOPT_PERIOD_S
        with self._database.transaction() as connection:
            names = self._backlog.names(connection, ORPHANED_AFTER_S)
        self._enter_files(names)
        if time.monotonic() >= self._unread_at:
            self._unread_at = time.monotonic() + UNREAD_PERIOD_S
            self._read_again()

    def _read_again(self) -> None:
        """Enter what could not be read and can be now, as what arrives late: it was acknowledged."""
        with self._database.transaction() as connection:
            names = intake.unread(connection)
        for name in names:
            try:
                reception = self._spool.read_reception(name)
                if reception is None:  # torn or altered: its row says that it is there
                    continue
                row = self._row(reception)
                with self._database.transaction() as connection:
                    self._let_go_of_lost(connection, [row])
                    for study_uid in intake.register_late(connection, row):
                        self._wake_study(connection, study_uid)
            except Exception as error:
                if _is_trouble(error):
                    raise
                log.warning("a file of the spool still cannot be entered", spool_name=name, reason=type(error).__name__)
            else:
                self._read_failures.pop(name, None)
                log.info("a file of the spool was entered late", spool_name=name)

    def _enter_files(self, names: list[str]) -> None:
        """Enter these files in the order in which they arrived: their names have none, and a correction comes last."""
        found: list[Reception | Event] = []
        for start in range(0, len(names), BATCH):
            found += self._recover(names[start : start + BATCH])
        found.sort(key=lambda item: item.received_at if isinstance(item, Reception) else _BEFORE)
        for start in range(0, len(found), BATCH):
            self._enter(found[start : start + BATCH])

    def _recover(self, names: list[str]) -> list[Reception | Event]:
        """What files say that the ledger does not know; interrupted erasures are finished."""
        with self._database.transaction() as connection:
            known = intake.registered(connection, names)
        delete_each([name for name, erased in known.items() if erased], self._spool.remove)
        found: list[Reception | Event] = []
        for name in names:
            if name in known:
                continue
            try:
                reception = self._spool.recover(name)
            except BusyError:
                self._again(name)
            except FileNotFoundError:  # its writer failed, and has said so to the sender
                continue
            except OSError as error:
                if self._read_failed(name, error):
                    found.append(Reception(name, "", "", "", "", "", datetime.now(UTC)))
            else:
                if reception is None:
                    log.warning("a torn file was set aside", spool_name=name)
                found.append(reception or ("quarantined", "", {"spool_name": name}))
        return found


def _is_trouble(error: BaseException) -> bool:
    """Whether the database, not what was to be entered, is at fault: then waiting helps, and nothing is given up."""
    if isinstance(error, ConnectorException):
        return error.__cause__ is None or _is_trouble(error.__cause__)
    at_fault = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)
    return isinstance(error, psycopg.Error) and not isinstance(error, at_fault)


def _record(connection: psycopg.Connection[Any], events: Iterable[Event]) -> None:
    for kind, subject, detail in events:
        intake.record_event(connection, kind, _text(subject), _storable(detail))


def _detail(spool_name: str, reason: str) -> dict[str, Any]:
    return {"spool_name": spool_name, "reason": reason}


def _is_gone(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # says nothing about whether it is there
        return False
    return False


def _row_of(reception: Reception, content: Content | None = None) -> InstanceRow:
    content = content or Content(0, "")
    keys = content.keys
    return InstanceRow(
        spool_name=reception.spool_name,
        received_at=reception.received_at,
        calling_ae=_text(reception.calling_ae),
        called_ae=_text(reception.called_ae),
        transfer_syntax=_text(reception.transfer_syntax),
        sop_class_uid=_uid(reception.sop_class_uid),
        sop_instance_uid=_uid(reception.sop_instance_uid),
        study_uid=_uid(keys.get("StudyInstanceUID", "")),
        series_uid=_uid(keys.get("SeriesInstanceUID", "")),
        patient_id=_text(keys.get("PatientID", "")),
        modality=_text(keys.get("Modality", ""))[:16],
        bytes=content.bytes,
        sha256=content.sha256,
    )


def _text(value: str) -> str:
    """The text as PostgreSQL takes it: without NUL, without halves of surrogate pairs."""
    if value.isascii() and value.isprintable():
        return value.strip()
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8").strip()


def _uid(value: str) -> str:
    """A UID as it is; one that is longer than UIDs may be (PS3.5 9.1: 64) cut, with a digest, so that it stays unlike
    every other."""
    text = _text(value)
    if len(text) <= LONGEST_UID:
        return text
    return f"{text[: LONGEST_UID - 17]}#{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _storable(detail: Any) -> Any:
    if isinstance(detail, str):
        return _text(detail)
    if isinstance(detail, dict):
        return {_text(str(key)): _storable(value) for key, value in detail.items()}
    if isinstance(detail, list | tuple):
        return [_storable(value) for value in detail]
    return detail
