"""Questions that the ledger must answer right whatever happened before."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from node.ledger import Database, DatabaseError, answers, deliveries, intake, migrate
from tests import ledger
from tests.dicom import SERIES, STUDY


def instance(name: str, sop_uid: str, digest: str, series_uid: str = SERIES) -> intake.InstanceRow:
    return intake.InstanceRow(
        spool_name=name,
        received_at=datetime.now(UTC),
        calling_ae="SCANNER",
        called_ae="SPINENODE",
        transfer_syntax="1.2.840.10008.1.2.1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=sop_uid,
        study_uid=STUDY,
        series_uid=series_uid,
        patient_id="P-1",
        modality="CT",
        bytes=1,
        sha256=digest,
    )


def names(database: Database) -> list[str]:
    with database.transaction() as connection:
        return [row["spool_name"] for row in intake.instances_of(connection, STUDY)]


def test_a_repeat_is_a_duplicate_and_a_correction_taken_back_is_not(database: Database) -> None:
    with database.transaction() as connection:
        for name, digest in (("1", "a"), ("2", "a"), ("3", "a"), ("4", "b"), ("5", "a"), ("6", "a")):
            intake.register(connection, [instance(name, "1.2.3", digest)])
        found = connection.execute("SELECT duplicate_of FROM instance ORDER BY id").fetchall()
    assert [row["duplicate_of"] for row in found] == [None, 1, 1, None, None, 5]
    assert names(database) == ["1", "4", "5"]


def test_only_series_that_lost_images_are_fragments(database: Database) -> None:
    with database.transaction() as connection:
        rows = [instance(str(n), f"1.2.{n}", "x", series) for n, series in enumerate(("1.1", "1.1", "2.2", "2.2"), 1)]
        intake.register(connection, rows)
        intake.mark_erased(connection, [1, 3])
        assert intake.fragments(connection, STUDY) == {"1.1", "2.2"}
        intake.register(connection, [instance("9", "1.2.3", "x", "2.2")])  # what was gone came again
        assert intake.fragments(connection, STUDY) == {"1.1"}


def test_what_is_finished_after_a_cancel_is_not_sent(database: Database) -> None:
    with database.transaction() as connection:
        intake.register(connection, [instance("1", "1.2.3", "a")])
        claimed = ledger.claim(connection)
        assert claimed is not None
        connection.execute("UPDATE study SET parked = 'cancelled by hand'")
        assert answers.is_parked(connection, STUDY)
        ids = ledger.finish(connection, claimed)
        deliveries.plan(connection, ids[0], "pacs", cancelled=True)
        assert deliveries.pending(connection, claimed.id, "pacs") == []


def test_a_passing_error_is_no_attempt(database: Database) -> None:
    with database.transaction() as connection:
        intake.register(connection, [instance("1", "1.2.3", "a")])
        for _ in range(10):
            evaluation = answers.begin_evaluation(connection, STUDY, 3)
            assert evaluation is not None
            answers.postpone_evaluation(connection, evaluation)


def test_a_database_of_a_newer_program_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO schema_version (version, name) VALUES (999, '0999_future.sql')")
    with pytest.raises(DatabaseError, match="start the newer program"):
        migrate(dsn)


def test_a_database_that_is_not_there_is_said_so() -> None:
    with pytest.raises(DatabaseError, match="cannot be reached"):
        migrate("postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
