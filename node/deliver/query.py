"""What an archive says when it is asked (C-FIND, PS3.4 C.4.1, Study Root): whose study it is, which objects it has."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from node.deliver.association import UnreachableError
from node.deliver.peer import Peer

_MODEL = StudyRootQueryRetrieveInformationModelFind
SUCCESS = 0x0000
PENDING = (0xFF00, 0xFF01)
MOST_MATCHES = 1000
PATIENT_KEYS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
"""What a study is asked for: whose it is, and what an object of ours has to repeat."""


class QueryRefusedError(Exception):
    """The archive took the association and the query, and answered with a failure; the message names the status."""


@dataclass(frozen=True)
class Person:
    """Whose a study is: the values that tell patients apart, without padding; empty where not known."""

    patient_id: str
    issuer: str
    birth_date: str

    @classmethod
    def of(cls, header: Dataset) -> Person:
        """The patient of a header or of an archive's answer."""

        def value(keyword: str) -> str:
            return str(header.get(keyword, "") or "").strip()

        return cls(value("PatientID"), value("IssuerOfPatientID"), value("PatientBirthDate"))

    def differs_from(self, other: Person) -> str | None:
        """What tells them apart, in words that name nobody; ``None`` where nothing does."""
        if self.patient_id != other.patient_id:
            return "another patient ID"
        if self.issuer and other.issuer and self.issuer != other.issuer:
            return "another issuer of the patient ID"
        if self.birth_date and other.birth_date and self.birth_date != other.birth_date:
            return "another birth date"
        return None


def studies(peer: Peer, study_uid: str) -> list[Dataset]:
    """What an archive knows of a study: one data set, none, or several where it keeps it under several patients.

    Raises
    ------
    UnreachableError
        No association (NothingAcceptedError where it takes no queries), or no answer.
    QueryRefusedError
        It answered that it could not.
    """
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = study_uid
    for keyword in PATIENT_KEYS:
        setattr(keys, keyword, "")
    return [match for match in _find(peer, [keys])[0] if str(match.get("StudyInstanceUID", study_uid)) == study_uid]


def present(peer: Peer, study_uid: str, objects: list[tuple[str, str]]) -> set[str]:
    """Of the given objects of one study, the SOP Instance UIDs that an archive says it has.

    Parameters
    ----------
    objects
        (Series Instance UID, SOP Instance UID) of each.

    Raises
    ------
    UnreachableError, QueryRefusedError
        As :func:`studies`.
    """
    queries = []
    for series_uid, sop_instance_uid in objects:
        keys = Dataset()
        keys.QueryRetrieveLevel = "IMAGE"
        keys.StudyInstanceUID = study_uid
        keys.SeriesInstanceUID = series_uid
        keys.SOPInstanceUID = sop_instance_uid
        queries.append(keys)
    wanted = {sop_instance_uid for _, sop_instance_uid in objects}
    found = {str(match.get("SOPInstanceUID", "")) for matches in _find(peer, queries) for match in matches}
    return wanted & found


def _find(peer: Peer, queries: list[Dataset]) -> list[list[Dataset]]:
    context = build_context(_MODEL, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    with peer.association([context]) as association:
        return [_matches(association, peer, keys, number) for number, keys in enumerate(queries, start=1)]


def _matches(association: Association, peer: Peer, keys: Dataset, number: int) -> list[Dataset]:
    matches: list[Dataset] = []
    try:
        for answer, match in association.send_c_find(keys, _MODEL, msg_id=number):
            if "Status" not in answer:
                raise UnreachableError(f"{peer} did not answer a query within {peer.timeout_s:.0f} s")
            status = int(answer.Status)
            if status in PENDING and match is not None and len(matches) < MOST_MATCHES:
                matches.append(match)
            elif status not in (SUCCESS, *PENDING):
                raise QueryRefusedError(f"{peer} could not answer a query (0x{status:04X}): see its log")
    except (ValueError, RuntimeError, OSError) as error:
        raise UnreachableError(f"the association with {peer} broke: {error}") from error
    return matches
