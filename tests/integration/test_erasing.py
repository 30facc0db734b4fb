"""Erasing a patient: nothing that names anybody is left, and nothing is answered twice because of it."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from node import erasing
from node.deliver.courier import Courier
from node.erasing import BusyError, erase_patient
from node.keeper import Keeper
from node.ledger import Database, answers, audit, deliveries, erasure, intake, overview
from node.queue import Queue, release_stalled
from tests import ledger
from tests.desk import KINDS, Desk
from tests.dicom import SERIES, STUDY, ct_slice
from tests.integration.test_ledger import instance
from tests.unit.test_spool import received


def digest(uid: str) -> str:
    return hashlib.sha256(uid.encode("ascii")).hexdigest()


class Home(Desk):
    """A desk whose images lie in the spool."""

    def __init__(self, folder: Path, database: Database) -> None:
        super().__init__(folder, database, 1)
        self.keeper = Keeper(self.settings, database)
        self.spool = self.keeper._spool
        folder.joinpath("raw").mkdir()
        with database.transaction() as connection:
            connection.execute("UPDATE study SET instances = 0")
        for number in range(3):
            path = folder / "raw" / f"{number}.dcm"
            ct_slice(number).save_as(path, enforce_file_format=True)
            self.arrives(path, str(ct_slice(number).SOPInstanceUID))
        with database.transaction() as connection:
            connection.execute("UPDATE study SET evaluated_at = now(), evaluated_up_to = 3")
            intake.record_event(connection, "study_parked", STUDY)
        answer_folder = self.settings.outbox_dir / f"{self.answer_id:08d}-1"
        answer_folder.mkdir()
        (answer_folder / "left-by-a-killed-attempt.dcm").write_bytes(b"P-1")

    def arrives(self, path: Path, uid: str, patient_id: str = "P-1") -> None:
        """An image in spool and ledger."""
        raw = path.read_bytes()
        reception = self.spool.store(received(raw[144 + int.from_bytes(raw[140:144], "little") :]))
        row = instance(reception.spool_name, uid, digest(uid))
        with self.database.transaction() as connection:
            intake.register(connection, [type(row)(**{**row.__dict__, "patient_id": patient_id})])

    def text_of_the_ledger(self) -> str:
        """Every row of every table."""
        with self.database.transaction() as connection:
            tables = connection.execute(
                "SELECT table_name FROM information_schema.tables"
                " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
            ).fetchall()
            return "\n".join(
                str(row)
                for table in tables
                for row in connection.execute(
                    sql.SQL("SELECT * FROM {}").format(sql.Identifier(table["table_name"]))
                ).fetchall()
            )

    def leave_traces(self) -> None:
        """A worker that died at the study, one that died under a former program, and a job that failed."""
        queue = Queue(self.database.dsn)
        with self.database.transaction() as connection:
            queue.wake_evaluation(connection, STUDY, 0)
            connection.execute("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour')")
            connection.execute(
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = w.id FROM procrastinate_workers w"
            )
        assert release_stalled(self.database.dsn, 30) == 1
        with self.database.transaction() as connection:
            intake.record_event(connection, "worker_died", f"study:{STUDY}", {"task": "evaluate"})
            queue.wake_evaluation(connection, STUDY, 0)
            connection.execute("UPDATE procrastinate_jobs SET status = 'failed'")
            found = connection.execute("SELECT subject FROM event WHERE kind = 'worker_died' ORDER BY id").fetchall()
        assert [row["subject"] for row in found] == [STUDY, f"study:{STUDY}"]


@pytest.fixture
def home(tmp_path: Path, database: Database) -> Home:
    return Home(tmp_path, database)


def results_of(home: Home) -> list[str]:
    return [row["sop_instance_uid"] for row in home.rows()]


def test_nothing_of_a_patient_is_left_and_a_record_says_so(home: Home) -> None:
    with home.database.transaction() as connection:
        Queue(home.database.dsn).wake_evaluation(connection, STUDY, 60)
        Queue(home.database.dsn).wake_delivery(connection, home.answer_id, "pacs", 60)
    erased = erase_patient(home.settings, home.database, "P-1")
    assert (erased.studies, erased.images, erased.results, erased.files) == (1, 3, 3, 6)
    assert list(home.settings.data_dir.rglob("*.dcm")) == []
    text = home.text_of_the_ledger()
    for word in ("P-1", f"{STUDY}'", SERIES, *(str(ct_slice(number).SOPInstanceUID) for number in range(3))):
        assert word not in text, word
    with home.database.transaction() as connection:
        (record,) = erasure.records(connection, "P-1")
        assert erasure.records(connection, "P-2") == []
        counts = overview.counts(connection)
    assert record["counts"] == {"studies": 1, "images": 3, "results": 3, "files": 6}
    assert "P-1" not in record["patient_hash"]
    assert (counts["instances"], counts["answers"], counts["results"]) == (3, 1, 3), "counts and hashes stay"
    assert (counts["studies_parked"], counts["deliveries_pending"]) == (0, 0)


def test_no_trace_of_a_worker_that_died_or_failed_names_the_study(home: Home) -> None:
    home.leave_traces()
    erase_patient(home.settings, home.database, "P-1")
    assert f"{STUDY}'" not in home.text_of_the_ledger()
    with home.database.transaction() as connection:
        died = connection.execute("SELECT DISTINCT subject FROM event WHERE kind = 'worker_died'").fetchall()
    assert [row["subject"] for row in died] == [erasure.both_names(STUDY)[1]], "whoever has the UID finds it"


def test_erasing_again_finds_nothing(home: Home) -> None:
    assert erase_patient(home.settings, home.database, "P-1").at is not None
    assert erase_patient(home.settings, home.database, "P-1").at is None
    with home.database.transaction() as connection:
        assert len(erasure.records(connection)) == 1


def test_another_patient_is_left_alone(home: Home, tmp_path: Path) -> None:
    other = ct_slice(50, study_uid="1.2.3", series_uid="1.2.3.4")
    other.PatientID = "P-10"
    other.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    row = instance("2026010101/other.dcm", "1.2.3.4.5", "x", "1.2.3.4")
    with home.database.transaction() as connection:
        intake.register(connection, [type(row)(**{**row.__dict__, "patient_id": "P-10", "study_uid": "1.2.3"})])
    home.spool.path("2026010101").mkdir()
    shutil.copy(tmp_path / "other.dcm", home.spool.path("2026010101/other.dcm"))
    erase_patient(home.settings, home.database, "P-1")
    with home.database.transaction() as connection:
        assert [r["spool_name"] for r in intake.instances_of(connection, "1.2.3")] == ["2026010101/other.dcm"]
    assert home.spool.path("2026010101/other.dcm").exists()


def test_a_study_that_came_under_a_wrong_id_first_is_erased_as_a_whole(home: Home, tmp_path: Path) -> None:
    with home.database.transaction() as connection:
        connection.execute("UPDATE instance SET patient_id = 'WRONG' WHERE id < 3")
    assert erase_patient(home.settings, home.database, "P-1").images == 3
    assert "WRONG" not in home.text_of_the_ledger()


def test_what_comes_again_after_an_erasure_is_not_answered_again(home: Home) -> None:
    erase_patient(home.settings, home.database, "P-1")
    with home.database.transaction() as connection:
        intake.register(connection, [instance("again", "1.2.3", "a")])
        assert ledger.claim(connection, "in0") is None, "its results are in the archive under UIDs that derive from it"
        late = ledger.claim(connection, "late")
    assert late is not None
    assert (late.revision, late.predecessor) == (2, home.answer_id)


def test_a_study_erased_twice_is_one_row(home: Home) -> None:
    erase_patient(home.settings, home.database, "P-1")
    with home.database.transaction() as connection:
        intake.register(connection, [instance("again", "1.2.3", "a")])
    assert erase_patient(home.settings, home.database, "P-1").images == 1
    with home.database.transaction() as connection:
        (study,) = overview.studies(connection)
    assert (study["state"], study["instances"]) == ("erased", 4)


def test_killed_between_files_and_ledger_the_same_command_finishes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(erasing.erasure, "forget", killed)
    with pytest.raises(KeyboardInterrupt):
        erase_patient(home.settings, home.database, "P-1")
    monkeypatch.undo()
    assert erase_patient(home.settings, home.database, "P-1").images == 3
    assert "P-1" not in home.text_of_the_ledger()


def test_a_worker_that_is_busy_is_waited_for_and_nothing_more_is_begun(home: Home) -> None:
    with home.database.transaction() as connection:
        Queue(home.database.dsn).wake_evaluation(connection, STUDY, 0)
        connection.execute("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() + interval '1 hour')")
        connection.execute(
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT max(id) FROM procrastinate_workers)"
        )
    with pytest.raises(BusyError, match="give the command again"):
        erase_patient(home.settings, home.database, "P-1", patience_s=0.3)
    assert len(list(home.spool.names())) == 3
    with home.database.transaction() as connection:
        assert answers.begin_evaluation(connection, STUDY) is None
        connection.execute("DELETE FROM procrastinate_jobs")
    assert erase_patient(home.settings, home.database, "P-1", patience_s=0.3).images == 3


def test_an_answer_that_is_delivered_while_it_is_erased_stays_known_as_delivered(home: Home) -> None:
    with home.database.transaction() as connection:
        rows = deliveries.pending(connection, home.answer_id, "pacs")
    erase_patient(home.settings, home.database, "P-1")
    with home.database.transaction() as connection:
        deliveries.mark_stored(connection, rows[0]["id"], 0, None)
        found = connection.execute("SELECT state, count(*) AS n FROM delivery GROUP BY state ORDER BY 1").fetchall()
    assert {row["state"]: row["n"] for row in found} == {"stored": 1, "withdrawn": len(KINDS) - 1}
    Courier(home.settings, home.database).deliver(home.answer_id, "pacs")  # nothing is left to send


def test_files_that_the_ledger_does_not_know_go_as_well(home: Home, tmp_path: Path) -> None:
    raw = (tmp_path / "raw" / "0.dcm").read_bytes()
    unknown = home.spool.store(received(raw[144 + int.from_bytes(raw[140:144], "little") :]))
    torn = home.spool.quarantine(home.spool.store(received(raw[200:])).spool_name)
    whole = home.spool.quarantine(
        home.spool.store(received(raw[144 + int.from_bytes(raw[140:144], "little") :])).spool_name
    )
    erase_patient(home.settings, home.database, "P-1")
    assert not home.spool.path(unknown.spool_name).exists()
    assert not whole.exists()
    assert torn.exists(), "nobody can say whose it is"


def test_quarantined_files_of_the_patients_studies_go_whatever_is_torn_off(home: Home) -> None:
    other_id = ct_slice(7)
    other_id.PatientID = "FORMER"
    stranger = ct_slice(8, study_uid="1.2.3")
    stranger.PatientID = "P-2"
    kept = []
    for data_set, cut in ((ct_slice(6), 1000), (other_id, None), (stranger, 1000)):
        buffer = io.BytesIO()
        data_set.save_as(buffer, enforce_file_format=True)
        raw = buffer.getvalue()
        begin = 144 + int.from_bytes(raw[140:144], "little")
        kept.append(home.spool.quarantine(home.spool.store(received(raw[begin:])).spool_name))
        if cut:
            content = kept[-1].read_bytes()
            kept[-1].write_bytes(content[: content.index(b"\x20\x00\x0d\x00") + 80])
    assert erase_patient(home.settings, home.database, "P-1").files == 6 + 2
    assert [path.exists() for path in kept] == [False, False, True]


def test_the_ledger_forgets_whose_old_studies_were(home: Home) -> None:
    home.keeper.expire()
    assert "P-1" in home.text_of_the_ledger()
    with home.database.transaction() as connection:
        connection.execute("UPDATE study SET last_instance_at = now() - interval '366 days'")
        connection.execute("UPDATE instance SET received_at = now() - interval '366 days'")
        connection.execute("UPDATE answer SET finished_at = now() - interval '366 days'")
    home.keeper.expire()
    assert "P-1" in home.text_of_the_ledger(), "its results are not delivered yet"
    with home.database.transaction() as connection:
        connection.execute("UPDATE delivery SET state = 'stored', last_try_at = now() - interval '366 days'")
    home.leave_traces()
    for _ in range(2):
        home.keeper.expire()
    text = home.text_of_the_ledger()
    assert "P-1" not in text
    assert f"{STUDY}'" not in text
    with home.database.transaction() as connection:
        assert erasure.records(connection) == [], "nobody asked for it"


def test_the_chain_of_a_result_is_told_before_and_after_an_erasure(home: Home) -> None:
    with home.database.transaction() as connection:
        connection.execute(
            """
            UPDATE answer SET provenance = '{"rule": "height-loss/1", "last_instance_id": 2,
                "models": [{"name": "localizer", "version": "1.0", "sha256": "ab"}]}'
            """
        )
        result = results_of(home)[0]
        (chain,) = audit.chains(connection, result)
        assert audit.chains(connection, STUDY) == [chain]
        assert audit.chains(connection, "1.2.3.4") == []
    assert [row["sha256"] for row in chain["inputs"]] == sorted(
        digest(str(ct_slice(n).SOPInstanceUID)) for n in range(2)
    )
    assert (chain["input_sha256"], chain["rule"], chain["models"][0]["sha256"]) == ("in0", "height-loss/1", "ab")
    assert [row["kind"] for row in chain["results"]] == list(KINDS)
    assert [row["destination"] for row in chain["results"][0]["deliveries"]] == ["pacs"]
    erase_patient(home.settings, home.database, "P-1")
    with home.database.transaction() as connection:
        (after,) = audit.chains(connection, result)
        assert audit.chains(connection, STUDY) == [after], "whoever has the original UID finds it"
    assert after["study_uid"] != STUDY
    assert [row["sha256"] for row in after["results"]] == [row["sha256"] for row in chain["results"]]
    assert len(after["inputs"]) == 2
