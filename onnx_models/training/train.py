"""Trains a shipped network again: ``python -m onnx_models.training.train localizer --minutes 60``.

One loop for every network. It is bounded by minutes or steps, leaves a checkpoint every few minutes under
``build/training/<name>/`` and goes on from it when called again; SIGTERM and Ctrl-C leave one too. The learning rate
warms up, then falls along a cosine to (almost) nothing at the bound, because a rate that has not decayed costs more
than any other setting measured here. Exported is the running mean of the weights. What is logged stands in
``log.jsonl``, one object a line.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

BUILD = Path("build/training")
TASKS = {
    "localizer": "onnx_models.training.localizer_task:LocalizerTask",
    "keypoints": "onnx_models.training.keypoints_task:KeypointsTask",
    "segmenter": "onnx_models.training.segmenter_task:SegmenterTask",
    "completion": "onnx_models.training.completion_task:CompletionTask",
    "detector": "onnx_models.training.detector_task:DetectorTask",
    "labeller": "onnx_models.training.labeller_task:LabellerTask",
    "labeller_btrfly": "onnx_models.training.labeller_task:BtrflyTask",
    "film": "onnx_models.training.radiograph_task:WholeFilmTask",
    "film_unet": "onnx_models.training.radiograph_task:unet_task",
    "film_mdr2unet": "onnx_models.training.radiograph_task:mdr2unet_task",
    "film_r2unet": "onnx_models.training.radiograph_task:r2unet_task",
    "film_segnet": "onnx_models.training.radiograph_task:segnet_task",
    "film_enet": "onnx_models.training.radiograph_task:enet_task",
    "film_points": "onnx_models.training.film_points_task:FilmPointsTask",
    "film_foreign": "onnx_models.training.film_foreign_task:FilmForeignTask",
}
"""Where the task of each network is: ``module:class``, made without arguments."""


class Task(Protocol):
    """What the loop must know of one network.

    `name` names its folder; `learning_rate` is the largest one; `step` makes one batch from `rng` and returns the loss
    and numbers to log (`progress` runs from 0 to 1 over the whole training); `evaluate` returns numbers on data that
    is not trained on. A task whose losses are made in single precision whatever the network's outputs are says so by
    `bfloat16 = True`; only such a one may be trained with `Training.bfloat16`.
    """

    name: str
    learning_rate: float

    def network(self) -> nn.Module: ...

    def step(
        self, network: nn.Module, rng: np.random.Generator, progress: float
    ) -> tuple[Tensor, dict[str, float]]: ...

    def evaluate(self, network: nn.Module) -> dict[str, float]: ...


@dataclass(frozen=True)
class Schedule:
    """Bounds and rhythm of a training; it ends at the first bound that is reached (``None``: no such bound)."""

    minutes: float | None = None
    steps: int | None = None
    warm_up_steps: int = 100
    checkpoint_every_s: float = 180.0
    log_every: int = 20
    evaluate_every_s: float = 600.0
    smallest_rate: float = 0.01
    mean_decay: float = 0.998
    clip_norm: float = 5.0
    weight_decay: float = 1e-4

    def progress(self, step: int, elapsed_s: float) -> float:
        """Part of the training that is done, 0 to 1, by the bound that is nearer."""
        parts = [0.0]
        if self.steps is not None:
            parts.append(step / max(self.steps, 1))
        if self.minutes is not None:
            parts.append(elapsed_s / max(60.0 * self.minutes, 1e-9))
        return min(1.0, max(parts))

    def rate(self, step: int, progress: float) -> float:
        """Factor on the largest learning rate: linear warm-up, then a cosine down to `smallest_rate`."""
        warm = min(1.0, (step + 1) / max(self.warm_up_steps, 1))
        return warm * (self.smallest_rate + (1 - self.smallest_rate) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class Training:
    """The state that a checkpoint holds, and the loop that moves it on.

    The weights of `averaged` are the running mean of those of `network`: they are what is evaluated and exported.
    """

    task: Task
    folder: Path
    seed: int = 1
    step: int = 0
    elapsed_s: float = 0.0
    begun_from: str | None = None
    """SHA-256 of the weights that this training began with, if it did not begin at random."""
    network: nn.Module = field(init=False)
    averaged: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    stopping: bool = field(init=False, default=False)
    clock: Callable[[], float] = time.monotonic
    """Seconds that `elapsed_s` counts; `time.process_time` where trainings are compared on a machine that is shared."""
    bfloat16: bool = False
    """Convolutions in bfloat16, weights and losses in single precision: more steps an hour where a CPU has AMX."""

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.network = self.task.network()
        self.averaged = copy.deepcopy(self.network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.task.learning_rate)

    @property
    def checkpoint(self) -> Path:
        """The one checkpoint of this training."""
        return self.folder / "checkpoint.pt"

    def start_from(self, weights: Path) -> None:
        """Begin with shipped weights (safetensors) instead of random ones; a task may fit them into its network."""
        fitted = getattr(self.task, "fitted", lambda state, network: state)
        self.network.load_state_dict(fitted(load_file(weights), self.network))
        self.begun_from = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.averaged.load_state_dict(self.network.state_dict())

    def save(self) -> None:
        """Write the checkpoint; a reader sees the old one or the new one, never half of one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "task": self.task.name,
            "seed": self.seed,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "begun_from": self.begun_from,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def resume(self) -> bool:
        """Go on from the checkpoint where there is one."""
        if not self.checkpoint.is_file():
            return False
        state = torch.load(self.checkpoint, weights_only=True)
        if state["task"] != self.task.name:
            raise ValueError(f"{self.checkpoint} belongs to the training of {state['task']}, not of {self.task.name}")
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seed, self.step, self.elapsed_s = state["seed"], state["step"], state["elapsed_s"]
        self.begun_from = state["begun_from"]
        return True

    def run(self, schedule: Schedule, say: Callable[[str], None] = print) -> None:
        """Train until a bound of the schedule is reached or `stopping` is set, and leave a checkpoint."""
        began = self.clock() - self.elapsed_s
        saved = evaluated = time.monotonic()
        sums: dict[str, list[float]] = {}
        while (progress := schedule.progress(self.step, self.elapsed_s)) < 1.0 and not self.stopping:
            numbers = self._one_step(schedule, progress)
            self.step += 1
            self.elapsed_s = self.clock() - began
            for key, value in numbers.items():
                sums.setdefault(key, []).append(value)
            if self.step % schedule.log_every == 0:
                self._log({k: float(np.mean(v)) for k, v in sums.items()}, say)
                sums.clear()
            now = time.monotonic()
            if now - saved > schedule.checkpoint_every_s:
                self.save()
                saved = now
            if now - evaluated > schedule.evaluate_every_s:
                self._log({f"held_out_{k}": v for k, v in self.task.evaluate(self.averaged.eval()).items()}, say)
                evaluated = time.monotonic()
        self.save()

    def _one_step(self, schedule: Schedule, progress: float) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, self.step])
        torch.manual_seed(int(rng.integers(2**31)))
        rate = schedule.rate(self.step, progress) * self.task.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate, schedule.weight_decay
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            loss, numbers = self.task.step(self.network, rng, progress)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of {self.task.name} is {loss.item()} at step {self.step}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), schedule.clip_norm)
        self.optimizer.step()
        self._average(min(schedule.mean_decay, (1 + self.step) / (10 + self.step)))
        return {"loss": loss.item(), "gradient_norm": norm.item(), "rate": rate, **numbers}

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for mean, value in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def _log(self, numbers: Mapping[str, float], say: Callable[[str], None]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {
            "step": self.step,
            "elapsed_s": round(self.elapsed_s, 1),
            **{k: round(v, 6) for k, v in numbers.items()},
        }
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        say("  ".join(f"{k} {v:g}" for k, v in line.items()))


def load_task(name: str) -> Task:
    """The task of a network by its name in `TASKS`."""
    module, _, kind = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), kind)()
    return task


def averaged_network(name: str, folder: Path | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint with its averaged weights, ready to be exported, and what its provenance says.

    That is {"steps", "seed", "begun_from"}: "begun_from" is the SHA-256 of earlier weights, or None.

    Raises FileNotFoundError where no training of that name has left a checkpoint.
    """
    training = Training(load_task(name), folder or BUILD / name)
    if not training.resume():
        raise FileNotFoundError(f"no checkpoint at {training.checkpoint}: train {name} first")
    state = {"steps": training.step, "seed": training.seed, "begun_from": training.begun_from}
    return training.averaged.eval(), state


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.train", description=__doc__)
    parser.add_argument("network", choices=sorted(TASKS))
    parser.add_argument("--minutes", type=float, help="end after this many minutes of training in all")
    parser.add_argument("--steps", type=int, help="end after this many steps in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--from-weights", type=Path, help="begin with these safetensors (shipped weights, say)")
    parser.add_argument("--rate", type=float, help="largest learning rate, where it is not to be the task's own")
    parser.add_argument(
        "--bf16", action="store_true", help="convolutions in bfloat16 (networks of films, CPU with AMX)"
    )
    parser.add_argument("--fresh", action="store_true", help="ignore an earlier checkpoint")
    parser.add_argument("--folder", type=Path, help=f"where checkpoint and log are kept (default {BUILD}/<network>)")
    options = parser.parse_args(arguments)
    if options.minutes is None and options.steps is None:
        parser.error("say how long: --minutes or --steps")
    torch.set_num_threads(options.threads)
    task = load_task(options.network)
    if options.rate is not None:
        task.learning_rate = options.rate
    if options.bf16 and not getattr(task, "bfloat16", False):
        parser.error(f"--bf16: the losses of {options.network} need single precision throughout")
    training = Training(task, options.folder or BUILD / options.network, seed=options.seed, bfloat16=options.bf16)
    if not options.fresh and training.resume():
        print(f"going on from step {training.step} of {training.checkpoint}")
    elif options.from_weights is not None:
        training.start_from(options.from_weights)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(training, "stopping", True))
    training.run(Schedule(minutes=options.minutes, steps=options.steps))
    print(f"stopped at step {training.step} after {training.elapsed_s / 60:.1f} minutes; {training.checkpoint}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
