"""What of the outbox the ledger still wants; whatever else lies there was left behind by a death or a failing disk."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import psycopg

Connection = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """``names``: of results whose file must stay; ``writing``: by answer, the first attempt that may yet be written."""

    names: frozenset[str]
    writing: dict[int, int]


def wanted(connection: Connection, answer_ids: Collection[int], untouched_s: float) -> Wanted:
    """What must stay in folders of these answers to which nothing was written for ``untouched_s``.

    An answer that is done or superseded is never begun again. Of one that is being worked on, former attempts are
    fenced off; where its study was cancelled or erased, nobody is at the last one. An id that the ledger does not have
    (it was restored to an earlier state) will be given out again, unless a later one was long ago.
    """
    writing = connection.execute(
        """
        SELECT a.id, a.attempt FROM answer a JOIN study s USING (study_uid)
         WHERE a.id = ANY(%(ids)s) AND a.state = 'working'
           AND (s.parked IS NULL OR s.parked NOT IN ('cancelled by hand', 'erased'))
        UNION ALL
        SELECT folder.id, 0 FROM unnest(%(ids)s::bigint[]) AS folder (id)
         WHERE NOT EXISTS (SELECT 1 FROM answer a WHERE a.id = folder.id)
           AND NOT EXISTS (SELECT 1 FROM answer later WHERE later.id > folder.id
                              AND later.started_at < now() - make_interval(secs => %(untouched_s)s))
        """,
        {"ids": list(answer_ids), "untouched_s": untouched_s},
    ).fetchall()
    # after it: what was finished in between has its names
    named = connection.execute(
        "SELECT outbox_name FROM result WHERE answer_id = ANY(%s) AND erased_at IS NULL", (list(answer_ids),)
    ).fetchall()
    return Wanted(frozenset(row["outbox_name"] for row in named), {row["id"]: row["attempt"] for row in writing})
