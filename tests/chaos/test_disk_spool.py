"""Images that are deleted or altered under the node's feet are noticed by hash, and never analysed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from node import workflow
from node.ledger import Database, intake, overview
from node.metrics.tally import EVALUATIONS, TALLY
from node.receive.intact import check_intact
from node.receive.spool import Spool
from tests.chaos.counts import record
from tests.integration.test_films import LATERAL, OTHER_LATERAL, STUDY, House

pytestmark = pytest.mark.chaos


class Ward(House):
    """Evaluates only when told to."""

    def receive_only(self) -> None:
        """Two radiographs, registered."""
        self.evaluate = lambda: None  # type: ignore[method-assign]
        self.receive(LATERAL.dataset(), OTHER_LATERAL.dataset())
        del self.evaluate

    def resend(self) -> None:
        """The same two again, and evaluated."""
        self.receive(LATERAL.dataset(), OTHER_LATERAL.dataset())

    def first(self) -> Path:
        """File of the reception that came first."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT spool_name FROM instance ORDER BY id LIMIT 1").fetchone()
        assert row is not None
        return self.spool.path(row["spool_name"])

    def parked(self) -> str | None:
        """Why the study is parked."""
        return self.study()["parked"]

    def retry(self) -> None:
        """``spine-node jobs retry``, and the evaluation that it wakes."""
        with self.database.transaction() as connection:
            assert overview.retry(connection, STUDY, []) == 1
        self.evaluate()

    def events(self) -> list[dict[str, object]]:
        """Details of the events that tell of damage."""
        with self.database.transaction() as connection:
            return [row["detail"] for row in intake.events(connection, 50) if row["kind"] == "spool_damaged"]


@pytest.fixture
def ward(tmp_path: Path, database: Database) -> Ward:
    return Ward(tmp_path, database)


def _flip(place: Callable[[bytes], int]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[place(bytes(raw))] ^= 0x10
        path.write_bytes(raw)

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "deleted": (Path.unlink, "gone"),
    "directory deleted": (lambda path: [*map(Path.unlink, path.parent.iterdir())] and path.parent.rmdir(), "gone"),
    "a bit of the last pixel": (_flip(lambda raw: len(raw) - 1), "altered"),
    "a bit of the patient's name": (_flip(lambda raw: raw.index(b"\x10\0\x10\0PN") + 8), "altered"),
    "a bit of the transfer syntax": (_flip(lambda raw: raw.index(b"\x02\0\x10\0UI") + 10), "altered"),
    "a bit of the meta's length": (_flip(lambda raw: 140), "altered"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "altered"),
    "empty": (lambda path: path.write_bytes(b""), "altered"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_was_damaged_is_never_analysed_and_can_be_sent_again(ward: Ward, name: str) -> None:
    damage, state = DAMAGE[name]
    ward.receive_only()
    damage(ward.first())
    ward.evaluate()
    gone = 2 if name == "directory deleted" else int(state == "gone")
    assert f"{gone} of 2 images are gone from the spool and {int(state == 'altered')} were altered" in str(
        ward.parked()
    )
    assert ward.study()["answers"] == []
    assert [event[state] for event in ward.events()] == [max(gone, 1)]
    before = ward.parked()
    ward.evaluate()
    assert (ward.parked(), ward.study()["answers"]) == (before, []), "parked is parked"
    ward.retry()
    assert ward.study()["answers"] == [], "and still damaged"
    ward.resend()
    ward.retry()
    assert ward.parked() is None
    assert len(ward.study()["answers"]) == 2
    record(f"spool: {name}", sent=4, acknowledged=4, expected=6, **{"in the ledger": 4, "received": len(ward.sent())})


def test_an_image_that_came_twice_takes_the_place_of_the_damaged_one(ward: Ward) -> None:
    ward.receive_only()
    ward.receive_only()
    DAMAGE["a bit of the last pixel"][0](ward.first())
    before = TALLY.read().get((EVALUATIONS.name, ("postponed",)), 0)
    ward.evaluate()
    assert ward.parked() is None
    assert ward.study()["answers"] == []
    assert ward.study()["attempts"] == 0, "no fault of the study"
    assert TALLY.read()[EVALUATIONS.name, ("postponed",)] == before + 1
    ward.evaluate()
    assert len(ward.study()["answers"]) == 2
    assert ward.events() == [{"altered": 1, "without_a_second": 0}]
    assert len(list((ward.spool.folder / "quarantine").iterdir())) == 1


def test_a_damaged_file_that_is_deleted_before_it_is_set_aside_is_no_error(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward.receive_only()
    ward.receive_only()
    DAMAGE["a bit of the last pixel"][0](ward.first())
    quarantine = Spool.quarantine

    def late(spool: Spool, name: str) -> Path:
        spool.remove(name)  # as a keeper does, once the row is erased
        return quarantine(spool, name)

    monkeypatch.setattr(Spool, "quarantine", late)
    ward.evaluate()
    ward.evaluate()
    assert len(ward.study()["answers"]) == 2


def test_images_that_go_by_retention_while_they_are_checked_park_nothing(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward.receive_only()

    def check_late(spool: Spool, rows: Sequence[Mapping[str, Any]]) -> None:
        with ward.database.transaction() as connection:
            intake.mark_erased(connection, [rows[0]["id"]])
        spool.remove(rows[0]["spool_name"])
        check_intact(spool, rows)

    monkeypatch.setattr(workflow, "check_intact", check_late)
    ward.evaluate()
    assert ward.events() == [{"gone": 1, "without_a_second": 0}]
    assert ward.parked() is None


def test_a_file_that_is_put_back_is_taken(ward: Ward) -> None:
    ward.receive_only()
    path = ward.first()
    aside = path.rename(path.with_suffix(".aside"))
    ward.evaluate()
    assert "1 of 2 images are gone" in str(ward.parked())
    aside.rename(path)
    ward.retry()
    assert len(ward.study()["answers"]) == 2


def test_a_disk_that_hiccups_is_waited_for(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_self: Spool, _name: str) -> Path:
        raise OSError(5, "Input/output error")

    ward.receive_only()
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "path", failing)
        ward.evaluate()
    assert (ward.parked(), ward.events(), ward.study()["answers"]) == (None, [], [])
    ward.evaluate()
    assert len(ward.study()["answers"]) == 2


def _cannot_be_opened(path: Path) -> Path:
    """Put a link to itself in a file's place (ELOOP, for root too); where the file is now."""
    aside = path.rename(path.with_suffix(".aside"))
    path.symlink_to(path.name)
    return aside


def _events(ward: Ward) -> list[tuple[str, object]]:
    """Kind and reason of the events of postponing and parking, oldest first."""
    with ward.database.transaction() as connection:
        found = [(row["kind"], row["detail"].get("reason")) for row in intake.events(connection, 50)]
    return [(kind, reason) for kind, reason in reversed(found) if kind in ("evaluation_postponed", "study_parked")]


def _later(ward: Ward, hours: float) -> None:
    with ward.database.transaction() as connection:
        connection.execute(
            "UPDATE study SET unreadable_since = unreadable_since - make_interval(secs => %s)", (3600 * hours,)
        )


def _looked_at_again_in_s(ward: Ward) -> float:
    """Seconds until the study's job is due; it is taken out of the queue."""
    with ward.database.transaction() as connection:
        row = connection.execute(
            "DELETE FROM procrastinate_jobs WHERE lock = %s"
            " RETURNING extract(epoch FROM scheduled_at - now())::float AS wait_s",
            (f"study:{STUDY}",),
        ).fetchone()
    assert row is not None
    return float(row["wait_s"])


def test_an_image_that_cannot_be_read_for_hours_parks_its_study_and_says_which(ward: Ward) -> None:
    ward.receive_only()
    path = ward.first()
    aside = _cannot_be_opened(path)
    reason = f"{path.parent.name}/{path.name} of the spool cannot be read ({os.strerror(errno.ELOOP)})"
    waits = []
    for hours in (0, 1, 4, 2):
        _later(ward, hours)
        ward.evaluate()
        if ward.parked() is None:
            assert (ward.study()["waits_for"], ward.study()["attempts"]) == (reason, 0)
            waits.append(_looked_at_again_in_s(ward))
    assert [round(wait_s, -2) for wait_s in waits] == [0, 900, 900], "ever less often"
    assert _events(ward) == [("evaluation_postponed", reason), ("study_parked", reason)]
    assert f"{reason}, for 7 hours: mend the file or its disk" in str(ward.parked())
    with ward.database.transaction() as connection:
        (listed,) = overview.studies(connection)
    assert (listed["state"], listed["parked"]) == ("parked", ward.parked())
    ward.retry()
    assert (ward.parked(), ward.study()["waits_for"]) == (None, reason), "begun again, and waits again"
    aside.replace(path)
    ward.evaluate()
    assert len(ward.study()["answers"]) == 2
    assert (ward.study()["waits_for"], ward.study()["unreadable_since"]) == (None, None)


def test_a_machine_without_room_for_results_is_waited_for_for_ever_and_the_study_says_so(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ward.receive_only()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        for _ in range(3):
            ward.evaluate()
            with ward.database.transaction() as connection:
                connection.execute("UPDATE study SET last_instance_at = now() - interval '30 days'")
    reason = f"the machine could not go on ({os.strerror(errno.ENOSPC)})"
    assert (ward.parked(), ward.study()["waits_for"], ward.study()["unreadable_since"]) == (None, reason, None)
    assert _events(ward) == [("evaluation_postponed", reason)]
    ward.evaluate()
    assert (len(ward.study()["answers"]), ward.study()["waits_for"]) == (2, None)


def test_too_many_open_files_are_no_fault_of_an_image(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_self: Spool, _name: str) -> Path:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ward.receive_only()
    monkeypatch.setattr(Spool, "path", none_left)
    ward.evaluate()
    assert ward.study()["waits_for"] == f"the machine could not go on ({os.strerror(errno.EMFILE)})"
    assert ward.study()["unreadable_since"] is None
