"""The ledger as people read it: studies with their answers and deliveries, and what they may change by hand."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import psycopg

from node.ledger import intake, outdated
from node.ledger.answers import UNSEEN

Connection = psycopg.Connection[dict[str, Any]]

_GIVEN_UP = "cancelled by hand after it was parked: "
"""How the reason begins of a delivery that was given up for good."""
_IS_GIVEN_UP = f"(d.state = 'cancelled' AND r.kind <> 'rejection' AND starts_with(d.reason, '{_GIVEN_UP}') IS TRUE)"


def studies(connection: Connection, limit: int = 50) -> list[dict[str, Any]]:
    """Newest studies with their state: waiting, evaluated, parked; answers and deliveries counted by state.

    ``flag`` is that of the answers which no later revision supersedes.
    """
    return connection.execute(
        f"""
        SELECT s.study_uid, s.instances, s.last_instance_at, s.evaluated_at, s.parked, s.waits_for, s.attempts,
               CASE WHEN s.parked = 'erased' THEN 'erased'
                    WHEN s.parked IS NOT NULL THEN 'parked'
                    WHEN {UNSEEN} THEN 'waiting'
                    ELSE 'evaluated' END AS state,
               (SELECT count(*) FROM answer a WHERE a.study_uid = s.study_uid AND a.state = 'done') AS answers,
               (SELECT bool_or(flag) FROM answer a WHERE a.study_uid = s.study_uid AND a.state = 'done'
                   AND NOT EXISTS (SELECT 1 FROM answer later
                                    WHERE later.predecessor = a.id AND later.state = 'done' AND later.sent)) AS flag,
               coalesce((SELECT jsonb_object_agg(state, n) FROM (
                   SELECT d.state, count(*) AS n FROM delivery d JOIN result r ON r.id = d.result_id
                     JOIN answer a ON a.id = r.answer_id WHERE a.study_uid = s.study_uid GROUP BY d.state) c), '{{}}')
                   AS deliveries
          FROM study s ORDER BY s.last_instance_at DESC LIMIT %s
        """.encode(),
        (limit,),
    ).fetchall()


def study(connection: Connection, study_uid: str) -> dict[str, Any] | None:
    """Everything the ledger knows of one study.

    ``outdated_by`` of a delivery: the revision that supersedes what stands there, and is not there itself; or null.
    """
    head = connection.execute("SELECT * FROM study WHERE study_uid = %s", (study_uid,)).fetchone()
    if head is None:
        return None
    by = outdated.outdated(connection, study_uid)
    sent = connection.execute(
        """
        SELECT d.id, a.id AS answer_id, a.revision, r.kind, r.sop_instance_uid, r.series_uid, d.destination, d.state,
               d.attempts, d.status_code, d.reason, d.last_try_at, d.stored_at, d.confirmed_at, d.proved_by, d.resent,
               d.next_try_at, d.proof_due_at, r.retracted_at
          FROM delivery d JOIN result r ON r.id = d.result_id JOIN answer a ON a.id = r.answer_id
         WHERE a.study_uid = %s ORDER BY a.id, r.position, d.destination
        """,
        (study_uid,),
    ).fetchall()
    return {
        **head,
        "series": connection.execute(
            "SELECT * FROM series WHERE study_uid = %s ORDER BY series_uid, sop_instance_uid", (study_uid,)
        ).fetchall(),
        "answers": connection.execute("SELECT * FROM answer WHERE study_uid = %s ORDER BY id", (study_uid,)).fetchall(),
        "deliveries": [{"outdated_by": by.get(row.pop("id")), **row} for row in sent],
    }


def retry(connection: Connection, study_uid: str, destinations: Collection[str]) -> int:
    """Take a study and its parked deliveries to ``destinations`` up again. Returns how many things that changed.

    A delivery to a destination that is not configured stays parked: nobody works on its queue (`unconfigured`). One
    that was parked before its study was cancelled stays cancelled (`given_up`). Of what a destination had accepted
    before the study was cancelled a proof is asked for again, unless it is retracted or superseded.
    """
    unparked = connection.execute(
        """
        UPDATE study SET parked = NULL, attempts = 0, waits_for = NULL, unreadable_since = NULL
         WHERE study_uid = %s AND parked <> 'erased'
        """,
        (study_uid,),
    ).rowcount
    resumed = connection.execute(
        f"""
        UPDATE delivery d SET state = 'pending', next_try_at = now(), first_try_at = NULL, unclear_failures = 0,
               resent = 0, proof_requests = 0, proof_failures = 0
          FROM result r JOIN answer a ON a.id = r.answer_id
         WHERE r.id = d.result_id AND a.study_uid = %s AND d.state IN ('parked', 'cancelled')
           AND NOT {_IS_GIVEN_UP} AND d.destination = ANY(%s)
        """.encode(),
        (study_uid, list(destinations)),
    ).rowcount
    unproven = connection.execute(
        """
        UPDATE delivery d SET proof_due_at = now(), proof_requests = 0, proof_failures = 0, reason = NULL
          FROM result r JOIN answer a ON a.id = r.answer_id
         WHERE r.id = d.result_id AND a.study_uid = %s AND d.state = 'stored' AND d.proof_due_at IS NULL
           AND d.reason = 'cancelled by hand' AND d.destination = ANY(%s) AND r.retracted_at IS NULL
           AND NOT EXISTS (SELECT 1 FROM answer n WHERE n.predecessor = a.id AND n.state = 'done' AND n.sent)
        """,
        (study_uid, list(destinations)),
    ).rowcount
    return unparked + resumed + unproven


def to_send(connection: Connection, study_uid: str) -> list[tuple[int, str]]:
    """(answer id, destination) with results of a study that are to be sent."""
    rows = connection.execute(
        """
        SELECT DISTINCT a.id, d.destination FROM delivery d
          JOIN result r ON r.id = d.result_id JOIN answer a ON a.id = r.answer_id
         WHERE a.study_uid = %s AND d.state = 'pending' ORDER BY a.id, d.destination
        """,
        (study_uid,),
    ).fetchall()
    return [(int(row["id"]), str(row["destination"])) for row in rows]


def given_up(connection: Connection, study_uid: str) -> int:
    """Number of a study's deliveries that were parked when it was cancelled: they are never sent."""
    row = connection.execute(
        f"""
        SELECT count(*) AS n FROM delivery d JOIN result r ON r.id = d.result_id JOIN answer a ON a.id = r.answer_id
         WHERE a.study_uid = %s AND {_IS_GIVEN_UP}
        """.encode(),
        (study_uid,),
    ).fetchone()
    assert row is not None
    return int(row["n"])


def unconfigured(connection: Connection, study_uid: str, destinations: Collection[str]) -> list[str]:
    """Names outside ``destinations`` for which results of a study are parked, or cancelled and not given up."""
    rows = connection.execute(
        f"""
        SELECT DISTINCT d.destination FROM delivery d
          JOIN result r ON r.id = d.result_id JOIN answer a ON a.id = r.answer_id
         WHERE a.study_uid = %s AND d.state IN ('parked', 'cancelled') AND NOT {_IS_GIVEN_UP}
           AND d.destination <> ALL(%s)
         ORDER BY d.destination
        """.encode(),
        (study_uid, list(destinations)),
    ).fetchall()
    return [str(row["destination"]) for row in rows]


def cancel(connection: Connection, study_uid: str) -> int:
    """Stop working on a study, parked or not: what was not sent is not sent. Returns how many things changed.

    What was parked by then is given up for good. No proof is asked for any more of what was accepted: an archive that
    does not keep it is not sent it again. Rejection notes that are under way go on: they send nothing of the study, and
    without them an archive keeps what was taken back.
    """
    head = connection.execute(
        """
        UPDATE study s SET parked = 'cancelled by hand', waits_for = NULL, unreadable_since = NULL
          FROM study before
         WHERE before.study_uid = s.study_uid AND s.study_uid = %s
           AND (s.parked IS NULL OR s.parked NOT IN ('cancelled by hand', 'erased'))
        RETURNING before.parked AS was
        """,
        (study_uid,),
    ).fetchone()
    rows = connection.execute(
        f"""
        UPDATE delivery d SET state = CASE d.state WHEN 'stored' THEN 'stored' ELSE 'cancelled' END,
               reason = CASE d.state WHEN 'parked' THEN '{_GIVEN_UP}' || coalesce(d.reason, 'not known why')
                                     ELSE 'cancelled by hand' END,
               next_try_at = NULL, proof_due_at = NULL
          FROM result r JOIN answer a ON a.id = r.answer_id
         WHERE r.id = d.result_id AND a.study_uid = %s
           AND (d.state = 'parked'
                OR r.kind <> 'rejection' AND (d.state = 'pending' OR d.state = 'stored' AND d.proof_due_at IS NOT NULL))
        RETURNING starts_with(d.reason, '{_GIVEN_UP}') AS was_parked
        """.encode(),
        (study_uid,),
    ).fetchall()
    if head is None and not rows:
        return 0
    detail: dict[str, Any] = {"deliveries": len(rows), "parked": sum(row["was_parked"] for row in rows)}
    if head is not None and head["was"] is not None:
        detail["study_was_parked"] = head["was"]
    intake.record_event(connection, "cancelled", study_uid, detail)
    outdated.tell(connection, study_uid)
    return (head is not None) + len(rows)


def counts(connection: Connection) -> dict[str, int]:
    """Totals for monitoring and for tests."""
    row = connection.execute(
        """
        SELECT (SELECT count(*) FROM instance) AS instances,
               (SELECT count(*) FROM study) AS studies,
               (SELECT count(*) FROM study WHERE parked IS NOT NULL AND parked NOT IN ('erased', 'cancelled by hand'))
                   AS studies_parked,
               (SELECT count(*) FROM answer WHERE state = 'done') AS answers,
               (SELECT count(*) FROM result) AS results,
               (SELECT count(*) FROM delivery WHERE state = 'pending') AS deliveries_pending,
               (SELECT count(*) FROM delivery WHERE state IN ('stored', 'confirmed')) AS deliveries_stored,
               (SELECT count(*) FROM delivery WHERE state = 'confirmed') AS deliveries_confirmed,
               (SELECT count(*) FROM delivery WHERE state = 'stored' AND proof_due_at IS NOT NULL)
                   AS deliveries_unproven,
               (SELECT count(*) FROM delivery WHERE state = 'parked') AS deliveries_parked
        """
    ).fetchone()
    assert row is not None
    return {key: int(value) for key, value in row.items()}
