"""A finished answer of three objects in a real outbox and ledger, ready to be delivered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from node.deliver.courier import Courier
from node.demo.pacs import AE_TITLE
from node.ledger import Database, answers, deliveries, overview
from node.settings import Settings, load_settings
from tests import ledger
from tests.dicom import STUDY, ct_slice

RESULTS = "2.25.77"
"""Series of the results."""
KINDS = ("reformat", "report", "capture")
CLOCKS = {
    "delivery": ("first_try_at", "last_try_at", "next_try_at", "stored_at", "confirmed_at", "proof_due_at"),
    "commitment": ("requested_at", "accepted_at", "reported_at"),
}
"""What the ledger remembers of the time."""


class Desk:
    """A finished answer of three objects, ready to be delivered."""

    def __init__(
        self, folder: Path, database: Database, port: int, destination: Mapping[str, Any] | None = None, **deliver: Any
    ) -> None:
        self.database = database
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": port, "ae_title": AE_TITLE, "timeout_s": 15}
        self.settings: Settings = load_settings(
            data_dir=folder / "node",
            destinations=[{**pacs, **(destination or {})}],
            deliver={"backoff_s": [1, 2, 4], **deliver},
        )
        self.courier = Courier(self.settings, database)
        self.settings.outbox_dir.mkdir(parents=True)
        with database.transaction() as connection:
            connection.execute("INSERT INTO study (study_uid, last_instance_at) VALUES (%s, now())", (STUDY,))
        self.answer_id = self.answer(0, "pacs")

    def answer(self, ordinal: int, destination: str) -> int:
        """An answer of the study that is to go to a destination; returns its id."""
        rows = []
        for number, kind in enumerate(KINDS):
            data_set = ct_slice(number + ordinal * len(KINDS), series_uid=RESULTS)
            data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
            path = self.settings.outbox_dir / (f"{kind}-{ordinal}.dcm" if ordinal else f"{kind}.dcm")
            data_set.save_as(path, enforce_file_format=True)
            rows.append(self.row(kind, path))
        with self.database.transaction() as connection:
            claimed = ledger.claim(connection, f"in{ordinal}")
            assert claimed is not None
            ids = ledger.finish(connection, claimed, rows)
            for row_id in ids:
                deliveries.plan(connection, row_id, destination)
        return claimed.id

    @staticmethod
    def row(kind: str, path: Path) -> answers.ResultRow:
        """The row of an object that lies in the outbox."""
        data_set, content = dcmread(path), path.read_bytes()
        return answers.ResultRow(
            kind=kind,
            sop_class_uid=data_set.SOPClassUID,
            sop_instance_uid=data_set.SOPInstanceUID,
            series_uid=data_set.SeriesInstanceUID,
            outbox_name=path.name,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )

    def deliver(self, later_s: float = 3600.0) -> list[tuple[str, str, int]]:
        """Deliver once, after the clock was moved on; (kind, state, attempts) of each result."""
        self.later(later_s)
        self.courier.deliver(self.answer_id, "pacs")
        return [(row["kind"], row["state"], row["attempts"]) for row in self.rows()]

    def later(self, seconds: float) -> None:
        """Move the clock: everything in the ledger was that much earlier."""
        with self.database.transaction() as connection:
            for table, columns in CLOCKS.items():
                moved = ", ".join(f"{column} = {column} - make_interval(secs => {seconds})" for column in columns)
                connection.execute(f"UPDATE {table} SET {moved}".encode())

    def rows(self) -> list[dict[str, Any]]:
        with self.database.transaction() as connection:
            found = overview.study(connection, STUDY)
        assert found is not None
        return list(found["deliveries"])

    def waiting_job(self) -> float | None:
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT extract(epoch FROM scheduled_at - now())::float AS s FROM procrastinate_jobs"
                " WHERE status = 'todo'"
            ).fetchone()
        return None if row is None else float(row["s"])
