"""How the shape-completion networks are trained, judged on held-out samples, and exported.

Losses (Botros et al. 2022, section 2): binary cross entropy of the coarse mask; for the refined mask the same, Dice,
and a Wasserstein GAN loss whose critic is held by a gradient penalty (Gulrajani et al. 2017, eq. 3). Coarse, refining
network and critic are parts of one module and take one step together: what each must not learn from is detached, so
that one optimiser and one checkpoint hold everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from inference.abnormality import BODY_SHAPE, CONTEXT_SHAPE, NETWORK
from onnx_models.training.completion_data import FOLDER, HELD_OUT, Batch, Samples, batch
from onnx_models.training.completion_network import CompletionNetwork, Critic, ExpectedBody
from onnx_models.training.export import MODELS, Contract, Exported
from onnx_models.training.export import export as export_model
from onnx_models.training.train import averaged_network

VERSION = "1.0.0"
REALISM_WEIGHT = 0.003
"""Weight of the critic's opinion beside cross entropy and Dice."""
REALISM_FROM = 0.25
"""Part of the training after which it counts: before, the critic has nothing to say."""
PENALTY_WEIGHT = 10.0


class CompletionTask:
    """One training of the shape completion; see `train.Task`."""

    name = NETWORK
    learning_rate = 2e-3
    batch = 8

    def __init__(
        self,
        folder: Path = FOLDER,
        held_out: Path = HELD_OUT,
        realism: float = REALISM_WEIGHT,
        told: bool = True,
    ) -> None:
        self._folder, self._held_out = folder, held_out
        self._samples: Samples | None = None
        self._realism, self._told = realism, told

    def network(self) -> nn.Module:
        """Networks with random weights."""
        return CompletionNetwork().to(memory_format=torch.channels_last_3d)

    def step(self, network: nn.Module, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        """One batch of healthy bodies in context."""
        assert isinstance(network, CompletionNetwork)
        if self._samples is None:
            self._samples = Samples.load(self._folder)
        realism = self._realism if progress >= REALISM_FROM else 0.0
        return loss_of(network, batch(self._samples, rng, self.batch, self._told), realism)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Dice of coarse and refined masks, and what the refined ones have too much, on held-out samples."""
        assert isinstance(network, CompletionNetwork)
        return judged(network, Samples.load(self._held_out))


def loss_of(network: CompletionNetwork, made: Batch, realism: float) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch and what it is made of; ``realism`` 0 leaves the critic out."""
    context = torch.from_numpy(made.context).to(memory_format=torch.channels_last_3d)
    body = torch.from_numpy(made.body)
    coarse, refined = network(context)
    expected = torch.sigmoid(refined)
    parts = {
        "coarse": binary_cross_entropy_with_logits(coarse, body),
        "refined": binary_cross_entropy_with_logits(refined, body),
        "dice": 1 - dice_of(expected, body).mean(),
    }
    loss = parts["coarse"] + parts["refined"] + 0.1 * parts["dice"]
    if realism:
        parts["critic"], parts["penalty"] = critic_loss(network.critic, context, body, expected.detach())
        frozen = {name: value.detach() for name, value in network.critic.named_parameters()}
        opinion = functional_call(network.critic, frozen, (context, expected)).mean()
        parts["opinion"] = opinion
        loss = loss + parts["critic"] + PENALTY_WEIGHT * parts["penalty"] - realism * opinion
    return loss, {key: float(value.detach()) for key, value in parts.items()}


def critic_loss(critic: Critic, context: Tensor, real: Tensor, imagined: Tensor) -> tuple[Tensor, Tensor]:
    """(Wasserstein loss of the critic, gradient penalty on mixtures of real and imagined bodies)."""
    distance = critic(context, imagined).mean() - critic(context, real).mean()
    share = torch.rand(len(real), 1, 1, 1)
    mixed = (share * real + (1 - share) * imagined).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(context, mixed).sum(), mixed, create_graph=True)
    return distance, (slope.flatten(1).norm(dim=1) - 1).square().mean()


def dice_of(a: Tensor, b: Tensor) -> Tensor:
    """(batch,) soft Dice of occupancies (batch, k, j, i)."""
    both = (a * b).sum(dim=(1, 2, 3))
    return (2 * both + 1) / (a.square().sum(dim=(1, 2, 3)) + b.square().sum(dim=(1, 2, 3)) + 1)


@torch.no_grad()
def judged(network: CompletionNetwork, samples: Samples, seed: int = 5, size: int = 10) -> dict[str, float]:
    """Mean Dice of both masks and the refined one's surplus per volume."""
    rng = np.random.default_rng(seed)
    coarse, refined, surplus = [], [], []
    for _ in range(max(1, len(samples.body) // size)):
        made = batch(samples, rng, min(size, len(samples.body)))
        body = torch.from_numpy(made.body)
        first, second = (torch.sigmoid(x) for x in network(torch.from_numpy(made.context)))
        coarse.append(float(dice_of(first, body).mean()))
        refined.append(float(dice_of(second, body).mean()))
        more = (second - body).clamp(min=0).sum(dim=(1, 2, 3)) / second.sum(dim=(1, 2, 3))
        surplus.append(float(more.mean()))
    return {
        "coarse_dice": float(np.mean(coarse)),
        "refined_dice": float(np.mean(refined)),
        "surplus": float(np.mean(surplus)),
    }


PREPROCESSING = (
    "Body masks of the two neighbours above (two up, one up) and below (one down, two down) on the common grid of "
    "inference.abnormality: 2.5 mm, index (k, j, i) towards the feet, the back and the left of the vertebra, centred "
    "on the centroid of the actual body mask; each voxel is the part of it that lies within (0 to 1), zero where there "
    "is no such neighbour, negative for a neighbour graded as fractured. coarse and expected are probabilities on the "
    "24 x 24 x 28 voxels in the middle of that grid."
)


def export(folder: Path = MODELS) -> Exported:
    """Export the averaged weights of the last checkpoint into `folder`."""
    network, state = averaged_network(NETWORK)
    assert isinstance(network, CompletionNetwork)
    return export_network(network, state, folder)


def export_network(network: CompletionNetwork, state: dict[str, Any], folder: Path) -> Exported:
    """Export coarse and refining network as one file; `state` is what their training says of itself."""
    shape = ["batch", *BODY_SHAPE]
    contract = Contract(
        name=NETWORK,
        version=VERSION,
        inputs={
            "context": {
                "dtype": "float32",
                "shape": ["batch", 4, *CONTEXT_SHAPE],
                "meaning": "body masks of the neighbours two up, one up, one down, two down; negative: fractured",
            }
        },
        outputs={
            "coarse": {"dtype": "float32", "shape": shape, "meaning": "probability of body, coarse network"},
            "expected": {"dtype": "float32", "shape": shape, "meaning": "probability of body, refined"},
        },
        dynamic={"context": {0: Dim("batch", min=1, max=64)}},
        preprocessing=PREPROCESSING,
        provenance={
            "trained_on": "unfractured bodies of procedural phantoms (onnx_models/training/phantom); no real image",
            **state,
            "source": "onnx_models/training/completion_task.py",
        },
        card="completion.md",
    )
    wrapped = ExpectedBody(*network.size)
    wrapped.load_state_dict(network.state_dict())
    return export_model(wrapped, [(_example(n),) for n in (2, 1, 5)], contract, folder)


def _example(size: int) -> Tensor:
    """Boxes where neighbours are, (size, 4, 64, 40, 32)."""
    context = torch.zeros(size, 4, *CONTEXT_SHAPE)
    for channel, middle in enumerate((11, 22, 42, 53)):
        context[: size - channel % 2, channel, middle - 4 : middle + 4, 14:26, 8:24] = 1.0
    return context
