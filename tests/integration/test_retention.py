"""Series whose images go by their retention while copies of them are there, and what comes late, or comes again."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from node.keeper import Keeper
from node.ledger import Database, answers, audit, overview
from tests.chaos.test_models import CtHouse, ct_series
from tests.integration.test_films import STUDY

EVER = 9
"""A slice that is always missing: the answer says so, and no network is needed."""
HOLES = (3, 6, EVER)
SENT = len(ct_series(HOLES))
LATE, LAST = ([dataset for dataset in ct_series() if dataset.InstanceNumber - 1 == hole] for hole in HOLES[:2])
FRAGMENT = ct_series((*range(5), EVER))
"""Not the series, and enough to be taken for one."""
GAP = "GAP_IN_SERIES"


class AgingHouse(CtHouse):
    """A node that has delivered what it answered, and whose images grow old."""

    def expire(self, up_to: int) -> None:
        """Let the first ``up_to`` receptions pass their retention."""
        self._run("UPDATE delivery SET state = 'stored', last_try_at = now() WHERE state = 'pending'")
        self._run(f"UPDATE instance SET received_at = now() - interval '1 year' WHERE id <= {up_to}")
        self._run(f"UPDATE instance SET received_at = now() WHERE id > {up_to}")
        Keeper(self.settings, self.database).expire()

    def outcome(self) -> tuple[str, str | None, int]:
        """(outcome, reason, images) of the series."""
        (row,) = self.study()["series"]
        return row["outcome"], row["reason_code"], row["instances"]

    def revisions(self) -> list[int]:
        return [row["revision"] for row in self.study()["answers"]]

    def files(self) -> int:
        return len(list(self.spool.names()))

    def _run(self, statement: str) -> None:
        with self.database.transaction() as connection:
            connection.execute(statement.encode())


@pytest.fixture
def house(tmp_path: Path, database: Database) -> AgingHouse:
    """One series, answered, sent again later; the first copy is past its retention."""
    house = AgingHouse(tmp_path, database)
    house.receive(*ct_series(HOLES))
    house.receive(*ct_series(HOLES))
    house.expire(SENT)
    assert (house.outcome(), house.revisions(), house.files()) == (("answered", GAP, SENT), [1], SENT)
    return house


@pytest.mark.parametrize("again", [[], ct_series(HOLES)], ids=["alone", "with all of the series again"])
def test_late_slices_join_the_copy_that_outlived_its_original(house: AgingHouse, again: list[Dataset]) -> None:
    house.receive(*again, *LATE)
    assert (house.outcome(), house.revisions()) == (("answered", GAP, SENT + 1), [1, 2])
    before = house.sent()
    house.receive(*again, *LATE)
    assert house.sent() == before, "the same again is no news"


def test_a_copy_that_outlived_its_original_is_deleted_in_its_turn_and_no_fragment_is_answered(
    house: AgingHouse,
) -> None:
    house.receive(*LATE)
    house.expire(2 * SENT)
    assert house.files() == 1
    before = house.sent()
    house.receive(*FRAGMENT)
    assert house.outcome() == ("not_eligible", "IMAGES_DELETED", len(FRAGMENT) + len(LATE))
    assert house.sent() == before
    house.receive(*ct_series((EVER,)))
    assert house.outcome() == ("answered", GAP, SENT + 2), "sent again it is whole"
    assert house.revisions() == [1, 2, 3]


def test_a_series_that_comes_again_after_all_of_it_went_is_whole_and_not_answered_twice(house: AgingHouse) -> None:
    house.expire(2 * SENT)
    assert house.files() == 0
    house.receive(*LATE)
    assert house.outcome() == ("not_eligible", "IMAGES_DELETED", 1)
    house.receive(*ct_series(HOLES))
    assert (house.outcome(), house.revisions()) == (("answered", GAP, SENT + 1), [1, 2])
    house.receive(*LAST)
    assert (house.outcome(), house.revisions()) == (("answered", GAP, SENT + 2), [1, 2, 3])


def test_a_copy_of_what_was_never_evaluated_stays(tmp_path: Path, database: Database) -> None:
    house = AgingHouse(tmp_path, database)
    house.evaluate = lambda: None  # type: ignore[method-assign]
    house.receive(*ct_series(HOLES))
    house.receive(*ct_series(HOLES))
    house.expire(2 * SENT)
    assert house.files() == 2 * SENT
    CtHouse.evaluate(house)
    house.expire(2 * SENT)
    assert house.files() == 0


def test_an_audit_says_where_the_copy_of_an_erased_original_is(house: AgingHouse) -> None:
    names = set(house.spool.names())
    with house.database.transaction() as connection:
        (chain,) = audit.chains(connection, STUDY)
    assert all(row["erased_at"] for row in chain["inputs"])
    assert {row["spool_name"] for row in chain["inputs"]} == names
    house.expire(2 * SENT)
    with house.database.transaction() as connection:
        (chain,) = audit.chains(connection, STUDY)
    assert {row["spool_name"] for row in chain["inputs"]} == {None}, "now all of it is gone"
    house.receive(*ct_series(HOLES))
    with house.database.transaction() as connection:
        (chain,) = audit.chains(connection, STUDY)
    assert {row["spool_name"] for row in chain["inputs"]} == set(house.spool.names()), "and there again"


def killed_at_work(house: AgingHouse) -> None:
    """A worker claims an answer of the study and dies."""
    with house.database.transaction() as connection:
        assert answers.begin_evaluation(connection, STUDY)
        claimed = answers.claim_answer(connection, STUDY, "ct", f"{STUDY}.7", "an input", "conf", "0")
    assert claimed is not None


def received(tmp_path: Path, database: Database) -> AgingHouse:
    """A series that no worker has looked at."""
    house = AgingHouse(tmp_path, database)
    house.evaluate = lambda: None  # type: ignore[method-assign]
    house.receive(*ct_series(HOLES))
    del house.evaluate
    return house


def test_images_of_a_study_that_was_cancelled_in_mid_work_go(tmp_path: Path, database: Database) -> None:
    house = received(tmp_path, database)
    killed_at_work(house)
    house.expire(SENT)
    assert house.files() == SENT, "somebody will go on with it"
    with database.transaction() as connection:
        assert overview.cancel(connection, STUDY) == 1
    house.expire(SENT)
    assert house.files() == 0


def test_what_a_dead_worker_had_begun_and_nobody_takes_up_holds_no_images(tmp_path: Path, database: Database) -> None:
    house = received(tmp_path, database)
    killed_at_work(house)
    with database.transaction() as connection:  # then a second patient came, and nothing of the study is answered
        evaluation = answers.begin_evaluation(connection, STUDY)
        assert evaluation is not None
        answers.end_evaluation(connection, evaluation)
    assert [row["state"] for row in house.study()["answers"]] == ["superseded"]
    house.expire(SENT)
    assert house.files() == 0
