"""Taking results back, looking whose study it is before sending, and what a corrected patient means for what waits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage, SegmentationStorage
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from node.deliver.reports import ReportDesk
from node.deliver.retraction import RetractionError, Retractor, maker
from node.demo.pacs import Received
from node.demo.validation import errors_of
from node.keeper import Keeper
from node.ledger import Database, answers, deliveries, overview, retractions
from node.results.context import DocumentReference
from node.results.rejection import Maker, Reason, rejection_note
from tests import ledger
from tests.archive import NO_SUCH_OBJECT, Archive, commits
from tests.desk import KINDS, Desk
from tests.dicom import STUDY, ct_slice


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, database: Database, archive: Archive) -> Desk:
    return Desk(tmp_path, database, archive.port)


def retractor(desk: Desk) -> Retractor:
    return Retractor(desk.settings, desk.database, maker(desk.settings))


def states(desk: Desk) -> dict[str, str]:
    return {row["kind"]: row["state"] for row in desk.rows()}


def note_at(archive: Archive) -> Any:
    (note,) = [item for item in archive.received if item.sop_class_uid == KeyObjectSelectionDocumentStorage]
    return dcmread(archive.folder / note.file)


def test_a_study_is_taken_back_with_one_note_that_names_all_of_it(desk: Desk, archive: Archive) -> None:
    desk.deliver()
    (done,) = retractor(desk).retract(STUDY, Reason.SAFETY)
    assert (done.kinds, done.destinations) == (KINDS, ("pacs",))
    assert desk.deliver()[-1] == ("rejection", "stored", 1)
    note = note_at(archive)
    assert (note.Modality, note.PatientID, note.StudyInstanceUID) == ("KO", "P-1", STUDY)
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    named = [item.ReferencedSOPInstanceUID for series in study.ReferencedSeriesSequence
             for item in series.ReferencedSOPSequence]  # fmt: skip
    assert sorted(named) == sorted(row["sop_instance_uid"] for row in desk.rows() if row["kind"] in KINDS)
    assert all(row["retracted_at"] for row in desk.rows() if row["kind"] in KINDS)


def test_one_result_is_taken_back_and_the_others_stand(desk: Desk, archive: Archive) -> None:
    desk.deliver()
    capture = next(row["sop_instance_uid"] for row in desk.rows() if row["kind"] == "capture")
    (done,) = retractor(desk).retract(capture, Reason.QUALITY)
    assert done.kinds == ("capture",)
    desk.deliver()
    note = note_at(archive)
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert [row["kind"] for row in desk.rows() if row["retracted_at"]] == ["capture"]
    with pytest.raises(RetractionError, match="no result, series or study"):
        retractor(desk).retract(capture, Reason.QUALITY)


def test_what_was_not_sent_is_not_sent_and_needs_no_note(desk: Desk, archive: Archive, database: Database) -> None:
    (done,) = retractor(desk).retract(STUDY, Reason.QUALITY)
    assert done.destinations == ()
    desk.deliver()
    assert set(states(desk).values()) == {"withdrawn"}
    assert archive.received == []
    with database.transaction() as connection:
        assert overview.retry(connection, STUDY, ["pacs"]) == 0, "and a retry does not send it either"


def test_what_was_on_its_way_when_it_was_taken_back_is_followed_by_the_note(desk: Desk, archive: Archive) -> None:
    def retract_first(item: Received) -> int:
        if not archive.received:
            retractor(desk).retract(STUDY, Reason.QUALITY)
        return 0x0000

    archive.answer = retract_first
    desk.deliver()
    assert "stored" in states(desk).values(), "the ledger says what is there"
    desk.deliver()
    assert archive.received[-1].sop_class_uid == KeyObjectSelectionDocumentStorage
    assert states(desk)["rejection"] == "stored"


def test_after_its_retention_a_result_is_taken_back_with_what_the_archive_knows(desk: Desk, archive: Archive) -> None:
    desk.deliver()
    for path in desk.settings.outbox_dir.glob("*.dcm"):
        path.unlink()
    with pytest.raises(RetractionError, match="reject them in the archive"):
        retractor(desk).retract(STUDY, Reason.QUALITY)
    archive.patients = [("P-7", "19500101")]
    retractor(desk).retract(STUDY, Reason.QUALITY)
    desk.deliver()
    assert (note_at(archive).PatientID, note_at(archive).StudyInstanceUID) == ("P-7", STUDY)


def test_an_archive_that_hides_what_was_rejected_is_not_asked_for_a_proof(
    tmp_path: Path, database: Database, archive: Archive
) -> None:
    desk = Desk(tmp_path, database, archive.port, {"commitment": "find"})
    archive.holds = lambda _uid: False
    desk.deliver()
    retractor(desk).retract(STUDY, Reason.QUALITY)
    archive.holds = lambda uid: uid == note_at(archive).SOPInstanceUID
    for _ in range(4):
        desk.deliver()
    assert {states(desk)[kind] for kind in KINDS} == {"stored"}
    assert states(desk)["rejection"] == "confirmed"
    assert len(archive.received) == 4


def test_an_archive_that_does_not_vouch_for_what_was_taken_back_is_not_sent_it_again(
    tmp_path: Path, database: Database, archive: Archive
) -> None:
    desk = Desk(tmp_path, database, archive.port, {"commitment": "storage_commitment"}, report_wait_s=0)
    desk.deliver()
    (request,) = archive.requests
    retractor(desk).retract(STUDY, Reason.QUALITY)
    information, event_type = commits(request, dict.fromkeys(request.uids, NO_SUCH_OBJECT))
    assert ReportDesk(desk.settings.deliver, database).answer(event_type, information, "X") == 0x0000
    desk.deliver()
    assert {states(desk)[kind] for kind in KINDS} == {"stored"}
    assert len(archive.received) == len(KINDS) + 1


def test_the_note_is_valid_for_every_class_that_is_taken_back(tmp_path: Path, program: Callable[[str], str]) -> None:
    classes = [SegmentationStorage, Comprehensive3DSRStorage]
    rejected = [DocumentReference(STUDY, f"1.2.{n}", uid, f"1.2.{n}.1") for n, uid in enumerate(classes)]
    node = Maker("test", "2.25.1", "0")
    header = ct_slice(0)
    header.PatientName = "Müller^Jürgen"
    header.SpecificCharacterSet = "ISO_IR 100"
    header.TimezoneOffsetFromUTC = "+0900"
    at = datetime(2026, 1, 2, 23, 30, tzinfo=UTC)
    note = rejection_note(header, rejected, Reason.QUALITY, node, at)
    assert (note.ContentDate, note.ContentTime, str(note.PatientName)) == ("20260103", "083000", "Müller^Jürgen")
    assert [item.ValueType for item in note.ContentSequence if item.RelationshipType == "CONTAINS"] == [
        "IMAGE",
        "COMPOSITE",
    ]
    note.save_as(tmp_path / "note.dcm", enforce_file_format=True)
    assert errors_of(tmp_path / "note.dcm", Path(program("dciodvfy"))) == []
    again = rejection_note(header, rejected[::-1], Reason.QUALITY, node, at)
    assert again.SOPInstanceUID == note.SOPInstanceUID
    assert rejection_note(header, rejected, Reason.SAFETY, node, at).SOPInstanceUID != note.SOPInstanceUID


class TestPatientCheck:
    """Whose study it is at the destination, before anything is sent there."""

    @pytest.fixture
    def desk(self, tmp_path: Path, database: Database, archive: Archive) -> Desk:
        return Desk(tmp_path, database, archive.port, {"patient_check": True})

    @pytest.mark.parametrize(
        ("patients", "why"),
        [
            ([("P-2", "19500101")], "another patient ID"),
            ([("P-1", "19500102")], "another birth date"),
            ([("P-1", "19500101"), ("P-2", "19500101")], "another patient ID"),
            ([("", "19500101")], "another patient ID"),
        ],
    )
    def test_the_study_of_somebody_else_is_never_sent_to(
        self, desk: Desk, archive: Archive, patients: list[tuple[str, str]], why: str
    ) -> None:
        archive.patients = patients
        for _ in range(2):
            desk.deliver()
        assert set(states(desk).values()) == {"parked"}
        assert all(why in row["reason"] and "P-" not in row["reason"] for row in desk.rows())
        assert archive.received == []

    @pytest.mark.parametrize("patients", [[], [("P-1", "19500101")], [("P-1 ", "19500101")], [("P-1", "")]])
    def test_the_same_patient_and_an_unknown_study_are_sent_to(
        self, desk: Desk, archive: Archive, patients: list[tuple[str, str]]
    ) -> None:
        archive.patients = patients
        desk.deliver()
        assert set(states(desk).values()) == {"stored"}
        assert archive.queries[0].QueryRetrieveLevel == "STUDY"

    def test_a_corrected_study_there_is_sent_to_after_a_retry(
        self, desk: Desk, archive: Archive, database: Database
    ) -> None:
        archive.patients = [("P-2", "19500101")]
        desk.deliver()
        archive.patients = [("P-1", "19500101")]
        with database.transaction() as connection:
            assert overview.retry(connection, STUDY, ["pacs"]) == 3
        desk.deliver()
        assert set(states(desk).values()) == {"stored"}

    def test_nothing_is_sent_while_nobody_answers(self, desk: Desk, archive: Archive) -> None:
        archive.query_status = 0xC000
        desk.deliver()
        assert set(states(desk).values()) == {"pending"}
        archive.query_status = 0x0000
        desk.deliver()
        assert set(states(desk).values()) == {"stored"}

    def test_an_archive_that_takes_no_queries_is_said_so(self, desk: Desk, archive: Archive) -> None:
        archive.without(StudyRootQueryRetrieveInformationModelFind)
        desk.deliver()
        assert all("`patient_check`" in row["reason"] for row in desk.rows())
        assert set(states(desk).values()) == {"parked"}

    def test_a_note_goes_even_to_the_study_of_somebody_else(self, desk: Desk, archive: Archive) -> None:
        desk.deliver()
        archive.patients = [("P-2", "19500101")]
        retractor(desk).retract(STUDY, Reason.SAFETY)
        desk.deliver()
        assert states(desk)["rejection"] == "stored"


def revise(desk: Desk) -> int:
    """A revision of the desk's answer, as a corrected patient makes it; the id of its answer."""
    rows = []
    for number, kind in enumerate(KINDS):
        path = desk.settings.outbox_dir / f"{kind}.dcm"
        data_set = dcmread(path)
        data_set.PatientID = "P-2"
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{number}"
        target = desk.settings.outbox_dir / f"{kind}-corrected.dcm"
        data_set.save_as(target, enforce_file_format=True)
        content = target.read_bytes()
        former = answers.ResultRow(
            kind, data_set.SOPClassUID, "", data_set.SeriesInstanceUID, target.name, len(content), ""
        )
        digest = hashlib.sha256(content).hexdigest()
        rows.append(replace(former, sop_instance_uid=data_set.SOPInstanceUID, sha256=digest))
    with desk.database.transaction() as connection:
        claimed = ledger.claim(connection, "corrected")
        assert claimed is not None
        assert (claimed.revision, claimed.predecessor) == (2, desk.answer_id)
        for row_id in ledger.finish(connection, claimed, rows):
            deliveries.plan(connection, row_id, "pacs")
        retractions.withdraw_superseded(connection, claimed.id)
    return claimed.id


def test_what_bears_a_name_that_was_corrected_is_not_sent_any_more(desk: Desk, archive: Archive) -> None:
    archive.answer = lambda _item: 0xA700
    desk.deliver()
    archive.answer = None
    revision = revise(desk)
    received = len(archive.received)
    desk.deliver()
    desk.courier.deliver(revision, "pacs")
    sent = archive.received[received:]
    assert [dcmread(archive.folder / item.file).PatientID for item in sent] == ["P-2"] * 3
    former = [row for row in desk.rows() if row["revision"] == 1]
    assert {row["state"] for row in former} == {"withdrawn"}
    assert all("superseded by revision 2" in row["reason"] for row in former)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_former_revision_is_rejected_where_a_site_asks_for_it_and_not_before_the_new_one_is_there(
    tmp_path: Path, database: Database, archive: Archive, wanted: bool
) -> None:
    desk = Desk(tmp_path, database, archive.port, reject_superseded=wanted)
    desk.deliver()
    revision = revise(desk)
    desk.settings.data_dir.mkdir(exist_ok=True)
    keeper = Keeper(desk.settings, database)
    keeper.round()
    assert not any(row["retracted_at"] for row in desk.rows())
    desk.courier.deliver(revision, "pacs")
    for _ in range(2):
        keeper.round()
    assert [row["revision"] for row in desk.rows() if row["retracted_at"]] == ([1, 1, 1] if wanted else [])
    desk.deliver()
    notes = [item for item in archive.received if item.sop_class_uid == KeyObjectSelectionDocumentStorage]
    assert len(notes) == int(wanted)


class TestTwoAtOnce:
    """Two machines' keepers, or a keeper and the command line."""

    @pytest.fixture
    def desk(self, tmp_path: Path, database: Database, archive: Archive) -> Desk:
        """A former revision and its successor, both of which the archive has."""
        desk = Desk(tmp_path, database, archive.port, reject_superseded=True)
        desk.deliver()
        desk.courier.deliver(revise(desk), "pacs")
        return desk

    @staticmethod
    def notes(desk: Desk) -> list[int]:
        """Results that each note names, in order of the notes."""
        with desk.database.transaction() as connection:
            rows = connection.execute(
                "SELECT (SELECT count(*) FROM result r WHERE r.retracted_by = n.id) AS results FROM result n"
                " WHERE n.kind = 'rejection' ORDER BY n.id"
            ).fetchall()
        assert len(list(desk.settings.outbox_dir.glob("*-rejection-*"))) == len(rows), "no note is left over"
        return [row["results"] for row in rows]

    @staticmethod
    def before_a_note_is_written(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
        """Have something happen, once, between what is read of the ledger and the note."""
        known, left = Retractor._header, [happens]

        def header(*arguments: Any) -> Any:
            if left:
                left.pop()()
            return known(*arguments)

        monkeypatch.setattr(Retractor, "_header", header)

    def test_write_one_note(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before_a_note_is_written(monkeypatch, retractor(desk).reject_superseded)
        assert retractor(desk).reject_superseded() == 0, "the other one was faster"
        assert self.notes(desk) == [3]

    def test_the_slower_command_line_is_told_so(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        former = next(row["sop_instance_uid"] for row in desk.rows() if row["revision"] == 1)
        self.before_a_note_is_written(monkeypatch, retractor(desk).reject_superseded)
        with pytest.raises(RetractionError, match="no result, series or study"):
            retractor(desk).retract(former, Reason.SAFETY)
        assert self.notes(desk) == [3]

    def test_what_one_of_them_leaves_the_other_takes_back(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        capture = next(row for row in desk.rows() if row["revision"] == 1 and row["kind"] == "capture")
        uid = capture["sop_instance_uid"]
        self.before_a_note_is_written(monkeypatch, lambda: retractor(desk).retract(uid, Reason.SAFETY))
        assert retractor(desk).reject_superseded() == 1
        assert self.notes(desk) == [1, 2]
        assert all(row["retracted_at"] for row in desk.rows() if row["revision"] == 1 and row["kind"] in KINDS)

    def test_a_list_that_is_out_of_date_ends_no_round(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        with desk.database.transaction() as connection:
            listed = retractions.superseded(connection)
        assert retractor(desk).reject_superseded() == 1
        monkeypatch.setattr(retractions, "superseded", lambda _connection: listed)
        assert retractor(desk).reject_superseded() == 0
        assert self.notes(desk) == [3]

    def test_one_that_waits_for_the_other_sees_what_it_did(self, desk: Desk) -> None:
        """Both look at the same moment: the ledger has them take turns."""
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda _: retractor(desk).reject_superseded(), range(2)))
        assert sorted(done) == [0, 1]
        assert self.notes(desk) == [3]
