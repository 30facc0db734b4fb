"""Rows of the bench, and how a ratio is measured: interleaved pairs, ours, the peer, ours, the peer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

PAIRS = 7


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
        theirs = "not measured" if self.peer_value is None else f"{self.peer_value:.3g}"
        peer = "" if self.peer is None else f"{self.peer}: {theirs}"
        ratio = "" if self.ratio is None else f"ratio {self.ratio:.2f}"
        return f"{self.name:60} {self.value:8.3g} {self.unit:12} {peer:36} {ratio} ({self.runs})"


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
