"""How good the radiograph pipeline is with the shipped networks:
``python -m onnx_models.training.radiograph_evaluation --films 320 --negatives 120 --minutes 30``.

On ``radiograph-eval/1`` (rendered) and, where the real images are, on films of the real CT, each through the pipeline
itself, with the outline's six points and, where that network is there, with the six-point network's. Records are kept
below ``build/evaluation/radiograph``: called again it goes on where the minutes ended, and figures are of what is
done. ``--body-network film_mdr2unet`` adds the pipeline with that network's map of bodies (``models.film_bodies`` of
the configuration), beside the others: the default is what is best on both sets. ``--card`` writes all into the card,
with a Bland-Altman plot beside it. Where the maps alone are to be compared (the five networks of the method), see
`radiograph_comparison`.
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

from inference.film_foreign import ForeignSettings
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


def ways(folder: Path, network: str = "film", body_network: str | None = None) -> dict[str, RadiographSettings]:
    """Both ways of measuring, as far as their networks are there; the pipeline's own comes first.

    With a ``body_network`` the first one stands there once more, with that network's map of bodies.
    """
    there = read_manifest(folder)
    foreign = ForeignSettings() if ForeignSettings().network in there else None
    outline = replace(RadiographSettings(), network=network, points=None, foreign=foreign)
    found = {OUTLINE: outline}
    if PointSettings().network in there:
        found = {POINTS: replace(outline, points=PointSettings()), **found}
    if body_network is not None:
        way, settings = next(iter(found.items()))
        found[f"{way}, bodies of {body_network}"] = replace(settings, body_network=body_network)
    return found


def outlines_only(found: dict[str, RadiographSettings]) -> dict[str, RadiographSettings]:
    """The same ways without the six-point network; what is the same then stands there once."""
    alone = {way.replace(POINTS, OUTLINE): replace(settings, points=None) for way, settings in found.items()}
    return dict(sorted(alone.items()))  # the outline's own first


def evaluated(runner: FilmRunner, films: int, negatives: int, poses: int, deadline: float) -> Record:
    """Figures of one way of measuring: as many films as are done by ``deadline`` (``time.monotonic``).

    Films, negatives and poses are looked at in turn, so that an early end leaves some of each.
    """
    tasks: list[tuple[float, int, Callable[[], Record | None]]] = []
    kinds: list[list[Record]] = [[], [], [], [], []]
    for kind, (count, make) in enumerate(
        (
            (films, runner.film),
            (negatives, runner.negative),
            (poses, runner.real_lateral),
            (poses, runner.real_frontal),
            (negatives, runner.negative_called_lateral),
        )
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
    parser.add_argument("--body-network", help="name of one whose map of bodies is judged in place of the network's")
    parser.add_argument("--outline-only", action="store_true", help="leave the six-point network out")
    parser.add_argument("--card", action="store_true", help="write the figures into the model's card")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    entries = read_manifest(options.models)
    for name in (options.network, options.body_network):
        if name is not None and name not in entries:
            parser.error(f"{options.models} has no network {name}: export it first (onnx_models.training.export)")
    chosen = ways(options.models, options.network, options.body_network)
    found: dict[str, Any] = {}
    runner = None
    for way, settings in (outlines_only(chosen) if options.outline_only else chosen).items():
        runner = load_film_runner(settings, options.models, _real_ct)
        found[way] = evaluated(runner, options.films, options.negatives, options.poses, deadline)
    assert runner is not None  # there is always the outline
    told: Record = {
        "date": datetime.now(UTC).date().isoformat(),
        "set": runner.chosen.name,
        "set_sha256": runner.chosen.sha256,
        "films_of_the_set": runner.chosen.films,
        "models": {
            n: entries[n]["sha256"]
            for n in (options.network, PointSettings().network, ForeignSettings().network, options.body_network)
            if n in entries
        },
        "ways": found,
    }
    if options.card:
        path = options.models / str(entries[options.network]["card"])
        command = (
            "python -m onnx_models.training.radiograph_evaluation --card "
            f"--films {options.films} --negatives {options.negatives}"
            + (f" --body-network {options.body_network}" if options.body_network else "")
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
