"""What arrived: instances and their studies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
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
    study. A correction that is taken back is news again, and so is what comes again after every copy of it was erased.
    """
    _one_at_a_time(connection, {row.study_uid for row in rows})
    news: Counter[str] = Counter()
    for batch in _of_different_instances(rows):
        news.update(_insert(connection, batch))
    if news:
        studies = sorted(news)  # every listener locks them in the same order
        connection.execute(
            """
            INSERT INTO study (study_uid, last_instance_at, instances)
            SELECT study_uid, clock_timestamp(), n FROM unnest(%s::text[], %s::bigint[]) AS news (study_uid, n)
            ON CONFLICT (study_uid) DO UPDATE
               SET last_instance_at = clock_timestamp(), instances = study.instances + excluded.instances
            """,
            (studies, [news[study] for study in studies]),
        )
    return set(news)


def _of_different_instances(rows: list[InstanceRow]) -> Iterator[list[InstanceRow]]:
    """Runs of rows, in order, cut before each UID that the run has already: a statement does not see its own rows."""
    batch: dict[str, InstanceRow] = {}
    for row in rows:
        if row.sop_instance_uid in batch:
            yield list(batch.values())
            batch = {}
        batch[row.sop_instance_uid] = row
    if batch:
        yield list(batch.values())


def _insert(connection: Connection, rows: list[InstanceRow]) -> list[str]:
    """Enter receptions of different instances by one statement; the study of each that is news for one."""
    inserted = connection.execute(
        """
        INSERT INTO instance (spool_name, received_at, calling_ae, called_ae, transfer_syntax, sop_class_uid,
                              sop_instance_uid, study_uid, series_uid, patient_id, modality, bytes, sha256,
                              duplicate_of)
        SELECT spool_name, received_at, calling_ae, called_ae, transfer_syntax, sop_class_uid,
               sop_instance_uid, study_uid, series_uid, patient_id, modality, bytes, sha256,
               (SELECT CASE WHEN before.sha256 = arrived.sha256 THEN coalesce(before.duplicate_of, before.id) END
                  FROM instance before
                 WHERE before.sop_instance_uid = arrived.sop_instance_uid AND before.erased_at IS NULL
                 ORDER BY before.id DESC LIMIT 1)
          FROM unnest(%s::text[], %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[],
                      %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[])
          WITH ORDINALITY
            AS arrived (spool_name, received_at, calling_ae, called_ae, transfer_syntax, sop_class_uid,
                        sop_instance_uid, study_uid, series_uid, patient_id, modality, bytes, sha256, place)
         ORDER BY place
        ON CONFLICT (spool_name) DO NOTHING
        RETURNING study_uid, duplicate_of
        """,
        [[getattr(row, field.name) for row in rows] for field in fields(InstanceRow)],
    )
    return [row["study_uid"] for row in inserted if row["duplicate_of"] is None and row["study_uid"]]


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


def unread(connection: Connection) -> list[str]:
    """Names of the files that could not be read when they were entered: their rows have neither study nor digest."""
    rows = connection.execute(
        "SELECT spool_name FROM instance WHERE study_uid = '' AND sha256 = '' AND erased_at IS NULL ORDER BY id"
    )
    return [row["spool_name"] for row in rows]


def register_late(connection: Connection, row: InstanceRow) -> set[str]:
    """Enter such a file anew, as what arrives late. Returns the studies that changed.

    Where its object came again meanwhile, only its digest is noted: what came later counts.
    """
    newer = connection.execute(
        "SELECT 1 FROM instance WHERE sop_instance_uid = %s AND sha256 <> '' AND received_at > %s LIMIT 1",
        (row.sop_instance_uid, row.received_at),
    ).fetchone()
    unread_row = "spool_name = %s AND study_uid = '' AND sha256 = ''"
    if newer is not None:
        connection.execute(f"UPDATE instance SET sha256 = %s WHERE {unread_row}", (row.sha256, row.spool_name))
        return set()
    connection.execute(
        f"UPDATE instance SET duplicate_of = NULL WHERE duplicate_of = (SELECT id FROM instance WHERE {unread_row})",
        (row.spool_name,),
    )
    connection.execute(f"DELETE FROM instance WHERE {unread_row}", (row.spool_name,))
    return register(connection, [row])


def same_objects(connection: Connection, rows: list[InstanceRow]) -> list[dict[str, Any]]:
    """Id and name of the receptions that brought the same bytes under the same UID before, and are not erased."""
    return connection.execute(
        """
        SELECT i.id, i.spool_name FROM instance i
          JOIN unnest(%s::text[], %s::text[]) AS new (uid, sha256)
            ON i.sop_instance_uid = new.uid AND i.sha256 = new.sha256
         WHERE i.erased_at IS NULL AND i.spool_name <> ALL(%s)
        """,
        ([row.sop_instance_uid for row in rows], [row.sha256 for row in rows], [row.spool_name for row in rows]),
    ).fetchall()


def replace_lost(connection: Connection, ids: list[int]) -> set[int]:
    """Give up those of these receptions, whose files are lost, of which another copy is there; their ids.

    The copy takes the place by itself: see `instances_of`.
    """
    replaced = connection.execute(
        """
        UPDATE instance lost SET erased_at = now()
         WHERE id = ANY(%s) AND EXISTS (
               SELECT 1 FROM instance heir
                WHERE heir.sop_instance_uid = lost.sop_instance_uid AND heir.erased_at IS NULL AND heir.id <> ALL(%s)
                  AND coalesce(heir.duplicate_of, heir.id) = coalesce(lost.duplicate_of, lost.id))
        RETURNING id
        """,
        (ids, ids),
    )
    return {int(row["id"]) for row in replaced}


def registered_per_hour(connection: Connection, since: datetime) -> dict[str, int]:
    """Number of instances whose file should be in each hour's directory, of those that arrived after ``since``."""
    rows = connection.execute(
        "SELECT split_part(spool_name, '/', 1) AS hour, count(*) AS n FROM instance"
        " WHERE erased_at IS NULL AND received_at >= %s GROUP BY 1",
        (since,),
    )
    return {row["hour"]: row["n"] for row in rows}


def instances_of(connection: Connection, study_uid: str) -> list[dict[str, Any]]:
    """Receptions of a study whose files are there, without duplicates, in order of arrival.

    Of an image and its duplicates the first that is there stands for all: a duplicate outlives its original, which is
    past its retention before it. ``arrived_at`` is when these bytes came first, of the receptions that are there.
    """
    return connection.execute(
        """
        SELECT id, spool_name, series_uid, sha256, transfer_syntax, arrived_at
          FROM (SELECT *, min(received_at) OVER (PARTITION BY sop_instance_uid, sha256) AS arrived_at,
                       min(id) OVER (PARTITION BY coalesce(duplicate_of, id)) AS first_id FROM instance
                 WHERE study_uid = %s AND erased_at IS NULL) here
         WHERE id = first_id ORDER BY id
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
                   CASE WHEN (SELECT true FROM answer a WHERE a.study_uid = old.study_uid LIMIT 1)  -- as below
                        THEN %(answered)s ELSE %(not_eligible)s END) AS kept_from
              FROM old
        ), due AS (
            SELECT judged.study_uid, kept_from FROM judged
             WHERE oldest < kept_from
               AND NOT EXISTS (
                   SELECT 1 FROM answer a JOIN result r ON r.answer_id = a.id JOIN delivery d ON d.result_id = r.id
                    WHERE a.study_uid = judged.study_uid
                      AND (d.state IN ('pending', 'parked') OR d.state = 'stored' AND d.proof_due_at IS NOT NULL))
               AND NOT EXISTS (  -- nobody comes back to what was begun of a study that was given up
                   SELECT 1 FROM answer a JOIN study s USING (study_uid)
                    WHERE a.study_uid = judged.study_uid AND a.state = 'working'
                      AND (s.parked IS NULL OR s.parked NOT IN ('cancelled by hand', 'erased')))
        )
        SELECT i.id, i.spool_name FROM due JOIN instance i USING (study_uid) LEFT JOIN study s USING (study_uid)
         WHERE i.erased_at IS NULL AND i.received_at < due.kept_from
           AND (s.study_uid IS NULL
                OR s.evaluated_up_to >= coalesce(i.duplicate_of, i.id) AND s.parked IS NULL
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
           -- LIMIT: asked of the few results that are kept so long, where NOT EXISTS would read every delivery there is
           AND (SELECT true FROM delivery d WHERE d.result_id = r.id
                   AND (d.state IN ('pending', 'parked')
                        OR d.state = 'stored' AND d.proof_due_at IS NOT NULL
                        OR d.last_try_at >= now() - make_interval(secs => 3600 * %s)) LIMIT 1) IS NULL
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
