"""Sending: the node's Storage SCU against DCMTK's storescu, both to the same storescp, without Nagle's delay.

``python -m tests.benchmarks.sending [--pairs N]`` prints these rows alone. Times are from the first connection to the
last acknowledgement and the release; storescu's include its start, which is a few milliseconds.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from node.deliver.sender import send
from node.deliver.status import Verdict
from tests.benchmarks.receiving import Receiver, storescp
from tests.benchmarks.rows import PAIRS, Row, paired
from tests.dicom import ct_slice, write_series

SMALL = 200
LARGE_MIB = 50


def _seconds_of_node(files: list[Path], receiver: Receiver) -> float:
    stored = 0

    def replied(_index: int, reply: object) -> None:
        nonlocal stored
        stored += getattr(reply, "verdict", None) is Verdict.STORED

    begun = time.perf_counter()
    send(files, "127.0.0.1", receiver.port, called_ae="ANY-SCP", calling_ae="BENCH", replied=replied)
    seconds = time.perf_counter() - begun
    receiver.empty()
    if stored != len(files):
        raise RuntimeError(f"{stored} of {len(files)} objects were stored")
    return seconds


def _seconds_of_storescu(files: list[Path], receiver: Receiver) -> float:
    return len(files) / receiver.storescu_rate(files)


def _cpu_ms_of_node(files: list[Path], receiver: Receiver) -> float:
    begun = time.process_time()
    _seconds_of_node(files, receiver)
    return (time.process_time() - begun) / len(files) * 1000


def large_object(folder: Path) -> Path:
    """One object of `LARGE_MIB`, as large as the segmentation of a long CT; for sending, its content is all one."""
    data_set: Dataset = ct_slice(0)
    side = 1024
    frames = LARGE_MIB * 2**20 // (2 * side * side)
    data_set.Rows = data_set.Columns = side
    data_set.NumberOfFrames = frames
    data_set.PixelData = np.random.default_rng(0).integers(0, 4096, (frames, side, side), np.uint16).tobytes()
    path = folder / "large.dcm"
    data_set.save_as(path, enforce_file_format=True)
    return path


def measure(pairs: int = PAIRS) -> Iterator[Row]:
    """All rows; nothing where there is no storescp, since there is nothing to send to."""
    memory = Path(tempfile.mkdtemp(prefix="spine-bench-", dir="/dev/shm"))
    try:
        with storescp(memory / "storescp") as receiver:
            if receiver is None:
                return
            has_storescu = shutil.which("storescu") is not None
            for name, files in (
                (f"send {SMALL} small objects", write_series(memory / "small", SMALL)),
                (f"send one object of {LARGE_MIB} MiB", [large_object(memory)]),
            ):
                theirs = partial(_seconds_of_storescu, files, receiver) if has_storescu else None
                yield paired(name, "s", partial(_seconds_of_node, files, receiver), "storescu", theirs, pairs)
                cpu = [_cpu_ms_of_node(files, receiver) for _ in range(pairs)]
                yield Row("  of it CPU", sorted(cpu)[len(cpu) // 2], "ms/object", runs=pairs)
    finally:
        shutil.rmtree(memory, ignore_errors=True)


def main() -> None:
    """Print the rows as they come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=PAIRS)
    for row in measure(parser.parse_args().pairs):
        print(row.line(), flush=True)


if __name__ == "__main__":
    main()
