"""Compression ratios and grades on a film, by hand-made heights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.film_ratios import Compression, compression_ratios, graded, healthy_ones, relative_heights
from inference.findings import Grade, Heights, Quality, VertebraFinding
from inference.grading import GradingRule

RULE = GradingRule()
HEALTHY = Heights(24.0, 22.0, 25.0)


def film(*heights: Heights | None, quality: dict[int, Quality] | None = None, unit: float = 1.0, mm: bool = True):
    """Vertebrae of those heights, graded; heights told in mm or in a unit that nobody knows."""
    scaled = [Heights(*(unit * v for v in h.as_tuple())) if h is not None else None for h in heights]
    vertebrae = [
        VertebraFinding(
            ordinal=n + 1,
            centroid_px=(50.0, 30.0 * n),
            heights_mm=h if mm else None,
            quality=(quality[n],) if quality and n in quality else (),
        )
        for n, h in enumerate(scaled)
    ]
    places = list(range(1, len(heights) + 1))
    return graded(vertebrae, scaled, places, [30.0 * unit * p for p in places], 0.15 if mm else 0.0, RULE)


def test_the_ratio_is_that_of_the_paper() -> None:
    heights = [Heights(20.0, 19.0, 21.0), Heights(15.0, 16.0, 22.0), Heights(24.0, 22.0, 25.0)]
    said = compression_ratios(heights, [1, 2, 3], [True] * 3)
    assert said == [None, Compression(pytest.approx((1 - 15 / 22) * 100), (1, 3), False), None]


def test_a_taller_vertebra_has_a_negative_ratio() -> None:
    heights = [HEALTHY, replace(HEALTHY, anterior=26.4), HEALTHY]
    said = compression_ratios(heights, [1, 2, 3], [True] * 3)[1]
    assert said is not None and said.percent == pytest.approx(-10)


def test_a_fractured_neighbour_is_replaced_and_that_is_said() -> None:
    crushed = Heights(12.0, 12.0, 20.0)
    vertebrae, compressed = film(HEALTHY, crushed, crushed, HEALTHY, HEALTHY)
    assert compressed[1] == Compression(pytest.approx(50), (1, 4), True)
    assert compressed[2] == Compression(pytest.approx(50), (1, 4), True)
    assert compressed[3] is None or compressed[3].references == (1, 5)
    assert [v.compression_ratio_percent for v in vertebrae[1:3]] == pytest.approx([50, 50])


def test_a_replaced_neighbour_is_weighted_by_its_distance() -> None:
    heights = [Heights(h, h, h) for h in (20.0, 21.0, 10.0, 23.0)]
    said = compression_ratios(heights, [1, 2, 3, 4], [True, True, False, True])[1]
    assert said is not None and said.percent == pytest.approx(0) and said.replaced


def test_an_unseen_vertebra_counts_as_one() -> None:
    heights = [Heights(h, h, h) for h in (20.0, 21.0, 23.0)]
    said = compression_ratios(heights, [1, 2, 4], [True] * 3)[1]
    assert said is not None and said.percent == pytest.approx(0) and said.replaced


def test_references_too_far_away_are_none() -> None:
    heights = [HEALTHY] * 3
    assert compression_ratios(heights, [1, 5, 6], [True] * 3) == [None] * 3


def test_end_vertebrae_have_their_own_ratios_only() -> None:
    vertebrae, compressed = film(Heights(17.0, 18.0, 25.0), HEALTHY, HEALTHY, HEALTHY)
    first = vertebrae[0]
    assert compressed[0] is None and first.compression_ratio_percent is None and first.height_loss is None
    assert first.relative_heights == Heights(pytest.approx(0.68), pytest.approx(0.72), 1.0)
    assert first.grade is Grade.MODERATE and Quality.G_ONLY in first.quality


def test_a_fractured_end_is_no_reference() -> None:
    vertebrae, compressed = film(Heights(12.0, 15.0, 25.0), Heights(22.0, 21.0, 25.0), HEALTHY, HEALTHY)
    assert compressed[1] is None
    assert vertebrae[1].compression_ratio_percent is None
    ends = healthy_ones([v.heights_mm for v in vertebrae], [1.0, 2.0, 3.0, 4.0], [True] * 4, RULE)
    assert ends == [False, True, True, True]


def test_ratios_and_grades_do_not_depend_on_the_unit() -> None:
    heights = [HEALTHY, Heights(17.0, 18.0, 25.0), HEALTHY, Heights(14.0, 12.0, 20.0), HEALTHY, HEALTHY]
    (known, first), (unknown, second) = film(*heights), film(*heights, unit=7.3, mm=False)
    for a, b in zip(known, unknown, strict=True):
        assert b.heights_mm is None and a.heights_mm is not None
        assert (a.grade, a.rule, a.quality) == (b.grade, b.rule, b.quality)
        assert a.height_ratio == pytest.approx(b.height_ratio)
        assert (a.height_loss is None) == (b.height_loss is None)
        if a.height_loss is not None and b.height_loss is not None:
            np.testing.assert_allclose(a.height_loss.as_tuple(), b.height_loss.as_tuple())
    assert [c and c.references for c in first] == [c and c.references for c in second]


def test_the_grade_is_that_of_the_rule() -> None:
    vertebrae, _ = film(HEALTHY, Heights(17.0, 18.0, 24.0), HEALTHY, HEALTHY)
    loss = vertebrae[1].height_loss
    assert loss is not None and loss.anterior == pytest.approx(1 - 17 / 24)
    assert vertebrae[1].grade is Grade.MODERATE and vertebrae[1].rule == "height-loss/1"


def test_a_back_wall_that_fell_too_is_seen_by_the_rule_and_not_by_the_own_ratio() -> None:
    vertebrae, compressed = film(HEALTHY, Heights(14.4, 13.2, 15.0), HEALTHY, HEALTHY)
    crushed = vertebrae[1]
    assert crushed.relative_heights is not None and crushed.relative_heights.anterior == pytest.approx(0.96)
    assert crushed.grade is Grade.SEVERE
    assert compressed[1] is not None and compressed[1].percent == pytest.approx(40)


def test_partial_vertebrae_are_neither_measured_nor_references() -> None:
    vertebrae, compressed = film(HEALTHY, HEALTHY, HEALTHY, HEALTHY, quality={0: Quality.PARTIAL})
    assert vertebrae[0].grade is None and vertebrae[0].relative_heights is None
    assert compressed[1] is None and compressed[2] is not None


def test_cement_is_no_reference() -> None:
    vertebrae, compressed = film(HEALTHY, HEALTHY, HEALTHY, HEALTHY, quality={1: Quality.METAL})
    assert vertebrae[1].grade is None
    assert compressed[2] is not None and compressed[2].references == (1, 4) and compressed[2].replaced


def test_what_is_unsure_has_no_compression_ratio_and_gives_none() -> None:
    vertebrae, compressed = film(*[HEALTHY] * 5, quality={1: Quality.LOW_CONFIDENCE})
    assert compressed[1] is None and vertebrae[1].compression_ratio_percent is None
    assert vertebrae[1].grade is Grade.NORMAL
    assert compressed[2] is not None and compressed[2].references == (1, 4)


def test_a_sure_body_is_not_judged_by_unsure_neighbours() -> None:
    tall = Heights(*(1.35 * h for h in HEALTHY.as_tuple()))
    quality = {1: Quality.LOW_CONFIDENCE, 3: Quality.LOW_CONFIDENCE}
    vertebrae, compressed = film(HEALTHY, tall, HEALTHY, tall, HEALTHY, quality=quality)
    assert vertebrae[2].grade is Grade.NORMAL
    assert vertebrae[2].height_loss is not None and max(vertebrae[2].height_loss.as_tuple()) == pytest.approx(0)
    assert compressed[2] is not None and compressed[2].references == (1, 5)


def test_own_ratios_stand_against_the_posterior_height() -> None:
    assert relative_heights(Heights(15.0, 12.0, 20.0)) == Heights(0.75, 0.6, 1.0)


@pytest.mark.parametrize(("places", "healthy"), [([1, 1, 2], [True] * 3), ([1, 2], [True] * 3), ([1, 2, 3], [True])])
def test_places_that_make_no_sense_are_an_error(places: list[int], healthy: list[bool]) -> None:
    with pytest.raises(ValueError, match=r"places|length"):
        compression_ratios([HEALTHY] * 3, places, healthy)
