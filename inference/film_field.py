"""The exposed field of a film: what lies within the straight, perhaps rotated edges of the collimator.

Outside them a film is even (black, white, or grey by scatter), and text may be written there. Each side of the image is
looked at alone: from its rim inward the picture stays even up to a point; where many of these points lie on one line at
which the picture steps, and hardly any before it, the line is an edge. Nothing is cut where no line is found: a border
that was missed costs little, anatomy that is masked cannot be measured. The round field of an image intensifier is not
looked for. Markers within the field stay: they look like screws and cement, and the networks are trained with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.film_grid import pixel_centres

EVEN = 0.04
"""Grey levels (of 0 to 1) by which an even border may vary along a line into the picture."""
STEP = 0.12
"""Least median step at an edge, over three pixels: what shades off more slowly is none."""
FLAT, STEP_FROM_FLAT = 0.001, 0.04
"""Where a border is one value within the former, a shutter was laid over it, and the latter step is enough."""
TOLERANCE = 1.5
"""Distance in pixels of the searched picture at which a point still lies on a line."""
ON_LINE, BEFORE = 0.4, 0.25
"""Share of the side's pixels whose points must lie on it, and share of all points that may lie before it (text does);
behind it they may: the picture is even there too."""
STEEPEST = np.tan(np.radians(20.0))
DEEPEST = 0.45
"""Part of the picture that a border on one side takes at most."""
LEAST_AREA = 0.15
"""A field of a smaller share of the film is not believed."""
CHUNK = 1 << 20
"""Pixels that are averaged at a time."""
SEARCHED = 384
"""Longest side in pixels of the picture that is searched."""


@dataclass(frozen=True)
class ExposedField:
    """Half planes whose intersection was exposed; none where the whole film was, or where no edge was seen.

    Attributes
    ----------
    edges
        (n, 3) float64, each (a, b, c): a point (row, column) in film index is inside where a * row + b * column >= c.
    """

    edges: NDArray[np.float64]

    def inside(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points (..., 2), film index as (row, column), lie within all edges."""
        distance = points @ self.edges[:, :2].T - self.edges[:, 2]
        return np.asarray((distance >= 0).all(axis=-1))

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The field on the pixels of a film of that shape."""
        rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
        out = np.ones(shape, bool)
        for a, b, c in self.edges:
            out &= a * rows + b * columns >= c
        return out


def block_mean(picture: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Means over ``block`` x ``block`` pixels; the last blocks repeat the rim.

    The centre of block i is at i * block + (block - 1) / 2.
    """
    if block <= 1:
        return picture
    rows, columns = (-(-n // block) for n in picture.shape)
    out = np.empty((rows, columns), np.float32)
    at_a_time = max(1, CHUNK // (block * picture.shape[1]))  # so that a large film is never there twice
    for first in range(0, rows, at_a_time):
        part = picture[first * block : (first + at_a_time) * block]
        missing = [(0, -n % block) for n in part.shape]
        padded = np.pad(part, missing, mode="edge") if any(m[1] for m in missing) else part
        blocks = padded.reshape(-1, block, columns, block)
        out[first : first + len(blocks)] = blocks.mean(axis=(1, 3))
    return out


def exposed_field(pixels: NDArray[np.float32]) -> ExposedField:
    """The field within the collimator's edges of a film (rows, columns), 0 to 1."""
    block = max(1, round(max(pixels.shape) / SEARCHED))
    small = block_mean(pixels, block)
    found = []
    for side in range(4):
        line = _edge_below_rim(np.rot90(small, side))
        if line is None:
            continue
        # two points inside on the line, turned back, and the side on which the picture lies
        width = np.rot90(small, side).shape[1]
        ends = np.array([[line[0], 0.0], [line[0] + line[1] * (width - 1), width - 1.0]])
        first, last = (_turned_back(e, small.shape, side) * block + (block - 1) / 2 for e in ends)
        along = last - first
        normal = np.array([along[1], -along[0]]) / np.linalg.norm(along)
        found.append([*normal, normal @ first + block])  # one searched pixel of safety
    field = ExposedField(np.array(found, np.float64).reshape(-1, 3))
    if found and _share(field, pixels.shape) < LEAST_AREA:
        return ExposedField(np.zeros((0, 3)))
    return field


def _share(field: ExposedField, shape: tuple[int, ...]) -> float:
    points = pixel_centres((64, 64)) / 63 * (np.array(shape) - 1)
    return float(field.inside(points).mean())


def _turned_back(index: NDArray[np.float64], shape: tuple[int, ...], turn: int) -> NDArray[np.float64]:
    """Index in ``numpy.rot90(picture, turn)`` to index in the picture of that shape."""
    row, column = float(index[0]), float(index[1])
    last_row, last_column = shape[0] - 1, shape[1] - 1
    turned = [
        (row, column),
        (column, last_column - row),
        (last_row - row, last_column - column),
        (last_row - column, row),
    ]
    return np.array(turned[turn % 4])


def _edge_below_rim(picture: NDArray[np.float32]) -> tuple[float, float] | None:
    """(row at column 0, slope) of the edge of an even border along the upper side; ``None``: there is none."""
    rows, columns = picture.shape
    deepest = int(DEEPEST * rows)
    rim = np.median(picture[:3], axis=0)
    uneven = np.abs(picture[: deepest + 4] - rim) > EVEN
    begins = uneven.argmax(axis=0).astype(float)
    found = np.flatnonzero(uneven.any(axis=0) & (begins >= 2) & (begins < deepest))
    if len(found) < ON_LINE * columns:
        return None
    x, y = found.astype(float), begins[found]
    chosen = np.linspace(0, len(found) - 1, min(40, len(found))).astype(int)
    first, last = (chosen[i] for i in np.triu_indices(len(chosen), 1))
    slope = (y[last] - y[first]) / (x[last] - x[first])
    level = y[first] - slope * x[first]
    slope, level = slope[np.abs(slope) <= STEEPEST], level[np.abs(slope) <= STEEPEST]
    if not len(slope):
        return None
    behind = y - level[:, None] - slope[:, None] * x
    near = np.abs(behind) <= TOLERANCE
    best_line = int(near.sum(axis=1).argmax())
    on = near[best_line]
    if on.sum() < ON_LINE * columns or (behind[best_line] < -TOLERANCE).sum() > BEFORE * len(found):
        return None
    best = np.polyfit(x[on], y[on], 1)
    at = found[on]
    outside = picture[np.maximum(begins[at].astype(int) - 1, 0), at]
    within = picture[np.minimum(begins[at].astype(int) + 2, rows - 1), at]
    border = np.where(np.arange(deepest)[:, None] < begins[at].astype(int) - 1, picture[:deepest, at], rim[at])
    flat = np.ptp(border) <= FLAT
    if np.median(np.abs(within - outside)) < (STEP_FROM_FLAT if flat else STEP):
        return None
    return float(best[1]), float(best[0])
