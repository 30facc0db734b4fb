"""A vertebra between two others that was not seen: every result says where, once, and no ratio hides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from films_synthetic import FilmCase, film_case, film_context
from PIL import ImageDraw
from pydicom.dataset import Dataset

from inference.findings import Level, Numbering, Quality, VertebraFinding
from node.results import FilmAnswer, Result, encode_film
from node.results.film_notes import compared_text, compression
from node.results.gaps import gaps, gaps_text
from node.results.wording import doubts, seen_text

GAP = "between V2 and V3 at least one vertebra was not seen"


def with_one_missed(case: FilmCase, missed: int) -> FilmCase:
    """The findings of a pipeline that did not see one body; the next ones are the neighbours of what lies beside it."""
    seen = [v for v in case.findings.vertebrae if v.ordinal != missed]
    count = len(seen)
    vertebrae = []
    for n, v in enumerate(seen, start=1):
        flag = (Quality.GAP_BELOW,) if v.ordinal == missed - 1 else ()
        ends = n in (1, count)
        vertebrae.append(
            replace(
                v,
                ordinal=n,
                quality=(*v.quality, *flag),
                compression_ratio_percent=None if ends else 0.0,
                compared_with=None if ends else (n - 1, n + 1),
            )
        )
    labels = case.answer.labels
    assert labels is not None
    table = np.array([0, *(n - (n > missed) if n != missed else 0 for n in range(1, count + 2))], np.uint8)
    findings = replace(case.findings, vertebrae=tuple(vertebrae))
    return replace(case, answer=FilmAnswer(findings, case.film, table[labels]))


@pytest.fixture(scope="module")
def missed() -> FilmCase:
    """Five bodies, of which the third was not seen: V1, V2, V3 and V4."""
    return with_one_missed(film_case({3: 0.4}), 3)


def seen_at(rows: dict[int, bool]) -> tuple[VertebraFinding, ...]:
    """Vertebrae at whole places along a column, with the flag or without, by place."""
    return tuple(
        VertebraFinding(n, centroid_px=(100.0, 100.0 * place), quality=(Quality.GAP_BELOW,) if flagged else ())
        for n, (place, flagged) in enumerate(rows.items(), start=1)
    )


@pytest.mark.parametrize(
    ("places", "pairs"),
    [
        ([1, 2, 3], []),
        ([1, 2, 4, 5], [(2, 3)]),
        ([1, 3, 5], [(1, 2), (2, 3)]),
        ([1, 3, 4, 6], [(1, 2), (3, 4)]),
        ([1, 3, 5, 7], [(1, 2), (2, 3), (3, 4)]),
        ([1, 2, 4, 5, 6, 8, 9], [(2, 3), (5, 6)]),
        ([1, 4, 5, 7, 9], [(1, 2), (3, 4), (4, 5)]),
    ],
)
def test_a_gap_lies_below_the_one_that_is_flagged(
    missed: FilmCase, places: list[int], pairs: list[tuple[int, int]]
) -> None:
    above = {a for a, b in pairwise(places) if b - a > 1}
    findings = replace(missed.findings, vertebrae=seen_at({p: p in above for p in places}))
    assert [(above.ordinal, below.ordinal) for above, below in gaps(findings)] == pairs


def test_several_gaps_in_words(missed: FilmCase) -> None:
    rows = {1: False, 2: True, 4: False, 5: False, 6: True, 8: False}
    findings = replace(missed.findings, vertebrae=seen_at(rows))
    assert gaps_text(findings) == ("between V2 and V3 and between V5 and V6 at least one vertebra each was not seen")
    assert seen_text(missed.findings).startswith(f"4 of 4 vertebrae measured; {GAP}; levels not seen")
    assert all(flag is not Quality.GAP_BELOW for flag, _ in doubts(missed.findings)), "said once"


def test_across_a_gap_the_vertebrae_compared_with_are_named(missed: FilmCase) -> None:
    second, third = missed.findings.vertebrae[1:3]
    assert compared_text(second, missed.findings) == "V1 and V3"
    assert compared_text(third, missed.findings) == "V2 and V4"
    assert "is passed over: V2 with V1 and V3; V3 with V2 and V4; the mean" in compression(missed.findings)
    whole = film_case().findings
    assert all(compared_text(v, whole) is None for v in whole.vertebrae)


def text_of(report: Dataset) -> list[str]:
    found = []
    for item in report.get("ContentSequence", []):
        if item.ValueType == "TEXT":
            found.append(str(item.TextValue))
        found += text_of(item)
    return found


def drawn_words(case: FilmCase, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Result], list[tuple[float, str]]]:
    """The results, and every word of the capture with its row."""
    words: list[tuple[float, str]] = []
    original = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, *rest: Any, **more: Any) -> None:
        words.append((xy[1], text))
        original(self, xy, text, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return {r.kind: r for r in encode_film(case.source, case.answer, film_context())}, words


def test_every_result_says_where_a_vertebra_was_not_seen(
    missed: FilmCase, validation_errors: Callable[[Result], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, words = drawn_words(missed, monkeypatch)
    page = " ".join(word for _, word in words)
    assert page.count(GAP) == 1
    (row,) = [y for y, word in words if word == "V2 - V3: at least one not seen"]
    names = {name: min(y for y, word in words if word == name) for name in ("V2", "V3")}
    assert names["V2"] < row < names["V3"]
    for kind in ("report", "details"):
        assert sum(GAP in said for said in text_of(results[kind].dataset)) == 1
        assert validation_errors(results[kind]) == []
    assert "V2; at least one not seen before V3" in text_of(results["report"].dataset)


def test_a_gap_beside_a_vertebra_without_a_line_is_told_at_the_other() -> None:
    case = with_one_missed(film_case({3: 0.4}, unmeasured=(2,)), 3)
    (result,) = [r for r in encode_film(case.source, case.answer, film_context()) if r.kind == "report"]
    assert "V3; at least one not seen after V2" in text_of(result.dataset)


def test_the_text_report_says_where_a_vertebra_was_not_seen(missed: FilmCase) -> None:
    unmeasured = tuple(
        replace(v, keypoints_px=None, quality=(*v.quality, Quality.HEIGHTS_NOT_TOLD)) for v in missed.findings.vertebrae
    )
    answer = replace(missed.answer, findings=replace(missed.findings, vertebrae=unmeasured))
    (result,) = [r for r in encode_film(missed.source, answer, film_context()) if r.kind == "report"]
    assert any(GAP in said.replace("\r\n", " ") for said in text_of(result.dataset))


def test_vertebrae_that_were_seen_but_not_named_are_not_said_to_be_unseen() -> None:
    named = film_case(first_level=Level.L1).findings
    numbering = Numbering("sacrum", 0.9)
    bare = [replace(v, level=None, level_confidence=None) for v in named.vertebrae]

    def said(*vertebrae: VertebraFinding) -> str:
        return seen_text(replace(named, numbering=numbering, vertebrae=vertebrae)).partition("; ")[2]

    thoracic = "T4, T5, T6, T7, T8, T9, T10, T11, T12"
    l1, l2, l3, l4, l5 = named.vertebrae
    assert said(*bare[:3], l4, l5) == f"levels not seen: unknown of {thoracic}, L1, L2, L3 (V1 to V3: seen, not named)"
    assert said(l1, l2, l3, *bare[3:]) == (f"levels not seen: {thoracic}; unknown of L4, L5 (V4, V5: seen, not named)")
    assert said(l1, bare[1], l4, l5) == f"levels not seen: {thoracic}; unknown of L2, L3 (V2: seen, not named)"
    assert said(l1, l2, l3, l4, l5) == f"levels not seen: {thoracic}"
