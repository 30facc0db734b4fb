"""Names of the vertebrae on a film: only where the sacrum is seen below them, else they are counted from the top.

Vertebrae of one region differ by size alone, so a film without an anchor has no names. Above the sacrum the lowest
vertebra is L5 in most people, L6 or L4 in some: the names are as probable as that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.film_bodies import FilmBodies
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
    across_a_gap
        Probability that the number of vertebrae that were not seen, told by the distance between two others, is right.
    sure_sacrum
        Mean probability from which on S1 is an anchor.
    known
        Least probability for which a name is given.
    """

    lumbar: dict[int, float] = field(default_factory=lambda: NumberingSettings().lumbar)
    across_a_gap: float = 0.8
    sure_sacrum: float = 0.7
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
    lowest = found.bodies[-1].place
    probability = found.sacrum_probability * settings.lumbar[5]
    levels: list[Level | None] = []
    confidences: list[float | None] = []
    below = lowest
    for body in reversed(found.bodies):
        if below - body.place > 1:
            probability *= settings.across_a_gap
        below = body.place
        rung = _LADDER.index(Level.L5) - (lowest - body.place)
        given = rung >= 0 and probability >= settings.known
        levels.append(_LADDER[rung] if given else None)
        confidences.append(probability if given else None)
    others = sorted(((n, p) for n, p in settings.lumbar.items() if n != 5), key=lambda other: -other[1])
    alternatives = tuple(f"the lowest is {LUMBAR[n]} ({p * found.sacrum_probability:.2f})" for n, p in others)
    confidence = found.sacrum_probability * settings.lumbar[5]
    if confidence < settings.known:
        return FilmNames(nothing, nothing, None)
    return FilmNames(tuple(levels[::-1]), tuple(confidences[::-1]), Numbering("sacrum", confidence, alternatives))
