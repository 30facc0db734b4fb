"""Makes scenes for the localizer: ``python -m onnx_models.training.localizer_generator --minutes 30``.

Scenes are numbered by the seed that makes them, so a second run continues where the first one stopped, and the
held-out ones never share a seed with those of the training.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.localizer_data import CACHE, SPACING_MM, Scene, scene_files
from onnx_models.training.phantom import TRAINING, Patient, sample_negative, sample_patient

Floats = NDArray[np.float64]
NEGATIVE_EVERY = 12
"""One scene in so many holds no spine at all."""
HELD_OUT_SEED = 9_000_000
"""Seeds from here on belong to held-out scenes."""


def make_scene(seed: int) -> Scene:
    """One phantom at 3 mm over a random part of its length, before noise and kernel, which each crop draws anew."""
    rng = np.random.default_rng([73, seed])
    if seed % NEGATIVE_EVERY == NEGATIVE_EVERY - 1:
        return _negative_scene(rng)
    patient = sample_patient(rng, TRAINING)
    low, high = patient.extent_mm
    length = min(float(rng.uniform(240, 480)), high - low)
    spine_low, spine_high = patient.presence_mm
    if rng.random() < 0.8:  # most of it along the spine
        top = rng.uniform(min(spine_low + 0.6 * length, high), min(spine_high + 0.4 * length, high))
    else:
        top = rng.uniform(low + length, high)
    z = top - SPACING_MM * np.arange(int(max(length, 96) / SPACING_MM))
    x_mid, y_mid = (float(np.median(a)) for a in patient.centre_line(np.clip(z, spine_low, spine_high)))
    y = y_mid + rng.uniform(-1.5, 1.5) + np.arange(-210.0, 111.0, SPACING_MM)
    x = x_mid + rng.uniform(-1.5, 1.5) + np.arange(-195.0, 196.0, SPACING_MM)
    hu = _sampled(patient, z, y, x, rng)
    cx, cy = patient.centre_line(z)
    centre = np.stack([(cy - y[0]) / SPACING_MM, (cx - x[0]) / SPACING_MM], axis=1)
    centre[(z < spine_low) | (z > spine_high)] = np.nan
    at = np.array([v.centroid_lps_mm for v in patient.vertebrae])
    at = at[(at[:, 2] <= z[0]) & (at[:, 2] >= z[-1])]
    vx, vy = patient.centre_line(at[:, 2])
    vertebrae = np.stack([(z[0] - at[:, 2]), vy - y[0], vx - x[0]], axis=1) / SPACING_MM
    return Scene(hu, centre.astype(np.float32), vertebrae.astype(np.float32))


def _negative_scene(rng: np.random.Generator) -> Scene:
    """Limbs, a head, a test object or nothing."""
    patient = sample_negative(rng, TRAINING)
    low, high = patient.extent_mm
    z = high - SPACING_MM * np.arange(int(min(high - low, 360.0) / SPACING_MM))
    half = float(rng.uniform(90, 200))
    side = np.arange(-half, half, SPACING_MM)
    hu = _sampled(patient, z, side, side, rng)
    return Scene(hu, np.full((len(z), 2), np.nan, np.float32), np.zeros((0, 3), np.float32))


def _sampled(patient: Patient, z: Floats, y: Floats, x: Floats, rng: np.random.Generator) -> NDArray[np.int16]:
    points = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], axis=-1).reshape(-1, 3)
    hu = patient.hu(points, footprint_mm=float(rng.uniform(1.5, 3.5))).reshape(len(z), len(y), len(x))
    return np.clip(hu, -1024, 8000).astype(np.int16)


def fill(folder: Path, first_seed: int, count: int, deadline: float = float("inf"), every: int = 1) -> int:
    """Make the scenes of seeds `first_seed`, `first_seed + every` ... that are not there yet; returns how many."""
    made = 0
    for seed in range(first_seed, first_seed + count, every):
        if time.monotonic() > deadline:
            break
        name = f"{seed:07d}"
        if not (folder / f"{name}.npz").is_file():
            make_scene(seed).save(folder, name)
            made += 1
    return made


class Generator:
    """A background process that fills the cache while a training runs; it ends with its parent or when it is done."""

    def __init__(self, cache: Path = CACHE, count: int = 3000, held_out: int = 16) -> None:
        self._cache = cache
        self._count = count
        self._held_out = held_out
        self._process: subprocess.Popen[bytes] | None = None

    def keep_running(self) -> None:
        """Start the process once, unless everything is there already."""
        if self._process is not None:
            return
        if len(scene_files(self._cache / "train")) >= self._count:
            return
        command = [sys.executable, "-m", "onnx_models.training.localizer_generator", "--cache", str(self._cache)]
        command += ["--count", str(self._count), "--held-out", str(self._held_out), "--parent", str(os.getpid())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, env=environment)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.localizer_generator", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--count", type=int, default=3000, help="scenes for the training")
    parser.add_argument("--held-out", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    options = parser.parse_args(arguments)
    os.nice(10)
    deadline = time.monotonic() + 60 * options.minutes
    train, held_out = options.cache / "train", options.cache / "held_out"
    fill(train, 0, min(24, options.count), deadline)
    fill(held_out, HELD_OUT_SEED, options.held_out, deadline)
    for seed in range(24, options.count):
        if time.monotonic() > deadline or (options.parent is not None and os.getppid() != options.parent):
            break
        fill(train, seed, 1, deadline)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
