"""What was sent where: the state of each result at each destination."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import psycopg

Connection = psycopg.Connection[dict[str, Any]]


def plan(connection: Connection, result_id: int, destination: str, *, cancelled: bool = False) -> None:
    """A result is to go to a destination, unless its study was cancelled meanwhile."""
    connection.execute(
        """
        INSERT INTO delivery (result_id, destination, next_try_at, state) VALUES (%s, %s, now(), %s)
        ON CONFLICT DO NOTHING
        """,
        (result_id, destination, "cancelled" if cancelled else "pending"),
    )


def hold(connection: Connection, study_uid: str, reason: str) -> int:
    """Park what was not sent of a study, until a person has looked. Returns how many results that are.

    Rejection notes go on: they take back what bears the wrong name.
    """
    return connection.execute(
        """
        UPDATE delivery d SET state = 'parked', reason = %s, next_try_at = NULL
          FROM result r JOIN answer a ON a.id = r.answer_id
         WHERE r.id = d.result_id AND a.study_uid = %s AND d.state = 'pending' AND r.kind <> 'rejection'
        """,
        (reason, study_uid),
    ).rowcount


def pending(connection: Connection, answer_id: int, destination: str, *, due_only: bool = True) -> list[dict[str, Any]]:
    """Results of an answer that a destination does not have yet and that are to be tried now, in order of sending."""
    return connection.execute(
        """
        SELECT d.id, d.destination, d.attempts, d.unclear_failures, d.next_try_at,
               extract(epoch FROM clock_timestamp() - coalesce(d.first_try_at, clock_timestamp()))::float AS trying_s,
               r.kind, r.outbox_name, r.sop_class_uid, r.sop_instance_uid, r.sha256, a.study_uid
          FROM delivery d JOIN result r ON r.id = d.result_id JOIN answer a ON a.id = r.answer_id
         WHERE r.answer_id = %s AND d.destination = %s AND d.state = 'pending'
           AND (NOT %s OR coalesce(d.next_try_at, now()) <= clock_timestamp() + interval '1 second')
         ORDER BY r.position
        """,
        (answer_id, destination, due_only),
    ).fetchall()


def state_of(connection: Connection, answer_id: int, destination: str, kind: str) -> str | None:
    """State of the delivery of one kind of result; ``None`` where it was not planned."""
    row = connection.execute(
        """
        SELECT d.state FROM delivery d JOIN result r ON r.id = d.result_id
         WHERE r.answer_id = %s AND d.destination = %s AND r.kind = %s ORDER BY d.id LIMIT 1
        """,
        (answer_id, destination, kind),
    ).fetchone()
    return None if row is None else str(row["state"])


def begin_try(connection: Connection, delivery_ids: Collection[int]) -> set[int]:
    """Of these deliveries the ids of those that are to be sent still; that they are is entered before it is done.

    Where the sender dies, the destination may have what no answer tells of.
    """
    rows = connection.execute(
        """
        UPDATE delivery SET first_try_at = coalesce(first_try_at, now()) WHERE id = ANY(%s) AND state = 'pending'
        RETURNING id
        """,
        (list(delivery_ids),),
    )
    return {int(row["id"]) for row in rows}


def mark_stored(
    connection: Connection, delivery_id: int, status_code: int, reason: str | None, *, prove: bool = False
) -> None:
    """The destination answered success or a warning: it says that it has the object.

    That holds also for what was parked, cancelled, superseded or retracted while it was on its way; a rejection note
    then follows what was retracted.

    Parameters
    ----------
    prove
        Whether the destination is to be asked for a proof of what is wanted there.
    """
    connection.execute(
        """
        UPDATE delivery SET state = 'stored', attempts = attempts + 1, status_code = %s,
               reason = coalesce(%s, CASE WHEN state IN ('parked', 'cancelled') THEN reason END),
               stored_at = now(), first_try_at = coalesce(first_try_at, now()), last_try_at = now(), next_try_at = NULL,
               proof_due_at = CASE WHEN %s AND state = 'pending' THEN now() END, proof_requests = 0
         WHERE id = %s AND state IN ('pending', 'parked', 'cancelled', 'withdrawn')
        """,
        (status_code, reason, prove, delivery_id),
    )
    _follow_with_note(connection, delivery_id)


def _follow_with_note(connection: Connection, delivery_id: int) -> None:
    """What was retracted while it was on its way is, or may be, there: the note goes after it."""
    connection.execute(
        """
        INSERT INTO delivery (result_id, destination, next_try_at)
        SELECT r.retracted_by, d.destination, now() FROM delivery d JOIN result r ON r.id = d.result_id
         WHERE d.id = %s AND r.retracted_by IS NOT NULL
        ON CONFLICT DO NOTHING
        """,
        (delivery_id,),
    )


def mark_failed(
    connection: Connection,
    delivery_id: int,
    *,
    status_code: int | None,
    reason: str,
    unclear: bool,
    retry_in_s: float | None,
) -> bool:
    """A try failed: again after ``retry_in_s``, or parked when that is ``None``. Returns whether it was parked.

    What was parked, cancelled, superseded or retracted during the try stays so; where it was begun (`begin_try`) it is
    counted, since the destination may have the object all the same, and a rejection note then follows what was
    retracted.
    """
    row = connection.execute(
        """
        UPDATE delivery d SET attempts = d.attempts + 1, unclear_failures = d.unclear_failures + %(unclear)s,
               status_code = %(status_code)s, first_try_at = coalesce(d.first_try_at, now()), last_try_at = now(),
               reason = CASE d.state WHEN 'pending' THEN %(reason)s ELSE d.reason END,
               state = CASE WHEN d.state = 'pending' AND %(retry_in_s)s::float IS NULL THEN 'parked' ELSE d.state END,
               next_try_at = CASE d.state WHEN 'pending' THEN now() + make_interval(secs => %(retry_in_s)s::float) END
          FROM delivery before
         WHERE before.id = d.id AND d.id = %(id)s
           AND (d.state = 'pending'
                OR d.first_try_at IS NOT NULL AND d.state IN ('parked', 'cancelled', 'withdrawn'))
        RETURNING before.state = 'pending' AND d.state = 'parked' AS parked
        """,
        {
            "id": delivery_id,
            "unclear": int(unclear),
            "status_code": status_code,
            "reason": reason,
            "retry_in_s": retry_in_s,
        },
    ).fetchone()
    if row is None:
        return False
    _follow_with_note(connection, delivery_id)
    return bool(row["parked"])


def outstanding(connection: Connection) -> list[dict[str, Any]]:
    """(answer_id, destination, wait_s) with results to send or to prove and for which no job waits or runs.

    One pass over each side: after an hour without a PACS there are thousands of both.
    """
    return connection.execute(
        """
        SELECT o.answer_id, o.destination, o.wait_s FROM (
            SELECT r.answer_id, d.destination,
                   greatest(0, extract(epoch FROM
                       min(CASE d.state WHEN 'pending' THEN d.next_try_at ELSE d.proof_due_at END) - clock_timestamp()
                   ))::float AS wait_s
              FROM delivery d JOIN result r ON r.id = d.result_id
             WHERE d.state = 'pending' OR d.state = 'stored' AND d.proof_due_at IS NOT NULL
             GROUP BY r.answer_id, d.destination) o
          LEFT JOIN procrastinate_jobs j
            ON j.lock = 'delivery:' || o.destination || ':' || o.answer_id AND j.status IN ('todo', 'doing')
         WHERE j.id IS NULL
         ORDER BY o.answer_id, o.destination  -- the same on every machine: keepers wait for each other's jobs
        """
    ).fetchall()


def waits(connection: Connection, answer_id: int, destination: str) -> list[dict[str, Any]]:
    """Seconds until each outstanding delivery of an answer is to be tried, or its proof to be asked for, again."""
    return connection.execute(
        """
        SELECT greatest(0, extract(epoch FROM
                   CASE d.state WHEN 'pending' THEN d.next_try_at ELSE d.proof_due_at END - clock_timestamp()
               ))::float AS wait_s
          FROM delivery d JOIN result r ON r.id = d.result_id
         WHERE r.answer_id = %s AND d.destination = %s
           AND (d.state = 'pending' OR d.state = 'stored' AND d.proof_due_at IS NOT NULL)
        """,
        (answer_id, destination),
    ).fetchall()
