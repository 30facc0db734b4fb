"""Scenes for the labeller: spines with their names, sampled once along their centre line and kept on disk.

A *scene* is the straight corridor of 2 mm voxels about the centre line of a whole phantom spine, thighs to skull, a
little wider than the labeller's box, before noise and kernel, which each window draws anew. T11-only, T13, four and
six lumbar vertebrae are drawn far more often than people have them, because a name is learned from its exceptions.

``python -m onnx_models.training.labeller_scenes --minutes 20`` fills the cache; a second run goes on where the first
one stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.labelling import LEVELS
from onnx_models.training.phantom import TRAINING, Patient, Ranges, sample_patient
from onnx_models.training.phantom import kernels as ker

STEP_MM = 2.0
MARGIN = 4
"""Voxels by which a scene is wider than the box on each side: room for a centre line that is off."""
ACROSS_MM = np.arange(-60.0 - MARGIN * STEP_MM, 60.0 + MARGIN * STEP_MM, STEP_MM) + STEP_MM / 2
DEPTH_MM = np.arange(-72.0 - MARGIN * STEP_MM, 48.0 + MARGIN * STEP_MM, STEP_MM) + STEP_MM / 2
ABOVE_MM, BELOW_MM = 40.0, 90.0
CACHE = Path("build/training/cache/labeller")
HELD_OUT_SEED = 9_000_000
"""Seeds from here on belong to held-out scenes."""
VARIED = replace(TRAINING, thoracic_variant=0.24, lumbar_variant=0.30, sacralised=0.10)


@dataclass(frozen=True)
class Scene:
    """One spine.

    Attributes
    ----------
    hu
        (rows, 68, 68) int16: along z towards the feet, towards the back, towards the patient's left; 2 mm.
    row
        (n,) float32: row of each vertebra's centre, head to feet, C1 to S1.
    level
        (n,) int64: index into `inference.labelling.LEVELS`.
    offset_mm
        (n, 2) float32: centre minus the line at that row, towards the left and towards the back.
    """

    hu: NDArray[np.int16]
    row: NDArray[np.float32]
    level: NDArray[np.int64]
    offset_mm: NDArray[np.float32]

    def save(self, folder: Path, name: str) -> None:
        """Two files; the one with the names appears last, and only then the scene is listed."""
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in (".npy", ".npz"):
            partial = folder / f".{name}.{os.getpid()}{suffix}"
            with partial.open("wb") as file:
                if suffix == ".npy":
                    np.save(file, self.hu)
                else:
                    np.savez(file, row=self.row, level=self.level, offset_mm=self.offset_mm)
            partial.replace(folder / f"{name}{suffix}")

    @classmethod
    def load(cls, names: Path) -> Scene:
        """By its ``.npz``; voxels are mapped, not read."""
        with np.load(names) as truth:
            hu = np.load(names.with_suffix(".npy"), mmap_mode="r")
            return cls(hu, truth["row"], truth["level"], truth["offset_mm"])


def named_centres(patient: Patient) -> tuple[list[str], NDArray[np.float64]]:
    """Names and centres (n, 3) in LPS mm, head to feet: C1 and C2 above the modelled bodies C3 to S1.

    Raises ``ValueError`` for a patient without a spine.
    """
    column = patient.column
    if column is None:
        raise ValueError("this patient has no spine, so nothing has a name")
    top, s = float(column.table[0, ker.B_S0]), column.scale
    axis = [column.at(0, 0, 0, top + 31 * s), column.at(0, 0, 0, top + 13 * s)]
    names = ["C1", "C2"] + [v.level for v in patient.vertebrae]
    return names, np.array(axis + [v.centroid_lps_mm for v in patient.vertebrae])


def make_scene(seed: int, ranges: Ranges = VARIED) -> Scene:
    """The phantom of that seed."""
    rng = np.random.default_rng([79, seed])
    patient = sample_patient(rng, ranges)
    low, high = patient.presence_mm
    z = np.arange(high + ABOVE_MM, max(low - BELOW_MM, patient.extent_mm[0]), -STEP_MM)
    names, centres = named_centres(patient)
    ends = _line_ends(centres, low, high, rng)
    cx, cy = patient.centre_line(np.clip(z, *ends))
    points = np.empty((len(z), len(DEPTH_MM), len(ACROSS_MM), 3), np.float32)
    points[..., 0] = cx[:, None, None] + ACROSS_MM
    points[..., 1] = cy[:, None, None] + DEPTH_MM[:, None]
    points[..., 2] = z[:, None, None]
    hu = patient.hu(points.reshape(-1, 3), footprint_mm=float(rng.uniform(1.2, 3.2))).reshape(points.shape[:3])
    row = (z[0] - centres[:, 2]) / STEP_MM
    lx, ly = patient.centre_line(np.clip(centres[:, 2], *ends))
    return Scene(
        np.clip(hu, -1024, 8000).astype(np.int16),
        row.astype(np.float32),
        np.array([LEVELS.index(name) for name in names], np.int64),
        np.column_stack([centres[:, 0] - lx, centres[:, 1] - ly]).astype(np.float32),
    )


def _line_ends(centres: NDArray[np.float64], low: float, high: float, rng: np.random.Generator) -> tuple[float, float]:
    """z of the lower and upper end of the line: a found line may stop above the sacrum or below the neck, and from
    there the corridor goes straight on."""
    if rng.random() < 0.6:
        low = max(low, float(rng.uniform(centres[-1, 2] - 10.0, centres[-2, 2] + 10.0)))
    if rng.random() < 0.3:
        high = min(high, float(rng.uniform(centres[8, 2], centres[2, 2])))
    return low, high


def scene_files(folder: Path) -> list[Path]:
    """The scenes that are complete, in a fixed order."""
    return sorted(p for p in folder.glob("*.npz") if not p.name.startswith("."))


def fill(folder: Path, seeds: range, deadline: float) -> int:
    """Make the scenes of `seeds` that are not there yet, until `deadline` (`time.monotonic`); returns how many."""
    made = 0
    for seed in seeds:
        if time.monotonic() > deadline:
            break
        if not (folder / f"{seed:07d}.npz").is_file():
            make_scene(seed).save(folder, f"{seed:07d}")
            made += 1
    return made


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.labeller_scenes", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--count", type=int, default=1500, help="scenes for the training")
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="this process, of how many")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    first, every = options.part
    fill(options.cache / "held_out", range(HELD_OUT_SEED + first, HELD_OUT_SEED + options.held_out, every), deadline)
    fill(options.cache / "train", range(first, options.count, every), deadline)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
