"""What outlived its row, its attempt or its use ends by itself, and nothing else does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from node import leftovers
from node.keeper import Keeper
from node.ledger import Database, answers
from node.leftovers import UNTOUCHED_S, Leftovers
from node.receive.registrar import Registrar
from node.settings import load_settings
from tests import ledger
from tests.dicom import STUDY
from tests.integration.test_keeper import LONG_AGO, House


class Attic(House):
    """A house in whose outbox lies what was left behind."""

    def leave(self, folder: str, *files: str, untouched_s: float = UNTOUCHED_S) -> Path:
        """A folder of the outbox to which nobody has written for so long."""
        path = self.settings.outbox_dir / folder
        path.mkdir(parents=True)
        for name in files:
            (path / name).write_bytes(b"x")
        os.utime(path, (time.time() - untouched_s,) * 2)
        return path

    def left(self) -> list[str]:
        """Files and empty folders of the outbox."""
        outbox = self.settings.outbox_dir
        return sorted(
            str(path.relative_to(outbox)) for path in outbox.rglob("*") if path.is_file() or not any(path.iterdir())
        )

    def claim(self, content: str) -> answers.Answer:
        with self.database.transaction() as connection:
            claimed = ledger.claim(connection, content)
        assert claimed is not None
        return claimed

    def finish(self, claimed: answers.Answer, *names: str) -> None:
        """Results with these names in the outbox."""
        rows = [
            answers.ResultRow("capture", "1.2", f"1.2.{claimed.id}.{n}", "1.2.4", name, 1, "aa")
            for n, name in enumerate(names)
        ]
        with self.database.transaction() as connection:
            ledger.finish(connection, claimed, rows)

    def sweep(self) -> None:
        Leftovers(self.settings, self.database, self.spool).sweep()


@pytest.fixture
def attic(tmp_path: Path, database: Database) -> Attic:
    return Attic(tmp_path, database)


def test_the_quarantine_ends_after_its_days(attic: Attic) -> None:
    torn = attic.spool.quarantine(next(attic.spool.names()))
    attic.sweep()
    assert torn.exists()
    settings = load_settings(data_dir=attic.settings.data_dir, retention={"quarantine_days": 0})
    Keeper(settings, attic.database).round()
    assert not torn.exists()
    assert len(list(attic.spool.names())) == 2


def test_images_whose_keeper_died_before_it_deleted_them_go(attic: Attic) -> None:
    first, *others = attic.spool.names()
    attic.run(f"UPDATE instance SET erased_at = now() WHERE spool_name = '{first}'")
    attic.keeper.round()
    assert list(attic.spool.names()) == others


def test_a_file_that_cannot_be_deleted_holds_up_no_other_and_is_deleted_later(attic: Attic) -> None:
    first, *_ = attic.spool.names()
    path = attic.spool.path(first)
    path.unlink()
    path.mkdir()  # which no unlink deletes
    attic.evaluated()
    attic.run(f"UPDATE instance SET received_at = {LONG_AGO}")
    attic.keeper.expire()
    assert list(attic.spool.names()) == [first]
    path.rmdir()
    path.write_bytes(b"x")
    attic.sweep()
    assert list(attic.spool.names()) == []


def test_a_file_that_cannot_be_deleted_keeps_no_image_from_being_entered(attic: Attic) -> None:
    first, *_ = attic.spool.names()
    attic.run(f"UPDATE instance SET erased_at = now() WHERE spool_name = '{first}'")
    attic.run(f"DELETE FROM instance WHERE spool_name <> '{first}'")
    attic.spool.path(first).unlink()
    attic.spool.path(first).mkdir()
    Registrar(attic.spool, attic.database, lambda _connection, _study: None).enter_spool()
    assert attic.value("SELECT count(*) FROM instance") == 3


def test_jobs_that_a_former_program_let_lie_go(attic: Attic) -> None:
    attic.keeper.wake_outstanding()
    attic.evaluated()
    attic.run("UPDATE procrastinate_jobs SET status = 'failed'")
    attic.keeper.round()
    assert attic.value("SELECT count(*) FROM procrastinate_jobs") == 0


def test_what_no_result_names_leaves_the_outbox_and_what_may_be_written_stays(attic: Attic) -> None:
    killed = attic.claim("a")  # superseded by the next one
    done, again = attic.claim("b"), attic.claim("b")
    done_folder, killed_folder = f"{done.id:08d}", f"{killed.id:08d}"
    attic.finish(again, f"{done_folder}-2/00.dcm", f"{done_folder}-2/01.dcm", f"{done_folder}-rejection-0a/r.dcm")
    attic.run(f"UPDATE result SET erased_at = now() WHERE outbox_name = '{done_folder}-2/01.dcm'")
    fenced, working = attic.claim("c"), attic.claim("c")
    assert (killed.id, done.id, fenced.id, working.attempt) == (1, 2, 3, 2)
    attic.leave(f"{killed_folder}-1", "00.dcm")
    attic.leave(f"{done_folder}-1", "00.dcm")
    attic.leave(f"{done_folder}-2", "00.dcm", "01.dcm")
    attic.leave(f"{done_folder}-3")
    attic.leave(f"{done_folder}-rejection-0a", "r.dcm")
    attic.leave(f"{done_folder}-rejection-0b", "r.dcm")
    attic.leave("00000003-1", "00.dcm")
    attic.leave("00000003-2", "00.dcm")
    attic.leave("00000003-3", "00.dcm")
    attic.leave("00000004-1", "00.dcm")
    attic.leave("of-somebody-else", "00.dcm")
    attic.leave(f"{killed_folder}-2", "00.dcm", untouched_s=UNTOUCHED_S - 600)
    attic.keeper.round()
    assert attic.left() == [
        f"{killed_folder}-2/00.dcm",  # too young to be judged
        f"{done_folder}-2/00.dcm",
        f"{done_folder}-rejection-0a/r.dcm",
        "00000003-2/00.dcm",  # somebody writes it
        "00000003-3/00.dcm",
        "00000004-1/00.dcm",  # the ledger will come to it
        "of-somebody-else/00.dcm",
    ]


@pytest.mark.parametrize("why", ["cancelled by hand", "erased"])
def test_an_attempt_at_a_study_that_was_given_up_goes(attic: Attic, why: str) -> None:
    claimed = attic.claim("a")
    attic.leave(f"{claimed.id:08d}-1", "00.dcm")
    attic.run(f"UPDATE study SET parked = 'stopped after 3 attempts' WHERE study_uid = '{STUDY}'")
    attic.sweep()
    assert attic.left() == ["00000001-1/00.dcm"], "somebody will retry it"
    attic.run(f"UPDATE study SET parked = '{why}' WHERE study_uid = '{STUDY}'")
    attic.sweep()
    assert attic.left() == []


def test_an_answer_that_a_restored_ledger_does_not_know_goes_once_its_id_is_past(attic: Attic) -> None:
    attic.run("SELECT nextval('answer_id_seq')")  # given out, and never entered
    later = attic.claim("a")
    attic.leave("00000001-1", "00.dcm")
    attic.sweep()
    assert (later.id, attic.left()) == (2, ["00000001-1/00.dcm"])
    attic.run(f"UPDATE answer SET started_at = {LONG_AGO}")
    attic.sweep()
    assert attic.left() == []


def test_a_folder_leaves_the_outbox_with_its_last_result(attic: Attic) -> None:
    claimed = attic.claim("a")
    attic.finish(claimed, "00000001-1/00.dcm", "00000001-1/01.dcm")
    attic.leave("00000001-1", "00.dcm", "01.dcm", untouched_s=0)
    attic.run("UPDATE answer SET finished_at = now() - interval '100 hours'")
    attic.keeper.expire()
    assert attic.left() == []
    assert attic.settings.outbox_dir.is_dir()


def test_a_round_looks_at_a_portion_and_several_keepers_may_meet(attic: Attic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "PORTION", 2)
    claimed = attic.claim("a")
    attic.finish(claimed, "elsewhere/00.dcm")
    for attempt in range(2, 6):
        attic.leave(f"{claimed.id:08d}-{attempt}", "00.dcm")
    two = [Leftovers(attic.settings, attic.database, attic.spool) for _ in range(2)]
    two[0].sweep()
    assert len(attic.left()) == 2
    for _ in range(3):
        for each in two:
            each.sweep()
    assert attic.left() == []


def test_what_was_acknowledged_and_is_not_entered_yet_stays(attic: Attic) -> None:
    attic.run("DELETE FROM instance WHERE id = 1")
    names = list(attic.spool.names())
    attic.sweep()
    assert list(attic.spool.names()) == names
