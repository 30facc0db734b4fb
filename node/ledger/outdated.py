"""What a destination still has though a later revision supersedes it, and that revision is not there.

A revision that was built and never sent (parked, held, cancelled) takes nothing back: what is in the archive may bear
a patient's former name, or rest on fewer images, and nothing there says so. Whether it is wrong a person must see; here
it is told.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from node.ledger import intake

Connection = psycopg.Connection[dict[str, Any]]

_OUTDATED = """
    WITH RECURSIVE complete AS (  -- answers of which a destination has everything that was to go there
        SELECT r.answer_id, d.destination
          FROM answer a JOIN result r ON r.answer_id = a.id JOIN delivery d ON d.result_id = r.id
         WHERE a.study_uid = %(study_uid)s AND r.kind <> 'rejection'
         GROUP BY r.answer_id, d.destination
        HAVING bool_and(d.state IN ('stored', 'confirmed') AND r.retracted_at IS NULL)
    ), line AS (
        SELECT predecessor AS former, id AS later, revision FROM answer
         WHERE study_uid = %(study_uid)s AND predecessor IS NOT NULL AND state = 'done' AND sent
        UNION
        SELECT line.former, a.id, a.revision FROM line JOIN answer a ON a.predecessor = line.later
         WHERE a.state = 'done' AND a.sent
    )
    SELECT d.id, d.destination, max(line.revision) AS revision,
           bool_or(EXISTS (SELECT 1 FROM result nr JOIN delivery nd ON nd.result_id = nr.id
                            WHERE nr.answer_id = line.later AND nd.destination = d.destination
                              AND nd.state = 'pending')) AS under_way
      FROM line JOIN result r ON r.answer_id = line.former JOIN delivery d ON d.result_id = r.id
      LEFT JOIN complete c ON c.answer_id = line.later AND c.destination = d.destination
     WHERE r.kind <> 'rejection' AND r.retracted_at IS NULL
       AND (d.state IN ('stored', 'confirmed') OR d.stored_at IS NOT NULL AND d.resent = 0)
     GROUP BY d.id HAVING count(c.answer_id) = 0
"""


def outdated(connection: Connection, study_uid: str) -> dict[int, int]:
    """Delivery id to the newest revision that supersedes it, of what stands where no successor of it is complete."""
    rows = connection.execute(_OUTDATED, {"study_uid": study_uid})
    return {int(row["id"]): int(row["revision"]) for row in rows}


def tell(connection: Connection, study_uid: str) -> None:
    """An event ``outdated_results_stand``, once per revision and destination, where no successor is under way."""
    rows = connection.execute(_OUTDATED, {"study_uid": study_uid}).fetchall()
    found = {(row["destination"], row["revision"]) for row in rows if not row["under_way"]}
    for destination, revision in sorted(found):
        detail = {"destination": destination, "superseded_by_revision": revision}
        told = connection.execute(
            "SELECT 1 FROM event WHERE kind = 'outdated_results_stand' AND subject = %s AND detail = %s LIMIT 1",
            (study_uid, Jsonb(detail)),
        ).fetchone()
        if told is None:
            intake.record_event(connection, "outdated_results_stand", study_uid, detail)


def record_parked(connection: Connection, sop_instance_uid: str, detail: dict[str, Any]) -> None:
    """An event ``delivery_parked`` of a result, and what stands at the destination because of it."""
    intake.record_event(connection, "delivery_parked", sop_instance_uid, detail)
    row = connection.execute(
        "SELECT a.study_uid FROM result r JOIN answer a ON a.id = r.answer_id WHERE r.sop_instance_uid = %s",
        (sop_instance_uid,),
    ).fetchone()
    if row is not None:
        tell(connection, row["study_uid"])
