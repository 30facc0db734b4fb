"""Results that are not wanted any more (retracted, superseded, cancelled): nothing sends them again by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.deliver.reports import ReportDesk
from node.demo.pacs import Received
from node.ledger import Database, overview
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
