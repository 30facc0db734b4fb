"""Proofs, queries and rejection notes with a PACS that others wrote: Orthanc (Debian's package)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import KeyObjectSelectionDocumentStorage

from node.deliver.reports import ReportDesk
from node.deliver.retraction import Retractor, maker
from node.keeper import Keeper
from node.ledger import Database
from node.receive.association import Listener
from node.receive.spool import Spool
from node.results.rejection import Reason
from node.settings import Receive, load_settings
from tests.conftest import wait_until
from tests.desk import Desk
from tests.dicom import STUDY, ct_slice
from tests.orthanc import Orthanc, free_port, orthanc

pytestmark = pytest.mark.debian


@pytest.fixture
def ear() -> int:
    """The port where the node listens."""
    return free_port()


@pytest.fixture
def pacs(tmp_path: Path, program: Callable[[str], str], ear: int) -> Iterator[Orthanc]:
    with orthanc(tmp_path / "orthanc", program("Orthanc"), modalities={"node": ("SPINENODE", ear)}) as running:
        yield running


def desk_of(tmp_path: Path, database: Database, pacs: Orthanc, commitment: str, wait_s: float = 30.0) -> Desk:
    destination = {"ae_title": "ORTHANC", "commitment": commitment, "patient_check": True, "timeout_s": 30}
    return Desk(tmp_path, database, pacs.dicom_port, destination, report_wait_s=wait_s, report_patience_s=[2, 2, 2, 2])


def forget_proofs(desk: Desk) -> None:
    """As if nothing had been asked for yet."""
    with desk.database.transaction() as connection:
        connection.execute(
            "UPDATE delivery SET state = 'stored', confirmed_at = NULL, proof_due_at = now(), proof_requests = 0"
        )


def instance_of(pacs: Orthanc, uid: str) -> str:
    (found,) = (item["ID"] for item in pacs.get("/instances?expand") if item["MainDicomTags"]["SOPInstanceUID"] == uid)
    return str(found)


def test_orthanc_commits_and_what_it_lost_is_sent_again(
    tmp_path: Path, database: Database, pacs: Orthanc, ear: int
) -> None:
    desk = desk_of(tmp_path, database, pacs, "storage_commitment")
    reports = ReportDesk(desk.settings.deliver, database)
    listener = Listener(
        Receive(port=ear), Spool(tmp_path / "spool"), lambda _: None, lambda *_: None, reports.on_event_report
    )
    listener.start()
    try:
        desk.deliver()
        wait_until(lambda: {row["state"] for row in desk.rows()} == {"confirmed"}, what="Orthanc's report")
        lost = desk.rows()[2]["sop_instance_uid"]
        pacs.delete(instance_of(pacs, lost))
        forget_proofs(desk)
        desk.deliver(0)
        wait_until(lambda: desk.rows()[2]["state"] == "pending", what="Orthanc's report of a failure")
        assert "(0x0112): sent again" in desk.rows()[2]["reason"]
        desk.deliver(0)
        wait_until(lambda: {row["state"] for row in desk.rows()} == {"confirmed"}, what="the second report")
        assert instance_of(pacs, lost)
        assert [row["resent"] for row in desk.rows()] == [0, 0, 1]
    finally:
        listener.stop()


def test_orthanc_proves_by_query_and_is_asked_whose_study_it_is(
    tmp_path: Path, database: Database, pacs: Orthanc
) -> None:
    desk = desk_of(tmp_path, database, pacs, "find")
    assert [state for _, state, _ in desk.deliver()] == ["confirmed"] * 3
    pacs.delete(instance_of(pacs, desk.rows()[0]["sop_instance_uid"]))
    forget_proofs(desk)
    desk.deliver(0)
    assert [row["state"] for row in desk.rows()] == ["stored", "confirmed", "confirmed"]


def test_orthanc_has_the_study_under_another_patient(tmp_path: Path, database: Database, pacs: Orthanc) -> None:
    other = ct_slice(77)
    other.PatientID = "P-2"
    other.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    pacs.store(tmp_path / "other.dcm")
    desk = desk_of(tmp_path, database, pacs, "none")
    assert [state for _, state, _ in desk.deliver()] == ["parked"] * 3
    assert "another patient ID" in desk.rows()[0]["reason"]
    assert len(pacs.get("/instances")) == 1


def test_a_rejection_note_stands_in_the_study_that_it_takes_back(
    tmp_path: Path, database: Database, pacs: Orthanc
) -> None:
    desk = desk_of(tmp_path, database, pacs, "find")
    desk.deliver()
    retractor = Retractor(desk.settings, database, maker(desk.settings))
    (done,) = retractor.retract(STUDY, Reason.QUALITY)
    desk.deliver()
    path = tmp_path / "note.dcm"
    path.write_bytes(pacs.file(instance_of(pacs, done.note_uid)))
    assert dcmread(path).SOPClassUID == KeyObjectSelectionDocumentStorage
    assert len(pacs.get("/studies")) == 1
    # a result whose file is gone is taken back with what Orthanc knows of the patient
    assert done.destinations == ("pacs",)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL; the pipe is closed."""
    process.kill()
    process.communicate()


def test_processes_that_are_killed_lose_no_report(tmp_path: Path, database: Database, pacs: Orthanc, ear: int) -> None:
    """Listener and sender as processes of their own, each killed in the middle: everything is confirmed, once."""
    desk = desk_of(tmp_path, database, pacs, "storage_commitment", wait_s=1.0)
    settings = desk.settings.model_dump(mode="json")
    settings["receive"]["port"] = ear
    settings["work"]["stalled_after_s"] = 5.0
    order = json.dumps({"settings": settings, "dsn": database.dsn}).encode() + b"\n"

    def start(role: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "node.role", role], stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(order)
        process.stdin.flush()
        return process

    keeper = Keeper(load_settings(**settings), database)
    keeper.wake_outstanding()
    sender, listener = start("deliver"), None
    try:
        with database.transaction() as connection:
            assert connection.execute("SELECT 1 FROM procrastinate_jobs").fetchone()

        def asked() -> bool:
            with database.transaction() as connection:
                return connection.execute("SELECT 1 FROM commitment").fetchone() is not None

        wait_until(asked, 120, "a request for commitment, whose report finds nobody")
        end(sender)
        listener = start("receive")
        sender = start("deliver")

        def confirmed() -> bool:
            keeper.round()
            return {row["state"] for row in desk.rows()} == {"confirmed"}

        wait_until(confirmed, 180, "the proofs")
    finally:
        for process in (sender, listener):
            if process is not None:
                end(process)
    assert len(pacs.get("/instances")) == 3
    assert [row["resent"] for row in desk.rows()] == [0, 0, 0]
