"""Results that are not wanted any more (retracted, superseded, cancelled): nothing sends them again by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.deliver import courier
from node.deliver.reports import ReportDesk
from node.demo.pacs import Received
from node.ledger import Database, deliveries, intake, overview
from node.results.rejection import Reason
from tests.archive import NO_SUCH_OBJECT, Archive, Request, commits
from tests.desk import KINDS, Desk
from tests.dicom import STUDY
from tests.integration.test_retraction import retractor, revise

PATIENCE_S = (300.0,)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as running:
        yield running


@pytest.fixture
def make(tmp_path: Path, database: Database, archive: Archive) -> Callable[[str], Desk]:
    """A desk whose archive proves in the way that is named; reports never come by themselves."""

    def of(commitment: str) -> Desk:
        rules: dict[str, Any] = {"report_wait_s": 0, "report_patience_s": PATIENCE_S}
        return Desk(tmp_path, database, archive.port, {"commitment": commitment}, **rules)

    return of


def cancel(desk: Desk) -> None:
    with desk.database.transaction() as connection:
        assert overview.cancel(connection, STUDY)


def retry(desk: Desk) -> int:
    with desk.database.transaction() as connection:
        return overview.retry(connection, STUDY, ["pacs"])


WAYS: dict[str, Callable[[Desk], object]] = {
    "retracted": lambda desk: retractor(desk).retract(STUDY, Reason.QUALITY),
    "superseded": revise,
    "cancelled": cancel,
}
"""How results cease to be wanted."""


@pytest.fixture(params=WAYS)
def unwanted(request: pytest.FixtureRequest) -> Callable[[Desk], object]:
    return WAYS[request.param]


def first(desk: Desk) -> list[tuple[str, int]]:
    """(state, times that it was sent) of each result of the first revision, but for notes."""
    return [(row["state"], row["attempts"]) for row in desk.rows() if row["revision"] == 1 and row["kind"] in KINDS]


def deny(desk: Desk, request: Request) -> None:
    """The archive reports that it has none of what it was asked for."""
    information, event_type = commits(request, dict.fromkeys(request.uids, NO_SUCH_OBJECT))
    assert ReportDesk(desk.settings.deliver, desk.database).answer(event_type, information, "X") == 0x0000


def once(happen: Callable[[], object]) -> Callable[[], None]:
    """The same, but for the first time only."""
    left = [happen]

    def happen_once() -> None:
        if left:
            left.pop()()

    return happen_once


def test_a_report_that_it_is_not_kept(
    make: Callable[[str], Desk], archive: Archive, unwanted: Callable[[Desk], object]
) -> None:
    desk = make("storage_commitment")
    desk.deliver()
    unwanted(desk)
    deny(desk, archive.requests[0])
    for _ in range(4):
        desk.deliver()
    assert first(desk) == [("stored", 1)] * 3


def test_a_query_under_way_that_does_not_find_it(
    make: Callable[[str], Desk], archive: Archive, unwanted: Callable[[Desk], object]
) -> None:
    desk = make("find")
    archive.holds = lambda _uid: False
    desk.deliver()
    happens = once(lambda: unwanted(desk))
    archive.holds = lambda _uid: bool(happens())
    for _ in range(4):
        desk.deliver()
    assert first(desk) == [("stored", 1)] * 3


def test_a_query_under_way_that_fails(
    make: Callable[[str], Desk], archive: Archive, unwanted: Callable[[Desk], object]
) -> None:
    desk = make("find")
    happens = once(lambda: unwanted(desk))

    def fails(_uid: str) -> bool:
        happens()
        raise ValueError("an archive in trouble")

    archive.holds = fails
    desk.deliver()
    archive.holds = lambda _uid: False
    for _ in range(4):
        desk.deliver()
    assert first(desk) == [("stored", 1)] * 3


def test_what_is_accepted_when_it_is_not_wanted_any_more(
    make: Callable[[str], Desk], archive: Archive, unwanted: Callable[[Desk], object]
) -> None:
    desk = make("find")
    archive.holds = lambda _uid: False
    happens = once(lambda: unwanted(desk))

    def accept(_item: Received) -> int:
        happens()
        return 0x0000

    archive.answer = accept
    desk.deliver()
    accepted = first(desk)
    assert "stored" in {state for state, _ in accepted}
    for _ in range(4):
        desk.deliver()
    assert first(desk) == accepted


def test_a_proof_that_comes_while_a_query_does_not_find_it_stands(
    make: Callable[[str], Desk], archive: Archive
) -> None:
    desk = make("storage_commitment")
    desk.deliver()
    (request,) = archive.requests
    information, event_type = commits(request)
    reports = ReportDesk(desk.settings.deliver, desk.database)
    archive.holds = lambda _uid: reports.answer(event_type, information, "X") != 0x0000
    desk.deliver()
    assert archive.queries, "the patience is over"
    assert first(desk) == [("confirmed", 1)] * 3


def test_a_retry_takes_up_what_was_cancelled(make: Callable[[str], Desk], archive: Archive) -> None:
    desk = make("find")
    archive.holds = lambda _uid: False
    desk.deliver()
    cancel(desk)
    assert retry(desk) == 1 + 3
    for _ in range(2):
        desk.deliver()
    assert first(desk) == [("pending", 1)] * 3
    archive.holds = lambda _uid: True
    desk.deliver()
    assert first(desk) == [("confirmed", 2)] * 3


@pytest.mark.parametrize("way", ["retracted", "superseded"])
def test_a_retry_after_a_cancel_takes_up_nothing_that_has_a_successor_or_a_note(
    make: Callable[[str], Desk], archive: Archive, way: str
) -> None:
    desk = make("find")
    archive.holds = lambda _uid: False
    desk.deliver()
    cancel(desk)
    WAYS[way](desk)
    retry(desk)
    for _ in range(4):
        desk.deliver()
    assert first(desk) == [("stored", 1)] * 3


def test_what_was_cancelled_before_it_was_superseded_is_not_sent_by_a_retry(
    make: Callable[[str], Desk], archive: Archive
) -> None:
    desk = make("none")
    archive.answer = lambda _item: 0xA700
    desk.deliver()
    cancel(desk)
    revise(desk)
    retry(desk)
    archive.answer = None
    desk.deliver()
    assert {state for state, _ in first(desk)} == {"withdrawn"}


def events(desk: Desk, kind: str) -> list[dict[str, Any]]:
    """Details of the events of a kind about the study, oldest first."""
    with desk.database.transaction() as connection:
        found = intake.events(connection, 100)
    return [row["detail"] for row in reversed(found) if (row["kind"], row["subject"]) == (kind, STUDY)]


def park(desk: Desk, archive: Archive) -> None:
    """The archive refuses all of it."""
    archive.answer = lambda _item: 0x0122
    desk.deliver()
    assert {state for state, _ in first(desk)} == {"parked"}
    archive.answer = None


def test_what_was_parked_is_given_up_by_a_cancel_and_no_retry_sends_it(
    make: Callable[[str], Desk], archive: Archive
) -> None:
    desk = make("none")
    park(desk, archive)
    cancel(desk)
    assert {state for state, _ in first(desk)} == {"cancelled"}
    assert all(row["reason"].startswith("cancelled by hand after it was parked: ") for row in desk.rows())
    assert events(desk, "cancelled") == [{"deliveries": 3, "parked": 3}]
    with desk.database.transaction() as connection:
        counts = overview.counts(connection)
        assert (counts["deliveries_parked"], counts["studies_parked"]) == (0, 0), "nobody has to act"
    received = len(archive.received)
    assert retry(desk) == 1, "the study alone"
    with desk.database.transaction() as connection:
        assert overview.given_up(connection, STUDY) == 3
        assert overview.unconfigured(connection, STUDY, []) == [], "and nobody is asked for its destination"
    desk.deliver()
    assert (len(archive.received), {state for state, _ in first(desk)}) == (received, {"cancelled"})


def test_a_study_that_is_parked_can_be_given_up(make: Callable[[str], Desk]) -> None:
    desk = make("none")
    with desk.database.transaction() as connection:
        connection.execute("UPDATE study SET parked = 'stopped after 3 attempts', waits_for = 'a disk'")
    cancel(desk)
    with desk.database.transaction() as connection:
        found = overview.study(connection, STUDY)
        assert found is not None
        assert (found["parked"], found["waits_for"]) == ("cancelled by hand", None)
        assert overview.cancel(connection, STUDY) == 0, "once is enough"
    assert events(desk, "cancelled") == [{"deliveries": 3, "parked": 0, "study_was_parked": "stopped after 3 attempts"}]


@pytest.mark.parametrize("refused", [False, True])
def test_a_note_that_takes_back_what_the_archive_has_survives_a_cancel(
    make: Callable[[str], Desk], archive: Archive, refused: bool
) -> None:
    desk = make("none")
    desk.deliver()
    retractor(desk).retract(STUDY, Reason.SAFETY)
    archive.answer = lambda _item: 0x0122 if refused else 0xA700
    desk.deliver()
    cancel(desk)
    archive.answer = None
    if refused:
        retry(desk)
    desk.deliver()
    (note,) = [row for row in desk.rows() if row["kind"] == "rejection"]
    assert note["state"] == "stored"


def test_a_note_goes_although_the_study_is_held(make: Callable[[str], Desk]) -> None:
    desk = make("none")
    desk.deliver()
    retractor(desk).retract(STUDY, Reason.SAFETY)
    with desk.database.transaction() as connection:
        assert deliveries.hold(connection, STUDY, "whose?") == 0
    desk.deliver()
    assert {row["state"] for row in desk.rows()} == {"stored"}


def hold(desk: Desk) -> None:
    with desk.database.transaction() as connection:
        deliveries.hold(connection, STUDY, "whose?")


@pytest.mark.parametrize("status", [0x0000, 0xA700])
def test_what_was_held_while_it_was_on_its_way_is_known_to_be_there_and_is_taken_back(
    make: Callable[[str], Desk], archive: Archive, status: int
) -> None:
    desk = make("find")
    happens = once(lambda: hold(desk))

    def answer(_item: Received) -> int:
        happens()
        return status

    archive.answer = answer
    desk.deliver()
    (reformat, *_) = desk.rows()
    assert (reformat["state"], reformat["attempts"]) == ("parked" if status else "stored", 1)
    assert reformat["reason"] == "whose?"
    assert len(archive.queries) == 0, "no proof is asked for"
    (done,) = retractor(desk).retract(reformat["sop_instance_uid"], Reason.SAFETY)
    assert done.destinations == ("pacs",), "it has it, or may have it"


def test_a_try_without_an_answer_that_was_retracted_meanwhile_is_followed_by_the_note(
    make: Callable[[str], Desk], archive: Archive
) -> None:
    desk = make("none")
    happens = once(lambda: retractor(desk).retract(STUDY, Reason.SAFETY))

    def answer(_item: Received) -> int:
        happens()
        return 0xA700

    archive.answer = answer
    desk.deliver()
    archive.answer = None
    desk.deliver()
    (note,) = [row for row in desk.rows() if row["kind"] == "rejection"]
    assert note["state"] == "stored"
    with desk.database.transaction() as connection:
        found = connection.execute("SELECT 1 FROM event WHERE kind = 'delivery_parked'").fetchall()
    assert found == [], "nothing was parked"


def test_a_refusal_of_what_was_cancelled_meanwhile_is_no_event_of_parking(
    make: Callable[[str], Desk], archive: Archive
) -> None:
    desk = make("none")
    happens = once(lambda: cancel(desk))

    def answer(_item: Received) -> int:
        happens()
        return 0x0122

    archive.answer = answer
    desk.deliver()
    assert {state for state, _ in first(desk)} == {"cancelled"}
    with desk.database.transaction() as connection:
        assert connection.execute("SELECT 1 FROM event WHERE kind = 'delivery_parked'").fetchall() == []


def test_what_a_dying_sender_may_have_sent_is_taken_back(make: Callable[[str], Desk], archive: Archive) -> None:
    desk = make("none")

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deliveries, "mark_stored", die)
        with pytest.raises(KeyboardInterrupt):
            desk.deliver()
    assert len(archive.received) == 1, "the archive has what the ledger does not know"
    (done,) = retractor(desk).retract(STUDY, Reason.SAFETY)
    assert done.destinations == ("pacs",)


def test_what_ceases_to_be_wanted_while_the_archive_is_asked_whose_it_is_is_not_sent(
    tmp_path: Path, database: Database, archive: Archive, unwanted: Callable[[Desk], object]
) -> None:
    desk = Desk(tmp_path, database, archive.port, {"patient_check": True})
    known = courier.patient_objection

    def ask(*arguments: Any) -> Any:
        unwanted(desk)
        return known(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(courier, "patient_objection", ask)
        desk.deliver()
    assert archive.received == []
    assert {attempts for _, attempts in first(desk)} == {0}
