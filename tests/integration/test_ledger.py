"""Questions that the ledger must answer right whatever happened before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import psycopg
import pytest
from psycopg import sql

from node.ledger import Database, DatabaseError, answers, deliveries, intake, migrate, overview
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


def test_the_duplicates_of_a_lost_image_have_one_heir(database: Database) -> None:
    with database.transaction() as connection:
        for name in ("1", "2", "3"):
            intake.register(connection, [instance(name, "1.2.3", "a")])
        assert intake.replace_lost(connection, [1]) == {1}
    assert names(database) == ["2"]
    with database.transaction() as connection:
        assert intake.replace_lost(connection, [2]) == {2}, "the third is still there to take its place"
    assert names(database) == ["3"]
    with database.transaction() as connection:
        assert intake.register(connection, [instance("4", "1.2.3", "a")]) == set(), "these bytes are there"
        assert intake.replace_lost(connection, [3, 4]) == set(), "lost with every copy of it"


def test_outstanding_studies_come_in_the_order_of_the_registrars_whatever_the_server_s_language(
    database: Database,
) -> None:
    studies = ["1.2.3", "B", "a", "1.23"]
    with database.transaction() as connection:
        for number, study_uid in enumerate(studies):
            intake.register(connection, [replace(instance(str(number), f"1.2.{number}", "x"), study_uid=study_uid)])
    with database.transaction() as connection:
        language = connection.execute(
            "SELECT collname FROM pg_collation WHERE collprovider = 'c' AND collname ~ '^[a-z]{2}_[A-Z]{2}' LIMIT 1"
        ).fetchone()
        if language is None:
            pytest.skip("this server's system has no language besides C (Debian: locales)")
        collation = sql.Identifier(language["collname"])
        connection.execute(sql.SQL("ALTER TABLE study ALTER study_uid TYPE text COLLATE {}").format(collation))
        by_language = [row["study_uid"] for row in connection.execute("SELECT study_uid FROM study ORDER BY study_uid")]
        assert by_language != sorted(studies)
        assert answers.outstanding_studies(connection) == sorted(studies)


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
            evaluation = answers.begin_evaluation(connection, STUDY)
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


def claim_film(connection: psycopg.Connection[dict[str, Any]], sop_uid: str, digest: str) -> answers.Answer | None:
    return answers.claim_answer(
        connection, STUDY, "radiograph", SERIES, digest, "conf", "0", sop_instance_uid=sop_uid, per_series=False
    )


def done(connection: psycopg.Connection[dict[str, Any]], claimed: answers.Answer | None, uid: str) -> answers.Answer:
    assert claimed is not None
    ledger.finish(connection, claimed, [replace(ledger.ONE_RESULT, sop_instance_uid=uid)])
    return claimed


def test_each_film_of_a_series_has_an_answer_of_its_own_and_revisions_of_its_own(database: Database) -> None:
    with database.transaction() as connection:
        intake.register(connection, [instance("1", "1.2.3", "a")])
        first = done(connection, claim_film(connection, "1.1", "a"), "9.1")
        second = done(connection, claim_film(connection, "1.2", "a"), "9.2")
        assert (first.revision, second.revision, second.predecessor) == (1, 1, None)
        assert claim_film(connection, "1.1", "a") is None, "answered already"
        corrected = done(connection, claim_film(connection, "1.1", "b"), "9.3")
        assert (corrected.revision, corrected.predecessor) == (2, first.id)
        assert claim_film(connection, "1.2", "a") is None


def test_a_correction_that_is_taken_back_is_answered_again(database: Database) -> None:
    with database.transaction() as connection:
        intake.register(connection, [instance("1", "1.2.3", "a")])
        first = done(connection, claim_film(connection, "1.1", "one patient"), "9.1")
        second = done(connection, claim_film(connection, "1.1", "another"), "9.2")
        third = done(connection, claim_film(connection, "1.1", "one patient"), "9.3")
        assert [(a.revision, a.predecessor) for a in (first, second, third)] == [
            (1, None),
            (2, first.id),
            (3, second.id),
        ]
        assert claim_film(connection, "1.1", "one patient") is None
        again = claim_film(connection, "1.1", "another")
        assert again is not None and again.revision == 4
        resumed = claim_film(connection, "1.1", "another")
        assert resumed is not None and (resumed.id, resumed.attempt) == (again.id, 2), "its worker died"


def test_a_claim_on_one_film_does_not_supersede_the_work_on_another_nor_on_the_ct(database: Database) -> None:
    with database.transaction() as connection:
        intake.register(connection, [instance("1", "1.2.3", "a")])
        ct, first = ledger.claim(connection), claim_film(connection, "1.1", "a")
        done(connection, claim_film(connection, "1.2", "a"), "9.2")
        done(connection, ct, "9.4")
        done(connection, first, "9.1")
        states = connection.execute("SELECT state FROM answer ORDER BY id").fetchall()
    assert [row["state"] for row in states] == ["done"] * 3


def outcome(connection: psycopg.Connection[dict[str, Any]], sop_uid: str, said: str) -> None:
    answers.record_outcome(
        connection,
        STUDY,
        series_uid=SERIES,
        sop_instance_uid=sop_uid,
        modality="CR",
        description="",
        instances=1,
        outcome=said,
        reason_code=None,
        reason=None,
        better_series_uid=None,
    )


def test_outcomes_of_the_films_of_one_series_stand_beside_each_other(database: Database) -> None:
    with database.transaction() as connection:
        intake.register(connection, [instance("1", "1.2.3", "a")])
        outcome(connection, "", "not_eligible")
        answers.forget_whole_series(connection, STUDY, [SERIES])
        outcome(connection, "1.1", "answered")
        outcome(connection, "1.2", "not_eligible")
        outcome(connection, "1.2", "answered")
        found = overview.study(connection, STUDY)
    assert found is not None
    assert [(row["sop_instance_uid"], row["outcome"]) for row in found["series"]] == [
        ("1.1", "answered"),
        ("1.2", "answered"),
    ]


def test_a_ledger_of_the_version_before_is_brought_up_to_date(database_server: str) -> None:
    name = "before_films"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = psycopg.conninfo.make_conninfo(database_server, dbname=name)
    script = files("node.ledger").joinpath("migrations", "0001_first_light.sql").read_bytes()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE schema_version"
            " (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        connection.execute(script)
        connection.execute("INSERT INTO schema_version (version, name) VALUES (1, '0001_first_light.sql')")
        connection.execute("INSERT INTO study (study_uid, last_instance_at) VALUES ('1.2', now())")
        connection.execute(
            "INSERT INTO answer (study_uid, pipeline, series_uid, revision, input_sha256, configuration_sha256,"
            " software_version, started_at, state, sent)"
            " VALUES ('1.2', 'ct', '1.3', 1, 'in', 'c', '0', now(), 'done', true)"
        )
    migrate(dsn)
    with Database(dsn) as opened, opened.transaction() as connection:
        again = answers.claim_answer(connection, "1.2", "ct", "1.3", "in", "c", "0", per_series=False)
        late = answers.claim_answer(connection, "1.2", "ct", "1.3", "other", "c", "0", per_series=False)
    assert again is None, "what was answered before the upgrade is not answered again"
    assert late is not None
    assert late.revision == 2
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
