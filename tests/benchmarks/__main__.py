"""Prints a table and writes ``build/bench.json``; a peer that is not installed makes its rows "not measured".

Each ratio is the median of interleaved pairs: ours, the peer, ours, the peer. Of rates (instances per second), a ratio
above 1 means that ours is faster; of times, one below 1.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from node.deliver.sender import send
from node.deliver.status import Verdict
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import stage
from node.ledger import overview
from node.service import ledger_of
from tests.benchmarks import lengths, receiving, sending
from tests.benchmarks.rows import Row

BUILD = Path("build")
HISTORY = Path(__file__).parent / "history.jsonl"


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
        rows = [*receiving.measure(), *sending.measure(), *end_to_end(scratch), *by_length(scratch)]
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
