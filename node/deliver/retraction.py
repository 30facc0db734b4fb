"""Takes results back: a rejection note goes to whoever has them, what is not sent yet is not sent."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset

from node import __version__
from node.deliver.association import UnreachableError
from node.deliver.peer import Peer
from node.deliver.query import QueryRefusedError, studies
from node.device import device_uid
from node.ledger import Database, retractions
from node.ledger.answers import ResultRow
from node.queue import Queue
from node.results.context import DocumentReference
from node.results.rejection import KIND, Maker, Reason, rejection_note
from node.settings import Settings

log = structlog.get_logger(__name__)


class RetractionError(Exception):
    """Nothing was taken back; the message says why."""


@dataclass(frozen=True)
class Retracted:
    """What was taken back of one answer: kinds of its results, the note's UID, and where the note goes."""

    study_uid: str
    revision_of: int
    kinds: tuple[str, ...]
    note_uid: str
    destinations: tuple[str, ...]


def maker(settings: Settings) -> Maker:
    """This node, as rejection notes name it."""
    return Maker(settings.site, device_uid(settings), __version__)


class Retractor:
    """Takes back results that the ledger knows."""

    def __init__(self, settings: Settings, database: Database, maker: Maker) -> None:
        self._settings = settings
        self._database = database
        self._maker = maker
        self._queue = Queue(database.dsn)

    def retract(self, uid: str, reason: Reason) -> list[Retracted]:
        """Take back one result (SOP Instance UID), one series of results, or all results of a study.

        Raises
        ------
        RetractionError
            The ledger has no such result that stands, or nobody knows any more whose it is.
        """
        with self._database.transaction() as connection:
            rows = retractions.retractable(connection, uid)
        done = [
            self._take_back(answer_id, list(group), reason, reason.title.meaning)
            for answer_id, group in groupby(rows, key=lambda row: row["answer_id"])
        ]
        taken_back = [item for item in done if item is not None]
        if not taken_back:
            raise RetractionError(f"the ledger has no result, series or study {uid} with results that stand")
        return taken_back

    def reject_superseded(self) -> int:
        """Take back former revisions whose successor has arrived; returns of how many answers."""
        with self._database.transaction() as connection:
            found = retractions.superseded(connection)
        done = 0
        for row in found:
            with self._database.transaction() as connection:
                rows = retractions.results_that_stand(connection, row["answer_id"])
            try:
                why = f"superseded by revision {row['revision']}"
                done += self._take_back(row["answer_id"], rows, Reason.QUALITY, why) is not None
            except RetractionError as error:
                log.warning("a former revision was not taken back", reason=str(error))
        return done

    def _take_back(self, answer_id: int, rows: list[dict[str, Any]], reason: Reason, why: str) -> Retracted | None:
        """One note for what stands of these results of an answer; ``None`` where others took all of it back before."""
        while rows:
            done = self._try_to_take_back(answer_id, rows, reason, why)
            if isinstance(done, Retracted):
                return done
            rows = [row for row in rows if row["id"] in done]
        return None

    def _try_to_take_back(
        self, answer_id: int, rows: list[dict[str, Any]], reason: Reason, why: str
    ) -> Retracted | list[int]:
        """One note for all of these results; where others took some of them back meanwhile, the ids of the rest."""
        study_uid = rows[0]["study_uid"]
        rejected = [
            DocumentReference(study_uid, row["series_uid"], row["sop_class_uid"], row["sop_instance_uid"])
            for row in rows
        ]
        header = self._header(answer_id, study_uid, rows)
        note = rejection_note(header, rejected, reason, self._maker, datetime.now().astimezone())
        entry = self._write(answer_id, note)
        ids = [row["id"] for row in rows]
        with self._database.transaction() as connection:
            standing = retractions.still_standing(connection, answer_id, ids)
            if standing == ids:
                destinations = retractions.retract(connection, answer_id, ids, entry, why)
                for destination in destinations:
                    self._queue.wake_delivery(connection, answer_id, destination)
        if standing != ids:
            shutil.rmtree((self._settings.outbox_dir / entry.outbox_name).parent, ignore_errors=True)
            return standing
        log.info("retracted", results=len(rows), destinations=destinations)
        kinds = tuple(row["kind"] for row in rows)
        return Retracted(study_uid, answer_id, kinds, entry.sop_instance_uid, tuple(destinations))

    def _header(self, answer_id: int, study_uid: str, rows: list[dict[str, Any]]) -> Dataset:
        """Patient and study: from a result in the outbox, or where those are gone from a destination."""
        for row in rows:
            path = self._settings.outbox_dir / str(row["outbox_name"])
            if path.is_file():
                return dcmread(path, stop_before_pixels=True)
        with self._database.transaction() as connection:
            names = retractions.destinations_of(connection, answer_id)
        for destination in self._settings.destinations:
            if destination.name in names:
                try:
                    found = studies(Peer.of(destination, self._settings), study_uid)
                except (UnreachableError, QueryRefusedError) as error:
                    log.warning("a destination could not be asked whose study it is", reason=str(error))
                    continue
                if len(found) == 1:
                    found[0].StudyInstanceUID = study_uid
                    return found[0]
        raise RetractionError(
            "the results are past their retention here, and no destination answers a query for their study: "
            "reject them in the archive"
        )

    def _write(self, answer_id: int, note: Any) -> ResultRow:
        """The note in the outbox, on the disk before the ledger names it."""
        buffer = io.BytesIO()
        note.save_as(buffer, enforce_file_format=True)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        folder = Path(f"{answer_id:08d}-{KIND}-{digest[:12]}")
        target = self._settings.outbox_dir / folder
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = target / f"{KIND}.dcm"
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        for directory in (target, target.parent, self._settings.data_dir):
            descriptor = os.open(directory, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        return ResultRow(
            kind=KIND,
            sop_class_uid=str(note.SOPClassUID),
            sop_instance_uid=str(note.SOPInstanceUID),
            series_uid=str(note.SeriesInstanceUID),
            outbox_name=str(folder / path.name),
            bytes=len(content),
            sha256=digest,
        )
