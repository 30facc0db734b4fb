"""From the network's maps to vertebrae: anchors, decoding, one cluster per vertebra (Pisov et al. 2020, section 3.2).

The network predicts, at every pixel of the straightened picture and for each of 16 anchor boxes, whether a vertebra
fills that box and where its six key points lie relative to it. Nothing is limited to a number of candidates: every
candidate above the threshold belongs to exactly one cluster, so that a long spine keeps all its vertebrae.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALES_MM = (17.0, 23.0, 28.0, 35.0)
RATIOS = (0.8, 1.1, 1.3, 2.0)
ANCHORS = np.array([(s * r**0.5, s / r**0.5) for s in SCALES_MM for r in RATIOS])
"""(16, 2): width (columns) and height (rows) of the anchor boxes in pixels of 1 mm; a box has the area scale squared,
and width = ratio x height."""

WINDOW_HU = (-200.0, 1000.0)
CENTRE_HU, SCALE_HU = 150.0, 200.0

Floats = NDArray[np.float64]


def normalised(hu: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """HU of any shape to the network's input: cut to `WINDOW_HU`, minus 150, divided by 200."""
    return np.asarray((np.clip(hu, *WINDOW_HU) - CENTRE_HU) / SCALE_HU, np.float32)


@dataclass(frozen=True)
class Detection:
    """One vertebra on the straightened picture.

    Attributes
    ----------
    points
        (6, 2) as (row, column) in pixels, in the order of `inference.findings.KEYPOINTS`.
    confidence
        0 to 1: the best objectness of its cluster, less where few candidates agree.
    spread_mm
        Largest standard deviation of a key point over what voted for it.
    disagreement_mm
        Largest difference of a height as told from the middle of the body and as told at the end plates.
    """

    points: Floats
    confidence: float
    spread_mm: float
    disagreement_mm: float = 0.0

    @property
    def centre(self) -> Floats:
        """(2,) as (row, column): mean of the six points."""
        return np.asarray(self.points.mean(axis=0))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Smallest box (top, left, bottom, right) around the six points."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def boxes_of(points: Floats) -> Floats:
    """(n, 6, 2) points as (row, column) to (n, 4) boxes as (top, left, bottom, right)."""
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def overlap(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of one box (4,) with boxes (n, 4), each (top, left, bottom, right)."""
    top_left = np.maximum(box[:2], boxes[:, :2])
    bottom_right = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(bottom_right - top_left, 0, None), axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared
    return np.asarray(shared / np.maximum(area, 1e-9))


def candidates(
    objectness: NDArray[np.float32], keypoints: NDArray[np.float32], threshold: float
) -> tuple[Floats, Floats]:
    """Every anchor above the threshold: points (n, 6, 2) as (row, column) in pixels, and objectness (n,).

    Left out are those whose points are not `plausible`.

    Parameters
    ----------
    objectness
        (16, rows, columns), 0 to 1.
    keypoints
        (16, 12, rows, columns): for each key point (e_x, e_y), with g_x = a_x + e_x a_w and g_y = a_y + e_y a_h
        (eq. 2), where a_x is the column and a_y the row of the pixel.
    """
    anchor, row, column = np.nonzero(objectness >= threshold)
    encoded = keypoints[anchor, :, row, column].reshape(-1, 6, 2).astype(np.float64)
    x = column[:, None] + encoded[..., 0] * ANCHORS[anchor, 0][:, None]
    y = row[:, None] + encoded[..., 1] * ANCHORS[anchor, 1][:, None]
    points = np.stack([y, x], axis=-1)
    possible = plausible(points)
    return points[possible], objectness[anchor, row, column].astype(np.float64)[possible]


def decode(
    objectness: NDArray[np.float32],
    keypoints: NDArray[np.float32],
    *,
    threshold: float = 0.3,
    same_overlap: float = 0.4,
    keep_overlap: float = 0.15,
    full_support: float = 40.0,
) -> list[Detection]:
    """Vertebrae from the head downward.

    The best candidate gathers all candidates whose boxes overlap its own by more than ``same_overlap``; they vote,
    each with its squared objectness, for the points. Candidates that overlap the result by more than
    ``keep_overlap`` are spent. So it goes on until none is left: there is no limit to the number of vertebrae.

    Parameters
    ----------
    objectness, keypoints
        As in `candidates`.
    full_support
        Summed objectness from which the confidence is that of the best candidate; below it falls in proportion.
    """
    points, scores = candidates(objectness, keypoints, threshold)
    boxes = boxes_of(points)
    order = np.argsort(-scores, kind="stable")
    free = np.ones(len(scores), bool)
    found: list[Detection] = []
    for best in order:
        if not free[best]:
            continue
        members = free & (overlap(boxes[best], boxes) > same_overlap)
        members[best] = True
        weight = scores[members] ** 2
        mean = np.einsum("n,nkd->kd", weight, points[members]) / weight.sum()
        variance = np.einsum("n,nkd->kd", weight, (points[members] - mean) ** 2) / weight.sum()
        box = boxes_of(mean[None])[0]
        free &= ~members
        free &= overlap(box, boxes) <= keep_overlap
        support = min(1.0, float(scores[members].sum()) / full_support)
        spread = float(np.sqrt(variance.sum(axis=1).max()))
        found.append(Detection(mean, float(scores[members].max()) * support, spread))
    return sorted(_distinct(found, keep_overlap), key=lambda d: d.centre[0])


def chained(found: list[Detection], *, longest_gap: float = 3.2, few: int = 2) -> list[Detection]:
    """Vertebrae that follow each other; a few that lie far from all others (in the pelvis, in the skull) are dropped.

    Parameters
    ----------
    found
        From the head downward.
    longest_gap
        Two neighbours belong together when their centres are at most this many times their mean height apart; a
        vertebra that was missed makes it up to 2.9.
    few
        A group of so many or fewer is dropped where there is a larger one.
    """
    groups: list[list[Detection]] = []
    for detection in found:
        if groups and _apart(groups[-1][-1], detection) <= longest_gap:
            groups[-1].append(detection)
        else:
            groups.append([detection])
    most = max((len(g) for g in groups), default=0)
    return [d for g in groups if len(g) > few or len(g) == most for d in g]


def _apart(upper: Detection, lower: Detection) -> float:
    """Distance of their centres in units of their mean posterior height."""
    height = (heights_of(upper.points)[2] + heights_of(lower.points)[2]) / 2
    return float(np.linalg.norm(lower.centre - upper.centre) / max(height, 1.0))


def refined(
    detection: Detection,
    nearby: NDArray[np.float32],
    *,
    rounds: int = 2,
    reach: int = 2,
    furthest_mm: float = 8.0,
    weight: float = 0.75,
) -> Detection:
    """The same vertebra with each point moved to where the pixels around it say it is.

    Points told from the middle of a body drift towards the mean shape; the pixels at the end plate see it.

    Parameters
    ----------
    nearby
        (12, rows, columns): (x, y) from each pixel to the nearest key point of each kind.
    rounds
        So often every point is replaced by the mean vote of the pixels up to ``reach`` away from it.
    furthest_mm
        A point that would move farther than this stays where it was.
    weight
        Share of the votes in the result; the rest is where the point was (held-out phantoms: .7 to .9 are best).
    """
    shape = np.array(nearby.shape[1:])
    around = np.stack(np.meshgrid(*(np.arange(-reach, reach + 1),) * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    points = detection.points.copy()
    spread = 0.0
    for k in range(6):
        at = points[k]
        votes = at[None]
        for _ in range(rounds):
            pixel = np.clip(np.rint(at).astype(int) + around, 0, shape - 1)
            way = nearby[2 * k : 2 * k + 2, pixel[:, 0], pixel[:, 1]].T[:, ::-1]
            votes = pixel + way.astype(np.float64)
            at = votes.mean(axis=0)
        if np.linalg.norm(at - points[k]) <= furthest_mm:
            points[k] = at
            spread = max(spread, float(np.sqrt(votes.var(axis=0).sum())))
    heights = heights_of(detection.points)
    disagreement = float(np.abs(heights_of(points) - heights).max())
    points = weight * points + (1 - weight) * detection.points
    if not plausible(points):
        return replace(detection, disagreement_mm=disagreement)
    return Detection(points, detection.confidence, spread, disagreement)


def heights_of(points: Floats) -> Floats:
    """(..., 3) anterior, middle and posterior height of points (..., 6, 2), in pixels."""
    return np.asarray(np.linalg.norm(points[..., 0::2, :] - points[..., 1::2, :], axis=-1))


def _distinct(found: list[Detection], keep_overlap: float) -> list[Detection]:
    """Of two detections that cover each other, the more confident one."""
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda d: -d.confidence):
        box = np.array(detection.box)
        others = np.array([k.box for k in kept]).reshape(-1, 4)
        if not kept or (overlap(box, others).max() <= keep_overlap and not _within(detection, kept)):
            kept.append(detection)
    return kept


def _within(detection: Detection, kept: list[Detection]) -> bool:
    """Whether its centre lies between the end plates of one that is kept."""
    row = detection.centre[0]
    return any(k.points[0::2, 0].mean() < row < k.points[1::2, 0].mean() for k in kept)


def plausible(points: Floats) -> NDArray[np.bool_]:
    """Whether six points (..., 6, 2) as (row, column) can be a vertebral body.

    Upper points above lower ones, anterior in front of middle in front of posterior, heights of 4 to 50 mm.
    """
    upper, lower = points[..., 0::2, :], points[..., 1::2, :]
    heights = heights_of(points)
    upright = np.all(lower[..., 0] > upper[..., 0], axis=-1)
    columns = (upper[..., 1] + lower[..., 1]) / 2
    ordered = np.all(np.diff(columns, axis=-1) > 4, axis=-1)
    return np.asarray(upright & ordered & np.all((heights > 4) & (heights < 50), axis=-1))
