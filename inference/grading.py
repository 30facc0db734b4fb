"""Rule ``height-loss/1``: six points become a word. Pure arithmetic, no pixels.

For each of the anterior, middle and posterior height, the expected height is interpolated between the nearest whole,
undeformed vertebrae above and below; loss = 1 - measured / expected, and the largest of the three grades. Without a
reference on both sides the grade comes from the vertebra's own ratio G = min / max (Pisov et al. 2020, eq. 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from inference.findings import FLAG_LOSS, Grade, Heights, Level, PatientFinding, Quality, VertebraFinding

RULE = "height-loss/1"
DEFORMED_LOSS = 0.20
"""A vertebra with this loss is no reference. Fixed, whatever cut-off a site chooses."""
SURE_LOSS = 0.25
"""A smaller loss cannot be told from normal on coarse slices, whatever cut-off a site chooses."""
PUBLISHED_G = (0.80, 0.74)
"""Cut-offs of G printed beside the grade, never instead of it (Pisov et al. 2020, table 2)."""

UNGRADED = frozenset({Quality.METAL, Quality.FOREIGN_MATERIAL})
"""Cement or hardware at a level: measured, but neither graded nor a reference. Fusion belongs here and is not seen: a
narrow disc between osteoporotic bodies and bone through the disc space do not differ enough in attenuation."""
NO_REFERENCE = UNGRADED | {Quality.LOW_CONFIDENCE}
"""Flags of a body with which no other is compared: what is sure must not be judged by what is not."""

_ORDER = list(Level)
_FIRST_GRADED = _ORDER.index(Level.T4)
_SACRUM = _ORDER.index(Level.S1)
_CLOSE_MM = 1e-6


@dataclass(frozen=True)
class GradingRule:
    """Cut-offs of ``height-loss/1``. A site chooses ``flag_loss`` alone: what a grade is called is the same everywhere.

    Attributes
    ----------
    mild_loss, moderate_loss, severe_loss
        Fractions of height lost, each the lowest value of its grade.
    flag_loss
        From this loss on a graded vertebra flags the patient.
    mild_g, moderate_g, severe_g
        Ratios G, each the highest value of its grade, where there is no reference on both sides.
    fine_spacing_mm
        Up to this spacing along the spine everything is said.
    coarse_spacing_mm
        Up to this spacing heights are given with their uncertainty and mild loss is not reported; beyond it nothing
        is measured.
    """

    mild_loss: float = 0.20
    moderate_loss: float = 0.25
    severe_loss: float = 0.40
    flag_loss: float = FLAG_LOSS
    mild_g: float = 0.80
    moderate_g: float = 0.74
    severe_g: float = 0.60
    fine_spacing_mm: float = 1.5
    coarse_spacing_mm: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.mild_loss <= self.moderate_loss <= self.severe_loss < 1:
            raise ValueError("losses must rise from mild to severe, between 0 and 1")
        if not self.mild_loss <= self.flag_loss < 1:
            raise ValueError("a vertebra that is called normal must not flag: the flag's loss is at least the mild one")
        if not 1 > self.mild_g >= self.moderate_g >= self.severe_g > 0:
            raise ValueError("ratios G must fall from mild to severe, between 1 and 0")
        if not 0 < self.fine_spacing_mm <= self.coarse_spacing_mm:
            raise ValueError("the fine spacing must not exceed the coarse one")

    def by_loss(self, loss: float) -> Grade:
        """Grade of the largest loss of a vertebra."""
        if loss >= self.severe_loss:
            return Grade.SEVERE
        if loss >= self.moderate_loss:
            return Grade.MODERATE
        return Grade.MILD if loss >= self.mild_loss else Grade.NORMAL

    def by_ratio(self, g: float) -> Grade:
        """Grade of a vertebra's own ratio G."""
        if g <= self.severe_g:
            return Grade.SEVERE
        if g <= self.moderate_g:
            return Grade.MODERATE
        return Grade.MILD if g <= self.mild_g else Grade.NORMAL

    def mild_is_told(self, spacing_mm: float) -> bool:
        """Whether a mild loss can be told from a normal vertebra at this spacing along the spine."""
        return spacing_mm <= self.fine_spacing_mm + _CLOSE_MM

    def heights_are_told(self, spacing_mm: float) -> bool:
        """Whether heights are given at all at this spacing along the spine."""
        return spacing_mm <= self.coarse_spacing_mm + _CLOSE_MM


@dataclass(frozen=True)
class Expectation:
    """What the neighbours let expect of one vertebra.

    ``expected_mm`` and ``loss`` are ``None`` where there is no reference on both sides. ``reference`` says whether
    the vertebra itself ended as a reference for others.
    """

    expected_mm: Heights | None
    loss: Heights | None
    reference: bool


def height_ratio(heights: Heights) -> float:
    """G = min / max of the three heights (Pisov et al. 2020, eq. 1)."""
    h = heights.as_tuple()
    return min(h) / max(h)


def may_be_reference(level: Level | None) -> bool:
    """S1 is no reference; C1 to L6 are, and so is every vertebra while levels are unknown."""
    return level is None or _ORDER.index(level) < _SACRUM


def is_graded(level: Level | None) -> bool:
    """T4 to the last lumbar vertebra are graded; while levels are unknown every measured vertebra is."""
    return level is None or _FIRST_GRADED <= _ORDER.index(level) < _SACRUM


def expectations(
    heights: Sequence[Heights | None], positions_mm: Sequence[float], may_refer: Sequence[bool]
) -> list[Expectation]:
    """Expected heights and losses of vertebrae in order from the top.

    Parameters
    ----------
    heights
        ``None`` where a vertebra was not measured: it neither gives nor gets a loss.
    positions_mm
        Place of each vertebra along the spine, strictly increasing: heights are interpolated over it, so that a
        vertebra that was not seen leaves a gap and not a shift.
    may_refer
        False for a vertebra that must not be a reference whatever its heights (not whole, cement, hardware, S1).

    In each pass the vertebra with the largest loss is excluded from the references if that loss is at least
    `DEFORMED_LOSS`; the passes end when nothing changes. The losses returned are those against the last references,
    for the excluded ones too.

    Raises
    ------
    ValueError
        When the sequences differ in length, positions do not increase, or a height is not positive.
    """
    if not len(heights) == len(positions_mm) == len(may_refer):
        raise ValueError("heights, positions and references must have the same length")
    if any(b <= a for a, b in pairwise(positions_mm)):
        raise ValueError("positions along the spine must increase from the top")
    if any(h is not None and not min(h.as_tuple()) > 0 for h in heights):
        raise ValueError("a measured height must be positive")
    references = {i for i, h in enumerate(heights) if h is not None and may_refer[i]}
    while True:
        losses = {i: loss for i in references if (loss := _loss(i, heights, positions_mm, references)) is not None}
        worst = max(losses, key=lambda i: max(losses[i].as_tuple()), default=None)
        if worst is None or max(losses[worst].as_tuple()) < DEFORMED_LOSS:
            break
        references.discard(worst)
    return [
        Expectation(
            expected_mm=_expected(i, positions_mm, heights, references) if heights[i] is not None else None,
            loss=_loss(i, heights, positions_mm, references),
            reference=i in references,
        )
        for i in range(len(heights))
    ]


def _expected(
    i: int, positions_mm: Sequence[float], heights: Sequence[Heights | None], references: set[int]
) -> Heights | None:
    above = max((k for k in references if k < i), default=None)
    below = min((k for k in references if k > i), default=None)
    if above is None or below is None:
        return None
    upper, lower = heights[above], heights[below]
    if upper is None or lower is None:  # a reference always has heights
        return None
    share = (positions_mm[i] - positions_mm[above]) / (positions_mm[below] - positions_mm[above])
    a, m, p = (u + (w - u) * share for u, w in zip(upper.as_tuple(), lower.as_tuple(), strict=True))
    return Heights(a, m, p)


def _loss(
    i: int, heights: Sequence[Heights | None], positions_mm: Sequence[float], references: set[int]
) -> Heights | None:
    measured, expected = heights[i], _expected(i, positions_mm, heights, references)
    if measured is None or expected is None:
        return None
    a, m, p = (1 - h / e for h, e in zip(measured.as_tuple(), expected.as_tuple(), strict=True))
    return Heights(a, m, p)


def grade(
    vertebrae: Sequence[VertebraFinding],
    spacing_mm: float,
    rule: GradingRule | None = None,
    positions_mm: Sequence[float] | None = None,
    no_reference: frozenset[Quality] = NO_REFERENCE,
) -> tuple[VertebraFinding, ...]:
    """Grade vertebrae, given in order from the top, by ``height-loss/1``.

    Parameters
    ----------
    vertebrae
        With ``heights_mm`` where measured; those flagged ``PARTIAL`` are not measured, those with a flag of `UNGRADED`
        are measured but get no grade and serve as no reference.
    spacing_mm
        Spacing of the source along the spine.
    positions_mm
        Place along the spine of each, increasing; the ordinals where not given.
    no_reference
        Vertebrae with one of these flags are no reference for others.

    Returns
    -------
    The same vertebrae with ``height_ratio``, ``height_loss``, ``grade``, ``rule`` and the flags ``G_ONLY`` and
    ``MILD_NOT_REPORTED`` set.

    Raises
    ------
    ValueError
        As `expectations`.
    """
    rule = rule or GradingRule()
    levels = [_taken_for(v, i, vertebrae) for i, v in enumerate(vertebrae)]
    measured = [v.heights_mm if Quality.PARTIAL not in v.quality else None for v in vertebrae]
    places = list(positions_mm) if positions_mm is not None else [float(v.ordinal) for v in vertebrae]
    refer = [
        may_be_reference(level) and no_reference.isdisjoint(v.quality)
        for v, level in zip(vertebrae, levels, strict=True)
    ]
    expected = expectations(measured, places, refer)
    return tuple(
        _graded(v, h, e.loss, spacing_mm, rule, is_graded(level))
        for v, h, e, level in zip(vertebrae, measured, expected, levels, strict=True)
    )


def _taken_for(vertebra: VertebraFinding, i: int, vertebrae: Sequence[VertebraFinding]) -> Level | None:
    """Its level; of one that stays unnamed beside named ones the level that it would have, counted from the nearest.

    What is likely the sacrum is taken for S1. It decides only whether the vertebra may be graded and be a reference,
    and is never told.
    """
    if Quality.LIKELY_SACRUM in vertebra.quality:
        return Level.S1
    if vertebra.level is not None or Quality.NOT_NAMED not in vertebra.quality:
        return vertebra.level
    named = [k for k, v in enumerate(vertebrae) if v.level is not None]
    if not named:
        return None
    nearest = min(named, key=lambda k: abs(k - i))
    level = vertebrae[nearest].level
    rungs = [rung for rung in _ORDER if rung not in (Level.T13, Level.L6) or rung is level]
    at = rungs.index(level) + i - nearest if level is not None else 0
    return rungs[min(max(at, 0), len(rungs) - 1)]


def _graded(
    vertebra: VertebraFinding,
    heights: Heights | None,
    loss: Heights | None,
    spacing_mm: float,
    rule: GradingRule,
    may_be_graded: bool,
) -> VertebraFinding:
    if heights is None or not rule.heights_are_told(spacing_mm):
        return replace(vertebra, grade=None, rule=None, height_ratio=None, height_loss=None)
    g = height_ratio(heights)
    quality: list[Quality] = [q for q in vertebra.quality if q not in (Quality.G_ONLY, Quality.MILD_NOT_REPORTED)]
    said: Grade | None = None
    if may_be_graded and UNGRADED.isdisjoint(quality):
        if loss is not None:
            said = rule.by_loss(max(loss.as_tuple()))
            doubtful = rule.mild_loss <= max(loss.as_tuple()) < SURE_LOSS
        else:
            said = rule.by_ratio(g)
            doubtful = said is Grade.MILD
            quality.append(Quality.G_ONLY)
        if doubtful and not rule.mild_is_told(spacing_mm):
            said = None
            quality.append(Quality.MILD_NOT_REPORTED)
    return replace(
        vertebra, height_ratio=g, height_loss=loss, grade=said, rule=RULE if said else None, quality=tuple(quality)
    )


def patient_finding(vertebrae: Sequence[VertebraFinding], rule: GradingRule | None = None) -> PatientFinding:
    """The patient's flag: at least one vertebra that `raises_flag`; ``None`` where no vertebra was graded."""
    flag_loss = (rule or GradingRule()).flag_loss
    grades = [v.grade for v in vertebrae if v.grade is not None]
    return PatientFinding(
        worst_grade=max(grades, key=lambda g: g.rank, default=None),
        flag=any(raises_flag(v, flag_loss) for v in vertebrae) if grades else None,
        rule=RULE,
        flag_loss=flag_loss,
    )


def raises_flag(vertebra: VertebraFinding, flag_loss: float = FLAG_LOSS) -> bool:
    """Whether this vertebra alone flags the patient: graded, with that loss, or severe where only G can grade it."""
    if vertebra.grade is None:
        return False
    if Quality.G_ONLY in vertebra.quality or vertebra.height_loss is None:
        return vertebra.grade is Grade.SEVERE
    return max(vertebra.height_loss.as_tuple()) >= flag_loss


def height_uncertainty_mm(spacing_mm: float) -> float:
    """Stated error (one standard deviation) of one height at a spacing along the spine.

    Two edges, each with the reader's own error of about 0.5 mm and the quantisation of an edge (spacing / sqrt 12).
    Held-out phantoms stay below it (0.65 mm at every spacing from 0.6 to 3 mm); real edges are less clear.
    """
    per_edge = 0.5**2 + (spacing_mm / 12**0.5) ** 2
    return float((2 * per_edge) ** 0.5)
