"""Storage commitment with an archive that commits at once, late, partly, twice or never, or talks nonsense."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from node.deliver.commitment import InvalidReportError, next_step, read_report
from node.deliver.courier import Courier
from node.deliver.reports import ReportDesk
from node.ledger import Database
from node.ledger.proofs import Next
from node.receive.association import Listener
from node.receive.spool import Reception, Spool
from node.settings import Receive
from tests.archive import NO_SUCH_OBJECT, Archive, commits, report_back
from tests.conftest import wait_until
from tests.desk import Desk
from tests.dicom import write_series

PATIENCE_S = (300.0, 3600.0)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as running:
        yield running


def desk_of(tmp_path: Path, database: Database, archive: Archive, **deliver: Any) -> Desk:
    rules: dict[str, Any] = {"report_wait_s": 0, "report_patience_s": PATIENCE_S}
    return Desk(tmp_path, database, archive.port, {"commitment": "storage_commitment"}, **{**rules, **deliver})


@pytest.fixture
def desk(tmp_path: Path, database: Database, archive: Archive) -> Desk:
    """An answer for an archive that is asked to commit; nobody waits for its report on the same association."""
    return desk_of(tmp_path, database, archive)


@pytest.fixture
def listener(tmp_path: Path, desk: Desk) -> Iterator[Listener]:
    """The node's ear, where archives report."""
    reports = ReportDesk(desk.settings.deliver, desk.database)
    running = Listener(
        Receive(port=0), Spool(tmp_path / "spool"), lambda _: None, lambda *_: None, reports.on_event_report
    )
    running.start()
    yield running
    running.stop()


def states(desk: Desk) -> list[str]:
    return [row["state"] for row in desk.rows()]


@pytest.mark.parametrize("way", ["report_at_once", "report_afterwards"])
def test_a_report_on_the_same_association_confirms(
    tmp_path: Path, database: Database, archive: Archive, way: str
) -> None:
    desk = desk_of(tmp_path, database, archive, report_wait_s=20)
    getattr(archive, way)()
    assert {state for _, state, _ in desk.deliver()} == {"confirmed"}
    (request,) = archive.requests
    rows = desk.rows()
    assert request.uids == tuple(row["sop_instance_uid"] for row in rows)
    assert all(row["proved_by"] == "storage_commitment" for row in rows)
    assert all(row["stored_at"] <= row["confirmed_at"] for row in rows)
    assert desk.waiting_job() is None


def test_the_archive_has_its_answer_before_the_association_ends(
    tmp_path: Path, database: Database, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of(tmp_path, database, archive, report_wait_s=20)
    archive.report_afterwards()
    known = ReportDesk.on_event_report

    def slowly(reports: ReportDesk, event: Any) -> tuple[int, Dataset | None]:
        """The ledger knows of the report long before the answer to it goes out."""
        answer = known(reports, event)
        time.sleep(0.5)
        return answer

    monkeypatch.setattr(ReportDesk, "on_event_report", slowly)
    assert {state for _, state, _ in desk.deliver()} == {"confirmed"}
    wait_until(lambda: bool(archive.report_answers))
    assert archive.report_answers == [0x0000]


@pytest.mark.parametrize("with_roles", [True, False])
def test_a_report_over_an_association_of_its_own_confirms(
    desk: Desk, archive: Archive, listener: Listener, with_roles: bool
) -> None:
    assert {state for _, state, _ in desk.deliver()} == {"stored"}
    (request,) = archive.requests
    assert report_back(listener.port, *commits(request), with_roles=with_roles) == 0x0000
    assert states(desk) == ["confirmed"] * 3


def test_the_association_is_not_kept_open_once_the_report_came_the_other_way(
    desk: Desk, archive: Archive, listener: Listener
) -> None:
    patient = desk.settings.deliver.model_copy(update={"report_wait_s": 600})
    desk.courier = Courier(desk.settings.model_copy(update={"deliver": patient}), desk.database)

    def report(request: Any) -> int:
        threading.Timer(0.2, lambda: report_back(listener.port, *commits(request))).start()
        return 0x0000

    archive.on_request = report
    assert {state for _, state, _ in desk.deliver()} == {"confirmed"}


def test_a_report_that_comes_a_day_late_and_after_a_restart_still_confirms(
    desk: Desk, archive: Archive, listener: Listener
) -> None:
    desk.deliver()
    desk.courier = Courier(desk.settings, desk.database)
    desk.deliver(later_s=PATIENCE_S[0])
    desk.later(24 * 3600)
    first, second = archive.requests
    assert first.transaction_uid != second.transaction_uid, "asked again under a transaction of its own"
    assert report_back(listener.port, *commits(first)) == 0x0000
    assert states(desk) == ["confirmed"] * 3
    assert len(archive.received) == 3, "and nothing was sent twice"


def test_a_report_that_comes_twice_changes_nothing(desk: Desk, archive: Archive, listener: Listener) -> None:
    desk.deliver()
    (request,) = archive.requests
    assert report_back(listener.port, *commits(request)) == 0x0000
    before = desk.rows()
    assert report_back(listener.port, *commits(request)) == 0x0000
    assert desk.rows() == before


def test_what_is_not_committed_is_sent_again_and_asked_for_again(
    desk: Desk, archive: Archive, listener: Listener
) -> None:
    desk.deliver()
    (request,) = archive.requests
    lost = request.uids[1]
    for _ in range(2):  # a report that comes twice sends nothing twice
        assert report_back(listener.port, *commits(request, {lost: NO_SUCH_OBJECT})) == 0x0000
    assert states(desk) == ["confirmed", "pending", "confirmed"]
    assert (desk.waiting_job() or 0) <= 1, "the job that waited for the report is brought forward"
    assert [state for _, state, _ in desk.deliver(0)] == ["confirmed", "stored", "confirmed"]
    assert report_back(listener.port, *commits(request, {lost: NO_SUCH_OBJECT})) == 0x0000
    assert states(desk) == ["confirmed", "stored", "confirmed"], "a no from before it was sent again is no news"
    assert archive.requests[1].uids == (lost,)
    assert report_back(listener.port, *commits(archive.requests[1])) == 0x0000
    assert states(desk) == ["confirmed"] * 3
    sent = [item for item in archive.received if item.sop_instance_uid == lost]
    assert len(sent) == 2
    assert len({item.sha256 for item in sent}) == 1


def test_an_archive_that_never_keeps_an_object_gets_it_three_times_and_no_more(
    tmp_path: Path, database: Database, archive: Archive
) -> None:
    desk = desk_of(tmp_path, database, archive, report_wait_s=20)
    archive.report_at_once(failed={desk.rows()[2]["sop_instance_uid"]: NO_SUCH_OBJECT})
    for _ in range(5):
        desk.deliver()
    assert states(desk) == ["confirmed", "confirmed", "parked"]
    assert "does not keep it (0x0112), 3 times" in desk.rows()[2]["reason"]
    assert len(archive.received) == 5
    with database.transaction() as connection:
        found = connection.execute("SELECT subject FROM event WHERE kind = 'delivery_parked'").fetchall()
    assert [row["subject"] for row in found] == [desk.rows()[2]["sop_instance_uid"]]


@pytest.mark.parametrize("there", [True, False])
def test_an_archive_that_never_reports_is_asked_again_and_then_a_query_decides(
    desk: Desk, archive: Archive, there: bool
) -> None:
    lost = desk.rows()[0]["sop_instance_uid"]
    archive.holds = lambda uid: there or uid != lost
    desk.deliver()
    desk.deliver(later_s=60)
    assert len(archive.requests) == 1, "the first pause is not over"
    desk.deliver(later_s=PATIENCE_S[0])
    assert len(archive.requests) == 2
    desk.deliver(later_s=PATIENCE_S[1])
    assert len(archive.requests) == 2
    assert states(desk) == ["confirmed" if there else "pending", "confirmed", "confirmed"]
    assert desk.rows()[1]["proved_by"] == "find"
    assert len(archive.received) == 3


@pytest.mark.parametrize(("reason", "then"), [(0x0110, "stored"), (0x0213, "stored"), (0x0131, "stored")])
def test_a_busy_archive_is_asked_again_and_sent_nothing_again(
    desk: Desk, archive: Archive, listener: Listener, reason: int, then: str
) -> None:
    desk.deliver()
    (request,) = archive.requests
    report_back(listener.port, *commits(request, dict.fromkeys(request.uids, reason)))
    assert states(desk) == [then] * 3
    desk.deliver(later_s=PATIENCE_S[0])
    assert len(archive.requests) == 2
    assert len(archive.received) == 3


def test_an_archive_that_commits_to_no_object_of_this_class_is_asked_by_query(
    desk: Desk, archive: Archive, listener: Listener
) -> None:
    desk.deliver()
    (request,) = archive.requests
    report_back(listener.port, *commits(request, dict.fromkeys(request.uids, 0x0122)))
    desk.deliver(0)
    assert states(desk) == ["confirmed"] * 3
    assert {row["proved_by"] for row in desk.rows()} == {"find"}


def test_a_report_of_an_unknown_transaction_is_refused_and_noted(
    desk: Desk, archive: Archive, listener: Listener
) -> None:
    desk.deliver()
    (request,) = archive.requests
    assert report_back(listener.port, *commits(request, transaction_uid="1.2.3")) == 0x0115
    assert states(desk) == ["stored"] * 3
    with desk.database.transaction() as connection:
        assert connection.execute("SELECT 1 FROM event WHERE kind = 'commitment_unknown'").fetchone()


def test_a_report_of_objects_that_were_not_asked_for_changes_nothing(
    desk: Desk, archive: Archive, listener: Listener
) -> None:
    desk.deliver()
    (request,) = archive.requests
    other = type(request)(request.transaction_uid, (("1.2", "1.2.3.4"),), request.association)
    assert report_back(listener.port, *commits(other)) == 0x0000
    assert states(desk) == ["stored"] * 3


@pytest.mark.parametrize(
    ("event_type", "change", "status"),
    [
        (7, {}, 0x0113),
        (1, {"TransactionUID": ""}, 0x0115),
        (1, {"ReferencedSOPSequence": [Dataset()]}, 0x0115),
        (2, {"FailedSOPSequence": [Dataset()]}, 0x0115),
    ],
)
def test_nonsense_is_refused(
    desk: Desk, archive: Archive, listener: Listener, event_type: int, change: dict[str, Any], status: int
) -> None:
    desk.deliver()
    information, _ = commits(archive.requests[0])
    for keyword, value in change.items():
        setattr(information, keyword, value)
    assert report_back(listener.port, information, event_type) == status
    assert states(desk) == ["stored"] * 3


def test_a_report_is_not_answered_with_success_before_the_ledger_has_it(
    tmp_path: Path, desk: Desk, archive: Archive
) -> None:
    desk.deliver()
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    assert ReportDesk(desk.settings.deliver, away).answer(1, commits(archive.requests[0])[0], "X") == 0x0110


def test_whoever_wants_a_commitment_from_the_node_is_refused(listener: Listener) -> None:
    ae = AE(ae_title="ASKS")
    ae.add_requested_context(StorageCommitmentPushModel)
    roles = [build_role(StorageCommitmentPushModel, scu_role=True)]
    association = ae.associate("127.0.0.1", listener.port, ae_title="SPINENODE", ext_neg=roles)
    assert not association.accepted_contexts
    association.abort()


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
def test_whoever_wants_a_commitment_without_role_selection_is_told_so_and_goes_on_storing(
    tmp_path: Path, plain: bool
) -> None:
    receptions: list[Reception] = []
    events: list[str] = []
    listener = Listener(
        Receive(port=0, free_space_reserve_mb=0),
        Spool(tmp_path / "spool"),
        receptions.append,
        lambda kind, *_: events.append(kind),
        lambda _: (0, None),
        plain=plain,
    )
    paths = write_series(tmp_path / "in", 2)
    image = dcmread(paths[0])
    wanted, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    wanted.TransactionUID, wanted.ReferencedSOPSequence = generate_uid(), [item]
    ae = AE(ae_title="ASKS")
    ae.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    ae.add_requested_context(StorageCommitmentPushModel)
    listener.start()
    try:
        association = ae.associate("127.0.0.1", listener.port, ae_title="SPINENODE")
        assert association.send_c_store(paths[0]).Status == 0
        status, _ = association.send_n_action(wanted, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        assert status.Status == 0x0211
        assert association.send_c_store(paths[1]).Status == 0
        association.release()
    finally:
        listener.stop()
    assert len(receptions) == 2
    assert events == ["commitment_asked"]


def test_an_archive_without_storage_commitment_is_said_so_and_asked_again(desk: Desk, archive: Archive) -> None:
    archive.without(StorageCommitmentPushModel)
    for _ in range(3):
        desk.deliver()
    assert states(desk) == ["stored"] * 3
    assert all("takes no requests for storage commitment" in row["reason"] for row in desk.rows())
    desk.deliver(later_s=8 * 24 * 3600)
    assert states(desk) == ["parked"] * 3
    assert len(archive.received) == 3


def test_an_archive_that_refuses_or_does_not_answer_is_asked_again(desk: Desk, archive: Archive) -> None:
    archive.on_request = lambda _request: 0x0110
    desk.deliver()
    assert "refuses storage commitment (0x0110)" in desk.rows()[0]["reason"]

    def hang_up(request: Any) -> int:
        request.association.abort()
        return 0x0000

    archive.on_request = hang_up
    desk.deliver()
    assert "instead of answering" in desk.rows()[0]["reason"]
    archive.report_at_once()
    desk.deliver()
    assert states(desk) == ["confirmed"] * 3
    assert desk.rows()[0]["reason"] is None
    assert len(archive.requests) == 3


def test_killed_between_request_and_answer_asks_again_under_another_transaction(
    desk: Desk, archive: Archive, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(_request: Any) -> int:
        raise Killed

    monkeypatch.setattr("node.ledger.proofs.accepted", lambda *_: killed(None))
    with pytest.raises(Killed):
        desk.deliver()
    monkeypatch.undo()
    assert states(desk) == ["stored"] * 3
    desk.courier = Courier(desk.settings, desk.database)
    desk.deliver(later_s=PATIENCE_S[0])
    assert len(archive.requests) == 2
    assert report_back(listener.port, *commits(archive.requests[0])) == 0x0000
    assert states(desk) == ["confirmed"] * 3


def test_a_peer_that_releases_while_its_report_is_waited_for_is_let_go(
    tmp_path: Path, database: Database, archive: Archive
) -> None:
    desk = desk_of(tmp_path, database, archive, report_wait_s=600)

    def release(request: Any) -> int:
        threading.Timer(0.2, request.association.release).start()
        return 0x0000

    archive.on_request = release
    before = threading.active_count()
    assert {state for _, state, _ in desk.deliver()} == {"stored"}
    wait_until(lambda: threading.active_count() <= before, what="the association's threads to end")


class TestFind:
    """Destinations without storage commitment prove by query."""

    @pytest.fixture
    def desk(self, tmp_path: Path, database: Database, archive: Archive) -> Desk:
        return Desk(tmp_path, database, archive.port, {"commitment": "find"}, report_patience_s=PATIENCE_S)

    def test_what_a_query_finds_is_confirmed(self, desk: Desk, archive: Archive) -> None:
        assert {state for _, state, _ in desk.deliver()} == {"confirmed"}
        assert {row["proved_by"] for row in desk.rows()} == {"find"}
        assert not archive.requests
        assert desk.waiting_job() is None

    def test_an_archive_that_lists_later_is_asked_later_and_sent_nothing_again(
        self, desk: Desk, archive: Archive
    ) -> None:
        archive.holds = lambda _uid: False
        assert {state for _, state, _ in desk.deliver()} == {"stored"}
        archive.holds = lambda _uid: True
        assert {state for _, state, _ in desk.deliver(PATIENCE_S[0])} == {"confirmed"}
        assert len(archive.received) == 3

    def test_what_is_never_found_is_sent_again_three_times_then_parked(self, desk: Desk, archive: Archive) -> None:
        archive.holds = lambda _uid: False
        for _ in range(12):
            desk.deliver()
        assert states(desk) == ["parked"] * 3
        assert len(archive.received) == 9

    def test_an_archive_without_queries_is_said_so(self, desk: Desk, archive: Archive) -> None:
        archive.without(StudyRootQueryRetrieveInformationModelFind)
        assert {state for _, state, _ in desk.deliver()} == {"stored"}
        assert "takes no queries" in desk.rows()[0]["reason"]

    def test_a_query_that_fails_proves_nothing(self, desk: Desk, archive: Archive) -> None:
        archive.query_status = 0xC000
        assert {state for _, state, _ in desk.deliver()} == {"stored"}
        assert "could not answer a query (0xC000)" in desk.rows()[0]["reason"]


def test_a_destination_that_proves_nothing_any_more_leaves_results_as_accepted_as_they_are(
    desk: Desk, archive: Archive, database: Database
) -> None:
    desk.deliver()
    pacs = desk.settings.destinations[0]
    without = {"destinations": (pacs.model_copy(update={"commitment": "none"}),)}
    Courier(desk.settings.model_copy(update=without), database).deliver(desk.answer_id, "pacs")
    assert states(desk) == ["stored"] * 3
    with database.transaction() as connection:
        assert connection.execute("SELECT 1 FROM delivery WHERE proof_due_at IS NOT NULL").fetchone() is None


def test_an_outbox_file_stays_until_the_proof_is_there(desk: Desk, archive: Archive, listener: Listener) -> None:
    from node.keeper import Keeper

    keeper = Keeper(desk.settings, desk.database)
    desk.deliver()
    with desk.database.transaction() as connection:
        connection.execute("UPDATE answer SET finished_at = now() - interval '100 days'")
    desk.later(99 * 24 * 3600)
    keeper.expire()
    assert (desk.settings.outbox_dir / "capture.dcm").exists()
    report_back(listener.port, *commits(archive.requests[0]))
    keeper.expire()
    assert not (desk.settings.outbox_dir / "capture.dcm").exists()


def test_every_failure_reason_has_its_next_step() -> None:
    assert [next_step(reason) for reason in (0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213, 0x4321)] == [
        Next.ASK_AGAIN,
        Next.SEND_AGAIN,
        Next.SEND_AGAIN,
        Next.ASK_BY_QUERY,
        Next.ASK_AGAIN,
        Next.ASK_AGAIN,
        Next.SEND_AGAIN,
    ]


def test_a_success_that_names_failures_is_no_success() -> None:
    information = Dataset()
    information.TransactionUID = "1.2"
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.FailureReason = "1.2.3", NO_SUCH_OBJECT
    information.FailedSOPSequence = [item]
    with pytest.raises(InvalidReportError):
        read_report(1, information)
    assert read_report(2, information).failed == {"1.2.3": NO_SUCH_OBJECT}
