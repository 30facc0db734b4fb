"""Rows of the bench, and how a ratio is measured: interleaved pairs, ours, the peer, ours, the peer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

PAIRS = 7
WIDTH = 76
"""Of a name; nearly all are shorter."""


@dataclass(frozen=True)
class Row:
    """One line of the bench; ``None`` where it was not measured."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    runs: int = 1

    @property
    def more_is_better(self) -> bool:
        """Whether this is a rate; all else is a cost."""
        return self.unit.endswith("/s")

    def line(self) -> str:
        """For a terminal."""
        theirs = "not measured" if self.peer_value is None else f"{_short(self.peer_value)}"
        peer = "" if self.peer is None else f"{self.peer}: {theirs}"
        ratio = "" if self.ratio is None else f"ratio {self.ratio:.2f}"
        return f"{self.name:{WIDTH}} {_short(self.value):>8} {self.unit:12} {peer:36} {ratio:10} ({self.runs})"


def _short(value: float) -> str:
    """Three figures, and never a power of ten: 1240, not 1.24e+03."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.4f}"


def paired(
    name: str,
    unit: str,
    ours: Callable[[], float],
    peer: str,
    theirs: Callable[[], float] | None,
    pairs: int = PAIRS,
) -> Row:
    """Medians of interleaved runs; the ratio is the median of the pairs' ratios."""
    measured = [(ours(), theirs() if theirs is not None else None) for _ in range(pairs)]
    value = statistics.median(pair[0] for pair in measured)
    both = [(mine, other) for mine, other in measured if other is not None]
    if not both:
        return Row(name, value, unit, peer, None, None, pairs)
    ratio = statistics.median(mine / other for mine, other in both)
    return Row(name, value, unit, peer, statistics.median(other for _, other in both), ratio, pairs)
