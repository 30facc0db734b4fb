"""How the detector is trained on the localizer's scenes, judged on held-out ones, and exported.

A crop of the localizer (3 mm, with its own field of view, noise, vessels and metal; cut so that the spine is in it,
truncated by its edge, or absent) is averaged to 6 mm. Loss: the squared error of the ridge, a Gaussian of 9 mm about
the centre line in each slice, weighted up on the ridge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from inference.canonical import network_input
from inference.detection import GRID_MM, MULTIPLE, DetectionSettings, SpineBox, box_of
from onnx_models.training.detector_network import Detector
from onnx_models.training.export import MODELS, Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.localizer_data import (
    CACHE,
    SPACING_MM,
    Crop,
    CropRanges,
    CropSource,
    Scene,
    scene_files,
)
from onnx_models.training.train import averaged_network

VERSION = "1.0.0"
SIGMA_MM = 9.0
FREEZE_AT = 0.3
RANGES = CropRanges(
    depths=(32, 48, 64, 96), sides=(48, 64, 80, 96, 112, 128), voxels=450_000, absent=0.14, truncated=0.10
)


class DetectorTask:
    """One training of the detector; see `train.Task`."""

    name = "detector"
    learning_rate = 2e-3
    batch = 2

    def __init__(self, cache: Path = CACHE) -> None:
        self._cache = cache
        self._source = CropSource(cache / "train", RANGES)

    def network(self) -> nn.Module:
        """A network with random weights, its channels last: a quarter faster on a CPU."""
        return Detector().to(memory_format=torch.channels_last_3d)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of crops."""
        assert isinstance(network, Detector)
        if progress > FREEZE_AT and not network.statistics_frozen:
            network.statistics_frozen = True
            network.train()
        volume, target, weight = at_six_mm(self._source.batch(rng, self.batch))
        found = network(volume.contiguous(memory_format=torch.channels_last_3d))
        squared = (found - target) ** 2
        loss = (squared * weight * (1.0 + 20.0 * target)).mean() * 50.0
        return loss, {"squared": squared.mean().item()}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Distance of the line to the vertebrae of held-out scenes, the part of them that it passes, false spines."""
        assert isinstance(network, Detector)
        return judged(network, [Scene.load(p) for p in scene_files(self._cache / "held_out")])


def at_six_mm(batch: Crop) -> tuple[Tensor, Tensor, Tensor]:
    """Input and ridge (batch, 1, D, H, W) at 6 mm and weight (batch, 1, D, 1, 1) of stacked crops at 3 mm."""
    volume = nn.functional.avg_pool3d(torch.from_numpy(np.asarray(batch.volume)), 2)
    volume = (volume - volume.mean((1, 2, 3, 4), keepdim=True)) / volume.std((1, 2, 3, 4), keepdim=True).clamp(min=0.05)
    shape = volume.shape[2:]
    presence = batch.presence.reshape(len(batch.presence), -1, 2)
    taught = batch.taught.reshape(presence.shape).all(axis=2)
    where = batch.centre.reshape(*presence.shape, 2).mean(axis=2) / 2 - 0.25  # (batch, D, 2) in voxels of 6 mm
    rows, columns = np.arange(shape[1])[:, None], np.arange(shape[2])[None, :]
    squared = (rows - where[..., 0, None, None]) ** 2 + (columns - where[..., 1, None, None]) ** 2
    ridge = np.exp(-0.5 * squared * (GRID_MM / SIGMA_MM) ** 2) * taught[..., None, None]
    known = (presence >= 0).all(axis=2) & (presence[..., 0] == presence[..., 1])
    as_tensor = [torch.from_numpy(a.astype(np.float32)) for a in (ridge, known)]
    return volume, as_tensor[0][:, None], as_tensor[1][:, None, :, None, None]


@torch.no_grad()
def judged(network: Detector, scenes: list[Scene]) -> dict[str, float]:
    """Figures over whole scenes; a vertebra is passed when the line comes within 15 mm of its centre."""
    distance: list[float] = []
    false_spines = empty = 0
    for scene in scenes:
        whole = torch.from_numpy(np.asarray(scene.hu, np.float32))[None, None]
        small = nn.functional.avg_pool3d(whole, 2)[0, 0].numpy()
        ridge = network(torch.from_numpy(network_input(small, MULTIPLE)))[0, 0].numpy()
        ridge = ridge[: small.shape[0], : small.shape[1], : small.shape[2]]
        box = box_of(ridge, np.zeros(3), (-1e4, 1e4), DetectionSettings())
        found = isinstance(box, SpineBox)
        if not len(scene.vertebrae):
            empty += 1
            false_spines += found
            continue
        for vertebra in scene.vertebrae:
            k, j, i = (vertebra - 0.5) * SPACING_MM
            if not isinstance(box, SpineBox):
                distance.append(np.inf)
                continue
            line = box.line_lps_mm[::-1]
            near = line[0, 2] - GRID_MM <= -k <= line[-1, 2] + GRID_MM
            off = np.hypot(*(np.interp(-k, line[:, 2], line[:, a]) - b for a, b in ((0, i), (1, j))))
            distance.append(float(off) if near else np.inf)
    values = np.array(distance)
    if not len(values):
        return {}
    passed = values < 15
    return {
        "passed": float(passed.mean()),
        "line_mm": float(values[passed].mean()) if passed.any() else float("nan"),
        "false_spines": float(false_spines / max(empty, 1)),
    }


PREPROCESSING = (
    "Resample to the canonical grid (slice towards the feet, row towards the back, column towards the left) at 6 mm: "
    "means of whole voxels where the source is finer, then linear; -1024 where nothing was measured. Clip to "
    "[-1024, 2000], subtract the mean and divide by the standard deviation (at least 1) over all voxels of this grid; "
    "only then pad each axis at its end to a multiple of 4 with the value that -1024 has become."
)


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the last checkpoint into `folder`."""
    network, state = averaged_network("detector")
    contract = Contract(
        name="detector",
        version=VERSION,
        inputs={
            "volume": {
                "dtype": "float32",
                "shape": [1, 1, "depth", "height", "width"],
                "meaning": "6 mm canonical grid; each axis a multiple of 4",
            }
        },
        outputs={
            "ridge": {
                "dtype": "float32",
                "shape": [1, 1, "depth", "height", "width"],
                "meaning": "Gaussian of 9 mm about the centre line of the vertebral bodies, 1 on it",
            }
        },
        dynamic={
            "volume": {
                2: 4 * Dim("depth_quarter", min=1, max=130),
                3: 4 * Dim("height_quarter", min=1, max=64),
                4: 4 * Dim("width_quarter", min=1, max=64),
            }
        },
        preprocessing=PREPROCESSING,
        provenance={
            "trained_on": "procedural phantoms (onnx_models/training/phantom) only; no real image",
            "steps": state["steps"],
            "seed": state["seed"],
            "source": "onnx_models/training/detector_task.py",
        },
        card="detector.md",
    )
    generator = torch.Generator().manual_seed(1)
    examples = [
        (torch.randn((1, 1, *shape), generator=generator),) for shape in ((24, 32, 28), (8, 40, 40), (64, 24, 32))
    ]
    return export_model(network, examples, contract, folder)
