"""The ledger's numbers for monitoring, asked for in a thread of its own: a database that hangs holds up no scrape.

On several machines with one ledger every node tells the same numbers of it: take the maximum, not the sum.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from psycopg.rows import dict_row

from node.ledger import figures

log = structlog.get_logger(__name__)

STATEMENT_PATIENCE_S = 5
SCRAPE_PATIENCE_S = 2.0
SHORT_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
LONG_S = (5, 10, 20, 30, 60, 90, 120, 180, 300, 600, 1200, 3600, 21600, 86400)


@dataclass(frozen=True)
class LedgerFigures:
    """One look at the ledger."""

    taken_at: float
    """Monotonic clock."""
    took_s: float
    jobs: list[dict[str, Any]] = field(default_factory=list)
    studies_parked: int = 0
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    events_of_a_day: dict[str, int] = field(default_factory=dict)


class Progress:
    """Follows answers from their beginning to their last result; each is observed once, as it goes by.

    What was finished before this process began is not observed again.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._after: int | None = None
        self._unfinished: dict[int, bool] = {}
        self._stages = Histogram(
            "spine_node_stage_duration_seconds",
            "Stages of an answer: reading, each network and step of the pipeline, building results.",
            ["pipeline", "stage"],
            buckets=SHORT_S,
            registry=registry,
        )
        self._delivered = Histogram(
            "spine_node_answer_latency_seconds",
            "From a study's last image to the last result stored at every destination, the quiet time included.",
            ["pipeline"],
            buckets=LONG_S,
            registry=registry,
        )
        self._answers = Counter(
            "spine_node_answers_total",
            "Answers that were built; reason: of what could not be evaluated.",
            ["pipeline", "status", "reason"],
            registry=registry,
        )

    def look(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        """Observe what has happened since the last look."""
        if self._after is None:
            self._unfinished = figures.unfinished_answers(connection)
            self._after = figures.newest_answer(connection)
        for row in figures.progress_of_answers(connection, self._after, self._unfinished):
            self._after = max(self._after, row["id"])
            built_before = self._unfinished.pop(row["id"], False)
            if row["state"] == "working":
                self._unfinished[row["id"]] = False
            elif row["state"] == "done":
                if not built_before:
                    self._built(row)
                if row["pending"]:
                    self._unfinished[row["id"]] = True
                elif row["delivered_s"] is not None:
                    self._delivered.labels(row["pipeline"]).observe(max(0.0, row["delivered_s"]))

    def _built(self, row: dict[str, Any]) -> None:
        self._answers.labels(row["pipeline"], row["status"], row["reason"]).inc()
        for stage, seconds in row["timings_s"].items():
            self._stages.labels(row["pipeline"], stage).observe(seconds)


class LedgerWatch:
    """Asks the ledger when somebody wants to know, and not more often than once in a period."""

    def __init__(self, dsn: str, period_s: float, registry: CollectorRegistry) -> None:
        self._dsn = dsn
        self._period_s = period_s
        self._progress = Progress(registry)
        self._changed = threading.Condition()
        self._wanted = False
        self._stopping = False
        self._looks = 0
        self._latest: LedgerFigures | None = None
        self._thread = threading.Thread(target=self._run, name="ledger figures", daemon=True)

    def start(self) -> None:
        """Begin to take requests."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more; a query that runs is not waited for."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def figures(self) -> LedgerFigures | None:
        """Figures not older than the period; ``None`` where the ledger does not answer in time."""
        with self._changed:
            if not self._no_older_than(self._period_s):
                looks, self._wanted = self._looks, True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._looks > looks or self._stopping, SCRAPE_PATIENCE_S)
            return self._latest if self._no_older_than(self._period_s + SCRAPE_PATIENCE_S) else None

    def _no_older_than(self, seconds: float) -> bool:
        return self._latest is not None and time.monotonic() - self._latest.taken_at <= seconds

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopping)
                if self._stopping:
                    return
                self._wanted = False
            latest = self._look()
            with self._changed:
                self._latest = latest
                self._looks += 1
                self._changed.notify_all()

    def _look(self) -> LedgerFigures | None:
        began = time.monotonic()
        try:
            with (
                psycopg.connect(self._dsn, connect_timeout=STATEMENT_PATIENCE_S, row_factory=dict_row) as connection,
                connection.transaction(),
            ):
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_PATIENCE_S}s'".encode())
                self._progress.look(connection)
                found = LedgerFigures(
                    taken_at=began,
                    took_s=0.0,
                    jobs=figures.jobs(connection),
                    studies_parked=figures.studies_parked(connection),
                    deliveries=figures.deliveries(connection),
                    events_of_a_day=figures.events_of_a_day(connection),
                )
        except (psycopg.Error, OSError) as error:
            log.warning("no figures of the ledger", reason=type(error).__name__)
            return None
        except Exception:
            log.exception("the ledger's figures failed")
            return None
        return LedgerFigures(**{**vars(found), "took_s": time.monotonic() - began})
