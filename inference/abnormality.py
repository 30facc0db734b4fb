"""How far a vertebral body's shape is from the one that its neighbours predict (Botros et al. 2022).

The body masks of two neighbours on each side are brought into a common frame around the vertebra. A coarse and a
refining network, trained on unfractured vertebrae only, answer with the body that is expected there. The score is what
the expected body has more than the actual one, weighted, per expected volume, beyond what healthy vertebrae of that
level have: 0 to 100. Thoracic and lumbar vertebrae only.

The common frame is a grid of 2.5 mm whose index (k, j, i) runs towards the feet, the back and the left of the
*vertebra*; its centre is the centroid of the actual body mask.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter, map_coordinates

from inference.findings import Level
from inference.masks import BODY, POSTERIOR
from inference.runtime import Models

GRID_MM = 2.5
CONTEXT_SHAPE = (64, 40, 32)
"""Voxels (k, j, i) that hold the neighbours: 160 x 100 x 80 mm."""
BODY_SHAPE = (24, 24, 28)
"""Voxels (k, j, i) in its middle that hold the expected body: 60 x 60 x 70 mm."""
NEIGHBOURS = (-2, -1, 1, 2)
"""Channels of the context: two bodies above, two below, as steps in the sequence from head to feet."""
NETWORK = "completion"

Floats = NDArray[np.float64]
Mask = NDArray[np.float32]

NORMAL_SURPLUS = {
    "T1": 0.039,
    "T2": 0.039,
    "T3": 0.039,
    "T4": 0.037,
    "T5": 0.035,
    "T6": 0.033,
    "T7": 0.030,
    "T8": 0.028,
    "T9": 0.027,
    "T10": 0.027,
    "T11": 0.029,
    "T12": 0.032,
    "L1": 0.037,
    "L2": 0.045,
    "L3": 0.056,
    "L4": 0.069,
    "L5": 0.087,
}
"""Surplus that healthy vertebrae of a level have in masks of the shipped segmenter, as a part of the expected volume:
24 phantoms of the training ranges, by ``python -m onnx_models.training.completion_evaluation --calibrate --scans
--patients 24``. Perfect masks have .03 to .05 more in the chest."""


@dataclass(frozen=True)
class AbnormalitySettings:
    """How the surplus becomes a score.

    Attributes
    ----------
    fractured
        What the network is given of a fractured neighbour: "zeros" (nothing) or "told" (its mask, negative).
    normal_surplus
        By level: the surplus of healthy vertebrae. The mean of all is taken where the level is not known.
    full_surplus
        So much surplus beyond the normal one is a score of 100. With it, severe deformities of the same 24 phantoms
        have a mean of 75, which Botros et al. 2022 found in fractured vertebrae of their external data.
    sigma
        Standard deviation of the weight along (left, back, up), in extents of the expected body.
    steepness
        Factor on the slope of the expected mask at its surface before it is compared: what the network is unsure of
        widens the edge of its mask, and would count as surplus.
    smallest_ml
        A body of unknown level below this volume might be of the neck, and gets no score.
    """

    fractured: Literal["zeros", "told"] = "told"
    normal_surplus: dict[str, float] = field(default_factory=lambda: dict(NORMAL_SURPLUS))
    full_surplus: float = 0.35
    sigma: tuple[float, float, float] = (0.5, 0.3, 1.0)
    steepness: float = 2.0
    smallest_ml: float = 9.0


@dataclass(frozen=True)
class Body:
    """One vertebral body of the label map, in the order from head to feet.

    Attributes
    ----------
    number
        Its value in ``labels``.
    level
        ``None`` where the numbering is not known.
    fractured
        Whether it is graded deformed: no honest context for its neighbours.
    partial
        Cut by the edge of the field of view: neither scored nor context.
    context
        False where nobody knows whether it is deformed, or whether it is a vertebra of its own: scored, no context.
    frame
        (3, 3), rows left, back and up in LPS; found from the masks where ``None``.
    """

    number: int
    level: Level | None = None
    fractured: bool = False
    partial: bool = False
    context: bool = True
    frame: Floats | None = None


@dataclass(frozen=True)
class Expected:
    """The body that the neighbours predict.

    Attributes
    ----------
    occupancy
        (24, 24, 28) float32, 0 to 1: probability of body in each voxel; its surface is at 0.5.
    affine
        (4, 4): index (k, j, i, 1), counted from 0 at voxel centres, to LPS mm.
    """

    occupancy: Mask
    affine: Floats

    @property
    def volume_ml(self) -> float:
        """Volume of the expected body."""
        return float(self.occupancy.sum()) * GRID_MM**3 / 1000.0


@dataclass(frozen=True)
class Abnormality:
    """What is said of one vertebra.

    Attributes
    ----------
    score
        0 (as its neighbours predict) to 100; ``None`` where none may be given (neck, cut, no neighbour in view).
    surplus
        Weighted surplus volume of the expected body as a part of its weighted volume, before normalisation by level.
    neighbours
        How many of the four neighbours the network saw.
    expected
        ``None`` where nothing was predicted.
    """

    score: float | None
    surplus: float | None
    neighbours: int
    expected: Expected | None


NOTHING = Abnormality(None, None, 0, None)


def frames(centroids: Floats, backs: Floats) -> Floats:
    """Axes (n, 3, 3), rows left, back and up in LPS, of bodies in the order from head to feet.

    Up follows the line through the neighbours' centroids, so that a fracture does not turn its own frame.

    Parameters
    ----------
    centroids
        (n, 3) of the body masks, LPS mm.
    backs
        (n, 3) from each body towards its posterior elements, any length; NaN where they are not known (then the
        patient's back is taken).
    """
    n = len(centroids)
    out = np.zeros((n, 3, 3))
    units = backs / np.linalg.norm(backs, axis=1, keepdims=True)
    for i in range(n):
        low, high = min(i + 1, n - 1), max(i - 1, 0)
        up = centroids[high] - centroids[low] if n > 1 else np.array([0.0, 0.0, 1.0])
        up = up / np.linalg.norm(up)
        near = units[high : low + 1]
        near = near[np.isfinite(near).all(axis=1)]
        back = near.mean(axis=0) if len(near) else np.array([0.0, 1.0, 0.0])
        back = back - (back @ up) * up
        if np.linalg.norm(back) < 0.1:  # the spine lies along the assumed back: take any direction across
            back = np.eye(3)[np.argmin(np.abs(up))]
            back = back - (back @ up) * up
        back = back / np.linalg.norm(back)
        out[i] = [np.cross(back, up), back, up]
    return out


def grid_affine(centre_lps_mm: Floats, frame: Floats, shape: tuple[int, int, int]) -> Floats:
    """(4, 4) from index (k, j, i, 1) of a grid of ``shape`` around a point to LPS mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.stack([-frame[2], frame[1], frame[0]], axis=1) * GRID_MM
    affine[:3, 3] = centre_lps_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@dataclass(frozen=True)
class _Cut:
    """One body mask cut out of the label map: values and the index of its first voxel."""

    mask: Mask
    first: Floats
    centroid: Floats
    back: Floats
    volume_ml: float


def _cut(labels: NDArray[Any], parts: NDArray[Any], affine: Floats, number: int, box: Any) -> _Cut | None:
    margin = 3
    wide = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in box)
    first = np.array([s.start for s in wide], float)
    mine = labels[wide] == number
    inside = parts[wide]
    body = mine & (inside == BODY)
    if not body.any():
        return None
    to_lps = affine[:3, :3]
    centroid = (np.argwhere(body).mean(axis=0) + first) @ to_lps.T + affine[:3, 3]
    rest = np.argwhere(mine & (inside == POSTERIOR))
    back = np.full(3, np.nan)
    if len(rest):
        back = (rest.mean(axis=0) + first) @ to_lps.T + affine[:3, 3] - centroid
    voxel_ml = abs(float(np.linalg.det(to_lps))) / 1000.0
    spacing = np.linalg.norm(to_lps, axis=0)
    # a voxel of the common grid is the mean over 2.5 mm: what linear interpolation lacks of that is smoothed here
    sigma = np.sqrt(np.maximum(GRID_MM**2 / 12 - spacing**2 / 6, 0.0)) / spacing
    padded = np.pad(body.astype(np.float32), margin)
    return _Cut(gaussian_filter(padded, sigma), first - margin, centroid, back, float(body.sum()) * voxel_ml)


def _sampled(cut: _Cut, inverse: Floats, grid: Floats, shape: tuple[int, int, int]) -> Mask:
    """The mask on a grid of the common frame, 0 to 1."""
    matrix = inverse @ grid
    index = np.indices(shape, np.float32).reshape(3, -1)
    at = matrix[:3, :3] @ index + (matrix[:3, 3] - cut.first)[:, None]
    near = np.all((at > -1) & (at < np.array(cut.mask.shape)[:, None]), axis=0)
    out = np.zeros(index.shape[1], np.float32)
    out[near] = map_coordinates(cut.mask, at[:, near], order=1, mode="constant")
    return out.reshape(shape)


def score_bodies(
    labels: NDArray[np.uint8],
    parts: NDArray[np.uint8],
    affine: Floats,
    bodies: Sequence[Body],
    models: Models,
    settings: AbnormalitySettings | None = None,
    chosen: Collection[int] | None = None,
) -> list[Abnormality]:
    """The score of every body, in the order given.

    Parameters
    ----------
    labels
        (slices, rows, columns): 0, or ``Body.number``.
    parts
        The same shape: 1 vertebral body, 2 posterior elements.
    affine
        (4, 4): index (slice, row, column, 1) to LPS mm.
    bodies
        From head to feet without gaps: a missing vertebra in between would be taken for a neighbour's place. S1 may
        be the last: it is context for L5 and has no score itself.
    chosen
        Places in ``bodies`` of those that are scored; all where ``None``.

    Raises
    ------
    ModelRunError
        When the network fails.
    """
    settings = settings or AbnormalitySettings()
    boxes = find_objects(labels, max_label=max((b.number for b in bodies), default=0))
    cuts = [
        _cut(labels, parts, affine, b.number, boxes[b.number - 1]) if boxes[b.number - 1] is not None else None
        for b in bodies
    ]
    seen = [i for i, cut in enumerate(cuts) if cut is not None]
    turned: dict[int, Floats] = {}
    if seen:
        found = [cuts[i] for i in seen]
        centroids = np.array([c.centroid for c in found if c is not None])
        backs = np.array([c.back for c in found if c is not None])
        turned = dict(zip(seen, frames(centroids, backs), strict=True))
    inverse = np.asarray(np.linalg.inv(affine), np.float64)
    wanted = range(len(bodies)) if chosen is None else chosen
    return [
        _one(i, bodies, cuts, turned, inverse, models, settings) if i in wanted else NOTHING for i in range(len(bodies))
    ]


def _one(
    i: int,
    bodies: Sequence[Body],
    cuts: Sequence[_Cut | None],
    turned: dict[int, Floats],
    inverse: Floats,
    models: Models,
    settings: AbnormalitySettings,
) -> Abnormality:
    body, cut = bodies[i], cuts[i]
    if cut is None or body.partial or not _may_be_scored(body, cut, settings):
        return NOTHING
    frame = turned[i] if body.frame is None else body.frame
    context = np.zeros((1, len(NEIGHBOURS), *CONTEXT_SHAPE), np.float32)
    around = grid_affine(cut.centroid, frame, CONTEXT_SHAPE)
    used = 0
    for channel, step in enumerate(NEIGHBOURS):
        j = i + step
        other = cuts[j] if 0 <= j < len(bodies) else None
        if other is None or bodies[j].partial or not bodies[j].context:
            continue
        sign = 1.0
        if bodies[j].fractured:
            if settings.fractured == "zeros":
                continue
            sign = -1.0
        context[0, channel] = sign * _sampled(other, inverse, around, CONTEXT_SHAPE)
        used += bool(context[0, channel].any())
    if not used:
        return NOTHING
    occupancy = models.run(NETWORK, {"context": context})["expected"][0]
    expected = Expected(occupancy, grid_affine(cut.centroid, frame, BODY_SHAPE))
    actual = _sampled(cut, inverse, expected.affine, BODY_SHAPE)
    steep = np.clip(0.5 + settings.steepness * (occupancy - 0.5), 0.0, 1.0)
    surplus = surplus_of(steep, actual, settings.sigma)
    return Abnormality(score_of(surplus, body.level, settings), surplus, used, expected)


def _may_be_scored(body: Body, cut: _Cut, settings: AbnormalitySettings) -> bool:
    if body.level is None:
        return cut.volume_ml >= settings.smallest_ml
    return body.level[0] in "TL"


def surplus_of(expected: Mask, actual: Mask, sigma: tuple[float, float, float]) -> float:
    """Weighted volume that the expected body has more than the actual one, as a part of its own weighted volume.

    The weight is a Gaussian about the centre of the expected body, in the frame of the vertebra; ``sigma`` is along
    (left, back, up) in extents (twice the root of three times the variance) of the expected body.
    """
    total = float(expected.sum())
    if total <= 0:
        return 0.0
    exponent = np.zeros(expected.shape, np.float32)
    for axis, part in enumerate((sigma[2], sigma[1], sigma[0])):
        index = np.arange(expected.shape[axis], dtype=np.float32)
        profile = expected.sum(axis=tuple(a for a in range(3) if a != axis)) / total
        mean = float((profile * index).sum())
        extent = 2 * float(np.sqrt(3 * max(float((profile * (index - mean) ** 2).sum()), 0.25)))
        term = 0.5 * ((index - mean) / (part * extent)) ** 2
        exponent += term.reshape([-1 if a == axis else 1 for a in range(3)])
    weight = np.exp(-exponent)
    more = np.maximum(expected - actual, 0.0)
    return float((weight * more).sum() / (weight * expected).sum())


def score_of(surplus: float, level: Level | None, settings: AbnormalitySettings) -> float:
    """0 to 100 from the surplus beyond the normal one of the level."""
    table = settings.normal_surplus
    usual = float(np.mean(list(table.values()))) if table else 0.0
    normal = table.get(str(level), usual) if level is not None else usual
    return float(np.clip(100.0 * (surplus - normal) / settings.full_surplus, 0.0, 100.0))
