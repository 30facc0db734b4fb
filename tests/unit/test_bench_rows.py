"""The bench tells nothing that it did not measure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.benchmarks import answering, lengths
from tests.benchmarks.raw_sender import requests
from tests.benchmarks.receiving import Load, raw_limit
from tests.benchmarks.rows import Row
from tests.films import Film
from tests.pdus import RELEASE_RP, RawSender

EVALUATED = {"status": "evaluated", "reason_code": None}
REFUSED = {"status": "not_evaluable", "reason_code": "DUPLICATE_POSITIONS"}


def test_a_study_that_was_not_evaluated_has_no_time() -> None:
    answering.check_evaluated([EVALUATED, EVALUATED], 2)
    with pytest.raises(RuntimeError, match=r"2 answers to 2 studies \(DUPLICATE_POSITIONS\)"):
        answering.check_evaluated([EVALUATED, REFUSED], 2)
    with pytest.raises(RuntimeError, match="2 answers to 1 studies"):
        answering.check_evaluated([EVALUATED, EVALUATED], 1)


def test_a_film_is_sent_as_another_study_each_time(tmp_path: Path) -> None:
    """It has no frame of reference, as slices have."""
    film = Film(sop_uid="1.2.1").write(tmp_path / "film.dcm")
    studies = set()
    for number in range(2):
        (copy,) = answering.renamed([film], tmp_path / str(number), number)
        studies.add(dcmread(copy).StudyInstanceUID)
    assert len(studies - {Film().study_uid}) == 2


def test_the_memory_of_a_run_is_its_own() -> None:
    """Not what the starting process holds, which Linux would count."""
    held = bytearray(b"x" * (100 << 20))
    status, seconds, peak_mib = lengths.run([sys.executable, "-S", "-c", "b = b'x' * (20 << 20); raise SystemExit(3)"])
    assert status == 3
    assert seconds > 0
    assert 20 < peak_mib < 80 < len(held) >> 20


def test_the_raw_limit_of_receiving_has_written_every_byte(tmp_path: Path) -> None:
    load = Load("small", 3, 128)
    sent = [head + pixels for head, pixels in requests(load.count, load.size)]
    with raw_limit(tmp_path / "raw", load) as receiver, RawSender(receiver.port) as sender:
        sender.associate()
        assert sender.store_all(sent) == [0] * load.count
        assert sender.release() == RELEASE_RP
        assert [path.read_bytes() for path in sorted(receiver.folder.iterdir())] == sent


def test_a_row_keeps_its_columns_and_is_no_power_of_ten() -> None:
    lines = [
        Row("short", 1240.4, "MiB").line(),
        Row("x" * 70, 0.0869, "s", "peer", 3230.0, 0.5, 7).line(),
        Row("tiny", 8.5e-05, "s").line(),
    ]
    assert [line.split()[1] for line in lines] == ["1240", "0.0869", "0.0001"]
    assert len({line.index(unit) for line, unit in zip(lines, (" MiB", " s", " s"), strict=True)}) == 1
    assert "peer: 3230" in lines[1]
    assert lines[1].endswith("ratio 0.50 (7)")
