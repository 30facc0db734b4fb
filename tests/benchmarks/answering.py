"""From the last C-STORE to the last result stored: by the number of slices and by stage; and many studies at once.

``python -m tests.benchmarks.answering [--slices 120 300 ...] [--studies N] [--at-once N]`` prints these rows alone.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import UID, generate_uid

from node.deliver.sender import send
from node.deliver.status import Verdict
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import RunningNode, stage
from node.ledger import Database
from node.service import ledger_of
from tests.benchmarks import lengths
from tests.benchmarks.rows import Row

QUIET_S = 2.0
STUDIES, STUDY_SLICES = 20, 120
PATIENCE_S = 1800.0


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


def _answered(database: Database, answers: int) -> list[dict[str, Any]] | None:
    """Times of all answers, in order, once so many are there and every result is stored."""
    with database.transaction() as connection:
        outstanding = connection.execute("SELECT count(*) AS n FROM delivery WHERE state <> 'stored'").fetchone()
        done = connection.execute(
            """
            SELECT a.id, a.timings_s, a.started_at, a.finished_at, count(d.id) AS deliveries
              FROM answer a LEFT JOIN result r ON r.answer_id = a.id LEFT JOIN delivery d ON d.result_id = r.id
             WHERE a.state = 'done' GROUP BY a.id ORDER BY a.id
            """
        ).fetchall()
    complete = len(done) >= answers and all(row["deliveries"] for row in done)
    return done if complete and outstanding is not None and not outstanding["n"] else None


def _wait(node: RunningNode, database: Database, answers: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE_S
    while (done := _answered(database, answers)) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {answers} answers within {PATIENCE_S:.0f} s: {node.tail()}")
        time.sleep(0.05)
    return done


def renamed(files: Sequence[Path], folder: Path, study: int) -> list[Path]:
    """The same images as another study."""
    folder.mkdir()
    copies = []
    for path in files:
        data_set = dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            data_set[keyword].value = UID(generate_uid(entropy_srcs=[str(data_set[keyword].value), str(study)]))
        data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
        copies.append(folder / path.name)
        data_set.save_as(copies[-1], enforce_file_format=True)
    return copies


def measure(
    scratch: Path, slices: Sequence[int] = lengths.LENGTHS, studies: int = STUDIES, at_once: int = 2
) -> Iterator[Row]:
    """One row and its stages for each length; then ``studies`` of `STUDY_SLICES` against as many times one."""
    from onnx_models.training.phantom.dicom import write_dicom_series

    trunk = lengths.whole_trunk()
    with SmallPacs(scratch / "pacs") as pacs:
        node_of_bench = stage(
            site="bench",
            study={"quiet_s": QUIET_S},
            receive={"port": 0},
            work={"studies_at_once": at_once},
            destinations=[{"name": "bench", "host": "127.0.0.1", "port": pacs.port, "ae_title": AE_TITLE}],
        )
        with node_of_bench as node, ledger_of(node.settings) as database:
            answers = 0
            for count in slices:
                folder = scratch / f"{count}"
                files = write_dicom_series(lengths.cut(trunk, count), folder)
                rate = rate_of_sending(files, node.port, "SPINENODE")
                begun = time.monotonic()
                answers += 1
                answer = _wait(node, database, answers)[-1]
                total = time.monotonic() - begun - QUIET_S
                shutil.rmtree(folder)
                name = f"last C-STORE to last result, {count} slices"
                yield Row(f"{name}, without the quiet time", total, "s")
                stages = answer["timings_s"]
                for step in ("gate", "inference", "results"):
                    yield Row(f"  of it {step}", stages[step], "s")
                rest = total - sum(stages[step] for step in ("gate", "inference", "results"))
                yield Row("  of it queue, outbox and delivery", rest, "s")
                yield Row("  sent to the node", rate, "instances/s")
            if studies:
                files = write_dicom_series(lengths.cut(trunk, STUDY_SLICES), scratch / "study")
                yield from _many(node, database, files, scratch, studies, answers)


def _many(
    node: RunningNode, database: Database, files: Sequence[Path], scratch: Path, studies: int, answers: int
) -> Iterator[Row]:
    seconds = []
    for group in (1, studies):
        complete_at = 0.0
        for number in range(group):
            folder = scratch / "renamed"
            rate_of_sending(renamed(files, folder, group * 1000 + number), node.port, "SPINENODE")
            complete_at = complete_at or time.monotonic() + QUIET_S
            shutil.rmtree(folder)
        answers += group
        _wait(node, database, answers)
        seconds.append(time.monotonic() - complete_at)
    one, many = seconds
    name = f"{studies} studies of {STUDY_SLICES} slices, from the first one's last C-STORE, without its quiet time"
    yield Row(name, many, "s", f"{studies} x one", studies * one, many / (studies * one))


def main() -> None:
    """Print the rows as they come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slices", type=int, nargs="*", default=lengths.LENGTHS)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="spine-bench-"))
    try:
        for row in measure(scratch, options.slices, options.studies, options.at_once):
            print(row.line(), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
