"""The network that finds the spine: one point per axial slice of a 3 mm volume (Pisov et al. 2020, section 3.1).

A U-Net-like network gives a probability map on every axial slice; a two-dimensional soft-argmax turns each map into
one point, the centre of the vertebral bodies. Nearly all work is done at 6 mm and coarser: the stem halves each axis,
and the last layer unfolds its channels into the 3 mm map again (depth to space), so that a whole volume takes a
fraction of a second on two cores. Dilated convolutions at 24 mm see 19 cm in each direction, enough to tell a spine
from a contrast-filled heart or aorta.

All tensors are on the canonical grid: axes (slice towards the feet, row towards the back, column towards the left).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

MULTIPLE = 8
"""Each axis of the input is a multiple of this many voxels."""


MOMENTUM = 0.02
"""Of the running batch statistics; two crops a step are few, so they are averaged long."""


SHARPER = 8.0
"""Factor on the logits when the mode of a map is looked for."""
WINDOW_VOXELS = 5.0
"""Standard deviation of the window around the mode in which the centre is taken, 15 mm."""


class LocalizerOutput(NamedTuple):
    """What the network says of each slice.

    Attributes
    ----------
    centre
        (batch, slices, 2): soft-argmax (row, column) in voxels, 0 at the centre of the first voxel.
    peak
        (batch, slices): probability mass of the 3 x 3 voxels around the strongest one.
    presence
        (batch, slices): probability that the slice crosses the spine (training: its logit).
    """

    centre: Tensor
    peak: Tensor
    presence: Tensor


class _Convolution(nn.Sequential):
    """3 x 3 x 3 convolution (1 x 3 x 3 where `flat`), batch normalisation (folded at export), leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1, flat: bool = False) -> None:
        d = dilation
        super().__init__(
            nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1), bias=False)
            if flat
            else nn.Conv3d(inputs, outputs, 3, padding=d, dilation=d, bias=False),
            nn.BatchNorm3d(outputs, momentum=MOMENTUM),
            nn.LeakyReLU(0.1, inplace=True),
        )


class _Windows(nn.Module):
    """The image beside itself through soft windows: 60 HU between marrow and muscle are seen beside 1,500 HU."""

    count = 4

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor([-0.3, 0.4, 1.0, 1.6]).reshape(1, self.count, 1, 1, 1))
        self.slope = nn.Parameter(torch.full((1, self.count, 1, 1, 1), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.tanh((x - self.level) * self.slope)], dim=1)


class _Residual(nn.Module):
    """One convolution beside the identity."""

    def __init__(self, channels: int, dilation: int = 1, flat: bool = False) -> None:
        super().__init__()
        self.convolution = _Convolution(channels, channels, dilation, flat)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)


def _doubled(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling of (batch, channels, D, H, W) by broadcasting, which every provider runs natively."""
    b, c, d, h, w = x.shape
    wide = x.reshape(b, c, d, 1, h, 1, w, 1).expand(b, c, d, 2, h, 2, w, 2)
    return wide.reshape(b, c, 2 * d, 2 * h, 2 * w)


def _unfolded(x: Tensor) -> Tensor:
    """Depth to space: (batch, 8, D, H, W) to (batch, 2 D, 2 H, 2 W)."""
    b, _, d, h, w = x.shape
    return x.reshape(b, 2, 2, 2, d, h, w).permute(0, 4, 1, 5, 2, 6, 3).reshape(b, 2 * d, 2 * h, 2 * w)


class Localizer(nn.Module):
    """Probability map per slice, its soft-argmax, and whether there is a spine in the slice at all.

    Parameters
    ----------
    channels
        Widths at 6, 12 and 24 mm.

    Attributes
    ----------
    statistics_frozen
        Batch normalisation keeps its running statistics in training too. With two crops a step the statistics of a
        batch differ so much from the running ones that the trained network was twice as far off (8.4 mm against 4.3)
        when it was used; freezing them early in the training takes that difference away.
    """

    def __init__(self, channels: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.statistics_frozen = False
        self.windows = _Windows()
        self.stem = nn.Sequential(
            nn.Conv3d(1 + self.windows.count, fine, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm3d(fine, momentum=MOMENTUM),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.down_middle = nn.Sequential(_strided(fine, middle), _Residual(middle), _Residual(middle))
        self.down_coarse = nn.Sequential(
            _strided(middle, coarse),
            _Residual(coarse),
            _Residual(coarse, 2),
            _Residual(coarse, 4),
            _Residual(coarse),
        )
        self.from_coarse = nn.Conv3d(coarse, middle, 1)
        self.up_middle = nn.Sequential(_Residual(middle), _Residual(middle))
        self.from_middle = nn.Conv3d(middle, fine, 1)
        self.up_fine = nn.Sequential(_Residual(fine, flat=True), _Residual(fine))
        self.logits = nn.Conv3d(fine, 8, 3, padding=1)
        self.presence = _Presence(2 * fine + middle + 1, 32)

    def train(self, mode: bool = True) -> Localizer:
        """As any module; frozen batch statistics stay frozen."""
        super().train(mode)
        if self.statistics_frozen:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        return self

    def features(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Logit map (batch, D, H, W) and logit of presence (batch, D) of a volume (batch, 1, D, H, W)."""
        fine = self.stem(self.windows(volume))
        middle = self.down_middle(fine)
        middle = self.up_middle(middle + _doubled(self.from_coarse(self.down_coarse(middle))))
        fine = self.up_fine(fine + _doubled(self.from_middle(middle)))
        logits = _unfolded(self.logits(fine))
        return logits, self.presence(fine, middle, logits)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(centre, peak, presence) of a normalised volume (batch, 1, D, H, W); see `LocalizerOutput`."""
        logits, presence = self.features(volume)
        return local_centre_of(logits), peak_of(map_probability(logits)), torch.sigmoid(presence)


def _strided(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 2, stride=2, bias=False),
        nn.BatchNorm3d(outputs, momentum=MOMENTUM),
        nn.LeakyReLU(0.1, inplace=True),
    )


class _Presence(nn.Module):
    """Is there a spine in this slice: features where the map points, and along the neighbouring slices.

    Features are averaged with the slice's own probability map as weights (what does the chosen place look like), and
    over the whole slice (is this a neck, a chest, a pelvis); dilated convolutions along the body compare 20 cm.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(inputs, width, 1)
        self.along = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 4, 8))
        self.out = nn.Conv1d(width, 2, 1)

    def forward(self, fine: Tensor, middle: Tensor, logits: Tensor) -> Tensor:
        b, c, d, h, w = fine.shape
        pooled = logits.reshape(b, d, 2, h, 2, w, 2).mean(dim=(2, 4, 6))
        weight = torch.softmax(pooled.reshape(b, 1, d, h * w), dim=3)
        planes = fine.reshape(b, c, d, h * w)
        chosen = (planes * weight).sum(dim=3)
        whole = planes.mean(dim=3)
        m = middle.shape[1]
        coarse = middle.amax(dim=(3, 4)).reshape(b, m, d // 2, 1).expand(b, m, d // 2, 2).reshape(b, m, d)
        sharpness = weight.amax(dim=3)
        x = torch.nn.functional.leaky_relu(self.mix(torch.cat([chosen, whole, coarse, sharpness], dim=1)), 0.1)
        for convolution in self.along:
            x = x + torch.nn.functional.leaky_relu(convolution(x), 0.1)
        return self.out(x).transpose(1, 2).reshape(b, 2 * d)


def map_probability(logits: Tensor) -> Tensor:
    """Softmax over each slice: (batch, D, H, W)."""
    b, d, h, w = logits.shape
    return torch.softmax(logits.reshape(b, d, h * w), dim=2).reshape(b, d, h, w)


def centre_of(probability: Tensor) -> Tensor:
    """Soft-argmax: mean (row, column) of each slice's map, (batch, D, 2), 0 at the centre of the first voxel."""
    _, _, h, w = probability.shape
    rows = torch.arange(h, dtype=probability.dtype, device=probability.device)
    columns = torch.arange(w, dtype=probability.dtype, device=probability.device)
    return torch.stack([(probability.sum(3) * rows).sum(2), (probability.sum(2) * columns).sum(2)], dim=2)


def local_centre_of(logits: Tensor) -> Tensor:
    """Soft-argmax near the strongest place of each slice's map (batch, D, H, W): (batch, D, 2), as `centre_of`.

    Training takes the mean of the whole map, which teaches it to have one place. In use a faint second place far away
    would pull that mean off the spine, so the map is first weighted with a Gaussian around its mode; the mode is the
    soft-argmax of a much sharper map, so that nothing jumps.
    """
    _, _, h, w = logits.shape
    mode = centre_of(map_probability(SHARPER * logits))
    axes = [torch.arange(n, dtype=logits.dtype, device=logits.device) for n in (h, w)]
    near = [-((axis - mode[..., a, None]) ** 2) / (2 * WINDOW_VOXELS**2) for a, axis in enumerate(axes)]
    return centre_of(map_probability(logits + near[0][..., :, None] + near[1][..., None, :]))


def peak_of(probability: Tensor) -> Tensor:
    """Largest probability mass in any 3 x 3 voxels of each slice, (batch, D)."""
    mass = torch.nn.functional.avg_pool2d(probability, 3, stride=1, padding=1) * 9.0
    return mass.amax(dim=(2, 3))
