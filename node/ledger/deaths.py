"""Deliveries at which a sending process died and that have not come to an end since: they are tried apart from others.

A row stands for a delivery (an answer to a destination). It goes when a try of it ends, however: stored, refused, or
nobody there. One that was parked for its deaths leaves its row behind, without counts, until something else at the same
destination has ended: it may be the destination that kills.
"""

from __future__ import annotations

from typing import Any

import psycopg

Connection = psycopg.Connection[dict[str, Any]]

_OUTSTANDING = """EXISTS (
    SELECT 1 FROM delivery d JOIN result r ON r.id = d.result_id
     WHERE r.answer_id = {} AND d.destination = {}
       AND (d.state = 'pending' OR d.state = 'stored' AND d.proof_due_at IS NOT NULL))"""


def is_tried_apart(connection: Connection, answer_id: int, destination: str) -> bool:
    """Whether a sender died at this delivery, at another one to the destination, or at another one of the answer."""
    row = connection.execute(
        "SELECT 1 FROM sender_death WHERE answer_id = %s OR destination = %s LIMIT 1", (answer_id, destination)
    ).fetchone()
    return row is not None


def is_outstanding(connection: Connection, answer_id: int, destination: str) -> bool:
    """Whether anything of a delivery is left to be sent or proven."""
    row = connection.execute(
        f"SELECT 1 FROM answer a WHERE a.id = %s AND {_OUTSTANDING.format('a.id', '%s')}", (answer_id, destination)
    ).fetchone()
    return row is not None


def died_among_others(connection: Connection, answer_id: int, destination: str) -> None:
    """A process died with this delivery under way, and perhaps with others: it is not known of which.

    Where nothing was left of it no try will ever end, and it stands for nothing.
    """
    if not is_outstanding(connection, answer_id, destination):
        return
    connection.execute(
        """
        INSERT INTO sender_death AS d (answer_id, destination, among_others)
        SELECT id, %s, 1 FROM answer WHERE id = %s
        ON CONFLICT (answer_id, destination) DO UPDATE SET among_others = d.among_others + 1
        """,
        (destination, answer_id),
    )


def died_alone(connection: Connection, answer_id: int, destination: str) -> int:
    """A process died with nothing but this delivery under way.

    Returns how many deaths that makes: those alone, and one among others, of which this delivery is the likely reason
    by now. More than one says nothing: power cuts and restarts count among them.
    """
    row = connection.execute(
        """
        INSERT INTO sender_death AS d (answer_id, destination, alone) VALUES (%s, %s, 1)
        ON CONFLICT (answer_id, destination) DO UPDATE SET alone = d.alone + 1
        RETURNING alone + least(among_others, 1) AS deaths
        """,
        (answer_id, destination),
    ).fetchone()
    assert row is not None
    return int(row["deaths"])


def gave_up(connection: Connection, answer_id: int, destination: str) -> None:
    """The delivery is parked: whatever is tried of it after that, on demand, has its own tries."""
    connection.execute(
        "UPDATE sender_death SET among_others = 0, alone = 0 WHERE answer_id = %s AND destination = %s",
        (answer_id, destination),
    )


def ended(connection: Connection, answer_id: int, destination: str) -> None:
    """A try apart from others came to its end: no process dies of this delivery, nor of its destination."""
    connection.execute(
        f"""
        DELETE FROM sender_death s
         WHERE destination = %s AND (answer_id = %s OR NOT {_OUTSTANDING.format("s.answer_id", "s.destination")})
        """,
        (destination, answer_id),
    )
