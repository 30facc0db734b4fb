"""The networks that imagine a healthy vertebral body from its neighbours (Botros et al. 2022).

Both see the body masks of two neighbours above and two below on the common grid (`inference.abnormality`). The coarse
encoder-decoder answers at 5 mm, enlarged to 2.5 mm; the refining one sees context and coarse mask and adds detail. The
critic tells healthy bodies in their context from imagined ones; it teaches only and is not exported.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from inference.abnormality import BODY_SHAPE, CONTEXT_SHAPE, NEIGHBOURS

HALF_BODY = tuple(n // 2 for n in BODY_SHAPE)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1),
        nn.GroupNorm(4, outputs),
        nn.LeakyReLU(0.1),
    )


def middle(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The voxels of ``shape`` in the middle of (batch, channels, k, j, i)."""
    first = [(volume.shape[a + 2] - n) // 2 for a, n in enumerate(shape)]
    return volume[:, :, first[0] : first[0] + shape[0], first[1] : first[1] + shape[1], first[2] : first[2] + shape[2]]


class EncoderDecoder(nn.Module):
    """From the context at 2.5 mm through one vector to maps of the middle at 5 mm, (batch, outputs, 12, 12, 14).

    Healthy bodies differ in few ways: a fully connected decoder learns them in far fewer steps than a convolutional
    one, and costs less.
    """

    def __init__(self, inputs: int, width: int, latent: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.encoder = nn.Sequential(
            _convolution(inputs, width, 2), _convolution(width, 2 * width, 2), _convolution(2 * width, 2 * width, 2)
        )
        voxels = int(np.prod([n // 8 for n in CONTEXT_SHAPE]))
        self.vector = nn.Sequential(
            nn.Linear(2 * width * voxels, latent), nn.LeakyReLU(0.1), nn.Linear(latent, latent), nn.LeakyReLU(0.1)
        )
        self.decoder = nn.Linear(latent, outputs * int(np.prod(HALF_BODY)))

    def forward(self, context: Tensor) -> Tensor:
        vector = self.vector(self.encoder(context).flatten(1))
        return self.decoder(vector).reshape(-1, self.outputs, *HALF_BODY)


class CompletionNetwork(nn.Module):
    """Coarse and refined logits of the expected body, each (batch, 24, 24, 28)."""

    def __init__(self, width: int = 16, latent: int = 64, critic_width: int = 8) -> None:
        super().__init__()
        self.size = (width, latent, critic_width)
        channels, maps = len(NEIGHBOURS), 4
        self.coarse = EncoderDecoder(channels, width, latent, 1)
        self.refining = EncoderDecoder(channels + 1, width, latent, maps)
        self.detail = nn.Sequential(
            _convolution(channels + 1 + maps, 8), _convolution(8, 8), nn.Conv3d(8, 1, 3, padding=1)
        )
        self.critic = Critic(channels + 1, critic_width)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """``context`` (batch, 4, 64, 40, 32): occupancy, negative for a fractured neighbour."""
        coarse = self.coarse(context)
        coarse = interpolate(coarse, scale_factor=2.0, mode="trilinear", align_corners=False)
        told = coarse.detach()  # the coarse network learns from its own loss only
        margin = [(n - m) // 2 for n, m in zip(CONTEXT_SHAPE, BODY_SHAPE, strict=True)]
        around = [side for m in reversed(margin) for side in (m, m)]
        maps = self.refining(torch.cat([context, pad(torch.sigmoid(told), around)], dim=1))
        maps = interpolate(maps, scale_factor=2.0, mode="trilinear", align_corners=False)
        seen = torch.cat([middle(context, BODY_SHAPE), torch.tanh(0.25 * told), maps], dim=1)
        refined = told + self.detail(seen)
        return coarse[:, 0], refined[:, 0]


class Critic(nn.Module):
    """One number for each body (batch, 24, 24, 28) in its context: larger for healthy ones."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(inputs, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        )
        self.last = nn.Linear(4 * width, 1)

    def forward(self, context: Tensor, body: Tensor) -> Tensor:
        seen = torch.cat([middle(context, BODY_SHAPE), body[:, None]], dim=1)
        return self.last(self.layers(seen).mean(dim=(2, 3, 4)))[:, 0]


class ExpectedBody(CompletionNetwork):
    """What is exported: probabilities of the coarse and of the refined body."""

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(coarse, expected), each (batch, 24, 24, 28), 0 to 1."""
        coarse, refined = super().forward(context)
        return torch.sigmoid(coarse), torch.sigmoid(refined)


def occupancy_of(distance: Tensor, spacing_mm: float) -> Tensor:
    """Part of each voxel that lies within, from the signed distance (mm) at its centre."""
    return (0.5 - distance / spacing_mm).clamp(0.0, 1.0)
