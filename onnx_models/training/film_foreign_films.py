"""Makes films with implants: ``python -m onnx_models.training.film_foreign_films``.

They are for the network that tells bodies with cement, screws or rods from others. On the films of the general
generator one body in twenty holds any; here nine films in ten show some: cement in sound bodies as in broken ones, so
that a broken body is not taken for a filled one, and screws in half of the patients. They lie in
``build/training/film_foreign``; a seed belongs to one set.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnx_models.training.film_data import VIEWS, StoredFilm
from onnx_models.training.film_points_films import COUNT, KINDS, LEVELS, LONG_SIDE, LOSS, REGIONS
from onnx_models.training.film_views import FILM, make_film
from onnx_models.training.phantom import Plan

FOLDER = Path("build/training/film_foreign")
SETS = {"train": 0, "held_out": 1}
"""What a seed begins with, and the folder."""
CEMENT = (0.2, 1.2, 4.0)
"""How often bodies are filled (`Ranges.cement`): now and then, most broken ones, and every second sound one too."""


def film_of(name: str, number: int) -> StoredFilm:
    """Film ``number`` of a set: a lateral film of the spine of the spine; every other patient has screws."""
    rng = np.random.default_rng([83, SETS[name], number])
    region = REGIONS[number % len(REGIONS)]
    ranges = replace(FILM, metal=float(number % 2 == 0), cement=float(rng.choice(CEMENT)))
    count = int(rng.integers(0, COUNT["held_out"][1] + 1))
    levels = [str(level) for level in rng.permutation(LEVELS[region])[:count]]
    plan = Plan({level: (str(rng.choice(KINDS)), float(rng.uniform(*LOSS))) for level in levels})
    return make_film(rng, VIEWS[0], ranges, region, LONG_SIDE, plan)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.film_foreign_films", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--count", type=int, default=440, help="films for the training")
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    for name, count in (("held_out", options.held_out), ("train", options.count)):
        for number in range(count):
            path = options.folder / name / f"{number:08d}.npz"
            if path.is_file() or time.monotonic() > deadline:
                continue
            film_of(name, number).save(path)
        print(f"{name}: {len(list((options.folder / name).glob('*.npz')))} films", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
