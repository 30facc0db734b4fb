"""What one process counts: plain numbers, cheap enough for the path of every image. No library is imported for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

OTHER = "other"
"""Stands for everybody whom the configuration does not name."""


class Family(NamedTuple):
    """A metric: its name without the program's prefix, what it counts, and its labels."""

    name: str
    told: str
    labels: tuple[str, ...]


RECEIVED = Family("receive_instances_total", "Instances that are safe in the spool.", ("calling_ae_title",))
RECEIVED_BYTES = Family("receive_bytes_total", "Bytes of their data sets.", ("calling_ae_title",))
RESPONSES = Family("receive_responses_total", "C-STORE responses by DIMSE status (hexadecimal).", ("status",))
INCIDENTS = Family(
    "receive_incidents_total",
    "Refusals, and peers that broke off; reason: of a rejected association.",
    ("kind", "reason"),
)
ASSOCIATIONS = Family("receive_associations_total", "Associations that were accepted.", ("calling_ae_title",))
EVALUATIONS = Family("evaluations_total", "Evaluations of studies: done, postponed, failed, parked.", ("outcome",))
SERIES = Family("series_total", "Decisions about series (or single radiographs).", ("outcome", "reason"))
DELIVERIES = Family(
    "deliveries_total", "Tries to deliver one object: stored, retry, parked.", ("destination", "outcome")
)
MESSAGES = Family("log_messages_total", "Warnings and errors in the log.", ("role", "level"))
RESTARTS = Family("role_restarts_total", "Processes that ended by themselves and were started again.", ("role",))
COUNTERS = (
    RECEIVED,
    RECEIVED_BYTES,
    RESPONSES,
    INCIDENTS,
    ASSOCIATIONS,
    EVALUATIONS,
    SERIES,
    DELIVERIES,
    MESSAGES,
    RESTARTS,
)

OPEN_ASSOCIATIONS = Family("receive_associations", "Associations that are open.", ())
MOST_ASSOCIATIONS = Family("receive_associations_limit", "Associations that may be open.", ())
WAITING = Family("receive_connections_waiting", "Connections that have not asked for an association yet.", ())
LISTENERS = Family("receive_listeners", "Addresses that are listened on.", ())
GAUGES = (OPEN_ASSOCIATIONS, MOST_ASSOCIATIONS, WAITING, LISTENERS)

Counts = dict[tuple[str, tuple[str, ...]], float]
"""(family's name, values of its labels) to its value."""


class Tally:
    """Counters and gauges of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counts = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def count(self, family: Family, *labels: str, by: float = 1) -> None:
        """Count; safe from every thread, never waits for anything."""
        key = (family.name, labels)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + by

    def add(self, counts: Counts) -> None:
        """Count several at once: of one event, or what another process counted that nobody asks."""
        with self._lock:
            for key, value in counts.items():
                self._counts[key] = self._counts.get(key, 0) + value

    def begin(self, family: Family, *labels: str) -> None:
        """Show a counter at 0 before it has counted anything: its first step is seen, too."""
        self.count(family, *labels, by=0)

    def watch(self, family: Family, look: Callable[[], float]) -> None:
        """Have ``look`` called for the value of a gauge without labels."""
        self._gauges[family.name] = look

    def read(self) -> Counts:
        """All values of this moment."""
        with self._lock:
            counts = dict(self._counts)
        return counts | {(name, ()): float(look()) for name, look in self._gauges.items()}


TALLY = Tally()
"""Of this process."""


class Titles:
    """AE titles of strangers are not told from one another: whoever sends could fill a monitor's memory."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = frozenset(known)

    def __call__(self, title: str) -> str:
        """The title where the configuration names it."""
        return title if title in self._known else OTHER
