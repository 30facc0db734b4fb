"""Figures of a mask against the truth of a film, as pure functions: pixels, single vertebrae, tables of networks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_models.training.film_truth import FilmTruth, coverage, union
from onnx_models.training.metrics import dice_of

Bools = NDArray[np.bool_]
F32 = NDArray[np.float32]
BINS = 512


@dataclass
class PixelCounts:
    """Histograms of probability over pixels with and without a body; they add up film by film."""

    positive: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    negative: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    @classmethod
    def empty(cls, bins: int = BINS) -> PixelCounts:
        """Nothing counted yet."""
        return cls(np.zeros(bins, np.int64), np.zeros(bins, np.int64))

    def add(self, probability: F32, truth: Bools) -> None:
        """Count one film."""
        count = len(self.positive)
        bins = np.minimum((probability * count).astype(np.int64), count - 1)
        self.positive += np.bincount(bins[truth], minlength=count)
        self.negative += np.bincount(bins[~truth], minlength=count)

    def figures(self, threshold: float = 0.5) -> dict[str, float]:
        """Sensitivity, specificity, accuracy and Dice at the threshold, areas under the ROC and the PR curve."""
        tp = np.cumsum(self.positive[::-1]).astype(float)
        fp = np.cumsum(self.negative[::-1]).astype(float)
        p, n = max(tp[-1], 1.0), max(fp[-1], 1.0)
        count = len(self.positive)
        at = count - 1 - int(threshold * count)
        recall, fall_out = np.concatenate([[0], tp / p]), np.concatenate([[0], fp / n])
        precision = np.concatenate([[1], tp / np.maximum(tp + fp, 1)])
        return {
            "sensitivity": tp[at] / p,
            "specificity": 1 - fp[at] / n,
            "accuracy": (tp[at] + n - fp[at]) / (p + n),
            "dice": 2 * tp[at] / max(tp[at] + p + fp[at], 1.0),
            "roc_auc": float(np.trapezoid(recall, fall_out)),
            "pr_auc": float((np.diff(recall) * precision[1:]).sum()),
        }


def vertebra_dice(found: Bools, truth: FilmTruth) -> dict[str, float]:
    """Dice of each body but S1: a pixel that was found belongs to the true body whose outline's middle is nearest.

    ``truth`` is in index of ``found``.
    """
    bodies = [n for n, name in enumerate(truth.levels) if name != "S1"]
    if not bodies:
        return {}
    index = np.argwhere(found)
    middles = truth.outlines[bodies].mean(1)
    owner = np.linalg.norm(index[:, None] - middles[None], axis=2).argmin(1) if len(index) else np.zeros(0, int)
    out = {}
    for k, n in enumerate(bodies):
        own = np.zeros(found.shape, bool)
        own[tuple(index[owner == k].T)] = True
        out[truth.levels[n]] = dice_of(own, coverage(truth.outlines[n], (found.shape[0], found.shape[1])) > 0.5)
    return out


def body_masks(truth: FilmTruth, field_seen: Bools) -> tuple[Bools, Bools]:
    """(projected sections, silhouettes) of all bodies but S1 within the exposed field."""
    shape = (field_seen.shape[0], field_seen.shape[1])
    sections, shadows = np.zeros(shape, bool), np.zeros(shape, bool)
    for n in np.flatnonzero(~truth.sacral):
        sections |= coverage(truth.outlines[n], shape) > 0.5
        shadows |= union(truth.silhouettes[n], shape) > 0.5
    return sections & field_seen, shadows & field_seen
