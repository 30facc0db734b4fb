"""What the thresholds of the radiograph pipeline cost, on held-out films of the training's own ranges:
``python -m onnx_models.training.radiograph_thresholds --looks 3``.

Each held-out film (``film_generator --held-out``) is formed some times anew, every second time with a readable look. It
prints, for each ``lateral``, how many lateral and other films pass; for each ``sure_body`` (outlines alone) and each
``PointSettings.sure`` (with the network that looks at each body again), how many compression ratios are told and how
far off they are. The evaluation set and the films of the real CT take no part in the choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from inference.film_points import PointSettings
from inference.geometry import Radiograph
from inference.radiograph import RadiographSettings, evaluate
from onnx_models.training.export import MODELS
from onnx_models.training.film_data import FOLDER, VIEWS, StoredFilm, formed
from onnx_models.training.film_look import clinical_look
from onnx_models.training.metrics import agreement
from onnx_models.training.radiograph_evaluation import OUTLINE, POINTS, ways
from onnx_models.training.radiograph_records import Record, load_film_runner, said_of
from onnx_models.training.radiograph_summary import LOWER, compressions, flags

LATERAL = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SURE_POINTS = (0.03, 0.035, 0.04, 0.05, 0.06, 0.08)
SURE_BODY = (0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98)


def records(
    settings: RadiographSettings, models: Path, folder: Path, looks: int, views: Sequence[str] = VIEWS
) -> tuple[list[Record], list[Record]]:
    """(lateral films of the spine, others) of ``views`` with the thresholds of `main` out of force."""
    runner = load_film_runner(replace(settings, lateral=0.0, lateral_by_header=0.0, sure_body=0.0), models)
    lateral, others = [], []
    for n, path in enumerate(sorted(folder.glob("*.npz"))):
        film = StoredFilm.load(path)
        for k in range(looks if film.view in views else 0):
            rng = np.random.default_rng([41, n, k])
            shown = formed(film, rng, clinical_look(rng) if k % 2 == 0 else None)
            if film.view == VIEWS[0]:
                lateral.append(runner.judged(shown, n))
            else:
                others.append(
                    {"kind": film.view} | said_of(evaluate(Radiograph(shown.image), runner.models, runner.settings))
                )
    return lateral, others


def by_view(lateral: Sequence[Record], others: Sequence[Record]) -> dict[str, list[float]]:
    """``lateral`` -> [part of lateral films that pass, part of the others that do], whatever else refuses them."""

    def passing(films: Sequence[Record], least: float) -> float:
        return round(float(np.mean([r["view"].get(VIEWS[0], 0.0) >= least for r in films])), 3) if films else np.nan

    return {str(t): [passing(lateral, t), passing(others, t)] for t in LATERAL}


def by_body(lateral: Sequence[Record]) -> dict[str, list[float]]:
    """``sure_body`` -> [part of compression ratios told, r, lower limit, upper limit], T11 to L5."""
    out = {}
    for least in SURE_BODY:
        kept = [{**r, "vertebrae": [_doubted(v, r, least) for v in r["vertebrae"]]} for r in lateral]
        true, said, possible = compressions(kept, LOWER)
        found = agreement(true, said)
        told = [len(said) / max(possible, 1), found.correlation, found.low, found.high]
        out[str(least)] = [round(value, 3) for value in told]
    return out


def by_points(
    settings: RadiographSettings, points: PointSettings, models: Path, folder: Path, looks: int
) -> dict[str, list[float]]:
    """``PointSettings.sure`` -> as `by_body`, then sensitivity and specificity of grades (moderate or worse) a body."""
    out = {}
    for most in SURE_POINTS:
        lateral, _ = records(
            replace(settings, points=replace(points, sure=most)), models, folder, looks, views=(VIEWS[0],)
        )
        true, said, possible = compressions(lateral, LOWER)
        found = agreement(true, said)
        told = [len(said) / max(possible, 1), found.correlation, found.low, found.high]
        told += [flags(lateral, True), flags(lateral, False)]
        out[str(most)] = [round(value, 3) for value in told]
    return out


def _doubted(vertebra: Record, record: Record, least: float) -> Record:
    """The vertebra without its compression ratio where it, or one that it was compared with, is not sure."""
    found = vertebra["found"]
    if not found or found["vcr"] is None:
        return vertebra
    others = [v["found"] for v in record["vertebrae"] if v["found"] and v["found"]["ordinal"] in found["compared_with"]]
    sure = len(others) == 2 and all(one["confidence"] >= least for one in (found, *others))
    return vertebra if sure else {**vertebra, "found": {**found, "vcr": None}}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.radiograph_thresholds", description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--folder", type=Path, default=FOLDER / "held_out")
    parser.add_argument("--looks", type=int, default=3)
    options = parser.parse_args(arguments)
    there = ways(options.models)
    settings = there[OUTLINE]
    lateral, others = records(settings, options.models, options.folder, options.looks)
    told: dict[str, object] = {
        "films": [len(lateral), len(others)],
        "lateral": by_view(lateral, others),
        "sure_body": by_body(lateral),
    }
    again = there.get(POINTS, settings).points
    if again is not None:
        told["sure_points"] = by_points(settings, again, options.models, options.folder, options.looks)
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
