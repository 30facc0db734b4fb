"""What arrived: instances and their studies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[dict[str, Any]]
STUDY_LOCK = 0x53505354  # "SPST": class of the advisory locks of studies


@dataclass(frozen=True)
class InstanceRow:
    """One reception as the ledger keeps it."""

    spool_name: str
    received_at: datetime
    calling_ae: str
    called_ae: str
    transfer_syntax: str
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    modality: str
    bytes: int
    sha256: str


def register(connection: Connection, rows: list[InstanceRow]) -> set[str]:
    """Enter receptions; those already entered are left as they are. Returns the studies that changed.

    A reception with the UID and the bytes of the one before it is a duplicate: kept in the ledger, no news for the
    study. A correction that is taken back is news again.
    """
    _one_at_a_time(connection, {row.study_uid for row in rows})
    changed: set[str] = set()
    for row in rows:
        inserted = connection.execute(
            """
            INSERT INTO instance (spool_name, received_at, calling_ae, called_ae, transfer_syntax, sop_class_uid,
                                  sop_instance_uid, study_uid, series_uid, patient_id, modality, bytes, sha256,
                                  duplicate_of)
            VALUES (%(spool_name)s, %(received_at)s, %(calling_ae)s, %(called_ae)s, %(transfer_syntax)s,
                    %(sop_class_uid)s, %(sop_instance_uid)s, %(study_uid)s, %(series_uid)s, %(patient_id)s,
                    %(modality)s, %(bytes)s, %(sha256)s,
                    (SELECT CASE WHEN sha256 = %(sha256)s THEN coalesce(duplicate_of, id) END FROM instance
                      WHERE sop_instance_uid = %(sop_instance_uid)s AND erased_at IS NULL ORDER BY id DESC LIMIT 1))
            ON CONFLICT (spool_name) DO NOTHING
            RETURNING duplicate_of
            """,
            row.__dict__,
        ).fetchone()
        if inserted is None or inserted["duplicate_of"] is not None or not row.study_uid:
            continue
        connection.execute(
            """
            INSERT INTO study (study_uid, last_instance_at, instances) VALUES (%s, clock_timestamp(), 1)
            ON CONFLICT (study_uid) DO UPDATE
               SET last_instance_at = clock_timestamp(), instances = study.instances + 1
            """,
            (row.study_uid,),
        )
        changed.add(row.study_uid)
    return changed


def _one_at_a_time(connection: Connection, study_uids: set[str]) -> None:
    """Hold these studies against other listeners' registrars until the transaction ends.

    Without it an instance could become visible after one with a higher id: an evaluation that saw the higher one would
    take the study for complete, and never look at the other. And two registrars with the same studies in another order
    would wait for each other.
    """
    connection.execute(
        "SELECT pg_advisory_xact_lock(%s, key) FROM"
        " (SELECT DISTINCT hashtext(uid) AS key FROM unnest(%s::text[]) AS uid ORDER BY key) AS keys",
        (STUDY_LOCK, list(study_uids)),
    )


def registered(connection: Connection, spool_names: list[str]) -> dict[str, bool]:
    """Of these names, the ones the ledger has: name to whether its file should be gone (erased)."""
    rows = connection.execute(
        "SELECT spool_name, erased_at IS NOT NULL AS erased FROM instance WHERE spool_name = ANY(%s)", (spool_names,)
    )
    return {row["spool_name"]: row["erased"] for row in rows}


def registered_per_hour(connection: Connection, since: datetime) -> dict[str, int]:
    """Number of instances whose file should be in each hour's directory, of those that arrived after ``since``."""
    rows = connection.execute(
        "SELECT split_part(spool_name, '/', 1) AS hour, count(*) AS n FROM instance"
        " WHERE erased_at IS NULL AND received_at >= %s GROUP BY 1",
        (since,),
    )
    return {row["hour"]: row["n"] for row in rows}


def instances_of(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """Receptions of a study whose files are there, without duplicates, in order of arrival."""
    return connection.execute(
        """
        SELECT id, spool_name, series_uid, sha256 FROM instance
         WHERE study_uid = %s AND erased_at IS NULL AND duplicate_of IS NULL ORDER BY id
        """,
        (study_uid,),
    ).fetchall()


def fragments(connection: Connection, study_uid: str) -> set[str]:
    """Series of a study of which images were deleted after their retention: what is left must not be answered."""
    rows = connection.execute(
        """
        SELECT DISTINCT series_uid FROM instance gone
         WHERE study_uid = %s AND erased_at IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM instance here
                            WHERE here.sop_instance_uid = gone.sop_instance_uid AND here.erased_at IS NULL)
        """,
        (study_uid,),
    )
    return {row["series_uid"] for row in rows}


def events(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The newest audit events, newest first."""
    return connection.execute(
        "SELECT at, kind, subject, detail FROM event ORDER BY id DESC LIMIT %s", (limit,)
    ).fetchall()


def forget_events(connection: Connection, days: float) -> None:
    """Delete audit events older than that."""
    connection.execute("DELETE FROM event WHERE at < now() - make_interval(secs => 86400 * %s)", (days,))


def record_event(connection: Connection, kind: str, subject: str = "", detail: dict[str, Any] | None = None) -> None:
    """Write one audit event. ``subject`` is an AE title or a UID, never a patient's name."""
    connection.execute(
        "INSERT INTO event (kind, subject, detail) VALUES (%s, %s, %s)",
        (kind, subject, Jsonb(detail or {})),
    )


def expired(
    connection: Connection, answered_hours: float, not_eligible_hours: float, limit: int
) -> list[dict[str, Any]]:
    """Instances that may go: their study is evaluated, and nothing of it is outstanding.

    Images of a study with an answer stay ``answered_hours`` after arrival, all others ``not_eligible_hours``.
    """
    return connection.execute(
        """
        WITH old AS (  -- studies are judged, not each of their images: there are hundreds of times fewer
            SELECT study_uid, min(received_at) AS oldest FROM instance
             WHERE erased_at IS NULL
               AND received_at < now() - make_interval(secs => 3600 * least(%(answered)s, %(not_eligible)s))
             GROUP BY study_uid
        ), judged AS (
            SELECT old.*, now() - make_interval(secs => 3600 *
                   CASE WHEN EXISTS (SELECT 1 FROM answer a WHERE a.study_uid = old.study_uid)
                        THEN %(answered)s ELSE %(not_eligible)s END) AS kept_from
              FROM old
        ), due AS (
            SELECT judged.study_uid, kept_from FROM judged
             WHERE oldest < kept_from
               AND NOT EXISTS (
                   SELECT 1 FROM answer a JOIN result r ON r.answer_id = a.id JOIN delivery d ON d.result_id = r.id
                    WHERE a.study_uid = judged.study_uid
                      AND (d.state IN ('pending', 'parked') OR d.state = 'stored' AND d.proof_due_at IS NOT NULL))
               AND NOT EXISTS (SELECT 1 FROM answer a WHERE a.study_uid = judged.study_uid AND a.state = 'working')
        )
        SELECT i.id, i.spool_name FROM due JOIN instance i USING (study_uid) LEFT JOIN study s USING (study_uid)
         WHERE i.erased_at IS NULL AND i.received_at < due.kept_from
           AND (s.study_uid IS NULL
                OR (s.evaluated_up_to >= i.id OR i.duplicate_of IS NOT NULL) AND s.parked IS NULL
                OR s.parked IN ('cancelled by hand', 'erased'))
         ORDER BY i.id LIMIT %(limit)s
        """,
        {"answered": answered_hours, "not_eligible": not_eligible_hours, "limit": limit},
    ).fetchall()


def expired_results(connection: Connection, hours: float, limit: int) -> list[dict[str, Any]]:
    """Results whose outbox file may go: every destination has had them for that long, or they were cancelled."""
    return connection.execute(
        """
        SELECT r.id, r.outbox_name FROM result r JOIN answer a ON a.id = r.answer_id
         WHERE r.erased_at IS NULL AND a.finished_at < now() - make_interval(secs => 3600 * %s)
           AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.result_id = r.id
                            AND (d.state IN ('pending', 'parked')
                                 OR d.state = 'stored' AND d.proof_due_at IS NOT NULL
                                 OR d.last_try_at >= now() - make_interval(secs => 3600 * %s)))
         ORDER BY r.id LIMIT %s
        """,
        (hours, hours, limit),
    ).fetchall()


def mark_results_erased(connection: Connection, ids: list[int]) -> None:
    """Say that these results' outbox files are to go; UIDs and digests outlive them."""
    connection.execute("UPDATE result SET erased_at = now() WHERE id = ANY(%s)", (ids,))


def mark_erased(connection: Connection, ids: list[int]) -> None:
    """Say that these instances' files are to go; the file follows, so that a crash leaves no file without a row."""
    connection.execute("UPDATE instance SET erased_at = now() WHERE id = ANY(%s)", (ids,))
