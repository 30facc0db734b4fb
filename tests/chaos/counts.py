"""What each fault cost, in figures: one JSON line per fault, in a file that ``SPINE_NODE_CHAOS_COUNTS`` names.

Lines survive parallel test processes. They are printed as a table at the end of every test run (``tests/conftest.py``);
where nobody named a file, that is one of the run's own. ``python -m tests.chaos.counts FILE`` prints a table again.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from node.demo.pacs import Received
from node.demo.stage import RunningNode
from node.ledger import overview
from node.service import ledger_of
from tests.chaos.department import RESULTS_PER_ANSWER

FILE = "SPINE_NODE_CHAOS_COUNTS"
"""Environment variable that names the file."""
COLUMNS = ("sent", "acknowledged", "in the ledger", "expected", "received", "duplicates", "digests per UID")
"""Requests; SOP instances acknowledged and entered; results; requests to the PACS beyond one per result."""


def record(fault: str, **counts: Any) -> None:
    """Keep the counts of a fault. Names may have blanks: ``**{"in the ledger": 3}``, and those of `COLUMNS` should."""
    line = json.dumps({"fault": fault, **counts})
    if path := os.environ.get(FILE):
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8") as file:  # one write of one line: whole, whoever else appends
            file.write(line + "\n")


def unexplained_answers(connection: psycopg.Connection[dict[str, Any]]) -> list[dict[str, Any]]:
    """Finished answers that should not be: more than one of an input, and not because images of it came later.

    An input is what a pipeline answers of a study: a series, or a radiograph. Its first answer needs no explanation;
    each one after it is the next revision, and rests on an image, no duplicate, that the one before did not have. The
    last one rests on every image.
    """
    return connection.execute(
        """
        WITH finished AS (
            SELECT *, (provenance->>'last_instance_id')::bigint AS rests_on, row_number() OVER input AS place,
                   lag((provenance->>'last_instance_id')::bigint) OVER input AS former_on,
                   lead(id) OVER input IS NULL AS is_last
              FROM answer WHERE state = 'done'
            WINDOW input AS (PARTITION BY study_uid, pipeline, series_uid, sop_instance_uid ORDER BY id)
        )
        SELECT study_uid, pipeline, revision, rests_on, former_on FROM finished f
         WHERE revision <> place
            OR place > 1 AND NOT EXISTS (SELECT 1 FROM instance i
                                          WHERE i.study_uid = f.study_uid AND i.series_uid = f.series_uid
                                            AND i.duplicate_of IS NULL AND i.id > former_on AND i.id <= rests_on)
            OR is_last AND EXISTS (SELECT 1 FROM instance i
                                    WHERE i.study_uid = f.study_uid AND i.series_uid = f.series_uid
                                      AND i.duplicate_of IS NULL AND i.id > rests_on)
        """
    ).fetchall()


def end_to_end(
    fault: str, node: RunningNode, received: Sequence[Received], sent: int, acknowledged: set[str], **more: Any
) -> dict[str, Any]:
    """Record, and return, the counts from the scanner to the PACS; asserts what holds for every fault.

    Parameters
    ----------
    received
        Every C-STORE that the PACS was sent.
    sent
        Requests to the node, repeats included.
    acknowledged
        SOP instance UIDs that the node said it has.
    """
    with ledger_of(node.settings) as database, database.transaction() as connection:
        entered = {row["uid"] for row in connection.execute("SELECT DISTINCT sop_instance_uid AS uid FROM instance")}
        answers = overview.counts(connection)["answers"]
        results = {row["uid"] for row in connection.execute("SELECT sop_instance_uid AS uid FROM result")}
    digests: dict[str, set[str]] = {}
    for item in received:
        digests.setdefault(item.sop_instance_uid, set()).add(item.sha256)
    counts = {
        "sent": sent,
        "acknowledged": len(acknowledged),
        "in the ledger": len(entered),
        "expected": RESULTS_PER_ANSWER * answers,
        "received": len(digests),
        "duplicates": len(received) - len(digests),
        "digests per UID": dict(Counter(len(found) for found in digests.values())),
        **more,
    }
    record(fault, **counts)
    assert acknowledged <= entered, "nothing acknowledged is lost"
    assert set(digests) == results, "every result arrived, and nothing else"
    assert len(results) == RESULTS_PER_ANSWER * answers
    assert {len(found) for found in digests.values()} <= {1}, "one digest under one UID"
    return counts


def table(lines: Sequence[str], width: int = 200) -> str:
    """Lines of such a file as text, one row per fault."""
    rows = Table("fault", *COLUMNS, "more", title="Faults, and what each cost")
    for line in lines:
        row = json.loads(line)
        more = ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("fault", *COLUMNS))
        rows.add_row(row["fault"], *(str(row.get(name, "")) for name in COLUMNS), more)
    text = io.StringIO()
    Console(file=text, width=width).print(rows)
    return text.getvalue()


def lines_of(path: Path) -> list[str]:
    """What has been recorded in a file so far."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    print(table(lines_of(Path(sys.argv[1]))))
