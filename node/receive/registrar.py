"""Tells the ledger what lies in the spool: in batches, behind the acknowledgement, within a second.

The ledger may be away for hours; receiving goes on, and everything is entered when it is back. At start, and after
every trouble with the database, the spool itself is read again: the files are the truth.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import psycopg
import structlog
from psycopg_pool import PoolTimeout
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from node.ledger import Database, intake
from node.ledger.intake import InstanceRow
from node.receive.spool import Reception, Spool

log = structlog.get_logger(__name__)

BATCH = 200
BATCH_WINDOW_S = 0.25
_KEYS = ["StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality"]

Wake = Callable[[psycopg.Connection[Any], str], None]
"""Defers the evaluation of a study on the registrar's own transaction."""


class Registrar:
    """One thread that enters receptions and events into the ledger."""

    def __init__(self, spool: Spool, database: Database, wake: Wake) -> None:
        self._spool = spool
        self._database = database
        self._wake = wake
        self._arrivals: queue.SimpleQueue[Reception | tuple[str, str, dict[str, Any]]] = queue.SimpleQueue()
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
                if not spool_read:
                    self.enter_spool()
                    spool_read = True
                self._enter(self._batch())
            except (psycopg.Error, PoolTimeout, OSError) as error:
                log.warning("the ledger is away; receiving goes on", reason=type(error).__name__)
                spool_read = False
                self._stop.wait(1.0)
            if stopping and self._arrivals.empty():
                return

    def _batch(self) -> list[Reception | tuple[str, str, dict[str, Any]]]:
        batch: list[Reception | tuple[str, str, dict[str, Any]]] = []
        deadline = time.monotonic() + BATCH_WINDOW_S
        while len(batch) < BATCH and (left := deadline - time.monotonic()) > 0:
            try:
                batch.append(self._arrivals.get(timeout=left))
            except queue.Empty:
                break
        return batch

    def _enter(self, batch: list[Reception | tuple[str, str, dict[str, Any]]]) -> None:
        rows = [self._row(item) for item in batch if isinstance(item, Reception)]
        events = [item for item in batch if not isinstance(item, Reception)]
        if not batch:
            return
        with self._database.transaction() as connection:
            for kind, subject, detail in events:
                intake.record_event(connection, kind, subject, detail)
            for row in rows:
                if row is not None and not row.study_uid:
                    intake.record_event(
                        connection, "unreadable", row.calling_ae, {"spool_name": row.spool_name, "bytes": row.bytes}
                    )
            changed = intake.register(connection, [row for row in rows if row is not None])
            for study_uid in sorted(changed):
                self._wake(connection, study_uid)

    def _row(self, reception: Reception) -> InstanceRow | None:
        try:
            raw = self._spool.path(reception.spool_name).read_bytes()
        except FileNotFoundError:  # expired or quarantined meanwhile
            return None
        keys = dict.fromkeys(_KEYS, "")
        try:
            header = dcmread(BytesIO(raw), stop_before_pixels=True, specific_tags=list(_KEYS))
            keys = {key: str(header.get(key, "") or "").replace("\0", "").strip() for key in _KEYS}
        except (InvalidDicomError, ValueError, KeyError, AttributeError, EOFError, NotImplementedError, OSError):
            log.warning("an instance is unreadable as DICOM", spool_name=reception.spool_name)
        return InstanceRow(
            spool_name=reception.spool_name,
            received_at=reception.received_at,
            calling_ae=reception.calling_ae,
            called_ae=reception.called_ae,
            transfer_syntax=reception.transfer_syntax,
            sop_class_uid=reception.sop_class_uid,
            sop_instance_uid=reception.sop_instance_uid,
            study_uid=keys["StudyInstanceUID"][:64],
            series_uid=keys["SeriesInstanceUID"][:64],
            patient_id=keys["PatientID"],
            modality=keys["Modality"][:16],
            bytes=len(raw),
            sha256=_content_digest(raw),
        )

    def enter_spool(self) -> None:
        """Enter every instance that lies in the spool and is not in the ledger; finish interrupted erasures.

        A file whose length or checksum is wrong was never acknowledged, or was altered since: it is set aside.
        """
        names = list(self._spool.names())
        for start in range(0, len(names), BATCH):
            chunk = names[start : start + BATCH]
            with self._database.transaction() as connection:
                known = intake.registered(connection, chunk)
            for name, erased in known.items():
                if erased:
                    self._spool.remove(name)
            found: list[Reception | tuple[str, str, dict[str, Any]]] = []
            for name in chunk:
                if name in known:
                    continue
                reception = self._spool.read_reception(name)
                if reception is None:
                    self._spool.quarantine(name)
                    log.warning("a torn file was set aside", spool_name=name)
                    found.append(("quarantined", "", {"spool_name": name}))
                else:
                    found.append(reception)
            self._enter(found)


def _content_digest(raw: bytes) -> str:
    """SHA-256 of what was sent: the file without the meta information that the node itself wrote."""
    group_length = int.from_bytes(raw[140:144], "little")
    return hashlib.sha256(memoryview(raw)[144 + group_length :]).hexdigest()
