"""The bench's memory: what each run measured, and which ratios are worse now than they used to be.

Ratios alone are compared: absolute figures belong to a machine and to what else it did.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import Row

HISTORY = Path(__file__).parent / "history.jsonl"
WORSE = 1.2
"""A ratio that is worse than before by more than this factor is told."""
LAST = 5
"""Runs that "before" is the median of."""


@dataclass(frozen=True)
class SlowDown:
    """One ratio that became worse."""

    name: str
    peer: str
    now: float
    before: float

    def line(self) -> str:
        """For a terminal."""
        return f"slower than before: {self.name}, against {self.peer}: ratio {self.now:.2f}, was {self.before:.2f}"


def runs(path: Path = HISTORY) -> list[dict[str, Any]]:
    """Earlier runs, the oldest first."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def slow_downs(rows: Sequence[Row], earlier: Sequence[dict[str, Any]], cores: int | None) -> list[SlowDown]:
    """Rows whose ratio is worse by more than `WORSE` than the median of the last runs on as many cores."""
    before: dict[tuple[str, str | None], list[float]] = {}
    for run in earlier:
        for row in run["rows"] if run["cores"] == cores else ():
            if row["ratio"] is not None:
                before.setdefault((row["name"], row["peer"]), []).append(row["ratio"])
    found = []
    for row in rows:
        past = before.get((row.name, row.peer))
        if row.ratio is None or row.peer is None or not past:
            continue
        usual = statistics.median(past[-LAST:])
        worse = usual / row.ratio if row.more_is_better else row.ratio / usual
        if worse > WORSE:
            found.append(SlowDown(row.name, row.peer, row.ratio, usual))
    return found


def remember(rows: Sequence[Row], cores: int | None, path: Path = HISTORY) -> None:
    """Append this run."""
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": cores,
        "rows": [asdict(row) for row in rows],
    }
    with path.open("a", encoding="utf-8") as history:
        history.write(json.dumps(entry) + "\n")
