"""One answer per study: the rules of preference, in their order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from inference.refusal import SENTENCES, Outcome, RefusalCode
from node.gate import GatePolicy, SeriesDecision, Unevaluable, choose, load_volume
from node.gate.eligibility import NOT_ELIGIBLE
from tests.gate.conftest import POLICY, Ct, HeadersOf

STUDY = str(generate_uid())


def by_uid(decisions: list[SeriesDecision]) -> dict[str, SeriesDecision]:
    return {d.series_uid: d for d in decisions}


def kernel(name: str) -> Callable[[int, FileDataset], None]:
    def edit(_: int, ds: FileDataset) -> None:
        ds.ConvolutionKernel = name

    return edit


def secondary(_: int, ds: FileDataset) -> None:
    ds.ImageType = ["ORIGINAL", "SECONDARY", "AXIAL"]


def head(_: int, ds: FileDataset) -> None:
    ds.BodyPartExamined, ds.SeriesDescription = "HEAD", "Brain thin"


def child(_: int, ds: FileDataset) -> None:
    ds.PatientAge = "012Y"


def thin(uid: str = "1.5", **change: object) -> Ct:
    return replace(Ct(count=25, spacing=1.5, study_uid=STUDY, series_uid=uid), **change)


def thick(uid: str = "1.5", **change: object) -> Ct:
    return replace(Ct(count=15, spacing=3.0, study_uid=STUDY, series_uid=uid), **change)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        pytest.param(thin("1.9", edit=secondary, count=24), thin("1.1", edit=head), id="spine expected"),
        pytest.param(thick("1.9"), thick("1.1", spacing=6.0, count=60), id="evaluable"),
        pytest.param(thick("1.9", edit=kernel("Bl57")), thin("1.1", edit=secondary), id="primary"),
        pytest.param(thin("1.9", edit=kernel("Br60"), count=22), thick("1.1"), id="thin"),
        pytest.param(thin("1.9", count=22), thin("1.1", edit=kernel("Bl57")), id="soft kernel"),
        pytest.param(thin("1.9", edit=kernel("unheard-of")), thin("1.1", edit=kernel("Br64")), id="unknown kernel"),
        pytest.param(thin("1.9", count=26), thin("1.1"), id="coverage"),
        pytest.param(thick("1.9", count=66, spacing=2.0), thick("1.1", count=28, spacing=5.0), id="finer slices"),
        pytest.param(thick("1.9", count=31, spacing=5.0), thick("1.1", count=66, spacing=2.0), id="a vertebra more"),
        pytest.param(thin("1.9", count=37, spacing=1.0), thin("1.1", count=26), id="finer thin slices"),
        pytest.param(thin("1.1"), thin("1.9"), id="lowest UID"),
    ],
)
def test_the_better_series_is_answered_and_named(headers_of: HeadersOf, better: Ct, worse: Ct) -> None:
    found = by_uid(choose(headers_of(better, worse), POLICY))
    assert found[better.series_uid].outcome is Outcome.ANSWERED
    assert found[better.series_uid].pipeline == "ct"
    other = found[worse.series_uid]
    assert (other.outcome, other.better_series_uid, other.pipeline) == (
        Outcome.NOT_CHOSEN,
        better.series_uid,
        None,
    )
    assert other.refusal is not None
    assert other.refusal.code is RefusalCode.BETTER_SERIES


def test_a_chain_of_nearly_equal_series_does_not_lead_away_from_the_largest(headers_of: HeadersOf) -> None:
    """Each covers 15 mm less than the one before and is finer: the third lacks a vertebra of the first."""
    chain = (
        thick("1.3", count=33, spacing=5.0),
        thick("1.2", count=37, spacing=4.0),
        thick("1.1", count=44, spacing=3.0),
    )
    found = by_uid(choose(headers_of(*chain), POLICY))
    assert [found[one.series_uid].outcome for one in chain] == [
        Outcome.NOT_CHOSEN,
        Outcome.ANSWERED,
        Outcome.NOT_CHOSEN,
    ]


def test_all_series_is_an_option(headers_of: HeadersOf) -> None:
    decisions = choose(headers_of(thin("1.1"), thick("1.2"), thin("1.3", count=5)), GatePolicy(all_series=True))
    assert [d.outcome for d in decisions] == [Outcome.ANSWERED, Outcome.ANSWERED, Outcome.NOT_ELIGIBLE]


def test_the_order_of_the_instances_does_not_matter(headers_of: HeadersOf) -> None:
    headers = headers_of(thin("1.1", count=22), thick("1.2", count=12), thin("1.3", edit=kernel("B70f"), count=22))
    expected = choose(headers, POLICY)
    for seed in range(5):
        random.Random(seed).shuffle(headers)
        assert choose(headers, POLICY) == expected


def test_each_study_is_decided_by_itself(headers_of: HeadersOf) -> None:
    headers = headers_of(thin("1.1"), replace(thick("1.2"), study_uid="1.2.3"))
    assert {d.outcome for d in choose(headers, POLICY)} == {Outcome.ANSWERED}


def test_what_the_headers_say_against_an_answer_stands_in_the_decision(headers_of: HeadersOf) -> None:
    headers = headers_of(thick("1.1", edit=child))
    (decision,) = choose(headers, POLICY)
    assert decision.outcome is Outcome.ANSWERED
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.AGE_BELOW_18
    result = load_volume(headers, POLICY)
    assert isinstance(result, Unevaluable)
    assert result.refusal == decision.refusal
    assert (len(result.datasets), result.spine_expected, result.age_years) == (15, True, 12.0)


def test_a_study_of_one_localizer_is_not_eligible(headers_of: HeadersOf) -> None:
    def scout(_: int, ds: FileDataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    (decision,) = choose(headers_of(Ct(count=1, edit=scout)), POLICY)
    assert (decision.outcome, decision.instances, decision.pipeline) == (Outcome.NOT_ELIGIBLE, 1, None)
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.LOCALIZER


@pytest.mark.parametrize("orientation", [(0.0, 1.0, 0.0, 0.0, 0.0, -1.0), (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)])
def test_sagittal_and_coronal_acquisitions_are_not_eligible(
    headers_of: HeadersOf, orientation: tuple[float, ...]
) -> None:
    step = (3.0, 0.0, 0.0) if orientation[0] == 0 else (0.0, 3.0, 0.0)
    (decision,) = choose(headers_of(Ct(orientation=orientation, step=step)), POLICY)
    assert decision.outcome is Outcome.NOT_ELIGIBLE
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.NOT_AXIAL


def test_no_study_gives_no_decision() -> None:
    assert choose([], POLICY) == []


def test_every_refusal_code_has_a_sentence_and_an_outcome() -> None:
    assert set(SENTENCES) == set(RefusalCode)
    answered = set(RefusalCode) - NOT_ELIGIBLE - {RefusalCode.BETTER_SERIES}
    assert {RefusalCode.GAP_IN_SERIES, RefusalCode.NO_SPINE_FOUND} <= answered


def test_ties_are_broken_the_same_way_whatever_the_names(headers_of: HeadersOf) -> None:
    series = [thin(f"1.{n}", count=22) for n in (3, 1, 2)]
    headers = [headers_of(one) for one in series]
    for order in itertools.permutations(headers):
        decisions = by_uid(choose(list(itertools.chain(*order)), POLICY))
        assert decisions["1.1"].outcome is Outcome.ANSWERED
