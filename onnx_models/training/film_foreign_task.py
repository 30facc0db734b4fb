"""The network that tells whether a body on a film holds cement or metal: how it is built, trained and exported.

It sees the same crops as the network of the six points (`film_points_data`). Half of a batch holds cement or metal; of
the others half are deformed, so that dense crushed bone and burned-in letters are what it learns to tell from cement.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import binary_cross_entropy_with_logits

from inference.film_points import CHANNELS, SIZE
from onnx_models.training.export import MODELS, Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.film_data import FOLDER as GENERAL_FOLDER
from onnx_models.training.film_foreign_films import FOLDER
from onnx_models.training.film_points_data import (
    F64,
    BodyPool,
    Bools,
    HeldOutBodies,
    Sight,
    held_out_bodies,
    shipped_sight,
)
from onnx_models.training.film_points_films import FOLDER as RICH_FOLDER
from onnx_models.training.film_points_task import PREPROCESSING, RELOAD_STEPS, example_crops
from onnx_models.training.metrics import area_under_curve
from onnx_models.training.phantom.scene import F32
from onnx_models.training.radiograph_data import FilmSource
from onnx_models.training.train import averaged_network

VERSION = "1.0.0"
WIDTHS = (16, 32, 48, 64)
"""Channels at 2, 4, 8 and 16 pixels of the crop."""
FOREIGN_SHARE, DEFORMED_SHARE = 0.5, 0.25
"""Parts of a batch: with cement or metal, and deformed without."""
FOLDERS = (FOLDER, RICH_FOLDER, GENERAL_FOLDER)
SHARES = (0.6, 0.25, 0.15)
"""Parts of the films that are drawn from the folder of implants, from that of fractures and from the general one."""
FILL = 96
RENEW_EVERY = 3
"""Steps after which a film of the pool is replaced; the pool is filled first."""
SHOWN = 20
"""So many held-out films of each folder are looked at during the training."""


class ForeignNetwork(nn.Module):
    """(batch, `CHANNELS`, `SIZE`, `SIZE`) crops to the probability (batch,) of cement or metal in the body."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_halved(a, b) for a, b in pairwise((CHANNELS + 1, *widths))))
        self.head = nn.Sequential(nn.Linear(2 * widths[-1], 32), nn.LeakyReLU(0.1), nn.Linear(32, 1))

    def logits(self, crops: Tensor) -> Tensor:
        """(batch,): what is taught. It sees the film as it is, and with its own mean and contrast taken out."""
        film, maps = crops[:, :1], crops[:, 1:]
        even = film - film.mean(dim=(2, 3), keepdim=True)
        even = even / (even.square().mean(dim=(2, 3), keepdim=True).sqrt() + 0.02)
        x = self.body(torch.cat([even, 2 * film - 1, 2 * maps - 1], dim=1)).float()
        return self.head(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)).float()[:, 0]

    def forward(self, crops: Tensor) -> Tensor:
        """What is exported."""
        return self.logits(crops).sigmoid()


def _halved(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.05),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.05),
        nn.LeakyReLU(0.1, inplace=True),
    )


class FilmForeignTask:
    """One training of the network; see `train.Task`. The pool of films begins anew when a training goes on."""

    name = "film_foreign"
    learning_rate = 2e-3
    batch = 64
    bfloat16 = True

    def __init__(self, folders: tuple[Path, ...] = FOLDERS, sight: Sight | None = None) -> None:
        self._folders = folders
        self._sight = sight or shipped_sight()
        self._sources = tuple(FilmSource(f / "train") for f in folders)
        self._pool = BodyPool(self._sources, self._sight, FILL, SHARES)
        self._steps = 0
        self._held_out: list[HeldOutBodies] | None = None

    def network(self) -> nn.Module:
        """A network with random weights."""
        return ForeignNetwork().to(memory_format=torch.channels_last)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of bodies."""
        assert isinstance(network, ForeignNetwork)
        if self._steps % RELOAD_STEPS == RELOAD_STEPS - 1:
            for source in self._sources:
                source.reload()
        if self._pool.films < FILL or self._steps % RENEW_EVERY == 0:
            self._pool.renew(rng)
        self._steps += 1
        bodies = self._pool.bodies
        foreign = np.array([film.foreign[n] for film, n in bodies])
        deformed = np.array([film.fractured[n] for film, n in bodies])
        drawn = self._pool.drawn(rng, self.batch, weights(foreign, deformed))
        shown = np.stack([crop[:, :: rng.choice((1, -1))] for crop, *_ in drawn])  # cement knows no head
        crops = torch.from_numpy(shown).to(memory_format=torch.channels_last)
        truth = torch.from_numpy(foreign[[k for *_, k in drawn]].astype(np.float32))
        loss = binary_cross_entropy_with_logits(network.logits(crops), truth)
        return loss, {"entropy": float(loss.detach()), "foreign": float(truth.mean())}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """How well held-out bodies are told apart: those with implants, and those rich in fractures."""
        if self._held_out is None:
            paths = [sorted((f / "held_out").glob("*.npz"))[:SHOWN] for f in self._folders]
            self._held_out = [held_out_bodies(those, self._sight) for those in paths]
        found: dict[str, float] = {}
        for folder, bodies in zip(self._folders, self._held_out, strict=True):
            figures = judged(probabilities(network, bodies.crops), bodies.foreign)
            found |= {f"{folder.name}_{name}": value for name, value in figures.items()}
        return found


def weights(foreign: Bools, deformed: Bools) -> F64:
    """How often each body is drawn, for those with cement or metal, deformed ones without, and all others."""
    out = np.zeros(len(foreign))
    groups = (
        (foreign, FOREIGN_SHARE),
        (~foreign & deformed, DEFORMED_SHARE),
        (~foreign & ~deformed, 1 - FOREIGN_SHARE - DEFORMED_SHARE),
    )
    for group, share in groups:
        if group.any():
            out[group] = share / group.sum()
    return out


@torch.no_grad()
def probabilities(network: nn.Module, crops: F32, batch: int = 64) -> F64:
    """(n,) of crops (n, `CHANNELS`, `SIZE`, `SIZE`)."""
    said = [network(torch.from_numpy(crops[i : i + batch])).numpy() for i in range(0, len(crops), batch)]
    return np.concatenate(said).astype(np.float64) if said else np.zeros(0)


def judged(probability: F64, foreign: Bools, limit: float = 0.5) -> dict[str, float]:
    """Area under the ROC; parts of the bodies with and without cement or metal that are told right at a limit."""
    if not foreign.any() or foreign.all():
        return {}
    return {
        "auc": area_under_curve(probability, foreign),
        "sensitivity": float((probability[foreign] >= limit).mean()),
        "specificity": float((probability[~foreign] < limit).mean()),
    }


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the last checkpoint into `folder`."""
    return export_network(*averaged_network("film_foreign"), folder)


def export_network(network: nn.Module, state: dict[str, Any], folder: Path) -> Exported:
    """Export a network; `state` is what its training says of itself."""
    contract = Contract(
        name="film_foreign",
        version=VERSION,
        inputs={
            "crops": {
                "dtype": "float32",
                "shape": ["bodies", CHANNELS, SIZE, SIZE],
                "meaning": "one body each: film, bodies, this body; 0 to 1",
            }
        },
        outputs={
            "foreign": {
                "dtype": "float32",
                "shape": ["bodies"],
                "meaning": "probability of cement or metal in the body",
            },
        },
        dynamic={"crops": {0: Dim("bodies", min=1, max=256)}},
        preprocessing=PREPROCESSING.replace("SIZE", str(SIZE)),
        provenance={
            "trained_on": "films rendered from procedural phantoms; no real radiograph, no real CT, no real implant",
            **state,
            "source": "onnx_models/training/film_foreign_task.py",
        },
        card="film_foreign.md",
    )
    examples = [(example_crops(seed, bodies),) for seed, bodies in ((1, 2), (2, 1), (3, 7))]
    return export_model(network.to(memory_format=torch.contiguous_format), examples, contract, folder)
