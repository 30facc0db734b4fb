"""The chain of a result: what it rests on, what made it, what came out, where it went."""

from __future__ import annotations

from typing import Any

import psycopg

from node.ledger.erasure import both_names
from node.ledger.outdated import outdated

Connection = psycopg.Connection[dict[str, Any]]


def chains(connection: Connection, uid: str) -> list[dict[str, Any]]:
    """Of each answer that ``uid`` names (a result, its series, the study): inputs, models, rule, results, deliveries.

    Inputs are the receptions that the answer rests on, with the digests of what was received; of an answer by a former
    version, all receptions of its series. ``spool_name`` of an input is where these bytes are now: its own file or,
    past its retention, that of a copy; null where they are gone. Models and rule of an answer by a former version stand
    in its details (SR) only.
    """
    answers = connection.execute(
        """
        SELECT DISTINCT a.* FROM answer a LEFT JOIN result r ON r.answer_id = a.id
         WHERE r.sop_instance_uid = %(uid)s OR r.series_uid = %(uid)s OR a.study_uid = ANY(%(names)s) ORDER BY a.id
        """,
        {"uid": uid, "names": both_names(uid)},
    ).fetchall()
    by = {uid: outdated(connection, uid) for uid in {answer["study_uid"] for answer in answers}}
    return [_chain(connection, answer, by[answer["study_uid"]]) for answer in answers]


def _chain(connection: Connection, answer: dict[str, Any], by: dict[int, int]) -> dict[str, Any]:
    provenance = answer["provenance"]
    inputs = connection.execute(
        """
        SELECT DISTINCT ON (sop_instance_uid, sha256) sop_instance_uid, sha256, received_at, calling_ae, erased_at,
               CASE WHEN erased_at IS NULL THEN spool_name
                    ELSE (SELECT copy.spool_name FROM instance copy
                           WHERE copy.sop_instance_uid = i.sop_instance_uid AND copy.sha256 = i.sha256
                             AND copy.erased_at IS NULL ORDER BY copy.id LIMIT 1) END AS spool_name
          FROM instance i
         WHERE study_uid = %s AND series_uid = %s AND duplicate_of IS NULL AND id <= coalesce(%s, id)
           AND %s IN ('', sop_instance_uid)
         ORDER BY sop_instance_uid, sha256, id DESC
        """,
        (answer["study_uid"], answer["series_uid"], provenance.get("last_instance_id"), answer["sop_instance_uid"]),
    ).fetchall()
    return {
        "study_uid": answer["study_uid"],
        "series_uid": answer["series_uid"],
        "sop_instance_uid": answer["sop_instance_uid"] or None,
        "pipeline": answer["pipeline"],
        "pipeline_version": provenance.get("pipeline_version"),
        "revision": answer["revision"],
        "predecessor": answer["predecessor"],
        "state": answer["state"],
        "status": answer["status"],
        "flag": answer["flag"],
        "reason_code": answer["reason_code"],
        "started_at": answer["started_at"],
        "finished_at": answer["finished_at"],
        "inputs": inputs,
        "input_sha256": answer["input_sha256"],
        "configuration_sha256": answer["configuration_sha256"],
        "software_version": answer["software_version"],
        "provider": answer["provider"],
        "models": provenance.get("models"),
        "rule": provenance.get("rule"),
        "flag_loss": provenance.get("flag_loss"),
        "results": [_result(connection, row, by) for row in _results(connection, answer["id"])],
    }


def _results(connection: Connection, answer_id: int) -> list[dict[str, Any]]:
    return connection.execute(
        """
        SELECT r.*, n.sop_instance_uid AS note_uid FROM result r LEFT JOIN result n ON n.id = r.retracted_by
         WHERE r.answer_id = %s ORDER BY r.position
        """,
        (answer_id,),
    ).fetchall()


def _result(connection: Connection, row: dict[str, Any], by: dict[int, int]) -> dict[str, Any]:
    deliveries = connection.execute(
        """
        SELECT d.id, d.destination, d.state, d.last_try_at AS sent_at, d.stored_at AS accepted_at,
               d.confirmed_at AS committed_at, d.proved_by, d.attempts, d.resent, d.reason,
               (SELECT array_agg(c.transaction_uid ORDER BY c.requested_at) FROM commitment_item i
                  JOIN commitment c USING (transaction_uid) WHERE i.delivery_id = d.id) AS transactions
          FROM delivery d WHERE d.result_id = %s ORDER BY d.destination
        """,
        (row["id"],),
    ).fetchall()
    return {
        "kind": row["kind"],
        "sop_class_uid": row["sop_class_uid"],
        "sop_instance_uid": row["sop_instance_uid"],
        "series_uid": row["series_uid"],
        "bytes": row["bytes"],
        "sha256": row["sha256"],
        "retracted_at": row["retracted_at"],
        "retracted_by": row["note_uid"],
        "deliveries": [{"outdated_by": by.get(item.pop("id")), **item} for item in deliveries],
    }
