"""The schema of the queue: Procrastinate brings it and its migrations, and leaves it to us to know which are applied.

A migration is named ``xx.yy.zz_ab_pre_what.sql`` or ``..._post_...`` after the version that it leads to. A *pre* one
may be applied while the former program is at work; a *post* one takes away what only the former program needs, and
waits until none is at work any more (older ones that say neither are *post*). So the first machine of a rolling upgrade
applies the *pre* ones, and the last one the *post* ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import procrastinate
import psycopg
import structlog
from procrastinate.schema import SchemaManager

from node.ledger.errors import DatabaseError

log = structlog.get_logger(__name__)

APPLICATION = f"spine-node (procrastinate {procrastinate.__version__})"
"""How our sessions call themselves to PostgreSQL. Programs of another version begin with the same word."""
BEFORE_RECORDS = "03.04.00_50_post_add_retry_failed_job_procedure.sql"
"""The newest migration in every database of a program that kept no record: all had Procrastinate 3.10.0."""


def migrations() -> dict[str, bytes]:
    """Script by name of every migration that the installed Procrastinate brings, in order."""
    folder = files("procrastinate.sql").joinpath("migrations")
    scripts = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".sql")}
    return dict(sorted(scripts.items()))


def apply_queue_schema(connection: psycopg.Connection[Any], brought: Mapping[str, bytes] | None = None) -> None:
    """Bring the queue's schema up to what the installed Procrastinate needs; safe for one program at a time.

    ``connection`` commits each statement by itself. ``brought``: as :func:`migrations`.

    Raises
    ------
    DatabaseError
        A newer program has taken away what this one needs, or a former one is at work that must be stopped before.
    """
    brought = migrations() if brought is None else brought
    done = _done(connection, brought)
    if done is None:
        with connection.transaction():
            connection.execute(SchemaManager.get_schema().encode("utf-8"))
            _record(connection, brought)
        log.info("queue schema applied", procrastinate=procrastinate.__version__)
        return
    if newer := [name for name in sorted(done - set(brought)) if not _is_pre(name)]:
        raise DatabaseError(
            f"the queue's schema is newer than Procrastinate {procrastinate.__version__}, which this program has "
            f"({newer[-1]}): start the newer program, or restore a back-up from before the upgrade"
        )
    for name in _applicable(connection, [name for name in brought if name not in done]):
        with connection.transaction():
            connection.execute(brought[name])
            _record(connection, [name])
        log.info("queue schema migrated", migration=name)


def _done(connection: psycopg.Connection[Any], brought: Mapping[str, bytes]) -> set[str] | None:
    """Names of the migrations that are applied; ``None`` where there is no queue yet."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS queue_migration"
        " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    row = connection.execute("SELECT to_regclass('procrastinate_jobs') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return None
    done = {row[0] for row in connection.execute("SELECT name FROM queue_migration")}
    if not done:
        done = {name for name in brought if name <= BEFORE_RECORDS}
        with connection.transaction():
            _record(connection, done)
    return done


def _applicable(connection: psycopg.Connection[Any], missing: list[str]) -> list[str]:
    """Those of the missing migrations that can be applied now.

    Raises
    ------
    DatabaseError
        That is not all that this program needs: between two *pre* ones a *post* one has to wait.
    """
    former = programs_at_work(connection, but=APPLICATION) if missing else []
    if not former:
        return missing
    now = [name for name in missing if _is_pre(name)]
    if missing[: len(now)] != now:
        raise DatabaseError(
            f"the queue's schema is several versions of Procrastinate behind, and a former program is at work on it "
            f"({', '.join(former)}): stop spine-node on all machines, then start this one"
        )
    if missing[len(now) :]:
        log.warning("migrations of the queue wait until no former program is at work", former=former)
    return now


def programs_at_work(connection: psycopg.Connection[Any], but: str = "") -> list[str]:
    """Addresses from which programs of ours have sessions in this database, ``but`` those of that name."""
    rows = connection.execute(
        "SELECT DISTINCT coalesce(host(client_addr), 'this machine') FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name LIKE 'spine-node%%' AND application_name <> %s ORDER BY 1",
        (but,),
    )
    return [row[0] for row in rows]


def _record(connection: psycopg.Connection[Any], names: Mapping[str, bytes] | set[str] | list[str]) -> None:
    connection.execute("INSERT INTO queue_migration (name) SELECT unnest(%s::text[])", (sorted(names),))


def _is_pre(name: str) -> bool:
    return "_pre_" in name
