"""Makes films rich in fractures: ``python -m onnx_models.training.film_points_films``.

They are for the network that sees each body alone. On the films of the general generator one body in fifteen is
deformed; here each film has several, of all kinds and severities, beside undeformed ones. They lie in
``build/training/film_points``; a seed belongs to one set.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from onnx_models.training.film_data import VIEWS, StoredFilm
from onnx_models.training.film_views import FILM, make_film
from onnx_models.training.phantom import Plan

FOLDER = Path("build/training/film_points")
SETS = {"train": 0, "held_out": 1}
"""What a seed begins with, and the folder."""
REGIONS = ("lumbar", "thoracolumbar", "thoracic", "lumbar", "thoracolumbar", "thoracic", "whole")
LEVELS = {
    "lumbar": ("T11", "T12", "L1", "L2", "L3", "L4", "L5"),
    "thoracolumbar": ("T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4"),
    "thoracic": ("T4", "T5", "T6", "T7", "T8", "T9", "T10", "T11"),
    "whole": ("T5", "T6", "T7", "T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4"),
}
KINDS = ("wedge", "biconcave", "crush")
LOSS = (0.08, 0.65)
COUNT = {"train": (2, 5), "held_out": (1, 3)}
"""Deformed bodies of a film."""
LONG_SIDE = 512


def film_of(name: str, number: int) -> StoredFilm:
    """Film ``number`` of a set: a lateral film of the spine with planned deformities."""
    rng = np.random.default_rng([82, SETS[name], number])
    region = REGIONS[number % len(REGIONS)]
    count = int(rng.integers(COUNT[name][0], COUNT[name][1] + 1))
    levels = [str(level) for level in rng.permutation(LEVELS[region])[:count]]
    plan = Plan({level: (str(rng.choice(KINDS)), float(rng.uniform(*LOSS))) for level in levels})
    return make_film(rng, VIEWS[0], FILM, region, LONG_SIDE, plan)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.film_points_films", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--count", type=int, default=240, help="films for the training")
    parser.add_argument("--held-out", type=int, default=56)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    for name, count in (("train", options.count), ("held_out", options.held_out)):
        for number in range(count):
            path = options.folder / name / f"{number:08d}.npz"
            if path.is_file() or time.monotonic() > deadline:
                continue
            film_of(name, number).save(path)
        print(f"{name}: {len(list((options.folder / name).glob('*.npz')))} films", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
