"""The fast path: C-STORE data sets go straight from the connection to the spool, and nothing polls.

pynetdicom keeps association control, negotiation, TLS, C-ECHO and its state machine, in its own two threads:

- the upper layer's thread (`WaitingProvider`) waits for the connection or a wake-up instead of looking every
  millisecond. In state 6 (data transfer) it reads P-DATA itself (`node.receive.messages`), stores and answers C-STORE
  requests, and hands every other PDU and message to pynetdicom as if pynetdicom had read it;
- the association's thread waits for what the other one hands on (`Checkpoint`), instead of looking every millisecond.

`adopt` turns an association that was made and not started into such a one. It leans on names that pynetdicom does not
promise: `missing_hooks` says which of them are gone, and then the plain handler receives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from queue import Queue
from typing import Any

import structlog
from pynetdicom import AE
from pynetdicom.association import MODE_ACCEPTOR, Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from node.receive import command
from node.receive.command import P_DATA_TF, Command
from node.receive.inlet import HungUpError, Inlet, InterruptedInletError, ProtocolError
from node.receive.messages import MessageStream, Storing, TooLargeError
from node.receive.spool import Origin

log = structlog.get_logger(__name__)

LONGEST_WAIT_S = 60.0
PARTING_S = 2.0
PARTING_BYTES = 64 << 20
"""How long, and how much, a peer that broke the protocol is listened to after it was told so."""
_DATA_TRANSFER, _CLOSING = "Sta6", "Sta13"
"""States of PS3.8 9.2.1."""

Begin = Callable[[Association, Origin], Storing]
"""Begins an instance of an association."""
Refused = Callable[[Association, str, str], None]
"""(association, kind of event, why): the peer is about to be hung up on."""


class WaitingProvider(DULServiceProvider):
    """pynetdicom's upper layer, waiting instead of polling, with data sets that stream.

    Its loop (``run_reactor``) is pynetdicom's. `_is_transport_event`, which that loop calls when there is nothing to
    send, waits here; whatever another thread wants of this one wakes it.
    """

    _inlet: Inlet
    _messages: MessageStream
    _refused: Callable[[str, str], None]
    _lingers = False
    """The peer was told that it broke the protocol, and may still be sending."""
    ended = False
    """Nothing more comes from this thread."""

    def run(self) -> None:
        """The thread: pynetdicom's loop, then nothing is left open and the association's thread is told."""
        try:
            super().run()
        finally:
            self._messages.discard()
            self._inlet.close()  # pynetdicom leaves a socket to the garbage collector where the peer hung up first
            self.ended = True
            self.assoc._reactor_checkpoint.activity.set()

    def kill_dul(self) -> None:
        """End the loop."""
        super().kill_dul()
        self._inlet.wake()

    def stop_dul(self) -> bool:
        """End the loop if the connection is closed, and wait for its thread."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()
        return True

    def _is_transport_event(self) -> bool:
        if not self.event_queue.empty():
            return False
        if self.state_machine.current_state == _CLOSING:
            return self._part()
        if not self._inlet.wait(self._patience_s()):
            return False
        try:
            while self._receive() and self._may_go_on() and self.state_machine.current_state == _DATA_TRANSFER:
                if not self._inlet.wait(LONGEST_WAIT_S):
                    return False
            return True
        except InterruptedInletError:
            if self.idle_timer_expired():  # pynetdicom's clock for the association was quicker than ours for the PDU
                self._refused("peer_refused", "a PDU that does not arrive in time")
            self._lingers = True
        except HungUpError:
            self.event_queue.put("Evt17")  # transport connection closed
        except ProtocolError as error:
            kind = "instance_too_large" if isinstance(error, TooLargeError) else "peer_refused"
            self._refused(kind, str(error))
            self._lingers = True
            self.event_queue.put("Evt19")  # invalid PDU: A-ABORT (PS3.8 9.2.3)
        except Exception as error:  # of ours: pynetdicom sends an A-ABORT then, and tells nobody
            log.error("an association failed", reason=type(error).__name__)
            self._refused("peer_refused", f"an internal error ({type(error).__name__})")
            raise
        return False

    def _receive(self) -> bool:
        """Take what has come: streamed in the state of data transfer, else one PDU by pynetdicom's own means."""
        if not self._inlet.buffered and not self._inlet.fill():
            return False
        if self.state_machine.current_state == _DATA_TRANSFER and self._inlet.next_kind() == P_DATA_TF:
            self._messages.read()
        else:
            self._messages.discard()  # A-ABORT, A-RELEASE or nonsense in the midst of an instance
            self._read_pdu_data()
        return True

    def _patience_s(self) -> float:
        return min(float(self.artim_timer.remaining), LONGEST_WAIT_S)

    def _part(self) -> bool:
        """Everything is said (state 13): close, once the peer has had the time to hear it."""
        if self._lingers:
            self._inlet.discard(PARTING_BYTES, PARTING_S)
        self.socket.close()
        return True

    def _interrupted(self) -> bool:
        """Whether the association is to end."""
        return self._kill_thread or any(isinstance(p, A_ABORT | A_P_ABORT) for p in list(self.to_provider_queue.queue))

    def _answer(self, pdus: bytes) -> None:
        """Send a response from this thread."""
        try:
            self.socket.socket.sendall(pdus)
        except (OSError, AttributeError):  # the peer takes no answer, or the association was ended by another thread
            self.event_queue.put("Evt17")  # transport connection closed

    def _may_go_on(self) -> bool:
        """Asked after each PDU: whether nothing else has to be done before the next one is read."""
        self._idle_timer.start()
        return not self.event_queue.queue and not self.to_provider_queue.queue

    def _pass_on(self, pdu: bytes) -> None:
        """Hand a PDU to pynetdicom's state machine, as its own reading does."""
        decoded, event = self._decode_pdu(bytearray(pdu))
        self._recv_pdu.put(decoded)
        self.state_machine.do_action(event)


class Checkpoint(threading.Event):
    """Stands in for the event that the association's loop passes in each round: there it waits for something to do."""

    def __init__(self, association: Association) -> None:
        super().__init__()
        self.set()
        self.activity = threading.Event()
        self._association = association

    def wait(self, timeout: float | None = None) -> bool:
        """Return once something was handed on, the upper layer has ended, or its idle timer has run out."""
        passed = super().wait(timeout)
        association = self._association
        if self._is_idle():
            self.activity.wait(max(0.05, min(association.dul._idle_timer.remaining, LONGEST_WAIT_S)))
        self.activity.clear()
        return passed

    def _is_idle(self) -> bool:
        association = self._association
        return (
            not association._kill
            and not association.dul.ended
            and association.dimse.msg_queue.empty()
            and association.dul.to_user_queue.empty()
            and not association.dul.idle_timer_expired()
        )


def adopt(
    association: Association, begin: Begin, refused: Refused, largest_message: int, largest_other_pdu: int
) -> None:
    """Make an association, before its threads start, receive by the fast path.

    Parameters
    ----------
    begin
        Begins an instance, when a C-STORE request's command set is there.
    refused
        Told before a peer that broke the protocol is hung up on.
    largest_message
        Bytes of a message beyond which the association is dropped.
    largest_other_pdu
        Bytes that a PDU other than P-DATA-TF may have.
    """
    provider: Any = association.dul
    provider.__class__ = WaitingProvider
    client = provider.socket.socket
    inlet = Inlet(
        client, client.gettimeout(), association.ae.maximum_pdu_size, largest_other_pdu, provider._interrupted
    )
    provider._inlet = inlet
    provider._refused = lambda kind, why: refused(association, kind, why)
    provider._run_loop_delay = 0.0
    provider.socket.recv = inlet.exactly
    contexts = _Contexts(association)
    provider._messages = MessageStream(
        inlet,
        contexts.is_storage,
        lambda request, context_id: begin(association, contexts.origin(request, context_id)),
        lambda request, context_id, status: provider._answer(
            command.store_response(request, status, context_id, contexts.largest_answer)
        ),
        provider._pass_on,
        provider._may_go_on,
        largest_message,
    )
    checkpoint = Checkpoint(association)
    association._reactor_checkpoint = checkpoint
    for queue in (provider.event_queue, provider.to_provider_queue):
        _tell(queue, inlet.wake)
    for queue in (provider.to_user_queue, association.dimse.msg_queue):
        _tell(queue, checkpoint.activity.set)


def _tell(queue: Queue[Any], told: Callable[[], None]) -> None:
    """Have somebody told of everything that is put into a queue."""
    put = queue.put

    def telling(item: Any, block: bool = True, timeout: float | None = None) -> None:
        put(item, block, timeout)
        told()

    queue.put = telling  # type: ignore[method-assign]


class _Contexts:
    """What was negotiated for an association, as far as the fast path asks."""

    def __init__(self, association: Association) -> None:
        self._association = association
        self._known: dict[tuple[int, str], bool] = {}
        self._syntaxes: dict[int, str] = {}

    @cached_property
    def largest_answer(self) -> int:
        """Bytes that the peer takes in one PDU; 0: any number (PS3.8 D.1)."""
        return self._association.requestor.maximum_length or 0

    def origin(self, request: Command, context_id: int) -> Origin:
        """What is known of an instance whose request came in an accepted context."""
        syntax = self._syntaxes.get(context_id)
        if syntax is None:
            syntax = str(self._association._accepted_cx[context_id].transfer_syntax[0])
            self._syntaxes[context_id] = syntax
        return Origin(
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            transfer_syntax=syntax,
            calling_ae=self._association.requestor.ae_title,
            called_ae=self._association.acceptor.ae_title,
            received_at=datetime.now(UTC),
        )

    def is_storage(self, context_id: int, sop_class_uid: str) -> bool:
        """Whether an accepted context and a SOP class both belong to the Storage service.

        Raises
        ------
        ProtocolError
            The context was not accepted.
        """
        known = self._known.get((context_id, sop_class_uid))
        if known is not None:
            return known
        context = self._association._accepted_cx.get(context_id)
        if context is None:
            raise ProtocolError("a fragment in a presentation context that was not accepted")
        services = {uid_to_service_class(uid) for uid in (context.abstract_syntax, sop_class_uid)}
        if len(self._known) < 256:  # more than there are contexts: a peer that makes up SOP classes gains nothing
            self._known[context_id, sop_class_uid] = services == {StorageServiceClass}
        return services == {StorageServiceClass}


_HOOKS: dict[str, tuple[str, ...]] = {
    "association": ("_accepted_cx", "_kill", "_reactor_checkpoint", "acceptor", "dimse", "requestor"),
    "upper layer": (
        "_decode_pdu",
        "_idle_timer",
        "_kill_thread",
        "_read_pdu_data",
        "_recv_pdu",
        "_run_loop_delay",
        "artim_timer",
        "event_queue",
        "idle_timer_expired",
        "kill_dul",
        "state_machine",
        "stop_dul",
        "to_provider_queue",
        "to_user_queue",
    ),
}
_PASSED_IN_EACH_ROUND: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (DULServiceProvider, "run_reactor", ("_is_transport_event", "_process_recv_primitive", "_run_loop_delay")),
    (DULServiceProvider, "_read_pdu_data", ("recv", "_recv_pdu", "event_queue")),
    (Association, "_run_reactor", ("_reactor_checkpoint", "get_msg", "idle_timer_expired")),
)


def missing_hooks() -> list[str]:
    """Names in pynetdicom that the fast path leans on and that are gone, or no longer used where they were."""
    association = Association(AE(), MODE_ACCEPTOR)
    owners = {"association": association, "upper layer": association.dul}
    missing = [
        f"{owner}: {name}" for owner, names in _HOOKS.items() for name in names if not hasattr(owners[owner], name)
    ]
    for owner, function, names in _PASSED_IN_EACH_ROUND:
        code = getattr(getattr(owner, function, None), "__code__", None)
        missing += [f"{function}: {name}" for name in names if code is None or name not in code.co_names]
    return missing
