"""The Storage SCP (PS3.4 Annex B) and Verification SCP on pynetdicom, hardened against strangers.

What pynetdicom leaves open and a listener on a hospital network must not: a peer that stalls in mid-PDU, a PDU longer
than negotiated, a declared length of 4 GB. Nothing that arrives is rejected for its content; the only failures are a
full disk (0xA700) and an internal error (0x0110).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, cast

import structlog
from pydicom import uid
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from node.receive import streaming
from node.receive.spool import Origin, Reception, Spool
from node.receive.storing import StoringInSpool
from node.settings import Receive

if TYPE_CHECKING:
    from pynetdicom.association import Association

log = structlog.get_logger(__name__)

TRANSFER_SYNTAXES: tuple[uid.UID, ...] = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.RLELossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.ExplicitVRBigEndian,
)
"""Every transfer syntax that can be decoded here, in our order of preference: of those that a sender proposes for one
context, the first of this list is accepted (PS3.8 9.3.3.2). Uncompressed before lossless before lossy."""

_LARGEST_ASSOCIATE_PDU = 256 * 1024
_PDU_HEADER_BYTES = 6
_P_DATA_TF = 0x04
_MESSAGE_OVERHEAD = 16 * 2**20
"""Beside an instance of the largest size: the command set and the headers of its fragments."""

EventSink = Callable[[str, str, dict[str, Any]], None]
"""(kind, subject, detail): recorded in the ledger, behind the acknowledgement."""


class BoundedReader:
    """Reads no PDU longer than was negotiated, and no message longer than an instance may be.

    pynetdicom asks for the six bytes of a PDU's header, then for its body (PS3.8 9.3.1), and gathers a message's
    fragments in memory until the last one: what they add up to is counted here.
    """

    def __init__(self, client: socket.socket, largest_pdu: int, largest_message: int, refused: Callable[[], None]):
        self._client = client
        self._largest_pdu = largest_pdu
        self._largest_message = largest_message
        self._refused = refused
        self._in_data = False
        self._message_bytes = 0

    def __call__(self, count: int) -> bytearray:
        """The next ``count`` bytes, or fewer where the peer has hung up.

        Raises
        ------
        OSError
            The peer is too slow, or sends more than is allowed: pynetdicom then drops the association.
        """
        if count > self._largest_pdu:
            raise OSError(f"the peer announced a PDU of {count} bytes, more than the {self._largest_pdu} allowed")
        if self._in_data:
            self._message_bytes += count
            if self._message_bytes > self._largest_message:
                self._refused()
                raise OSError(f"the peer sends a message of more than {self._largest_message} bytes")
        buffer = bytearray(count)
        view, filled = memoryview(buffer), 0
        while filled < count:
            received = self._client.recv_into(view[filled:])
            if received == 0:
                return buffer[:filled]
            filled += received
        self._in_data = not self._in_data and count == _PDU_HEADER_BYTES and buffer[0] == _P_DATA_TF
        return buffer

    def message_handled(self) -> None:
        """What was gathered is handled: the next message counts from nothing."""
        self._message_bytes = 0


class BoundedRequestHandler(RequestHandler):
    """Serves one connection through a :class:`BoundedReader`."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        server = cast(PatientServer, self.server)

        def refused() -> None:
            detail = {"more_than_bytes": server.largest_message}
            server.record("instance_too_large", association.requestor.ae_title, detail)

        largest_pdu = max(self.ae.maximum_pdu_size, _LARGEST_ASSOCIATE_PDU)
        client = cast(socket.socket, self.request)
        association.dul.socket.recv = BoundedReader(client, largest_pdu, server.largest_message, refused)
        if server.adopt is not None:
            server.adopt(association)
        return association


class PatientServer(ThreadedAssociationServer):
    """Accepts connections without ever waiting for one peer: every socket has a time-out from its first byte on."""

    network_timeout_s: float
    largest_message: int
    record: EventSink
    adopt: Callable[[Association], None] | None
    """Makes an association receive by the fast path; none: by pynetdicom's own means."""
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept one connection (no TLS hand-shake here: it would block every other peer)."""
        client, address = self.socket.accept()
        client.settimeout(self.network_timeout_s)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client, address

    def shutdown(self) -> None:
        """Stop accepting and close the listening socket; open associations go on."""
        TCPServer.shutdown(self)
        self.server_close()


class Listener:
    """The node's ear: stores what arrives in the spool and names it to the registrar."""

    def __init__(
        self,
        settings: Receive,
        spool: Spool,
        registered: Callable[[Reception], None],
        record: EventSink,
        plain: bool = False,
    ) -> None:
        """``plain``: without the fast path, for tests and measurements that compare the two."""
        self._plain = plain
        self._settings = settings
        self._spool = spool
        self._registered = registered
        self._record = record
        self._server: PatientServer | None = None

    @property
    def port(self) -> int:
        """The port that is listened on (of interest where 0 was configured)."""
        if self._server is None:
            raise RuntimeError("the listener is not started")
        return int(self._server.socket.getsockname()[1])

    def start(self) -> None:
        """Bind and serve in the background.

        Raises
        ------
        OSError
            The address is in use or not ours.
        """
        _config.LOG_HANDLER_LEVEL = "none"  # its log lines would name patients
        s = self._settings
        ae = AE(ae_title=s.ae_title)
        ae.maximum_associations = s.max_associations
        ae.maximum_pdu_size = s.max_pdu_bytes
        ae.network_timeout = s.network_timeout_s
        ae.acse_timeout = min(30.0, s.network_timeout_s)
        ae.dimse_timeout = s.network_timeout_s
        ae.require_called_aet = s.require_called_ae_title
        ae.require_calling_aet = list(s.calling_ae_titles)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, list(TRANSFER_SYNTAXES))
        ae.add_supported_context(Verification)
        server = ae.make_server(
            (s.host, s.port),
            ae_title=s.ae_title,
            server_class=PatientServer,
            request_handler=BoundedRequestHandler,
            evt_handlers=[
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_ACCEPTED, self._on_accepted),
                (evt.EVT_REJECTED, self._on_rejected),
                (evt.EVT_ABORTED, self._on_aborted),
            ],
        )
        self._server = cast(PatientServer, server)
        self._server.network_timeout_s = s.network_timeout_s
        self._server.largest_message = s.max_instance_mb * 2**20 + _MESSAGE_OVERHEAD
        self._server.record = self._record
        self._server.adopt = self._fast_path()
        threading.Thread(target=self._server.serve_forever, name="listener", daemon=True).start()
        log.info("listening", host=s.host, port=self.port, ae_title=s.ae_title)

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more connections; let open associations end by themselves for ``drain_s``, then abort them."""
        if self._server is None:
            return
        self._server.shutdown()
        deadline = time.monotonic() + drain_s
        while self._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        for association in self._server.active_associations:
            association.abort()
        self._server = None

    def _fast_path(self) -> Callable[[Association], None] | None:
        """What makes an association receive by the fast path; ``None`` where pynetdicom has no place for it."""
        if self._plain:
            return None
        if missing := streaming.missing_hooks():
            log.warning("receiving without the fast path: pynetdicom has changed", missing=missing)
            return None

        def refused(association: Association, kind: str, why: str) -> None:
            self._record(kind, association.requestor.ae_title, {"why": why})

        return partial(
            streaming.adopt,
            begin=self._begin,
            refused=refused,
            largest_message=self._settings.max_instance_mb * 2**20 + _MESSAGE_OVERHEAD,
            largest_other_pdu=_LARGEST_ASSOCIATE_PDU,
        )

    def _begin(self, association: Association, origin: Origin) -> StoringInSpool:
        def record(kind: str, detail: dict[str, Any]) -> None:
            self._record(kind, association.requestor.ae_title, detail)

        largest = self._settings.max_instance_mb * 2**20
        return StoringInSpool(self._spool, origin, largest, self._registered, record)

    def _on_store(self, event: evt.Event) -> int:
        if event.assoc.dimse.msg_queue.empty():  # else the peer did not wait for our answers: its count goes on
            event.assoc.dul.socket.recv.message_handled()
        request = cast(C_STORE, event.request)
        origin = Origin(
            sop_class_uid=str(request.AffectedSOPClassUID or ""),
            sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
            transfer_syntax=str(event.context.transfer_syntax),
            calling_ae=event.assoc.requestor.ae_title,
            called_ae=event.assoc.acceptor.ae_title,
            received_at=datetime.now(UTC),
        )
        return self._begin(event.assoc, origin).finish([cast(BytesIO, request.DataSet).getbuffer()])

    def _on_accepted(self, event: evt.Event) -> None:
        refused = [
            {
                "sop_class": str(context.abstract_syntax),
                "transfer_syntaxes": [str(syntax) for syntax in context.transfer_syntax],
                "result": context.result,
            }
            for context in event.assoc.rejected_contexts
        ]
        if refused:
            self._record("context_refused", event.assoc.requestor.ae_title, {"contexts": refused})

    def _on_rejected(self, event: evt.Event) -> None:
        primitive = event.assoc.requestor.primitive
        called = getattr(primitive, "called_ae_title", "") if primitive is not None else ""
        self._record(
            "association_rejected",
            event.assoc.requestor.ae_title,
            {"called_ae_title": str(called), "from": _peer(event)},
        )

    def _on_aborted(self, event: evt.Event) -> None:
        self._record("association_aborted", event.assoc.requestor.ae_title, {"from": _peer(event)})


def _peer(event: evt.Event) -> str:
    return str(event.assoc.requestor.address)
