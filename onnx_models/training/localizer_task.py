"""How the localizer is trained, judged on held-out phantoms, and exported.

Loss: mean absolute error of the soft-argmax to the curve (the paper's), of the whole map, which teaches it to have one
place, and near its mode, which is what is used; binary cross-entropy of the presence; and two terms on the map itself:
cross-entropy to a small Gaussian at the centre, which finds the spine sooner and fades as the training goes on, and
cross-entropy to a flat map where there is no spine, so that the peak says so too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from onnx_models import MODELS
from onnx_models.training.export import Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.localizer_data import (
    CACHE,
    SPACING_MM,
    Crop,
    CropSource,
    Scene,
    prepared,
    scene_files,
)
from onnx_models.training.localizer_generator import Generator
from onnx_models.training.localizer_network import Localizer, centre_of, local_centre_of, map_probability
from onnx_models.training.train import averaged_network

VERSION = "1.1.0"
TARGET_SIGMA_VOXELS = 1.5
FREEZE_AT = 0.15
"""Part of the training after which batch statistics stay as they are."""
HELD_OUT = 16
"""Scenes that are never trained on; the full evaluation is `evaluate.py`."""


class LocalizerTask:
    """One training of the localizer; see `train.Task`."""

    name = "localizer"
    learning_rate = 2e-3
    batch = 2

    def __init__(self, cache: Path = CACHE) -> None:
        self._cache = cache
        self._source = CropSource(cache / "train")
        self._generator = Generator(cache, held_out=HELD_OUT)

    def network(self) -> nn.Module:
        """A network with random weights, its channels last: a quarter faster on a CPU."""
        network = Localizer()
        return network.to(memory_format=torch.channels_last_3d)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of crops."""
        self._generator.keep_running()
        assert isinstance(network, Localizer)
        if progress > FREEZE_AT and not network.statistics_frozen:
            network.statistics_frozen = True
            network.train()
        batch = self._source.batch(rng, self.batch)
        return loss_of(network, batch, progress)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Error at the vertebra centres and per-slice presence on whole held-out phantoms."""
        assert isinstance(network, Localizer)
        scenes = [Scene.load(p) for p in scene_files(self._cache / "held_out")]
        return summary([judged(network, scene) for scene in scenes])


def loss_of(network: Localizer, batch: Crop, progress: float) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch and what it is made of."""
    volume = torch.from_numpy(batch.volume).contiguous(memory_format=torch.channels_last_3d)
    logits, presence = network.features(volume)
    b, d, h, w = logits.shape
    truth = torch.from_numpy(batch.centre)
    taught = torch.from_numpy(batch.taught)
    known = torch.from_numpy(batch.presence)
    probability = map_probability(logits)
    log_probability = torch.log_softmax(logits.reshape(b, d, h * w), dim=2)
    count = taught.sum().clamp(min=1)
    distance, near = (
        ((centre - truth).abs().sum(dim=2) * SPACING_MM * taught).sum() / count
        for centre in (centre_of(probability), local_centre_of(logits))
    )
    spread = -(target_map(truth, (h, w)).reshape(b, d, h * w) * log_probability).sum(2)
    spread = (spread * taught).sum() / count
    none = known == 0
    flat = ((-log_probability.mean(2) - np.log(h * w)) * none).sum() / none.sum().clamp(min=1)
    right = nn.functional.binary_cross_entropy_with_logits(presence, known.clamp(min=0), reduction="none")
    right = (right * (known >= 0)).sum() / (known >= 0).sum().clamp(min=1)
    map_weight = 1.0 - 0.8 * min(1.0, 2 * progress)
    loss = 0.05 * distance + 0.2 * near + map_weight * spread + 0.2 * flat + right
    return loss, {
        "distance_mm": distance.item(),
        "near_mm": near.item(),
        "spread": spread.item(),
        "flat": flat.item(),
        "presence": right.item(),
    }


def target_map(centre: Tensor, shape: tuple[int, int]) -> Tensor:
    """(batch, D, H, W): a Gaussian of `TARGET_SIGMA_VOXELS` around (batch, D, 2), each slice summing to one."""
    rows = torch.arange(shape[0], dtype=centre.dtype)
    columns = torch.arange(shape[1], dtype=centre.dtype)
    along = [
        torch.softmax(-((axis - centre[..., a, None]) ** 2) / (2 * TARGET_SIGMA_VOXELS**2), dim=-1)
        for a, axis in enumerate((rows, columns))
    ]
    return along[0][..., :, None] * along[1][..., None, :]


@torch.no_grad()
def judged(network: Localizer, scene: Scene) -> dict[str, NDArray[np.float64]]:
    """What the network says of a whole scene beside the truth: errors in mm at the vertebrae, presence per slice."""
    centre, peak, presence = (x[0].numpy() for x in network(torch.from_numpy(prepared(np.asarray(scene.hu)))))
    centre, peak, presence = (x[: len(scene.hu)].astype(np.float64) for x in (centre, peak, presence))
    index = np.arange(len(centre))
    at = scene.vertebrae[:, 0].astype(np.float64)
    found = np.stack([np.interp(at, index, centre[:, a]) for a in (0, 1)], axis=1)
    truth = np.isfinite(scene.centre[:, 0])
    return {
        "vertebra_mm": np.linalg.norm(found - scene.vertebrae[:, 1:], axis=1) * SPACING_MM,
        "slice_mm": np.linalg.norm(centre - scene.centre, axis=1)[truth] * SPACING_MM,
        "presence": presence,
        "peak": peak,
        "truth": truth.astype(np.float64),
    }


def summary(cases: list[dict[str, NDArray[np.float64]]]) -> dict[str, float]:
    """Numbers over all cases; empty where there is none."""
    if not cases:
        return {}
    joined = {key: np.concatenate([case[key] for case in cases]) for key in cases[0]}
    spine = joined["truth"] > 0
    out = {}
    for key in ("vertebra_mm", "slice_mm"):
        if joined[key].size:
            out[f"{key}_mean"] = float(joined[key].mean())
            out[f"{key}_p50"] = float(np.median(joined[key]))
            out[f"{key}_p95"] = float(np.percentile(joined[key], 95))
    for key in ("presence", "peak"):
        out[f"{key}_spine"] = float(joined[key][spine].mean()) if spine.any() else 0.0
        out[f"{key}_none"] = float(joined[key][~spine].mean()) if (~spine).any() else 0.0
    out["presence_right"] = float(((joined["presence"] > 0.5) == spine).mean())
    return out


PREPROCESSING = (
    "Resample to the canonical grid (slice towards the feet, row towards the back, column towards the left) at 3 mm, "
    "linear after smoothing where the source is finer; voxels without a measurement are -1024. Clip to [-1024, 2000]. "
    "Subtract the mean and divide by the standard deviation (at least 1) over all voxels of this grid. Only then pad "
    "each axis at its end to a multiple of 8 with the value that -1024 has become. centre is (row, column) in voxels, "
    "0 at the centre of the first one; cut the outputs back to the number of slices before padding."
)


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the last checkpoint into `folder`."""
    network, state = averaged_network("localizer")
    return export_network(network, state, folder)


def export_network(network: nn.Module, state: dict[str, Any], folder: Path) -> Exported:
    """Export a localizer; `state` is what its provenance says of its training."""
    float32 = "float32"
    contract = Contract(
        name="localizer",
        version=VERSION,
        inputs={
            "volume": {
                "dtype": float32,
                "shape": [1, 1, "depth", "height", "width"],
                "meaning": "3 mm canonical grid, normalised; each axis a multiple of 8",
            }
        },
        outputs={
            "centre": {"dtype": float32, "shape": [1, "depth", 2], "meaning": "soft-argmax (row, column), voxels"},
            "peak": {"dtype": float32, "shape": [1, "depth"], "meaning": "largest 3 x 3 probability mass, 0 to 1"},
            "presence": {"dtype": float32, "shape": [1, "depth"], "meaning": "probability of spine in the slice"},
        },
        dynamic={
            "volume": {
                2: 8 * Dim("depth_eighth", min=1, max=128),
                3: 8 * Dim("height_eighth", min=1, max=64),
                4: 8 * Dim("width_eighth", min=1, max=64),
            }
        },
        preprocessing=PREPROCESSING,
        provenance={
            "trained_on": "procedural phantoms (onnx_models/training/phantom) only; no real image",
            **state,
            "source": "onnx_models/training/localizer_task.py",
        },
        card="localizer.md",
    )
    shapes = ((48, 56, 64), (24, 40, 40), (72, 64, 48))
    generator = torch.Generator().manual_seed(1)
    examples = [(torch.randn((1, 1, *shape), generator=generator),) for shape in shapes]
    return export_model(network, examples, contract, folder)
