"""How good the radiograph pipeline is with the shipped networks:
``python -m onnx_models.training.radiograph_evaluation --films 320 --negatives 120 --minutes 30``.

On ``radiograph-eval/1`` (rendered) and, where the real images are, on films of the real CT, each through the pipeline
itself, with the outline's six points and, where that network is there, with the six-point network's. Records are kept
below ``build/evaluation/radiograph``: called again it goes on where the minutes ended, and figures are of what is
done. ``--card`` writes them into the card, with a Bland-Altman plot beside it. Where the maps alone are to be compared
(the five networks of the method), see `radiograph_comparison`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from inference.film_points import PointSettings
from inference.radiograph import RadiographSettings
from inference.runtime import read_manifest
from onnx_models.training.export import MODELS
from onnx_models.training.film_real import POSES, RealSpineCt, example_ct
from onnx_models.training.radiograph_card import plot, written
from onnx_models.training.radiograph_records import FilmRunner, Record, load_film_runner
from onnx_models.training.radiograph_summary import summary
from onnx_models.training.real_cases import real_folder

OUTLINE, POINTS = "outline", "six-point network"


def ways(folder: Path, network: str = "film") -> dict[str, RadiographSettings]:
    """Both ways of measuring, as far as their networks are there; the pipeline's own comes first."""
    there = read_manifest(folder)
    outline = replace(RadiographSettings(), network=network, points=None)
    if PointSettings().network not in there:
        return {OUTLINE: outline}
    return {POINTS: replace(outline, points=PointSettings()), OUTLINE: outline}


def evaluated(runner: FilmRunner, films: int, negatives: int, poses: int, deadline: float) -> Record:
    """Figures of one way of measuring: as many films as are done by ``deadline`` (``time.monotonic``).

    Films, negatives and poses are looked at in turn, so that an early end leaves some of each.
    """
    tasks: list[tuple[float, int, Callable[[], Record | None]]] = []
    kinds: list[list[Record]] = [[], [], [], []]
    for kind, (count, make) in enumerate(
        ((films, runner.film), (negatives, runner.negative), (poses, runner.real_lateral), (poses, runner.real_frontal))
    ):
        tasks += [((n + 0.5) / count, kind, lambda m=make, n=n: m(n)) for n in range(count)]  # type: ignore[misc]
    for _, kind, make_one in sorted(tasks, key=lambda task: task[:2]):
        if time.monotonic() > deadline:
            break
        made = make_one()
        if made is not None:
            kinds[kind].append(made)
    return summary(*kinds)


@cache
def _real_ct() -> RealSpineCt | None:
    root = real_folder()
    return None if root is None else example_ct(root)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.radiograph_evaluation", description=__doc__)
    parser.add_argument("--network", default="film", help="name in the manifest")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--films", type=int, default=320)
    parser.add_argument("--negatives", type=int, default=120)
    parser.add_argument("--poses", type=int, default=POSES, help="films of the real CT, lateral and frontal")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--outline-only", action="store_true", help="leave the six-point network out")
    parser.add_argument("--card", action="store_true", help="write the figures into the model's card")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    found: dict[str, Any] = {}
    runner = None
    for way, settings in ways(options.models, options.network).items():
        if options.outline_only and way != OUTLINE:
            continue
        runner = load_film_runner(settings, options.models, _real_ct)
        found[way] = evaluated(runner, options.films, options.negatives, options.poses, deadline)
    assert runner is not None  # there is always the outline
    entries = read_manifest(options.models)
    told: Record = {
        "date": datetime.now(UTC).date().isoformat(),
        "set": runner.chosen.name,
        "set_sha256": runner.chosen.sha256,
        "films_of_the_set": runner.chosen.films,
        "models": {n: entries[n]["sha256"] for n in (options.network, PointSettings().network) if n in entries},
        "ways": found,
    }
    if options.card:
        path = options.models / str(entries[options.network]["card"])
        command = (
            "python -m onnx_models.training.radiograph_evaluation --card "
            f"--films {options.films} --negatives {options.negatives}"
        )
        path.write_text(written(path.read_text(), told, command))
        first = next(iter(found))
        title = f"Compression ratio, T11 to L5, measured ({first}) less true, rendered films"
        path.with_name(f"{path.stem}_agreement.svg").write_text(plot(*found[first]["vcr"], title))
    for way in found.values():
        del way["vcr"]
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
