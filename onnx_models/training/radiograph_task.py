"""How the networks for films are trained, judged on held-out films, and exported.

The whole-film network learns its maps with Dice and cross entropy. Those of the method's comparison learn bodies alone
with the Dice loss, as published; the learning rate falls along the loop's cosine instead of on plateaus, for every
network alike.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from onnx_models.training.export import MODELS, Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.film_data import FOLDER, LATERAL_VIEWS, VIEWS, StoredFilm
from onnx_models.training.film_look import clinical_look, sample_look, unlike_the_phantom
from onnx_models.training.metrics import dice_of
from onnx_models.training.radiograph_data import (
    FilmSource,
    Sample,
    repainted,
    sample,
    training_look,
    training_placement,
)
from onnx_models.training.radiograph_network import (
    MAPS,
    SIZE,
    ENet,
    MDR2UNet,
    R2UNet,
    SegNet,
    UNet,
    WholeFilmNetwork,
)
from onnx_models.training.radiograph_widening import widened
from onnx_models.training.train import averaged_network

VERSION, BODY_VERSION = "1.3.0", "1.0.0"
"""Of the whole-film network, and of the method's own."""
WIDE = (32, 64, 96, 128, 160, 192)
"""Channels of the network that ships, at 1 to 32 pixels: multiples of 32 cost a CPU with AMX half of what others do."""
RELOAD_STEPS = 50
POOL = 48
"""So many images are kept and shown again, turned about: one new image a step is enough, and a third of the time."""
FULL_FROM = 0.85
"""From this part of a training on batches are whole canvases; before, what is empty in all of a batch is cut off."""
UPSIDE_DOWN = 0.25
"""So many of the images of the pool are shown upside down: seldom seen, the side of the head would not be learnt."""
REPAINTED = 0.55
"""So many of the images of the pool have bodies of another brightness and other plates than the phantom's."""
SIDE = 32
"""Sides of what is cut are multiples of this many pixels."""
SHOWN = 24
"""So many held-out films are looked at in each evaluation."""
BODY_WEIGHT, CENTRE_WEIGHT, SACRUM_WEIGHT, VIEW_WEIGHT = 3.0, 1.5, 1.5, 0.3
FRONT_WEIGHT, HEAD_WEIGHT = 0.5, 1.0
EARLY, EARLY_FACTOR = 0.25, 6.0
"""For this part of a training front and head weigh so many times more: at their later weights neither is found out."""
CENTRE_CONTRAST, SACRUM_CONTRAST = 20.0, 10.0
"""How much more a pixel of a centre, or of S1, counts than one without."""


def dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 TP / (2 TP + FP + FN) over the whole batch (eq. 1 of the method), soft."""
    both = (probability * truth).sum()
    return 1 - (2 * both + 1) / (probability.sum() + truth.sum() + 1)


def whole_film_loss(
    maps: Tensor, views: Tensor, truth: Tensor, known: Tensor, view: Tensor, progress: float = 1.0
) -> tuple[Tensor, dict[str, float]]:
    """Loss of logits (batch, 5, rows, columns) and (batch, 6); front and head count where ``known`` (batch, 2, ...)."""
    maps, views = maps.float(), views.float()
    p = torch.sigmoid(maps)
    body = dice_loss(p[:, 0], truth[:, 0]) + binary_cross_entropy_with_logits(maps[:, 0], truth[:, 0])
    weight = 1 + CENTRE_CONTRAST * truth[:, 1]
    centre = binary_cross_entropy_with_logits(maps[:, 1], truth[:, 1], weight) + dice_loss(p[:, 1], truth[:, 1])
    weight = 1 + SACRUM_CONTRAST * truth[:, 2]
    sacrum = dice_loss(p[:, 2], truth[:, 2]) + binary_cross_entropy_with_logits(maps[:, 2], truth[:, 2], weight)
    front, head = (
        binary_cross_entropy_with_logits(maps[:, 3 + k], truth[:, 3 + k], known[:, k], reduction="sum")
        / (known[:, k].sum() + 1)
        for k in range(2)
    )
    kind = cross_entropy(views, view)
    loss = BODY_WEIGHT * body + CENTRE_WEIGHT * centre + SACRUM_WEIGHT * sacrum
    sides = FRONT_WEIGHT * front + HEAD_WEIGHT * head
    loss = loss + (EARLY_FACTOR if progress < EARLY else 1.0) * sides + VIEW_WEIGHT * kind
    parts = {"body": body, "centre": centre, "sacrum": sacrum, "front": front, "head": head, "view": kind}
    return loss, {k: float(v.detach()) for k, v in parts.items()}


def batch_of(samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(canvases (n, 1, 256, 256), maps (n, 5, ...), where front and head are known (n, 2, ...), views (n,))."""
    canvas = torch.from_numpy(np.stack([s.canvas for s in samples])[:, None])
    maps = torch.from_numpy(np.stack([s.maps for s in samples]))
    known = torch.from_numpy(np.stack([s.known for s in samples]))
    return canvas, maps, known, torch.tensor([s.view for s in samples])


def mirrored(shown: Sample, axis: int) -> Sample:
    """Rows (axis 0) or columns (1) run backwards: the head, or the front, lies towards the other end."""
    maps, known = np.flip(shown.maps, 1 + axis).copy(), np.flip(shown.known, 1 + axis).copy()
    which = 1 - axis
    maps[3 + which] = known[which] * (1 - maps[3 + which])
    return Sample(np.flip(shown.canvas, axis).copy(), maps, known, shown.view)


def turned_about(shown: Sample, rng: np.random.Generator) -> Sample:
    """The image mirrored or not, and upside down or not, at random."""
    for axis, share in ((0, UPSIDE_DOWN), (1, 0.5)):
        if rng.random() < share:
            shown = mirrored(shown, axis)
    return shown


def occupied(shown: Sample) -> tuple[int, int]:
    """(rows, columns) in the middle of the canvas, multiples of `SIDE`, that hold all that is not empty."""
    far = (np.abs(np.flatnonzero(shown.canvas.any(axis=1 - axis)) - SIZE / 2) for axis in (0, 1))
    rows, columns = (min(SIZE, SIDE * int(np.ceil(2 * f.max(initial=SIDE / 2) / SIDE))) for f in far)
    return rows, columns


def cut(shown: Sample, rows: int, columns: int) -> Sample:
    """The middle of an image."""
    r, c = (SIZE - rows) // 2, (SIZE - columns) // 2
    where = (..., slice(r, r + rows), slice(c, c + columns))
    return Sample(shown.canvas[where], shown.maps[where], shown.known[where], shown.view)


class _FilmTask:
    """What both kinds of task share: films, and held-out ones that are formed alike each time."""

    learning_rate = 2e-3
    batch = 4
    bfloat16 = True

    def __init__(self, folder: Path = FOLDER) -> None:
        self._source = FilmSource(folder / "train")
        self._held_out = folder / "held_out"
        self._steps = 0
        self._pool: list[tuple[Sample, tuple[int, int]]] = []

    def samples(self, rng: np.random.Generator, views: tuple[str, ...], progress: float) -> list[Sample]:
        """One batch of like shapes: the newest image with others of the pool, each turned about."""
        self._steps += 1
        if self._steps % RELOAD_STEPS == 0:
            self._source.reload()
        for _ in range(1 if self._pool else self.batch):
            film = self._source.draw(rng, views)
            look = training_look(rng, film.view, progress) or sample_look(rng, 0.06 if "chest" in film.view else 0.2)
            new = sample(film, rng, unlike_the_phantom(look, rng), training_placement(film, rng))
            if rng.random() < REPAINTED:
                new = repainted(new, rng)
            self._pool.append((new, occupied(new)))
        del self._pool[:-POOL]
        newest, box = self._pool[-1]
        others = [self._pool[n] for n in rng.permutation(len(self._pool) - 1)]
        others.sort(key=lambda other: other[1][0] > box[0] or other[1][1] > box[1])  # those that fit first
        chosen = [(newest, box), *others[: self.batch - 1]]
        boxes = [b for _, b in chosen] if progress < FULL_FROM else [(SIZE, SIZE)]
        rows, columns = (max(b[axis] for b in boxes) for axis in (0, 1))
        return [cut(turned_about(s, rng), rows, columns) for s, _ in chosen]

    def held_out(self) -> list[Sample]:
        """Held-out films, the same images every time; every second one has a readable look."""
        shown = []
        for n, path in enumerate(sorted(self._held_out.glob("*.npz"))[:SHOWN]):
            film, rng = StoredFilm.load(path), np.random.default_rng([17, n])
            shown.append(sample(film, rng, clinical_look(rng) if n % 2 else None))
        return shown


class WholeFilmTask(_FilmTask):
    """One training of the whole-film network; see `train.Task`."""

    name = "film"

    def network(self) -> nn.Module:
        """A network with random weights."""
        return WholeFilmNetwork(WIDE).to(memory_format=torch.channels_last)

    def fitted(self, state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Weights to begin with, of a narrower network as well."""
        return widened(state, network)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of every view."""
        assert isinstance(network, WholeFilmNetwork)
        canvas, maps, known, view = batch_of(self.samples(rng, VIEWS, progress))
        return whole_film_loss(*network.logits(canvas), maps, known, view, progress)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Dice of bodies and S1 (lateral films), part of views, fronts and heads that are right."""
        assert isinstance(network, WholeFilmNetwork)
        return judged(network, self.held_out())


@torch.no_grad()
def judged(network: nn.Module, samples: list[Sample]) -> dict[str, float]:
    """Numbers of `WholeFilmTask.evaluate`; empty without samples."""
    dice, sacrum, views, peaks = [], [], [], []
    sides: tuple[list[bool], list[bool]] = ([], [])
    for s in samples:
        *maps, view = (o[0].numpy() for o in network(torch.from_numpy(s.canvas[None, None])))
        body, centre, s1 = maps[:3]
        views.append(int(view.argmax()) == s.view)
        if VIEWS[s.view] not in LATERAL_VIEWS:
            continue
        dice.append(dice_of(body[0] > 0.5, s.maps[0] > 0.5))
        if s.maps[2].sum() > 20:
            sacrum.append(dice_of(s1[0] > 0.5, s.maps[2] > 0.5))
        for k in range(2):
            where = s.known[k] > 0
            if where.any():
                sides[k].append((maps[3 + k][0][where].mean() > 0.5) == (s.maps[3 + k][where].mean() > 0.5))
        if (s.maps[1] > 0.9).any():
            peaks.append(float(centre[0][s.maps[1] > 0.9].mean()))
    found = {"dice": dice, "sacrum_dice": sacrum, "view_right": views, "front_right": sides[0], "head_right": sides[1]}
    found |= {"centre_at_peak": peaks}
    return {k: float(np.mean(v)) for k, v in found.items() if v}


class BodyTask(_FilmTask):
    """One training of a network of the comparison: bodies alone, Dice loss."""

    learning_rate = 1e-3

    def __init__(self, name: str, make: Callable[[], nn.Module], folder: Path = FOLDER) -> None:
        super().__init__(folder)
        self.name = name
        self._make = make

    def network(self) -> nn.Module:
        """A network with random weights."""
        return self._make().to(memory_format=torch.channels_last)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of lateral films."""
        canvas, maps, _, _ = batch_of(self.samples(rng, LATERAL_VIEWS, progress))
        loss = dice_loss(torch.sigmoid(network(canvas)[:, 0].float()), maps[:, 0])
        return loss, {"dice": 1 - float(loss.detach())}

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mean Dice over held-out lateral films."""
        shown = [s for s in self.held_out() if VIEWS[s.view] in LATERAL_VIEWS]
        found = [network(torch.from_numpy(s.canvas[None, None]))[0, 0].numpy() > 0 for s in shown]
        dice = [dice_of(f, s.maps[0] > 0.5) for f, s in zip(found, shown, strict=True)]
        return {"dice": float(np.mean(dice))} if dice else {}


def unet_task() -> BodyTask:
    """U-Net of the comparison."""
    return BodyTask("film_unet", UNet)


def mdr2unet_task() -> BodyTask:
    """The method's network, at widths of 8 to 128 channels."""
    return BodyTask("film_mdr2unet", lambda: MDR2UNet(8))


def r2unet_task() -> BodyTask:
    """R2U-Net."""
    return BodyTask("film_r2unet", R2UNet)


def segnet_task() -> BodyTask:
    """SegNet."""
    return BodyTask("film_segnet", SegNet)


def enet_task() -> BodyTask:
    """E-Net."""
    return BodyTask("film_enet", ENet)


PREPROCESSING = (
    "Whole film, bone bright. Within the exposed field: percentiles .5 and 99.5 become 0 and 1, CLAHE (clip limit .01, "
    "8 x 8 tiles), Gaussian filter of half a canvas pixel; shrunk with the aspect kept so that the longer side has 256 "
    "pixels, in the middle of 256 x 256, 0 outside the field and the film."
)
RENDERED_ALONE = "films rendered from procedural phantoms; no real radiograph, no real CT"
_MAP = {"dtype": "float32", "shape": [1, 1, SIZE, SIZE]}
_MEANINGS = {
    "body": "probability of vertebral bodies C3 to L6 (projected mid-sagittal section)",
    "centre": "peak at the centre of each body",
    "sacrum": "probability of the body of S1",
    "front": "on the bodies: probability that the patient's front lies towards column 0",
    "head": "on the bodies: probability that the head lies towards row 0",
}


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the whole-film network's last checkpoint into `folder`."""
    network, state = averaged_network("film")
    return export_network(network, state, folder)


def export_mdr2unet(folder: Path = MODELS) -> Exported:
    """Likewise of the method's network, which tells bodies alone."""
    network, state = averaged_network("film_mdr2unet")
    return export_body_network(network, state, folder)


def export_network(network: nn.Module, state: dict[str, Any], folder: Path, version: str = VERSION) -> Exported:
    """Export a whole-film network; `state` is what its training says of itself.

    Its "trained_on" and "source" count, where a network saw other than films rendered from phantoms.
    """
    outputs = {name: {**_MAP, "meaning": _MEANINGS[name]} for name in MAPS}
    view = {"dtype": "float32", "shape": [1, len(VIEWS)], "meaning": "softmax: " + ", ".join(VIEWS)}
    contract = _contract("film", version, outputs | {"view": view}, state, "film.md")
    return _exported(network, contract, folder)


def export_body_network(network: nn.Module, state: dict[str, Any], folder: Path) -> Exported:
    """Export a network of bodies alone as "film_mdr2unet"."""
    outputs = {"body": {**_MAP, "meaning": _MEANINGS["body"]}}
    contract = _contract("film_mdr2unet", BODY_VERSION, outputs, state, "film_comparison.md")
    return _exported(BodyProbability(network), contract, folder)


class BodyProbability(nn.Module):
    """A network of logits as one of probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, film: Tensor) -> tuple[Tensor]:
        """(batch, 1, rows, columns)."""
        return (torch.sigmoid(self.network(film)),)


def _contract(
    name: str, version: str, outputs: dict[str, dict[str, Any]], state: dict[str, Any], card: str
) -> Contract:
    return Contract(
        name=name,
        version=version,
        inputs={"film": {**_MAP, "meaning": "prepared film, 0 to 1"}},
        outputs=outputs,
        dynamic={},
        preprocessing=PREPROCESSING,
        provenance={
            "trained_on": RENDERED_ALONE,
            "source": "onnx_models/training/radiograph_task.py",
            **state,
        },
        card=card,
    )


def _exported(network: nn.Module, contract: Contract, folder: Path) -> Exported:
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return export_model(network, [(_example(s),) for s in (1, 2)], contract, folder)


def _example(seed: int) -> Tensor:
    """A column of bright squares in noise, (1, 1, 256, 256)."""
    rng = np.random.default_rng(seed)
    film = rng.uniform(0.2, 0.4, (SIZE, SIZE)).astype(np.float32)
    for top in range(20, 230, 24):
        film[top : top + 18, 110:134] += 0.4
    return torch.from_numpy(film[None, None])
