"""What must hold for every input, and the parts of the node that it is tried on."""

from __future__ import annotations

import contextlib
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from node.gate import LoadedSeries, Unevaluable, choose, load_volume, read_headers
from node.ledger import Database
from node.receive.registrar import Registrar
from node.receive.spool import ReceivedObject, Spool
from tests import peer
from tests.conftest import wait_until
from tests.gate.conftest import POLICY
from tests.listening import Ear, descriptors, listening, resident_mb, threads
from tests.peer import Peer

HONEST_EVERY = 25
"""After so many conversations an honest client must be served, and nothing be left of the strangers."""
MOST_MB = 400
"""By how much the process may have grown."""


class Wire:
    """A real listener, to which a scripted peer says anything."""

    def __init__(self, ear: Ear) -> None:
        self.ear = ear
        self.tried: Counter[str] = Counter()
        self._threads = threads()
        self._descriptors = descriptors()
        self._memory = resident_mb()
        self._uncaught: list[str] = []

    def converse(self, conversation: tuple[bytes, list[bytes], int]) -> None:
        """Say all of it; every success that was answered is in the spool, and nothing goes wrong inside."""
        first, rest, hangs_up = conversation
        known = len(self.ear.receptions)
        with Peer(self.ear.port) as stranger:
            stranger.send(first)
            for step in rest:
                if not stranger.send(step):
                    break
            stored = 0
            if not hangs_up:
                with contextlib.suppress(OSError):
                    stranger.socket.shutdown(socket.SHUT_WR)
                stored = _successes(stranger)
        self.tried["conversations"] += 1
        self.tried["PDUs"] += 1 + len(rest)
        receptions = self.ear.receptions[known:]
        assert len(receptions) >= stored, "what was acknowledged is in the spool"
        for reception in receptions:
            assert self.ear.spool.read_reception(reception.spool_name) == reception
            self.ear.spool.remove(reception.spool_name)
        assert self._uncaught == []
        if self.tried["conversations"] % HONEST_EVERY == 0:
            self.rest()

    def rest(self) -> None:
        """An honest client is served, and nothing of the strangers is left."""
        self.ear.echo()
        wait_until(lambda: self.ear.guests == 0 and self.ear.waiting == 0, what="all strangers are gone")
        wait_until(lambda: threads() <= self._threads, what="their threads are gone")
        wait_until(lambda: descriptors() <= self._descriptors + 4, what="their descriptors are given back")
        assert resident_mb() - self._memory < MOST_MB
        assert all("internal error" not in str(detail.get("why")) for *_, detail in self.ear.events), self.ear.events
        self.ear.events.clear()
        self.ear.listener._notices._told.clear()

    def note_uncaught(self, uncaught: Any) -> None:
        """An exception that reached the end of a thread."""
        self._uncaught.append(f"{uncaught.exc_type.__name__} in {uncaught.thread}")


def _successes(stranger: Peer) -> int:
    stored = 0
    try:
        while (answer := stranger.read()).kind:
            # a C-STORE-RSP (0x8001) with status 0
            is_store = b"\0\0\0\1\2\0\0\0\1\x80" in answer.body
            stored += answer.kind == peer.DATA and is_store and b"\0\0\0\x09\2\0\0\0\0\0" in answer.body
    except OSError:
        return stored
    return stored


@contextmanager
def wire(folder: Path) -> Iterator[Wire]:
    """A listener that waits little, and hears of exceptions in its threads."""
    with warnings.catch_warnings(), listening(folder, network_timeout_s=3.0, max_instance_mb=1) as ear:
        warnings.simplefilter("ignore")  # as in the node's own processes
        tested = Wire(ear)
        former, threading.excepthook = threading.excepthook, tested.note_uncaught
        try:
            yield tested
            tested.rest()
        finally:
            threading.excepthook = former


class Content:
    """Spool, registrar's reading and gate, to which any bytes are given as a data set."""

    def __init__(self, folder: Path) -> None:
        self._spool = Spool(folder)
        self._registrar = Registrar(self._spool, cast(Database, None), lambda *_: None)
        self._memory = resident_mb()
        self.tried: Counter[str] = Counter()

    def take(self, content: bytes, syntax: str, uid: bytes) -> None:
        """It is stored as it came, found again, entered, and the gate says something about it or nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._take(content, syntax, uid)

    def _take(self, content: bytes, syntax: str, uid: bytes) -> None:
        instance_uid = uid.decode("latin-1")
        if not any(character.isalnum() for character in instance_uid):
            instance_uid = "1.2"  # one that names nothing is refused before
        received = ReceivedObject(
            data_set=content,
            sop_class_uid=peer.CT,
            sop_instance_uid=instance_uid,
            transfer_syntax=syntax,
            calling_ae="SCANNER",
            called_ae="SPINENODE",
            received_at=datetime.now(UTC),
        )
        reception = self._spool.store(received)
        path = self._spool.path(reception.spool_name)
        try:
            assert path.read_bytes().endswith(content)
            assert self._spool.read_reception(reception.spool_name) is not None
            row = self._registrar._row(reception)
            texts = [value for value in vars(row).values() if isinstance(value, str)]
            assert all("\0" not in value and value.encode("utf-8") is not None for value in texts)
            assert max(len(row.study_uid), len(row.series_uid), len(row.sop_instance_uid)) <= 64
            self._judge(path)
        finally:
            self._spool.remove(reception.spool_name)
        self.tried["data sets"] += 1
        assert resident_mb() - self._memory < MOST_MB

    def _judge(self, path: Path) -> None:
        read = read_headers([path])
        assert len(read.headers) + len(read.unreadable) == 1
        for decision in choose(read.headers, POLICY):
            assert decision.outcome
        if read.headers:
            assert isinstance(load_volume(read.headers, POLICY), LoadedSeries | Unevaluable)
