"""A patient's data out of the ledger: what identifies goes, counts and hashes stay.

UIDs of what was received become hashes: of a study that comes again it is still known that it was answered, so that no
second content is ever sent under a derived UID. Whoever holds the original images can recompute the hashes, and the
UIDs of our results, which derive from them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[dict[str, Any]]

ERASED = "erased"
"""Why an erased study is parked."""
_PREFIX = "erased:"
_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "maxmem": 2**26}
_HASHED = f"'{_PREFIX}' || encode(sha256(convert_to({{column}}, 'UTF8')), 'hex')"


def recall(connection: Connection, study_uid: str, series_uid: str, sop_instance_uid: str) -> None:
    """What was erased and comes again is known again: answers of the study take back the UIDs that came."""
    study, series, image = (both_names(uid)[-1] for uid in (study_uid, series_uid, sop_instance_uid))
    connection.execute(
        """
        UPDATE answer SET study_uid = %(study_uid)s,
               series_uid = CASE series_uid WHEN %(series)s THEN %(series_uid)s ELSE series_uid END,
               sop_instance_uid = CASE sop_instance_uid WHEN %(image)s THEN %(image_uid)s ELSE sop_instance_uid END
         WHERE study_uid = %(study)s
            OR study_uid = %(study_uid)s AND (series_uid = %(series)s OR sop_instance_uid = %(image)s)
        """,
        {
            "study_uid": study_uid,
            "series_uid": series_uid,
            "image_uid": sop_instance_uid,
            "study": study,
            "series": series,
            "image": image or None,  # '' stands for the whole series
        },
    )


def both_names(uid: str) -> list[str]:
    """The UID, and what erasure makes of it."""
    return [uid, _PREFIX + hashlib.sha256(uid.encode("utf-8")).hexdigest()] if uid else [""]


def studies_of(connection: Connection, patient_id: str) -> list[str]:
    """Studies in which any image bears this patient ID: all of such a study is taken for the patient's."""
    rows = connection.execute(
        "SELECT DISTINCT study_uid FROM instance WHERE patient_id = %s AND study_uid <> '' ORDER BY 1", (patient_id,)
    )
    return [str(row["study_uid"]) for row in rows]


def stop_work(connection: Connection, studies: Sequence[str]) -> list[int]:
    """Nothing of these studies is evaluated, sent or asked for any more; returns the ids of their answers."""
    connection.execute("UPDATE study SET parked = %s WHERE study_uid = ANY(%s)", (ERASED, list(studies)))
    answers = connection.execute("SELECT id FROM answer WHERE study_uid = ANY(%s)", (list(studies),)).fetchall()
    ids = [int(row["id"]) for row in answers]
    connection.execute(
        """
        UPDATE delivery d SET proof_due_at = NULL, next_try_at = NULL,
               state = CASE WHEN state IN ('pending', 'parked', 'cancelled') THEN 'withdrawn' ELSE state END
          FROM result r WHERE r.id = d.result_id AND r.answer_id = ANY(%s)
        """,
        (ids,),
    )
    connection.execute(
        "DELETE FROM procrastinate_jobs WHERE status <> 'doing' AND (lock = ANY(%s) OR lock ~ %s)",
        (_study_locks(studies), _delivery_locks(ids)),
    )
    return ids


def is_worked_on(connection: Connection, studies: Sequence[str], answers: Sequence[int]) -> bool:
    """Whether a worker is busy with any of these studies or answers."""
    row = connection.execute(
        "SELECT count(*) AS n FROM procrastinate_jobs WHERE status = 'doing' AND (lock = ANY(%s) OR lock ~ %s)",
        (_study_locks(studies), _delivery_locks(answers)),
    ).fetchone()
    return row is not None and row["n"] > 0


def _study_locks(studies: Sequence[str]) -> list[str]:
    return [f"study:{uid}" for uid in studies]


def _delivery_locks(answers: Sequence[int]) -> str:
    return f"^delivery:.*:({'|'.join(map(str, answers)) or 'none'})$"


def files_of(connection: Connection, patient_id: str, studies: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names in the spool and in the outbox that belong to a patient; they are marked as gone.

    A file that outlives its mark (the program was killed) is deleted when the spool is read at the next start.
    """
    spool = connection.execute(
        """
        UPDATE instance SET erased_at = coalesce(erased_at, now()) WHERE study_uid = ANY(%s) OR patient_id = %s
        RETURNING spool_name
        """,
        (list(studies), patient_id),
    ).fetchall()
    outbox = connection.execute(
        """
        UPDATE result r SET erased_at = coalesce(r.erased_at, now()) FROM answer a
         WHERE a.id = r.answer_id AND a.study_uid = ANY(%s) RETURNING r.outbox_name
        """,
        (list(studies),),
    ).fetchall()
    return [row["spool_name"] for row in spool], [row["outbox_name"] for row in outbox]


def forget(connection: Connection, studies: Sequence[str], patient_id: str | None = None) -> None:
    """Take everything that identifies out of these studies' rows, and out of a patient's images without a study.

    Their jobs go, too, but for one that runs: it deletes itself when it ends.
    """
    uids = list(studies)
    study, series, sop = (_HASHED.format(column=column) for column in ("study_uid", "series_uid", "sop_instance_uid"))
    statements = (
        f"""
        INSERT INTO study (study_uid, last_instance_at, instances, evaluated_at, evaluated_up_to, parked)
        SELECT {study}, last_instance_at, instances, evaluated_at, evaluated_up_to, '{ERASED}' FROM study
         WHERE study_uid = ANY(%(uids)s)
        ON CONFLICT (study_uid) DO UPDATE
           SET instances = study.instances + excluded.instances, last_instance_at = excluded.last_instance_at
        """,
        f"""
        UPDATE answer SET study_uid = {study}, series_uid = {series},
               sop_instance_uid = CASE sop_instance_uid WHEN '' THEN '' ELSE {sop} END
         WHERE study_uid = ANY(%(uids)s)
        """,
        "DELETE FROM series WHERE study_uid = ANY(%(uids)s)",
        f"""
        UPDATE event SET subject = {_HASHED.format(column="regexp_replace(subject, '^study:', '')")}
         WHERE subject = ANY(%(uids)s) OR subject = ANY(%(keys)s)  -- keys: of workers' deaths, as they once were
        """,
        "DELETE FROM procrastinate_jobs WHERE status <> 'doing' AND lock = ANY(%(keys)s)",
        "DELETE FROM study WHERE study_uid = ANY(%(uids)s)",
        f"""
        UPDATE instance SET study_uid = CASE study_uid WHEN '' THEN '' ELSE {study} END,
               series_uid = CASE series_uid WHEN '' THEN '' ELSE {series} END,
               sop_instance_uid = CASE sop_instance_uid WHEN '' THEN '' ELSE {sop} END, patient_id = ''
         WHERE study_uid = ANY(%(uids)s) OR patient_id = %(patient_id)s AND study_uid = ''
        """,
    )
    for statement in statements:
        connection.execute(statement.encode(), {"uids": uids, "keys": _study_locks(uids), "patient_id": patient_id})


def old_studies(connection: Connection, days: float, limit: int) -> list[str]:
    """Studies of which nothing happened for that long, whose files are gone and of which nothing is outstanding."""
    rows = connection.execute(
        """
        SELECT s.study_uid FROM study s
         WHERE s.study_uid NOT LIKE 'erased:%%' AND s.last_instance_at < now() - make_interval(secs => 86400 * %s)
           AND (s.parked IS NULL OR s.parked = 'cancelled by hand')
           AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.study_uid = s.study_uid AND i.erased_at IS NULL)
           AND NOT EXISTS (SELECT 1 FROM answer a JOIN result r ON r.answer_id = a.id
                            WHERE a.study_uid = s.study_uid AND r.erased_at IS NULL)
         ORDER BY s.last_instance_at LIMIT %s
        """,
        (days, limit),
    )
    return [str(row["study_uid"]) for row in rows]


def record(connection: Connection, patient_id: str, counts: dict[str, int]) -> datetime:
    """Write down that a patient was erased: when, how much, and a salted slow hash of the patient ID."""
    row = connection.execute(
        "INSERT INTO erasure (patient_hash, counts) VALUES (%s, %s) RETURNING at",
        (_patient_hash(patient_id, os.urandom(16)), Jsonb(counts)),
    ).fetchone()
    assert row is not None
    at: datetime = row["at"]
    return at


def records(connection: Connection, patient_id: str | None = None) -> list[dict[str, Any]]:
    """Erasures, newest first; of one patient only where an ID is given (which costs about 50 ms per record)."""
    rows = connection.execute("SELECT at, patient_hash, counts FROM erasure ORDER BY id DESC").fetchall()
    if patient_id is None:
        return rows
    return [row for row in rows if _is_hash_of(patient_id, row["patient_hash"])]


def _patient_hash(patient_id: str, salt: bytes) -> str:
    digest = hashlib.scrypt(patient_id.encode("utf-8"), salt=salt, **_SCRYPT)
    return f"scrypt${salt.hex()}${digest.hex()}"


def _is_hash_of(patient_id: str, patient_hash: str) -> bool:
    _, salt, _ = patient_hash.split("$")
    return hmac.compare_digest(_patient_hash(patient_id, bytes.fromhex(salt)), patient_hash)
