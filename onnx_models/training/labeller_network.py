"""The labeller's networks: two views of the spine's box in, names along z out.

`TwoView` is the one that ships: the width of each view is folded into channels, the two are joined, and dilated
one-dimensional convolutions run along z. What is *seen* at a row (a rib, the sacrum, the axis) comes from features of
34 mm above and below that row only, so that an anchor is never inferred from the count; the name may use all of the
view. `Btrfly` is the published two-armed network (Sekuboyina et al. 2018, figure 2; Bukas et al. 2021, section 2.2):
one Gaussian heat map per name in each view, the arms fused in the middle.

Views are (batch, 4, rows, 60): sagittal maximum and mean, coronal maximum and mean; rows towards the feet, 2 mm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inference.labelling import EVIDENCE, LEVELS

NAMES = len(LEVELS)
MOMENTUM = 0.03


class _Convolution(nn.Sequential):
    """3 x 3 convolution that may halve the width, batch normalisation (folded at export), leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, step: tuple[int, int] = (1, 1)) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=step, padding=1, bias=False),
            nn.BatchNorm2d(outputs, momentum=MOMENTUM),
            nn.LeakyReLU(0.1, inplace=True),
        )


class _Arm(nn.Module):
    """One view (batch, 2, rows, 60) to (batch, channels * 8, rows): the width is halved three times, then folded."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.layers = nn.Sequential(
            _Convolution(2, a, (1, 2)), _Convolution(a, b, (1, 2)), _Convolution(b, c, (1, 2)), _Convolution(c, c)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).permute(0, 1, 3, 2).flatten(1, 2)


class _Along(nn.Module):
    """Residual dilated convolution along z."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm1d(channels, momentum=MOMENTUM),
            nn.LeakyReLU(0.1, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class TwoView(nn.Module):
    """Centres, names, evidence and offsets per row.

    Outputs, all per row: ``centre`` (batch, rows) that a vertebra's centre lies here; ``level`` (batch, 27, rows);
    ``evidence`` (batch, 3, rows) in the order of `inference.labelling.EVIDENCE`; ``offset_mm`` (batch, 2, rows) of the
    centre from the line, towards the left and the back. `features` gives logits, `forward` probabilities.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 48), channels: int = 112) -> None:
        super().__init__()
        self.sagittal, self.coronal = _Arm(widths), _Arm(widths)
        self.join = nn.Sequential(
            nn.Conv1d(2 * 8 * widths[2], channels, 1, bias=False),
            nn.BatchNorm1d(channels, momentum=MOMENTUM),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.near = nn.Sequential(*(_Along(channels, d) for d in (1, 2, 4, 6)))
        self.far = nn.Sequential(*(_Along(channels, d) for d in (8, 16, 32, 1, 4, 16)))
        self.seen = nn.Conv1d(channels, 1 + len(EVIDENCE) + 2, 1)
        self.named = nn.Conv1d(channels, NAMES, 1)
        self.statistics_frozen = False

    def train(self, mode: bool = True) -> TwoView:
        """As always, but frozen batch statistics stay frozen."""
        super().train(mode)
        if mode and self.statistics_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.eval()
        return self

    def features(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of centre, level and evidence, and the offsets."""
        joined = torch.cat([self.sagittal(views[:, :2]), self.coronal(views[:, 2:])], dim=1)
        near = self.near(self.join(joined))
        seen = self.seen(near)
        return seen[:, 0], self.named(self.far(near)), seen[:, 1:-2], 10.0 * seen[:, -2:]

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        centre, level, evidence, offset = self.features(views)
        return torch.sigmoid(centre), torch.softmax(level, dim=1), torch.sigmoid(evidence), offset


class Btrfly(nn.Module):
    """Heat maps (batch, 27 + 1, rows, 60) of the sagittal and of the coronal view; the last one is the background.

    Two encoders, a fused bottom, two decoders. Rows are a multiple of 4.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96)) -> None:
        super().__init__()
        a, b, c = widths
        self.first = nn.ModuleList(_Convolution(2, a) for _ in range(2))
        self.second = nn.ModuleList(_Convolution(a, b, (2, 2)) for _ in range(2))
        self.bottom = nn.Sequential(_Convolution(2 * b, c, (2, 2)), _Convolution(c, c), _Convolution(c, c))
        self.up = nn.ModuleList(_Convolution(c + b, b) for _ in range(2))
        self.last = nn.ModuleList(_Convolution(b + a, a) for _ in range(2))
        self.maps = nn.ModuleList(nn.Conv2d(a, NAMES + 1, 1) for _ in range(2))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        first = [layer(view) for layer, view in zip(self.first, (views[:, :2], views[:, 2:]), strict=True)]
        second = [layer(x) for layer, x in zip(self.second, first, strict=True)]
        bottom = _doubled(self.bottom(torch.cat(second, dim=1)))
        maps = []
        for k in range(2):
            x = _doubled(self.up[k](torch.cat([bottom, second[k]], dim=1)))
            maps.append(self.maps[k](self.last[k](torch.cat([x, first[k]], dim=1))))
        return maps[0], maps[1]


def _doubled(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling of (batch, channels, H, W) by broadcasting."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h, 1, w, 1).expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)
