"""What the thresholds of the radiograph pipeline cost, on held-out films of the training's own ranges:
``python -m onnx_models.training.radiograph_thresholds --looks 3``.

Each held-out film (``film_generator --held-out``) is formed some times anew, every second time with a readable look. It
prints, for each ``lateral``, how many lateral and other films pass; for each ``sure_body`` (outlines alone) and each
``PointSettings.sure`` (with the network that looks at each body again), how many compression ratios are told and how
far off they are, and what is graded; and how many names are right with the thresholds as they are. But for the view's,
which are out of force, every other threshold is the pipeline's own, and it is the pipeline that decides what is sure.
The evaluation set and the films of the real CT take no part in the choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.geometry import Radiograph
from inference.radiograph import RadiographSettings, evaluate
from inference.runtime import Models
from onnx_models.training.export import MODELS
from onnx_models.training.film_data import FOLDER, VIEWS, StoredFilm, formed
from onnx_models.training.film_look import clinical_look
from onnx_models.training.metrics import agreement
from onnx_models.training.radiograph_evaluation import OUTLINE, POINTS, ways
from onnx_models.training.radiograph_records import FilmRunner, Record, load_film_runner, said_of
from onnx_models.training.radiograph_summary import LOWER, compressions, flags, measured_flags, names_right

LATERAL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SURE_POINTS = (0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.125)
SURE_BODY = (0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98)


@dataclass(frozen=True)
class Remembering(Models):
    """The networks of ``source``; of the same image they tell what they told before: thresholds come after them."""

    source: Models | None = None
    told: dict[tuple[str, bytes], dict[str, NDArray[np.float32]]] = field(default_factory=dict)

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """As `Models.run`."""
        key = name, b"".join(value.tobytes() for value in inputs.values())
        if key not in self.told:
            assert self.source is not None
            self.told[key] = self.source.run(name, inputs)
        return self.told[key]


def remembering(models: Models) -> Remembering:
    """The same networks, with a memory."""
    return Remembering(models.sessions, models.identities, models.provider, source=models)


def settings_of(there: Mapping[str, RadiographSettings]) -> dict[str, dict[float, RadiographSettings]]:
    """Threshold -> its values -> settings, of the ways that are there; the pipeline's own where a value is its own."""
    found = {name: replace(way, lateral=0.0, lateral_by_header=0.0) for name, way in there.items()}
    chosen = {"sure_body": {least: replace(found[OUTLINE], sure_body=least) for least in SURE_BODY}}
    again = found.get(POINTS)
    if again is not None and again.points is not None:
        points = again.points
        chosen["sure_points"] = {most: replace(again, points=replace(points, sure=most)) for most in SURE_POINTS}
    return chosen


def records(
    runner: FilmRunner, settings: Sequence[RadiographSettings], folder: Path, looks: int
) -> tuple[list[list[Record]], list[Record]]:
    """(for each of ``settings`` the lateral films of the spine, the others with the first of them)."""
    lateral: list[list[Record]] = [[] for _ in settings]
    others = []
    for n, path in enumerate(sorted(folder.glob("*.npz"))):
        film = StoredFilm.load(path)
        for k in range(looks):
            rng = np.random.default_rng([41, n, k])
            shown = formed(film, rng, clinical_look(rng) if k % 2 == 0 else None)
            if film.view != VIEWS[0]:
                answer = evaluate(Radiograph(shown.image), runner.models, settings[0])
                others.append({"kind": film.view} | said_of(answer))
                continue
            models = remembering(runner.models)
            for told, one in zip(lateral, settings, strict=True):
                told.append(replace(runner, models=models, settings=one).judged(shown, n))
    return lateral, others


def by_view(lateral: Sequence[Record], others: Sequence[Record]) -> dict[str, list[float]]:
    """``lateral`` -> [part of lateral films that pass, part of the others that do], whatever else refuses them."""

    def passing(films: Sequence[Record], least: float) -> float:
        return round(float(np.mean([r["view"].get(VIEWS[0], 0.0) >= least for r in films])), 3) if films else np.nan

    return {str(t): [passing(lateral, t), passing(others, t)] for t in LATERAL}


def told_of(lateral: Sequence[Record]) -> dict[str, float]:
    """What of T11 to L5 is told: compression ratios with their agreement, and grades (moderate or worse) a body."""
    true, said, possible = compressions(lateral, LOWER)
    found = agreement(true, said)
    figures = {
        "told": len(said) / max(possible, 1),
        "r": found.correlation,
        "low": found.low,
        "high": found.high,
        "sensitivity of all": flags(lateral, True),
        "sensitivity of those measured": measured_flags(lateral, True),
        "specificity of those measured": measured_flags(lateral, False),
    }
    return {name: round(value, 3) for name, value in figures.items()}


def named(lateral: Sequence[Record]) -> dict[str, int]:
    """How many names are given and right, and on how many films."""
    part, given = names_right(lateral)
    films = sum(any(v["found"] and v["found"]["level"] for v in r["vertebrae"]) for r in lateral)
    return {"right": round(part * given) if given else 0, "given": given, "films": films, "of": len(lateral)}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.radiograph_thresholds", description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--folder", type=Path, default=FOLDER / "held_out")
    parser.add_argument("--looks", type=int, default=3)
    options = parser.parse_args(arguments)
    there = ways(options.models)
    chosen = settings_of(there)
    runner = load_film_runner(next(iter(there.values())), options.models)
    every = [one for values in chosen.values() for one in values.values()]
    lateral, others = records(runner, every, options.folder, options.looks)
    of = {id(one): films for one, films in zip(every, lateral, strict=True)}
    told: dict[str, object] = {
        "films": [len(lateral[0]), len(others)],
        "lateral": by_view(lateral[0], others),
        "names": named(lateral[0]),
    }
    for name, values in chosen.items():
        told[name] = {str(value): told_of(of[id(one)]) for value, one in values.items()}
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
