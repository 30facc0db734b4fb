"""pynetdicom, hardened: everything that the node changes in it, by subclass or by hook, is in this module.

Two classes are plugged in by ``AE.make_server(server_class=, request_handler=)``. They take connections from the door
(`node.receive.door`) instead of accepting them, and put three guards around each association:

- `BoundedReader` in place of the socket's reading: no PDU longer than negotiated, none slower than the network
  time-outs allow, no message larger than an instance may be;
- `GuardedMessages` in place of the DIMSE provider: fragments in their order and context, one service at a time;
- `_live`, around the threads of an association: an exception in them becomes an A-ABORT and an event, never a
  traceback, and nothing is left of either thread or socket afterwards.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from io import BytesIO
from socketserver import TCPServer
from typing import Any, cast

import structlog
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_CANCEL_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION, N_EVENT_REPORT
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass, VerificationServiceClass
from pynetdicom.service_class_n import StorageCommitmentServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from node.receive import access, streaming
from node.receive.door import Caller
from node.receive.notices import Notices

log = structlog.get_logger(__name__)

MOST_CONTEXTS = 128
"""Odd numbers from 1 to 255 (PS3.8 9.3.2.2)."""
SMALLEST_PEER_PDU = 64
LARGEST_COMMAND = 64 * 1024
NO_INSTANCE = "."
"""Stands for an empty SOP instance UID: the request is answered with a failure, and the association goes on."""
MOST_UNANSWERED = 16
"""Requests of one association that wait for their answer. Without negotiation one may (PS3.7 D.3.3.3)."""
SERVICES = {
    C_STORE: StorageServiceClass,
    C_ECHO: VerificationServiceClass,
    N_EVENT_REPORT: StorageCommitmentServiceClass,
    N_ACTION: StorageCommitmentServiceClass,
}
"""Requests that are answered, and the service of the presentation context in which they must come."""
ENDED = ("Sta1", "Sta13")
"""States in which nothing is left to be said (PS3.8 9.2.1): idle, and waiting for the connection to close."""
PARTING_S = 0.5
_P_DATA_TF = 0x04
_PDU_TYPES = range(1, 8)
_COMMAND, _LAST = 1, 2
"""Bits of a message control header (PS3.8 E.2)."""


Refused = Callable[[str, str], None]
"""(kind of event, why): a peer is about to be hung up on."""


class BadPeerError(Exception):
    """The peer breaks the protocol; the message says how, in words of ours only."""


class BoundedReader:
    """Reads no PDU longer than was negotiated, and no message longer than an instance may be.

    pynetdicom asks for the six bytes of a PDU's header, then for its body (PS3.8 9.3.1), and gathers a message's
    fragments in memory until the last one: what they add up to is counted here. A PDU that drips is given up after
    twice the network time-out at the latest.
    """

    def __init__(
        self,
        client: socket.socket,
        timeout_s: float,
        largest_pdu: int,
        largest_message: int,
        refused: Refused,
    ) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._largest_pdu = largest_pdu
        self._largest_message = largest_message
        self._refused = refused
        self._pdu_type: int | None = None
        self._deadline = 0.0
        self._message_bytes = 0

    def __call__(self, count: int) -> bytearray:
        """The next ``count`` bytes, or fewer where the peer has hung up.

        Raises
        ------
        OSError
            The peer is too slow, or sends more than is allowed: pynetdicom then drops the association.
        """
        in_body = self._pdu_type is not None
        if in_body:
            self._admit_body(count)
        else:
            self._deadline = time.monotonic() + self._timeout_s
        buffer = self._read(count)
        header = not in_body and len(buffer) == access.PDU_HEADER_BYTES and buffer[0] in _PDU_TYPES
        self._pdu_type = buffer[0] if header else None
        return buffer

    def message_handled(self) -> None:
        """What was gathered is handled: the next message counts from nothing."""
        self._message_bytes = 0

    def _admit_body(self, count: int) -> None:
        largest = self._largest_pdu if self._pdu_type == _P_DATA_TF else access.LARGEST_REQUEST
        if count > largest:
            self._refused("peer_refused", f"a PDU of {count} bytes")
            raise OSError(f"the peer announced a PDU of {count} bytes, more than the {largest} allowed")
        if self._pdu_type == _P_DATA_TF:
            self._message_bytes += count
            if self._message_bytes > self._largest_message:
                self._refused("instance_too_large", f"more than {self._largest_message} bytes")
                raise OSError(f"the peer sends a message of more than {self._largest_message} bytes")

    def _read(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view, filled = memoryview(buffer), 0
        try:
            while filled < count:
                if time.monotonic() > self._deadline:
                    raise TimeoutError
                received = self._client.recv_into(view[filled:])  # waits as long as the socket's time-out at most
                if received == 0:
                    return buffer[:filled]
                filled += received
        except TimeoutError:
            self._refused("peer_refused", "a PDU that does not arrive in time")
            raise
        return buffer


class GuardedMessages(DIMSEServiceProvider):
    """Gathers fragments to messages; whatever does not fit ends the association with an A-ABORT.

    Several fragments in one PDU, of command and data set too, are taken one after the other (PS3.8 Annex E).
    """

    def __init__(self, association: Association, refused: Refused) -> None:
        super().__init__(association)
        self._refused = refused
        self._command_complete = False
        self._context_id: int | None = None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Called by pynetdicom with the fragments of one P-DATA-TF PDU."""
        try:
            for context_id, fragment in primitive.presentation_data_value_list:
                self._receive(context_id, fragment)
        except Exception as error:  # of decoding what a stranger sends
            self.message = None
            why = str(error) if isinstance(error, BadPeerError) else "a message that cannot be decoded"
            self._refused("peer_refused", why)
            self.dul.event_queue.put("Evt19")  # invalid PDU: A-ABORT (PS3.8 9.2.3)

    def _receive(self, context_id: int, fragment: bytes) -> None:
        message = self.message
        if message is None:
            if self.msg_queue.qsize() >= MOST_UNANSWERED:
                raise BadPeerError("requests without waiting for their answers")
            self.message = message = DIMSEMessage()
            self._command_complete, self._context_id = False, context_id
        self._check_order(message, context_id, fragment)
        one = P_DATA()
        one.presentation_data_value_list = [[context_id, fragment]]
        complete = message.decode_msg(one, self.assoc)
        self._command_complete |= fragment[0] & (_COMMAND | _LAST) == _COMMAND | _LAST
        if complete:
            self.message = None
            self._queue(context_id, message)

    def _check_order(self, message: DIMSEMessage, context_id: int, fragment: bytes) -> None:
        if not fragment:
            raise BadPeerError("an empty fragment")
        if context_id != self._context_id or context_id not in self.assoc._accepted_cx:
            raise BadPeerError("a fragment in a presentation context that was not accepted")
        if bool(fragment[0] & _COMMAND) == self._command_complete:
            raise BadPeerError("command and data set in the wrong order")
        command: BytesIO = message.encoded_command_set
        if fragment[0] & _COMMAND and command.tell() + len(fragment) > LARGEST_COMMAND:
            raise BadPeerError("a command set without end")

    def _queue(self, context_id: int, message: DIMSEMessage) -> None:
        if isinstance(message, C_CANCEL_RQ):  # of nothing that we do
            return
        if not message.command_set.get("AffectedSOPInstanceUID", NO_INSTANCE):
            message.command_set.AffectedSOPInstanceUID = NO_INSTANCE  # pynetdicom would stumble over an empty one
        request = message.message_to_primitive()
        wanted = SERVICES.get(type(request))
        if wanted is None or not request.is_valid_request:
            raise BadPeerError("a message that is no complete request of a service that is offered")
        abstract = self.assoc._accepted_cx[context_id].abstract_syntax
        named = request.RequestedSOPClassUID if isinstance(request, N_ACTION) else request.AffectedSOPClassUID
        if {wanted} != {uid_to_service_class(uid) for uid in (abstract, named)}:
            raise BadPeerError("a service that its presentation context does not have")
        self.msg_queue.put((context_id, request))


class GuardedRequestHandler(RequestHandler):
    """Makes an association of a caller, whose request the door has read already."""

    def setup(self) -> None:
        """What pynetdicom takes for the request is the connection."""
        self._caller = cast(Caller, self.request)
        self.request: socket.socket = self._caller.socket

    def _create_association(self) -> Association:
        association = super()._create_association()
        server = cast(GuardedServer, self.server)

        def refused(kind: str, why: str) -> None:
            server.notices.tell(kind, association.requestor.ae_title, str(self.client_address[0]), why=why)

        reader = BoundedReader(
            self.request, server.network_timeout_s, self.ae.maximum_pdu_size, server.largest_message, refused
        )
        association.dul.socket.recv = reader
        association.dimse = GuardedMessages(association, refused)
        pdu, event = association.dul._decode_pdu(bytearray(access.essence(self._caller.request)))
        _check_request(pdu.to_primitive())
        association.dul._recv_pdu.put(pdu)  # as if it had just been read
        association.dul.event_queue.put(event)
        if server.begin is not None:
            streaming.adopt(
                association,
                begin=server.begin,
                refused=lambda _association, kind, why: refused(kind, why),
                largest_message=server.largest_message,
                largest_other_pdu=access.LARGEST_REQUEST,
            )
        _live(association, server, self._caller, refused)
        return association


class GuardedServer(ThreadedAssociationServer):
    """One entrance: makes associations of what the door hands on. Its socket is listened on by the door."""

    network_timeout_s: float
    largest_message: int
    notices: Notices
    begin: streaming.Begin | None = None
    """Begins an instance that streams (`node.receive.streaming`); ``None``: pynetdicom gathers it."""
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, ae: AE, address: Any, ae_title: str, contexts: list[PresentationContext], *_: Any, **more: Any):
        self._guests: dict[Caller, Association | None] = {}
        self._guests_lock = threading.Lock()
        super().__init__(ae, address, ae_title, _Unchanging(contexts), None, **more)

    @property
    def guests(self) -> int:
        """Number of associations that are open, being made or being ended."""
        return len(self._guests)

    def guests_of(self, host: str) -> int:
        """Of these, how many are of one host (`access.host_of`)."""
        with self._guests_lock:
            return sum(access.host_of(str(caller.address[0])) == host for caller in self._guests)

    @property
    def associations(self) -> list[Association]:
        """Those that have begun."""
        with self._guests_lock:
            return [association for association in self._guests.values() if association is not None]

    def admit(self, caller: Caller) -> None:
        """Make an association of a caller, in a thread of its own; never blocks."""
        caller.socket.settimeout(self.network_timeout_s)
        with self._guests_lock:
            self._guests[caller] = None
        try:
            self.process_request(cast(socket.socket, caller), cast(Any, caller.address))
        except RuntimeError as error:  # no more threads
            log.error("no association can be made", reason=str(error))
            self.left(caller)
            caller.socket.close()

    def began(self, caller: Caller, association: Association) -> None:
        """An association runs."""
        with self._guests_lock:
            self._guests[caller] = association

    def left(self, caller: Caller) -> None:
        """An association is over, and nothing is left of it."""
        with self._guests_lock:
            self._guests.pop(caller, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A request of which no association could be made: malformed, or more than the standard allows."""
        caller = cast(Caller, request)
        titles = access.asked(caller.request)
        self.notices.tell("peer_refused", titles.calling, str(client_address[0]), why="a malformed request")
        with contextlib.suppress(OSError):
            caller.socket.send(access.INVALID_PARAMETER)
        self.left(caller)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that became no association; pynetdicom asks for others too early, `_end` closes them."""
        if isinstance(request, Caller):
            super().shutdown_request(request.socket)

    def shutdown(self) -> None:
        """Nothing is served here: the door is stopped, and associations end by themselves."""
        TCPServer.server_close(self)


class _Unchanging(list[PresentationContext]):
    """Contexts that no association changes: pynetdicom's copy of them for each one takes longer than all the rest."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Unchanging:
        return self


def _check_request(request: A_ASSOCIATE) -> None:
    """Refuse what pynetdicom would stumble over later.

    Raises
    ------
    BadPeerError
        More contexts than there are numbers for, or a number twice; a peer that takes no answer.
    """
    numbers = [context.context_id for context in request.presentation_context_definition_list]
    if not 0 < len(numbers) <= MOST_CONTEXTS or len(set(numbers)) < len(numbers):
        raise BadPeerError("presentation contexts")
    if 0 < (request.maximum_length_received or 0) < SMALLEST_PEER_PDU:
        raise BadPeerError("maximum length")


def _live(association: Association, server: GuardedServer, caller: Caller, refused: Refused) -> None:
    """Put guards around the two threads of an association (its own and that of its upper layer)."""
    run, act = association.run, association.dul.state_machine.do_action

    def failed(error: Exception) -> None:
        log.error("an association failed", reason=type(error).__name__)
        refused("peer_refused", f"an internal error ({type(error).__name__})")
        with contextlib.suppress(OSError):
            caller.socket.send(access.abort_pdu(0))

    def guarded_act(event: str) -> None:
        try:
            act(event)
        except InvalidEventError:  # an answer of ours to a peer that has broken the protocol meanwhile
            association.dul.kill_dul()
            refused("peer_refused", "a PDU at the wrong time")
        except Exception as error:
            association.dul.kill_dul()
            failed(error)

    def guarded_run() -> None:
        server.began(caller, association)
        try:
            run()
        except Exception as error:
            failed(error)
        finally:
            _end(association, caller.socket)
            server.left(caller)

    association.dul.state_machine.do_action = guarded_act
    association.run = guarded_run


def _end(association: Association, client: socket.socket) -> None:
    """Whatever happened: no thread, no socket. A thread that reads is woken by the shutdown.

    An A-ABORT that is on its way is sent first.
    """
    deadline = time.monotonic() + PARTING_S
    while association.dul.is_alive() and time.monotonic() < deadline:
        if association.dul.state_machine.current_state in ENDED:
            break
        time.sleep(0.005)
    association.dul.kill_dul()
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    if association.dul.ident is not None:
        association.dul.join(1.0)
    client.close()
