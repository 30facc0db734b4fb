"""Prints a table and writes ``build/bench.json``; a peer that is not installed makes its rows "not measured".

Each ratio is the median of interleaved pairs: ours, the peer, ours, the peer. Of rates (instances per second), a ratio
above 1 means that ours is faster; of times, one below 1. Every run is kept in ``history.jsonl`` beside this file, and a
ratio that is worse than it used to be by more than a fifth is told below the table.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks import answering, history, lengths, reading, receiving, sending
from tests.benchmarks.rows import Row

BUILD = Path("build")


def by_length(scratch: Path) -> list[Row]:
    """Time and memory of ``spine-node analyze`` by the number of slices, and how the time grows."""
    found = lengths.costs(scratch)
    rows = []
    for cost in found:
        name = f"analyze {cost.slices} slices of 512 x 512, {cost.vertebrae} vertebrae"
        rows += [Row(name, cost.seconds, "s"), Row("  of it peak memory", cost.peak_mib, "MiB")]
        rows += [Row(f"  of it {step}", seconds, "s") for step, seconds in cost.stages.items() if seconds >= 0.05]
    stages = ("inference", "gate", "results")
    return rows + [Row(f"exponent of growth, {step}", lengths.exponent(found, step), "") for step in stages]


def main() -> None:
    """Measure, print, write."""
    scratch = Path(tempfile.mkdtemp(prefix="spine-bench-"))
    try:
        receiving_and_sending = chain(receiving.measure(), sending.measure())
        analysis = chain(reading.measure(scratch), answering.measure(scratch), by_length(scratch))
        rows = []
        for row in chain(receiving_and_sending, analysis):
            print(row.line(), file=sys.stderr, flush=True)  # the table takes a quarter of an hour
            rows.append(row)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    table = Table("what", "ours", "unit", "peer", "peer's", "ratio", "runs")
    for row in rows:
        theirs = "not measured" if row.peer and row.peer_value is None else ""
        table.add_row(
            row.name,
            f"{row.value:.3g}",
            row.unit,
            row.peer or "",
            f"{row.peer_value:.3g}" if row.peer_value is not None else theirs,
            f"{row.ratio:.2f}" if row.ratio is not None else "",
            str(row.runs),
        )
    Console().print(table)
    BUILD.mkdir(exist_ok=True)
    (BUILD / "bench.json").write_text(json.dumps([asdict(row) for row in rows], indent=2), encoding="utf-8")
    for slower in history.slow_downs(rows, history.runs(), os.cpu_count()):
        print(slower.line())
    history.remember(rows, os.cpu_count())


if __name__ == "__main__":
    main()
