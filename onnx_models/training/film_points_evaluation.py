"""Judges the six points of single bodies: ``python -m onnx_models.training.film_points_evaluation --card``.

On held-out films (56 rich in fractures, and the general ones), every other one formed as a department would pass it and
the others as wildly as in the training; and, where the real images are, on films rendered from the one real CT. Bodies
are those that the network for whole films sees, which lies in the same folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.film_sight import Look
from inference.runtime import Models, load_models
from onnx_models import MODELS
from onnx_models.training.film_data import FOLDER, LATERAL_VIEWS, StoredFilm, formed
from onnx_models.training.film_look import clinical_look
from onnx_models.training.film_points_card import written
from onnx_models.training.film_points_data import Sight
from onnx_models.training.film_points_films import FOLDER as RICH_FOLDER
from onnx_models.training.film_points_ways import (
    OUTLINE,
    POINTS,
    TRUE_OUTLINE,
    Body,
    bodies_of,
    errors,
    real_bodies,
)
from onnx_models.training.film_points_ways import heights_of as heights
from onnx_models.training.film_real import POSES, RealSpineCt, example_ct, real_film
from onnx_models.training.real_cases import real_folder

NAME = "film_points"
STRATA = {"hidden": (-1.0, 0.25), "faint": (0.25, 0.6), "readable": (0.6, 1.2), "clear": (1.2, np.inf)}
"""Visibility of a body's end plates, with the edges of ``radiograph-eval/1``."""
LIMITS = (0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.15)
BAD = 0.1
"""A body is badly measured where a height is off by more than this part of the posterior height."""
MILD = 0.15
"""Loss of height from which on a body counts as deformed here."""
SEED = 23


def held_out(folders: Sequence[Path]) -> list[Path]:
    """Files of held-out films, those of all folders."""
    return [path for folder in folders for path in sorted((folder / "held_out").glob("*.npz"))]


def measured(paths: Sequence[Path], sight: Sight, models: Models, deadline: float = float("inf")) -> list[Body]:
    """The seen bodies of all lateral films, as many as are done by ``deadline`` (``time.monotonic``)."""
    out: list[Body] = []
    for number, path in enumerate(paths):
        if time.monotonic() > deadline:
            break
        stored = StoredFilm.load(path)
        if stored.view not in LATERAL_VIEWS:
            continue
        rng = np.random.default_rng([SEED, number])
        look = clinical_look(rng) if number % 2 == 0 else None
        out += bodies_of(formed(stored, rng, look), number, sight, models, NAME)
    return out


def on_real(ct: RealSpineCt, sight: Sight, models: Models, poses: int = POSES) -> dict[str, Any]:
    """Each way against the contour of the silver masks, on films of the real CT."""
    bodies = [b for n in range(poses) for b in real_bodies(real_film(ct, n), n, sight, models, NAME)]
    return {"films": poses, "bodies": len(bodies), "ways": {way: errors(bodies, way) for way in (OUTLINE, POINTS)}}


def judged(bodies: list[Body]) -> dict[str, Any]:
    """Figures of each way on what all of them measure, by visibility; those of sure bodies; spreads; agreement."""
    ways = (TRUE_OUTLINE, OUTLINE, POINTS)
    common = [b for b in bodies if all(way in b.told for way in ways)]
    groups = {"all": common, **{name: _within(common, name) for name in STRATA}}
    groups["seen"] = [b for b in common if b.visibility >= STRATA["readable"][0]]
    groups["deformed, seen"] = [b for b in groups["seen"] if b.loss >= MILD]
    return {
        "films": len({b.film for b in bodies}),
        "bodies": len(bodies),
        "strata": {name: len(_within(bodies, name)) for name in STRATA},
        "ways": {name: {way: errors(group, way) for way in ways} for name, group in groups.items() if group},
        "sure": {
            way: errors([b for b in bodies if way in b.told and b.told[way].sure], way) for way in (OUTLINE, POINTS)
        },
        "spread": spreads(bodies),
        "agreement": agreements(bodies),
    }


def _sure(bodies: list[Body], way: str) -> list[Body]:
    return [b for b in bodies if way in b.told and b.told[way].sure]


def _within(bodies: list[Body], stratum: str) -> list[Body]:
    low, high = STRATA[stratum]
    return [b for b in bodies if low <= b.visibility < high]


def worst(body: Body, way: str) -> float:
    """Largest error of a height as a part of the posterior height."""
    true = heights(body.points)
    return float(np.abs(heights(body.told[way].points) - true).max() / true[2])


def spreads(bodies: list[Body]) -> dict[str, Any]:
    """Whether expected errors are those that happen: by fifths of the spread, mean of both in per cent; and their r."""
    chosen = [b for b in bodies if POINTS in b.told]
    if len(chosen) < 2 * len(LIMITS):
        return {}
    said = np.array([b.told[POINTS].spread for b in chosen])
    error = np.array([worst(b, POINTS) for b in chosen])
    fifth = np.array_split(np.argsort(said, kind="stable"), 5)
    return {
        "said_percent": [round(100 * float(said[f].mean()), 2) for f in fifth],
        "error_percent": [round(100 * float(error[f].mean()), 2) for f in fifth],
        "rank_r": round(float(np.corrcoef(said.argsort().argsort(), error.argsort().argsort())[0, 1]), 3),
        "cut": {str(limit): _cut(said > limit, error) | _told(chosen, said <= limit) for limit in LIMITS},
    }


def _told(bodies: list[Body], kept: Any) -> dict[str, Any]:
    """What of compression ratios, neighbours within the limit too, is left."""
    figures = errors([b for b, k in zip(bodies, kept, strict=True) if k], POINTS)
    return {name: figures[name] for name in ("vcr", "vcr_r", "vcr_limits") if name in figures}


def agreements(bodies: list[Body]) -> dict[str, Any]:
    """By limit of disagreement: part of the bodies beyond it, part of the badly measured among them, and among all."""
    chosen = [b for b in bodies if POINTS in b.told and b.told[POINTS].sure]
    if not chosen:
        return {}
    apart = np.array([b.told[POINTS].apart for b in chosen])
    error = np.array([worst(b, POINTS) for b in chosen])
    return {"bodies": len(chosen), **{str(limit): _cut(apart > limit, error) for limit in LIMITS}}


def _cut(beyond: Any, error: Any) -> dict[str, float]:
    bad = error > BAD
    within = error[~beyond]
    return {
        "flagged": round(float(beyond.mean()), 3),
        "bad_flagged": round(float(beyond[bad].mean()), 3) if bad.any() else 0.0,
        "bad_among_flagged": round(float(bad[beyond].mean()), 3) if beyond.any() else 0.0,
        "bad_among_others": round(float(bad[~beyond].mean()), 3) if (~beyond).any() else 0.0,
        "error_percent_of_others": round(100 * float(within.mean()), 2) if len(within) else 0.0,
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.film_points_evaluation", description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the exported networks")
    parser.add_argument("--folders", type=Path, nargs="+", default=[RICH_FOLDER, FOLDER])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--card", action="store_true", help="write the figures into the card beside the network")
    options = parser.parse_args(arguments)
    models = load_models(options.models, "cpu", threads=1, names=[NAME, "film"])
    sight = Look(models)
    bodies = measured(held_out(options.folders), sight, models, time.monotonic() + 60 * options.minutes)
    told = {"models": {m.name: m.sha256[:12] for m in models.identities}, **judged(bodies)}
    root = real_folder()
    if root is not None:
        told["real"] = on_real(example_ct(root), sight, models)
    text = json.dumps(told, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    if options.card:
        card = options.models / "film_points.md"
        card.write_text(written(card.read_text(), told))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
