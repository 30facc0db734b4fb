"""The segmenter: a small 3D U-Net on the patch around one centroid (third module of Bukas et al. 2021).

Instance normalisation instead of batch normalisation: batches are of four patches, and running statistics of so few
were a source of error in another network here.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTHS = (8, 16, 32, 64)
"""Channels at 2, 4, 8 and 16 mm."""
CLASSES = 3
"""Background, body, posterior elements."""


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (inputs, outputs):
        layers += [
            nn.Conv3d(n, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class SegmenterNetwork(nn.Module):
    """(batch, 2, k, j, i) image and heat map to (batch, 3, k, j, i) probabilities; sizes are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((2, *WIDTHS[:-1]), WIDTHS, strict=True))
        self.pool = nn.MaxPool3d(2)
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in pairwise(WIDTHS))
        self.join = nn.ModuleList(_block(2 * a, a) for a in WIDTHS[:-1])
        self.head = nn.Conv3d(WIDTHS[0], CLASSES, 1)

    def logits(self, x: Tensor) -> Tensor:
        """What the softmax is made of."""
        levels = []
        for n, block in enumerate(self.down):
            x = block(x if n == 0 else self.pool(x))
            levels.append(x)
        for n in reversed(range(len(WIDTHS) - 1)):
            x = self.join[n](torch.cat([levels[n], self.up[n](x)], dim=1))
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities of background, body and posterior elements."""
        return torch.softmax(self.logits(x), dim=1)
