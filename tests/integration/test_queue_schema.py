"""Procrastinate's own migrations: a new version of it finds the queue of the former one, in a rolling upgrade, too."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from node.ledger import Database, DatabaseError, migrate
from node.ledger.queue_schema import APPLICATION, BEFORE_RECORDS, apply_queue_schema, migrations
from node.queue import Queue
from tests.dicom import STUDY

FORMER = "03.03.00"
"""Version of Procrastinate whose schema the tests begin with: the newest migrations bring more."""
PRE, POST = "99.01.00_01_pre_more.sql", "99.01.00_50_post_less.sql"
LATER_PRE = "99.02.00_01_pre_even_more.sql"
STEPS = {
    PRE: b"CREATE TABLE procrastinate_more (id int)",
    POST: b"DROP FUNCTION procrastinate_retry_job_v1",
    LATER_PRE: b"CREATE TABLE procrastinate_even_more (id int)",
}


@pytest.fixture
def empty(database_server: str) -> Iterator[str]:
    """DSN of a database with nothing in it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield psycopg.conninfo.make_conninfo(database_server, dbname=name)
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def session(dsn: str, application: str = APPLICATION) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True, application_name=application) as connection:
        yield connection


def made_of(dsn: str) -> set[tuple[str, ...]]:
    """Functions with their bodies, columns, indexes, triggers and enumerations of the queue."""
    queries = (
        "SELECT 'function', p.oid::regprocedure::text, md5(regexp_replace(prosrc, '\\s+', ' ', 'g')) FROM pg_proc p"
        " JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'public'",
        "SELECT 'column', table_name::text, column_name::text, data_type::text FROM information_schema.columns"
        " WHERE table_name LIKE 'procrastinate%'",
        "SELECT 'index', indexdef FROM pg_indexes WHERE tablename LIKE 'procrastinate%'",
        "SELECT 'trigger', tgname::text, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT 'value', enumtypid::regtype::text, enumlabel::text FROM pg_enum",
    )
    with psycopg.connect(dsn) as connection:
        return {tuple(row) for query in queries for row in connection.execute(query.encode())}


def applied(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM queue_migration")}


def former_queue(dsn: str) -> None:
    """The queue as Procrastinate 3.3 left it, made by the migrations up to then."""
    with session(dsn) as connection:
        connection.execute("CREATE TABLE queue_migration (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())")
        for name, script in migrations().items():
            if name < f"{FORMER}_99":
                connection.execute(script)
                connection.execute("INSERT INTO queue_migration (name) VALUES (%s)", (name,))


def test_a_queue_of_a_former_procrastinate_is_brought_up_to_date(dsn: str, empty: str) -> None:
    former_queue(empty)
    missing = sorted(set(migrations()) - applied(empty))
    assert missing and all(name > FORMER for name in missing)
    assert made_of(empty) != made_of(dsn)
    with session(empty) as connection:
        before = connection.execute(
            "INSERT INTO procrastinate_jobs (task_name, queue_name, lock, args, attempts)"
            " VALUES ('evaluate', 'evaluate', 'study:1', '{}', 0) RETURNING id"
        ).fetchone()
    migrate(empty)
    assert made_of(empty) >= {row for row in made_of(dsn) if row[0] in ("function", "trigger", "value")}
    assert applied(empty) == set(migrations()) == applied(dsn)
    migrate(empty)
    with Database(empty) as database, database.transaction() as connection:
        Queue(empty).wake_evaluation(connection, STUDY, 0.0)
        jobs = connection.execute("SELECT id, lock FROM procrastinate_jobs ORDER BY id").fetchall()
    assert before is not None
    first, second = jobs
    assert (first["id"], first["lock"]) == (before[0], "study:1"), "old jobs are found"
    assert second["lock"] == f"study:{STUDY}"


def test_a_database_of_a_program_that_kept_no_record_had_the_newest_then(dsn: str) -> None:
    with session(dsn) as connection:
        connection.execute("DROP TABLE queue_migration")
    before = made_of(dsn)
    migrate(dsn)
    assert applied(dsn) == {name for name in migrations() if name <= BEFORE_RECORDS}
    assert made_of(dsn) == before


def test_what_a_former_program_still_needs_goes_when_the_last_one_has_gone(dsn: str) -> None:
    brought = {**migrations(), PRE: STEPS[PRE], POST: STEPS[POST]}
    with session(dsn) as connection:
        with session(dsn, "spine-node"):
            apply_queue_schema(connection, brought)
            assert applied(dsn) == {*migrations(), PRE}, "what takes nothing away is applied at once"
            apply_queue_schema(connection)  # a former program that is started again meanwhile
        with session(dsn):  # another machine that is upgraded already
            apply_queue_schema(connection, brought)
        assert applied(dsn) == set(brought)
        with pytest.raises(DatabaseError, match=r"newer than Procrastinate .*start the newer program"):
            apply_queue_schema(connection)


def test_several_versions_at_once_need_all_former_programs_stopped(dsn: str) -> None:
    brought = {**migrations(), **STEPS}
    with session(dsn) as connection:
        with (
            session(dsn, "spine-node (procrastinate 3.0.0)"),
            pytest.raises(DatabaseError, match=r"former program is at work .*stop spine-node on all machines"),
        ):
            apply_queue_schema(connection, brought)
        assert applied(dsn) == set(migrations()), "nothing was changed"
        apply_queue_schema(connection, brought)
        assert applied(dsn) == set(brought)


def test_a_migration_that_fails_is_no_migration(dsn: str) -> None:
    brought = {**migrations(), PRE: STEPS[PRE], LATER_PRE: b"CREATE TABLE procrastinate_more (id int)"}
    with session(dsn) as connection:
        with pytest.raises(psycopg.errors.DuplicateTable):
            apply_queue_schema(connection, brought)
        assert applied(dsn) == {*migrations(), PRE}
