"""What a fault cost arrives in the table at the end of a run, whichever process of the run counted it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import counts
from tests.conftest import REPOSITORY

FAULTY = """
import pytest
from tests.chaos.counts import record

@pytest.mark.parametrize("number", range(4))
def test_fault(number):
    record(f"fault {number}", sent=70 + number, **{"in the ledger": 80 + number}, kills=90 + number)
"""


@pytest.mark.parametrize("processes", ["0", "2"])
@pytest.mark.parametrize("named", [True, False], ids=["into a named file", "into the run's own"])
def test_every_counted_fault_is_a_row_of_the_table(tmp_path: Path, processes: str, named: bool) -> None:
    (tmp_path / "test_faulty.py").write_text(FAULTY)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name != counts.FILE}
    environment |= {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    if named:
        environment[counts.FILE] = str(tmp_path / "build" / "counts.jsonl")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-n", processes]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if "fault " in line]
    for number in range(4):
        (row,) = (row for row in rows if f"fault {number}" in row)
        assert [str(value + number) in row for value in (70, 80)] == [True, True]
        assert f"kills {90 + number}" in row
    if named:
        assert len(counts.lines_of(tmp_path / "build" / "counts.jsonl")) == 4


def test_the_makefile_names_the_file_as_the_suite_does() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert f"{counts.FILE}=" in makefile
    assert "CHAOS_COUNTS" not in makefile.replace(counts.FILE, "")
