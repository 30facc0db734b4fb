"""The network that finds vertebrae and their six key points on the straightened picture (Pisov et al. 2020, 3.2).

A two-dimensional U-Net over 1 mm pixels whose channels are neighbouring sagittal planes. For each of 16 anchor boxes
at every pixel it predicts objectness and twelve encoded coordinates. These are told from the middle of the body and
drift towards the mean shape; so a further head, which sees the end plate itself, tells at every pixel how far the
nearest key point of each kind is. A last head learns which pixels are body and which are sacrum; it teaches only and is
not exported.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inference.keypoints import ANCHORS
from inference.straightening import PLANES_MM

PLANES = len(PLANES_MM)
BOXES = len(ANCHORS)
WIDTHS = (16, 32, 64, 96, 128)
"""Channels at 1, 2, 4, 8 and 16 mm."""
MULTIPLE = 16
NEARBY_MM = 7.0
"""So near to a key point a pixel is taught the way to it."""


class KeypointFeatures(NamedTuple):
    """What the network knows of each pixel, before the heads that need not be dense in training.

    Attributes
    ----------
    objectness
        (batch, 16, rows, columns), logits.
    hidden
        (batch, channels, rows, columns): what the key point head reads.
    tissue
        (batch, 2, rows, columns), logits of "vertebral body" and "sacrum".
    nearby
        (batch, 12, rows, columns): (x, y) in pixels from each pixel to the nearest key point of each kind; means
        something within `NEARBY_MM` of one.
    """

    objectness: Tensor
    hidden: Tensor
    tissue: Tensor
    nearby: Tensor


def _convolution(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.05),
        nn.LeakyReLU(0.1, inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.convolution = _convolution(channels, channels, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)


class KeypointNetwork(nn.Module):
    """U-Net with strided convolutions down and nearest-neighbour doubling up."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, head: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(PLANES, widths[0]), _Residual(widths[0]))
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(a, b, stride=2), _Residual(b)) for a, b in pairwise(widths)
        )
        deepest = widths[-1]
        self.bottom = nn.Sequential(_Residual(deepest, 2), _Residual(deepest), _Residual(deepest, 2))
        self.lift = nn.ModuleList(
            nn.Conv2d(b, a, 1) for a, b in zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True)
        )
        self.up = nn.ModuleList(nn.Sequential(_Residual(a), _Residual(a)) for a in reversed(widths[:-1]))
        self.hidden = nn.Sequential(nn.Conv2d(widths[0], head, 1), nn.LeakyReLU(0.1, inplace=True))
        self.objectness = nn.Conv2d(head, BOXES, 1)
        self.keypoints = nn.Conv2d(head, BOXES * 12, 1)
        self.tissue = nn.Conv2d(widths[0], 2, 1)
        self.nearby = nn.Sequential(_convolution(widths[0], 24), nn.Conv2d(24, 12, 1))
        nn.init.constant_(self.objectness.bias, -4.0)  # most pixels are no vertebra
        nn.init.normal_(self.keypoints.weight, std=0.05)
        with torch.no_grad():
            self.keypoints.bias.copy_(torch.tensor(_MEAN_SHAPE * BOXES))

    def features(self, image: Tensor) -> KeypointFeatures:
        """Of a normalised picture (batch, planes, rows, columns); rows and columns are multiples of 16."""
        levels = [self.stem(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = self.bottom(levels.pop())
        for lift, up in zip(self.lift, self.up, strict=True):
            skip = levels.pop()
            x = up(skip + _doubled(lift(x)))
        hidden = self.hidden(x)
        return KeypointFeatures(self.objectness(hidden), hidden, self.tissue(x), self.nearby(x))

    def keypoints_at(self, hidden: Tensor, anchor: Tensor) -> Tensor:
        """Encoded key points (n, 12) of the anchors (n,) from the hidden features (n, channels) of their pixels.

        The dense head at a few pixels: in training only positive pixels teach it.
        """
        every = nn.functional.linear(hidden, self.keypoints.weight[:, :, 0, 0], self.keypoints.bias)
        return every.reshape(-1, BOXES, 12)[torch.arange(len(anchor)), anchor]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is exported.

        objectness (b, 16, rows, columns) 0 to 1, encoded key points (b, 16, 12, rows, columns), and the way to the
        nearest key point of each kind (b, 12, rows, columns).
        """
        found = self.features(image)
        b, _, h, w = found.hidden.shape
        keypoints = self.keypoints(found.hidden).reshape(b, BOXES, 12, h, w)
        return torch.sigmoid(found.objectness), keypoints, found.nearby


_MEAN_SHAPE = [-0.45, -0.4, -0.45, 0.4, 0.0, -0.35, 0.0, 0.35, 0.45, -0.45, 0.45, 0.45]
"""(e_x, e_y) of a vertebra that fills its anchor: where learning begins."""


def _doubled(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling of (batch, channels, rows, columns) by broadcasting."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h, 1, w, 1).expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)
