"""An archive that does as the test says: commits at once, late, partly, twice or never, and answers queries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from node.demo.pacs import AE_TITLE, SmallPacs

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
NO_SUCH_OBJECT = 0x0112


@dataclass(frozen=True)
class Request:
    """One N-ACTION: its transaction, (SOP Class UID, SOP Instance UID) of each object, and where it came from."""

    transaction_uid: str
    objects: tuple[tuple[str, str], ...]
    association: Association

    @property
    def uids(self) -> tuple[str, ...]:
        """SOP Instance UIDs."""
        return tuple(uid for _, uid in self.objects)


def commits(
    request: Request, failed: Mapping[str, int] | None = None, transaction_uid: str | None = None
) -> tuple[Dataset, int]:
    """Event information and event type of a report on a request: all committed but ``failed`` (UID to reason)."""
    failed = failed or {}
    information = Dataset()
    information.TransactionUID = transaction_uid or request.transaction_uid
    for keyword, wanted in (("ReferencedSOPSequence", False), ("FailedSOPSequence", True)):
        items = []
        for sop_class_uid, uid in request.objects:
            if (uid in failed) is wanted:
                item = Dataset()
                item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, uid
                if wanted:
                    item.FailureReason = failed[uid]
                items.append(item)
        if items:
            setattr(information, keyword, items)
    return information, 2 if failed else 1


class Archive(SmallPacs):
    """A small PACS with Storage Commitment and Study Root C-FIND.

    Attributes
    ----------
    on_request
        Called with each N-ACTION before it is answered; returns the DIMSE status of the answer.
    requests
        Every N-ACTION, in order.
    report_answers
        Status of the answer to each report that went out on the association of its request; ``None`` without one.
    holds
        Whether a query finds an object; by default what was stored.
    patients
        What a query for a study finds: (patient ID, birth date) of each match.
    query_status
        DIMSE status that ends a query.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.on_request: Callable[[Request], int] = lambda _request: 0x0000
        self.requests: list[Request] = []
        self.report_answers: list[int | None] = []
        self.queries: list[Dataset] = []
        self.holds: Callable[[str], bool] = lambda uid: uid in self.stored()
        self.patients: Sequence[tuple[str, str]] = ()
        self.query_status = 0x0000
        for context in (StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind):
            self._ae.add_supported_context(context, SYNTAXES)

    def __enter__(self) -> Archive:
        handlers = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_C_FIND, self._on_find),
        ]
        server = self._ae.start_server(("127.0.0.1", self._port), block=False, evt_handlers=handlers)
        self._port = int(server.socket.getsockname()[1])
        return self

    def without(self, abstract_syntax: str) -> None:
        """Take this SOP class no longer."""
        self._ae.remove_supported_context(abstract_syntax)
        for server in self._ae._servers:
            server.contexts = self._ae.supported_contexts

    def report_at_once(self, failed: Mapping[str, int] | None = None) -> None:
        """From now on each report overtakes the answer to its request, on the same association."""

        def report(request: Request) -> int:
            self._report(request, failed)
            return 0x0000

        self.on_request = report

    def report_afterwards(self, failed: Mapping[str, int] | None = None) -> None:
        """From now on each report follows the answer to its request, on the same association."""

        def report(request: Request) -> int:
            threading.Timer(0.1, self._report, (request, failed)).start()
            return 0x0000

        self.on_request = report

    def _report(self, request: Request, failed: Mapping[str, int] | None) -> None:
        self.report_answers.append(send_report(request.association, *commits(request, failed)))

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        information = event.action_information
        objects = tuple(
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in information.ReferencedSOPSequence
        )
        request = Request(str(information.TransactionUID), objects, event.assoc)
        self.requests.append(request)
        return self.on_request(request), None

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        self.queries.append(keys)
        if self.query_status:
            yield self.query_status, None
            return
        if keys.QueryRetrieveLevel == "STUDY":
            for patient_id, birth_date in self.patients:
                keys.PatientID, keys.PatientBirthDate = patient_id, birth_date
                yield 0xFF00, keys
        elif self.holds(str(keys.SOPInstanceUID)):
            yield 0xFF00, keys


def send_report(association: Association, information: Dataset, event_type: int) -> int | None:
    """N-EVENT-REPORT on an open association; the status of the answer, ``None`` without one."""
    status, _ = association.send_n_event_report(
        information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    return int(status.Status) if "Status" in status else None


def report_back(
    port: int, information: Dataset, event_type: int, *, with_roles: bool = True, called: str = "SPINENODE"
) -> int | None:
    """N-EVENT-REPORT over an association of the archive's own to a listener; the status of the answer."""
    ae = AE(ae_title=AE_TITLE)
    ae.add_requested_context(StorageCommitmentPushModel, SYNTAXES)
    roles = [build_role(StorageCommitmentPushModel, scp_role=True)] if with_roles else []
    association = ae.associate("127.0.0.1", port, ae_title=called, ext_neg=roles)
    assert association.is_established, "the listener did not take the association"
    try:
        assert association.accepted_contexts, "the listener did not take the context"
        if not with_roles:
            association.accepted_contexts[0]._as_scp = True  # an archive that does not negotiate, and reports
        return send_report(association, information, event_type)
    finally:
        association.release()
