"""Logs never quote: neither what exceptions say, nor what libraries warn of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]

PROGRAM = """
import io, logging, threading, warnings
from node.logs import configure_logs, log_uncaught
configure_logs(); log_uncaught()
import pydicom, pynetdicom, structlog
from pydicom.dataset import Dataset
log = structlog.get_logger("test")
logging.getLogger("pydicom.pixels").error("Geheim")
logging.getLogger("pynetdicom.dul").critical("Geheim")
warnings.warn("Geheim")
ds = Dataset(); ds.PatientBirthDate = "Geheim"
try:
    try:
        float("Geheim")
    except ValueError as error:
        raise KeyError("Geheim") from error
except KeyError:
    log.exception("it failed")
    logging.getLogger("procrastinate").exception("it failed")
thread = threading.Thread(target=lambda: float("Geheim"))
thread.start()
thread.join()
float("Geheim")
"""


def test_neither_exceptions_nor_warnings_nor_libraries_are_quoted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False, cwd=HERE
    )
    assert done.returncode == 1
    assert "Geheim" not in done.stderr + done.stdout
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines] == ["it failed", "a thread failed", "the process failed"]
    kinds = [[part for part in line["exception"] if ":" not in part] for line in lines]
    assert kinds == [["KeyError", "ValueError"], ["ValueError"], ["ValueError"]]
    assert "ERROR procrastinate it failed" in done.stderr
