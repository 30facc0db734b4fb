"""The Storage Commitment Push Model SCU (PS3.4 Annex J): asks an archive to vouch for what it accepted.

The request (N-ACTION) names a transaction; the report (N-EVENT-REPORT) comes on the same association or, minutes or
days later, on one that the archive opens to our listener. Both ways lead to the same desk (`node.deliver.reports`).
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from node.deliver.association import UnreachableError
from node.deliver.peer import Peer
from node.ledger.proofs import Next

REQUEST_COMMITMENT = 1
"""Action type (J.3.2)."""
ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""Event types (J.3.3)."""
MOST_REPORTED = 10_000
"""Objects that one report may name; an answer has a handful."""
_POLL_S = 0.1

_FAILURES = {
    0x0110: Next.ASK_AGAIN,  # processing failure
    0x0213: Next.ASK_AGAIN,  # resource limitation
    0x0131: Next.ASK_AGAIN,  # duplicate transaction UID
    0x0122: Next.ASK_BY_QUERY,  # it does not commit to objects of this class, which says nothing about having them
}
"""Failure reasons (PS3.3 C.14.1.1) after which sending again would not help; 0x0112 (no such object instance), 0x0119
(class and instance disagree) and unknown ones: sent again."""


class RefusedError(Exception):
    """The destination does not take the request; the message says what it answered."""


class InvalidReportError(ValueError):
    """The report cannot be understood."""


@dataclass(frozen=True)
class Report:
    """What an archive says of a transaction: SOP Instance UIDs it vouches for, and the others with failure reasons."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]


def new_transaction_uid() -> str:
    """A UID that nobody can guess: who knows it has read our request."""
    return f"2.25.{uuid.uuid4().int}"


def next_step(failure_reason: int) -> Next:
    """What a failure reason asks for."""
    return _FAILURES.get(failure_reason, Next.SEND_AGAIN)


def read_report(event_type: int, information: Dataset) -> Report:
    """The content of an N-EVENT-REPORT request (J.3.3.1).

    Raises
    ------
    InvalidReportError
        No transaction, an item without UIDs, or more items than any request of ours has.
    """
    try:
        transaction_uid = str(information.get("TransactionUID", "") or "").strip()
        committed = tuple(str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ())
        failed: dict[str, int] = {}
        for item in information.get("FailedSOPSequence") or ():
            failed[str(item.ReferencedSOPInstanceUID)] = int(item.get("FailureReason") or 0)
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidReportError(f"a report of storage commitment without UIDs: {type(error).__name__}") from error
    if not transaction_uid:
        raise InvalidReportError("a report of storage commitment without a transaction")
    if len(committed) + len(failed) > MOST_REPORTED:
        raise InvalidReportError("a report of storage commitment that names more than was ever asked for")
    if event_type == ALL_COMMITTED and failed:
        raise InvalidReportError("a report of success that names failures")
    return Report(transaction_uid, committed, failed)


def request(
    peer: Peer,
    transaction_uid: str,
    objects: Sequence[tuple[str, str]],
    *,
    wait_s: float,
    accepted: Callable[[], None],
    on_report: Callable[[evt.Event], tuple[int, Dataset | None]],
    settled: Callable[[], bool],
) -> None:
    """Ask for storage commitment, and keep the association open for the report for a while.

    Parameters
    ----------
    objects
        (SOP Class UID, SOP Instance UID) of each.
    wait_s
        How long the report is waited for on this association, unless ``settled`` says that it came the other way.
    accepted
        Called when the archive has taken the request.
    on_report
        Handler of a report (N-EVENT-REPORT) on this association, called in a thread of its own. There are archives
        whose report overtakes the answer to the request. The association is not released before a report is answered.

    Raises
    ------
    UnreachableError
        No association, or no answer.
    RefusedError
        The archive answered that it will not.
    """
    answering: list[threading.Thread] = []

    def report(event: evt.Event) -> tuple[int, Dataset | None]:
        answering.append(threading.current_thread())
        return on_report(event)

    context = build_context(StorageCommitmentPushModel, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    with peer.association([context]) as association:
        association.bind(evt.EVT_N_EVENT_REPORT, report)
        (agreed,) = association.accepted_contexts
        association.dimse.send_msg(_action(transaction_uid, objects, agreed), agreed.context_id)
        try:
            status = _answer(association, peer)
            if status != 0x0000:
                raise RefusedError(f"the destination refuses storage commitment (0x{status:04X}): see its log")
            accepted()
            deadline = time.monotonic() + wait_s
            while not settled() and time.monotonic() < deadline and not _is_over(association):
                time.sleep(_POLL_S)
        finally:  # the ledger may know of a report before the archive has its answer
            for thread in answering:
                thread.join(peer.timeout_s)


def _action(transaction_uid: str, objects: Sequence[tuple[str, str]], agreed: PresentationContext) -> N_ACTION:
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in objects:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    action = N_ACTION()
    action.MessageID = 1
    action.RequestedSOPClassUID = StorageCommitmentPushModel
    action.RequestedSOPInstanceUID = StorageCommitmentPushModelInstance
    action.ActionTypeID = REQUEST_COMMITMENT
    syntax = agreed.transfer_syntax[0]
    encoded = encode(information, syntax.is_implicit_VR, syntax.is_little_endian)
    if encoded is None:
        raise ValueError("a request of storage commitment that cannot be encoded")
    action.ActionInformation = BytesIO(encoded)
    return action


def _answer(association: Association, peer: Peer) -> int:
    """Status of the response to the N-ACTION."""
    try:
        _, message = association.dimse.msg_queue.get(timeout=peer.timeout_s)
    except queue.Empty:
        raise UnreachableError(
            f"{peer} did not answer a request for storage commitment within {peer.timeout_s:.0f} s"
        ) from None
    if not isinstance(message, N_ACTION) or not message.is_valid_response:
        raise UnreachableError(f"{peer} ended the association instead of answering a request for storage commitment")
    return int(cast(int, message.Status))


def _is_over(association: Association) -> bool:
    """Whether the archive has ended the association; its release is answered."""
    if association.acse.is_release_requested():
        association.acse.send_release(is_response=True)
        association.is_released = True
        association.is_established = False
        association.kill()
    return bool(association.acse.is_aborted()) or not association.is_established or not association.dul.is_alive()
