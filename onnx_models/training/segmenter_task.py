"""How the segmenter is trained, judged on held-out phantoms, and exported.

Every batch is half phantoms, half real shapes: shapes alone cost Dice on phantoms, phantoms alone on real images. The
loss is cross entropy with soft truth, soft Dice of vertebra, body and posterior elements, and the error of their
volumes. The network normalises by the whole patch, so it is taught whole patches: taught on parts of them, it gave
bodies 1.2 to 1.6 times as large on whole ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from inference.masks_patch import CENTRE, SHAPE, STEP_MM, heat_map, normalised
from onnx_models.training.export import MODELS, Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.segmenter_data import FOLDER, MARGIN, Patch, read
from onnx_models.training.segmenter_network import CLASSES, SegmenterNetwork
from onnx_models.training.train import averaged_network

VERSION = "1.1.0"
HELD_OUT = FOLDER / "held_out"
ENTROPY_WEIGHT, VOLUME_WEIGHT = 0.3, 0.3
SOURCES = ("phantom", "shapes")
JITTER_MM = 4.0
"""Root mean square distance by which the centroid is misplaced."""
SCALES = (0.86, 1.25)
"""Factors by which a patch is made smaller or larger; a smaller one than the first would show what lies outside it."""
SMALLEST = 50.0
"""Voxels (.4 ml) added where volumes are compared: what the view has cut to nearly nothing is not worth more."""
RELOAD_STEPS = 60
"""The folder is read again so often: patches may still be made while the training runs."""
SHOWN = 24
"""So many held-out patches are looked at in each evaluation."""


class PatchSource:
    """Patches of some sources from a folder, and training batches of them."""

    def __init__(self, folder: Path, sources: tuple[str, ...] = SOURCES) -> None:
        self._folder = folder
        self._seen: set[Path] = set()
        self.patches: dict[str, list[Patch]] = {source: [] for source in sources}
        self.reload()

    def reload(self) -> None:
        """Take in the files that are new."""
        for path in sorted(self._folder.glob("*_?????.npz")):
            if path not in self._seen and path.stem.split("_")[0] in self.patches:
                self.patches[path.stem.split("_")[0]] += read([path])
                self._seen.add(path)

    def batch(self, rng: np.random.Generator, each: int) -> tuple[Tensor, Tensor]:
        """(images (n, 2, *SHAPE), truth (n, 3, *SHAPE)), ``each`` patches of every source that has any."""
        chosen = [p[int(rng.integers(len(p)))] for p in self.patches.values() if p for _ in range(each)]
        if not chosen:
            raise FileNotFoundError(
                f"no patches in {self._folder}: python -m onnx_models.training.segmenter_generator phantom"
            )
        seen = [varied(rng, p) for p in chosen]
        return torch.from_numpy(np.stack([s[0] for s in seen])), torch.from_numpy(np.stack([s[1] for s in seen]))


def varied(rng: np.random.Generator, patch: Patch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A patch with its centroid misplaced, of another size, mirrored, in other greys, now and then cut by the view."""
    shift = np.clip(np.rint(rng.normal(0, JITTER_MM / STEP_MM / np.sqrt(3), 3)), -MARGIN, MARGIN).astype(int)
    image, truth = cropped(patch, shift) if rng.random() < 0.3 else _scaled(rng, patch, shift)
    if rng.random() < 0.5:
        image, truth = image[..., ::-1], truth[..., ::-1]
    hu = image * rng.uniform(0.85, 1.15) + rng.uniform(-25, 25)
    drawn = rng.random()
    if drawn < 0.25:
        hu = ndimage.gaussian_filter(hu, rng.uniform(0.2, 0.6))
    elif drawn < 0.45:
        hu = hu + rng.normal(0, rng.uniform(5, 40), hu.shape)
    if rng.random() < 0.15:  # the field of view ends above or below
        cut = int(rng.integers(4, SHAPE[0] - 4))
        lost = slice(0, cut) if rng.random() < 0.5 and cut < 14 else slice(max(cut, 20), None)
        hu[lost], truth[:, lost] = -1024, 0
        truth[0, lost] = 1
    return np.stack([normalised(hu), heat_map()]), np.ascontiguousarray(truth)


def cropped(patch: Patch, shift: NDArray[np.int_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(HU `SHAPE`, truth (3, *SHAPE)) of the network's patch, moved by ``shift`` voxels."""
    box = tuple(slice(MARGIN + int(s), MARGIN + int(s) + n) for s, n in zip(shift, SHAPE, strict=True))
    body, posterior = (np.asarray(x[box], np.float32) / 255 for x in (patch.body, patch.posterior))
    return np.asarray(patch.hu[box], np.float32), np.stack([np.clip(1 - body - posterior, 0, 1), body, posterior])


def _scaled(
    rng: np.random.Generator, patch: Patch, shift: NDArray[np.int_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`cropped`, but everything in the patch of another size, a little different along each axis."""
    one = np.exp(rng.uniform(*np.log(SCALES)))
    scale = np.clip(one * np.exp(rng.normal(0, 0.04, 3)), *SCALES)
    centre = np.array(CENTRE)
    offset = MARGIN + centre - centre / scale + shift

    def made(values: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(
            ndimage.affine_transform(
                np.asarray(values, np.float32), 1 / scale, offset, output_shape=SHAPE, order=1, mode="nearest"
            ),
            np.float32,
        )

    body, posterior = made(patch.body) / 255, made(patch.posterior) / 255
    return made(patch.hu), np.stack([np.clip(1 - body - posterior, 0, 1), body, posterior])


def loss_of(logits: Tensor, truth: Tensor, volume_weight: float = VOLUME_WEIGHT) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch and what it is made of."""
    cross = -(truth * torch.log_softmax(logits, dim=1)).sum(dim=1)
    # per voxel of vertebra, so that a small one counts as much as a large one
    size = truth[:, 1:].sum(dim=(1, 2, 3, 4))
    entropy = (cross.sum(dim=(1, 2, 3)) / (size + SMALLEST)).mean()
    p = torch.softmax(logits, dim=1)
    regions = [(p[:, 1:].sum(1), truth[:, 1:].sum(1)), (p[:, 1], truth[:, 1]), (p[:, 2], truth[:, 2])]
    dice, volume = [], []
    for said, true in regions:
        both = (said * true).sum(dim=(1, 2, 3))
        mine, its = said.sum(dim=(1, 2, 3)), true.sum(dim=(1, 2, 3))
        dice.append(1 - ((2 * both + 1) / (mine + its + 1)).mean())
        volume.append(smooth_l1_loss(torch.log(mine + SMALLEST), torch.log(its + SMALLEST), beta=0.1))
    overlap = dice[0] + 0.5 * dice[1] + 0.5 * dice[2]
    off = volume[0] + 0.5 * volume[1] + 0.5 * volume[2]
    loss = overlap + ENTROPY_WEIGHT * entropy + volume_weight * off
    return loss, {"entropy": float(entropy.detach()), "dice": float(dice[0].detach()), "volume": float(off.detach())}


class SegmenterTask:
    """One training of the segmenter; see `train.Task`."""

    name = "segmenter"
    learning_rate = 3e-3
    each = 1

    def __init__(
        self,
        folder: Path = FOLDER / "patches",
        held_out: Path = HELD_OUT,
        sources: tuple[str, ...] = SOURCES,
        volume_weight: float = VOLUME_WEIGHT,
    ) -> None:
        self._source = PatchSource(folder, sources)
        self._volume_weight = volume_weight
        self._held_out = held_out
        self._steps = 0

    def network(self) -> nn.Module:
        """A network with random weights."""
        return SegmenterNetwork().to(memory_format=torch.channels_last_3d)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch."""
        assert isinstance(network, SegmenterNetwork)
        self._steps += 1
        if self._steps % RELOAD_STEPS == 0:
            self._source.reload()
        image, truth = self._source.batch(rng, self.each * len(SOURCES) // len(self._source.patches))
        logits = network.logits(image.contiguous(memory_format=torch.channels_last_3d))
        return loss_of(logits, truth, self._volume_weight)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Dice at .5 and ratio of volumes on held-out phantoms."""
        assert isinstance(network, SegmenterNetwork)
        patches = read(sorted(self._held_out.glob("held-out_*.npz")))[:SHOWN]
        return judged(network, patches) if patches else {}


@torch.no_grad()
def judged(network: nn.Module, patches: list[Patch]) -> dict[str, float]:
    """Mean Dice of vertebra and body, and mean ratio of predicted to true volume."""
    dice, body, ratio = [], [], []
    for patch in patches:
        hu, truth = cropped(patch, np.zeros(3, int))
        p = network(torch.from_numpy(np.stack([normalised(hu), heat_map()]))[None])[0].numpy()
        whole, true = p[0] < 0.5, truth[0] < 0.5
        dice.append(2 * (whole & true).sum() / max(1, whole.sum() + true.sum()))
        inner, true_inner = p[1] > 0.5, truth[1] > 0.5
        body.append(2 * (inner & true_inner).sum() / max(1, inner.sum() + true_inner.sum()))
        ratio.append((1 - p[0]).sum() / (1 - truth[0]).sum())
    return {"dice": float(np.mean(dice)), "body_dice": float(np.mean(body)), "volume_ratio": float(np.mean(ratio))}


PREPROCESSING = (
    "Patch around one centroid, axis-aligned, 2 mm: axis 2 head to feet, 3 front to back, 4 right to left; centroid "
    "at index (16, 15, 23.5). Each voxel is the mean of four trilinear samples at (+,+,+), (+,-,-), (-,+,-), (-,-,+) "
    "0.5 mm from its centre; -1024 HU outside. Channel 0: HU cut to [-200, 1000], minus 150, divided by 200. "
    "Channel 1: a Gaussian of 8 mm around the centroid, 1 at its centre."
)


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the last checkpoint into `folder`."""
    network, state = averaged_network("segmenter")
    return export_network(network, state, folder)


def export_network(network: nn.Module, state: dict[str, Any], folder: Path) -> Exported:
    """Export a segmenter; `state` is what its training says of itself."""
    contract = Contract(
        name="segmenter",
        version=VERSION,
        inputs={
            "patch": {"dtype": "float32", "shape": [1, 2, *SHAPE], "meaning": "image and heat map of the centroid"}
        },
        outputs={
            "probability": {
                "dtype": "float32",
                "shape": [1, CLASSES, *SHAPE],
                "meaning": "softmax: background, body, posterior elements of the vertebra of interest",
            }
        },
        dynamic={},
        preprocessing=PREPROCESSING,
        provenance={
            "trained_on": "procedural phantoms, and shapes of one label map (bone-cement-bukas, MIT) with made-up "
            "intensities; no real image",
            **state,
            "source": "onnx_models/training/segmenter_task.py",
        },
        card="segmenter.md",
    )
    return export_model(
        network.to(memory_format=torch.contiguous_format), [(_example(s),) for s in (1, 2)], contract, folder
    )


def _example(seed: int) -> Tensor:
    """A bright body with a shell in noise, (1, 2, *SHAPE)."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(60, 20, SHAPE)
    hu[10:23, 7:24, 13:34] += 400
    hu[12:21, 9:22, 15:32] -= 250
    return torch.from_numpy(np.stack([normalised(hu), heat_map()])[None])
