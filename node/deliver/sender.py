"""The Storage SCU: sends files, byte for byte as they lie in the outbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from node.deliver.association import NothingAcceptedError, UnreachableError, associate, end
from node.deliver.status import Reply, Verdict, classify
from node.deliver.stream import BrokenError, NoAnswerError, Stored, Stores, look_at, stores
from node.settings import DestinationTls

MOST_CONTEXTS = 128


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
    association = associate(host, port, [build_context(Verification)], called_ae, calling_ae, timeout_s, tls)
    try:
        status = association.send_c_echo()
        if "Status" not in status or status.Status != 0x0000:
            raise UnreachableError(f"{host}:{port} ({called_ae}) accepted the association but did not answer C-ECHO")
    finally:
        end(association)


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
        association = associate(host, port, contexts, called_ae, calling_ae, timeout_s, tls)
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
        end(association)


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
