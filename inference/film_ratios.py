"""Ratios of heights on a film, and their grades. Heights may be in mm or in any other unit: only ratios are taken.

The vertebral compression ratio compares the anterior height with the mean of those of both neighbours,

    VCR = [1 - V2 / ((V1 + V3) / 2)] x 100 %            (eq. 2 of the method)

A neighbour that is fractured itself would hide a fracture, so the next healthy vertebra takes its place, and that is
said. Where the two then lie at different distances, the expected height is taken at the vertebra's place on the line
between them, which is the mean where they do not. Without one on each side there is no VCR. A vertebra taller than its
neighbours has a negative one. VCR alone misses a vertebra whose back wall fell with the front and one beside fractures;
so its heights stand also against its own posterior one, and all three against both neighbours' (``height-loss/1``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from inference import grading
from inference.findings import Heights, Quality, VertebraFinding
from inference.grading import NO_REFERENCE, GradingRule, expectations, height_ratio

FARTHEST = 3
"""Places from a vertebra within which its references lie."""


@dataclass(frozen=True)
class Compression:
    """The compression of one vertebra against two others.

    Attributes
    ----------
    percent
        VCR.
    references
        Ordinals of the vertebra above and below that it was compared with.
    replaced
        Whether one of them is not the next vertebra: that one was fractured, partial or not seen.
    """

    percent: float
    references: tuple[int, int]
    replaced: bool


def relative_heights(heights: Heights) -> Heights:
    """Heights over the own posterior height: 1 - anterior is the loss against it, 1 - middle that of the middle."""
    return Heights(*(h / heights.posterior for h in heights.as_tuple()))


def compression_ratios(
    heights: Sequence[Heights | None], places: Sequence[int], healthy: Sequence[bool]
) -> list[Compression | None]:
    """The compression of each vertebra, given from the head; ``None``: no height, or no healthy one on both sides.

    Parameters
    ----------
    heights
        In any one unit; ``None`` where not measured.
    places
        Whole numbers, rising; neighbours differ by 1, by more where vertebrae lie between that were not seen.
    healthy
        Which may be references.

    Raises
    ------
    ValueError
        When the sequences differ in length or places do not rise.
    """
    if not len(heights) == len(places) == len(healthy):
        raise ValueError("heights, places and references must have the same length")
    if any(b <= a for a, b in pairwise(places)):
        raise ValueError("places must rise from the head")
    anterior = [h.anterior if h is not None else None for h in heights]
    out: list[Compression | None] = []
    for i, own in enumerate(anterior):
        usable = [
            k for k in range(len(places)) if healthy[k] and anterior[k] and abs(places[k] - places[i]) <= FARTHEST
        ]
        above = max((k for k in usable if k < i), default=None)
        below = min((k for k in usable if k > i), default=None)
        if own is None or above is None or below is None:
            out.append(None)
            continue
        share = (places[i] - places[above]) / (places[below] - places[above])
        upper, lower = anterior[above] or 0.0, anterior[below] or 0.0
        expected = upper + (lower - upper) * share
        replaced = places[i] - places[above] > 1 or places[below] - places[i] > 1
        out.append(Compression(100 * (1 - own / expected), (above + 1, below + 1), replaced))
    return out


def healthy_ones(
    heights: Sequence[Heights | None], positions: Sequence[float], may_refer: Sequence[bool], rule: GradingRule
) -> list[bool]:
    """Which vertebrae may be references of a compression ratio.

    Those that ``height-loss/1`` refers to; and of the ends of the view, whose loss it cannot tell, only those whose own
    ratio G is not that of a moderate fracture.
    """
    said = expectations(heights, positions, may_refer)
    return [
        h is not None and e.reference and (e.loss is not None or rule.by_ratio(height_ratio(h)).rank < 2)
        for h, e in zip(heights, said, strict=True)
    ]


def graded(
    vertebrae: Sequence[VertebraFinding],
    heights: Sequence[Heights | None],
    places: Sequence[int],
    positions: Sequence[float],
    spacing: float,
    rule: GradingRule,
) -> tuple[tuple[VertebraFinding, ...], list[Compression | None]]:
    """Vertebrae of a film, from the head, with their ratios and grades; and how each was compared.

    A compression ratio is told where all three vertebrae are sure, that is not flagged ``LOW_CONFIDENCE``; no loss is
    one against a vertebra that is not.

    Parameters
    ----------
    vertebrae
        Their ``heights_mm`` stay as they are: ``None`` where the film is not calibrated.
    heights
        The same heights in whatever unit the film has; ``None`` where not measured.
    places, positions
        Place in the sequence, and distance along the spine in any unit; both rise.
    spacing
        Spacing in mm of the grid on which heights were measured.

    Returns
    -------
    The vertebrae with ``height_ratio``, ``height_loss``, ``grade``, ``rule``, ``compression_ratio_percent``,
    ``compared_with`` and ``relative_heights`` set; and of each its `Compression`.

    Raises
    ------
    ValueError
        As `inference.grading.expectations`.
    """
    in_one_unit = [replace(v, heights_mm=h) for v, h in zip(vertebrae, heights, strict=True)]
    said = grading.grade(in_one_unit, spacing, rule, positions, NO_REFERENCE)
    whole = [h if Quality.PARTIAL not in v.quality else None for v, h in zip(said, heights, strict=True)]
    may_refer = [grading.may_be_reference(v.level) and NO_REFERENCE.isdisjoint(v.quality) for v in said]
    healthy = healthy_ones(whole, positions, may_refer, rule)
    sure = [h if Quality.LOW_CONFIDENCE not in v.quality else None for v, h in zip(said, whole, strict=True)]
    compressed = compression_ratios(sure, places, healthy)
    return tuple(
        replace(
            after,
            heights_mm=before.heights_mm,
            relative_heights=relative_heights(h) if h is not None else None,
            compression_ratio_percent=c.percent if c is not None else None,
            compared_with=c.references if c is not None else None,
        )
        for before, after, h, c in zip(vertebrae, said, whole, compressed, strict=True)
    ), compressed
