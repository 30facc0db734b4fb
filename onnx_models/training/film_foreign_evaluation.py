"""Judges how cement and metal on films are told: ``python -m onnx_models.training.film_foreign_evaluation --card``.

On held-out films, with implants (40), rich in fractures (56) and general ones, every other one formed as a department
would pass it and the others as wildly as in the training. Bodies are those that the network for whole films sees, which
lies in the same folder. Where the real images are, the whole pipeline looks at films rendered from the one real CT, in
which there is no implant.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from inference.film_foreign import ForeignSettings
from inference.film_sight import Look
from inference.findings import Quality
from inference.geometry import Radiograph
from inference.radiograph import RadiographSettings, evaluate
from inference.runtime import Models, load_models
from onnx_models import MODELS
from onnx_models.training.evaluation_cards import replaced
from onnx_models.training.film_foreign_task import FOLDERS
from onnx_models.training.film_points_data import F64, Bools, HeldOutBodies, held_out_bodies
from onnx_models.training.film_real import POSES, RealSpineCt, example_ct, real_film
from onnx_models.training.metrics import area_under_curve
from onnx_models.training.real_cases import real_folder

NAME = ForeignSettings.network
LIMITS = (0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
SEED = 29
BEGIN = "<!-- figures: written by onnx_models.training.film_foreign_evaluation --card, do not edit -->"
END = "<!-- end of the figures of film_foreign -->"


def probabilities(bodies: HeldOutBodies, models: Models, batch: int = 64) -> F64:
    """(n,) what the exported network tells of each body."""
    parts = [
        models.run(NAME, {"crops": bodies.crops[i : i + batch]})["foreign"] for i in range(0, len(bodies.crops), batch)
    ]
    return np.concatenate([np.zeros(0), *parts])


def judged(probability: F64, bodies: HeldOutBodies) -> dict[str, Any]:
    """Area under the ROC, and for each limit how many of which bodies are taken for ones with cement or metal."""
    groups = {
        "cement": bodies.cement,
        "metal": bodies.metal & ~bodies.cement,
        "neither": ~bodies.foreign,
        "neither, deformed": ~bodies.foreign & (bodies.loss >= 0.15),
    }
    return {
        "bodies": {name: int(group.sum()) for name, group in groups.items()},
        "auc": area_under_curve(probability, bodies.foreign),
        "told": {
            str(limit): {name: _part(probability[group] >= limit) for name, group in groups.items()} for limit in LIMITS
        },
    }


def on_real(ct: RealSpineCt, models: Models, poses: int = POSES) -> dict[str, int]:
    """Bodies that the pipeline measures on films of the real CT, and those that it takes for ones with implants."""
    settings = RadiographSettings()
    seen = flagged = 0
    for number in range(poses):
        film = real_film(ct, number)
        found = evaluate(Radiograph(film.image), models, settings).findings.vertebrae
        told = [v for v in found if v.keypoints_px is not None]
        seen += len(told)
        flagged += sum(Quality.FOREIGN_MATERIAL in v.quality for v in told)
    return {"films": poses, "bodies": seen, "flagged": flagged}


def section(told: dict[str, Any]) -> str:
    """The section of the card; `told` is what this module prints."""
    models = ", ".join(f"{name} `{sha}`" for name, sha in told["models"].items())
    lines = [
        f"`python -m onnx_models.training.film_foreign_evaluation --card`; {models}; the pipeline's limit is "
        f"{told['limit']:g}.",
        "Held-out rendered films. Part of the bodies that are taken for ones with cement or metal, by the least "
        "probability:",
    ]
    for name, figures in told["sets"].items():
        count = figures["bodies"]
        bodies = sum(count.values()) - count["neither, deformed"]
        lines += ["", f"**{name}**: {bodies} bodies, area under the ROC {figures['auc']:.3f}"]
        lines += ["", "| limit | " + " | ".join(f"{group} ({n})" for group, n in count.items()) + " |"]
        lines += ["|---" * (1 + len(count)) + "|"]
        for limit, parts in figures["told"].items():
            cells = ["" if parts[group] is None else f"{parts[group]:.3f}" for group in count]
            lines.append(f"| {limit} | " + " | ".join(cells) + " |")
    if told.get("real"):
        real = told["real"]
        lines += ["", f"Films rendered from the one real CT, which holds no implant: {real['flagged']} of "]
        lines[-1] += (
            f"{real['bodies']} measured bodies on {real['films']} films are taken for one with cement or metal."
        )
    return "\n".join(lines)


def _part(told: Bools) -> float | None:
    return round(float(told.mean()), 4) if told.size else None


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.film_foreign_evaluation", description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the exported networks")
    parser.add_argument("--folders", type=Path, nargs="+", default=list(FOLDERS))
    parser.add_argument("--films", type=int, help="at most so many of each folder")
    parser.add_argument("--card", action="store_true", help="write the figures into the card beside the network")
    options = parser.parse_args(arguments)
    models = load_models(options.models, "cpu", threads=1, names=RadiographSettings().networks)
    sight = Look(models)
    sets = {}
    for folder in options.folders:
        bodies = held_out_bodies(sorted((folder / "held_out").glob("*.npz"))[: options.films], sight, SEED)
        sets[folder.name] = judged(probabilities(bodies, models), bodies)
    told = {
        "models": {m.name: m.sha256[:12] for m in models.identities if m.name in (NAME, "film")},
        "limit": ForeignSettings().likely,
        "sets": sets,
    }
    root = real_folder()
    if root is not None:
        told["real"] = on_real(example_ct(root), models)
    print(json.dumps(told, indent=1))
    if options.card:
        card = options.models / "film_foreign.md"
        card.write_text(replaced(card.read_text(), section(told), BEGIN, END))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
