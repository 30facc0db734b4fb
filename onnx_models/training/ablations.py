"""One change at a time: ``python -m onnx_models.training.ablations`` trains each run and writes ``ablations.md``.

Every run has a part of the steps of the shipped training and one factor changed; the unchanged training is run with
several seeds, and what differs by less than their spread is not claimed. Runs that have their figures are not trained
again; ``--table`` writes what there is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from inference.abnormality import NETWORK as COMPLETION
from inference.abnormality import AbnormalitySettings
from inference.runtime import load_models
from onnx_models.training.completion_evaluation import calibrate, figures, phantoms
from onnx_models.training.completion_network import CompletionNetwork
from onnx_models.training.completion_task import CompletionTask, export_network
from onnx_models.training.segmenter_cases import SHAPE_SEED
from onnx_models.training.segmenter_data import read
from onnx_models.training.segmenter_shapes import HELD_OUT as HELD_OUT_SHAPES
from onnx_models.training.segmenter_shapes import shape_patch
from onnx_models.training.segmenter_task import HELD_OUT, SegmenterTask, judged
from onnx_models.training.train import BUILD, Schedule, Task, Training

FOLDER = BUILD / "ablations"
TABLE = Path(__file__).with_name("ablations.md")
STEPS = {"segmenter": 940, COMPLETION: 375}
SHAPES_EACH = 4
CALIBRATED_ON, JUDGED_ON = 12, 40
"""Patients that give the usual surplus, and others on which the score is judged."""


@dataclass(frozen=True)
class Run:
    """A training: the network, what is changed in words ("unchanged": nothing), its seed, and how its task is made."""

    network: str
    change: str
    seed: int
    task: Callable[[], Task]

    @property
    def folder(self) -> Path:
        """Where its checkpoint is."""
        return FOLDER / f"{self.network}-{self.change.replace(' ', '-')}-{self.seed}"


UNCHANGED = "unchanged"
RUNS: tuple[Run, ...] = (
    *(Run(COMPLETION, UNCHANGED, seed, CompletionTask) for seed in (1, 2)),
    Run(COMPLETION, "no critic", 1, lambda: CompletionTask(realism=0.0)),
    Run(COMPLETION, "fractured neighbours left out in training", 1, lambda: CompletionTask(told=False)),
    *(Run("segmenter", UNCHANGED, seed, SegmenterTask) for seed in (1, 2)),
    Run("segmenter", "phantoms alone", 1, lambda: SegmenterTask(sources=("phantom",))),
    Run("segmenter", "no volume term", 1, lambda: SegmenterTask(volume_weight=0.0)),
)


def trained(run: Run) -> Training:
    """The run's training, at its end."""
    torch.set_num_threads(1)
    training = Training(run.task(), run.folder, seed=run.seed)
    training.resume()
    training.run(Schedule(steps=STEPS[run.network], evaluate_every_s=float("inf")))
    return training


def figures_of(run: Run) -> Path:
    """Where the figures of a run are kept: beside its checkpoint."""
    return run.folder / "figures.json"


def measured(run: Run) -> dict[str, float]:
    """Figures of one run, which is trained where it was not."""
    path = figures_of(run)
    if not path.is_file():
        training = trained(run)
        network = training.averaged.eval()
        found = _segmenter(network) if run.network == "segmenter" else _completion(network, run)
        path.write_text(json.dumps(found, indent=1) + "\n")
    return {key: float(value) for key, value in json.loads(path.read_text()).items()}


def _segmenter(network: torch.nn.Module) -> dict[str, float]:
    rng = np.random.default_rng(SHAPE_SEED)
    shapes = [shape_patch(rng, number, warp=False) for number in HELD_OUT_SHAPES for _ in range(SHAPES_EACH)]
    on_phantoms = judged(network, read(sorted(HELD_OUT.glob("held-out_*.npz"))))
    on_shapes = judged(network, shapes)
    return {
        "Dice, phantoms": on_phantoms["dice"],
        "body Dice": on_phantoms["body_dice"],
        "volume / true": on_phantoms["volume_ratio"],
        "Dice, real shapes": on_shapes["dice"],
        "volume / true, real shapes": on_shapes["volume_ratio"],
    }


def _completion(network: torch.nn.Module, run: Run) -> dict[str, float]:
    assert isinstance(network, CompletionNetwork)
    folder = run.folder / "export"
    export_network(network, {"steps": STEPS[run.network], "seed": run.seed, "begun_from": None}, folder)
    models = load_models(folder, "cpu", threads=1, names=[COMPLETION])
    settings = AbnormalitySettings(fractured="zeros" if "left out" in run.change else "told")
    usual = calibrate(models, CALIBRATED_ON, settings)
    settings = replace(settings, normal_surplus=usual["normal_surplus"])
    records = phantoms(models, settings, JUDGED_ON, degraded=False)
    several = figures([r for r in records if r.fractured_neighbours >= 2], rounds=0)
    every = figures(records, rounds=0)
    return {
        "AUC": every["auc"][0],
        "AUC, two or more fractured neighbours": several["auc"][0],
        "mean of normal": every["mean_normal"][0],
        "mean of severe": every["mean_severe"][0],
    }


def table(network: str, runs: Sequence[tuple[Run, dict[str, float]]]) -> list[str]:
    """Lines of one network's table."""
    lines = [f"## {network}, {STEPS[network]} steps", ""]
    if not runs:
        return [*lines, "Not run yet.", ""]
    names = list(runs[0][1])
    lines += ["| change | seed | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for run, found in runs:
        lines.append(f"| {run.change} | {run.seed} | " + " | ".join(f"{found[name]:.3f}" for name in names) + " |")
    return [*lines, ""]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.ablations", description=__doc__)
    parser.add_argument("--network", choices=sorted(STEPS), action="append", help="this one only")
    parser.add_argument("--table", action="store_true", help="train nothing: write what has been measured")
    options = parser.parse_args(arguments)
    if not options.table:
        for run in RUNS:
            if run.network in (options.network or STEPS):
                measured(run)
    done = [run for run in RUNS if figures_of(run).is_file()]
    missing = [f"{run.network}, {run.change}, seed {run.seed}" for run in RUNS if run not in done]
    lines = [
        "# One change at a time",
        "",
        "Written by `python -m onnx_models.training.ablations`; do not edit. Each run has the steps of its heading,",
        "from random weights. What differs from the unchanged seeds by no more than they differ from each other says",
        "nothing; with two seeds even more is weak. Perfect masks for the score, exact centroids for the masks.",
        "",
    ]
    for network in sorted(STEPS):
        lines += table(network, [(run, measured(run)) for run in done if run.network == network])
    if missing:
        lines += ["Not run yet: " + "; ".join(missing) + "."]
    TABLE.write_text("\n".join(lines).rstrip() + "\n")
    print(TABLE.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
