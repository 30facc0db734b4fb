"""Synthetic answers of every sort, and the validators that judge the objects made of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results_synthetic import Case, completed, context, make_case, named_only

from inference.findings import Level
from node.results import Result, encode

Tool = Callable[[Result], str]


@pytest.fixture(scope="session")
def flagged() -> Case:
    """Eight vertebrae: V4 severe, V6 moderate, V8 seen only."""
    return make_case({4: (0.55, 0.5, 0.8), 6: (0.68, 0.9, 1.0)}, unmeasured=(8,))


@pytest.fixture(scope="session")
def normal() -> Case:
    """Seven undeformed vertebrae."""
    return make_case(count=7)


@pytest.fixture(scope="session")
def small() -> Case:
    """Three vertebrae, the middle one severely deformed, where many encodings are made."""
    return make_case({2: (0.55, 0.5, 0.8)}, count=3)


@pytest.fixture(scope="session")
def whole_spine() -> Case:
    """Eighteen vertebrae with names, T1 (cut off) to L5 with a T13; two of them deformed."""
    return make_case({9: (0.5, 0.6, 0.9), 12: (0.74, 0.8, 1.0)}, count=18, first_level=Level.T1, unmeasured=(1,))


@pytest.fixture(scope="session")
def complete() -> Case:
    """T8 to L5, L1 severely and L3 moderately deformed, with everything that masks give."""
    return completed(make_case({6: (0.55, 0.5, 0.8), 8: (0.68, 0.9, 1.0)}, count=10, first_level=Level.T8))


@pytest.fixture(scope="session")
def thick(complete: Case) -> Case:
    """The same spine in thick slices: named and segmented, nothing measured."""
    return named_only(complete)


@pytest.fixture(scope="session")
def complete_results(complete: Case) -> dict[str, Result]:
    """The objects of the complete case by kind."""
    return {result.kind: result for result in encode(complete.source, complete, context())}


@pytest.fixture(scope="session")
def flagged_results(flagged: Case) -> dict[str, Result]:
    """The objects of the flagged case by kind."""
    return {result.kind: result for result in encode(flagged.source, flagged, context())}


def written(result: Result, folder: Path) -> Path:
    """The result as a file."""
    path = folder / result.filename
    path.write_bytes(result.encoded())
    return path


@pytest.fixture
def validation_errors(program: Callable[[str], str], tmp_path: Path) -> Callable[[Result], list[str]]:
    """Errors that dciodvfy finds in a result; its own summary line must be there, or it did not run."""

    def run(result: Result) -> list[str]:
        done = subprocess.run(
            [program("dciodvfy"), str(written(result, tmp_path))],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
        lines = (done.stdout + done.stderr).splitlines()
        plain = [line for line in lines if not line.startswith(("Error", "Warning"))]
        expected = {
            "reformat": "SCImage",
            "capture": "SCImage",
            "segmentation": "Segmentation",
            "bodies": "Segmentation",
            "film_segmentation": "Segmentation",
        }.get(result.kind, "SR")
        assert any(expected in line for line in plain), f"dciodvfy did not recognise the object: {plain}"
        return [line for line in lines if line.startswith("Error")]

    return run


@pytest.fixture
def dumped(program: Callable[[str], str], tmp_path: Path) -> Tool:
    """What dsrdump prints of an SR; both dumpers must accept it without a complaint."""

    def run(result: Result) -> str:
        path = str(written(result, tmp_path))
        done = subprocess.run([program("dsrdump"), "+Pl", path], check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
        complaints = [x for x in done.stderr.decode("latin-1").splitlines() if x.startswith(("E:", "F:"))]
        assert complaints == []
        other = subprocess.run([program("dcsrdump"), path], check=False, capture_output=True)
        assert other.returncode == 0
        assert b"Error" not in other.stderr
        return done.stdout.decode("latin-1")

    return run


@pytest.fixture
def tid1500(program: Callable[[str], str], tmp_path: Path) -> Callable[[Result], list[dict[str, Any]]]:
    """The measurement groups that dcmqi's reader finds in an SR."""

    def run(result: Result) -> list[dict[str, Any]]:
        output = tmp_path / "tid1500.json"
        done = subprocess.run(
            [
                program("tid1500reader"),
                "--inputDICOM",
                str(written(result, tmp_path)),
                "--outputMetadata",
                str(output),
            ],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
        assert done.returncode == 0, done.stderr
        groups: list[dict[str, Any]] = json.loads(output.read_text(encoding="latin-1"))["Measurements"]
        return groups

    return run
