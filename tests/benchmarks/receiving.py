"""Receiving: the listener against DCMTK's storescp, Orthanc, its own plain handler, the disk and the loopback.

``python -m tests.benchmarks.receiving [--short] [--pairs N] [--only TEXT]`` prints these rows alone. Durable rows write
to the disk; the others to tmpfs, where only the code counts. Peers' CPU time is that of their processes, children
included. Every row is made of interleaved pairs, so that what else the machine does hits both sides; on
the disk each side begins after a sync, so that neither pays for what the other has left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil
import psycopg

from node.demo.stage import RunningNode
from node.ledger import migrate, private_database
from node.process import read_state
from node.settings import Settings
from tests.benchmarks.raw_sender import requests, seconds_to_send
from tests.benchmarks.rows import PAIRS, Row, paired
from tests.dicom import write_series
from tests.orthanc import free_port, orthanc
from tests.pdus import RawSender

IDLE_ASSOCIATIONS = 50
IDLE_S = 10.0


@dataclass(frozen=True)
class Load:
    """What is sent in one run."""

    name: str
    count: int
    size: int
    """Columns and rows of 16 bit."""


@dataclass
class Receiver:
    """A receiving process."""

    port: int
    pid: int
    folder: Path
    """Where it stores; emptied between runs."""
    empties: bool = True
    """Whether its folder may be emptied under it."""
    entered: Callable[[], int] | None = None
    """Number of instances in its ledger, where it has one."""
    cpu_s: float = 0.0
    """CPU time of the last run."""

    def rate(self, load: Load, associations: int = 1) -> float:
        """Instances per second of the raw sender; with a ledger, all of them are in it before they are removed.

        Raises
        ------
        TimeoutError
            They did not come into the ledger.
        """
        prepared = requests(load.count, load.size)
        entered = self.entered() if self.entered is not None else 0
        before = _cpu_s(self.pid)
        seconds = seconds_to_send(self.port, prepared, associations)
        time.sleep(0.2)  # whatever is done behind the acknowledgement
        deadline = time.monotonic() + 60.0
        while self.entered is not None and self.entered() - entered < load.count:
            if time.monotonic() > deadline:
                raise TimeoutError("instances that did not come into the ledger")
            time.sleep(0.1)
        self.cpu_s = _cpu_s(self.pid) - before
        self.empty()
        return load.count / seconds

    def cpu_ms(self, load: Load) -> float:
        """CPU milliseconds per instance."""
        self.rate(load)
        return self.cpu_s / load.count * 1000

    def storescu_rate(self, files: list[Path]) -> float:
        """Instances per second of DCMTK's storescu, its start included."""
        begun = time.perf_counter()
        subprocess.run(
            ["storescu", "-aec", "SPINENODE", "-pdu", "131072", "127.0.0.1", str(self.port), *map(str, files)],
            check=True,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        seconds = time.perf_counter() - begun
        self.empty()
        return len(files) / seconds

    def empty(self) -> None:
        """Forget what was stored."""
        if self.empties:
            for entry in self.folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def _cpu_s(pid: int) -> float:
    """CPU time of a process and its children, those that have ended included."""
    process = psutil.Process(pid)
    total = 0.0
    for one in [process, *process.children()]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if one is process:
            total += times.children_user + times.children_system
    return total


def ours(folder: Path, *options: str) -> AbstractContextManager[Receiver]:
    """The node's listener."""
    return _receiving("tests.benchmarks.receiver", folder, *options)


def raw_limit(folder: Path, load: Load) -> AbstractContextManager[Receiver]:
    """What only takes bytes from loopback TCP and writes each instance of a load to a file."""
    ((head, pixels),) = requests(1, load.size)
    return _receiving("tests.benchmarks.raw_receiver", folder, str(len(head) + len(pixels)))


@contextmanager
def _receiving(module: str, folder: Path, *options: str) -> Iterator[Receiver]:
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(folder), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Receiver(int(process.stdout.readline()), process.pid, folder)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[Receiver | None]:
    """DCMTK's storescp without Nagle's delay; ``None`` where it is not installed."""
    program = shutil.which("storescp")
    if program is None:
        yield None
        return
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [program, "+B", "-pdu", "131072", *options, "-od", str(folder), str(port)],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1.0)
        yield Receiver(port, process.pid, folder)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def orthanc_peer(folder: Path, synchronous: bool) -> Iterator[Receiver | None]:
    """Orthanc, which flushes every file where ``synchronous``; ``None`` where it is not installed."""
    program = shutil.which("Orthanc")
    if program is None:
        yield None
        return
    options = {"SyncStorageArea": synchronous, "DicomThreadsCount": 4, "MaximumPduLength": 131072}
    with orthanc(folder, program, options=options) as running:
        yield Receiver(running.dicom_port, running.pid, folder, empties=False)


def fdatasync_ceiling(folder: Path, load: Load, writers: int = 1) -> float:
    """Files per second when each is written and flushed by itself: the disk's own limit."""
    content = os.urandom(load.size * load.size * 2 + 1024)
    scratch = folder / "ceiling"
    scratch.mkdir()

    def write(first: int) -> None:
        for number in range(first, load.count, writers):
            descriptor = os.open(scratch / f"{number}.raw", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(descriptor, content)
            os.fdatasync(descriptor)
            os.close(descriptor)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(writers)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    shutil.rmtree(scratch)
    return load.count / seconds


def _settled(measure: Callable[[], float]) -> Callable[[], float]:
    """Begins with nothing left to write: neither pages, nor names and blocks of what the other side removed."""

    def measured() -> float:
        os.sync()
        return measure()

    return measured


def _rate(receiver: Receiver | None, load: Load, associations: int = 1) -> Callable[[], float] | None:
    return None if receiver is None else partial(receiver.rate, load, associations)


def durable(disk: Path, loads: list[Load], pairs: int) -> Iterator[Row]:
    """On the disk, every instance flushed before it is acknowledged; the ceiling is always that of a single writer."""
    with ExitStack() as stack:
        mine = stack.enter_context(ours(disk / "ours"))
        dsn = stack.enter_context(_database(disk / "pg"))
        with_ledger = stack.enter_context(ours(disk / "ledger", "--ledger", dsn))
        with_ledger.entered = partial(_instances, dsn)
        archive = stack.enter_context(orthanc_peer(disk / "orthanc", synchronous=True))
        for load in loads:
            ceiling = ("fdatasync per file", _settled(partial(fdatasync_ceiling, disk, load)))
            for associations in (1, 4):
                name = f"receive, durable, {load.name}, {associations} association{'s' * (associations > 1)}"
                rate = _settled(partial(mine.rate, load, associations))
                yield paired(name, "instances/s", rate, *ceiling, pairs)
                theirs = _rate(archive, load, associations)
                orthanc_rate = None if theirs is None else _settled(theirs)
                yield paired(name, "instances/s", rate, "Orthanc, SyncStorageArea", orthanc_rate, pairs)
            name = f"receive, durable, with the ledger, {load.name}"
            yield paired(name, "instances/s", _settled(partial(with_ledger.rate, load)), *ceiling, pairs)


@contextmanager
def _database(folder: Path) -> Iterator[str]:
    with private_database(folder) as dsn:
        migrate(dsn)
        yield dsn


def _instances(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM instance").fetchone()
    assert row is not None
    return int(row[0])


def not_durable(memory: Path, loads: list[Load], pairs: int) -> Iterator[Row]:
    """On tmpfs: only the code counts."""
    with ExitStack() as stack:
        mine = stack.enter_context(ours(memory / "ours"))
        plain = stack.enter_context(ours(memory / "plain", "--plain"))
        digest = stack.enter_context(ours(memory / "digest", "--digest"))
        single = stack.enter_context(storescp(memory / "storescp"))
        forking = stack.enter_context(storescp(memory / "forking", "--fork"))
        archive = stack.enter_context(orthanc_peer(memory / "orthanc", synchronous=False))
        for load in loads:
            name = f"receive, tmpfs, {load.name}"
            limit = stack.enter_context(raw_limit(memory / f"raw-{load.size}", load))
            for peer_name, peer, associations in (
                ("loopback TCP with a write", limit, 1),
                ("storescp", single, 1),
                ("storescp --fork", forking, 4),
                ("Orthanc", archive, 1),
                ("the plain handler", plain, 1),
            ):
                yield paired(
                    f"{name}, {associations} association{'s' * (associations > 1)}",
                    "instances/s",
                    partial(mine.rate, load, associations),
                    peer_name,
                    _rate(peer, load, associations),
                    pairs,
                )
            yield paired(
                f"{name}, CPU",
                "ms/instance",
                partial(mine.cpu_ms, load),
                "storescp",
                None if single is None else partial(single.cpu_ms, load),
                pairs,
            )
            yield paired(
                f"{name}, CPU",
                "ms/instance",
                partial(mine.cpu_ms, load),
                "with SHA-256",
                partial(digest.cpu_ms, load),
                pairs,
            )
        if single is not None and shutil.which("storescu"):
            files = write_series(memory / "in", loads[0].count, size=loads[0].size)
            yield paired(
                f"receive, tmpfs, {loads[0].name}, from storescu",
                "instances/s",
                partial(mine.storescu_rate, files),
                "storescp",
                partial(single.storescu_rate, files),
                pairs,
            )


def idle(memory: Path) -> Iterator[Row]:
    """Fifty associations that say nothing."""
    for name, options in (("fast", ()), ("plain", ("--plain",))):
        with ours(memory / f"idle-{name}", *options) as receiver, ExitStack() as stack:
            for _ in range(IDLE_ASSOCIATIONS):
                stack.enter_context(RawSender(receiver.port)).associate()
            time.sleep(1.0)
            before = _cpu_s(receiver.pid)
            time.sleep(IDLE_S)
            percent = (_cpu_s(receiver.pid) - before) / IDLE_S * 100
            resident = psutil.Process(receiver.pid).memory_info().rss / 2**20
            yield Row(f"{IDLE_ASSOCIATIONS} idle associations, {name} handler, CPU", percent, "% of a core")
            yield Row("  of it resident memory", resident, "MiB")


def start_time(disk: Path, runs: int) -> Iterator[Row]:
    """The receiving process, the database there already: from its command to the first association it grants."""
    seconds = []
    with _database(disk / "pg-start") as dsn:
        for run in range(runs):
            folder = disk / f"start-{run}"
            folder.mkdir()
            settings = Settings.model_validate({"data_dir": str(folder), "receive": {"port": 0}})
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "node.role", "receive"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps({"settings": settings.model_dump(mode="json"), "dsn": dsn}) + "\n")
            process.stdin.flush()
            while "port" not in read_state(settings):
                time.sleep(0.005)
            with RawSender(int(read_state(settings)["port"])) as sender:
                sender.associate()
                seconds.append(time.perf_counter() - begun)
                sender.release()
            process.stdin.close()
            process.wait(60)
    yield Row("start of the receiver alone, the database there", statistics.median(seconds), "s", runs=runs)


def node_start_time(disk: Path, runs: int) -> Iterator[Row]:
    """``spine-node run`` on a data directory that it has used: as a whole, and from its database to its listening."""
    folder = disk / "node"
    folder.mkdir()
    whole, behind_database, resident = [], [], []
    for run in range(runs + 1):  # the first one makes the database
        node = RunningNode(folder, receive={"port": 0}, site="bench")
        node.log.unlink(missing_ok=True)
        begun = time.perf_counter()
        try:
            node.start()
            if run:
                whole.append(time.perf_counter() - begun)
                at = _logged_at(node.log)
                behind_database.append((at["listening"] - at["database there"]).total_seconds())
                time.sleep(5.0)
                resident.append(_resident_mib(node.process.pid))
        finally:
            node.stop()
    yield Row("start of the node until it listens", statistics.median(whole), "s", runs=runs)
    yield Row("  of it behind the private database", statistics.median(behind_database), "s", runs=runs)
    yield Row("  resident memory of its four processes", statistics.median(resident), "MiB", runs=runs)


def _logged_at(log: Path) -> dict[str, datetime]:
    """When each event was logged last."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return {line["event"]: datetime.fromisoformat(line["timestamp"]) for line in lines}


def _resident_mib(pid: int) -> float:
    """Of a supervisor and its children, the database's processes not included."""
    supervisor = psutil.Process(pid)
    return sum(float(one.memory_info().rss) for one in [supervisor, *supervisor.children()]) / 2**20


def measure(pairs: int = PAIRS, short: bool = False, only: str = "") -> Iterator[Row]:
    """All rows; a fifth of the instances where ``short``."""
    scale = 5 if short else 1
    loads = [Load("512 x 512", 300 // scale, 512), Load("128 x 128", 1000 // scale, 128)]
    disk = Path(tempfile.mkdtemp(prefix="spine-bench-"))
    memory = Path(tempfile.mkdtemp(prefix="spine-bench-", dir="/dev/shm"))
    parts = {
        "durable": partial(durable, disk, loads, pairs),
        "tmpfs": partial(not_durable, memory, loads, pairs),
        "idle": partial(idle, memory),
        "start": partial(start_time, disk, 5),
        "start of the node": partial(node_start_time, disk, 3),
    }
    try:
        for name, part in parts.items():
            if only in name:
                yield from part()
    finally:
        shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)


def main() -> None:
    """Print the rows as they come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    for row in measure(options.pairs, options.short, options.only):
        print(row.line(), flush=True)


if __name__ == "__main__":
    main()
