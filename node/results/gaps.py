"""Where on a radiograph, by the distance, a vertebra was not seen between two that were."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from inference.findings import Findings, Quality, VertebraFinding

Gap = tuple[VertebraFinding, VertebraFinding]
"""The vertebrae above and below."""
AS_FAR = 0.75
"""Within a row of flagged vertebrae a pair is a gap where it is this much as far apart as the nearer of the outer two,
which are gaps for certain: true neighbours are half as far apart, or less."""


def gaps(findings: Findings) -> tuple[Gap, ...]:
    """Pairs of vertebrae, from the top, between which at least one was not seen.

    Both are flagged ``NEIGHBOUR_NOT_SEEN``, which does not say on which side: up to three flagged ones in a row there
    is only one way to understand it, of more the distances tell.
    """
    found: list[Gap] = []
    row: list[VertebraFinding] = []
    for vertebra in findings.vertebrae:
        if Quality.NEIGHBOUR_NOT_SEEN in vertebra.quality:
            row.append(vertebra)
        else:
            found += _within(row)
            row = []
    return (*found, *_within(row))


def _within(row: Sequence[VertebraFinding]) -> list[Gap]:
    pairs = list(pairwise(row))
    if len(pairs) < 3:
        return pairs
    far = AS_FAR * min(_distance(pairs[0]), _distance(pairs[-1]))
    return [pairs[0], *(pair for pair in pairs[1:-1] if _distance(pair) >= far), pairs[-1]]


def _distance(pair: Gap) -> float:
    above, below = (np.array(v.centroid_px or (0.0, 0.0)) for v in pair)
    return float(np.linalg.norm(below - above))


def gaps_text(findings: Findings) -> str:
    """ "between V2 and V3 at least one vertebra was not seen"; empty where none is known to be missing."""
    where = [f"between {above.name} and {below.name}" for above, below in gaps(findings)]
    if not where:
        return ""
    return f"{' and '.join(where)} at least one vertebra {'each ' if len(where) > 1 else ''}was not seen"
