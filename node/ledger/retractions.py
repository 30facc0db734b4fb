"""What was taken back: results with the rejection note that says so, and what is no longer sent because of it."""

from __future__ import annotations

from typing import Any

import psycopg

from node.ledger import intake
from node.ledger.answers import ResultRow

Connection = psycopg.Connection[dict[str, Any]]

_HAS_ARRIVED = """(
    SELECT coalesce(bool_and(d.state IN ('stored', 'confirmed')), false)
      FROM result r JOIN delivery d ON d.result_id = r.id
     WHERE r.answer_id = new.id AND r.kind <> 'rejection')"""
"""Whether every destination of answer ``new`` has all of it that was to go there."""


def retractable(connection: Connection, uid: str) -> list[dict[str, Any]]:
    """Results that are not retracted yet: the one of this SOP Instance UID, or all of this series or study."""
    return connection.execute(
        """
        SELECT r.*, a.study_uid FROM result r JOIN answer a ON a.id = r.answer_id
         WHERE %(uid)s IN (r.sop_instance_uid, r.series_uid, a.study_uid)
           AND r.retracted_at IS NULL AND r.kind <> 'rejection'
         ORDER BY r.answer_id, r.position
        """,
        {"uid": uid},
    ).fetchall()


def still_standing(connection: Connection, answer_id: int, result_ids: list[int]) -> list[int]:
    """Of these results of an answer, those that are not retracted; nobody retracts any until the transaction ends."""
    # first the lock: the statement after it sees what whoever had it before has done
    connection.execute("SELECT FROM answer WHERE id = %s FOR NO KEY UPDATE", (answer_id,))
    rows = connection.execute(
        "SELECT id FROM result WHERE id = ANY(%s) AND retracted_at IS NULL ORDER BY position", (result_ids,)
    )
    return [int(row["id"]) for row in rows]


def retract(connection: Connection, answer_id: int, result_ids: list[int], note: ResultRow, why: str) -> list[str]:
    """Mark results, all `still_standing`, as taken back by a note; returns the destinations that the note is to go to.

    Those are the ones that have any of the results, or may have (a try without an answer). What was not sent is not
    sent. No further proof is asked for: an archive that obeys a note may hide what it names.
    """
    row = connection.execute(
        """
        INSERT INTO result (answer_id, position, kind, sop_class_uid, sop_instance_uid, series_uid, outbox_name, bytes,
                            sha256)
        VALUES (%s, (SELECT max(position) + 1 FROM result WHERE answer_id = %s), %s, %s, %s, %s, %s, %s, %s)
        RETURNING id
        """,
        (answer_id, answer_id, *note.__dict__.values()),
    ).fetchone()
    assert row is not None
    connection.execute(
        "UPDATE result SET retracted_at = now(), retracted_by = %s WHERE id = ANY(%s)",
        (row["id"], result_ids),
    )
    connection.execute(
        """
        UPDATE delivery SET proof_due_at = NULL, next_try_at = NULL, reason = coalesce(reason || '; ', '') || %s,
               state = CASE WHEN state IN ('pending', 'parked', 'cancelled') THEN 'withdrawn' ELSE state END
         WHERE result_id = ANY(%s)
        """,
        (f"retracted: {why}", result_ids),
    )
    planned = connection.execute(
        """
        INSERT INTO delivery (result_id, destination, next_try_at)
        SELECT DISTINCT %s::bigint, destination, now() FROM delivery
         WHERE result_id = ANY(%s) AND (attempts > 0 OR first_try_at IS NOT NULL OR stored_at IS NOT NULL)
        RETURNING destination
        """,
        (row["id"], result_ids),
    ).fetchall()
    intake.record_event(connection, "retracted", note.sop_instance_uid, {"results": len(result_ids), "why": why})
    return sorted(str(item["destination"]) for item in planned)


def withdraw_superseded(connection: Connection, answer_id: int) -> None:
    """What an answer's predecessor still had to send is not sent any more: it may bear a name that was corrected.

    Of what was accepted no proof is asked any more: an archive that does not keep it is not sent it again.
    """
    connection.execute(
        """
        UPDATE delivery d SET next_try_at = NULL, proof_due_at = NULL,
               state = CASE d.state WHEN 'stored' THEN 'stored' ELSE 'withdrawn' END,
               reason = CASE d.state WHEN 'stored' THEN coalesce(d.reason || '; ', '') || 'no proof is asked for'
                                     ELSE 'not sent' END || ': superseded by revision ' || a.revision
          FROM result r, answer a
         WHERE r.id = d.result_id AND a.id = %s AND r.answer_id = a.predecessor AND r.kind <> 'rejection'
           AND (d.state IN ('pending', 'parked', 'cancelled') OR d.state = 'stored' AND d.proof_due_at IS NOT NULL)
        """,
        (answer_id,),
    )


def superseded(connection: Connection) -> list[dict[str, Any]]:
    """(answer_id, revision) of answers with results that stand, with a successor that is wherever it goes to.

    A successor that never got there is passed over for its own: what came after it supersedes both.
    """
    return connection.execute(
        f"""
        WITH RECURSIVE line AS (
            SELECT old.id AS answer_id, new.id AS later, new.revision, {_HAS_ARRIVED} AS arrived
              FROM answer old JOIN answer new ON new.predecessor = old.id
             WHERE new.state = 'done' AND new.sent
               AND EXISTS (SELECT 1 FROM result r JOIN delivery d ON d.result_id = r.id
                            WHERE r.answer_id = old.id AND r.retracted_at IS NULL AND r.kind <> 'rejection'
                              AND d.state IN ('stored', 'confirmed'))
            UNION ALL
            SELECT line.answer_id, new.id, new.revision, {_HAS_ARRIVED}
              FROM line JOIN answer new ON new.predecessor = line.later
             WHERE NOT line.arrived AND new.state = 'done' AND new.sent
        )
        SELECT answer_id, max(revision) AS revision FROM line WHERE arrived GROUP BY answer_id ORDER BY answer_id
        """.encode()
    ).fetchall()


def results_that_stand(connection: Connection, answer_id: int) -> list[dict[str, Any]]:
    """Results of an answer that are not retracted."""
    return connection.execute(
        """
        SELECT r.*, a.study_uid FROM result r JOIN answer a ON a.id = r.answer_id
         WHERE r.answer_id = %s AND r.retracted_at IS NULL AND r.kind <> 'rejection' ORDER BY r.position
        """,
        (answer_id,),
    ).fetchall()


def destinations_of(connection: Connection, answer_id: int) -> list[str]:
    """Where results of an answer went, or were to go."""
    rows = connection.execute(
        """
        SELECT DISTINCT d.destination FROM delivery d JOIN result r ON r.id = d.result_id
         WHERE r.answer_id = %s ORDER BY d.destination
        """,
        (answer_id,),
    )
    return [str(row["destination"]) for row in rows]
