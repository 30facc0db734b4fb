"""The rejection note: a Key Object Selection that takes results back (IHE IOCM, PS3.3 A.35.4, PS3.16 TID 2010).

Archives that follow IOCM hide what a note names; others show the note beside it. Nothing is deleted by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import highdicom as hd
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.uid import KeyObjectSelectionDocumentStorage

from node.results import codes
from node.results.common import MANUFACTURER, copy_patient_and_study, new_file, source_zone
from node.results.context import DocumentReference
from node.results.identity import derived_uid
from node.results.wording import ascii_text

KIND = "rejection"
SERIES_NUMBER = 9009
DESCRIPTION = "AI spine: RETRACTED (research)"
_DOCUMENTS = "1.2.840.10008.5.1.4.1.1.88."
"""Root of the SR SOP classes: they are composite objects, everything else here is an image."""


class Reason(Enum):
    """Why results are taken back."""

    QUALITY = "quality"
    SAFETY = "safety"

    @property
    def title(self) -> CodedConcept:
        """Document title (CID 7011)."""
        return codes.REJECTED_FOR_QUALITY if self is Reason.QUALITY else codes.REJECTED_FOR_PATIENT_SAFETY


@dataclass(frozen=True)
class Maker:
    """The node that takes back: name of the installation, its device UID, and the version of the software."""

    site: str
    device_uid: str
    software_version: str


def note_uid(rejected: Sequence[DocumentReference], reason: Reason, maker: Maker, at: datetime) -> str:
    """SOP Instance UID of the note that took these objects back for this reason at that time.

    The time stands in the note: decided once more, after the ledger lost the first decision, it is another note.
    """
    named = ",".join(sorted(reference.sop_instance_uid for reference in rejected))
    return derived_uid(f"rejection|{maker.site}|{maker.software_version}|{reason.value}|{at.isoformat()}|{named}")


def rejection_note(
    header: Dataset, rejected: Sequence[DocumentReference], reason: Reason, maker: Maker, at: datetime
) -> FileDataset:
    """The note that takes results of one study back.

    Parameters
    ----------
    header
        Patient and study as the rejected objects have them.
    at
        Time-zone aware time of the decision: the only date in the note.
    """
    if not rejected:
        raise ValueError("a rejection note names at least one object")
    uid = note_uid(rejected, reason, maker, at)
    built = hd.ko.KeyObjectSelectionDocument(
        evidence=[_evidence(header, reference) for reference in rejected],
        content=hd.ko.KeyObjectSelection(
            document_title=reason.title,
            referenced_objects=[_evidence(header, reference) for reference in rejected],
            observer_device_context=hd.sr.ObserverContext(
                observer_type=dicom_codes.DCM.Device,
                observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                    uid=maker.device_uid, manufacturer_name=MANUFACTURER, model_name="spine-node"
                ),
            ),
        ),
        series_instance_uid=derived_uid(f"series|{uid}"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
    )
    note = new_file(KeyObjectSelectionDocumentStorage, uid)
    for element in built:
        note[element.tag] = element
    copy_patient_and_study(note, header)
    zone = source_zone(header)
    local = at.astimezone(zone) if zone is not None else at
    for event in ("InstanceCreation", "Content", "Series"):
        setattr(note, f"{event}Date", local.strftime("%Y%m%d"))
        setattr(note, f"{event}Time", local.strftime("%H%M%S"))
    note.SeriesDescription = DESCRIPTION
    note.ManufacturerModelName = "spine-node"
    note.SoftwareVersions = maker.software_version
    note.DeviceSerialNumber = ascii_text(maker.site)[:64]
    note.DeviceUID = note.InstanceCreatorUID = maker.device_uid
    note.ContentQualification = "RESEARCH"
    return note


def _evidence(header: Dataset, reference: DocumentReference) -> Dataset:
    """What highdicom wants to know of a rejected object."""
    evidence = Dataset()
    copy_patient_and_study(evidence, header)
    evidence.StudyInstanceUID = reference.study_instance_uid
    evidence.SeriesInstanceUID = reference.series_instance_uid
    evidence.SOPClassUID = reference.sop_class_uid
    evidence.SOPInstanceUID = reference.sop_instance_uid
    if not reference.sop_class_uid.startswith(_DOCUMENTS):
        evidence.Rows = evidence.Columns = 1  # tells that it is an image; goes nowhere
    return evidence
