"""How the network that looks at each body of a film again is trained, judged on held-out films, and exported.

Loss: error of the points, of the three heights and of their ratios, where fractured bodies weigh more (the published
loss on points alone keeps to the mean shape), and, fading, cross entropy of the heat maps against a peak at the point.
The spread of a height is taught by its likelihood (Laplace) and teaches nothing but itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from inference.film_points import CHANNELS, SIZE
from onnx_models.training.export import MODELS, Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.film_data import FOLDER
from onnx_models.training.film_points_data import (
    F64,
    SEEN_FROM,
    BodyPool,
    HeldOutBodies,
    Sight,
    held_out_bodies,
    shipped_sight,
)
from onnx_models.training.film_points_films import FOLDER as RICH_FOLDER
from onnx_models.training.film_points_network import CELLS, STRIDE, BodyPoints, BodyPointsNetwork
from onnx_models.training.phantom.scene import F32
from onnx_models.training.radiograph_data import FilmSource
from onnx_models.training.train import averaged_network

VERSION = "1.1.0"
RENEW_EVERY = 6
"""Steps after which a film of the pool is replaced; the pool is filled first."""
FILL = 96
RELOAD_STEPS = 50
ALONG = 0.3
"""Weight of the middle points' error along the plate: where it is deepest is hard to say and matters little."""
HEIGHT_WEIGHT, SHAPE_WEIGHT, MAP_WEIGHT, SPREAD_WEIGHT = 1.0, 8.0, 0.5, 0.2
MAP_WIDTH = 1.2
"""Cells: standard deviation of the peak that a heat map is taught."""
USUAL_G = 0.85
"""Bodies of a lower G weigh more in the losses on heights and shape, with the third power up to 5 times."""
FARTHEST = 8.0
"""Pixels of the crop: larger errors teach the spread no more than this one."""
LEAST_HEIGHT = 2.0
"""Pixels of the crop, for ratios."""
SHOWN = 12
"""So many held-out films of each folder are looked at during the training."""


def heights_of(points: Tensor) -> Tensor:
    """(n, 3) anterior, middle and posterior height of points (n, 6, 2)."""
    return (points[:, 0::2] - points[:, 1::2]).square().sum(dim=2).add(1e-3).sqrt()


def ratios_of(heights: Tensor) -> Tensor:
    """(n, 2) log of anterior/posterior and middle/posterior."""
    logs = heights.clamp(min=LEAST_HEIGHT).log()
    return logs[:, :2] - logs[:, 2:]


def loss_of(found: BodyPoints, truth: Tensor, progress: float) -> tuple[Tensor, dict[str, float]]:
    """Loss of what was found in crops with true points (n, 6, 2), and what it is made of."""
    heights, true_heights = heights_of(found.points), heights_of(truth)
    g = true_heights.amin(dim=1) / true_heights.amax(dim=1)
    weight = (USUAL_G / g).pow(3).clamp(1.0, 5.0)
    weight = weight / weight.mean()
    matters = torch.ones(6, 2)
    matters[2:4, 1] = ALONG
    parts = {
        "points_px": ((found.points - truth).abs() * matters).mean(),
        "heights_px": ((heights - true_heights).abs().mean(dim=1) * weight).mean(),
        "shape": ((ratios_of(heights) - ratios_of(true_heights)).abs().mean(dim=1) * weight).mean(),
        "maps": -(peaks(truth) * found.logs.flatten(2)).sum(dim=2).mean(),
    }
    error = (heights - true_heights).abs().detach().clamp(max=FARTHEST)
    parts["spread"] = (found.spread.log() + error / found.spread).mean()
    loss = parts["points_px"] + HEIGHT_WEIGHT * parts["heights_px"] + SHAPE_WEIGHT * parts["shape"]
    loss = loss + MAP_WEIGHT * (1 - progress) * parts["maps"] + SPREAD_WEIGHT * parts["spread"]
    return loss, {key: float(value.detach()) for key, value in parts.items()}


def peaks(points: Tensor) -> Tensor:
    """(n, 6, cells * cells): a peak at each point (n, 6, 2), which sums to 1."""
    at = STRIDE * torch.arange(CELLS, dtype=torch.float32) + (STRIDE - 1) / 2
    rows, columns = (
        torch.softmax(-0.5 * ((at - points[..., axis, None]) / (STRIDE * MAP_WIDTH)).square(), dim=2) for axis in (0, 1)
    )
    return (rows[..., :, None] * columns[..., None, :]).flatten(2)


class FilmPointsTask:
    """One training of the network; see `train.Task`. The pool of films begins anew when a training goes on."""

    name = "film_points"
    learning_rate = 2e-3
    batch = 32
    bfloat16 = True

    def __init__(self, folders: tuple[Path, ...] = (FOLDER, RICH_FOLDER), sight: Sight | None = None) -> None:
        self._folders = folders
        self._sight = sight or shipped_sight()
        self._sources = tuple(FilmSource(f / "train") for f in folders)
        self._pool = BodyPool(self._sources, self._sight, FILL)
        self._steps = 0
        self._held_out: HeldOutBodies | None = None

    def network(self) -> nn.Module:
        """A network with random weights."""
        return BodyPointsNetwork().to(memory_format=torch.channels_last)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of bodies."""
        assert isinstance(network, BodyPointsNetwork)
        if self._steps % RELOAD_STEPS == RELOAD_STEPS - 1:
            for source in self._sources:
                source.reload()
        if self._pool.films < FILL or self._steps % RENEW_EVERY == 0:
            self._pool.renew(rng)
        self._steps += 1
        crops, points = self._pool.batch(rng, self.batch)
        film = torch.from_numpy(crops).to(memory_format=torch.channels_last)
        return loss_of(network.features(film), torch.from_numpy(points), progress)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Errors on held-out bodies."""
        if self._held_out is None:
            paths = [p for f in self._folders for p in sorted((f / "held_out").glob("*.npz"))[:SHOWN]]
            self._held_out = held_out_bodies(paths, self._sight)
        return judged(network, self._held_out)


@torch.no_grad()
def told_of(network: nn.Module, crops: F32, batch: int = 64) -> tuple[F64, F64]:
    """(points (n, 6, 2), spreads (n, 3)) of crops (n, `CHANNELS`, `SIZE`, `SIZE`), in pixels of the crop."""
    said = [network(torch.from_numpy(crops[i : i + batch])) for i in range(0, len(crops), batch)]
    points, spread = (np.concatenate([s[k].numpy().astype(np.float64) for s in said]) for k in (0, 1))
    return points, spread


def judged(network: nn.Module, bodies: HeldOutBodies) -> dict[str, float]:
    """Errors of bodies that can be seen, in film pixels; |dG| of low and high G apart; told on true h_a / h_p."""
    bodies = bodies.chosen(bodies.visibility >= SEEN_FROM)
    if not len(bodies.crops):
        return {}
    points, spread = told_of(network, bodies.crops)
    heights, true = (np.linalg.norm(p[:, 0::2] - p[:, 1::2], axis=2) for p in (points, bodies.points))
    g, true_g = heights.min(axis=1) / heights.max(axis=1), true.min(axis=1) / true.max(axis=1)
    error = np.abs(heights - true)
    low = true_g <= 0.8
    figures = {
        "point_px": float((np.linalg.norm(points - bodies.points, axis=2).mean(axis=1) * bodies.step).mean()),
        "height_px": float((error.mean(axis=1) * bodies.step).mean()),
        "height_part": float((error.mean(axis=1) / true[:, 2]).mean()),
        "dg_high": float(np.abs(g - true_g)[~low].mean()) if (~low).any() else 0.0,
        "dg_low": float(np.abs(g - true_g)[low].mean()) if low.any() else 0.0,
        "error_over_spread": float((error / spread).mean()),
        "bodies": float(len(g)),
    }
    front, true_front = heights[:, 0] / heights[:, 2], true[:, 0] / true[:, 2]
    if len(g) > 2 and np.ptp(true_front) > 0.05:
        figures["slope"] = float(np.polyfit(true_front, front, 1)[0])
        figures["correlation"] = float(np.corrcoef(true_front, front)[0, 1])
    return figures


PREPROCESSING = (
    "One crop for each body of the prepared film (contrast as for the network film): SIZE x SIZE pixels, 2 depths of "
    "the body wide (or 2 heights, where they are larger), in the middle of the outline's corners, turned so that the "
    "head is up and the front towards column 0; Gaussian filter of half a crop pixel; 0 outside the field and film. "
    "Then that network's map of bodies there, and the body's own share of it, linear between pixels."
)


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the last checkpoint into `folder`, spreads widened as held-out films ask for."""
    network, state = averaged_network("film_points")
    factor = widen(network, FilmPointsTask().evaluate(network))
    return export_network(network, {**state, "spreads_widened": factor}, folder)


def widen(network: nn.Module, held_out: dict[str, float]) -> float:
    """Make expected errors as large as those of held-out films (`judged`) are; returns the factor.

    Raises
    ------
    ValueError
        No body of a held-out film could be measured.
    """
    if "error_over_spread" not in held_out:
        raise ValueError("no held-out film to set the spreads by: run onnx_models.training.film_points_films")
    factor = max(1.0, round(held_out["error_over_spread"], 2))
    assert isinstance(network, BodyPointsNetwork)
    network.widening.mul_(factor)
    return factor


def export_network(network: nn.Module, state: dict[str, Any], folder: Path) -> Exported:
    """Export a network; `state` is what its training says of itself."""
    contract = Contract(
        name="film_points",
        version=VERSION,
        inputs={
            "crops": {
                "dtype": "float32",
                "shape": ["bodies", CHANNELS, SIZE, SIZE],
                "meaning": "one body each: film, bodies, this body; 0 to 1",
            }
        },
        outputs={
            "points": {
                "dtype": "float32",
                "shape": ["bodies", 6, 2],
                "meaning": "(row, column) index in the crop: anterior, middle, posterior, each superior then inferior",
            },
            "spread": {
                "dtype": "float32",
                "shape": ["bodies", 3],
                "meaning": "expected absolute error of anterior, middle, posterior height, pixels of the crop",
            },
        },
        dynamic={"crops": {0: Dim("bodies", min=1, max=256)}},
        preprocessing=PREPROCESSING.replace("SIZE", str(SIZE)),
        provenance={
            "trained_on": "films rendered from procedural phantoms; no real radiograph, no real CT",
            **state,
            "source": "onnx_models/training/film_points_task.py",
        },
        card="film_points.md",
    )
    examples = [(example_crops(seed, bodies),) for seed, bodies in ((1, 2), (2, 1), (3, 7))]
    return export_model(network.to(memory_format=torch.contiguous_format), examples, contract, folder)


def example_crops(seed: int, bodies: int) -> Tensor:
    """Bright blocks in noise, (bodies, `CHANNELS`, `SIZE`, `SIZE`)."""
    rng = np.random.default_rng(seed)
    crops = rng.uniform(0.2, 0.4, (bodies, CHANNELS, SIZE, SIZE)).astype(np.float32)
    for n in range(bodies):
        top, left = rng.integers(SIZE // 5, SIZE // 3, 2)
        crops[n, :, top : SIZE - top, left : SIZE - left] += 0.4
    return torch.from_numpy(crops)
