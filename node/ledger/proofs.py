"""What proves that a destination has a result: storage commitment (PS3.4 Annex J) or a query.

A transaction is entered before it is asked for, and never taken out again: a report that comes late, twice or after a
restart finds its transaction. A delivery is asked for again while ``proof_due_at`` is set. Whoever retracts, supersedes
or cancels clears it, perhaps while a question is under way: what is found out then changes nothing any more, but that
the destination has the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import psycopg

Connection = psycopg.Connection[dict[str, Any]]


class Next(Enum):
    """What to do about an object that the destination did not commit to."""

    SEND_AGAIN = "send again"
    ASK_AGAIN = "ask again"
    ASK_BY_QUERY = "ask by query"


@dataclass(frozen=True)
class Rules:
    """Bounds of proving.

    Attributes
    ----------
    patience_s
        How long a report is waited for, request by request; after the last one a query decides.
    most_resent
        An object that is stored this often and not kept is parked.
    """

    patience_s: Sequence[float]
    most_resent: int


@dataclass(frozen=True)
class Reported:
    """What a report changed: the answer and destination to look at again, and UIDs that were parked, with reasons."""

    answer_id: int
    destination: str
    parked: Mapping[str, str]


def due(connection: Connection, answer_id: int, destination: str) -> list[dict[str, Any]]:
    """Results of an answer that a destination accepted and for which a proof is due, in order of sending."""
    return connection.execute(
        """
        SELECT d.id, d.proof_requests, d.proof_failures, d.resent,
               extract(epoch FROM clock_timestamp() - d.stored_at)::float AS stored_s,
               r.kind, r.sop_class_uid, r.sop_instance_uid, r.series_uid, a.study_uid
          FROM delivery d JOIN result r ON r.id = d.result_id JOIN answer a ON a.id = r.answer_id
         WHERE r.answer_id = %s AND d.destination = %s AND d.state = 'stored'
           AND d.proof_due_at <= clock_timestamp() + interval '1 second'
         ORDER BY r.position
        """,
        (answer_id, destination),
    ).fetchall()


def unproven(connection: Connection, answer_id: int, destination: str) -> list[dict[str, Any]]:
    """Results of an answer that a destination accepted and for which a proof is outstanding, due or not."""
    return connection.execute(
        """
        SELECT d.id, r.kind, r.sop_instance_uid FROM delivery d JOIN result r ON r.id = d.result_id
         WHERE r.answer_id = %s AND d.destination = %s AND d.state = 'stored' AND d.proof_due_at IS NOT NULL
         ORDER BY r.position
        """,
        (answer_id, destination),
    ).fetchall()


def request(
    connection: Connection,
    transaction_uid: str,
    answer_id: int,
    destination: str,
    delivery_ids: Sequence[int],
    patience_s: float,
) -> None:
    """Enter a transaction that is about to be asked for; its deliveries are not due again for ``patience_s``."""
    connection.execute(
        "INSERT INTO commitment (transaction_uid, answer_id, destination) VALUES (%s, %s, %s)",
        (transaction_uid, answer_id, destination),
    )
    connection.execute(
        "INSERT INTO commitment_item (transaction_uid, delivery_id) SELECT %s, unnest(%s::bigint[])",
        (transaction_uid, list(delivery_ids)),
    )
    asked(connection, delivery_ids, patience_s)


def asked(connection: Connection, delivery_ids: Sequence[int], patience_s: float) -> datetime:
    """A proof of these deliveries is being asked for; they are not due again for ``patience_s``. Returns when that is.

    The time is the database's.
    """
    connection.execute(
        """
        UPDATE delivery SET proof_requests = proof_requests + 1,
               proof_due_at = now() + make_interval(secs => %s)
         WHERE id = ANY(%s) AND state = 'stored' AND proof_due_at IS NOT NULL
        """,
        (patience_s, list(delivery_ids)),
    )
    row = connection.execute("SELECT now() AS at").fetchone()
    assert row is not None
    at: datetime = row["at"]
    return at


def accepted(connection: Connection, transaction_uid: str) -> None:
    """The destination took the request; it will report."""
    connection.execute("UPDATE commitment SET accepted_at = now() WHERE transaction_uid = %s", (transaction_uid,))
    connection.execute(
        """
        UPDATE delivery d SET proof_failures = 0, reason = NULL FROM commitment_item i
         WHERE i.delivery_id = d.id AND i.transaction_uid = %s AND d.state = 'stored' AND d.status_code = 0
        """,
        (transaction_uid,),
    )


def not_asked(connection: Connection, delivery_ids: Sequence[int], reason: str, retry_in_s: float) -> None:
    """Nobody could be asked: it does not count as a request. A transaction that got through all the same may report."""
    connection.execute(
        """
        UPDATE delivery SET proof_requests = greatest(0, proof_requests - 1), proof_failures = proof_failures + 1,
               proof_due_at = now() + make_interval(secs => %s), reason = %s
         WHERE id = ANY(%s) AND state = 'stored' AND proof_due_at IS NOT NULL
        """,
        (retry_in_s, reason, list(delivery_ids)),
    )


def is_settled(connection: Connection, transaction_uid: str) -> bool:
    """Whether the destination has reported of every object of a transaction."""
    row = connection.execute(
        "SELECT count(*) AS open FROM commitment_item WHERE transaction_uid = %s AND outcome IS NULL",
        (transaction_uid,),
    ).fetchone()
    return row is not None and row["open"] == 0


def report(
    connection: Connection,
    transaction_uid: str,
    committed: Sequence[str],
    failed: Mapping[str, int],
    next_step: Callable[[int], Next],
    rules: Rules,
) -> Reported | None:
    """Enter a destination's report; ``None`` where no such transaction was asked for.

    Parameters
    ----------
    committed
        SOP Instance UIDs that the destination vouches for.
    failed
        SOP Instance UID to failure reason of those it does not.
    """
    transaction = connection.execute(
        """
        UPDATE commitment SET reported_at = now() WHERE transaction_uid = %s
        RETURNING answer_id, destination, requested_at
        """,
        (transaction_uid,),
    ).fetchone()
    if transaction is None:
        return None
    items = connection.execute(
        """
        SELECT i.delivery_id, r.sop_instance_uid FROM commitment_item i
          JOIN delivery d ON d.id = i.delivery_id JOIN result r ON r.id = d.result_id
         WHERE i.transaction_uid = %s ORDER BY i.delivery_id FOR UPDATE OF d
        """,
        (transaction_uid,),
    ).fetchall()
    vouched, parked = frozenset(committed), {}
    for item in items:
        uid, delivery_id = item["sop_instance_uid"], item["delivery_id"]
        if uid in failed:
            _outcome(connection, transaction_uid, delivery_id, "failed", failed[uid])
            asked_at = transaction["requested_at"]
            sentence = not_kept(connection, delivery_id, asked_at, failed[uid], next_step(failed[uid]), rules)
            if sentence is not None:
                parked[uid] = sentence
        elif uid in vouched:
            _outcome(connection, transaction_uid, delivery_id, "committed", None)
            confirm(connection, delivery_id, "storage_commitment", transaction_uid)
    return Reported(transaction["answer_id"], transaction["destination"], parked)


def confirm(connection: Connection, delivery_id: int, proved_by: str, transaction_uid: str = "") -> None:
    """The destination has the object: that is proven.

    A late "yes" counts unless a later request was answered "no"; nothing that was withdrawn is confirmed.
    """
    connection.execute(
        """
        UPDATE delivery d SET state = 'confirmed', confirmed_at = now(), proved_by = %s, proof_due_at = NULL,
               proof_failures = 0, next_try_at = NULL, reason = CASE WHEN status_code = 0 THEN NULL ELSE reason END
         WHERE id = %s AND stored_at IS NOT NULL
           AND (state = 'stored' OR state IN ('pending', 'parked') AND NOT EXISTS (
               SELECT 1 FROM commitment_item i JOIN commitment c USING (transaction_uid)
                WHERE i.delivery_id = d.id AND i.outcome = 'failed' AND c.requested_at >=
                      (SELECT requested_at FROM commitment WHERE transaction_uid = %s)))
        """,
        (proved_by, delivery_id, transaction_uid),
    )


def not_kept(
    connection: Connection, delivery_id: int, asked_at: datetime, failure_reason: int, step: Next, rules: Rules
) -> str | None:
    """The destination does not vouch for a stored object. Returns why it was parked, ``None`` where it was not.

    The answer to what was asked at ``asked_at`` counts no more where the object was stored again or proven since, nor
    where no proof of it is wanted any more: it was retracted, superseded or cancelled.
    """
    if not _is_unproven(connection, delivery_id, asked_at):
        return None
    if step is Next.ASK_BY_QUERY:
        connection.execute(
            "UPDATE delivery SET proof_requests = %s, proof_due_at = now() WHERE id = %s",
            (len(rules.patience_s), delivery_id),
        )
        return None
    if step is Next.ASK_AGAIN:  # it stays due when it was: a destination that is busy is not asked at once
        return None
    why = f"the destination accepted it and does not keep it (0x{failure_reason:04X})"
    row = connection.execute(
        """
        UPDATE delivery SET resent = resent + 1, proof_requests = 0, proof_due_at = NULL,
               state = CASE WHEN resent + 1 >= %s THEN 'parked' ELSE 'pending' END,
               next_try_at = CASE WHEN resent + 1 >= %s THEN NULL ELSE now() END, reason = %s
         WHERE id = %s RETURNING state
        """,
        (rules.most_resent, rules.most_resent, f"{why}: sent again", delivery_id),
    ).fetchone()
    if row is None or row["state"] == "pending":
        return None
    sentence = f"{why}, {rules.most_resent} times: see its log"
    connection.execute("UPDATE delivery SET reason = %s WHERE id = %s", (sentence, delivery_id))
    return sentence


def park(connection: Connection, delivery_id: int, reason: str) -> bool:
    """Whether the destination has the object cannot be found out: a person must look, unless no proof is wanted now.

    Returns whether it was parked.
    """
    parked = connection.execute(
        """
        UPDATE delivery SET state = 'parked', reason = %s, proof_due_at = NULL
         WHERE id = %s AND state = 'stored' AND proof_due_at IS NOT NULL
        """,
        (reason, delivery_id),
    )
    return parked.rowcount == 1


def ask_no_more(connection: Connection, answer_id: int, destination: str, reason: str) -> None:
    """No proof is to be had any more of an answer's deliveries to a destination: they stay as accepted as they are."""
    connection.execute(
        """
        UPDATE delivery d SET proof_due_at = NULL, reason = %s FROM result r
         WHERE r.id = d.result_id AND r.answer_id = %s AND d.destination = %s AND d.state = 'stored'
           AND d.proof_due_at IS NOT NULL
        """,
        (reason, answer_id, destination),
    )


def _is_unproven(connection: Connection, delivery_id: int, asked_at: datetime) -> bool:
    """Whether a "no" to what was asked then still counts; that stays so until the transaction ends."""
    row = connection.execute(
        """
        SELECT 1 FROM delivery WHERE id = %s AND state = 'stored' AND stored_at <= %s AND proof_due_at IS NOT NULL
           FOR NO KEY UPDATE
        """,
        (delivery_id, asked_at),
    ).fetchone()
    return row is not None


def _outcome(
    connection: Connection, transaction_uid: str, delivery_id: int, outcome: str, failure_reason: int | None
) -> None:
    connection.execute(
        """
        UPDATE commitment_item SET outcome = %s, failure_reason = %s WHERE transaction_uid = %s AND delivery_id = %s
        """,
        (outcome, failure_reason, transaction_uid, delivery_id),
    )
