"""What is printed never contradicts the class that stands beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from results_synthetic import Case, context, make_case

from inference.findings import Grade, Heights
from inference.grading import PUBLISHED_G, GradingRule
from node.results import codes, encode, wording
from node.results.rounding import loss_cut, ratio_cut
from node.results.table import CUT_OFF, RATIO


def _around(cut_offs: tuple[float, ...]) -> list[float]:
    """Each cut-off with its neighbours, down to the next number that a computer knows, and many others."""
    near = [c + d for c in cut_offs for d in (-0.0051, -0.0004, -4e-5, -1e-9, 0.0, 1e-9, 4e-5, 0.0004, 0.0051)]
    next_ones = [float(np.nextafter(c, to)) for c in cut_offs for to in (0.0, 1.0)]
    return [*near, *next_ones, *np.random.default_rng(0).uniform(0.01, 0.99, 500).tolist()]


@pytest.mark.parametrize("digits", [2, 4])
def test_a_printed_ratio_has_the_grade_and_the_category_of_the_ratio(digits: int) -> None:
    rule = GradingRule()
    for ratio in _around((*PUBLISHED_G, rule.mild_g, rule.moderate_g, rule.severe_g)):
        printed = ratio_cut(ratio, digits)
        assert rule.by_ratio(printed) is rule.by_ratio(ratio), ratio
        assert codes.ratio_category(printed) is codes.ratio_category(ratio), ratio
        assert 0 <= printed - ratio < 10.0**-digits


@pytest.mark.parametrize("digits", [2, 4])
def test_a_printed_loss_has_the_grade_of_the_loss(digits: int) -> None:
    rule = GradingRule()
    for loss in _around((rule.mild_loss, rule.moderate_loss, rule.severe_loss)):
        printed = loss_cut(loss, digits)
        assert rule.by_loss(printed) is rule.by_loss(loss), loss
        assert 0 <= loss - printed < 10.0**-digits
        said = int(wording.percent(loss).split()[0]) / -100
        assert rule.by_loss(said) is rule.by_loss(loss), loss


@pytest.mark.parametrize(
    ("ratio", "printed", "cut_off"),
    [
        (0.8004, "0.81", ""),
        (0.8, "0.80", "<=.80"),
        (0.7996, "0.80", "<=.80"),
        (0.7404, "0.75", "<=.80"),
        (0.74, "0.74", "<=.74"),
        (0.7396, "0.74", "<=.74"),
    ],
)
def test_g_and_its_cut_off_in_the_table_agree(ratio: float, printed: str, cut_off: str) -> None:
    vertebra = replace(make_case(count=1).findings.vertebrae[0], height_ratio=ratio)
    assert (RATIO.cell(vertebra), CUT_OFF.cell(vertebra)) == (printed, cut_off)


def test_a_cut_off_of_g_stands_beside_a_grade_and_never_instead_of_one(small: Case) -> None:
    """An unsure body on a film, T1 to T3, metal: G is told, what the literature would call it is not."""
    ungraded = replace(small.findings.vertebrae[1], height_ratio=0.6, grade=None, rule=None)
    assert (RATIO.cell(ungraded), CUT_OFF.cell(ungraded)) == ("0.60", "")
    vertebrae = (small.findings.vertebrae[0], ungraded, *small.findings.vertebrae[2:])
    given = replace(small, findings=replace(small.findings, vertebrae=vertebrae))
    details = next(r for r in encode(small.source, given, context()) if r.kind == "details").dataset
    categories = [
        item.ConceptCodeSequence[0].CodeValue
        for container in details.ContentSequence
        for one in container.get("ContentSequence", [])
        for item in one.get("ContentSequence", [])
        if item.ConceptNameCodeSequence[0].CodeValue == codes.RATIO_CATEGORY.value
    ]
    assert len(categories) == sum(v.grade is not None and v.height_ratio is not None for v in vertebrae)
    assert codes.RATIO_BELOW.value not in categories


def test_vertebrae_that_grew_are_rounded_as_usual() -> None:
    assert [loss_cut(x, 2) for x in (-0.034, -0.036, 0.0)] == [-0.03, -0.04, 0.0]
    assert wording.score_text(99.99) == "99" and wording.score_text(0.0) == "0"


def test_the_details_print_what_the_grade_says(small: Case) -> None:
    middle = replace(
        small.findings.vertebrae[1],
        height_loss=Heights(0.24999, 0.1, -0.05),
        height_ratio=0.80004,
        abnormality_score=24.99,
        grade=Grade.MILD,
    )
    vertebrae = (small.findings.vertebrae[0], middle, small.findings.vertebrae[2])
    given = replace(small, findings=replace(small.findings, vertebrae=vertebrae))
    details = next(r for r in encode(small.source, given, context()) if r.kind == "details").dataset
    read = {
        (group, item.ConceptNameCodeSequence[0].CodeValue): float(item.MeasuredValueSequence[0].NumericValue)
        for container in details.ContentSequence
        for group, one in enumerate(container.get("ContentSequence", []))
        for item in one.get("ContentSequence", [])
        if item.ValueType == "NUM"
    }
    assert 0.2499 in [value for (_, code), value in read.items() if code == "VFX005"]
    assert 0.8001 in [value for (_, code), value in read.items() if code == "VFX010"]
    assert 24.9 in [value for (_, code), value in read.items() if code == "VFX020"]
