"""The networks of the method's table side by side, each trained for equally long, two seeds:
``python -m onnx_models.training.radiograph_comparison --minutes-each 4``.

U-Net, R2U-Net, SegNet, E-Net and MDR2-UNet learn bodies alone at 256 x 256, Dice loss, the same films in the same
order, at widths that give each about as many weights. Judged is the map alone, on the first films of
``radiograph-eval/1``.
Trainings leave checkpoints below ``build/training/radiograph-comparison``, and their figures in ``film_comparison/``
beside this file: called again it goes on with what is missing, on another machine too. ``--card`` writes the table into
``film_comparison.md``; ``--seeds 1`` and ``--seeds 2`` may run side by side before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onnx_models.training.evaluation_cards import replaced
from onnx_models.training.evaluation_records import source_hash
from onnx_models.training.export import MODELS
from onnx_models.training.film_data import FOLDER, end_plate_visibility
from onnx_models.training.film_evaluation_set import STRATA, FilmSet, load_set, positive
from onnx_models.training.metrics import dice_of
from onnx_models.training.radiograph_data import canvas_grid, canvas_matrix, prepared, target_maps
from onnx_models.training.radiograph_figures import PixelCounts, vertebra_dice
from onnx_models.training.radiograph_network import ENet, MDR2UNet, R2UNet, SegNet, UNet, WholeFilmNetwork
from onnx_models.training.radiograph_task import BodyTask
from onnx_models.training.train import BUILD, Schedule, Training

F32 = NDArray[np.float32]
Bools = NDArray[np.bool_]
COMPARED: dict[str, Callable[[], nn.Module]] = {
    "U-Net": lambda: UNet(7),
    "R2U-Net": lambda: R2UNet(7),
    "SegNet": lambda: SegNet(12),
    "E-Net": lambda: ENet(16),
    "MDR2-UNet": lambda: MDR2UNet(5),
}
"""At widths of about .4 M weights each."""
SEEDS = (1, 2)
JUDGED = Path(__file__).parent / "film_comparison"
"""A file for each training that was judged. One of other sources, films or minutes is no longer taken."""
SOURCES = ("radiograph_network", "radiograph_data", "film_look", "film_formation")
"""Modules that decide what a training sees and what is trained."""
CARD = "film_comparison.md"
BEGIN = "<!-- table: written by onnx_models.training.radiograph_comparison --card, do not edit -->"
END = "<!-- end of the table -->"
Record = dict[str, Any]


@torch.no_grad()
def body_map(network: nn.Module, canvas: F32) -> F32:
    """Probability of bodies (256, 256), of whichever kind of network."""
    film = torch.from_numpy(canvas[None, None])
    if isinstance(network, WholeFilmNetwork):
        return np.asarray(network(film)[0][0, 0])
    return np.asarray(torch.sigmoid(network(film))[0, 0])


def judge(network: nn.Module, chosen: FilmSet, films: int, deadline: float = float("inf")) -> Record:
    """Figures of a network's map on the first films of the set; as many as are done by ``deadline``."""
    network.eval()
    pixels = PixelCounts()
    dice: dict[str, list[float]] = defaultdict(list)
    bodies: list[float] = []
    for index in range(films):
        if time.monotonic() > deadline:
            break
        film = positive(chosen, index)
        if film.seen.size == 0:
            continue
        probability = body_map(network, prepared(film.image)[0])
        true = target_maps(film)[0][0] > 0.5
        pixels.add(probability, true)
        seen = end_plate_visibility(film)[film.seen > 0.6]
        found = dice_of(probability > 0.5, true)
        dice["all"].append(found)
        dice[chosen.stratum(float(np.median(seen)) if seen.size else 0.0)].append(found)
        truth = film.truth.moved(canvas_matrix(film.image.shape))
        whole = {level for level, cut in zip(truth.levels, film.partial, strict=True) if not cut}
        each = vertebra_dice(probability > 0.5, truth)
        bodies += [value for level, value in each.items() if level in whole and level in ("L2", "L3", "L4", "L5")]
    figures = {k: round(float(v), 4) for k, v in pixels.figures().items()}
    return {
        "films": len(dice["all"]),
        "dice": {k: round(float(np.mean(v)), 4) for k, v in dice.items()},
        "vertebra": round(float(np.mean(bodies)), 4) if bodies else None,
        **{k: figures[k] for k in ("sensitivity", "specificity", "roc_auc", "pr_auc")},
    }


def prepared_mask(mask: Bools) -> Bools:
    """A film's mask on the canvas, by the nearest pixel."""
    return canvas_grid(mask.shape).from_film(mask, order=0) > 0.5


def trained(name: str, seed: int, minutes: float, build: Path = BUILD, films: Path = FOLDER) -> Training:
    """One network of the table, trained for that long (of a core's time); from its checkpoint where there is one."""
    task = BodyTask(f"comparison {name}", COMPARED[name], films)
    folder = build / "radiograph-comparison" / f"{name.lower().replace('-', '')}-{minutes:g}-{seed}"
    training = Training(task, folder, seed=seed, clock=time.process_time)
    training.resume()
    training.run(Schedule(minutes=minutes, warm_up_steps=20, evaluate_every_s=float("inf")), say=lambda line: None)
    return training


def compared(
    minutes: float,
    films: int,
    seeds: Sequence[int] = SEEDS,
    say: Callable[[str], None] = print,
    judged: Path = JUDGED,
) -> Record:
    """{"name": [figures of each seed]}; every network of `COMPARED`, one seed after the other."""
    chosen = load_set()
    sources = source_hash(Path(__file__).with_name(f"{name}.py") for name in SOURCES)
    of = {"set": chosen.sha256, "films": films, "minutes": minutes, "sources": sources}
    table: dict[str, list[Record]] = {name: [] for name in COMPARED}
    for seed in seeds:
        for name in COMPARED:
            path = judged / f"{name.lower().replace('-', '')}-{seed}.json"
            kept = json.loads(path.read_text()) if path.is_file() else {}
            if kept.get("of") != of:
                training = trained(name, seed, minutes)
                row = judge(training.averaged, chosen, films)
                row |= {"steps": training.step, "weights": sum(p.numel() for p in training.network.parameters())}
                kept = {"of": of, "figures": row}
                judged.mkdir(exist_ok=True)
                path.write_text(json.dumps(kept, indent=1) + "\n")
            table[name].append(kept["figures"])
            say(f"{name}, seed {seed}: {json.dumps(kept['figures'])}")
    return {"set": chosen.name, "sha256": chosen.sha256, "minutes": minutes, "networks": table}


def section(told: Record, command: str) -> str:
    """The table in words of the card: means over the seeds, and each seed's Dice."""
    rows = told["networks"]
    count = max(len(r) for r in rows.values())
    films = next(iter(rows.values()))[0]["films"]
    lines = [
        f"`{command}`; {told['set']} (SHA-256 `{told['sha256'][:12]}`), {films} films; {told['minutes']:g} minutes",
        f"of one core's time each, {count} seeds; 256 x 256, Dice loss, the same films. Means over the seeds.",
        "",
        "| network | weights | steps | Dice (seeds) | " + " | ".join(STRATA) + " | L2 to L5 | sensitivity | "
        "specificity | ROC AUC | PR AUC |",
        "|---" * (9 + len(STRATA)) + "|",
    ]
    for name, runs in sorted(rows.items(), key=lambda row: -float(np.mean([r["dice"]["all"] for r in row[1]]))):
        each = ", ".join(f"{r['dice']['all']:.3f}" for r in runs)
        strata = [f"{np.mean([r['dice'].get(s, np.nan) for r in runs]):.3f}" for s in STRATA]
        rest = [f"{np.mean([r[k] for r in runs]):.3f}" for k in ("sensitivity", "specificity", "roc_auc", "pr_auc")]
        lines.append(
            f"| {name} | {runs[0]['weights'] / 1e6:.2f} M | {'; '.join(str(r['steps']) for r in runs)} | "
            f"{np.mean([r['dice']['all'] for r in runs]):.3f} ({each}) | {' | '.join(strata)} | "
            f"{np.mean([r['vertebra'] for r in runs]):.3f} | {' | '.join(rest)} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.radiograph_comparison", description=__doc__)
    parser.add_argument("--minutes-each", type=float, default=15.0)
    parser.add_argument("--films", type=int, default=60, help="of the evaluation set")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--card", action="store_true", help=f"write the table into {CARD}")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    told = compared(options.minutes_each, options.films, options.seeds)
    command = (
        "python -m onnx_models.training.radiograph_comparison --card "
        f"--minutes-each {options.minutes_each:g} --films {options.films}"
    )
    text = section(told, command)
    print(text)
    if options.card:
        path = MODELS / CARD
        path.write_text(replaced(path.read_text(), text, BEGIN, END))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
