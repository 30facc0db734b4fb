"""What is looked at every few seconds: memory, handles and threads of each process, queues, latency; the verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg
from scipy.stats import theilslopes

MEMORY_MB_PER_H = 12.0
MEMORY_MB = 4.0
"""A growth over the second half below this is what an allocator wanders by."""
HANDLES = 3.0
THREADS = 2.0
LATENCY_RATIO, LATENCY_S = 1.5, 2.0
"""The median latency of the second half is at most that of the first, times this and with this added."""


@dataclass
class Sample:
    """One look. ``processes``: name to (resident MB, handles, threads); ``queue``: jobs by state and what is unsent."""

    at_s: float
    processes: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    queue: dict[str, int] = field(default_factory=dict)
    latency_s: dict[str, float] = field(default_factory=dict)
    load: float = 0.0

    def write(self, path: Path) -> None:
        """Append as one line of JSON."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self)) + "\n")


def look(at_s: float, processes: Mapping[str, psutil.Process], dsn: str, latencies_s: Sequence[float]) -> Sample:
    """A sample; what cannot be asked at the moment (a process that was just killed) is left out."""
    sample = Sample(at_s, load=psutil.getloadavg()[0])
    for name, process in processes.items():
        try:
            with process.oneshot():
                memory = process.memory_info().rss / 2**20
                sample.processes[name] = (round(memory, 2), process.num_fds(), process.num_threads())
        except psutil.Error:
            continue
    try:
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            sample.queue = queue_depth(connection)
    except psycopg.Error:
        sample.queue = {}
    if latencies_s:
        for percent in (50, 95):
            sample.latency_s[f"p{percent}"] = round(float(np.percentile(latencies_s, percent)), 2)
    return sample


def queue_depth(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Jobs that wait and run, deliveries that are pending, studies that are not evaluated."""
    row = connection.execute(
        """
        SELECT (SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'),
               (SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'),
               (SELECT count(*) FROM delivery WHERE state = 'pending'),
               (SELECT count(*) FROM study s WHERE parked IS NULL
                  AND (SELECT max(id) FROM instance i WHERE i.study_uid = s.study_uid AND duplicate_of IS NULL)
                      > coalesce(evaluated_up_to, 0))
        """
    ).fetchone()
    assert row is not None
    return dict(zip(("waiting", "running", "unsent", "unevaluated"), (int(n) for n in row), strict=True))


@dataclass(frozen=True)
class Finding:
    """One line of the verdict."""

    ok: bool
    sentence: str


def flat(samples: Sequence[Sample], names: Sequence[str]) -> list[Finding]:
    """Whether memory, handles and threads of these processes, and the latency, stay where they are."""
    half = [sample for sample in samples if sample.at_s >= samples[-1].at_s / 2]
    hours = (half[-1].at_s - half[0].at_s) / 3600
    findings = []
    bounds = (max(MEMORY_MB, MEMORY_MB_PER_H * hours), HANDLES, THREADS)
    for name in names:
        seen = [(sample.at_s, sample.processes[name]) for sample in half if name in sample.processes]
        if len(seen) < 0.8 * len(half):
            findings.append(Finding(False, f"{name}: seen in {len(seen)} of {len(half)} samples of the second half"))
            continue
        for position, (what, unit, bound) in enumerate(
            zip(("memory", "handles", "threads"), (" MB", "", ""), bounds, strict=True)
        ):
            at = [moment for moment, _ in seen]
            values = [float(found[position]) for _, found in seen]
            slope = float(theilslopes(values, at).slope)
            growth = slope * (at[-1] - at[0])
            findings.append(
                Finding(
                    growth <= bound,
                    f"{name}: {what} {np.median(values):.0f}{unit}, {slope * 3600:+.1f}{unit}/h, {growth:+.1f}{unit} "
                    f"over the second half (at most {bound:.1f})",
                )
            )
    return [*findings, _latency(samples)]


def _latency(samples: Sequence[Sample]) -> Finding:
    middle = samples[-1].at_s / 2
    first = [s.latency_s["p50"] for s in samples if "p50" in s.latency_s and s.at_s < middle]
    second = [s.latency_s["p50"] for s in samples if "p50" in s.latency_s and s.at_s >= middle]
    if not first or not second:
        return Finding(False, "latency: nothing was answered in one of the halves")
    before, after = float(np.median(first)), float(np.median(second))
    bound = before * LATENCY_RATIO + LATENCY_S
    return Finding(after <= bound, f"latency: median {before:.1f} s, then {after:.1f} s (at most {bound:.1f})")
