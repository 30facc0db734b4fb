"""The network that sees one vertebral body of a film, upright and near, and tells its six points.

A small U-Net at half the crop's fineness draws one heat map for each point; the point is the mean of its map (soft
argmax), so that it lies between pixels, and its loss reaches the map (Nibali et al. 2018). A further head, which
teaches the rest nothing, tells how far off each height may be.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

from inference.film_points import CHANNELS, SIZE

WIDTHS = (16, 32, 64, 96)
"""Channels at 2, 4, 8 and 16 pixels of the crop."""
STRIDE = 2
CELLS = SIZE // STRIDE
POINTS, HEIGHTS = 6, 3
LEAST_SPREAD = 0.05
"""Pixels of the crop."""


class BodyPoints(NamedTuple):
    """What is told of each crop.

    Attributes
    ----------
    points
        (batch, 6, 2), (row, column) index in the crop.
    logs
        (batch, 6, cells, cells): logarithm of each heat map, which sums to 1.
    spread
        (batch, 3): expected absolute error of the anterior, middle and posterior height, in pixels of the crop.
    """

    points: Tensor
    logs: Tensor
    spread: Tensor


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, padding: int | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2 if padding is None else padding, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.05),
        nn.LeakyReLU(0.1, inplace=True),
    )


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs))


class BodyPointsNetwork(nn.Module):
    """(batch, `CHANNELS`, `SIZE`, `SIZE`) crops to points (batch, 6, 2) and spreads (batch, 3)."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        # each cell lies in the middle of four pixels
        self.stem = nn.Sequential(_conv(CHANNELS, widths[0], 4, STRIDE, padding=1), _conv(widths[0], widths[0]))
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise(widths))
        self.bottom = _conv(widths[-1], widths[-1])
        self.lift = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.join = nn.ModuleList(_double(2 * a, a) for a in widths[:-1])
        self.maps = nn.Conv2d(widths[0], POINTS, 1)
        self.doubt = nn.Sequential(nn.Linear(2 * widths[-1] + POINTS, 32), nn.LeakyReLU(0.1), nn.Linear(32, HEIGHTS))
        nn.init.constant_(self.doubt[2].bias, 3.0)  # pixels: an untaught network is not sure
        self.register_buffer("at", STRIDE * torch.arange(CELLS, dtype=torch.float32) + (STRIDE - 1) / 2)
        self.register_buffer("widening", torch.ones(1))
        """What spreads are multiplied with, set on held-out films: errors there are larger than in the training."""

    def features(self, crops: Tensor) -> BodyPoints:
        """Everything that is taught."""
        film, maps = crops[:, :1], crops[:, 1:]
        film = film - film.mean(dim=(2, 3), keepdim=True)
        film = film / (film.square().mean(dim=(2, 3), keepdim=True).sqrt() + 0.02)
        x = self.stem(torch.cat([film, 2 * maps - 1], dim=1))
        levels = [x]
        for block in self.down:
            x = block(nn.functional.max_pool2d(x, 2))
            levels.append(x)
        x = deepest = self.bottom(x)
        for n in reversed(range(len(self.join))):
            wider = interpolate(self.lift[n](x), scale_factor=2.0, mode="nearest")
            x = self.join[n](torch.cat([levels[n], wider], dim=1))
        logs = self.maps(x).float().flatten(2).log_softmax(dim=2)
        maps = logs.exp().unflatten(2, (CELLS, CELLS))
        rows, columns = maps.sum(dim=3), maps.sum(dim=2)
        points = torch.stack([(rows * self.at).sum(dim=2), (columns * self.at).sum(dim=2)], dim=2)
        width = ((rows * self.at.square()).sum(dim=2) - points[..., 0].square()).clamp(min=0.01).sqrt()
        deepest = deepest.float()
        seen = torch.cat([deepest.mean(dim=(2, 3)), deepest.amax(dim=(2, 3)), width], dim=1).detach()
        spread = softplus(self.doubt(seen).float()) * self.widening + LEAST_SPREAD
        return BodyPoints(points, logs.unflatten(2, (CELLS, CELLS)), spread)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """What is exported: points and spreads."""
        found = self.features(crops)
        return found.points, found.spread
