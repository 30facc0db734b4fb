"""The monitor alone: a ledger that is away or hangs, processes that do not answer, crowds, an address in use."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from node.ledger import Database, intake
from node.metrics.channel import Channel, answer_from
from node.metrics.collector import CHILD_PATIENCE_S
from node.metrics.server import MOST_CONNECTIONS, REQUEST_PATIENCE_S, Monitor
from node.metrics.tally import ASSOCIATIONS, LISTENERS, OTHER, Tally, Titles
from node.settings import ConfigurationError, Settings, load_settings
from tests.conftest import wait_until
from tests.desk import Desk
from tests.dicom import STUDY
from tests.scrape import Scrape, ask

IMAGE = intake.InstanceRow("x", datetime.now(UTC), "A", "B", "1.2", "1.2", "1.2.3", STUDY, "1.2.4", "p", "CT", 1, "aa")


class Child:
    """A process of the node that is a thread of the test."""

    def __init__(self, role: str, tally: Tally | None) -> None:
        self.role = role
        self.pid = 1
        self.channel: Channel | None = Channel()
        if tally is not None:
            answer_from(self.channel.inherited, tally)
            self.channel._theirs.detach()  # belongs to the thread that answers


@contextlib.contextmanager
def monitoring(folder: Path, dsn: str, children: list[Child], **sections: Any) -> Iterator[Monitor]:
    settings = load_settings(data_dir=folder, metrics={"port": 0, "ledger_period_s": 0}, **sections)
    opened = Monitor(settings, dsn, lambda: children)
    opened.start()
    try:
        yield opened
    finally:
        opened.stop()
        for child in children:
            if child.channel is not None:
                child.channel.close()


def receiver(listeners: int = 1) -> Child:
    tally = Tally()
    tally.watch(LISTENERS, lambda: listeners)
    return Child("receive", tally)


def test_a_ledger_that_is_away_is_told_and_holds_up_nothing(tmp_path: Path) -> None:
    with monitoring(tmp_path, "postgresql:///none?host=/nonexistent", [receiver()]) as monitor:
        scrape = Scrape(monitor.port)
        assert scrape("ledger_up") == 0
        assert scrape("role_up", role="receive") == 1
        assert scrape("studies_parked") is None, "unknown is not zero"
        status, told = ask(monitor.port, "/readyz")
        assert status == 503
        assert [check["name"] for check in told["checks"] if not check["ok"]] == ["ledger"]
        assert ask(monitor.port, "/healthz")[0] == 200, "a restart would mend nothing"


def test_a_ledger_that_hangs_holds_up_nothing(tmp_path: Path, dsn: str) -> None:
    with (
        Database(dsn, connections=1) as database,
        monitoring(tmp_path, dsn, [receiver()]) as monitor,
        database.transaction() as connection,
    ):
        connection.execute("LOCK TABLE answer IN ACCESS EXCLUSIVE MODE")
        assert Scrape(monitor.port)("ledger_up") == 0


def test_a_process_that_does_not_answer_is_told(tmp_path: Path, dsn: str) -> None:
    dumb = Child("evaluate", None)
    with monitoring(tmp_path, dsn, [receiver(), dumb]) as monitor:
        scrape = Scrape(monitor.port)
        assert scrape("role_up", role="evaluate") == 0
        assert scrape("role_up", role="receive") == 1
        status, told = ask(monitor.port, "/readyz")
        assert status == 503
        assert [check["name"] for check in told["checks"] if not check["ok"]] == ["process evaluate"]


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one() -> None:
    tally = Tally()
    gate = threading.Event()
    tally.watch(LISTENERS, lambda: float(gate.wait(10)))
    channel = Channel()
    answer_from(channel.inherited, tally)
    channel._theirs.detach()
    assert channel.ask(0.05) is None
    gate.set()
    tally.watch(LISTENERS, lambda: 7.0)
    assert channel.ask(CHILD_PATIENCE_S) == {("receive_listeners", ()): 7.0}
    channel.close()


def test_a_listener_that_is_missing_is_told(tmp_path: Path, dsn: str) -> None:
    more = {"receive": {"listeners": [{"port": 11113}]}}
    with monitoring(tmp_path, dsn, [receiver(1)], **more) as monitor:
        status, told = ask(monitor.port, "/readyz")
        assert status == 503
        assert "1 of 2 addresses are listened on" in [check["sentence"] for check in told["checks"]]


def test_a_machine_that_does_not_listen_is_ready_without_a_listener(tmp_path: Path, dsn: str) -> None:
    with monitoring(tmp_path, dsn, [Child("evaluate", Tally())], database_dsn=dsn, roles=["evaluate"]) as monitor:
        assert ask(monitor.port, "/readyz")[0] == 200


def test_a_disk_below_its_reserve_is_told(tmp_path: Path, dsn: str) -> None:
    with monitoring(tmp_path, dsn, [receiver()], receive={"free_space_reserve_mb": 10**9}) as monitor:
        status, told = ask(monitor.port, "/readyz")
        assert status == 503
        assert [check["name"] for check in told["checks"] if not check["ok"]] == ["disk"]


def test_a_supervisor_that_stands_still_is_not_alive(tmp_path: Path, dsn: str) -> None:
    with monitoring(tmp_path, dsn, [receiver()]) as monitor:
        assert ask(monitor.port, "/healthz")[0] == 200
        monitor._pulse_at -= 60
        assert ask(monitor.port, "/healthz")[0] == 503
        monitor.pulse()
        assert ask(monitor.port, "/healthz")[0] == 200


def test_latency_is_told_once_when_every_destination_has_every_result(
    tmp_path: Path, dsn: str, database: Database
) -> None:
    with monitoring(tmp_path, dsn, [receiver()]) as monitor:
        assert Scrape(monitor.port)("answers_total", pipeline="ct", status="evaluated", reason="") is None
        Desk(tmp_path / "desk", database, 1)
        with database.transaction() as connection:
            intake.register(connection, [IMAGE])
            connection.execute("UPDATE instance SET received_at = '2026-01-01 12:00:00+00'")

        def told(name: str, **labels: str) -> float | None:
            time.sleep(1.1)  # scrapes that come faster share an answer
            return Scrape(monitor.port)(name, **labels)

        assert told("answer_latency_seconds_count", pipeline="ct") is None
        with database.transaction() as connection:
            connection.execute("UPDATE delivery SET state = 'stored', stored_at = '2026-01-01 12:00:45+00'")
        assert told("answer_latency_seconds_count", pipeline="ct") == 1
        scrape = Scrape(monitor.port)
        assert scrape("answer_latency_seconds_sum", pipeline="ct") == 45
        assert told("answer_latency_seconds_count", pipeline="ct") == 1


def test_a_crowd_that_says_nothing_is_gone_after_a_while(tmp_path: Path, dsn: str) -> None:
    with monitoring(tmp_path, dsn, [receiver()]) as monitor, contextlib.ExitStack() as crowd:
        before = threading.active_count()
        for _ in range(5 * MOST_CONNECTIONS):
            crowd.enter_context(socket.create_connection(("127.0.0.1", monitor.port), 20))
        time.sleep(0.2)
        assert threading.active_count() - before <= MOST_CONNECTIONS

        def served() -> bool:
            monitor.pulse()
            try:
                return ask(monitor.port, "/healthz")[0] == 200
            except OSError:
                return False

        wait_until(served, 3 * REQUEST_PATIENCE_S, "the next one to be served")


def test_an_address_in_use_is_named_at_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        settings: Settings = load_settings(data_dir=tmp_path, metrics={"port": busy.getsockname()[1]})
        with pytest.raises(ConfigurationError, match=r"metrics: 127\.0\.0\.1:.*in use"):
            Monitor(settings, "", list)


def test_titles_of_strangers_are_one() -> None:
    tally, titles = Tally(), Titles(["CT1"])
    for title in ("CT1", *(f"X{number}" for number in range(1000))):
        tally.count(ASSOCIATIONS, titles(title))
    assert tally.read() == {("receive_associations_total", ("CT1",)): 1, ("receive_associations_total", (OTHER,)): 1000}
