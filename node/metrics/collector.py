"""Everything that is told, as Prometheus' families: tallies of all processes, the ledger, the machine, the build."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node import __version__
from node.metrics.channel import Channel
from node.metrics.figures import LedgerFigures
from node.metrics.tally import COUNTERS, GAUGES, TALLY, Counts
from node.queue import EVALUATE, delivery_queue
from node.settings import Settings

PREFIX = "spine_node_"
CHILD_PATIENCE_S = 2.0
_JOB_STATES = ("running", "due", "scheduled")
_DELIVERY_STATES = ("pending", "unproven", "parked")


class Role(Protocol):
    """A process of the node, as `node.child` runs it."""

    role: str

    @property
    def channel(self) -> Channel | None:
        """On which it is asked."""

    @property
    def pid(self) -> int:
        """Its process id."""


@dataclass(frozen=True)
class RoleFigures:
    """One process at one moment."""

    counts: Counts | None
    """``None`` where it did not answer."""
    resident_bytes: float = 0.0
    cpu_s: float = 0.0
    descriptors: float = 0.0
    threads: float = 0.0


@dataclass(frozen=True)
class Moment:
    """Everything that was asked for one answer."""

    settings: Settings
    roles: Mapping[str, RoleFigures]
    ledger: LedgerFigures | None
    started_at: float
    """Seconds of the epoch."""

    def gauge(self, name: str) -> float | None:
        """A gauge without labels of whichever process has it."""
        for figures in self.roles.values():
            if figures.counts is not None and (name, ()) in figures.counts:
                return figures.counts[name, ()]
        return None


def look_at_roles(roles: Iterable[Role]) -> dict[str, RoleFigures]:
    """Ask all processes at once; the supervisor is one of them."""
    roles = list(roles)
    found = {"supervisor": _process(os.getpid(), TALLY.read())}
    with ThreadPoolExecutor(len(roles) or 1, thread_name_prefix="figures") as pool:
        answers = pool.map(lambda role: role.channel.ask(CHILD_PATIENCE_S) if role.channel else None, roles)
        for role, counts in zip(roles, answers, strict=True):
            found[role.role] = _process(role.pid, counts)
    return found


def _process(pid: int, counts: Counts | None) -> RoleFigures:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            cpu = process.cpu_times()
            memory = process.memory_info().rss
            return RoleFigures(counts, memory, cpu.user + cpu.system, process.num_fds(), process.num_threads())
    except (psutil.Error, OSError):
        return RoleFigures(None)


def spool_space(settings: Settings) -> tuple[int, int]:
    """Free and all bytes of the disk that the spool lies on."""
    folder = settings.spool_dir if settings.spool_dir.is_dir() else settings.data_dir
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


class NodeCollector(Collector):
    """A node's metrics at the moment at which they are collected."""

    def __init__(self, look: Callable[[], Moment]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Called by Prometheus' client for each scrape."""
        moment = self._look()
        yield _build(moment)
        yield _gauge("start_time_seconds", "When the node was started (epoch).", {(): moment.started_at})
        yield from _roles(moment)
        yield from _tallies(moment)
        yield from _disk(moment.settings)
        yield from _ledger(moment)

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: collecting asks processes and the database."""
        return []


def _build(moment: Moment) -> Metric:
    labels = {
        "version": __version__,
        "python": platform.python_version(),
        "site": moment.settings.site,
        "configuration": moment.settings.configuration_sha256[:12],
    }
    family = GaugeMetricFamily(PREFIX + "build_info", "Always 1; the labels tell what runs.", labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _roles(moment: Moment) -> Iterator[Metric]:
    roles = moment.roles
    up = {(role,): float(figures.counts is not None) for role, figures in roles.items()}
    yield _gauge("role_up", "Whether a process of the node runs and answers.", up, "role")
    told = {
        "role_resident_memory_bytes": ("Resident memory of a process.", "resident_bytes"),
        "role_open_descriptors": ("Open files and sockets of a process.", "descriptors"),
        "role_threads": ("Threads of a process.", "threads"),
    }
    for name, (help_text, attribute) in told.items():
        values = {(role,): getattr(figures, attribute) for role, figures in roles.items() if figures.counts is not None}
        yield _gauge(name, help_text, values, "role")
    cpu = CounterMetricFamily(PREFIX + "role_cpu_seconds", "Processor time of a process.", labels=["role"])
    for role, figures in roles.items():
        if figures.counts is not None:
            cpu.add_metric([role], figures.cpu_s)
    yield cpu


def _tallies(moment: Moment) -> Iterator[Metric]:
    counts: Counts = {}
    for figures in moment.roles.values():
        for key, value in (figures.counts or {}).items():
            counts[key] = counts.get(key, 0) + value
    for family in COUNTERS:
        counter = CounterMetricFamily(PREFIX + family.name.removesuffix("_total"), family.told, labels=family.labels)
        for (name, labels), value in sorted(counts.items()):
            if name == family.name:
                counter.add_metric(labels, value)
        yield counter
    for family in GAUGES:
        if (family.name, ()) in counts:
            yield _gauge(family.name, family.told, {(): counts[family.name, ()]})


def _disk(settings: Settings) -> Iterator[Metric]:
    with contextlib.suppress(OSError):
        free, size = spool_space(settings)
        yield _gauge("spool_free_bytes", "Free space of the disk that the spool lies on.", {(): free})
        yield _gauge("spool_size_bytes", "Size of that disk.", {(): size})
    reserve = settings.receive.free_space_reserve_mb * 2**20
    yield _gauge("spool_reserve_bytes", "Below this much free space C-STORE is answered A700.", {(): reserve})


def _ledger(moment: Moment) -> Iterator[Metric]:
    ledger = moment.ledger
    yield _gauge("ledger_up", "Whether the ledger answered.", {(): float(ledger is not None)})
    if ledger is None:
        return
    yield _gauge("ledger_look_age_seconds", "Age of the figures below.", {(): time.monotonic() - ledger.taken_at})
    yield _gauge("ledger_look_duration_seconds", "How long the ledger took to answer.", {(): ledger.took_s})
    destinations = [destination.name for destination in moment.settings.destinations]
    queues = [EVALUATE, *map(delivery_queue, destinations)]
    rows = {row["queue"]: row for row in ledger.jobs}
    jobs, oldest = {}, {}
    for queue in dict.fromkeys([*queues, *rows]):
        row = rows.get(queue, {})
        jobs.update({(queue, state): row.get(state, 0) for state in _JOB_STATES})
        oldest[(queue,)] = row.get("oldest_due_s", 0)
    yield _gauge("queue_jobs", "Jobs: running, due (wait for a worker), scheduled for later.", jobs, "queue", "state")
    yield _gauge("queue_oldest_due_seconds", "How long the oldest due job has been waiting.", oldest, "queue")
    yield _gauge("studies_parked", "Studies that wait for a person.", {(): ledger.studies_parked})
    rows = {row["destination"]: row for row in ledger.deliveries}
    waiting, longest = {}, {}
    for destination in dict.fromkeys([*destinations, *rows]):
        row = rows.get(destination, {})
        waiting.update({(destination, state): row.get(state, 0) for state in _DELIVERY_STATES})
        longest[(destination,)] = row.get("oldest_pending_s", 0)
    told = "Objects: pending (to be sent), unproven (accepted, not vouched for yet), parked (wait for a person)."
    yield _gauge("deliveries", told, waiting, "destination", "state")
    told = "Age of the oldest built result that a destination does not have."
    yield _gauge("delivery_oldest_pending_seconds", told, longest, "destination")
    events = {(kind,): count for kind, count in ledger.events_of_a_day.items()}
    yield _gauge("events_last_day", "Audit events of the last 24 hours (spine-node jobs events).", events, "kind")


def _gauge(name: str, told: str, values: Mapping[Any, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, told, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
