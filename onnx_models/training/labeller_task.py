"""How the labeller is trained, judged on held-out scenes, and exported.

Loss of the two-view network, per row: binary cross entropy of the centre; cross entropy of the name, binary cross
entropy of the evidence and the distance of the offset, each weighted by how near the row is to a vertebra's centre.
Of the Btrfly network: the squared error of the heat maps, one Gaussian per name (the published loss).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from inference.labelling import ACROSS_MM, DEPTH_MM, EVIDENCE, LEVELS
from onnx_models.training.export import MODELS, Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.labeller_data import Window, WindowSource, draw_window
from onnx_models.training.labeller_network import NAMES, Btrfly, TwoView
from onnx_models.training.labeller_scenes import CACHE, Scene, scene_files
from onnx_models.training.train import averaged_network

VERSION = "1.1.0"
FREEZE_AT = 0.3
"""Part of the training after which batch statistics stay as they are."""


class LabellerTask:
    """One training of the two-view network; see `train.Task`."""

    name = "labeller"
    learning_rate = 2e-3
    batch = 8

    def __init__(self, cache: Path = CACHE) -> None:
        self._cache = cache
        self._source = WindowSource(cache / "train")

    def network(self) -> nn.Module:
        """A network with random weights."""
        return TwoView()

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of windows."""
        assert isinstance(network, TwoView)
        if progress > FREEZE_AT and not network.statistics_frozen:
            network.statistics_frozen = True
            network.train()
        return loss_of(network, self._source.batch(rng, self.batch))

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Names and evidence at the true centres of held-out scenes, three windows of each."""
        assert isinstance(network, TwoView)
        return judged(network, [Scene.load(p) for p in scene_files(self._cache / "held_out")])


def loss_of(network: TwoView, batch: Window) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch and what it is made of."""
    views, centre, weight, level, evidence, offset = (torch.from_numpy(np.asarray(x)) for x in batch)
    centre_logit, level_logit, evidence_logit, found = network.features(views)
    weight = weight * (weight > 0.2)
    total = weight.sum().clamp(min=1.0)
    balance = 1.0 + 3.0 * centre
    at = (nn.functional.binary_cross_entropy_with_logits(centre_logit, centre, reduction="none") * balance).mean()
    name = (nn.functional.cross_entropy(level_logit, level, reduction="none") * weight).sum() / total
    seen = nn.functional.binary_cross_entropy_with_logits(evidence_logit, evidence, reduction="none")
    seen = (seen * weight[:, None]).sum() / total
    off = nn.functional.smooth_l1_loss(found, offset, reduction="none", beta=2.0)
    off = (off * weight[:, None]).sum() / total
    loss = 3.0 * at + name + seen + 0.05 * off
    return loss, {"centre": at.item(), "name": name.item(), "seen": seen.item(), "offset": off.item()}


@torch.no_grad()
def judged(network: TwoView, scenes: list[Scene]) -> dict[str, float]:
    """Share of right names and evidence at the true centres, and rows from the nearest peak; windows by fixed seeds."""
    rng = np.random.default_rng(5)
    right: list[NDArray[np.bool_]] = []
    seen: list[NDArray[np.bool_]] = []
    height: list[NDArray[np.float64]] = []
    for scene in scenes:
        for rows in (72, 120, 240):
            window = draw_window(scene, rows, rng)
            centre, level, evidence, _ = network(torch.from_numpy(window.views[None]))
            at = np.flatnonzero(window.weight > 0.985)
            right.append(level[0].numpy().argmax(0)[at] == window.level[at])
            seen.append((evidence[0].numpy()[:, at] > 0.5) == (window.evidence[:, at] > 0.5))
            height.append(centre[0].numpy()[at].astype(np.float64))
    if not right:
        return {}
    evidence_right = np.concatenate(seen, axis=1).mean(axis=1)
    return {
        "names_right": float(np.concatenate(right).mean()),
        **{f"{name}_right": float(value) for name, value in zip(EVIDENCE, evidence_right, strict=True)},
        "centre_at_truth": float(np.concatenate(height).mean()),
    }


class BtrflyTask:
    """One training of the published network, on the same windows; see `train.Task`."""

    name = "labeller_btrfly"
    learning_rate = 2e-3
    batch = 6

    def __init__(self, cache: Path = CACHE) -> None:
        self._cache = cache
        self._source = WindowSource(cache / "train")

    def network(self) -> nn.Module:
        """A network with random weights."""
        return Btrfly()

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of windows."""
        batch = self._source.batch(rng, self.batch)
        views = torch.from_numpy(batch.views)
        rows = views.shape[2] - views.shape[2] % 4
        loss = torch.zeros(())
        for found, target in zip(network(views[:, :, :rows]), heat_maps(batch, rows), strict=True):
            loss = loss + 100.0 * ((found - target) ** 2 * (1.0 + 10.0 * target)).mean()
        return loss, {}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Share of right names at the true centres of held-out scenes, the windows of `judged`."""
        rng = np.random.default_rng(5)
        right = []
        for scene in (Scene.load(p) for p in scene_files(self._cache / "held_out")):
            for rows in (72, 120, 240):
                window = draw_window(scene, rows, rng)
                with torch.no_grad():
                    sagittal, coronal = network(torch.from_numpy(window.views[None]))
                score = sagittal[0, :NAMES].amax(2) * coronal[0, :NAMES].amax(2).clamp(min=0)
                at = np.flatnonzero(window.weight > 0.985)
                right.append(score.numpy().argmax(0)[at] == window.level[at])
        return {"names_right": float(np.concatenate(right).mean())} if right else {}


def heat_maps(batch: Window, rows: int) -> tuple[Tensor, Tensor]:
    """Targets (batch, 28, rows, 60) of the sagittal and coronal view: a Gaussian of 5 mm per name, and what is left."""
    centre, level = torch.from_numpy(batch.centre[:, :rows]), torch.from_numpy(batch.level[:, :rows])
    along = nn.functional.one_hot(level, NAMES).permute(0, 2, 1) * centre[:, None]
    out = []
    for axis, grid in ((1, DEPTH_MM), (0, ACROSS_MM)):
        place = torch.from_numpy(batch.offset_mm[:, axis, :rows])
        across = torch.exp(-0.5 * ((torch.from_numpy(grid).float() - place[..., None]) / 5.0) ** 2)
        maps = along[..., None] * across[:, None]
        out.append(torch.cat([maps, 1.0 - maps.amax(dim=1, keepdim=True)], dim=1))
    return out[0], out[1]


PREPROCESSING = (
    "Sample the corridor about the spine's centre line, straightened along z: rows of 2 mm towards the feet, 60 voxels "
    "of 2 mm from 72 mm in front of the line to 48 mm behind it, 60 voxels from 60 mm right to 60 mm left of it; means "
    "of whole voxels where the source is finer, -1024 where nothing was measured. Clip to [-300, 1300], subtract 200, "
    "divide by 300. Channels: sagittal maximum over 48 mm across the midline, sagittal mean over 20 mm, coronal "
    "maximum over all, coronal mean over 32 mm about the line."
)


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the last checkpoint into `folder`."""
    network, state = averaged_network("labeller")
    contract = Contract(
        name="labeller",
        version=VERSION,
        inputs={
            "views": {
                "dtype": "float32",
                "shape": [1, 4, "rows", 60],
                "meaning": "sagittal maximum and mean, coronal maximum and mean of the spine's corridor, 2 mm",
            }
        },
        outputs={
            "centre": {"dtype": "float32", "shape": [1, "rows"], "meaning": "probability of a vertebra's centre"},
            "level": {"dtype": "float32", "shape": [1, NAMES, "rows"], "meaning": ", ".join(LEVELS)},
            "evidence": {"dtype": "float32", "shape": [1, 3, "rows"], "meaning": "seen there: " + ", ".join(EVIDENCE)},
            "offset_mm": {"dtype": "float32", "shape": [1, 2, "rows"], "meaning": "centre minus line: left, back"},
        },
        dynamic={"views": {2: Dim("rows", min=16, max=1600)}},
        preprocessing=PREPROCESSING,
        provenance={
            "trained_on": "procedural phantoms (onnx_models/training/phantom) only; no real image",
            "steps": state["steps"],
            "seed": state["seed"],
            "begun_from": state["begun_from"],
            "source": "onnx_models/training/labeller_task.py",
        },
        card="labeller.md",
    )
    generator = torch.Generator().manual_seed(1)
    examples = [(torch.randn((1, 4, rows, 60), generator=generator),) for rows in (96, 41, 301)]
    return export_model(network, examples, contract, folder)
