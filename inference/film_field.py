"""The exposed field of a film: what lies within the straight, perhaps rotated edges of the collimator, or in a circle.

Outside them a film is even (black, white, or grey by scatter), and text may be written there. Each side of the image is
looked at alone: from its rim inward the picture stays even up to a point; where many of these points lie on one line at
which the picture steps, and hardly any before it, the line is an edge. Nothing is cut where no line is found: a border
that was missed costs little, anatomy that is masked cannot be measured. Markers within the field stay: they look like
screws and cement, and the networks are trained with them.

Where no straight edge is found, the round field of an image intensifier is looked for: along rays from the rim to the
middle the picture stays even up to one circle, which leaves out all four corners and at which the picture steps in
three of them or all. A circle that straight edges cut is not looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import CircleModel, ransac

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
RAYS, LEAST_ENDS, LEAST_CUT = 360, 45, 3
"""Rays along which a round field is looked for; how many of them an even border must begin, and how many a circle must
cut off in each corner."""
LEAST_SIDE = 32
"""Pixels of the searched picture: on a smaller one no circle is looked for."""
ROUND, ROUND_IN_CORNER, ROUND_CORNERS = 0.4, 0.3, 3
"""Share of the rays cut off by the circle that end on it, of all and of those in each corner, and in how many corners:
in one of them air within the circle may be as dark as what lies outside."""
BEFORE_CIRCLE, BEFORE_IN_CORNER = 0.15, 0.5
"""Share of these rays that may end before it (text does), of all and of those in each corner."""
CORNER = 5.0
"""Pixels of the searched picture by which each of its corners lies outside the circle, at least."""
LEAST_AREA = 0.15
"""A field of a smaller share of the film is not believed."""
CHUNK = 1 << 20
"""Pixels that are averaged at a time."""
SEARCHED = 384
"""Longest side in pixels of the picture that is searched."""


@dataclass(frozen=True)
class ExposedField:
    """Half planes whose intersection was exposed, or a circle; none where the whole film was, or where none was seen.

    Attributes
    ----------
    edges
        (n, 3) float64, each (a, b, c): a point (row, column) in film index is inside where a * row + b * column >= c.
    circle
        (row, column, radius) in pixels of the film, ``None`` where the field is not round.
    """

    edges: NDArray[np.float64]
    circle: tuple[float, float, float] | None = None

    def inside(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points (..., 2), film index as (row, column), lie within all edges and the circle."""
        distance = points @ self.edges[:, :2].T - self.edges[:, 2]
        out = np.asarray((distance >= 0).all(axis=-1))
        return out if self.circle is None else out & _within(self.circle, points[..., 0], points[..., 1])

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The field on the pixels of a film of that shape."""
        rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
        out = np.ones(shape, bool)
        for a, b, c in self.edges:
            out &= a * rows + b * columns >= c
        return out if self.circle is None else out & _within(self.circle, rows, columns)


def _within(
    circle: tuple[float, float, float],
    rows: NDArray[np.floating | np.integer],
    columns: NDArray[np.floating | np.integer],
) -> NDArray[np.bool_]:
    row, column, radius = circle
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


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
    """The field within the collimator's edges, or the intensifier's circle, of a film (rows, columns), 0 to 1."""
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
    if not found:
        circle = _circle(small)
        if circle is not None:
            row, column, radius = circle
            shift = (block - 1) / 2
            field = ExposedField(field.edges, (row * block + shift, column * block + shift, (radius - 1) * block))
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


def _circle(picture: NDArray[np.float32]) -> tuple[float, float, float] | None:
    """(row, column, radius) of the circle at which an even border ends in all four corners; ``None``: there is none."""
    if min(picture.shape) < LEAST_SIDE:
        return None
    shape = np.array(picture.shape, np.float64)
    middle = (shape - 1) / 2
    angles = np.arange(RAYS) * 2 * np.pi / RAYS
    outward = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    to_rim = (middle / np.maximum(np.abs(outward), 1e-9)).min(axis=1)
    inward = np.arange(int(np.linalg.norm(middle) * 0.75))
    away = np.maximum(to_rim[:, None] - inward, 0)  # along each ray from the rim to the middle
    at = middle + outward[:, None] * away[..., None]
    seen = ndimage.map_coordinates(picture, at.reshape(-1, 2).T, order=1, mode="nearest").reshape(away.shape)
    uneven = np.abs(seen - np.median(seen[:, :3], axis=1)[:, None]) > EVEN
    begins = np.where(uneven.any(axis=1), uneven.argmax(axis=1), len(inward) - 1)
    rays = np.arange(RAYS)
    ends = at[rays, begins]
    step = np.abs(seen[rays, np.minimum(begins + 2, len(inward) - 1)] - seen[rays, begins - 1])
    ending = (begins >= 2) & (step >= STEP_FROM_FLAT)
    circle = _through(ends[ending])
    if circle is None or _share(ExposedField(np.zeros((0, 3)), circle), picture.shape) < LEAST_AREA:
        return None
    centre, radius = np.array(circle[:2]), circle[2]
    corners = (pixel_centres((2, 2)) * (shape - 1)).reshape(-1, 2)
    if (np.linalg.norm(corners - centre, axis=1) < radius + CORNER).any():
        return None
    cut = np.linalg.norm(at[:, 2] - centre, axis=1) > radius
    beyond = np.linalg.norm(ends - centre, axis=1) - radius
    on, before = cut & ending & (np.abs(beyond) <= TOLERANCE), beyond > TOLERANCE
    quarters = [cut & ((corner - middle) * outward > 0).all(axis=1) for corner in corners]
    if (
        min(quarter.sum() for quarter in quarters) < LEAST_CUT
        or on[cut].mean() < ROUND
        or before[cut].mean() > BEFORE_CIRCLE
        or sum(on[quarter].mean() >= ROUND_IN_CORNER for quarter in quarters) < ROUND_CORNERS
        or any(before[quarter].mean() > BEFORE_IN_CORNER for quarter in quarters)
    ):
        return None
    border = np.where(inward < begins[on, None] - 1, seen[on], seen[on, :1])
    flat = np.ptp(border, axis=1).max() <= FLAT
    return circle if np.median(step[on]) >= (STEP_FROM_FLAT if flat else STEP) else None


def _through(points: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """(row, column, radius) of the circle on which most of these points (n, 2) lie; ``None``: too few, or on a line."""
    if len(points) < LEAST_ENDS:
        return None
    across = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[1] / np.sqrt(len(points))
    if across <= TOLERANCE:
        return None
    model, _ = ransac(points, CircleModel, 3, TOLERANCE, max_trials=200, rng=0)
    return None if model is None else (float(model.center[0]), float(model.center[1]), float(model.radius))
