"""PostgreSQL restarted, killed, away, read-only, full of others' connections: receiving goes on, nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import RunningNode, stage
from node.ledger import overview
from node.service import ledger_of
from tests.chaos.counts import end_to_end
from tests.chaos.department import uid_of, write_study
from tests.chaos.hospital import DATABASE, HospitalServer
from tests.conftest import wait_until
from tests.dicom import STUDY

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]

FULL = bool(os.environ.get("SPINE_NODE_CHAOS_KILLS"))
AWAY_S = 60.0 if FULL else 3.0
PATIENCE_S = 300.0

Fault = Callable[[HospitalServer], None]


@contextmanager
def stopped(server: HospitalServer, number: signal.Signals = signal.SIGINT, away_s: float = 0.0) -> Iterator[None]:
    server.stop(number)
    yield
    time.sleep(away_s)
    server.start()


@contextmanager
def read_only(server: HospitalServer) -> Iterator[None]:
    server.execute(f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on")
    server.hang_up_on_everybody()
    yield
    time.sleep(2.0)
    server.execute(f"SET default_transaction_read_only = off; ALTER DATABASE {DATABASE} RESET ALL", "postgres")
    server.hang_up_on_everybody()


@contextmanager
def out_of_connections(server: HospitalServer) -> Iterator[None]:
    """Somebody else takes every connection, those of administrators included."""
    with ExitStack() as others:
        server.hang_up_on_everybody()
        for _ in range(200):
            try:
                others.enter_context(psycopg.connect(server.dsn, connect_timeout=2))
            except psycopg.OperationalError as error:
                assert "too many clients" in str(error)
                break
        else:
            pytest.fail("the server never ran out of connections")
        yield
        time.sleep(2.0)


FAULTS = {
    "restarted, fast": stopped,
    "killed": lambda server: stopped(server, signal.SIGKILL),
    "unreachable": lambda server: stopped(server, away_s=AWAY_S),
    "read-only": read_only,
    "out of connections": out_of_connections,
}

SHORT = ("killed", "read-only")
"""Those of every test run; `make chaos` has all."""


class Trial:
    """A node with a PACS behind it; counts what was sent and acknowledged."""

    def __init__(self, node: RunningNode, folder: Path) -> None:
        self.node = node
        self._folder = folder
        self.studies: list[str] = []
        self.sent = 0
        self.acknowledged: set[str] = set()

    def study(self) -> None:
        """Send one study; every instance of it must be acknowledged at once."""
        study_uid = f"{STUDY}.{700 + len(self.studies)}"
        self.studies.append(study_uid)
        files = write_study(self._folder / study_uid, study_uid)

        def replied(index: int, reply: Reply) -> None:
            self.sent += 1
            assert reply.verdict is Verdict.STORED, reply
            self.acknowledged.add(uid_of(files[index]))

        send(files, "127.0.0.1", self.node.port, called_ae="SPINENODE", calling_ae="CT1", replied=replied)

    def done(self) -> bool:
        """Every study evaluated and every result delivered; the ledger may be away for a while."""
        try:
            with ledger_of(self.node.settings) as database, database.transaction() as connection:
                found = overview.studies(connection, limit=10_000)
        except (psycopg.Error, PoolTimeout):
            return False
        return (
            len(found) == len(self.studies)
            and all(study["state"] == "evaluated" and study["answers"] for study in found)
            and not any(study["deliveries"].get("pending") for study in found)
        )

    def wait(self) -> None:
        wait_until(self.done, PATIENCE_S, f"all answers: {self.node.tail(40)}")


def sections(pacs: SmallPacs) -> dict[str, object]:
    destination = {"name": "pacs", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE, "timeout_s": 10}
    return {
        "site": "chaos",
        "study": {"quiet_s": 0.5},
        "receive": {"port": 0},
        "destinations": [destination],
        "work": {"stalled_after_s": 3.0, "max_attempts": 50, "drain_s": 5},
        "deliver": {"backoff_s": [0.5]},
    }


def test_a_hospitals_server_in_every_mood(tmp_path: Path, shipped_models: Path) -> None:
    with (
        HospitalServer() as server,
        SmallPacs(tmp_path / "pacs") as pacs,
        stage(database_dsn=server.dsn, **sections(pacs)) as node,
    ):
        trial = Trial(node, tmp_path / "studies")
        trial.study()
        trial.wait()
        supervisor = node.process.pid
        for name in FAULTS if FULL else SHORT:
            trial.study()
            time.sleep(0.7)  # in mid-work
            begun = time.monotonic()
            with FAULTS[name](server):
                trial.study()
            lifted = time.monotonic()
            trial.study()
            trial.wait()
            end_to_end(
                f"PostgreSQL {server.version} {name}",
                node,
                pacs.received,
                trial.sent,
                trial.acknowledged,
                away_s=round(lifted - begun, 1),
                whole_again_after_s=round(time.monotonic() - lifted, 1),
            )
        assert node.process.poll() is None and node.process.pid == supervisor
        log = node.log.read_text(encoding="utf-8")
        assert "the ledger is away; receiving goes on" in log
        assert "Traceback" not in log
