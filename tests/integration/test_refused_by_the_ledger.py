"""A study of which the ledger refuses something, whenever it is tried: it is parked in time, and says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.ledger import Database, intake, overview
from tests.integration.test_films import LATERAL, STUDY, House

REFUSALS = {"InvalidTextRepresentation": "22P02", "CheckViolation": "23514", "RaiseException": "P0001"}
"""Class of the error to its SQLSTATE."""
PASSING = {"DeadlockDetected": "40P01", "DiskFull": "53100"}


class Picky(House):
    """A house whose ledger refuses every outcome of a series."""

    def refuse(self, sqlstate: str) -> None:
        self.run(
            f"""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'PATIENT^NAME' USING ERRCODE = '{sqlstate}', TABLE = 'series'; END $$
            """
        )
        self.run("CREATE TRIGGER refuse BEFORE INSERT ON series FOR EACH ROW EXECUTE FUNCTION refuse()")

    def later(self, hours: float) -> None:
        self.run(f"UPDATE study SET unreadable_since = unreadable_since - interval '{hours} hours'")

    def run(self, statement: str) -> None:
        with self.database.transaction() as connection:
            connection.execute(statement.encode())

    def events(self) -> list[tuple[str, str]]:
        """(kind, reason), oldest first."""
        with self.database.transaction() as connection:
            found = intake.events(connection, 50)
        return [(row["kind"], row["detail"]["reason"]) for row in reversed(found) if row["subject"] == STUDY]


@pytest.fixture
def house(tmp_path: Path, database: Database) -> Picky:
    return Picky(tmp_path, database)


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_the_ledger_refuses_for_hours_parks_its_study_and_says_what(house: Picky, kind: str) -> None:
    house.refuse(REFUSALS[kind])
    house.receive(LATERAL.dataset())
    reason = f"the ledger does not take what belongs to this study ({kind}, table series)"
    assert (house.study()["parked"], house.study()["waits_for"], house.study()["attempts"]) == (None, reason, 0)
    house.later(5)
    house.evaluate()
    assert house.study()["parked"] is None
    house.later(2)
    house.evaluate()
    assert f"{reason}, for 7 hours: the log has the place" in house.study()["parked"]
    assert house.events() == [("evaluation_postponed", reason), ("study_parked", reason)]
    house.run("DROP TRIGGER refuse ON series")
    with house.database.transaction() as connection:
        assert overview.retry(connection, STUDY, []) == 1
    house.evaluate()
    assert len(house.study()["answers"]) == 1


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_with_the_database_is_waited_for(house: Picky, kind: str) -> None:
    house.refuse(PASSING[kind])
    house.receive(LATERAL.dataset())
    assert house.study()["waits_for"] == f"the machine could not go on ({kind})"
    assert (house.study()["unreadable_since"], house.study()["parked"]) == (None, None)
