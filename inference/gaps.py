"""Below which vertebrae one was not seen: by the names where both neighbours have one, else by the distance.

A numbering weighs names, distances and what is seen together, so where it names two vertebrae their distance has no
second vote: T7 and T9 lie apart by one that was not seen however near they are, T8 and T9 are neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inference.findings import Level, Quality, VertebraFinding

MISSING_RATIO = 1.6
"""A distance so many times the usual one holds a vertebra that was not seen."""
VARIANTS = (Level.T13, Level.L6)
"""Most people lack them: they are missed only where nobody knows better."""
_ORDER = list(Level)


def by_distance(centres: NDArray[np.float64]) -> list[int]:
    """How many vertebrae are missing between each and the next one, by the distances around.

    Parameters
    ----------
    centres
        (n, 3) from head to feet, in any unit. The answer has n - 1 numbers.
    """
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    missing = []
    for n, step in enumerate(steps):
        near = np.delete(steps[max(n - 2, 0) : n + 3], min(n, 2))
        ratio = float(step / np.median(near)) if len(near) else 1.0
        missing.append(max(1, round(ratio) - 1) if ratio > MISSING_RATIO else 0)
    return missing


def missing_between(levels: Sequence[Level | None], apart: Sequence[int], absent: Collection[Level] = ()) -> list[int]:
    """How many vertebrae are missing between each and the next one.

    Parameters
    ----------
    levels
        From head to feet; ``None`` where a vertebra has no name.
    apart
        The same by the distance, for neighbours of which one has no name: one number less than ``levels``.
    absent
        Levels that this spine lacks (``Numbering.absent``).
    """
    named = pairwise(levels)
    return [
        far if above is None or below is None else _between(above, below, absent)
        for (above, below), far in zip(named, apart, strict=True)
    ]


def _between(above: Level, below: Level, absent: Collection[Level]) -> int:
    rungs = _ORDER[_ORDER.index(above) + 1 : _ORDER.index(below)]
    return sum(level not in VARIANTS and level not in absent for level in rungs)


def with_gaps(vertebrae: Sequence[VertebraFinding], missing: Sequence[int]) -> tuple[VertebraFinding, ...]:
    """Flagged ``GAP_BELOW`` where the next one below was not seen; ``missing`` as `missing_between` gives it."""
    return tuple(
        replace(v, quality=(*v.quality, Quality.GAP_BELOW)) if count else v
        for v, count in zip(vertebrae, [*missing, 0][: len(vertebrae)], strict=True)
    )
