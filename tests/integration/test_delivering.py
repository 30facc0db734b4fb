"""Delivering to a PACS in every mood, from a real outbox and ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from node.deliver.courier import Courier
from node.demo.pacs import AE_TITLE, Received, SmallPacs
from node.ledger import Database, answers, deliveries, overview
from node.settings import Settings, load_settings
from tests.dicom import STUDY, ct_slice

KINDS = ("reformat", "report", "capture")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[SmallPacs]:
    with SmallPacs(tmp_path / "pacs") as running:
        yield running


class Desk:
    """A finished answer of three objects, ready to be delivered."""

    def __init__(self, folder: Path, database: Database, port: int, **deliver: Any) -> None:
        self.database = database
        self.settings: Settings = load_settings(
            data_dir=folder / "node",
            destinations=[{"name": "pacs", "host": "127.0.0.1", "port": port, "ae_title": AE_TITLE, "timeout_s": 3}],
            deliver={"backoff_s": [1, 2, 4], **deliver},
        )
        self.courier = Courier(self.settings, database)
        rows = []
        self.settings.outbox_dir.mkdir(parents=True)
        for number, kind in enumerate(KINDS):
            data_set = ct_slice(number)
            data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
            path = self.settings.outbox_dir / f"{kind}.dcm"
            data_set.save_as(path, enforce_file_format=True)
            content = path.read_bytes()
            rows.append(
                answers.ResultRow(
                    kind=kind,
                    sop_class_uid=data_set.SOPClassUID,
                    sop_instance_uid=data_set.SOPInstanceUID,
                    series_uid=data_set.SeriesInstanceUID,
                    outbox_name=path.name,
                    bytes=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                )
            )
        with database.transaction() as connection:
            connection.execute("INSERT INTO study (study_uid, last_instance_at) VALUES (%s, now())", (STUDY,))
            claimed = answers.claim_answer(connection, STUDY, "ct", "1.2", "in", "conf", "0", per_series=False)
            assert claimed is not None
            ids = answers.finish_answer(
                connection,
                claimed,
                rows,
                status="evaluated",
                sent=True,
                flag=False,
                provider="CPUExecutionProvider",
                reason_code=None,
                timings_s={},
            )
            for row_id in ids:
                deliveries.plan(connection, row_id, "pacs")
        self.answer_id = claimed.id

    def deliver(self) -> list[tuple[str, str, int]]:
        """Deliver once; (kind, state, attempts) of each result."""
        self.courier.deliver(self.answer_id, "pacs")
        return [(row["kind"], row["state"], row["attempts"]) for row in self.rows()]

    def rows(self) -> list[dict[str, Any]]:
        with self.database.transaction() as connection:
            found = overview.study(connection, STUDY)
        assert found is not None
        return list(found["deliveries"])

    def waiting_job(self) -> float | None:
        with self.database.transaction() as connection:
            row = connection.execute(
                "SELECT extract(epoch FROM scheduled_at - now())::float AS s FROM procrastinate_jobs"
                " WHERE status = 'todo'"
            ).fetchone()
        return None if row is None else float(row["s"])


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
    desk.deliver()
    assert desk.rows()[0]["state"] in ("parked", "pending")
    assert desk.rows()[0]["reason"]


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
        assert overview.retry(connection, STUDY) == 3
    assert {state for _, state, _ in desk.deliver()} == {"stored"}


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
