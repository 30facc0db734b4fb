"""The detector's network: a small 3-D U-Net that regresses the ridge of the spine's centre line at 6 mm.

Axes of all tensors: (slice towards the feet, row towards the back, column towards the left).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOMENTUM = 0.02


class _Convolution(nn.Sequential):
    """3 x 3 x 3 convolution, batch normalisation (folded at export), leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm3d(outputs, momentum=MOMENTUM),
            nn.LeakyReLU(0.1, inplace=True),
        )


class Detector(nn.Module):
    """Ridge (batch, 1, D, H, W) of (batch, 1, D, H, W), 0 to about 1; each axis a multiple of 4 voxels.

    Two levels down, dilated convolutions at 24 mm that see 20 cm to each side, two levels up.
    """

    def __init__(self, widths: tuple[int, int, int] = (8, 16, 32)) -> None:
        super().__init__()
        a, b, c = widths
        self.first = nn.Sequential(_Convolution(1, a), _Convolution(a, a))
        self.second = nn.Sequential(_Convolution(a, b, 2), _Convolution(b, b))
        self.down = _Convolution(b, c, 2)
        self.bottom = nn.ModuleList(_Convolution(c, c, dilation=d) for d in (1, 2, 4, 1))
        self.up = _Convolution(c + b, b)
        self.last = _Convolution(b + a, a)
        self.ridge = nn.Conv3d(a, 1, 1)
        self.statistics_frozen = False

    def train(self, mode: bool = True) -> Detector:
        """As always, but frozen batch statistics stay frozen."""
        super().train(mode)
        if mode and self.statistics_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        return self

    def forward(self, volume: Tensor) -> Tensor:
        first = self.first(volume)
        second = self.second(first)
        x = self.down(second)
        for layer in self.bottom:
            x = x + layer(x)
        x = self.up(torch.cat([_doubled(x), second], dim=1))
        return self.ridge(self.last(torch.cat([_doubled(x), first], dim=1)))


def _doubled(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling of (batch, channels, D, H, W) by broadcasting, which every provider runs natively."""
    b, c, d, h, w = x.shape
    wide = x.reshape(b, c, d, 1, h, 1, w, 1).expand(b, c, d, 2, h, 2, w, 2)
    return wide.reshape(b, c, 2 * d, 2 * h, 2 * w)
