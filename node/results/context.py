"""What the encoder is told about the run, and what it hands back."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import FileDataset

RADIOGRAPH = "radiograph"
"""The pipeline whose input is one image, not a series."""


class ResultError(ValueError):
    """Findings that cannot be encoded as they are: the message names the object and what contradicts what."""


@dataclass(frozen=True)
class DocumentReference:
    """An SR document of an earlier revision, as PredecessorDocumentsSequence names it (PS3.3 C.17.2)."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class ResultContext:
    """Everything that decides the identity and the dates of the results, apart from source and findings.

    Attributes
    ----------
    site
        Name of the installation; part of every derived UID.
    pipeline
        "ct", "radiograph" or "mr".
    input_sha256, configuration_sha256
        Hex digests of what the answer depends on.
    revision
        1 for the first answer; later ones are named in descriptions and add 100 to the series numbers.
    dated_at
        Time-zone aware, the only clock that results know, and part of every derived UID: when the last image of the
        input arrived, as spool and ledger say. So that the same answer can be made again, bytes and all, after a
        ledger was lost. Without either (``analyze``) the start of the run.
    software_version
        Of the node.
    device_uid, device_serial
        Of this node; also InstanceCreatorUID.
    series_number_base
        Series numbers are this plus 1 (capture) to 6 (bodies), plus 100 for each further revision.
    predecessor_report, predecessor_details
        The SR documents that this revision supersedes; part of every derived UID.
    parameters
        (name, value) of every threshold in force, printed in ``details.dcm``.
    """

    site: str
    pipeline: str
    input_sha256: str
    configuration_sha256: str
    revision: int
    dated_at: datetime
    software_version: str
    device_uid: str
    device_serial: str
    series_number_base: int = 9000
    predecessor_report: DocumentReference | None = None
    predecessor_details: DocumentReference | None = None
    parameters: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.dated_at.tzinfo is None:
            raise ValueError("ResultContext.dated_at has no time zone: results cannot state their time")
        if self.revision < 1:
            raise ValueError(f"revisions are counted from 1, this one is {self.revision}")
        if self.series_number_base < 0:
            raise ValueError(f"the series number base is {self.series_number_base}; it cannot be negative")


@dataclass(frozen=True)
class Result:
    """One built DICOM object.

    ``kind`` is "reformat", "capture", "segmentation", "bodies", "expected", "report" or "details"; of a radiograph
    "capture", "report", "details" or "film_segmentation". ``ordinal`` counts
    objects of one kind from 1; ``filename`` is the name promised for ``analyze``.
    """

    kind: str
    ordinal: int
    dataset: FileDataset
    filename: str

    def encoded(self) -> bytes:
        """The complete PS3.10 file. The same result always gives the same bytes."""
        buffer = io.BytesIO()
        self.dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    def sha256(self) -> str:
        """Hex digest of :meth:`encoded`."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def reference(self) -> DocumentReference:
        """How a later revision names this object as its predecessor."""
        return DocumentReference(
            study_instance_uid=str(self.dataset.StudyInstanceUID),
            series_instance_uid=str(self.dataset.SeriesInstanceUID),
            sop_class_uid=str(self.dataset.SOPClassUID),
            sop_instance_uid=str(self.dataset.SOPInstanceUID),
        )
