"""What a CT costs by its length: ``spine-node analyze`` on 120 to 1,200 slices of 512 x 512, each in its own process.

The images are one phantom of a whole trunk, made at 2 mm and resampled to 1 mm between slices, from the sacrum
upward: more slices hold more vertebrae, and beyond the skull nothing but air.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK

from inference.geometry import Volume

LENGTHS = (120, 300, 600, 1200)
STARTS = 3
MATRIX = 512
BASE_MM, SLICE_MM, PIXEL_MM = 2.0, 1.0, 0.8


@dataclass(frozen=True)
class Cost:
    """One run: slices, vertebrae found, seconds as a whole and by stage, largest resident memory of its process."""

    slices: int
    vertebrae: int
    seconds: float
    stages: dict[str, float]
    peak_mib: float


def whole_trunk() -> Volume:
    """The phantom at `BASE_MM`, wide and deep enough for the matrix."""
    from onnx_models.training.phantom import TRAINING, Plan, acquire, canonical_grid, sample_patient

    patient = sample_patient(np.random.default_rng(4), TRAINING, Plan(standard_levels=True, cobb_deg=8.0))
    sacrum = np.asarray(next(v for v in patient.vertebrae if v.level == "S1").centroid_lps_mm)
    half = MATRIX * PIXEL_MM / 2
    low = sacrum + np.array([-half, -half - 40.0, 10.0])
    high = sacrum + np.array([half, half - 40.0, 10.0 + max(LENGTHS) * SLICE_MM])
    return acquire(patient, canonical_grid(low, high, (BASE_MM,) * 3), np.random.default_rng(5), TRAINING)


def cut(trunk: Volume, slices: int) -> Volume:
    """The lowest ``slices`` slices at `SLICE_MM` with a matrix of `MATRIX`."""
    image = SimpleITK.GetImageFromArray(trunk.hu.astype(np.float32))
    steps = (PIXEL_MM / BASE_MM, PIXEL_MM / BASE_MM, SLICE_MM / BASE_MM)
    start = float(max(trunk.hu.shape[0] - 1 - slices * steps[2], 0.0))
    fine = SimpleITK.Resample(
        image, (MATRIX, MATRIX, slices), SimpleITK.Transform(), SimpleITK.sitkLinear, (0.0, 0.0, start), steps,
        image.GetDirection(), -1000.0, SimpleITK.sitkInt16,
    )  # fmt: skip
    affine = trunk.affine.copy()
    affine[:3, 3] = trunk.to_lps(np.array([start, 0.0, 0.0]))
    affine[:3, :3] = trunk.affine[:3, :3] * np.array([steps[2], steps[1], steps[0]])
    return Volume(SimpleITK.GetArrayFromImage(fine), affine, "1.2.826.0.1.3680043.10.511.3.1")


_PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command from a small process: Linux counts what the starting process held as memory of the started one."""
NOTHING_EVALUATED = 3


def run(command: Sequence[str]) -> tuple[int, float, float]:
    """Exit status, seconds, and largest resident MiB of a command's own process."""
    begun = time.perf_counter()
    said = subprocess.run([sys.executable, "-S", "-c", _PEAK, *command], stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - begun
    status, kib = said.stdout.split()
    return int(status), seconds, int(kib) / 1024


def analyzed(folder: Path, out: Path) -> Cost:
    """``spine-node analyze`` on a folder of one series.

    Raises
    ------
    RuntimeError
        The series was not evaluated: its time would say nothing.
    """
    status, seconds, peak_mib = run([sys.executable, "-m", "node.cli", "analyze", str(folder), "--out", str(out)])
    if status != 0:
        raise RuntimeError(f"analyze ended with {status} on {folder}")
    (document,) = (json.loads(path.read_text()) for path in out.glob("*/findings.json"))
    if document["status"] != "evaluated" or not document["vertebrae"]:
        raise RuntimeError(f"{folder} was not evaluated: there is nothing to time")
    return Cost(
        document["input"]["instances"],
        len(document["vertebrae"]),
        seconds,
        document["timings_s"],
        peak_mib,
    )


def start_s(scratch: Path) -> float:
    """Seconds of ``spine-node analyze`` on an empty folder: Python, libraries and networks; the median of `STARTS`."""
    (scratch / "empty").mkdir()
    command = [sys.executable, "-m", "node.cli", "analyze", str(scratch / "empty"), "--out", str(scratch / "nothing")]
    runs = [run(command) for _ in range(STARTS)]
    if any(status != NOTHING_EVALUATED for status, _, _ in runs):
        raise RuntimeError(f"analyze of nothing ended with {[status for status, _, _ in runs]}")
    return statistics.median(seconds for _, seconds, _ in runs)


def costs(scratch: Path) -> list[Cost]:
    """The cost of each of `LENGTHS`."""
    from onnx_models.training.phantom.dicom import write_dicom_series

    trunk = whole_trunk()
    found = []
    for slices in LENGTHS:
        folder = scratch / f"{slices}"
        write_dicom_series(cut(trunk, slices), folder)
        found.append(analyzed(folder, scratch / f"{slices}-out"))
        for path in folder.iterdir():
            path.unlink()
    return found


def exponent(costs_by_length: list[Cost], stage: str = "inference") -> float:
    """Slope of log time over log slices: 1 grows linearly."""
    slices = np.log([cost.slices for cost in costs_by_length])
    seconds = np.log([cost.stages[stage] for cost in costs_by_length])
    return float(np.polyfit(slices, seconds, 1)[0])
