"""Synthetic spines on a film with exact six points: what is drawn is known to the last decimal.

Everything is in the index (row, column) of a square grid. A body in its own frame: x from front (-depth / 2) to back,
y towards the head; end plates are parabolas through the corners, walls are parabolas through the corners too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FINE = 5
"""Samples a pixel and axis, by which a mask knows its partial pixels."""


@dataclass(frozen=True)
class Body:
    """One vertebral body.

    ``centre`` (row, column) of the middle between the four corners; ``tilt`` in radians turns the head end towards the
    front; ``lean`` is the part of the wedge that the upper plate has, ``waist`` what each wall loses in its middle, as
    a part of the depth; ``front`` -1: the front lies towards column 0.
    """

    centre: tuple[float, float]
    heights: tuple[float, float, float]
    depth: float
    tilt: float = 0.0
    lean: float = 0.5
    waist: float = 0.0
    front: int = -1

    def _plates(self, u):
        ha, hm, hp = self.heights
        rim, sag = (ha + hp) / 2, (ha + hp) / 2 - hm
        upper = rim / 2 + self.lean * (hp - ha) / 2 * u - sag / 2 * (1 - u**2)
        lower = -rim / 2 - (1 - self.lean) * (hp - ha) / 2 * u + sag / 2 * (1 - u**2)
        return upper, lower

    @property
    def axes(self) -> np.ndarray:
        """Rows: unit vectors to the back and to the head, as (row, column)."""
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        up = np.array([-c, s * self.front])
        back = np.array([-s, -self.front * c])
        return np.stack([back, up])

    @property
    def points(self) -> np.ndarray:
        """(6, 2) as (row, column), in the order of ``KEYPOINTS``."""
        out = []
        for u in (-1.0, 0.0, 1.0):
            for y in self._plates(u):
                out.append(np.array(self.centre) + np.array([u * self.depth / 2, y]) @ self.axes)
        return np.array(out)

    def covers(self, shape: tuple[int, int], fine: int = FINE) -> np.ndarray:
        """Part of each pixel that lies within the body."""
        reach = np.hypot(self.depth, max(self.heights)) / 2 + 2
        low = np.maximum(np.floor(np.array(self.centre) - reach).astype(int), 0)
        high = np.minimum(np.ceil(np.array(self.centre) + reach).astype(int) + 1, shape)
        out = np.zeros(shape)
        if (high <= low).any():
            return out
        offset = (np.arange(fine) + 0.5) / fine - 0.5
        axes = [(np.arange(a, b)[:, None] + offset).ravel() for a, b in zip(low, high, strict=True)]
        at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - self.centre
        x, y = np.moveaxis(at @ self.axes.T, -1, 0)
        u = 2 * x / self.depth
        upper, lower = self._plates(np.clip(u, -1.2, 1.2))
        t = (2 * y - upper - lower) / np.maximum(upper - lower, 1e-6)
        inside = (np.abs(t) <= 1) & (np.abs(u) <= 1 - 2 * self.waist * (1 - t**2))
        rows, columns = high - low
        share = inside.reshape(rows, fine, columns, fine).mean(axis=(1, 3))
        out[low[0] : high[0], low[1] : high[1]] = share
        return out


def spine(
    heights: Sequence[tuple[float, float, float]],
    top: tuple[float, float] = (20.0, 120.0),
    bend: float = 0.0,
    disc: float = 4.0,
    depth: float = 26.0,
    tilt: float = 0.0,
    **shape: float,
) -> list[Body]:
    """Bodies one below the other from ``top``; each is turned by ``bend`` radians against the one above."""
    bodies: list[Body] = []
    at = np.array(top, float)
    for n, h in enumerate(heights):
        turned = tilt + bend * n
        body = Body((0.0, 0.0), h, depth, turned, **shape)
        up = body.axes[1]
        middle = at - up * (h[0] + h[2]) / 4
        bodies.append(Body((float(middle[0]), float(middle[1])), h, depth, turned, **shape))
        at = middle - up * ((h[0] + h[2]) / 4 + disc)
    return bodies


def drawn(bodies: Sequence[Body], shape: tuple[int, int] = (256, 256)) -> np.ndarray:
    """Part of each pixel that lies within one of the bodies, (rows, columns)."""
    return np.clip(sum(b.covers(shape) for b in bodies), 0, 1)
