"""How the key point network is trained, judged on held-out slabs, and exported.

Loss: that of Pisov et al. 2020 (eq. 3), BCE(objectness) + mean over vertebrae of MAE(e) / G, and what a first trial
found decisive for the shape: the three heights, and the ratios anterior/posterior and middle/posterior. A head that
tells body and sacrum from the rest teaches the features where end plates are; it is not exported. Those points, told
from the middle of a body, shrink a deformity towards the mean shape (slope of predicted on true loss .38 after 1,100
steps); a head that tells from each pixel the way to the nearest key point refines them where the end plate is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import binary_cross_entropy_with_logits

from inference.keypoints import ANCHORS, decode, normalised, refined
from onnx_models import MODELS
from onnx_models.training.export import Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.keypoints_crops import Batch, SlabSource
from onnx_models.training.keypoints_data import FOLDER, MARGIN, POSITIVE, UNTAUGHT, Slab
from onnx_models.training.keypoints_network import NEARBY_MM, PLANES, KeypointNetwork
from onnx_models.training.train import averaged_network

VERSION = "1.0.0"
HELD_OUT = FOLDER.parent / "held_out"
OBJECTNESS_WEIGHT = 1.0
POINT_WEIGHT = 2.0
HEIGHT_WEIGHT_PER_MM = 0.1
SHAPE_WEIGHT = 1.0
TISSUE_WEIGHT = 0.5
NEARBY_WEIGHT_PER_MM = 0.3
USUAL_G = 0.85
"""Vertebrae of a lower G weigh more in the losses on heights and shape, with the third power up to 6 times: they are
rare, and those losses alone keep them from the mean shape."""
MAX_POSITIVES = 6000
"""So many positive anchors of a batch, drawn at random, teach the points: neighbouring ones say the same."""
NEARBY_SAMPLES = 40
"""So many pixels around each key point are taught in a batch."""
MATCH_MM = 8.0
"""A detection belongs to a vertebra when their centres are this near."""


class KeypointsTask:
    """One training of the key point network; see `train.Task`."""

    name = "keypoints"
    learning_rate = 2e-3
    batch = 8

    def __init__(self, folder: Path = FOLDER, held_out: Path = HELD_OUT) -> None:
        self._source = SlabSource(folder)
        self._held_out = held_out

    def network(self) -> nn.Module:
        """A network with random weights."""
        return KeypointNetwork()

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of crops."""
        assert isinstance(network, KeypointNetwork)
        return loss_of(network, self._source.batch(rng, self.batch))

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Detection and heights on whole held-out slabs."""
        assert isinstance(network, KeypointNetwork)
        return judged(network, [Slab.load(p) for p in sorted(self._held_out.glob("*.npz"))])


def loss_of(network: KeypointNetwork, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch and what it is made of."""
    found = network.features(torch.from_numpy(batch.image))
    p = batch.positives
    image, anchor, row, column, owner = (torch.from_numpy(np.asarray(i)) for i in p[:5])
    truth = torch.zeros_like(found.objectness)
    truth[image, anchor, row, column] = 1.0
    every = binary_cross_entropy_with_logits(found.objectness, truth, reduction="none")
    count = max(len(p.image), 2000)
    objectness = (every * torch.from_numpy(batch.taught)).sum() / count
    tissue = _tissue_loss(found.tissue, torch.from_numpy(batch.tissue))
    parts = {"objectness": objectness, "tissue": tissue}
    loss = OBJECTNESS_WEIGHT * objectness + TISSUE_WEIGHT * tissue
    if len(p.image):
        chosen = torch.randperm(len(image))[:MAX_POSITIVES]
        image, anchor, row, column, owner = (i[chosen] for i in (image, anchor, row, column, owner))
        size = torch.from_numpy(ANCHORS.astype(np.float32))[anchor]
        encoded = network.keypoints_at(found.hidden[image, :, row, column], anchor).reshape(-1, 6, 2)
        points = torch.from_numpy(p.points)[owner]
        centre = torch.stack([column, row], dim=1).float()
        target = (points.flip(2) - centre[:, None]) / size[:, None]
        mean = _MeanPerVertebra(owner, len(p.points))
        heights, true_heights = heights_of(encoded * size[:, None]), heights_of(points.flip(2))
        g = _g_of(points.flip(2))
        every_g = _g_of(torch.from_numpy(p.points).flip(2))
        parts["nearby_mm"] = _nearby_loss(found.nearby, torch.from_numpy(p.points), torch.from_numpy(p.owner), every_g)
        parts["points"] = mean((encoded - target).abs().mean(dim=(1, 2)) / g)
        weight = _weight_of(g)
        parts["heights_mm"] = mean(weight * (heights - true_heights).abs().mean(dim=1))
        parts["shape"] = mean(weight * (ratios_of(heights) - ratios_of(true_heights)).abs().mean(dim=1))
        loss = loss + POINT_WEIGHT * parts["points"] + HEIGHT_WEIGHT_PER_MM * parts["heights_mm"]
        loss = loss + SHAPE_WEIGHT * parts["shape"] + NEARBY_WEIGHT_PER_MM * parts["nearby_mm"]
    return loss, {key: float(value.detach()) for key, value in parts.items()}


def _g_of(points: Tensor) -> Tensor:
    """(n,) G = min / max of the heights of points (n, 6, 2)."""
    heights = heights_of(points)
    return heights.amin(dim=1) / heights.amax(dim=1)


def _weight_of(g: Tensor) -> Tensor:
    return (USUAL_G / g).pow(3).clamp(min=1.0, max=6.0)


def _nearby_loss(nearby: Tensor, points: Tensor, image: Tensor, g: Tensor) -> Tensor:
    """Mean error in mm of the way to each key point, told at the pixels around it.

    ``nearby`` (batch, 12, rows, columns), ``points`` (n, 6, 2) as (row, column), ``image`` (n,), ``g`` (n,).
    """
    reach = torch.arange(-int(NEARBY_MM), int(NEARBY_MM) + 1)
    offset = torch.cartesian_prod(reach, reach)
    offset = offset[offset.square().sum(dim=1) <= NEARBY_MM**2]
    offset = offset[torch.randperm(len(offset))[:NEARBY_SAMPLES]]
    pixel = points.round().long()[:, :, None, :] + offset
    shape = torch.tensor(nearby.shape[2:])
    inside = ((pixel >= 0) & (pixel < shape)).all(dim=3)
    pixel = torch.minimum(pixel.clamp(min=0), shape - 1)
    way = (points[:, :, None, :] - pixel).flip(3)
    kind = torch.arange(6)[None, :, None]
    at = (image[:, None, None], pixel[..., 0], pixel[..., 1])
    told = torch.stack([nearby.permute(0, 2, 3, 1)[(*at, 2 * kind + axis)] for axis in (0, 1)], dim=3)
    error = (told - way).abs().mean(dim=3) * _weight_of(g)[:, None, None]
    return (error * inside).sum() / inside.sum().clamp(min=1)


class _MeanPerVertebra:
    """Mean over the positives of each vertebra, then over the vertebrae: all vertebrae count alike."""

    def __init__(self, owner: Tensor, vertebrae: int) -> None:
        count = torch.bincount(owner, minlength=vertebrae).float()
        self._weight = 1.0 / (count[owner] * (count > 0).sum())

    def __call__(self, values: Tensor) -> Tensor:
        return (values * self._weight).sum()


def _tissue_loss(logits: Tensor, tissue: Tensor) -> Tensor:
    truth = torch.stack([tissue == 1, tissue == 2], dim=1).float()
    return binary_cross_entropy_with_logits(logits, truth, pos_weight=torch.tensor([1.0, 4.0]).reshape(1, 2, 1, 1))


def heights_of(points: Tensor) -> Tensor:
    """(n, 3) anterior, middle and posterior height of points (n, 6, 2)."""
    return (points[:, 0::2] - points[:, 1::2]).square().sum(dim=2).add(1e-4).sqrt()


def ratios_of(heights: Tensor) -> Tensor:
    """(n, 2) log of anterior/posterior and middle/posterior."""
    logs = heights.clamp(min=2.0).log()
    return logs[:, :2] - logs[:, 2:]


@torch.no_grad()
def judged(network: KeypointNetwork, slabs: list[Slab]) -> dict[str, float]:
    """Recall, precision, errors of points and heights in mm on whole slabs; empty where there is none."""
    found = missed = false = 0
    point, height, shape = [], [], []
    true_g, said_g = [], []
    for slab in slabs:
        image = torch.from_numpy(normalised(slab.hu[None, :, :, MARGIN:-MARGIN]))
        objectness, keypoints, nearby = (x[0].numpy() for x in network(image))
        detections = [refined(d, nearby) for d in decode(objectness, keypoints) if d.confidence > 0.5]
        truth = slab.points.astype(np.float64) - [0, MARGIN]
        free = list(range(len(detections)))
        for points, kind in zip(truth, slab.kind, strict=True):
            near = [i for i in free if np.linalg.norm(detections[i].centre - points.mean(axis=0)) < MATCH_MM]
            if kind == UNTAUGHT:
                free = [i for i in free if i not in near]
            if kind != POSITIVE:
                continue
            if not near:
                missed += 1
                continue
            free.remove(near[0])
            found += 1
            said = detections[near[0]].points
            point.append(np.linalg.norm(said - points, axis=1).mean())
            a, b = (np.linalg.norm(q[0::2] - q[1::2], axis=1) for q in (said, points))
            height.append(np.abs(a - b).mean())
            shape.append(abs(a.min() / a.max() - b.min() / b.max()))
            true_g.append(b.min() / b.max())
            said_g.append(a.min() / a.max())
        false += len(free)
    if not found:
        return {"recall": 0.0, "false": float(false)}
    low = np.array(true_g) <= 0.8
    return {
        "recall": found / (found + missed),
        "precision": found / (found + false),
        "point_mm": float(np.mean(point)),
        "height_mm": float(np.mean(height)),
        "g_error": float(np.mean(shape)),
        "g_error_low": float(np.mean(np.array(shape)[low])) if low.any() else 0.0,
        "g_correlation": float(np.corrcoef(true_g, said_g)[0, 1]) if found > 2 else 0.0,
    }


PREPROCESSING = (
    "Straightened picture (inference.straightening): 1 mm pixels, rows head to feet, 80 columns front to back with the "
    "centre line between columns 39 and 40, channels are the sagittal planes -6, -3, 0, 3 and 6 mm from the surface "
    "x = f(z), right to left; -1024 HU outside the volume. HU are cut to [-200, 1000], minus 150, divided by 200. The "
    "number of rows is a multiple of 16. Anchors (16): scales 17, 23, 28, 35 mm, for each the ratios 0.8, 1.1, 1.3, 2 "
    "= width / height, area scale squared. keypoints holds (e_x, e_y) of the six points in the order anterior, middle, "
    "posterior, each superior then inferior; g_x = column + e_x * width, g_y = row + e_y * height."
)


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the last checkpoint into `folder`."""
    network, state = averaged_network("keypoints")
    return export_network(network, state, folder)


def export_network(network: nn.Module, state: dict[str, Any], folder: Path) -> Exported:
    """Export a key point network; `state` is what its provenance says of its training."""
    float32, boxes = "float32", len(ANCHORS)
    contract = Contract(
        name="keypoints",
        version=VERSION,
        inputs={
            "image": {
                "dtype": float32,
                "shape": [1, PLANES, "rows", "columns"],
                "meaning": "straightened sagittal slab, 1 mm pixels, normalised; rows and columns multiples of 16",
            }
        },
        outputs={
            "objectness": {
                "dtype": float32,
                "shape": [1, boxes, "rows", "columns"],
                "meaning": "probability that a whole vertebra fills the anchor at this pixel",
            },
            "keypoints": {
                "dtype": float32,
                "shape": [1, boxes, 12, "rows", "columns"],
                "meaning": "(e_x, e_y) of the six key points relative to the anchor",
            },
            "nearby": {
                "dtype": float32,
                "shape": [1, 12, "rows", "columns"],
                "meaning": "(x, y) in pixels from this pixel to the nearest key point of each kind, within 7 mm of one",
            },
        },
        dynamic={
            "image": {2: 16 * Dim("row_sixteenth", min=1, max=256), 3: 16 * Dim("column_sixteenth", min=1, max=32)}
        },
        preprocessing=PREPROCESSING,
        provenance={
            "trained_on": "procedural phantoms (onnx_models/training/phantom) only; no real image",
            **state,
            "source": "onnx_models/training/keypoints_task.py",
        },
        card="keypoints.md",
    )
    examples = [(_example(rows),) for rows in (224, 96, 640)]
    return export_model(network, examples, contract, folder)


def _example(rows: int) -> Tensor:
    """Bright bodies in noise, (1, planes, rows, 80): on noise alone objectness is all but 0, and its parity too."""
    rng = np.random.default_rng(rows)
    hu = rng.normal(60, 20, (PLANES, rows, 80))
    for top in range(8, rows - 24, 30):
        hu[:, top : top + 23, 24:54] += 150
        hu[:, top : top + 23 : 22, 24:54] += 250
    return torch.from_numpy(normalised(hu[None]))
