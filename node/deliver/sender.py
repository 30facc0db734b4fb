"""The Storage SCU: sends files, byte for byte as they lie in the outbox."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification

from node.deliver.status import Reply, Verdict, classify
from node.deliver.stream import BrokenError, NoAnswerError, Stored, Stores, look_at, stores
from node.settings import ConfigurationError, DestinationTls
from node.tls import destination_context

MOST_CONTEXTS = 128


class UnreachableError(Exception):
    """No association could be had; the message says at which point it failed and what to look at."""


class NothingAcceptedError(UnreachableError):
    """The peer takes the association, but nothing of what it was offered."""


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM preamble (PS3.10 7.1); one that cannot be read has not."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def send(
    files: Sequence[Path],
    host: str,
    port: int,
    *,
    called_ae: str,
    calling_ae: str,
    timeout_s: float = 30.0,
    tls: DestinationTls | None = None,
    replied: Callable[[int, Reply], None],
) -> None:
    """Send files over one association (or several where they need more than 128 contexts), in order.

    ``replied`` is called with the index of each file and the destination's answer, as soon as it is there.

    Raises
    ------
    UnreachableError
        No association; the files for which ``replied`` was not called were not sent.
    """
    for batch in _batches(list(enumerate(files))):
        _send_batch(batch, host, port, called_ae, calling_ae, timeout_s, tls, replied)


def echo(
    host: str,
    port: int,
    *,
    called_ae: str,
    calling_ae: str,
    timeout_s: float = 10.0,
    tls: DestinationTls | None = None,
) -> None:
    """C-ECHO (PS3.4 Annex A).

    Raises
    ------
    UnreachableError
        No association, or no success.
    """
    association = _associate(host, port, [build_context(Verification)], called_ae, calling_ae, timeout_s, tls)
    try:
        status = association.send_c_echo()
        if "Status" not in status or status.Status != 0x0000:
            raise UnreachableError(f"{host}:{port} ({called_ae}) accepted the association but did not answer C-ECHO")
    finally:
        _end(association)


def _batches(files: list[tuple[int, Path]]) -> Iterator[list[tuple[int, Stored]]]:
    batch: list[tuple[int, Stored]] = []
    contexts: set[tuple[str, str]] = set()
    for index, path in files:
        instance = look_at(path)
        context = (instance.sop_class_uid, instance.transfer_syntax)
        if len(contexts | {context}) > MOST_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        contexts.add(context)
        batch.append((index, instance))
    if batch:
        yield batch


def _send_batch(
    batch: list[tuple[int, Stored]],
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    timeout_s: float,
    tls: DestinationTls | None,
    replied: Callable[[int, Reply], None],
) -> None:
    # one context per (SOP class, transfer syntax): files are sent as they are, nothing is transcoded
    wanted = dict.fromkeys((instance.sop_class_uid, instance.transfer_syntax) for _, instance in batch)
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in wanted]
    peer = f"{host}:{port} ({called_ae})"
    try:
        association = _associate(host, port, contexts, called_ae, calling_ae, timeout_s, tls)
    except NothingAcceptedError:
        for index, instance in batch:
            replied(index, _not_taken(instance))
        return
    accepted = {
        (str(context.abstract_syntax), str(context.transfer_syntax[0])): int(context.context_id)
        for context in association.accepted_contexts
    }
    try:
        with stores(association, timeout_s) as stream:
            for index, instance in batch:
                context_id = accepted.get((instance.sop_class_uid, instance.transfer_syntax))
                if context_id is None:
                    replied(index, _not_taken(instance))
                else:
                    replied(index, classify(_store(stream, instance, context_id, peer, timeout_s)))
    except BaseException:
        association.abort()
        raise
    finally:
        _end(association)


def _store(stream: Stores, instance: Stored, context_id: int, peer: str, timeout_s: float) -> int:
    try:
        return stream.store(instance, context_id)
    except BrokenError as error:
        raise UnreachableError(f"{peer} {error}") from error
    except NoAnswerError as error:
        raise UnreachableError(f"{peer} did not answer within {timeout_s:.0f} s") from error
    except OSError as error:
        raise UnreachableError(f"the association with {peer} broke: {error}") from error


def _not_taken(instance: Stored) -> Reply:
    sop_class, syntax = UID(instance.sop_class_uid).name, UID(instance.transfer_syntax).name
    sentence = (
        f"the destination does not take {sop_class} in {syntax}: allow it there, "
        "or leave this kind out of the destination's `kinds`"
    )
    return Reply(Verdict.PERMANENT, sentence)


def _associate(
    host: str,
    port: int,
    contexts: list[PresentationContext],
    called_ae: str,
    calling_ae: str,
    timeout_s: float,
    tls: DestinationTls | None,
) -> Association:
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
        contexts=contexts,
        ae_title=called_ae,
        evt_handlers=[(evt.EVT_CONN_OPEN, _prepare, [opened])],
        tls_args=(context, tls.server_name or host) if tls is not None else None,
    )
    association.opened = opened
    if association.is_established:
        _ParkedReactor(association).until_parked()
        return association
    _close(association)
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


def _end(association: Association) -> None:
    if association.is_established:
        association.release()
    association._reactor_checkpoint.set()
    _close(association)


def _close(association: Association) -> None:
    """pynetdicom leaves a socket open that the peer has reset before."""
    for connection in association.opened:
        connection.close()
