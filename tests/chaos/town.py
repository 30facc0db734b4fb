"""A node's deliveries to a town of PACS, each in a mood of its own, with the delivering process and a moved clock.

Nothing waits for the clock: the test moves everything in ledger and queue to an earlier time, which is the same.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import evt
from pynetdicom.pdu import P_DATA_TF

from node.demo.pacs import AE_TITLE, SmallPacs
from node.keeper import Keeper
from node.ledger import Database, overview
from node.queue import Queue
from node.settings import Settings, load_settings
from tests.conftest import wait_until
from tests.desk import Desk
from tests.dicom import STUDY

PATIENCE_S = 240.0
BACKOFF_S = (60, 120, 300, 900, 1800)
"""As the default, without its first seconds, which a busy machine may take for a round: together most of an hour."""


@contextmanager
def role_process(settings: Settings, dsn: str, *program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a node, as the supervisor starts it (``program``: module and arguments); asked to end at the end."""
    process = subprocess.Popen([sys.executable, "-m", *program], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps({"settings": settings.model_dump(mode="json"), "dsn": dsn}).encode() + b"\n")
        process.stdin.flush()
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()  # waits, and closes the pipe


@dataclass(frozen=True)
class Request:
    """One C-STORE-RQ as it arrived, whatever was answered. ``sha256`` is of its data set."""

    sop_instance_uid: str
    sha256: str


class MoodyPacs(SmallPacs):
    """A PACS that logs every C-STORE-RQ when it arrives, before ``mood`` decides its status, if it ever does."""

    def __init__(self, folder: Path, port: int = 0, mood: Callable[[], int] = lambda: 0x0000) -> None:
        super().__init__(folder, port, lambda _item: self.mood())
        self._ae.maximum_associations = 1000
        self.mood = mood
        self.requests: list[Request] = []
        self.aborts = 0

    def __enter__(self) -> MoodyPacs:
        super().__enter__()
        (server,) = self._ae._servers
        server.bind(evt.EVT_PDU_RECV, self._abort)
        return self

    def _on_store(self, event: evt.Event) -> int:
        digest = hashlib.sha256(event.request.DataSet.getvalue()).hexdigest()
        self.requests.append(Request(str(event.request.AffectedSOPInstanceUID), digest))
        return super()._on_store(event)

    def reject(self, rejects: bool) -> None:
        """Whether associations are rejected: the archive does not know who calls."""
        self._ae.require_calling_aet = ["SOMEBODY"] if rejects else []

    def _abort(self, event: evt.Event) -> None:
        if self.aborts and isinstance(event.pdu, P_DATA_TF):
            self.aborts -= 1
            event.assoc.abort()


@dataclass
class Town:
    """Destinations by name, an outbox for each, and the process that delivers."""

    folder: Path
    database: Database
    pacs: dict[str, MoodyPacs] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)

    @contextmanager
    def open(self, moods: dict[str, Callable[[], int]], answers_each: int = 2, **destination: Any) -> Iterator[Town]:
        """Start every PACS; plan answers to each. ``destination``: further settings by name."""
        with ExitStack() as stack:
            for name, mood in moods.items():
                self.pacs[name] = stack.enter_context(MoodyPacs(self.folder / name, mood=mood))
            self._desk = Desk(self.folder, self.database, 1)
            destinations = [
                {"name": name, "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE, "timeout_s": 120}
                | destination.get(name, {})
                for name, pacs in self.pacs.items()
            ]
            self.settings = load_settings(
                data_dir=self.folder / "node",
                destinations=destinations,
                deliver={"backoff_s": BACKOFF_S},
                work={"stalled_after_s": 2, "drain_s": 10},
            )
            self.keeper = Keeper(self.settings, self.database)
            with self.database.transaction() as connection:
                connection.execute("DELETE FROM delivery")  # the desk's own, to nowhere
            for _ in range(answers_each):
                for name in moods:
                    self.answer(name)
            yield self

    def answer(self, name: str) -> None:
        """One more answer that is to go to a destination."""
        answer = self._desk.answer(sum(map(len, self.answers.values())) + 1, name)
        self.answers.setdefault(name, []).append(answer)
        with self.database.transaction() as connection:
            Queue(self.database.dsn).wake_delivery(connection, answer, name)

    def delivering(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """The delivering process."""
        return role_process(self.settings, self.database.dsn, "node.role", "deliver")

    def later(self, seconds: float) -> None:
        """Move the clock of ledger and queue."""
        self._desk.later(seconds)
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE procrastinate_jobs SET scheduled_at = scheduled_at - make_interval(secs => %s)"
                " WHERE status = 'todo'",
                (seconds,),
            )

    def settle(self, but: tuple[str, ...] = ()) -> None:
        """Wait until nothing is due any more, and nothing runs, at any destination but those."""
        wait_until(lambda: not self._busy(but), PATIENCE_S, f"the due deliveries to end, {self.states()}")

    def _busy(self, but: tuple[str, ...]) -> bool:
        with self.database.transaction() as connection:
            row = connection.execute(
                """
                SELECT (SELECT count(*) FROM procrastinate_jobs
                         WHERE (status = 'doing' OR status = 'todo' AND scheduled_at <= now() + interval '1 second')
                           AND args->>'destination' <> ALL(%(but)s))
                     + (SELECT count(*) FROM delivery WHERE state = 'pending' AND destination <> ALL(%(but)s)
                           AND next_try_at <= now() + interval '1 second') AS n
                """,
                {"but": list(but)},
            ).fetchone()
        assert row is not None
        return bool(row["n"])

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Deliveries to a destination as ``jobs show`` has them."""
        with self.database.transaction() as connection:
            found = overview.study(connection, STUDY)
        assert found is not None
        return [row for row in found["deliveries"] if row["destination"] == name]

    def states(self) -> dict[str, dict[str, int]]:
        """Of each destination, how many results are in which state."""
        return {name: dict(Counter(row["state"] for row in self.rows(name))) for name in self.pacs}

    def says(self, name: str, kind: str = "capture") -> str:
        """Why the first result of a kind is where it is."""
        return next(str(row["reason"]) for row in self.rows(name) if row["kind"] == kind)

    def tries(self, name: str, kind: str = "capture") -> list[int]:
        """Tries of each result of a kind."""
        return [row["attempts"] for row in self.rows(name) if row["kind"] == kind]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of the ledger, oldest first."""
        with self.database.transaction() as connection:
            return connection.execute(
                "SELECT subject, detail FROM event WHERE kind = %s ORDER BY id", (kind,)
            ).fetchall()


class Gate:
    """A mood that answers nothing until it is opened."""

    def __init__(self, most_s: float = 900.0) -> None:
        self._open = threading.Event()
        self._most_s = most_s

    def __call__(self) -> int:
        self._open.wait(self._most_s)
        return 0x0000

    def open(self) -> None:
        """From now on everything is stored at once."""
        self._open.set()
