"""From the last C-STORE to the last result stored: by the number of slices and by stage; a film; many studies at once.

Every study has UIDs of its own, and one that was not evaluated has no row: its time would say nothing.

``python -m tests.benchmarks.answering [--slices 120 300 ...] [--films N] [--studies N] [--at-once N]`` prints these
rows alone.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import UID, generate_uid

from node.deliver.sender import send
from node.deliver.status import Verdict
from node.demo.film import phantom_film
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.stage import RunningNode, stage
from node.ledger import Database
from node.service import ledger_of
from tests.benchmarks import lengths
from tests.benchmarks.rows import Row

QUIET_S = 2.0
STUDIES, STUDY_SLICES = 20, 120
FILMS = 5
"""As many films, each alone, of which the one in the middle is told."""
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
            SELECT a.id, a.status, a.reason_code, a.timings_s, a.started_at, a.finished_at, s.last_instance_at,
                   count(d.id) AS deliveries, max(d.stored_at) AS stored_at,
                   min(r.outbox_name) FILTER (WHERE r.kind = 'segmentation') AS segmentation
              FROM answer a JOIN study s USING (study_uid)
              LEFT JOIN result r ON r.answer_id = a.id LEFT JOIN delivery d ON d.result_id = r.id
             WHERE a.state = 'done' GROUP BY a.id, s.last_instance_at ORDER BY a.id
            """
        ).fetchall()
    complete = len(done) >= answers and all(row["deliveries"] for row in done)
    return done if complete and outstanding is not None and not outstanding["n"] else None


def _wait(node: RunningNode, database: Database, answers: int) -> list[dict[str, Any]]:
    """The answers, as `_answered`.

    Raises
    ------
    RuntimeError
        They are not there in time, there are more of them than studies, or a study was not evaluated.
    """
    deadline = time.monotonic() + PATIENCE_S
    while (done := _answered(database, answers)) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {answers} answers within {PATIENCE_S:.0f} s: {node.tail()}")
        time.sleep(0.05)
    check_evaluated(done, answers)
    return done


def check_evaluated(done: Sequence[dict[str, Any]], answers: int) -> None:
    """Whether these rows of the ledger are so many answers, each of which was computed.

    Raises
    ------
    RuntimeError
        They are not.
    """
    not_evaluated = sorted({str(row["reason_code"]) for row in done if row["status"] != "evaluated"})
    if not_evaluated or len(done) != answers:
        reasons = ", ".join(not_evaluated) or "each evaluated"
        raise RuntimeError(f"{len(done)} answers to {answers} studies ({reasons}): there is nothing to time")


def _vertebrae(node: RunningNode, answer: dict[str, Any]) -> int:
    """How many an answer's segmentation has."""
    path = node.settings.outbox_dir / answer["segmentation"]
    return len(dcmread(path, stop_before_pixels=True).SegmentSequence)


def renamed(files: Sequence[Path], folder: Path, study: int) -> list[Path]:
    """The same images as another study."""
    folder.mkdir()
    copies = []
    for path in files:
        data_set = dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            if keyword in data_set:  # a film has no frame of reference
                data_set[keyword].value = UID(generate_uid(entropy_srcs=[str(data_set[keyword].value), str(study)]))
        data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
        copies.append(folder / path.name)
        data_set.save_as(copies[-1], enforce_file_format=True)
    return copies


def measure(
    scratch: Path,
    slices: Sequence[int] = lengths.LENGTHS,
    studies: int = STUDIES,
    at_once: int = 2,
    films: int = FILMS,
) -> Iterator[Row]:
    """One row and its stages for each length and for a film; then many studies against as many times one."""
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
            files = write_dicom_series(lengths.cut(trunk, STUDY_SLICES), scratch / "study")
            rate_of_sending(files, node.port, "SPINENODE")  # not timed: the worker may be starting still
            answers = 1
            _wait(node, database, answers)
            for count in slices:
                folder = scratch / f"{count}"
                sent = write_dicom_series(lengths.cut(trunk, count), folder, seed=count)
                rate = rate_of_sending(sent, node.port, "SPINENODE")
                acknowledged_at = datetime.now(UTC)
                answers += 1
                answer = _wait(node, database, answers)[-1]
                shutil.rmtree(folder)
                what = f"{count} slices, {_vertebrae(node, answer)} vertebrae"
                yield from _stages(what, answer, acknowledged_at)
                yield Row("  sent to the node", rate, "instances/s")
            if films:
                yield from _one_film(node, database, scratch, films, answers)
                answers += films
            if studies:
                yield from _many(node, database, files, scratch, studies, answers)


def _one_film(node: RunningNode, database: Database, scratch: Path, films: int, answers: int) -> Iterator[Row]:
    """The demo's film as a study by itself, ``films`` times: the one in the middle by its whole time, and its parts."""
    _, film = phantom_film(scratch / "film")
    timed = []
    for number in range(films):
        folder = scratch / "renamed"
        rate_of_sending(renamed([film], folder, number), node.port, "SPINENODE")
        acknowledged_at = datetime.now(UTC)
        shutil.rmtree(folder)
        answer = _wait(node, database, answers + number + 1)[-1]
        timed.append(list(_stages("one film", answer, acknowledged_at, films)))
    timed.sort(key=lambda rows: rows[0].value)
    yield from timed[len(timed) // 2]


def _stages(what: str, answer: dict[str, Any], acknowledged_at: datetime, runs: int = 1) -> Iterator[Row]:
    """The whole time, then its parts in their order; together they are the whole."""
    quiet_at = answer["last_instance_at"].timestamp() + QUIET_S
    gate_s, inference_s, results_s = (answer["timings_s"][stage] for stage in ("gate", "inference", "results"))
    claimed, finished = answer["started_at"].timestamp(), answer["finished_at"].timestamp()
    begun, stored = acknowledged_at.timestamp(), answer["stored_at"].timestamp()
    name = f"last C-STORE to last result, {what}, without the quiet time"
    yield Row(name, stored - begun - QUIET_S, "s", runs=runs)
    yield Row("  of it until the ledger has every slice", quiet_at - QUIET_S - begun, "s")
    yield Row("  of it queue, check of the files, headers", claimed - gate_s - quiet_at, "s")
    yield Row("  of it gate", gate_s, "s")
    yield Row("  of it inference", inference_s, "s")
    yield Row("  of it results", results_s, "s")
    yield Row("  of it outbox", finished - claimed - inference_s - results_s, "s")
    yield Row("  of it delivery", stored - finished, "s")


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
    parser.add_argument("--films", type=int, default=FILMS)
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="spine-bench-"))
    try:
        for row in measure(scratch, options.slices, options.studies, options.at_once, options.films):
            print(row.line(), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
