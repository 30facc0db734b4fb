"""Rule height-loss/1, line by line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference.findings import Grade, Heights, Level, Quality, VertebraFinding
from inference.grading import (
    RULE,
    GradingRule,
    expectations,
    grade,
    height_ratio,
    height_uncertainty_mm,
    is_graded,
    may_be_reference,
    patient_finding,
    raises_flag,
)

NORMAL = (25.0, 22.0, 27.0)


def spine(*losses: tuple[float, float, float] | float | None, base=NORMAL, quality=None) -> list[VertebraFinding]:
    """Vertebrae of equal healthy heights, each with its loss (one for all, or one per part); None: not measured."""
    made = []
    for n, loss in enumerate(losses, start=1):
        parts = (loss,) * 3 if isinstance(loss, int | float) else loss
        heights = None if parts is None else Heights(*(h * (1 - x) for h, x in zip(base, parts, strict=True)))
        made.append(VertebraFinding(n, (0, 0, 0), heights_mm=heights, quality=(quality or {}).get(n, ())))
    return made


def grades(vertebrae, spacing=1.0, **more) -> list[Grade | None]:
    return [v.grade for v in grade(vertebrae, spacing, **more)]


def test_a_healthy_spine_is_normal_and_not_flagged() -> None:
    found = grade(spine(0, 0, 0, 0, 0), 1.0)
    assert {v.grade for v in found} == {Grade.NORMAL}
    assert patient_finding(found).flag is False
    assert patient_finding(found).worst_grade is Grade.NORMAL
    assert [Quality.G_ONLY in v.quality for v in found] == [True, False, False, False, True]
    assert all(v.rule == RULE for v in found)
    assert found[2].height_ratio == pytest.approx(22 / 27)
    assert found[2].height_loss.as_tuple() == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (0.19, Grade.NORMAL),
        (0.2001, Grade.MILD),
        (0.2499, Grade.MILD),
        (0.2501, Grade.MODERATE),
        (0.399, Grade.MODERATE),
        (0.401, Grade.SEVERE),
    ],
)
@pytest.mark.parametrize("part", [0, 1, 2])
def test_the_largest_of_the_three_losses_grades(loss: float, said: Grade, part: int) -> None:
    parts = tuple(loss if i == part else 0.0 for i in range(3))
    assert grades(spine(0, 0, parts, 0, 0))[2] is said


def test_cut_offs_belong_to_the_worse_grade() -> None:
    rule = GradingRule()
    assert [rule.by_loss(x) for x in (0.2, 0.25, 0.4)] == [Grade.MILD, Grade.MODERATE, Grade.SEVERE]
    assert [rule.by_ratio(x) for x in (0.8, 0.74, 0.6)] == [Grade.MILD, Grade.MODERATE, Grade.SEVERE]


def test_growth_along_the_spine_is_no_loss() -> None:
    heights = [Heights(20 * 1.037**n, 18 * 1.037**n, 21 * 1.037**n) for n in range(8)]
    found = expectations(heights, list(range(8)), [True] * 8)
    assert all(abs(x) < 0.002 for e in found[1:-1] for x in e.loss.as_tuple())


def test_two_adjacent_fractures_do_not_hide_each_other() -> None:
    found = grade(spine(0, 0, 0.45, 0.45, 0, 0), 1.0)
    assert [v.grade for v in found] == [
        Grade.NORMAL,
        Grade.NORMAL,
        Grade.SEVERE,
        Grade.SEVERE,
        Grade.NORMAL,
        Grade.NORMAL,
    ]
    assert found[2].height_loss.middle == pytest.approx(0.45)
    assert found[3].height_loss.middle == pytest.approx(0.45)


def test_three_adjacent_fractures_of_different_severity() -> None:
    found = grade(spine(0, 0, 0.3, 0.5, 0.22, 0, 0), 1.0)
    assert [v.grade for v in found[2:5]] == [Grade.MODERATE, Grade.SEVERE, Grade.MILD]
    assert [v.height_loss.anterior for v in found[2:5]] == pytest.approx([0.3, 0.5, 0.22])


def test_the_worst_goes_first_so_a_normal_neighbour_is_not_taken_for_its_cause() -> None:
    """Between two fractures a normal vertebra looks tall; it must stay a reference."""
    found = expectations([v.heights_mm for v in spine(0, 0.4, 0, 0.4, 0)], range(5), [True] * 5)
    assert [e.reference for e in found] == [True, False, True, False, True]
    assert found[1].loss.anterior == pytest.approx(0.4)


def test_a_deformed_neighbour_of_an_end_vertebra_is_excluded_and_graded_by_loss() -> None:
    found = grade(spine(0, 0.35, 0, 0), 1.0)
    assert found[1].grade is Grade.MODERATE
    assert Quality.G_ONLY not in found[1].quality
    assert found[1].height_loss.posterior == pytest.approx(0.35)


def test_excluding_uses_twenty_percent_whatever_the_site_chooses() -> None:
    lax = GradingRule(mild_loss=0.36, moderate_loss=0.38, severe_loss=0.5, flag_loss=0.38)
    found = grade(spine(0, 0, 0.35, 0.35, 0, 0), 1.0, lax)
    assert [v.height_loss.middle for v in found[2:4]] == pytest.approx([0.35, 0.35])
    assert found[2].grade is Grade.NORMAL
    strict = GradingRule(mild_loss=0.1, moderate_loss=0.25, severe_loss=0.5)
    found = grade(spine(0, 0, 0.15, 0, 0), 1.0, strict)
    assert found[2].grade is Grade.MILD
    assert found[1].height_loss.middle == pytest.approx(1 - 1 / 0.925), "a loss of 15 % stays a reference"


def test_adjacent_equal_losses_below_a_third_hide_each_other() -> None:
    """What the rule as written cannot see: each of the two is compared with the other (loss d / (2 - d))."""
    found = grade(spine(0, 0, 0.3, 0.3, 0, 0), 1.0)
    assert [v.grade for v in found[2:4]] == [Grade.NORMAL, Grade.NORMAL]
    assert found[2].height_loss.middle == pytest.approx(0.3 / 1.7)
    assert grades(spine(0, 0, 0.34, 0.34, 0, 0))[2:4] == [Grade.MODERATE, Grade.MODERATE]


@pytest.mark.parametrize(
    ("heights", "said"),
    [
        ((25, 20.1, 25), Grade.NORMAL),
        ((25, 20.0, 25), Grade.MILD),
        ((25, 18.5, 25), Grade.MODERATE),
        ((25, 15.0, 25), Grade.SEVERE),
        ((15, 24.0, 25), Grade.SEVERE),
    ],
)
def test_an_end_vertebra_is_graded_by_its_own_ratio(heights, said: Grade) -> None:
    found = spine(0, 0, 0, 0)
    found[3] = replace(found[3], heights_mm=Heights(*heights))
    last = grade(found, 1.0)[3]
    assert last.grade is said
    assert Quality.G_ONLY in last.quality
    assert last.height_loss is None


def test_only_a_severe_ratio_flags_where_there_is_no_reference() -> None:
    healthy = spine(0, 0, 0, 0)
    moderate = [*healthy[:3], replace(healthy[3], heights_mm=Heights(25, 18.0, 25))]
    severe = [*healthy[:3], replace(healthy[3], heights_mm=Heights(25, 14.0, 25))]
    verdict = patient_finding(grade(moderate, 1.0))
    assert (verdict.flag, verdict.worst_grade) == (False, Grade.MODERATE)
    assert patient_finding(grade(severe, 1.0)).flag is True


@pytest.mark.parametrize(("loss", "flag"), [(0.24, False), (0.26, True)])
def test_the_flag_needs_a_moderate_loss(loss: float, flag: bool) -> None:
    assert patient_finding(grade(spine(0, 0, loss, 0, 0), 1.0)).flag is flag


@pytest.mark.parametrize(("loss", "said"), [(0.22, Grade.MILD), (0.28, Grade.MODERATE), (0.41, Grade.SEVERE)])
@pytest.mark.parametrize("flag_loss", [0.20, 0.25, 0.30, 0.40])
def test_a_site_moves_the_flag_and_no_grade(loss: float, said: Grade, flag_loss: float) -> None:
    rule = GradingRule(flag_loss=flag_loss)
    found = grade(spine(0, 0, loss, 0, 0), 1.0, rule)
    assert found[2].grade is said
    verdict = patient_finding(found, rule)
    assert (verdict.flag, verdict.worst_grade, verdict.flag_loss) == (loss >= flag_loss, said, flag_loss)


def test_the_cut_off_of_the_flag_is_not_asked_where_g_alone_grades() -> None:
    found = grade([*spine(0, 0, 0), replace(spine(0)[0], ordinal=4, heights_mm=Heights(25, 18.0, 25))], 1.0)
    assert found[3].grade is Grade.MODERATE and not raises_flag(found[3], 0.20)
    assert raises_flag(replace(found[3], grade=Grade.SEVERE), 0.40)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_vertebrae_have_no_references(count: int) -> None:
    found = grade(spine(*[0] * count), 1.0)
    assert all(Quality.G_ONLY in v.quality and v.height_loss is None for v in found)


def test_a_vertebra_that_was_not_measured_is_neither_graded_nor_a_reference() -> None:
    found = grade(spine(None, 0, 0.3, None, 0, 0), 1.0)
    assert [v.grade for v in found] == [None, Grade.NORMAL, Grade.MODERATE, None, Grade.NORMAL, Grade.NORMAL]
    assert found[2].height_loss.middle == pytest.approx(0.3)
    assert found[0].height_ratio is None and found[0].rule is None


def test_a_partial_vertebra_is_not_measured_even_if_heights_were_given() -> None:
    found = grade(spine(0.5, 0, 0, 0, quality={1: (Quality.PARTIAL,)}), 1.0)
    assert found[0].grade is None and found[0].height_ratio is None
    assert Quality.G_ONLY in found[1].quality
    assert found[2].grade is Grade.NORMAL and Quality.G_ONLY not in found[2].quality


def test_metal_gets_no_grade_and_is_no_reference() -> None:
    found = grade(spine(0, 0, 0.5, 0.3, 0, quality={3: (Quality.METAL,)}), 1.0)
    assert found[2].grade is None
    assert found[2].height_loss.middle == pytest.approx(0.5)
    assert found[3].grade is Grade.MODERATE
    assert patient_finding(grade(spine(0, 0.5, 0, quality={2: (Quality.METAL,)}), 1.0)).flag is False


@pytest.mark.parametrize(
    ("spacing", "said", "flagged"),
    [(1.0, Grade.MILD, False), (1.5, Grade.MILD, False), (1.6, None, True), (3.0, None, True), (3.5, None, False)],
)
def test_mild_loss_is_never_called_normal_at_a_coarse_spacing(spacing, said, flagged) -> None:
    found = grade(spine(0, 0, 0.22, 0, 0), spacing)[2]
    assert found.grade is said
    assert (Quality.MILD_NOT_REPORTED in found.quality) is flagged


def test_a_mild_ratio_is_not_reported_at_a_coarse_spacing_either() -> None:
    found = spine(0, 0, 0)
    found[2] = replace(found[2], heights_mm=Heights(25, 19.5, 25))
    last = grade(found, 3.0)[2]
    assert last.grade is None
    assert {Quality.G_ONLY, Quality.MILD_NOT_REPORTED} <= set(last.quality)


def test_moderate_and_normal_are_said_up_to_three_millimetres() -> None:
    found = grade(spine(0, 0, 0.3, 0, 0), 3.0)
    assert [v.grade for v in found] == [Grade.NORMAL, Grade.NORMAL, Grade.MODERATE, Grade.NORMAL, Grade.NORMAL]
    assert patient_finding(found).flag is True


def test_nothing_is_measured_beyond_three_millimetres() -> None:
    found = grade(spine(0, 0.6, 0), 4.0)
    assert all(v.grade is None and v.height_ratio is None for v in found)
    assert patient_finding(found).flag is None


def test_levels_once_known() -> None:
    names = [Level.T2, Level.T3, Level.T4, Level.L5, Level.S1]
    found = [replace(v, level=n) for v, n in zip(spine(0, 0.5, 0.3, 0, 0.6), names, strict=True)]
    said = grade(found, 1.0)
    assert said[0].grade is None and said[1].grade is None, "measured, never graded above T4"
    assert said[1].height_ratio is not None
    assert said[2].grade is Grade.MODERATE, "T2 is a reference, T3 is deformed"
    assert Quality.G_ONLY in said[3].quality, "S1 is no reference"
    assert said[4].grade is None


def test_which_levels_are_graded() -> None:
    assert not is_graded(Level.C7) and not is_graded(Level.T3) and not is_graded(Level.S1)
    assert is_graded(Level.T4) and is_graded(Level.L5) and is_graded(None)
    assert is_graded(Level.T13) and is_graded(Level.L6)
    assert may_be_reference(Level.C7) and may_be_reference(None) and not may_be_reference(Level.S1)


def test_a_gap_in_what_was_seen_is_interpolated_by_position() -> None:
    """Healthy heights grow by 1 mm every 30 mm; the third vertebra is missing from the list."""
    places = [0.0, 30.0, 90.0, 120.0]
    heights = [Heights(*(20 + p / 30 for _ in range(3))) for p in places]
    found = expectations(heights, places, [True] * 4)
    assert found[1].loss.middle == pytest.approx(0.0)
    assert found[2].loss.middle == pytest.approx(0.0)


def test_grading_again_changes_nothing() -> None:
    once = grade(spine(0, 0.22, 0, 0.3, 0), 2.0)
    assert grade(once, 2.0) == once


def test_wrong_use_is_refused() -> None:
    h = Heights(20, 20, 20)
    with pytest.raises(ValueError, match="same length"):
        expectations([h], [0.0, 1.0], [True])
    with pytest.raises(ValueError, match="increase"):
        expectations([h, h], [1.0, 1.0], [True, True])
    with pytest.raises(ValueError, match="positive"):
        expectations([Heights(0, 1, 1)], [0.0], [True])
    with pytest.raises(ValueError, match="rise"):
        GradingRule(mild_loss=0.3, moderate_loss=0.25)
    with pytest.raises(ValueError, match="must not flag"):
        GradingRule(flag_loss=0.19)
    with pytest.raises(ValueError, match="fall"):
        GradingRule(mild_g=0.7)
    with pytest.raises(ValueError, match="spacing"):
        GradingRule(fine_spacing_mm=4.0)


def test_nothing_graded_is_neither_flag_nor_no_flag() -> None:
    verdict = patient_finding(())
    assert (verdict.flag, verdict.worst_grade) == (None, None)


def test_uncertainty_grows_with_spacing() -> None:
    values = [height_uncertainty_mm(s) for s in (0.7, 1.5, 3.0)]
    assert values == sorted(values) and 0.7 < values[0] < 1.0 < values[2] < 1.6


def test_ratio_is_smallest_over_largest() -> None:
    assert height_ratio(Heights(20, 10, 25)) == pytest.approx(0.4)


def test_coarse_slices_tell_no_loss_below_a_quarter_whatever_a_site_chooses() -> None:
    eager = GradingRule(flag_loss=0.20)
    found = grade(spine(0, 0.22, 0), 3.0, eager)
    assert found[1].grade is None and Quality.MILD_NOT_REPORTED in found[1].quality
    assert patient_finding(found, eager).flag is False
    assert patient_finding(grade(spine(0, 0.22, 0), 1.0, eager), eager).flag is True


def test_what_is_likely_the_sacrum_is_neither_graded_nor_a_reference() -> None:
    given = spine(0, 0, (0.3, 0.3, 0.0), (0.5, 0.0, 0.0), quality={4: (Quality.LIKELY_SACRUM,)})
    found = grade(given, 1.0)
    assert (found[3].grade, found[3].height_ratio) == (None, pytest.approx(0.5 * 25 / 27))
    assert Quality.G_ONLY in found[2].quality and found[2].height_loss is None
    assert patient_finding(found).worst_grade is found[2].grade


def test_nothing_is_compared_with_an_unsure_vertebra() -> None:
    unsure = spine(0, 0, 0.3, 0, 0, quality={2: (Quality.LOW_CONFIDENCE,)}, base=NORMAL)
    low = replace(unsure[1], heights_mm=Heights(*(0.82 * h for h in NORMAL)))
    found = grade([unsure[0], low, *unsure[2:]], 1.0)
    assert max(found[2].height_loss.as_tuple()) == pytest.approx(0.3)
    assert found[1].grade is Grade.NORMAL, "it is graded itself"


@pytest.mark.parametrize(
    ("levels", "graded"),
    [
        ((None, Level.L1, Level.L2), True),  # T12, whatever it is called
        ((None, Level.C7, Level.T1), False),  # C6
        ((Level.L4, Level.L5, None), False),  # the sacrum
        ((Level.L3, Level.L4, None), True),
    ],
)
def test_what_stays_unnamed_is_graded_only_where_its_level_would_be(
    levels: tuple[Level | None, ...], graded: bool
) -> None:
    crushed = levels.index(None)
    given = [
        replace(
            v,
            level=level,
            heights_mm=Heights(30.0, 24.0, 14.0) if i == crushed else v.heights_mm,
            quality=(Quality.NOT_NAMED,) if level is None else (),
        )
        for i, (v, level) in enumerate(zip(spine(0, 0, 0), levels, strict=True))
    ]
    found = grade(given, 1.0)
    assert (found[crushed].grade is not None) is graded
    assert patient_finding(found).flag is (True if graded else None if found[1].grade is None else False)
