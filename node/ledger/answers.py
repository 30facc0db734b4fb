"""What became of a study: outcomes of its series, answers and their results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from node.ledger.erasure import recall

Connection = psycopg.Connection[dict[str, Any]]
UNSEEN = """CASE WHEN (SELECT max(id) FROM instance i WHERE i.study_uid = s.study_uid) > coalesce(s.evaluated_up_to, 0)
                THEN (SELECT max(id) FROM instance i WHERE i.study_uid = s.study_uid AND i.duplicate_of IS NULL
                         AND i.id > coalesce(s.evaluated_up_to, 0)) IS NOT NULL
                ELSE false END"""
"""Whether study ``s`` has an image, no duplicate, that no evaluation has seen.

The first question is one step into an index whatever statistics the table has, and ends the matter for nearly every
study. Without statistics the second one reads the images that are new (each once); EXISTS and LIMIT without an order
read the whole table with some."""


class SupersededError(Exception):
    """Another worker has taken this answer over; what this one built is thrown away."""


@dataclass(frozen=True)
class Evaluation:
    """A worker's claim on a study: it sees all instances up to an id, and whatever came before ``began_at``."""

    study_uid: str
    up_to: int
    attempt: int
    began_at: datetime


@dataclass(frozen=True)
class Postponed:
    """``first``: nothing had put the study off before; ``at_fault_s``: for how long the study itself has been."""

    first: bool
    at_fault_s: float


@dataclass(frozen=True)
class Answer:
    """A claimed answer: what its results' UIDs derive from, and when the analysis began (which is in no result)."""

    id: int
    revision: int
    attempt: int
    started_at: datetime
    predecessor: int | None


@dataclass(frozen=True)
class ResultRow:
    """One built object in the outbox."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    outbox_name: str
    bytes: int
    sha256: str


def seconds_until_quiet(connection: Connection, study_uid: str, quiet_s: float) -> float | None:
    """Seconds until the study's quiet time is over; 0 when it is; ``None`` when nothing is to be done.

    Nothing is to be done for a study that is unknown, parked, or evaluated up to its last instance.
    """
    row = connection.execute(
        f"""
        SELECT greatest(0, extract(epoch FROM last_instance_at + make_interval(secs => %s) - clock_timestamp()))::float
               AS wait_s
          FROM study s
         WHERE study_uid = %s AND parked IS NULL
           AND {UNSEEN}
        """.encode(),
        (quiet_s, study_uid),
    ).fetchone()
    return None if row is None else float(row["wait_s"])


def has_been_tried(connection: Connection, study_uid: str) -> bool:
    """Whether an evaluation of the study began and did not end."""
    row = connection.execute("SELECT attempts FROM study WHERE study_uid = %s", (study_uid,)).fetchone()
    return row is not None and row["attempts"] > 0


def begin_evaluation(connection: Connection, study_uid: str) -> Evaluation | None:
    """Count one attempt; ``None`` where there is nothing to evaluate: the study is parked, cancelled or erased."""
    # first the lock: the statement after it sees what every registrar has entered that was before us at this study
    connection.execute("SELECT FROM study WHERE study_uid = %s FOR UPDATE", (study_uid,))
    row = connection.execute(
        """
        UPDATE study s SET attempts = attempts + 1 WHERE study_uid = %s AND parked IS NULL
        RETURNING attempts, (SELECT max(id) FROM instance i WHERE i.study_uid = s.study_uid) AS up_to,
                  clock_timestamp() AS began_at
        """,
        (study_uid,),
    ).fetchone()
    if row is None or row["up_to"] is None:
        return None
    return Evaluation(study_uid, row["up_to"], row["attempts"], row["began_at"])


def park_after_deaths(connection: Connection, evaluation: Evaluation, max_attempts: int) -> bool:
    """Whether none of so many attempts before this one came to an end: the study is parked, and says why."""
    if evaluation.attempt <= max_attempts:
        return False
    park(
        connection,
        evaluation.study_uid,
        f"stopped after {max_attempts} attempts: its worker was killed or ended in each (too little memory?); "
        "see the logs of node and machine, then `spine-node jobs retry`",
    )
    return True


def end_evaluation(connection: Connection, evaluation: Evaluation) -> None:
    """The study is evaluated up to what this evaluation saw.

    What an attempt that died had begun, and this one did not take up, answers an input that no longer stands: nobody
    comes back to it.
    """
    connection.execute(
        "UPDATE answer SET state = 'superseded' WHERE study_uid = %s AND state = 'working'", (evaluation.study_uid,)
    )
    connection.execute(
        """
        UPDATE study SET evaluated_at = now(), attempts = 0, waits_for = NULL, unreadable_since = NULL,
               evaluated_up_to = greatest(coalesce(evaluated_up_to, 0), %s),
               evaluated_until = greatest(evaluated_until, %s)
         WHERE study_uid = %s
        """,
        (evaluation.up_to, evaluation.began_at, evaluation.study_uid),
    )


def postpone_evaluation(
    connection: Connection, evaluation: Evaluation, waits_for: str | None = None, *, at_fault: bool = False
) -> Postponed:
    """The evaluation met a passing error: it does not count as an attempt.

    ``waits_for`` is what the study says of itself meanwhile; ``at_fault``: it is the study's error, not the machine's:
    an image of the spool that cannot be read, or what the ledger does not take. The column ``unreadable_since`` has
    since when, whichever it is.
    """
    row = connection.execute(
        """
        UPDATE study s SET attempts = greatest(0, s.attempts - 1), waits_for = %(waits_for)s,
               unreadable_since = CASE WHEN %(at_fault)s THEN coalesce(s.unreadable_since, clock_timestamp()) END
          FROM study before WHERE before.study_uid = s.study_uid AND s.study_uid = %(study_uid)s
        RETURNING before.waits_for IS NULL AS first,
                  coalesce(extract(epoch FROM clock_timestamp() - s.unreadable_since), 0)::float AS at_fault_s
        """,
        {"waits_for": waits_for, "at_fault": at_fault, "study_uid": evaluation.study_uid},
    ).fetchone()
    return Postponed(first=False, at_fault_s=0.0) if row is None else Postponed(**row)  # None: it was erased


def park(connection: Connection, study_uid: str, reason: str) -> None:
    """No worker takes the study any more, until a person has acted."""
    connection.execute(
        """
        UPDATE study SET parked = %s, waits_for = NULL, unreadable_since = NULL
         WHERE study_uid = %s AND parked IS NULL
        """,
        (reason, study_uid),
    )


def fail_evaluation(connection: Connection, evaluation: Evaluation, reason: str, max_attempts: int) -> bool:
    """The evaluation failed, which counts as an attempt. Returns whether it was the last one: the study is parked."""
    row = connection.execute(
        """
        UPDATE study SET parked = %s WHERE study_uid = %s AND attempts >= %s AND parked IS NULL RETURNING study_uid
        """,
        (f"stopped after {max_attempts} attempts: {reason}", evaluation.study_uid, max_attempts),
    ).fetchone()
    return row is not None


def is_parked(connection: Connection, study_uid: str) -> bool:
    """Whether a study was parked or cancelled; holds that state until the transaction ends."""
    row = connection.execute("SELECT parked FROM study WHERE study_uid = %s FOR UPDATE", (study_uid,)).fetchone()
    return row is not None and row["parked"] is not None


def record_outcome(
    connection: Connection,
    study_uid: str,
    *,
    series_uid: str,
    sop_instance_uid: str,
    modality: str,
    description: str,
    instances: int,
    outcome: str,
    reason_code: str | None,
    reason: str | None,
    better_series_uid: str | None,
) -> None:
    """What became of one series, or of one radiograph of it; a later decision replaces an earlier one."""
    connection.execute(
        """
        INSERT INTO series (study_uid, series_uid, sop_instance_uid, modality, description, instances, outcome,
                            reason_code, reason, better_series_uid, decided_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now())
        ON CONFLICT (study_uid, series_uid, sop_instance_uid) DO UPDATE
           SET modality = excluded.modality, description = excluded.description, instances = excluded.instances,
               outcome = excluded.outcome, reason_code = excluded.reason_code, reason = excluded.reason,
               better_series_uid = excluded.better_series_uid, decided_at = excluded.decided_at
        """,
        (
            study_uid,
            series_uid,
            sop_instance_uid,
            modality,
            description,
            instances,
            outcome,
            reason_code,
            reason,
            better_series_uid,
        ),
    )


def record_unread(connection: Connection, study_uid: str, reason_code: str, reason: str) -> None:
    """Every series of a study is not eligible, for a reason that is known without reading any of its images."""
    connection.execute(
        """
        INSERT INTO series (study_uid, series_uid, modality, description, instances, outcome, reason_code, reason,
                            decided_at)
        SELECT study_uid, series_uid, min(modality), '', count(DISTINCT coalesce(duplicate_of, id)), 'not_eligible',
               %s, %s, now() FROM instance
         WHERE study_uid = %s AND erased_at IS NULL GROUP BY study_uid, series_uid
        ON CONFLICT (study_uid, series_uid, sop_instance_uid) DO UPDATE
           SET instances = excluded.instances, outcome = excluded.outcome, reason_code = excluded.reason_code,
               reason = excluded.reason, better_series_uid = NULL, decided_at = excluded.decided_at
        """,
        (reason_code, reason, study_uid),
    )


def forget_whole_series(connection: Connection, study_uid: str, series_uids: Collection[str]) -> None:
    """Take back what an earlier version decided of series as a whole, now that their images are decided one by one."""
    connection.execute(
        "DELETE FROM series WHERE study_uid = %s AND sop_instance_uid = '' AND series_uid = ANY(%s)",
        (study_uid, list(series_uids)),
    )


def claim_answer(
    connection: Connection,
    study_uid: str,
    pipeline: str,
    series_uid: str,
    input_sha256: str,
    configuration_sha256: str,
    software_version: str,
    *,
    sop_instance_uid: str = "",
    replaces: str = "",
    per_series: bool = False,
) -> Answer | None:
    """Claim the answer to this input; ``None`` when it was answered already, and no other input of it since.

    An unfinished claim (its worker died) is continued under the same revision, so that the same UIDs come out; its
    attempt number fences off the former worker. Revisions count what was sent: per
    study, or ``per_series``, or per radiograph where ``sop_instance_uid`` names one; with ``replaces``, another image
    of the same exposure, of both.
    """
    recall(connection, study_uid, series_uid, sop_instance_uid)
    found = connection.execute(
        """
        SELECT id, revision, state, started_at, predecessor, input_sha256 FROM answer
         WHERE study_uid = %s AND pipeline = %s AND series_uid = %s AND sop_instance_uid = %s
           AND (state = 'done' OR state = 'working' AND input_sha256 = %s)
         ORDER BY id DESC LIMIT 1
           FOR UPDATE
        """,
        (study_uid, pipeline, series_uid, sop_instance_uid, input_sha256),
    ).fetchone()
    if found is not None and found["input_sha256"] == input_sha256:
        if found["state"] == "done":
            return None
        row = connection.execute(
            """
            UPDATE answer SET attempt = attempt + 1, configuration_sha256 = %s, software_version = %s
             WHERE id = %s RETURNING attempt
            """,
            (configuration_sha256, software_version, found["id"]),
        ).fetchone()
        assert row is not None
        return Answer(found["id"], found["revision"], row["attempt"], found["started_at"], found["predecessor"])
    images = [sop_instance_uid, replaces] if replaces else [sop_instance_uid]
    scope = (series_uid if (per_series or sop_instance_uid) and not replaces else None, images)
    connection.execute(  # unfinished claims on inputs that no longer stand
        """
        UPDATE answer SET state = 'superseded'
         WHERE study_uid = %s AND pipeline = %s AND state = 'working' AND series_uid = coalesce(%s, series_uid)
           AND sop_instance_uid = ANY(%s)
        """,
        (study_uid, pipeline, *scope),
    )
    last = connection.execute(
        """
        SELECT max(revision) AS revision, max(id) AS predecessor FROM answer
         WHERE study_uid = %s AND pipeline = %s AND series_uid = coalesce(%s, series_uid)
           AND sop_instance_uid = ANY(%s) AND state = 'done' AND sent
        """,
        (study_uid, pipeline, *scope),
    ).fetchone()
    assert last is not None
    row = connection.execute(
        """
        INSERT INTO answer (study_uid, pipeline, series_uid, sop_instance_uid, revision, input_sha256,
                            configuration_sha256, software_version, started_at, attempt, state, predecessor)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, date_trunc('second', now()), 1, 'working', %s)
        RETURNING id, revision, attempt, started_at, predecessor
        """,
        (
            study_uid,
            pipeline,
            series_uid,
            sop_instance_uid,
            (last["revision"] or 0) + 1,
            input_sha256,
            configuration_sha256,
            software_version,
            last["predecessor"],
        ),
    ).fetchone()
    assert row is not None
    return Answer(**row)


def finish_answer(
    connection: Connection,
    answer: Answer,
    results: list[ResultRow],
    *,
    status: str,
    sent: bool,
    flag: bool | None,
    provider: str | None,
    reason_code: str | None,
    timings_s: dict[str, float],
) -> list[int]:
    """Enter the results of an answer. Returns their row ids in order of sending.

    Raises
    ------
    SupersededError
        Another worker has claimed the answer since.
    """
    finished = connection.execute(
        """
        UPDATE answer SET state = 'done', status = %s, sent = %s, flag = %s, provider = %s, reason_code = %s,
                          timings_s = %s, finished_at = now()
         WHERE id = %s AND attempt = %s AND state = 'working'
        """,
        (status, sent, flag, provider, reason_code, Jsonb(timings_s), answer.id, answer.attempt),
    )
    if finished.rowcount != 1:
        raise SupersededError(f"answer {answer.id} was taken over by another worker")
    ids = []
    for position, result in enumerate(results):
        row = connection.execute(
            """
            INSERT INTO result (answer_id, position, kind, sop_class_uid, sop_instance_uid, series_uid, outbox_name,
                                bytes, sha256)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id
            """,
            (answer.id, position, *result.__dict__.values()),
        ).fetchone()
        assert row is not None
        ids.append(int(row["id"]))
    return ids


def note_provenance(connection: Connection, answer: Answer, provenance: Mapping[str, Any]) -> None:
    """What an auditor asks of an answer besides its input: models, rule, and the last reception that it rests on."""
    connection.execute(
        "UPDATE answer SET provenance = %s WHERE id = %s AND attempt = %s AND state = 'working'",
        (Jsonb(provenance), answer.id, answer.attempt),
    )


def results_of(connection: Connection, answer_id: int) -> list[dict[str, Any]]:
    """Results of an answer in order of sending."""
    return connection.execute("SELECT * FROM result WHERE answer_id = %s ORDER BY position", (answer_id,)).fetchall()


def outstanding_studies(connection: Connection) -> list[str]:
    """Studies with instances that no evaluation has seen and for which no job waits or runs."""
    rows = connection.execute(
        f"""
        SELECT s.study_uid FROM study s
         WHERE s.parked IS NULL
           AND (s.evaluated_until IS NULL OR s.last_instance_at >= s.evaluated_until)  -- an index, study_with_news
           AND {UNSEEN}
           AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j
                            WHERE j.lock = 'study:' || s.study_uid AND j.status IN ('todo', 'doing'))
         -- keepers and registrars of several machines wait for each other's jobs: in one order, not in a circle
         ORDER BY s.study_uid COLLATE "C"
        """.encode()
    )
    return [row["study_uid"] for row in rows]
