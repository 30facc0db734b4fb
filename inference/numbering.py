"""One consistent sequence of names, or the statement that the numbering is not known.

A *ladder* is the order of names of one kind of person: 11 to 13 thoracic and 4 to 6 lumbar vertebrae, each with its
prior. A *sequence* puts candidates on the rungs of a ladder, head to feet: candidates may be dropped, rungs may be
skipped, distances must fit. Its weight is the product of what is seen at each candidate (a rib, the sacrum, the axis),
of the names by looks, of the distances, and of the ladder. Looks may be off by one rung, all of a view together: a
network that has learned from phantoms takes size and shape for a count. So they tell the region, but hardly the
count; what is seen and the prior of the ladder decide it. Sums over all sequences (forward-backward) give the
probability of each name; nothing is decided greedily.

**Without an anchor the numbering is not known**, whatever the sum says: vertebrae of one region differ by size alone,
and size differs more between people. Anchors are the sacrum, the last rib (a vertebra with ribs above one without) and
the axis (C2), each seen at its own place, whole and not inferred from the count. L6 and T13 are rungs of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from inference.findings import Level, Numbering
from inference.labelling import LEVELS, Candidate

Floats = NDArray[np.float64]
NONE = -1e30
"""Logarithm of nothing."""
NEGLIGIBLE = 0.05
"""Part of a sequence's probability below which an explanation of it is left out of what is told."""
LONGEST_STEP = 3
"""Rungs from one candidate to the next, and candidates dropped between, at most."""


@dataclass(frozen=True)
class NumberingSettings:
    """Priors and weights.

    Attributes
    ----------
    thoracic, lumbar
        Prior of each number of vertebrae. One anchor alone leaves the variants open, so that no name that hangs on
        them reaches .9 without a second anchor.
    name_weight, name_votes, seen_weight
        Exponents on the probability of names and of what is seen. However many vertebrae are in view, their names by
        looks count as ``name_votes`` independent ones at most: a view that looks lumbar one rung too high does so at
        every vertebra.
    looks_off
        Probability that the looks of all vertebrae in view are those of the next rung, above and below each.
    certain
        Probabilities of what is seen are kept this far from 0 and 1.
    spacing_deviation
        Standard deviation of the logarithm of a distance against its expectation from its neighbours.
    skip
        Probability that a vertebra between two others has no candidate.
    seen, unseen
        From ``seen`` on a sign counts as an anchor; below ``unseen`` its absence does.
    whole_mm, clear_mm
        Least distance from the end of the images of an anchor's centre, and of the first vertebra without a rib. Of
        phantoms cut 10 mm from the centre of a vertebra or nearer a rib was seen at 46 of 46 thoracic vertebrae and at
        none of 18 others.
    sharp, plain
        Least confidence of the centre of an anchor; below it, what is seen must be at least ``plain``.
    known
        Least probability of the whole numbering for which names are given.
    """

    thoracic: dict[int, float] = field(default_factory=lambda: {11: 0.05, 12: 0.89, 13: 0.06})
    lumbar: dict[int, float] = field(default_factory=lambda: {4: 0.04, 5: 0.89, 6: 0.07})
    name_weight: float = 0.5
    name_votes: float = 2.0
    seen_weight: float = 1.0
    looks_off: float = 0.2
    certain: float = 0.01
    spacing_deviation: float = 0.22
    skip: float = 0.02
    seen: float = 0.7
    unseen: float = 0.3
    whole_mm: float = 5.0
    clear_mm: float = 22.0
    known: float = 0.5
    sharp: float = 0.5
    plain: float = 0.9


@dataclass(frozen=True)
class NamedSequence:
    """Names for candidates, or that they are not known.

    Attributes
    ----------
    levels, confidences
        One for each of ``kept``: the name and its probability; all ``None`` where the numbering is not known.
    kept
        Indices of the candidates that are vertebrae, head to feet.
    numbering
        The anchor in words, the probability of the whole numbering, and the alternatives in words; ``None``: not known.
    alternatives
        Other sequences (a name for each of ``kept``) with their probability, the likeliest first. Where the numbering
        is not known the likeliest of all is among them.
    unseen, unseen_in_alternatives
        Vertebrae that are there by that numbering, between two of ``kept``, and have no candidate: of ``levels``, and
        of each of ``alternatives``. A vertebra that a person lacks is none of them.
    """

    levels: tuple[Level | None, ...]
    confidences: tuple[float | None, ...]
    kept: tuple[int, ...]
    numbering: Numbering | None
    alternatives: tuple[tuple[tuple[Level, ...], float], ...]
    unseen: tuple[Level, ...] = ()
    unseen_in_alternatives: tuple[tuple[Level, ...], ...] = ()

    @property
    def alternatives_in_words(self) -> tuple[str, ...]:
        """Each of ``alternatives`` with its probability: "T11 to L3, no T12 (0.06)"."""
        unseen = self.unseen_in_alternatives or ((),) * len(self.alternatives)
        return tuple(
            f"{worded(names, missing)} ({share:.2f})"
            for (names, share), missing in zip(self.alternatives, unseen, strict=True)
        )


@dataclass(frozen=True)
class _Ladder:
    rungs: tuple[Level, ...]
    log_prior: float
    emission: Floats
    """(candidates, rungs): logarithm of the weight of a candidate on a rung."""


@dataclass(frozen=True)
class _Step:
    """From candidate ``first`` to ``last``, ``rungs`` rungs on."""

    first: int
    last: int
    rungs: int
    log_weight: float


def number(candidates: Sequence[Candidate], settings: NumberingSettings | None = None) -> NamedSequence:
    """The likeliest sequence of names for candidates given head to feet."""
    chosen = settings or NumberingSettings()
    if not candidates:
        return NamedSequence((), (), (), None, ())
    ladders = _ladders(candidates, chosen)
    steps = _steps(candidates, chosen)
    dropped = _dropped(candidates, chosen)
    before = np.concatenate([[0.0], np.cumsum(dropped)])[:-1]
    after = dropped.sum() - before - dropped
    forward = [_swept(ladder, steps, before) for ladder in ladders]
    backward = [_swept_back(ladder, steps, after) for ladder in ladders]
    through = [f[0] + b[0] + ladder.log_prior for f, b, ladder in zip(forward, backward, ladders, strict=True)]
    begun = [
        before[:, None] + ladder.emission + b[0] + ladder.log_prior for ladder, b in zip(ladders, backward, strict=True)
    ]  # every sequence once: by its first candidate
    total = float(np.logaddexp.reduce(np.concatenate([x.ravel() for x in begun])))
    names = _names(through, ladders, len(candidates), total)
    reference = int(names.sum(axis=1).argmax())
    paths = _paths(reference, ladders, steps, list(zip(through, forward, backward, strict=True)), total)
    (kept, levels), share, unseen = paths[0]
    anchor = _anchor(candidates, kept, levels, unseen, chosen)
    confidence = tuple(
        float(min(names[i, LEVELS.index(name)], _most(name, anchor, chosen)))
        for i, name in zip(kept, levels, strict=True)
    )
    others = _alternatives(kept, paths)
    alternatives = tuple((names_, probability) for names_, probability, _ in others)
    unseen_in = tuple(missing for _, _, missing in others)
    whole = min(share, *confidence)
    if not anchor or whole < chosen.known:
        nothing = (None,) * len(kept)
        every = ((levels, share), *alternatives)
        return NamedSequence(nothing, nothing, kept, None, every, (), (unseen, *unseen_in))
    known = NamedSequence(levels, confidence, kept, None, alternatives, unseen, unseen_in)
    numbering = Numbering(anchor, whole, known.alternatives_in_words, _absent(levels, unseen))
    return replace(known, numbering=numbering)


def _ladders(candidates: Sequence[Candidate], settings: NumberingSettings) -> list[_Ladder]:
    """Every kind of person with the emission of every candidate on its rungs."""
    edge, name_weight = settings.certain, _name_weight(len(candidates), settings)
    seen = np.clip([[c.rib, c.sacrum, c.axis] for c in candidates], edge, 1 - edge)
    sure = np.log(np.clip([c.confidence for c in candidates], 1e-3, 0.999))
    whole = np.array([1.0 if c.edge_mm >= settings.whole_mm else 0.3 for c in candidates])
    off = settings.looks_off
    looks = [
        (np.log(np.clip(np.array([c.probability for c in candidates]) @ said.T, 1e-4, 1.0)), float(np.log(share)))
        for said, share in zip(_LOOKS, (off, 1.0 - 2.0 * off, off), strict=True)
        if share > 0
    ]
    out = []
    for n_t, p_t in settings.thoracic.items():
        for n_l, p_l in settings.lumbar.items():
            names = [f"C{i}" for i in range(1, 8)] + [f"T{i}" for i in range(1, n_t + 1)]
            rungs = tuple(Level(name) for name in [*names, *(f"L{i}" for i in range(1, n_l + 1)), "S1"])
            signs = np.array([[r.startswith("T"), r == Level.S1, r == Level.C2] for r in rungs], np.float64)
            signed = np.log(seen) @ signs.T + np.log1p(-seen) @ (1 - signs).T
            for named, log_share in looks:
                of_rungs = named[:, [LEVELS.index(r) for r in rungs]]
                emission = whole[:, None] * (settings.seen_weight * signed + name_weight * of_rungs) + sure[:, None]
                out.append(_Ladder(rungs, float(np.log(p_t) + np.log(p_l)) + log_share, emission))
    return out


def _looks(off: int) -> Floats:
    """(27, 27): 1 where a vertebra of that name (row) may look like that one (column), ``off`` rungs further down.

    The sacrum and the two uppermost vertebrae look like nothing else.
    """
    out = np.zeros((len(LEVELS), len(LEVELS)))
    for row, name in enumerate(LEVELS):
        like = [name]
        if off and name not in (Level.C1, Level.C2, Level.S1):
            like = [LEVELS[row + off]]
            if name in _NEIGHBOURS:
                like = [other for other in _NEIGHBOURS[name] if (LEVELS.index(other) - row) * off > 0]
        out[row, [LEVELS.index(other) for other in like]] = 1.0
    return out


_NEIGHBOURS = {
    Level.T12: (Level.T11, Level.T13, Level.L1),
    Level.L1: (Level.T12, Level.T13, Level.L2),
    Level.L5: (Level.L4, Level.L6, Level.S1),
}
"""Names above and below where a variant may stand between."""
_LOOKS = tuple(_looks(off) for off in (-1, 0, 1))


def _name_weight(count: int, settings: NumberingSettings) -> float:
    """Exponent on the probability of a name in a view of that many candidates."""
    return min(settings.name_weight, settings.name_votes / count)


def _dropped(candidates: Sequence[Candidate], settings: NumberingSettings) -> Floats:
    """(candidates,): logarithm of the weight of one that is no vertebra: any sign and any name are then alike."""
    anything = 3 * settings.seen_weight * np.log(0.5) - _name_weight(len(candidates), settings) * np.log(len(LEVELS))
    return np.asarray(np.log1p(-np.clip([c.confidence for c in candidates], 0.0, 0.999)) + anything, np.float64)


def _steps(candidates: Sequence[Candidate], settings: NumberingSettings) -> list[_Step]:
    """Every step between two candidates, with dropped ones between and rungs skipped."""
    at = np.array([c.centroid_lps_mm for c in candidates])
    count = len(candidates)
    gaps = np.linalg.norm(np.diff(at, axis=0), axis=1)
    dropped = _dropped(candidates, settings)
    steps = []
    for last in range(1, count):
        for first in range(max(0, last - LONGEST_STEP), last):
            near = np.delete(gaps, np.arange(first, last)) if count - 1 > last - first else gaps
            centre = np.delete(np.arange(count - 1), np.arange(first, last)) if len(near) < len(gaps) else None
            if centre is not None:
                order = np.argsort(np.abs(centre - 0.5 * (first + last - 1)), kind="stable")[:5]
                unit = float(np.median(near[order]))
            else:
                unit = float(np.median(gaps))
            distance = float(np.linalg.norm(at[last] - at[first]))
            for rungs in range(1, LONGEST_STEP + 1):
                miss = np.log(max(distance, 1e-3) / (rungs * max(unit, 1e-3))) / settings.spacing_deviation
                weight = -0.5 * float(miss) ** 2 + (rungs - 1) * np.log(settings.skip)
                steps.append(_Step(first, last, rungs, float(weight + dropped[first + 1 : last].sum())))
    return steps


Swept = tuple[Floats, Floats, NDArray[np.int64]]
"""Sum of all ways, the best way, and the step that the best way takes; each (candidates, rungs)."""


def _swept(ladder: _Ladder, steps: list[_Step], before: Floats) -> Swept:
    """All ways down the ladder that end at (candidate, rung), its own emission included; -1: the way begins here."""
    n, m = ladder.emission.shape
    start = np.repeat(before[:, None], m, axis=1)
    total, best, taken = start.copy(), start.copy(), np.full((n, m), -1)
    done = -1
    for index, step in enumerate(steps):  # steps come in the order of their last candidate
        while done < step.last - 1:
            done += 1
            total[done] += ladder.emission[done]
            best[done] += ladder.emission[done]
        k = step.rungs
        add = total[step.first, : m - k] + step.log_weight
        total[step.last, k:] = np.logaddexp(total[step.last, k:], add)
        add = best[step.first, : m - k] + step.log_weight
        better = add > best[step.last, k:]
        best[step.last, k:] = np.where(better, add, best[step.last, k:])
        taken[step.last, k:] = np.where(better, index, taken[step.last, k:])
    for i in range(done + 1, n):
        total[i] += ladder.emission[i]
        best[i] += ladder.emission[i]
    return total, best, taken


def _swept_back(ladder: _Ladder, steps: list[_Step], after: Floats) -> Swept:
    """All ways on from (candidate, rung) to the feet, its own emission not included; -1: the way ends here."""
    n, m = ladder.emission.shape
    end = np.repeat(after[:, None], m, axis=1)
    total, best, taken = end.copy(), end.copy(), np.full((n, m), -1)
    for index, step in sorted(enumerate(steps), key=lambda pair: -pair[1].first):
        k = step.rungs
        emission = ladder.emission[step.last, k:] + step.log_weight
        add = total[step.last, k:] + emission
        total[step.first, : m - k] = np.logaddexp(total[step.first, : m - k], add)
        add = best[step.last, k:] + emission
        better = add > best[step.first, : m - k]
        best[step.first, : m - k] = np.where(better, add, best[step.first, : m - k])
        taken[step.first, : m - k] = np.where(better, index, taken[step.first, : m - k])
    return total, best, taken


def _names(through: list[Floats], ladders: list[_Ladder], count: int, total: float) -> Floats:
    """(candidates, 27): probability that the candidate is a vertebra of that name."""
    out = np.zeros((count, len(LEVELS)))
    for weight, ladder in zip(through, ladders, strict=True):
        out[:, [LEVELS.index(r) for r in ladder.rungs]] += np.exp(weight - total)
    return out


Path = tuple[tuple[int, ...], tuple[Level, ...]]
"""Candidates kept and their names."""
Unseen = tuple[Level, ...]
"""Rungs between them without a candidate."""


def _paths(
    reference: int,
    ladders: list[_Ladder],
    steps: list[_Step],
    ways: list[tuple[Floats, Swept, Swept]],
    total: float,
) -> list[tuple[Path, float, Unseen]]:
    """The best way through each rung of one candidate with the weight of all ways there; equal names are one.

    Equal names may be those of two kinds of person, one without a vertebra and one in whom it was not seen. A vertebra
    counts as not seen unless that is negligible: a crushed one that was missed must not be called absent.
    """
    shares: dict[Path, dict[Unseen, float]] = {}
    for ladder, (through, forward, backward) in zip(ladders, ways, strict=True):
        share = np.exp(through[reference] - total)
        for rung in np.flatnonzero(share > 1e-4):
            path, unseen = _path(reference, int(rung), ladder, steps, forward[2], backward[2])
            parts = shares.setdefault(path, {})
            parts[unseen] = parts.get(unseen, 0.0) + float(share[rung])
    summed = [(path, sum(parts.values()), _perhaps_unseen(parts)) for path, parts in shares.items()]
    return sorted(summed, key=lambda one: -one[1])


def _perhaps_unseen(parts: dict[Unseen, float]) -> Unseen:
    """Vertebrae that are there and were not seen by any explanation that is not negligible."""
    least = NEGLIGIBLE * sum(parts.values())
    return tuple(x for x in LEVELS if any(x in unseen and share >= least for unseen, share in parts.items()))


def _path(
    reference: int,
    rung: int,
    ladder: _Ladder,
    steps: list[_Step],
    came: NDArray[np.int64],
    goes: NDArray[np.int64],
) -> tuple[Path, Unseen]:
    at = [(reference, rung)]
    while (index := int(came[at[0]])) >= 0:
        at.insert(0, (steps[index].first, at[0][1] - steps[index].rungs))
    while (index := int(goes[at[-1]])) >= 0:
        at.append((steps[index].last, at[-1][1] + steps[index].rungs))
    taken = [k for _, k in at]
    unseen = tuple(ladder.rungs[k] for k in range(taken[0], taken[-1]) if k not in taken)
    return (tuple(i for i, _ in at), tuple(ladder.rungs[k] for k in taken)), unseen


def _alternatives(
    kept: tuple[int, ...], paths: list[tuple[Path, float, Unseen]]
) -> tuple[tuple[tuple[Level, ...], float, Unseen], ...]:
    """The other ways that keep the same candidates, down to a probability of .01, at most five."""
    others = ((names, share, unseen) for (other, names), share, unseen in paths[1:] if other == kept and share >= 0.01)
    return tuple(others)[:5]


def _anchor(
    candidates: Sequence[Candidate],
    kept: tuple[int, ...],
    levels: tuple[Level, ...],
    unseen: Unseen,
    settings: NumberingSettings,
) -> str:
    """The anchors that are seen, in words; empty where there is none.

    The last rib is that of the vertebra next above L1: where a vertebra between them was not seen, nobody knows
    whether it bears ribs. The sacrum and the axis are anchors where their own centre is found surely; where it is not
    sharp (in the one real CT that of S1 was not), they must be seen all the more surely and far from the images' end.
    """
    chosen = [candidates[i] for i in kept]
    words = []
    for one, level in zip(chosen, levels, strict=True):
        sharp = one.confidence >= settings.sharp and one.edge_mm >= settings.whole_mm
        whole = sharp or (max(one.axis, one.sacrum) >= settings.plain and one.edge_mm >= settings.clear_mm)
        if level == Level.C2 and one.axis >= settings.seen and whole:
            words.append("C2")
        if level == Level.S1 and one.sacrum >= settings.seen and whole:
            words.append("sacrum")
    for k in range(1, len(chosen) - 1):
        above, below, next_below = chosen[k - 1], chosen[k], chosen[k + 1]
        ends = levels[k - 1].startswith("T") and levels[k] == Level.L1 and kept[k] == kept[k - 1] + 1
        between = [x for x in unseen if LEVELS.index(levels[k - 1]) < LEVELS.index(x) < LEVELS.index(levels[k])]
        ends = ends and not between
        ribs = above.rib >= settings.seen and max(below.rib, next_below.rib) <= settings.unseen
        if ends and ribs and above.edge_mm >= settings.whole_mm and below.edge_mm >= settings.clear_mm:
            words.append("last rib")
    order = ("C2", "last rib", "sacrum")
    return " and ".join(word for word in order if word in words)


def _most(name: Level, anchor: str, settings: NumberingSettings) -> float:
    """The largest probability of a name that these anchors allow.

    Thoracic vertebrae are counted from C2, lumbar ones from the last rib. Counted from the other end they hang on how
    many there are, and the looks of a vertebra must not claim to know that better than the prior does.
    """
    if name.startswith("L") and "last rib" not in anchor:
        return max(settings.lumbar.values())
    if name.startswith(("C", "T")) and "C2" not in anchor:
        return max(settings.thoracic.values())
    return 1.0


def worded(names: tuple[Level, ...], unseen: tuple[Level, ...] = ()) -> str:
    """A sequence in words: its ends, and what is unusual in it.

    "no T12" is a person without it; "T12 not seen" one in whom it has its place between two others and no candidate.
    """
    unusual = [str(name) for name in names if name in (Level.T13, Level.L6)]
    unusual += [f"no {missing}" for missing in _absent(names, unseen)]
    if unseen:
        unusual.append(f"{', '.join(unseen)} not seen")
    return f"{names[0]} to {names[-1]}" + (f", {', '.join(unusual)}" if unusual else "")


def _absent(names: tuple[Level, ...], unseen: tuple[Level, ...]) -> tuple[Level, ...]:
    """T12 or L5 where it has no place in this sequence, which reaches beyond it."""
    first, last = LEVELS.index(names[0]), LEVELS.index(names[-1])
    usual = (name for name in (Level.T12, Level.L5) if first < LEVELS.index(name) < last)
    return tuple(name for name in usual if name not in (*names, *unseen))
