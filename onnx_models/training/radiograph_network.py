"""The network that sees a whole lateral film at 256 x 256, and the networks that it is compared with.

``WholeFilmNetwork`` tells bodies, their centres, S1, the side of the front and the view. The others, all with one
output, are those of the method (MDR2-UNet) and of its table: U-Net, R2U-Net, SegNet and E-Net, at reduced widths. The
papers omit most widths; what is reconstructed here is said in each docstring.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

SIZE = 256
MAPS = ("body", "centre", "sacrum", "front", "head")
VIEW_COUNT = 6
COARSE = 3
"""Level (of 8 pixels) at which S1, the front and the head are told as well."""
WIDTHS = (12, 24, 40, 64, 80, 96)
"""Channels at 1, 2, 4, 8, 16 and 32 pixels."""
DILATIONS = (2, 4, 8, 16)


def _conv(inputs: int, outputs: int, size: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs))


class WholeFilmNetwork(nn.Module):
    """(batch, 1, 256, 256) film, 0 to 1, to its ``MAPS`` (each of that shape) and view (batch, 6).

    A U-Net with six levels, so that every place sees the whole film; the view is told from its deepest features. Where
    S1, the front and the head are depends on what lies far away, so they are told at `COARSE` as well and added: from
    the finest features alone neither S1 nor the front was learnt in 1,900 steps.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise((1, *widths)))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(_conv(b, a, 1) for a, b in pairwise(widths))
        self.join = nn.ModuleList(_double(2 * a, a) for a in widths[:-1])
        self.maps = nn.Conv2d(widths[0], len(MAPS), 1)
        self.view = nn.Sequential(nn.Linear(2 * widths[-1], 48), nn.ReLU(), nn.Linear(48, VIEW_COUNT))
        self.coarse = nn.Conv2d(widths[COARSE], len(MAPS) - 2, 1)
        nn.init.zeros_(self.coarse.weight)
        nn.init.zeros_(self.coarse.bias)  # type: ignore[arg-type]

    def logits(self, film: Tensor) -> tuple[Tensor, Tensor]:
        """(maps (batch, 5, rows, columns), views (batch, 6)) before sigmoid and softmax; sides are multiples of 32."""
        levels = []
        x = film
        for n, block in enumerate(self.down):
            x = block(x if n == 0 else self.pool(x))
            levels.append(x)
        view = self.view(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))
        coarse = x
        for n in reversed(range(len(self.join))):
            wider = interpolate(self.up[n](x), scale_factor=2.0, mode="nearest")
            x = self.join[n](torch.cat([levels[n], wider], dim=1))
            if n == COARSE:
                coarse = interpolate(self.coarse(x), scale_factor=float(2**COARSE), mode="bilinear")
        maps = self.maps(x)
        return torch.cat([maps[:, :2], maps[:, 2:] + coarse], dim=1), view

    def forward(self, film: Tensor) -> tuple[Tensor, ...]:
        """Probabilities, in the order of ``MAPS``, then of the views."""
        maps, view = self.logits(film)
        return (*torch.sigmoid(maps).split(1, dim=1), torch.softmax(view, dim=1))


class UNet(nn.Module):
    """The U-Net of the comparison: four poolings, two convolutions a level, logits (batch, 1, rows, columns)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        widths = [width * 2**n for n in range(5)]
        self.down = nn.ModuleList(self.encoder(a, b) for a, b in pairwise((1, *widths)))
        self.up = nn.ModuleList(_conv(b, a) for a, b in pairwise(widths))
        self.join = nn.ModuleList(self.decoder(2 * a, a) for a in widths[:-1])
        self.last = nn.Conv2d(width, 1, 1)

    def encoder(self, inputs: int, outputs: int) -> nn.Module:
        """One level on the way down."""
        return _double(inputs, outputs)

    def decoder(self, inputs: int, outputs: int) -> nn.Module:
        """One level on the way up, after the concatenation."""
        return _double(inputs, outputs)

    def forward(self, film: Tensor) -> Tensor:
        """Logits of "body"; sides are multiples of 16."""
        levels = []
        x = film
        for n, block in enumerate(self.down):
            x = block(x if n == 0 else nn.functional.max_pool2d(x, 2))
            levels.append(x)
        for n in reversed(range(len(self.join))):
            wider = self.up[n](interpolate(x, scale_factor=2.0, mode="nearest"))
            x = self.join[n](torch.cat([levels[n], wider], dim=1))
        return self.last(x)


class RecurrentConv(nn.Module):
    """One convolution applied again and again to its own output added to its input (Liang and Hu 2015).

    The normalisation is shared by the time steps, as the convolution is.
    """

    def __init__(self, width: int, steps: int = 2) -> None:
        super().__init__()
        self.steps = steps
        self.conv = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Features after the last time step."""
        state = self.conv(x)
        for _ in range(self.steps):
            state = self.conv(x + state)
        return state


class RecurrentResidualBlock(nn.Module):
    """Two recurrent convolutions with a shortcut, behind a 1 x 1 convolution to their width (R2U-Net, fig. 4d)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, outputs, 1)
        self.recurrent = nn.Sequential(RecurrentConv(outputs), RecurrentConv(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, outputs, rows, columns)."""
        x = self.enter(x)
        return x + self.recurrent(x)


class MultiDilatedResidualBlock(nn.Module):
    """Four dilated convolutions side by side, concatenated, a bottleneck back to one width, and a shortcut.

    The input is brought to that width by a 1 x 1 convolution first, so that the shortcut can be an addition (the paper
    draws the shortcut, and gives no widths).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, outputs, 1)
        self.branches = nn.ModuleList(_conv(outputs, outputs, dilation=rate) for rate in DILATIONS)
        self.bottleneck = _conv(len(DILATIONS) * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, outputs, rows, columns)."""
        x = self.enter(x)
        return x + self.bottleneck(torch.cat([branch(x) for branch in self.branches], dim=1))


class R2UNet(UNet):
    """U-Net with recurrent residual blocks at every level (Alom et al. 2018)."""

    def encoder(self, inputs: int, outputs: int) -> nn.Module:
        """One level on the way down."""
        return RecurrentResidualBlock(inputs, outputs)

    def decoder(self, inputs: int, outputs: int) -> nn.Module:
        """One level on the way up."""
        return RecurrentResidualBlock(inputs, outputs)


class MDR2UNet(UNet):
    """Multi-dilated recurrent residual U-Net: multi-dilated blocks on the way down, recurrent residual ones after them.

    Skip connections are taken before each pooling; the last layer is a 1 x 1 convolution.
    """

    def encoder(self, inputs: int, outputs: int) -> nn.Module:
        """One level on the way down."""
        return MultiDilatedResidualBlock(inputs, outputs)

    def decoder(self, inputs: int, outputs: int) -> nn.Module:
        """One level on the way up."""
        return RecurrentResidualBlock(inputs, outputs)


class SegNet(nn.Module):
    """Encoder and decoder joined by the places of the maxima instead of features (Badrinarayanan et al. 2017)."""

    def __init__(self, width: int = 14) -> None:
        super().__init__()
        widths = [width * n for n in (1, 2, 4, 6, 6)]
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise((1, *widths)))
        self.up = nn.ModuleList(nn.Sequential(_conv(b, b), _conv(b, a)) for a, b in pairwise((width, *widths)))
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, film: Tensor) -> Tensor:
        """Logits of "body"; sides are multiples of 32."""
        places = []
        x = film
        for block in self.down:
            x, where = nn.functional.max_pool2d(block(x), 2, return_indices=True)
            places.append(where)
        for block, where in zip(reversed(self.up), reversed(places), strict=True):
            x = block(nn.functional.max_unpool2d(x, where, 2))
        return self.last(x)


class _EnetBlock(nn.Module):
    """A bottleneck of E-Net: 1 x 1 to a quarter of the width, one convolution, 1 x 1 back, dropout, shortcut."""

    def __init__(self, width: int, dilation: int = 1, asymmetric: bool = False, dropout: float = 0.1) -> None:
        super().__init__()
        inner = width // 4
        if asymmetric:
            middle: list[nn.Module] = [
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False),
            ]
        else:
            middle = [nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)]
        self.branch = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.PReLU(inner), *middle,
            nn.BatchNorm2d(inner), nn.PReLU(inner), nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width),
            nn.Dropout2d(dropout),
        )  # fmt: skip
        self.leave = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.leave(x + self.branch(x))


class _EnetDown(nn.Module):
    """E-Net's bottleneck that halves the size; returns the places of the maxima as well."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = max(inputs // 4, 4)
        self.more = outputs - inputs
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, inner, 2, stride=2, bias=False), nn.BatchNorm2d(inner), nn.PReLU(inner),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.PReLU(inner),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.leave = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(half the size, places)."""
        pooled, places = nn.functional.max_pool2d(x, 2, return_indices=True)
        padded = nn.functional.pad(pooled, (0, 0, 0, 0, 0, self.more))
        return self.leave(padded + self.branch(x)), places


class _EnetUp(nn.Module):
    """E-Net's bottleneck that doubles the size: unpooling beside a transposed convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = max(inputs // 4, 4)
        self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.ConvTranspose2d(inner, inner, 2, stride=2, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Twice the size."""
        short = nn.functional.max_unpool2d(self.short(x), places, 2)
        return torch.relu(short + self.branch(x))


class ENet(nn.Module):
    """E-Net (Paszke et al. 2016): early reduction, bottlenecks, dilated and asymmetric convolutions, small decoder."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        a, b, c = width, 4 * width, 8 * width
        self.first = nn.Conv2d(1, a - 1, 3, stride=2, padding=1, bias=False)
        self.normal = nn.Sequential(nn.BatchNorm2d(a), nn.PReLU(a))
        self.down = nn.ModuleList([_EnetDown(a, b), _EnetDown(b, c)])
        self.stages = nn.ModuleList([nn.Sequential(*(_EnetBlock(b, dropout=0.01) for _ in range(4))), self._middle(c)])
        self.up = nn.ModuleList([_EnetUp(c, b), _EnetUp(b, a)])
        self.after = nn.ModuleList(
            [nn.Sequential(_EnetBlock(b), _EnetBlock(b)), nn.Sequential(_EnetBlock(a, dropout=0.0))]
        )
        self.last = nn.ConvTranspose2d(a, 1, 2, stride=2)

    @staticmethod
    def _middle(width: int) -> nn.Sequential:
        """The second stage and the third, which repeats it."""
        blocks: list[nn.Module] = []
        for _ in range(2):
            for dilation in (2, 4, 8, 16):
                blocks += [_EnetBlock(width), _EnetBlock(width, dilation)]
                blocks += [_EnetBlock(width, asymmetric=True)] if dilation in (2, 8) else []
        return nn.Sequential(*blocks)

    def forward(self, film: Tensor) -> Tensor:
        """Logits of "body"; sides are multiples of 8."""
        x = self.normal(torch.cat([self.first(film), nn.functional.max_pool2d(film, 2)], dim=1))
        places = []
        for down, stage in zip(self.down, self.stages, strict=True):
            x, where = down(x)
            places.append(where)
            x = stage(x)
        for up, after, where in zip(self.up, self.after, reversed(places), strict=True):
            x = after(up(x, where))
        return self.last(x)
