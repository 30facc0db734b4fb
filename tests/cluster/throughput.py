"""``python -m tests.cluster.throughput --workers 1,2,4 --studies 40``: studies an hour, and what each costs where.

Toy studies (tiny slices with a hole: "not evaluable", a text report and a picture) show what the machinery itself
costs: receiving, registering, queue, gate, results, delivery. Per number of workers there is a fresh database, one
listener, and that many machines which evaluate and deliver, all on this machine. Beside the time from the first C-STORE
to the last result stored stand CPU seconds by role: on a machine that others share, and on one with fewer cores than
there are workers, they say more. ``--ct`` adds a whole CT on the phantom of ``make demo`` (or ``--ct-folder``).

deploy/SIZING.md is worked out from what this prints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg

from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from node.demo.pacs import SmallPacs
from tests.chaos.department import HOLES, RESULTS_PER_ANSWER
from tests.cluster.machines import LISTENER, WORKER, Cluster, cluster
from tests.cluster.server import fresh_database, postgres_server, postmaster
from tests.cluster.test_machines import sections
from tests.conftest import wait_until
from tests.dicom import STUDY, ct_slice

PATIENCE_S = 900.0
IDLE_S = 15.0
POSTGRESQL = "PostgreSQL"


@dataclass(frozen=True)
class Measured:
    """One run. CPU seconds and bytes are per study; ``idle_cpu_percent`` of a core, of all machines together."""

    workers: int
    slices: int
    studies: int
    received_s: float
    total_s: float
    studies_per_hour: float
    cpu_s: dict[str, float]
    idle_cpu_percent: dict[str, float]
    database_bytes: int
    wal_bytes: int
    result_bytes: int
    load_before: float


def main() -> None:
    """Measure and print; one line of JSON per run goes to ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.throughput", description=__doc__)
    parser.add_argument("--workers", default="1,2,4", help="numbers of workers, one run each")
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--slices", type=int, default=14)
    parser.add_argument("--ct", action="store_true", help="also one CT through the whole pipeline")
    parser.add_argument("--ct-folder", type=Path, help="a folder of DICOM files instead of the phantom")
    parser.add_argument("--out", type=Path, default=Path("build/throughput.jsonl"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} cores, load {_load():.1f}")
    with tempfile.TemporaryDirectory(prefix="spine-studies-") as scratch, postgres_server() as server:
        studies = [write_study(Path(scratch) / str(n), f"{STUDY}.6{n:05d}", given.slices) for n in range(given.studies)]
        for workers in [int(word) for word in given.workers.split(",") if word]:
            measured = measure(server, studies, workers, given.slices)
            _note(given.out, asdict(measured))
            cpu = ", ".join(f"{role} {seconds:.3f}" for role, seconds in measured.cpu_s.items())
            print(
                f"{workers} workers, {len(studies)} studies of {len(studies[0])} images: received in "
                f"{measured.received_s:.1f} s, all results stored after {measured.total_s:.1f} s = "
                f"{measured.studies_per_hour:.0f} studies/h; CPU s per study: {cpu} = "
                f"{sum(measured.cpu_s.values()):.3f}; per study {measured.database_bytes} B of database, "
                f"{measured.wal_bytes} B of WAL, {measured.result_bytes} B of results; "
                f"idle, % of a core: {measured.idle_cpu_percent}; load before {measured.load_before:.1f}"
            )
    if given.ct or given.ct_folder:
        figures = whole_ct(given.ct_folder)
        _note(given.out, figures)
        print(json.dumps(figures))


def measure(server: str, studies: list[list[Path]], workers: int, slices: int) -> Measured:
    """One run on a fresh database."""
    dsn = fresh_database(server)
    roles = {"listener": LISTENER, **{f"worker{n + 1}": WORKER for n in range(workers)}}
    with tempfile.TemporaryDirectory(prefix="spine-pacs-") as scratch, SmallPacs(Path(scratch)) as pacs:
        with cluster(dsn, roles, **sections(pacs.port)) as machines:
            wait_until(lambda: _workers(dsn) >= 3 * workers, 600.0, f"all workers to be up: {machines.tail()}")
            time.sleep(2.0)
            load = _load()
            with _cpu(machines, server) as idle:
                time.sleep(IDLE_S)
            with _cpu(machines, server) as spent, psycopg.connect(dsn, autocommit=True) as connection:
                size, wal = _sizes(connection)
                began = time.monotonic()
                for files in studies:
                    stored = 0

                    def replied(_index: int, reply: Reply) -> None:
                        nonlocal stored
                        stored += reply.verdict is Verdict.STORED

                    port = machines.ports()[0]
                    send(files, "127.0.0.1", port, called_ae="SPINENODE", calling_ae="BENCH", replied=replied)
                    assert stored == len(files)
                received_s = time.monotonic() - began
                expected = RESULTS_PER_ANSWER * len(studies)
                wait_until(lambda: _stored(pacs) >= expected, PATIENCE_S, f"results: {machines.tail()}")
                last = max(datetime.fromisoformat(item.at).timestamp() for item in pacs.received)
                total_s = last - (time.time() - (time.monotonic() - began))
                size_after, wal_after = _sizes(connection)
        files = sum(path.stat().st_size for path in pacs.stored().values())
    count = len(studies)
    return Measured(
        workers,
        slices,
        count,
        round(received_s, 2),
        round(total_s, 2),
        round(3600 * count / total_s, 1),
        {role: round(seconds / count, 4) for role, seconds in sorted(spent.items())},
        {role: round(100 * seconds / IDLE_S, 2) for role, seconds in sorted(idle.items())},
        (size_after - size) // count,
        (wal_after - wal) // count,
        files // count,
        load,
    )


def write_study(folder: Path, study_uid: str, slices: int) -> list[Path]:
    """A series with holes, as the chaos suite's department sends it, of any length."""
    folder.mkdir(parents=True)
    paths = []
    for number in range(slices):
        if number in HOLES:
            continue
        data_set = ct_slice(number, study_uid, f"{study_uid}.1")
        data_set.ImagePositionPatient = [-8.0, -8.0, 5.0 * number]
        data_set.SliceThickness = 5.0
        paths.append(folder / f"{number:04d}.dcm")
        data_set.save_as(paths[-1], enforce_file_format=True)
    return paths


def whole_ct(folder: Path | None) -> dict[str, Any]:
    """One CT through gate, networks and results in this process, networks loaded, on one thread."""
    from node.analyze import analyze
    from node.answering import pipeline_models
    from node.settings import load_settings

    with tempfile.TemporaryDirectory(prefix="spine-ct-") as scratch:
        if folder is None:
            from onnx_models.training.phantom import demo_volume
            from onnx_models.training.phantom.dicom import write_dicom_series

            folder = Path(scratch) / "ct"
            write_dicom_series(demo_volume()[1], folder)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        settings = load_settings(models={"threads": 1, "provider": "cpu"})
        models = pipeline_models(settings)
        load, began, before = _load(), time.monotonic(), time.process_time()
        answered = [item.built for item in analyze(folder, Path(scratch) / "out", models, settings) if item.built]
        spent, wall = time.process_time() - before, time.monotonic() - began
        results = sum(path.stat().st_size for path in (Path(scratch) / "out").rglob("*.dcm"))
    return {
        "ct_images": len(sizes),
        "ct_bytes": sum(sizes),
        "ct_wall_s": round(wall, 1),
        "ct_cpu_s": round(spent, 1),
        "ct_result_bytes": results,
        "ct_memory_mb": round(psutil.Process().memory_info().rss / 2**20),
        "ct_answers": [str(built.findings.refusal) if built.findings.refusal else "evaluated" for built in answered],
        "load_before": load,
    }


@contextmanager
def _cpu(machines: Cluster, server: str) -> Iterator[Counter[str]]:
    """CPU seconds that are spent within the block, by role; PostgreSQL's among them."""
    processes, base = machines.processes(), postmaster(server)
    spent: Counter[str] = Counter()
    before = {name: _seconds(process) for name, process in processes.items()}
    server_before = _server_seconds(base)
    try:
        yield spent
    finally:
        for name, process in processes.items():
            spent[name.split("/")[1]] += _seconds(process) - before[name]
        spent[POSTGRESQL] = _server_seconds(base) - server_before


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _server_seconds(pid: int) -> float:
    """Of the postmaster, of its living children, and of those that have ended."""
    base = psutil.Process(pid)
    times = base.cpu_times()
    total = float(times.user + times.system + times.children_user + times.children_system)
    for child in base.children():
        try:
            total += _seconds(child)
        except psutil.NoSuchProcess:
            continue
    return total


def _sizes(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """Bytes of the database, and of the write-ahead log since the server was made."""
    row = connection.execute(
        "SELECT pg_database_size(current_database()), pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _stored(pacs: SmallPacs) -> int:
    time.sleep(0.1)  # asking must not cost what is measured
    return len(pacs.stored())


def _workers(dsn: str) -> int:
    """Workers of all queues that have reported: an evaluator has one, a courier two."""
    try:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT count(*) FROM procrastinate_workers").fetchone()
    except psycopg.Error:
        return 0
    return int(row[0]) if row is not None else 0


def _load() -> float:
    return round(os.getloadavg()[0], 1)


def _note(path: Path, figures: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **figures}) + "\n")


if __name__ == "__main__":
    main()
