"""Erases what the node holds of a patient: work is stopped, files go, then the ledger forgets, and says that it did.

Killed at any point, the command given again finishes: the ledger forgets the patient last. What the archive has is the
archive's: results there are not touched.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from pydicom.filereader import read_partial
from pydicom.tag import Tag

from node.ledger import Database, erasure, intake
from node.process import check_storage
from node.queue import release_stalled
from node.receive.spool import QUARANTINE, Spool
from node.settings import Settings

log = structlog.get_logger(__name__)

POLL_S = 0.2
KEYS = ("PatientID", "StudyInstanceUID")
LAST = max(map(Tag, KEYS))


class BusyError(Exception):
    """A worker is busy with the patient's data; nothing was erased yet, and nothing more is done with them."""


@dataclass(frozen=True)
class Erased:
    """What was erased, and when it was written down; ``at`` is ``None`` where nothing was there."""

    studies: int
    images: int
    results: int
    files: int
    at: datetime | None


def erase_patient(settings: Settings, database: Database, patient_id: str, patience_s: float = 60.0) -> Erased:
    """Erase a patient's images, results and ledger rows, by Patient ID as it came in the images.

    Every study in which an image bears the ID is erased as a whole, other IDs in it included: a corrected study came
    under the former ID first.

    Raises
    ------
    BusyError
        A worker did not finish within ``patience_s``.
    """
    check_storage(settings)
    spool = Spool(settings.spool_dir)
    with database.transaction() as connection:
        studies = erasure.studies_of(connection, patient_id)
        answers = erasure.stop_work(connection, studies)
    _wait_for_workers(settings, database, studies, answers, patience_s)
    with database.transaction() as connection:
        images, results = erasure.files_of(connection, patient_id, studies)
    removed = _remove_known(settings, spool, images, results)
    for answer_id in answers:  # also what an attempt left there that was killed
        for folder in settings.outbox_dir.glob(f"{answer_id:08d}-*"):
            shutil.rmtree(folder, ignore_errors=True)
    for path in _unknown_files(spool, database, patient_id, studies):
        removed += _remove(path)
    if not (studies or images or removed):
        return Erased(0, 0, 0, 0, None)
    with database.transaction() as connection:
        images, results = erasure.files_of(connection, patient_id, studies)  # some may have come meanwhile
        erasure.forget(connection, studies, patient_id)
        counts = {"studies": len(studies), "images": len(images), "results": len(results), "files": removed}
        at = erasure.record(connection, patient_id, counts)
    _remove_known(settings, spool, images, results)
    log.info("a patient was erased", **counts)
    return Erased(**counts, at=at)


def _wait_for_workers(
    settings: Settings, database: Database, studies: list[str], answers: list[int], patience_s: float
) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        with database.transaction() as connection:
            if not erasure.is_worked_on(connection, studies, answers):
                return
        if time.monotonic() > deadline:
            raise BusyError(
                "a worker is busy with this patient's data and did not finish: nothing more is begun with them; "
                "give the command again"
            )
        release_stalled(database.dsn, settings.work.stalled_after_s)
        time.sleep(POLL_S)


def _remove_known(settings: Settings, spool: Spool, images: list[str], results: list[str]) -> int:
    """Delete files by the names that the ledger has; returns how many were there."""
    removed = 0
    for name in images:
        removed += spool.path(name).is_file()
        spool.remove(name)
    return removed + sum(_remove(settings.outbox_dir / name) for name in results)


def _remove(path: Path) -> bool:
    """Delete a file; whether it was there."""
    there = path.is_file()
    path.unlink(missing_ok=True)
    return there


def _unknown_files(spool: Spool, database: Database, patient_id: str, studies: Collection[str]) -> Iterator[Path]:
    """Files of the spool that the ledger does not know, torn ones included, of the patient or of these studies."""
    names = list(spool.names())
    with database.transaction() as connection:
        known = intake.registered(connection, names)
    unknown = [spool.path(name) for name in names if name not in known]
    quarantine = spool.folder / QUARANTINE
    if quarantine.is_dir():
        unknown += sorted(quarantine.iterdir())
    for path in unknown:
        try:
            with path.open("rb") as file:  # no further than what is asked for: behind it a file may be torn
                header = read_partial(file, lambda tag, _vr, _length: tag > LAST, specific_tags=[*map(Tag, KEYS)])
            found, study_uid = (str(header.get(key, "") or "").strip() for key in KEYS)
        except Exception as error:  # pydicom raises nearly everything on torn bytes
            log.warning("a file of the spool cannot be read; it is left", reason=type(error).__name__)
            continue
        if found == patient_id or study_uid in studies:
            yield path
