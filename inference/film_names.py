"""Names of the vertebrae on a film: only where the sacrum is seen below them, else they are counted from the top.

Vertebrae of one region differ by size alone, so a film without an anchor has no names. Above the sacrum the lowest
vertebra is L5 in most people, L6 or L4 in some: the names are as probable as that. They are counted upwards as far as
the count is sure: a vertebra that was not seen, one seen as two or two as one, end it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from inference.film_bodies import FilmBodies, FilmBody
from inference.findings import Level, Numbering
from inference.numbering import NumberingSettings

LUMBAR = {4: Level.L4, 5: Level.L5, 6: Level.L6}
_LADDER = [level for level in Level if level not in (Level.T13, Level.L6, Level.S1)]


@dataclass(frozen=True)
class NameSettings:
    """Priors and limits.

    Attributes
    ----------
    lumbar
        Prior of each number of lumbar vertebrae.
    sure_sacrum
        Mean probability from which on S1 is an anchor.
    sure_body
        Mean probability below which a body ends the count.
    regular
        A distance between two neighbours ends the count below and above these parts of the median of those around it.
    known
        Least probability for which a name is given.
    """

    lumbar: dict[int, float] = field(default_factory=lambda: NumberingSettings().lumbar)
    sure_sacrum: float = 0.94
    sure_body: float = 0.9
    regular: tuple[float, float] = (0.7, 1.4)
    known: float = 0.5


@dataclass(frozen=True)
class FilmNames:
    """Levels and their probabilities, one for each body; and how they were counted (``None``: they are not known)."""

    levels: tuple[Level | None, ...]
    confidences: tuple[float | None, ...]
    numbering: Numbering | None


def named(found: FilmBodies, settings: NameSettings) -> FilmNames:
    """Names of the bodies of a film, from the head."""
    nothing = (None,) * len(found.bodies)
    if not found.bodies or found.sacrum_probability < settings.sure_sacrum:
        return FilmNames(nothing, nothing, None)
    confidence = found.sacrum_probability * settings.lumbar[5]
    if confidence < settings.known:
        return FilmNames(nothing, nothing, None)
    count = min(_countable(found.bodies[::-1], settings), _LADDER.index(Level.L5) + 1)
    unnamed = len(found.bodies) - count
    levels = _LADDER[_LADDER.index(Level.L5) + 1 - count : _LADDER.index(Level.L5) + 1]
    others = sorted(((n, p) for n, p in settings.lumbar.items() if n != 5), key=lambda other: -other[1])
    alternatives = tuple(f"the lowest is {LUMBAR[n]} ({p * found.sacrum_probability:.2f})" for n, p in others)
    numbering = Numbering("sacrum", confidence, alternatives) if count else None
    return FilmNames((*nothing[:unnamed], *levels), (*nothing[:unnamed], *(confidence,) * count), numbering)


def _countable(upwards: Sequence[FilmBody], settings: NameSettings) -> int:
    """How many bodies, from the sacrum upwards, follow each other with no doubt that one is missing or there twice."""
    centres = np.array([body.centre for body in upwards])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    for n, body in enumerate(upwards):
        if body.probability < settings.sure_body or not body.seeded:
            return n
        if n == 0:
            continue
        around = np.delete(steps, n - 1)[max(n - 3, 0) : n + 1]
        ratio = float(steps[n - 1] / np.median(around)) if len(around) else 1.0
        low, high = settings.regular
        if body.place != upwards[n - 1].place - 1 or not low <= ratio <= high:
            return n
    return len(upwards)
