"""Series whose images go by their retention while copies of them are there, and what comes late, or comes again."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from node.keeper import Keeper
from node.ledger import Database
from tests.chaos.test_models import CtHouse, ct_series

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
