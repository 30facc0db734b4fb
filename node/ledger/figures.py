"""What the ledger says in numbers, for monitoring: work that waits, and answers as they are finished."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import psycopg

Connection = psycopg.Connection[dict[str, Any]]

MOST_ANSWERS = 2000
"""Answers looked at in one go; the next ones follow in the next."""


def jobs(connection: Connection) -> list[dict[str, Any]]:
    """By queue: jobs that run, that could run and wait for a worker (with the age of the oldest), and later ones."""
    return connection.execute(
        """
        SELECT queue_name AS queue, count(*) FILTER (WHERE status = 'doing') AS running,
               count(*) FILTER (WHERE status = 'todo' AND due) AS due,
               count(*) FILTER (WHERE status = 'todo' AND NOT due) AS scheduled,
               coalesce(extract(epoch FROM now() - min(scheduled_at) FILTER (WHERE status = 'todo' AND due)), 0)::float
                   AS oldest_due_s
          FROM (SELECT *, coalesce(scheduled_at, now()) <= now() AS due FROM procrastinate_jobs
                 WHERE status IN ('todo', 'doing')) j
         GROUP BY queue_name
        """
    ).fetchall()


def studies_parked(connection: Connection) -> int:
    """Studies that no worker takes any more; those that were cancelled or erased by hand are not among them."""
    row = connection.execute(
        "SELECT count(*) AS n FROM study WHERE parked IS NOT NULL AND parked NOT IN ('erased', 'cancelled by hand')"
    ).fetchone()
    assert row is not None
    return int(row["n"])


def deliveries(connection: Connection) -> list[dict[str, Any]]:
    """By destination: objects that are to be sent, to be proven, or parked, and how long the oldest has been waiting.

    The wait counts from the moment at which the answer was built; what is parked waits for a person.
    """
    return connection.execute(
        """
        SELECT d.destination, count(*) FILTER (WHERE d.state = 'pending') AS pending,
               count(*) FILTER (WHERE d.state = 'stored') AS unproven,
               count(*) FILTER (WHERE d.state = 'parked') AS parked,
               coalesce(extract(epoch FROM now() - min(a.finished_at) FILTER (WHERE d.state = 'pending')), 0)::float
                   AS oldest_pending_s
          FROM delivery d JOIN result r ON r.id = d.result_id JOIN answer a ON a.id = r.answer_id
         WHERE d.state IN ('pending', 'parked') OR d.state = 'stored' AND d.proof_due_at IS NOT NULL
         GROUP BY d.destination
        """
    ).fetchall()


def events_of_a_day(connection: Connection) -> dict[str, int]:
    """Number of audit events of the last 24 hours, by kind."""
    rows = connection.execute("SELECT kind, count(*) AS n FROM event WHERE at > now() - interval '1 day' GROUP BY kind")
    return {row["kind"]: int(row["n"]) for row in rows}


def newest_answer(connection: Connection) -> int:
    """Id of the newest answer; 0 where there is none."""
    row = connection.execute("SELECT coalesce(max(id), 0) AS id FROM answer").fetchone()
    assert row is not None
    return int(row["id"])


def unfinished_answers(connection: Connection) -> dict[int, bool]:
    """Answers that are being worked on or of which something is to be sent, and whether they are built."""
    rows = connection.execute(
        """
        SELECT id, false AS built FROM answer WHERE state = 'working'
        UNION ALL
        SELECT DISTINCT a.id, true
          FROM delivery d JOIN result r ON r.id = d.result_id JOIN answer a ON a.id = r.answer_id
         WHERE d.state = 'pending' AND a.state = 'done'
        """
    )
    return {row["id"]: row["built"] for row in rows}


def progress_of_answers(connection: Connection, after: int, unfinished: Collection[int]) -> list[dict[str, Any]]:
    """Answers with an id above ``after``, and the ``unfinished`` ones, in order of their ids.

    ``delivered_s`` counts from the last image on which the answer rests to the last result that was stored; it is null
    while anything is to be sent, and where something was not sent at all.
    """
    return connection.execute(
        """
        SELECT a.id, a.state, a.pipeline, coalesce(a.status, '') AS status, coalesce(a.reason_code, '') AS reason,
               a.timings_s, d.pending,
               CASE WHEN d.stored = d.planned THEN extract(epoch FROM d.last_stored_at -
                   (SELECT max(received_at) FROM instance i WHERE i.study_uid = a.study_uid AND i.duplicate_of IS NULL
                       AND i.id <= coalesce((a.provenance->>'last_instance_id')::bigint, i.id)))::float
               END AS delivered_s
          FROM answer a CROSS JOIN LATERAL (
              SELECT count(*) AS planned, count(*) FILTER (WHERE d.state = 'pending') AS pending,
                     count(*) FILTER (WHERE d.state IN ('stored', 'confirmed')) AS stored,
                     max(d.stored_at) AS last_stored_at
                FROM result r JOIN delivery d ON d.result_id = r.id WHERE r.answer_id = a.id) d
         WHERE a.id > %s OR a.id = ANY(%s) ORDER BY a.id LIMIT %s
        """,
        (after, list(unfinished), MOST_ANSWERS),
    ).fetchall()
