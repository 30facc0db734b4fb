"""Where a vertebra was not seen between two that were: by their names or, where one has none, by the distance."""

from __future__ import annotations

from itertools import pairwise

from inference.findings import Findings, Quality, VertebraFinding

Gap = tuple[VertebraFinding, VertebraFinding]
"""The vertebrae above and below."""


def gaps(findings: Findings) -> tuple[Gap, ...]:
    """Pairs of vertebrae, from the top, between which at least one was not seen."""
    return tuple(pair for pair in pairwise(findings.vertebrae) if Quality.GAP_BELOW in pair[0].quality)


def gaps_text(findings: Findings) -> str:
    """ "between V2 and V3 at least one vertebra was not seen"; empty where none is known to be missing."""
    where = [f"between {above.name} and {below.name}" for above, below in gaps(findings)]
    if not where:
        return ""
    return f"{' and '.join(where)} at least one vertebra {'each ' if len(where) > 1 else ''}was not seen"
