"""Delivering to a PACS in every mood, from a real outbox and ledger."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from node.deliver.courier import Courier
from node.deliver.status import classify
from node.demo.pacs import Received, SmallPacs
from node.ledger import Database, deliveries, overview
from node.queue import DELIVER, Queue, delivery_queue
from tests.conftest import wait_until
from tests.desk import KINDS, Desk
from tests.dicom import STUDY


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[SmallPacs]:
    with SmallPacs(tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, database: Database, pacs: SmallPacs) -> Desk:
    return Desk(tmp_path, database, pacs.port)


def test_everything_is_delivered_once_and_in_order(desk: Desk, pacs: SmallPacs) -> None:
    assert desk.deliver() == [(kind, "stored", 1) for kind in KINDS]
    assert desk.deliver() == [(kind, "stored", 1) for kind in KINDS]
    assert [item.sop_instance_uid for item in pacs.received] == [row["sop_instance_uid"] for row in desk.rows()]
    assert desk.waiting_job() is None


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_warnings_are_stored_and_noted(desk: Desk, pacs: SmallPacs, status: int) -> None:
    pacs.answer = lambda _item: status
    assert {state for _, state, _ in desk.deliver()} == {"stored"}
    assert all(row["status_code"] == status and f"0x{status:04X}" in row["reason"] for row in desk.rows())


def test_out_of_resources_is_tried_again_until_it_passes(desk: Desk, pacs: SmallPacs) -> None:
    pacs.answer = lambda _item: 0xA700
    for attempt in range(1, 6):
        states = desk.deliver()
        assert states[0] == ("reformat", "pending", attempt)
    with desk.database.transaction() as connection:
        waits = deliveries.waits(connection, desk.answer_id, "pacs")
    assert all(3 < row["wait_s"] <= 4 for row in waits)
    pacs.answer = None
    assert {state for _, state, _ in desk.deliver()} == {"stored"}


@pytest.mark.parametrize("status", [0xC000, 0x0110, 0x4321])
def test_an_unclear_failure_is_tried_three_times_then_parked(desk: Desk, pacs: SmallPacs, status: int) -> None:
    pacs.answer = lambda _item: status
    assert desk.deliver()[0] == ("reformat", "pending", 1)
    assert desk.deliver()[0] == ("reformat", "pending", 2)
    assert desk.deliver()[0] == ("reformat", "parked", 3)
    assert "see its log" in desk.rows()[0]["reason"] or "unknown status" in desk.rows()[0]["reason"]


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA900])
def test_a_permanent_refusal_is_parked_at_once_and_holds_up_nothing_else(
    desk: Desk, pacs: SmallPacs, status: int
) -> None:
    pacs.answer = lambda item: status if item.sop_instance_uid == desk.rows()[2]["sop_instance_uid"] else 0
    assert [state for _, state, _ in desk.deliver()] == ["stored", "stored", "parked"]


def test_a_report_is_not_sent_without_the_image_of_its_lines(desk: Desk, pacs: SmallPacs) -> None:
    reformat = desk.rows()[0]["sop_instance_uid"]
    pacs.answer = lambda item: 0xA900 if item.sop_instance_uid == reformat else 0
    assert [state for _, state, _ in desk.deliver()] == ["parked", "parked", "stored"]
    assert "reformat" in desk.rows()[1]["reason"]


def test_a_class_that_the_destination_does_not_take_is_said_so(
    tmp_path: Path, database: Database, pacs: SmallPacs
) -> None:
    pacs._ae.remove_supported_context(SecondaryCaptureImageStorage)
    for server in pacs._ae._servers:
        server.contexts = pacs._ae.supported_contexts
    desk = Desk(tmp_path / "other", database, pacs.port)
    assert [state for _, state, _ in desk.deliver()] == ["parked"] * 3
    reasons = {row["kind"]: row["reason"] for row in desk.rows()}
    assert "does not take Secondary Capture Image Storage" in reasons["reformat"]
    assert "does not take Secondary Capture Image Storage" in reasons["capture"]
    assert "reformat" in reasons["report"]
    assert pacs.received == []


def test_a_pacs_that_is_down_is_waited_for(tmp_path: Path, database: Database) -> None:
    with SmallPacs(tmp_path / "pacs") as first:
        port = first.port
    desk = Desk(tmp_path, database, port)
    assert {state for _, state, _ in desk.deliver()} == {"pending"}
    assert "nothing listens there" in desk.rows()[0]["reason"]
    assert 0 < (desk.waiting_job() or 0) <= 1
    with SmallPacs(tmp_path / "pacs", port=port) as again:
        assert {state for _, state, _ in desk.deliver()} == {"stored"}
        assert len(again.received) == 3


def test_after_a_week_it_is_parked(tmp_path: Path, database: Database) -> None:
    with SmallPacs(tmp_path / "pacs") as first:
        port = first.port
    desk = Desk(tmp_path, database, port)
    desk.deliver()
    with database.transaction() as connection:
        connection.execute("UPDATE delivery SET first_try_at = now() - interval '8 days'")
    assert {state for _, state, _ in desk.deliver()} == {"parked"}


def test_an_altered_outbox_file_is_never_sent(desk: Desk, pacs: SmallPacs) -> None:
    path = desk.settings.outbox_dir / "capture.dcm"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert [state for _, state, _ in desk.deliver()] == ["stored", "stored", "parked"]
    assert "altered" in desk.rows()[2]["reason"]
    assert len(pacs.received) == 2


def test_a_destination_that_left_the_configuration_is_parked_and_can_be_retried(desk: Desk, database: Database) -> None:
    without = Courier(desk.settings.model_copy(update={"destinations": ()}), database)
    without.deliver(desk.answer_id, "pacs")
    assert {row["state"] for row in desk.rows()} == {"parked"}
    with database.transaction() as connection:
        assert overview.retry(connection, STUDY, []) == 0
        assert overview.unconfigured(connection, STUDY, []) == ["pacs"]
        assert overview.retry(connection, STUDY, ["pacs"]) == 3
        assert overview.unconfigured(connection, STUDY, []) == []
    assert {state for _, state, _ in desk.deliver()} == {"stored"}


def test_what_waits_for_a_destination_that_left_the_configuration_is_parked_at_the_start(
    desk: Desk, database: Database
) -> None:
    elsewhere = desk.answer(1, "former")
    with database.transaction() as connection:
        Queue(database.dsn).wake_delivery(connection, elsewhere, "former")  # nobody works on this queue any more
    desk.courier.park_unconfigured()
    states = {row["destination"]: row["state"] for row in desk.rows()}
    assert states == {"pacs": "pending", "former": "parked"}
    assert all("no destination 'former'" in row["reason"] for row in desk.rows() if row["destination"] == "former")


def test_an_object_that_is_there_already_is_not_called_verified() -> None:
    assert "only the destination's `commitment` can tell" in (classify(0x0111).sentence or "")


def test_a_destination_has_a_queue_of_its_own_whatever_its_name(desk: Desk, database: Database) -> None:
    long, longer = "a" * 63, "a" * 64  # PostgreSQL refuses notifications on a channel of 64 bytes
    queue = Queue(database.dsn)
    with database.transaction() as connection:
        for name in ("pacs", long, longer):
            queue.wake_delivery(connection, desk.answer_id, name)
        rows = connection.execute("SELECT task_name, queue_name, lock FROM procrastinate_jobs ORDER BY id").fetchall()
    assert [row["lock"] for row in rows] == [f"delivery:{name}:{desk.answer_id}" for name in ("pacs", long, longer)]
    assert {row["task_name"] for row in rows} == {DELIVER}
    assert rows[0]["queue_name"] == delivery_queue("pacs") == "deliver:pacs"
    assert len({row["queue_name"] for row in rows}) == 3


def test_a_destination_that_hangs_delays_no_other(desk: Desk, database: Database, pacs: SmallPacs) -> None:
    """The delivering process with a destination that takes connections and never says a word."""
    queue = Queue(database.dsn)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute:
        hanging = {"name": "hangs", "host": "127.0.0.1", "port": mute.getsockname()[1], "ae_title": "X"}
        configured = [*desk.settings.model_dump(mode="json")["destinations"], {**hanging, "timeout_s": 600}]
        settings = {**desk.settings.model_dump(mode="json"), "destinations": configured}
        with database.transaction() as connection:
            for ordinal in range(1, 13):
                queue.wake_delivery(connection, desk.answer(ordinal, "hangs"), "hangs")
            queue.wake_delivery(connection, desk.answer_id, "pacs")
            # a job of a former version, on the queue that all destinations shared
            connection.execute("UPDATE procrastinate_jobs SET queue_name = 'deliver' WHERE lock LIKE 'delivery:pacs:%'")
            later = desk.answer(13, "pacs")
            queue.wake_delivery(connection, later, "pacs")
        process = subprocess.Popen([sys.executable, "-m", "node.role", "deliver"], stdin=subprocess.PIPE)
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"settings": settings, "dsn": database.dsn}).encode() + b"\n")
            process.stdin.flush()
            wait_until(lambda: len(pacs.received) == 6, 60, "two answers at the destination that listens")
            wait_until(
                lambda: all(row["state"] == "stored" for row in desk.rows() if row["destination"] == "pacs"),
                20,
                "the ledger to know it",
            )
            states = {row["state"] for row in desk.rows() if row["destination"] == "hangs"}
            assert states == {"pending"}
            process.send_signal(signal.SIGTERM)
            mute.close()  # what waits in its backlog is hung up on
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.communicate()  # waits, and closes the pipe


def test_cancelled_is_not_sent(desk: Desk, pacs: SmallPacs, database: Database) -> None:
    with database.transaction() as connection:
        assert overview.cancel(connection, STUDY) == 4
    assert {state for _, state, _ in desk.deliver()} == {"cancelled"}
    assert pacs.received == []


def test_two_tries_send_the_same_bytes(desk: Desk, pacs: SmallPacs) -> None:
    calls: list[Received] = []

    def fail_first(item: Received) -> int:
        calls.append(item)
        return 0xA700 if len(calls) <= 3 else 0

    pacs.answer = fail_first
    desk.deliver()
    desk.deliver()
    desk.deliver()
    digests: dict[str, set[str]] = {}
    for item in pacs.received:
        digests.setdefault(item.sop_instance_uid, set()).add(item.sha256)
    assert len(digests) == 3
    assert all(len(found) == 1 for found in digests.values())
