"""Prints rows as they come and writes ``build/bench.json``; a peer that is not installed makes its rows "not measured".

Each ratio is the median of interleaved pairs: ours, the peer, ours, the peer. Of rates (instances per second), a ratio
above 1 means that ours is faster; of times, one below 1. Every run is kept in ``history.jsonl`` beside this file, and a
ratio that is worse than it used to be by more than a fifth is told at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from tests.benchmarks import answering, history, lengths, reading, receiving, sending
from tests.benchmarks.rows import Row

BUILD = Path("build")
STAGES = ("gate", "inference", "results")


def by_length(scratch: Path) -> Iterator[Row]:
    """Time and memory of ``spine-node analyze`` by the number of slices, and how the time grows.

    Steps that are indented twice are parts of the stage above them.
    """
    start_s = lengths.start_s(scratch)
    rows = [Row("analyze an empty folder: Python, libraries, networks", start_s, "s", runs=lengths.STARTS)]
    found = lengths.costs(scratch)
    for cost in found:
        stages = {stage: cost.stages[stage] for stage in STAGES}
        name = f"analyze {cost.slices} slices of 512 x 512, {cost.vertebrae} vertebrae"
        rows += [Row(name, cost.seconds, "s"), Row("  peak memory", cost.peak_mib, "MiB")]
        for stage, seconds in stages.items():
            rows.append(Row(f"  of it {stage}", seconds, "s"))
            if stage == "inference":
                steps = {step: took for step, took in cost.stages.items() if step not in STAGES and took >= 0.05}
                rows += [Row(f"    of it {step}", took, "s") for step, took in steps.items()]
        rest = cost.seconds - start_s - sum(stages.values())
        rows.append(Row("  of it headers, choice, writing (without the start above)", rest, "s"))
    yield from rows
    for stage in STAGES:
        yield Row(f"exponent of growth, {stage}", lengths.exponent(found, stage), "")


def main() -> None:
    """Measure, print, write."""
    scratch = Path(tempfile.mkdtemp(prefix="spine-bench-"))
    try:
        receiving_and_sending = chain(receiving.measure(), sending.measure())
        analysis = chain(reading.measure(scratch), answering.measure(scratch), by_length(scratch))
        rows = []
        for row in chain(receiving_and_sending, analysis):
            print(row.line(), flush=True)  # all of them take half an hour
            rows.append(row)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    BUILD.mkdir(exist_ok=True)
    (BUILD / "bench.json").write_text(json.dumps([asdict(row) for row in rows], indent=2), encoding="utf-8")
    for slower in history.slow_downs(rows, history.runs(), os.cpu_count()):
        print(slower.line())
    history.remember(rows, os.cpu_count())


if __name__ == "__main__":
    main()
