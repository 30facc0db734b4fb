"""Prints a table and writes ``build/bench.json``; a peer that is not installed makes its rows "not measured".

Each ratio is the median of interleaved pairs: ours, the peer, ours, the peer. Rates are instances per second, so a
ratio above 1 means that ours is faster.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from node.deliver.sender import send
from node.deliver.status import Verdict
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import stage
from node.ledger import overview
from node.receive.association import Listener
from node.receive.spool import Spool
from node.service import ledger_of
from node.settings import Receive
from tests.benchmarks import lengths
from tests.dicom import write_series

PAIRS = 7
INSTANCES = 100
BUILD = Path("build")
HISTORY = Path(__file__).parent / "history.jsonl"


@dataclass(frozen=True)
class Row:
    """One line of the bench; ``None`` where it was not measured."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    runs: int = 1


def paired(name: str, unit: str, ours: Callable[[], float], peer: str, theirs: Callable[[], float] | None) -> Row:
    """Medians of interleaved runs; the ratio is the median of the pairs' ratios."""
    pairs = [(ours(), theirs() if theirs is not None else None) for _ in range(PAIRS)]
    value = statistics.median(pair[0] for pair in pairs)
    if theirs is None:
        return Row(name, value, unit, peer, None, None, PAIRS)
    measured = [(mine, other) for mine, other in pairs if other is not None]
    ratio = statistics.median(mine / other for mine, other in measured)
    return Row(name, value, unit, peer, statistics.median(other for _, other in measured), ratio, PAIRS)


def rate_of_sending(files: list[Path], port: int, called_ae: str) -> float:
    """Instances per second from the first request to the last acknowledgement, association included."""
    stored = 0

    def replied(_index: int, reply: object) -> None:
        nonlocal stored
        stored += getattr(reply, "verdict", None) is Verdict.STORED

    begun = time.perf_counter()
    send(files, "127.0.0.1", port, called_ae=called_ae, calling_ae="BENCH", replied=replied)
    seconds = time.perf_counter() - begun
    if stored != len(files):
        raise RuntimeError(f"{stored} of {len(files)} instances stored at port {port}")
    return len(files) / seconds


def fdatasync_ceiling(folder: Path, content: bytes) -> float:
    """Files per second when each is written and flushed by itself: the disk's own limit."""
    begun = time.perf_counter()
    for number in range(INSTANCES):
        descriptor = os.open(folder / f"{number}.raw", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, content)
        os.fdatasync(descriptor)
        os.close(descriptor)
    seconds = time.perf_counter() - begun
    for number in range(INSTANCES):
        (folder / f"{number}.raw").unlink()
    return INSTANCES / seconds


@contextmanager
def storescp(folder: Path) -> Iterator[int | None]:
    """DCMTK's storescp without Nagle's delay; ``None`` where it is not installed."""
    program = shutil.which("storescp")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder.mkdir()
    process = subprocess.Popen(
        [program, "+B", "-pdu", "131072", "-od", str(folder), str(port)],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1.0)
        yield port
    finally:
        process.terminate()
        process.wait()


def receiving(scratch: Path) -> list[Row]:
    """The durable listener against storescp (which does not flush) and against the disk."""
    files = write_series(scratch / "in", INSTANCES, size=512)
    spool = Spool(scratch / "spool")
    listener = Listener(Receive(port=0), spool, lambda _reception: None, lambda *_event: None)
    listener.start()
    content = files[0].read_bytes()
    with storescp(scratch / "storescp") as port:
        rows = [
            paired(
                "receive, durable, 512 x 512, one association",
                "instances/s",
                lambda: rate_of_sending(files, listener.port, "SPINENODE"),
                "storescp (not durable)",
                None if port is None else lambda: rate_of_sending(files, port, "ANY-SCP"),
            ),
            paired(
                "receive, durable, 512 x 512, one association",
                "instances/s",
                lambda: rate_of_sending(files, listener.port, "SPINENODE"),
                "fdatasync per file, no network",
                lambda: fdatasync_ceiling(scratch, content),
            ),
        ]
    listener.stop()
    return rows


def end_to_end(scratch: Path) -> list[Row]:
    """From the last C-STORE to the last result stored, by stage, for the demo's CT; the quiet time is taken out."""
    from onnx_models.training.phantom import demo_volume
    from onnx_models.training.phantom.dicom import write_dicom_series

    quiet_s = 2.0
    _, volume = demo_volume()
    files = write_dicom_series(volume, scratch / "phantom", order="shuffled")
    with SmallPacs(scratch / "pacs") as pacs:
        destination = {"name": "bench", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE}
        with stage(site="bench", study={"quiet_s": quiet_s}, receive={"port": 0}, destinations=[destination]) as node:
            rate = rate_of_sending(files, node.port, "SPINENODE")
            begun = time.monotonic()
            with ledger_of(node.settings) as database:
                while True:
                    with database.transaction() as connection:
                        counts = overview.counts(connection)
                        answer = connection.execute("SELECT timings_s FROM answer WHERE state = 'done'").fetchone()
                    if answer and counts["deliveries_stored"] == counts["results"] > 0:
                        break
                    if time.monotonic() - begun > 600:
                        raise RuntimeError(f"no answer within 600 s: {node.tail()}")
                    time.sleep(0.05)
    total = time.monotonic() - begun - quiet_s
    rows = [
        Row(f"send {len(files)} slices to the node", rate, "instances/s"),
        Row(f"last C-STORE to last result, {len(files)} slices, without the quiet time", total, "s"),
    ]
    return rows + [Row(f"  of it {stage_name}", seconds, "s") for stage_name, seconds in answer["timings_s"].items()]


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
        rows = receiving(scratch) + end_to_end(scratch) + by_length(scratch)
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
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "rows": [asdict(r) for r in rows],
    }
    with HISTORY.open("a", encoding="utf-8") as history:
        history.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
