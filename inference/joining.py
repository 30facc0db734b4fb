"""One vertebra, one object: what the six points and what the names found of the same vertebra become one finding.

Two findings are of the same vertebra when their centres are near each other. A vertebra whose end plates were found
between two that were named takes the name in between; where none is free the numbering contradicts what was seen, and
no level is claimed at all: a wrong name is the worst result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from inference.findings import Level, Numbering, Quality, VertebraFinding
from inference.labelling import Candidate
from inference.numbering import NamedSequence, worded

SAME_MM = 12.0
"""Centres nearer to each other are of one vertebra: half of the smallest thoracic vertebra with its disc and more."""
SURE = 0.5
"""A candidate without end plates is a vertebra from this confidence on; below S1's own likewise."""
WHOLE_MM = 10.0
"""A centre nearer to the end of the images is that of a vertebra that is cut."""

CONFIRMS = 0.95
"""The most that end plates count for as evidence of a vertebra."""
UNSURE = frozenset({Quality.PARTIAL, Quality.LOW_CONFIDENCE, Quality.OFF_CENTRE_LINE})
CONFIRMS_UNSURELY = 0.8
"""Likewise, where the end plates' own finding bears one of `UNSURE`."""


@dataclass(frozen=True)
class Placed:
    """A vertebra with its place along the spine, from the head; ``named`` by what the numbering says of it."""

    vertebra: VertebraFinding
    place_mm: float


@dataclass(frozen=True)
class Joined:
    """Vertebrae from head to feet, ordinals from 1, and how they are counted."""

    vertebrae: tuple[VertebraFinding, ...]
    places_mm: tuple[float, ...]
    numbering: Numbering | None


def join(
    measured: Sequence[Placed],
    candidates: Sequence[Candidate],
    places_mm: Sequence[float],
    sequence: NamedSequence,
) -> Joined:
    """Join vertebrae known by their end plates with candidates and their names.

    Parameters
    ----------
    measured
        Head to feet.
    candidates, places_mm
        Head to feet, with their places on the same scale.
    sequence
        What `inference.numbering.number` said of ``candidates``.
    """
    kept = {i: n for n, i in enumerate(sequence.kept)}
    partner = _partners(measured, candidates, list(kept))
    nearest = _partners(measured, candidates, range(len(candidates))) | partner
    joined: list[tuple[Placed, int | None]] = []
    for k, one in enumerate(measured):
        said = kept[partner[k]] if k in partner else None
        vertebra = one.vertebra
        if said is not None:
            vertebra = replace(vertebra, level=sequence.levels[said], level_confidence=sequence.confidences[said])
        joined.append((Placed(vertebra, one.place_mm), nearest.get(k)))
    met = set(partner.values())
    for i, n in kept.items():
        if i not in met and _is_vertebra(candidates[i], n, sequence):
            joined.append((Placed(_without_end_plates(candidates[i], n, sequence), float(places_mm[i])), i))
    joined.sort(key=lambda one: one[0].place_mm)
    numbering = _numbering(sequence)
    vertebrae = [placed.vertebra for placed, _ in joined]
    if numbering.known:
        filled = _filled(vertebrae, numbering.absent)
        if filled is None:
            vertebrae = [replace(v, level=None, level_confidence=None) for v in vertebrae]
            likeliest = f"{worded(_claimed(sequence), sequence.unseen)} ({numbering.confidence:.2f})"
            numbering = Numbering("", 0.0, (likeliest,))
        else:
            vertebrae = [replace(v, quality=(*v.quality, Quality.NOT_NAMED)) if v.level is None else v for v in filled]
    sacrum = _sacrum_from([i for _, i in joined], candidates, sequence)
    vertebrae[sacrum:] = [
        replace(v, quality=(*v.quality, Quality.LIKELY_SACRUM)) if v.level is None else v for v in vertebrae[sacrum:]
    ]
    counted = tuple(replace(v, ordinal=n) for n, v in enumerate(vertebrae, start=1))
    return Joined(counted, tuple(placed.place_mm for placed, _ in joined), numbering if candidates else None)


def confirmed(candidates: Sequence[Candidate], measured: Sequence[Placed]) -> tuple[Candidate, ...]:
    """Candidates with the six points as further evidence: where end plates were found too, a vertebra is surer.

    Two networks that see the same body in different pictures err apart, but both learnt from the same phantoms: the
    second never counts for more than `CONFIRMS`, and for less where its own finding is flagged as unsure or cut. End
    plates without a candidate make none: `join` decides what becomes of them.
    """
    partners = _partners(measured, candidates, range(len(candidates)))
    surest = {i: _evidence(measured[k].vertebra) for k, i in partners.items()}
    return tuple(
        replace(c, confidence=1.0 - (1.0 - c.confidence) * (1.0 - surest.get(i, 0.0))) for i, c in enumerate(candidates)
    )


def _evidence(vertebra: VertebraFinding) -> float:
    """How far six points speak for a vertebra, 0 to 1."""
    most = CONFIRMS if UNSURE.isdisjoint(vertebra.quality) else CONFIRMS_UNSURELY
    return min(vertebra.confidence, most)


def _partners(measured: Sequence[Placed], candidates: Sequence[Candidate], kept: Sequence[int]) -> dict[int, int]:
    """Index of a measured vertebra to that of its candidate: the nearest pairs first, each once."""
    pairs = []
    for k, one in enumerate(measured):
        centre = np.array(one.vertebra.centroid_lps_mm)
        for i in kept:
            distance = float(np.linalg.norm(candidates[i].centroid_lps_mm - centre))
            if distance < SAME_MM:
                pairs.append((distance, k, i))
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for _, k, i in sorted(pairs):
        if k not in partner and i not in taken:
            partner[k] = i
            taken.add(i)
    return partner


def _is_vertebra(candidate: Candidate, n: int, sequence: NamedSequence) -> bool:
    """Whether a candidate stands for a vertebra of its own: sure, and not the sacrum, known or likely."""
    return candidate.confidence >= SURE and _likeliest(n, sequence) is not Level.S1 and candidate.sacrum < SURE


def _likeliest(n: int, sequence: NamedSequence) -> Level | None:
    """The name of one of ``sequence.kept``; where the numbering is not known, by the likeliest of all."""
    level = sequence.levels[n]
    return sequence.alternatives[0][0][n] if level is None and sequence.alternatives else level


def _sacrum_from(candidate_of: Sequence[int | None], candidates: Sequence[Candidate], sequence: NamedSequence) -> int:
    """Index of the uppermost of the vertebrae at the lower end that are likely the sacrum; their number: none is.

    What no candidate belongs to is of the sacrum where it lies below a vertebra that is.
    """
    kept = {i: n for n, i in enumerate(sequence.kept)}
    first = len(candidate_of)
    for k, i in reversed(list(enumerate(candidate_of))):
        if i is None:
            continue
        named = sequence.levels[kept[i]] if i in kept else None
        likeliest = _likeliest(kept[i], sequence) if i in kept else None
        if likeliest is not Level.S1 and (named is not None or candidates[i].sacrum < SURE):
            break
        first = k
    return first


def _without_end_plates(candidate: Candidate, n: int, sequence: NamedSequence) -> VertebraFinding:
    x, y, z = (float(v) for v in candidate.centroid_lps_mm)
    return VertebraFinding(
        0,
        (x, y, z),
        level=sequence.levels[n],
        level_confidence=sequence.confidences[n],
        confidence=min(candidate.confidence, 1.0),
        quality=(Quality.PARTIAL,) if candidate.edge_mm < WHOLE_MM else (Quality.NO_END_PLATES,),
    )


def _numbering(sequence: NamedSequence) -> Numbering:
    if sequence.numbering is not None:
        return sequence.numbering
    return Numbering("", 0.0, sequence.alternatives_in_words)


def _claimed(sequence: NamedSequence) -> tuple[Level, ...]:
    return tuple(level for level in sequence.levels if level is not None)


def _filled(vertebrae: Sequence[VertebraFinding], absent: Sequence[Level]) -> list[VertebraFinding] | None:
    """Vertebrae between two named ones take the free names; ``None`` where there are more of them than names.

    A level that the numbering says this spine lacks is not free: end plates in its place contradict it.
    """
    seen = {v.level for v in vertebrae if v.level is not None}
    rungs = [x for x in Level if (x not in (Level.T13, Level.L6) or x in seen) and x not in absent]
    out = list(vertebrae)
    named = [i for i, v in enumerate(out) if v.level is not None]
    for above, below in pairwise(named):
        upper, lower = out[above].level, out[below].level
        assert upper is not None and lower is not None
        if rungs.index(lower) <= rungs.index(upper):
            return None
        free = rungs[rungs.index(upper) + 1 : rungs.index(lower)]
        between = below - above - 1
        if between == 0:
            continue
        if between != len(free):
            return None
        least = min(out[above].level_confidence or 0.0, out[below].level_confidence or 0.0)
        for i, level in zip(range(above + 1, below), free, strict=True):
            out[i] = replace(out[i], level=level, level_confidence=least)
    return out
