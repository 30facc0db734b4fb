"""The Storage SCP (PS3.4 Annex B) and Verification SCP on pynetdicom: door, guards and spool put together.

Nothing that arrives is rejected for its content; the only failures are a full disk (0xA700), a request that names no
instance (0xC000) and an internal error (0x0110). Who may call at all, and what is done about those who break the
protocol, is said in `access`, `door` and `guard`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, cast

import structlog
from pydicom import uid
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from node.metrics.tally import ASSOCIATIONS, RECEIVED, RECEIVED_BYTES, RESPONSES, TALLY, Titles
from node.receive import access, streaming
from node.receive.door import Door, Opening
from node.receive.guard import GuardedRequestHandler, GuardedServer
from node.receive.notices import EventSink, Notices
from node.receive.spool import Origin, Reception, Spool
from node.receive.spool_file import Piece
from node.receive.storing import SUCCESS, StoringInSpool
from node.settings import ConfigurationError, Entrance, Receive
from node.tls import files_of, listener_context

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

_UNRECOGNISED_OPERATION = 0x0211
"""Not one of the operations that were agreed upon (PS3.7 annex C)."""
_MESSAGE_OVERHEAD = 16 * 2**20
"""Beside an instance of the largest size: the command set and the headers of its fragments."""
_MOST_SYNTAXES_TOLD = 16
_LONGEST_UID = 64
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the others from running: the registrar's rows keep no answer waiting for Python's usual
5 ms."""
_SUCCESSES = (RESPONSES.name, (f"{SUCCESS:04X}",))


ReportHandler = Callable[[evt.Event], tuple[int, Any]]
"""Answers an archive's report of storage commitment (N-EVENT-REPORT) with a DIMSE status."""


@dataclass
class _Open:
    """An entrance that is listened on."""

    rules: Entrance
    server: GuardedServer
    opening: Opening
    certificates: tuple[float, ...]


class _Counted(StoringInSpool):
    """An instance that monitors are told of; ``title`` is its sender's, as it is told."""

    title: str

    def finish(self, pieces: Sequence[Piece]) -> int:
        status = super().finish(pieces)
        if status == SUCCESS:
            by_title = (self.title,)
            TALLY.add({_SUCCESSES: 1, (RECEIVED.name, by_title): 1, (RECEIVED_BYTES.name, by_title): self.length})
        else:
            TALLY.count(RESPONSES, f"{status:04X}")
        return status


class Listener:
    """The node's ear: stores what arrives in the spool and names it to the registrar."""

    def __init__(
        self,
        settings: Receive,
        spool: Spool,
        registered: Callable[[Reception], None],
        record: EventSink,
        on_report: ReportHandler | None = None,
        plain: bool = False,
    ) -> None:
        """``plain``: without the fast path, for tests and measurements that compare the two."""
        self._on_report = on_report
        self._plain = plain
        self._settings = settings
        self._spool = spool
        self._registered = registered
        self._record = record
        self._notices = Notices(record)
        self._open: list[_Open] = []
        self._door: Door | None = None
        self._fast = False
        self._title = _titles(settings)

    @property
    def ports(self) -> list[int]:
        """The ports that are listened on, in the order of the entrances (of interest where 0 was configured)."""
        return [int(entrance.opening.socket.getsockname()[1]) for entrance in self._open]

    @property
    def port(self) -> int:
        """The first entrance's port."""
        if not self._open:
            raise RuntimeError("the listener is not started")
        return self.ports[0]

    def start(self) -> None:
        """Bind all entrances and serve in the background.

        Raises
        ------
        OSError
            An address is in use or not ours.
        node.settings.ConfigurationError
            A certificate or key cannot be used.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _config.LOG_HANDLER_LEVEL = "none"  # its log lines would name patients
        _config.VALIDATORS["UI"] = _any_uid
        s = self._settings
        ae = AE(ae_title=s.ae_title)
        ae.maximum_associations = s.max_associations + 1  # the door counts, the one that it is asked for not included
        ae.maximum_pdu_size = s.max_pdu_bytes
        ae.network_timeout = s.network_timeout_s
        ae.acse_timeout = min(30.0, s.network_timeout_s)
        ae.dimse_timeout = s.network_timeout_s
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, list(TRANSFER_SYNTAXES))
        if self._on_report is not None:  # whoever opens this context is the SCP of it, we are its SCU (PS3.4 J.3.3)
            ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        ae.add_supported_context(Verification)
        self._fast = self._can_stream()
        try:
            for rules in s.entrances:
                self._open.append(self._bind(ae, rules))
        except BaseException:
            for bound in self._open:
                bound.server.shutdown()
            self._open.clear()
            raise
        self._door = Door([entrance.opening for entrance in self._open], self._notices, self._no_room, ae.acse_timeout)
        self._door.start()
        for entrance, port in zip(self._open, self.ports, strict=True):
            at = entrance.rules
            log.info("listening", host=at.host, port=port, ae_title=at.ae_title, tls=at.tls is not None)

    def reload(self, settings: Receive) -> None:
        """Let others in, or no longer, from now on; open associations go on. Addresses and limits stay.

        Raises
        ------
        node.settings.ConfigurationError
            The entrances are not those that are open, or a certificate cannot be used. Then nothing has changed.
        """
        if [(e.host, e.port) for e in settings.entrances] != [(o.rules.host, o.rules.port) for o in self._open]:
            raise ConfigurationError("other addresses to listen on need a restart")
        contexts = [listener_context(rules.tls) if rules.tls is not None else None for rules in settings.entrances]
        for entrance, rules, context in zip(self._open, settings.entrances, contexts, strict=True):
            entrance.rules = entrance.opening.rules = rules
            entrance.opening.tls = context
            entrance.server.ae_title = rules.ae_title
            entrance.certificates = _written_at(rules)
        self._title = _titles(settings)
        self._record("access_reloaded", "", {"entrances": len(self._open)})
        log.info("access reloaded")

    def renew_certificates(self) -> None:
        """Take up certificates whose files were replaced; called from time to time."""
        for entrance in self._open:
            tls, written_at = entrance.rules.tls, _written_at(entrance.rules)
            if tls is None or written_at == entrance.certificates:
                continue
            try:
                entrance.opening.tls = listener_context(tls)
            except ConfigurationError as error:  # half of the files may be written: looked at again
                log.error("new certificates cannot be used; the former ones stay", reason=str(error))
                continue
            entrance.certificates = written_at
            log.info("certificates renewed", host=entrance.rules.host, port=entrance.rules.port)

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more connections; let open associations end by themselves for ``drain_s``, then abort them."""
        if self._door is None:
            return
        self._door.stop()
        deadline = time.monotonic() + drain_s
        while any(entrance.server.guests for entrance in self._open) and time.monotonic() < deadline:
            time.sleep(0.05)
        for entrance in self._open:
            for association in entrance.server.associations:
                association.abort()
            entrance.server.shutdown()
        self._door = None
        self._open = []

    def _bind(self, ae: AE, entrance: Entrance) -> _Open:
        context = listener_context(entrance.tls) if entrance.tls is not None else None
        reports = [
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_N_ACTION, self._on_commitment_asked),
        ]
        server: GuardedServer = ae.make_server(
            (entrance.host, entrance.port),
            ae_title=entrance.ae_title,
            server_class=GuardedServer,
            request_handler=GuardedRequestHandler,
            evt_handlers=[
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_ACCEPTED, self._on_accepted),
                (evt.EVT_ABORTED, self._on_aborted),
                *(reports if self._on_report is not None else []),
            ],
        )
        server.network_timeout_s = self._settings.network_timeout_s
        server.largest_message = self._settings.max_instance_mb * 2**20 + _MESSAGE_OVERHEAD
        server.notices = self._notices
        server.begin = self._begin if self._fast else None
        opening = Opening(server.socket, entrance, context, server.admit)
        return _Open(entrance, server, opening, _written_at(entrance))

    def _can_stream(self) -> bool:
        """Whether associations receive by the fast path; not where pynetdicom has no place for it any more."""
        if self._plain:
            return False
        if missing := streaming.missing_hooks():
            log.warning("receiving without the fast path: pynetdicom has changed", missing=missing)
        return not missing

    def _begin(self, association: Association, origin: Origin) -> StoringInSpool:
        """An instance of an association on its way into the spool, by whichever path it comes."""
        calling, host = association.requestor.ae_title, str(association.requestor.address)

        def record(kind: str, detail: dict[str, Any]) -> None:
            self._notices.tell(kind, calling, host, **detail)

        counted = _Counted(self._spool, origin, self._settings.max_instance_mb * 2**20, self._registered, record)
        counted.title = self._title(calling)
        return counted

    @property
    def associations(self) -> int:
        """Number of associations that are open, on all entrances together."""
        return sum(entrance.server.guests for entrance in self._open)

    @property
    def waiting(self) -> int:
        """Number of connections that have not asked for an association yet."""
        return self._door.waiting if self._door is not None else 0

    def _no_room(self, host: str) -> access.Rejection | None:
        """Why there is no place for one more association of a host, as passing; ``None`` where there is one."""
        servers, limit = [entrance.server for entrance in self._open], self._settings.max_associations_per_host
        if sum(server.guests for server in servers) >= self._settings.max_associations:
            return access.TOO_MANY
        if limit is not None and sum(server.guests_of(host) for server in servers) >= limit:
            return access.TOO_MANY_OF_HOST
        return None

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

    def _on_commitment_asked(self, event: evt.Event) -> tuple[int, None]:
        """Whoever opens the context for our reports without role selection may take us for the SCP: we are none.

        It is told so, and goes on storing.
        """
        self._notices.tell("commitment_asked", event.assoc.requestor.ae_title, _host(event))
        return _UNRECOGNISED_OPERATION, None

    def _on_accepted(self, event: evt.Event) -> None:
        TALLY.count(ASSOCIATIONS, self._title(event.assoc.requestor.ae_title))
        refused = [
            {
                "sop_class": str(context.abstract_syntax)[:_LONGEST_UID],
                "transfer_syntaxes": [
                    str(syntax)[:_LONGEST_UID] for syntax in context.transfer_syntax[:_MOST_SYNTAXES_TOLD]
                ],
                "result": context.result,
            }
            for context in event.assoc.rejected_contexts
        ]
        if refused:
            self._notices.tell("context_refused", event.assoc.requestor.ae_title, _host(event), contexts=refused)

    def _on_aborted(self, event: evt.Event) -> None:
        self._notices.tell("association_aborted", event.assoc.requestor.ae_title, _host(event))


def _titles(settings: Receive) -> Titles:
    return Titles(title for entrance in settings.entrances for title in entrance.calling_ae_titles)


def _host(event: evt.Event) -> str:
    return str(event.assoc.requestor.address)


def _any_uid(value: object) -> tuple[bool, str]:
    """A UID that breaks the rules is kept like any other: it must not cost its sender the association."""
    return isinstance(value, str), "no text"


def _written_at(entrance: Entrance) -> tuple[float, ...]:
    """When each file of an entrance's TLS was written; 0 where it is missing."""
    if entrance.tls is None:
        return ()
    return tuple(path.stat().st_mtime if path.is_file() else 0.0 for path in files_of(entrance.tls))
