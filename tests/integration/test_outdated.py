"""A revision that was built and never got to the archive: what is there instead is told, and taken back in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import KeyObjectSelectionDocumentStorage

from node.keeper import Keeper
from node.ledger import Database, audit, deliveries, intake, outdated, overview
from node.results.rejection import Reason
from tests import ledger
from tests.archive import Archive
from tests.conftest import REPOSITORY
from tests.desk import KINDS, Desk
from tests.dicom import STUDY
from tests.integration.test_retraction import retractor, revise

STANDS = {"destination": "pacs", "superseded_by_revision": 2}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, database: Database, archive: Archive) -> Desk:
    """A desk whose first revision is in the archive."""
    desk = Desk(tmp_path, database, archive.port, reject_superseded=True)
    desk.settings.data_dir.mkdir(exist_ok=True)
    desk.deliver()
    return desk


def refused(desk: Desk, archive: Archive, answer_id: int) -> None:
    """The archive refuses the revision: it is parked."""
    archive.answer = lambda _item: 0x0122
    desk.courier.deliver(answer_id, "pacs")
    archive.answer = None


def cancelled(desk: Desk, _archive: Archive, _answer_id: int) -> None:
    with desk.database.transaction() as connection:
        assert overview.cancel(connection, STUDY)


def refused_and_cancelled(desk: Desk, archive: Archive, answer_id: int) -> None:
    refused(desk, archive, answer_id)
    cancelled(desk, archive, answer_id)


def held(desk: Desk, _archive: Archive, _answer_id: int) -> None:
    with desk.database.transaction() as connection:
        assert deliveries.hold(connection, STUDY, "whose?") == 3
        outdated.tell(connection, STUDY)


NEVER_SENT = [refused, cancelled, refused_and_cancelled, held]


def told(desk: Desk) -> list[dict[str, Any]]:
    with desk.database.transaction() as connection:
        found = intake.events(connection, 100)
    return [row["detail"] for row in found if (row["kind"], row["subject"]) == ("outdated_results_stand", STUDY)]


def outdated_by(desk: Desk) -> dict[int, set[int | None]]:
    """Revision to what its deliveries are outdated by, as ``jobs show`` and ``audit`` say with one voice."""
    with desk.database.transaction() as connection:
        chains = audit.chains(connection, STUDY)
    audited = [
        (chain["revision"], delivery["outdated_by"])
        for chain in chains
        for result in chain["results"]
        for delivery in result["deliveries"]
    ]
    shown = [(row["revision"], row["outdated_by"]) for row in desk.rows()]
    assert sorted(audited, key=str) == sorted(shown, key=str)
    found: dict[int, set[int | None]] = {}
    for revision, by in shown:
        found.setdefault(revision, set()).add(by)
    return found


@pytest.mark.parametrize("never_sent", NEVER_SENT)
def test_what_the_archive_still_has_is_told_once(
    desk: Desk, archive: Archive, never_sent: Callable[[Desk, Archive, int], None]
) -> None:
    revision = revise(desk)
    assert (outdated_by(desk), told(desk)) == ({1: {2}, 2: {None}}, []), "it is on its way"
    never_sent(desk, archive, revision)
    assert (outdated_by(desk), told(desk)) == ({1: {2}, 2: {None}}, [STANDS])
    Keeper(desk.settings, desk.database).round()
    assert not any(row["retracted_at"] for row in desk.rows()), "a person must see whether it is wrong"


def test_nothing_is_told_of_a_revision_that_arrived(desk: Desk) -> None:
    desk.courier.deliver(revise(desk), "pacs")
    assert (outdated_by(desk), told(desk)) == ({1: {None}, 2: {None}}, [])


def test_nothing_is_told_where_the_archive_has_nothing(tmp_path: Path, database: Database, archive: Archive) -> None:
    desk = Desk(tmp_path, database, archive.port)
    refused(desk, archive, revise(desk))
    assert (outdated_by(desk), told(desk)) == ({1: {None}, 2: {None}}, [])


def test_a_former_revision_stands_again_where_its_successor_is_taken_back(desk: Desk) -> None:
    desk.courier.deliver(revise(desk), "pacs")
    for row in desk.rows():
        if row["revision"] == 2:
            retractor(desk).retract(row["sop_instance_uid"], Reason.QUALITY)
    assert outdated_by(desk)[1] == {2}


def test_what_is_taken_back_is_outdated_no_more(desk: Desk, archive: Archive) -> None:
    refused(desk, archive, revise(desk))
    for row in desk.rows():
        if row["revision"] == 1:
            retractor(desk).retract(row["sop_instance_uid"], Reason.QUALITY)
    assert outdated_by(desk)[1] == {None}


def third_revision(desk: Desk, predecessor: int) -> int:
    """A revision after the desk's second one; the id of its answer."""
    rows = []
    for number, kind in enumerate(KINDS):
        data_set = dcmread(desk.settings.outbox_dir / f"{kind}-corrected.dcm")
        uid = f"1.2.826.0.2.{number}"
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = uid
        path = desk.settings.outbox_dir / f"{kind}-third.dcm"
        data_set.save_as(path, enforce_file_format=True)
        rows.append(desk.row(kind, path))
    with desk.database.transaction() as connection:
        claimed = ledger.claim(connection, "corrected again")
        assert claimed is not None
        assert (claimed.revision, claimed.predecessor) == (3, predecessor)
        for row_id in ledger.finish(connection, claimed, rows):
            deliveries.plan(connection, row_id, "pacs")
    return claimed.id


def test_a_revision_that_never_got_there_is_passed_over_for_the_one_after_it(desk: Desk, archive: Archive) -> None:
    second = revise(desk)
    refused(desk, archive, second)
    third = third_revision(desk, second)
    keeper = Keeper(desk.settings, desk.database)
    keeper.round()
    assert outdated_by(desk)[1] == {3}
    assert not any(row["retracted_at"] for row in desk.rows())
    desk.courier.deliver(third, "pacs")
    assert outdated_by(desk)[1] == {None}
    for _ in range(2):
        keeper.round()
    assert [row["revision"] for row in desk.rows() if row["retracted_at"]] == [1, 1, 1]
    desk.deliver()
    assert [item.sop_class_uid for item in archive.received].count(KeyObjectSelectionDocumentStorage) == 1


def test_the_commands_say_so(tmp_path: Path, desk: Desk, archive: Archive) -> None:
    refused(desk, archive, revise(desk))
    path = tmp_path / "node.yaml"
    path.write_text(
        json.dumps({"data_dir": str(tmp_path / "data"), "database_dsn": desk.database.dsn}), encoding="utf-8"
    )

    def said(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "node.cli", *arguments, "--config", str(path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            cwd=REPOSITORY,
            env={**os.environ, "COLUMNS": "300"},
        )
        return " ".join(done.stdout.split())

    assert "pacs still has results of revision 1, and not all of revision 2 that supersedes it" in said(
        "jobs", "show", STUDY
    )
    assert said("audit", STUDY).count("outdated: revision 2 is not there") == 3


def test_the_flag_that_is_listed_is_that_of_the_newest_revision(desk: Desk) -> None:
    with desk.database.transaction() as connection:
        connection.execute("UPDATE answer SET flag = true")
    revise(desk)
    with desk.database.transaction() as connection:
        (listed,) = overview.studies(connection)
    assert (listed["answers"], listed["flag"]) == (2, False)
