"""Figures of an evaluation as pure functions of numbers: matching, agreement, areas under curves, intervals.

Nothing here knows a network or a phantom, so that every figure can be tested on cases made by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Case = TypeVar("Case")


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval and how many units it rests on; ``value`` is nan where it has none."""

    value: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2, percent: bool = False) -> str:
        """ "0.93 (0.90 to 0.95), n 150", or "not measured"."""
        if not np.isfinite(self.value):
            return "not measured"
        factor, unit = (100.0, " %") if percent else (1.0, "")
        numbers = [f"{factor * x:.{digits}f}" for x in (self.value, self.low, self.high)]
        return f"{numbers[0]}{unit} ({numbers[1]} to {numbers[2]}), n {self.count}"


def matched(found: Floats, truth: Floats, within_mm: float) -> list[int | None]:
    """For each found point (n, 3) the index of its true point (m, 3), nearest pairs first, each used once."""
    out: list[int | None] = [None] * len(found)
    if not len(found) or not len(truth):
        return out
    distance = np.linalg.norm(found[:, None] - truth[None], axis=2)
    taken: set[int] = set()
    for flat in np.argsort(distance, axis=None, kind="stable"):
        f, t = divmod(int(flat), len(truth))
        if distance[f, t] > within_mm:
            break
        if out[f] is None and t not in taken:
            out[f] = t
            taken.add(t)
    return out


def area_under_curve(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive case scores higher than a negative one, ties count half; nan without both kinds."""
    n, p = int((~positive).sum()), int(positive.sum())
    if n == 0 or p == 0:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2
    return float((rank[inverse][positive].sum() - p * (p + 1) / 2) / (n * p))


def fraction(hits: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Part that is true; nan of nothing."""
    return float(np.mean(hits)) if len(hits) else float("nan")


def slope(true: Floats, measured: Floats) -> float:
    """Slope of the least-squares line of `measured` on `true`; nan of fewer than three or equal ones."""
    if len(true) < 3 or float(np.ptp(true)) < 1e-9:
        return float("nan")
    centred = true - true.mean()
    return float((centred * (measured - measured.mean())).sum() / (centred**2).sum())


@dataclass(frozen=True)
class Agreement:
    """Bland-Altman: mean of (measured - true), limits = mean -+ 1.96 sd, and the correlation beside them."""

    bias: float
    low: float
    high: float
    correlation: float
    count: int

    def text(self, unit: str = "", digits: int = 2) -> str:
        """ "bias -0.10, limits -1.60 to 1.40 mm, r 0.98, n 1500", or "not measured"."""
        if self.count < 3:
            return "not measured"
        b, lo, hi = (f"{x:.{digits}f}" for x in (self.bias, self.low, self.high))
        return f"bias {b}, limits {lo} to {hi}{unit}, r {self.correlation:.2f}, n {self.count}"


def agreement(true: Floats, measured: Floats) -> Agreement:
    """Agreement of paired measurements."""
    if len(true) < 3:
        return Agreement(float("nan"), float("nan"), float("nan"), float("nan"), len(true))
    difference = measured - true
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    spread = float(np.ptp(true)) > 0 and float(np.ptp(measured)) > 0
    r = float(np.corrcoef(true, measured)[0, 1]) if spread else float("nan")
    return Agreement(bias, bias - 1.96 * sd, bias + 1.96 * sd, r, len(true))


def bootstrapped(
    cases: Sequence[Case],
    figure: Callable[[Sequence[Case]], float],
    count: Callable[[Sequence[Case]], int] = len,
    repeats: int = 400,
    seed: int = 1,
) -> Estimate:
    """A figure of patients with its 95 % interval: whole patients are drawn again, since vertebrae of one are alike."""
    value = figure(cases)
    if not len(cases) or not np.isfinite(value):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    drawn = [figure([cases[i] for i in rng.integers(0, len(cases), len(cases))]) for _ in range(repeats)]
    kept = np.array([x for x in drawn if np.isfinite(x)])
    low, high = (float(x) for x in np.percentile(kept, [2.5, 97.5])) if len(kept) else (value, value)
    return Estimate(value, low, high, count(cases))


def dice_of(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice of two masks; 1 where both are empty."""
    both = a.sum() + b.sum()
    return float(2 * (a & b).sum() / both) if both else 1.0


def surface_distance(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """Mean over both surfaces of the distance to the other one, in mm; ``nan`` where a mask is empty."""
    if not a.any() or not b.any():
        return float("nan")
    edges = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
    away = [ndimage.distance_transform_edt(~e, sampling=spacing_mm) for e in edges]
    return float(np.concatenate([away[1][edges[0]], away[0][edges[1]]]).mean())


def specificity_at(score: Floats, positive: NDArray[np.bool_], sensitivity: float = 0.9) -> float:
    """Part of the negative cases below the score that finds ``sensitivity`` of the positive ones; nan without both."""
    if not positive.any() or positive.all():
        return float("nan")
    chosen = np.sort(score[positive])
    return float((score[~positive] < chosen[int((1 - sensitivity) * len(chosen) + 1e-9)]).mean())
