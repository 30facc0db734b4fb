"""Opens and ends the associations in which this node is the one that asks (SCU), and says why one could not be had."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from node.settings import ConfigurationError, DestinationTls
from node.tls import destination_context


class UnreachableError(Exception):
    """No association could be had; the message says at which point it failed and what to look at."""


class NothingAcceptedError(UnreachableError):
    """The peer takes the association, but nothing of what it was offered."""


def associate(
    host: str,
    port: int,
    contexts: Sequence[PresentationContext],
    called_ae: str,
    calling_ae: str,
    timeout_s: float,
    tls: DestinationTls | None,
) -> Association:
    """An association that only sends: its reactor thread stands still until `end`.

    Raises
    ------
    UnreachableError
        No association.
    NothingAcceptedError
        The peer takes none of the contexts.
    """
    _config.LOG_HANDLER_LEVEL = "none"  # its log lines would name patients
    ae = AE(ae_title=calling_ae)
    ae.connection_timeout = timeout_s
    ae.acse_timeout = timeout_s
    ae.dimse_timeout = timeout_s
    ae.network_timeout = timeout_s
    ae.maximum_pdu_size = 131072
    context = _context(tls) if tls is not None else None
    opened: list[socket.socket] = []
    association = ae.associate(
        host,
        port,
        contexts=list(contexts),
        ae_title=called_ae,
        evt_handlers=[(evt.EVT_CONN_OPEN, _prepare, [opened])],
        tls_args=(context, tls.server_name or host) if tls is not None else None,
    )
    association.opened = opened
    if association.is_established:
        _ParkedReactor(association).until_parked()
        return association
    close(association)
    if association.is_rejected:
        primitive = association.acceptor.primitive
        reason = primitive.reason_str if primitive is not None else "no reason given"
        raise UnreachableError(
            f"{host}:{port} rejected the association (called {called_ae}, calling {calling_ae}): {reason}"
        )
    if association.rejected_contexts and not association.accepted_contexts:  # pynetdicom then aborts by itself
        offered = ", ".join(dict.fromkeys(str(context.abstract_syntax.name) for context in contexts))
        raise NothingAcceptedError(f"{host}:{port} ({called_ae}) accepts the association but not {offered}")
    if context is not None and context.trouble:
        raise UnreachableError(f"no TLS with {host}:{port} ({called_ae}): {context.trouble}")
    certificate = " (on our certificate?)" if context is not None else ""
    why = f"nothing listens there, it hung up{certificate}, or it did not answer within {timeout_s:.0f} s"
    raise UnreachableError(f"no association with {host}:{port} ({called_ae}): {why}")


class _TellingSocket(ssl.SSLSocket):
    """Keeps the reason why a hand-shake failed, which pynetdicom does not tell."""

    def connect(self, addr: Any) -> None:
        """Connect and shake hands."""
        try:
            super().connect(addr)
        except OSError as error:
            self.close()  # pynetdicom does not, where nothing was connected
            if isinstance(error, ssl.SSLError):
                why = getattr(error, "verify_message", "") or error.reason or type(error).__name__
                self.context.trouble = why  # type: ignore[attr-defined]
            raise


def _context(tls: DestinationTls) -> Any:
    try:
        context: Any = destination_context(tls)
    except ConfigurationError as error:  # while certificates are replaced: tried again like a PACS that is down
        raise UnreachableError(str(error)) from error
    context.trouble = ""
    context.sslsocket_class = _TellingSocket
    return context


class _ParkedReactor(threading.Event):
    """Parks pynetdicom's reactor thread for the life of an association that only sends.

    Stock pynetdicom pauses that thread before each message by a flag that it can miss; on a busy machine it then takes
    the peer's response off the queue, and the sender waits for it until the time-out. Here the thread says itself that
    it is parked, and nothing but the end of the association lets it go.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._parked = threading.Event()
        association._reactor_checkpoint = self

    def wait(self, timeout: float | None = None) -> bool:
        """Called by the reactor thread in each of its rounds."""
        self._parked.set()
        return super().wait(timeout)

    def set(self) -> None:
        """Called by pynetdicom after each message; heeded only when the association ends."""
        if self._association._kill or not self._association.is_established:
            super().set()

    def until_parked(self) -> None:
        """Return once the reactor thread stands still."""
        while not self._parked.wait(0.1):
            if not self._association.is_alive():
                return


def _prepare(event: evt.Event, opened: list[socket.socket]) -> None:
    """Nagle's algorithm would hold each small object back for 40 ms; a peer that stalls in mid-PDU would hold us."""
    connection = event.assoc.dul.socket.socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(event.assoc.network_timeout)
    opened.append(connection)


def end(association: Association) -> None:
    """Release an association that is still established, and close its socket."""
    if association.is_established:
        association.release()
    association._reactor_checkpoint.set()
    close(association)


def close(association: Association) -> None:
    """pynetdicom leaves a socket open that the peer has reset before."""
    for connection in association.opened:
        connection.close()
