"""Makes films of the phantom: ``python -m onnx_models.training.film_generator --count 300 --minutes 60``.

Only line integrals are stored (``build/training/radiograph``): every training step makes new images of them. Films are
numbered by the seed that makes them, so a second run goes on where the first one stopped; held-out films and those of
the evaluation never share a seed with those of the training, and the evaluation draws from wider ranges.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from onnx_models.training.film_data import FOLDER, LATERAL_VIEWS, StoredFilm
from onnx_models.training.film_views import (
    AP_SPINE,
    CHEST,
    FILM,
    FILM_EVALUATION,
    LATERAL_CHEST,
    LATERAL_SPINE,
    OTHER,
    make_film,
)

SETS = {"train": 0, "held_out": 9_000_000, "evaluation": 20_000_000}
"""First seed of each set, and its folder."""
ORDER = (
    LATERAL_SPINE, LATERAL_SPINE, AP_SPINE, LATERAL_SPINE, OTHER, LATERAL_SPINE, LATERAL_SPINE, CHEST, LATERAL_SPINE,
    LATERAL_CHEST, LATERAL_SPINE, LATERAL_SPINE, AP_SPINE, LATERAL_SPINE, OTHER, LATERAL_SPINE, LATERAL_SPINE, CHEST,
    LATERAL_SPINE, LATERAL_SPINE,
)  # fmt: skip
"""Views by seed, over and over: six in ten are of the lateral spine. Blank ones need not be stored."""

LONG_SIDES = (320, 512)
"""Pixels along the longer side: of films that are only told apart by their view, and of those that are measured."""


def film_of(seed: int) -> StoredFilm:
    """The film of a seed."""
    ranges = FILM_EVALUATION if seed >= SETS["evaluation"] else FILM
    view = ORDER[seed % len(ORDER)]
    return make_film(np.random.default_rng([81, seed]), view, ranges, long_side=LONG_SIDES[view in LATERAL_VIEWS])


def fill(folder: Path, first_seed: int, count: int, deadline: float = float("inf")) -> int:
    """Make the films of ``count`` seeds from ``first_seed`` on that are not there yet; returns how many were made."""
    made = 0
    for seed in range(first_seed, first_seed + count):
        if time.monotonic() > deadline:
            break
        path = folder / f"{seed:08d}.npz"
        if not path.is_file():
            film_of(seed).save(path)
            made += 1
    return made


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.film_generator", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--count", type=int, default=300, help="films for the training")
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--evaluation", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    wanted = {"train": options.count, "held_out": options.held_out, "evaluation": options.evaluation}
    early = {"train": min(40, options.count)}
    for part in (early, {"held_out": options.held_out}, wanted):  # a training can begin before all are there
        for name, count in part.items():
            made = fill(options.folder / name, SETS[name], count, deadline)
            print(f"{name}: {made} new of {count}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
