"""The words: what is said of a vertebra, of a patient, and of what was not seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from results_synthetic import Case, make_case, refused

from inference.findings import Grade, Heights, PatientFinding, Quality, VertebraFinding
from inference.refusal import RefusalCode
from node.results import wording


def vertebra(**changes: object) -> VertebraFinding:
    given = VertebraFinding(
        ordinal=3,
        centroid_lps_mm=(0.0, 0.0, 0.0),
        heights_mm=Heights(20.0, 15.0, 21.0),
        height_ratio=15 / 21,
        height_loss=Heights(0.05, 0.304, 0.0),
        grade=Grade.MODERATE,
    )
    return replace(given, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "V3 moderate, Hm -30 %"),
        ({"grade": Grade.NORMAL}, "V3"),
        ({"grade": None}, "V3 not graded"),
        ({"quality": (Quality.G_ONLY,), "height_loss": None}, "V3 moderate, G 0.71"),
        ({"height_loss": None}, "V3 moderate"),
        ({"height_loss": Heights(-0.1, 0.2, 0.0), "grade": Grade.MILD}, "V3 mild, Hm -20 %"),
    ],
)
def test_comments(changes: dict[str, object], said: str) -> None:
    assert wording.comment(vertebra(**changes)) == said


@pytest.mark.parametrize(("loss", "said"), [(0.4, "-40 %"), (0.001, "0 %"), (-0.03, "+3 %"), (-0.001, "0 %")])
def test_a_loss_is_printed_as_a_change(loss: float, said: str) -> None:
    assert wording.percent(loss) == said


@pytest.mark.parametrize(
    ("grade", "quality", "flag"),
    [
        (Grade.MILD, (), False),
        (Grade.MODERATE, (), True),
        (Grade.SEVERE, (), True),
        (Grade.MODERATE, (Quality.G_ONLY,), False),
        (Grade.SEVERE, (Quality.G_ONLY,), True),
        (None, (), False),
    ],
)
def test_what_raises_the_flag(grade: Grade | None, quality: tuple[Quality, ...], flag: bool) -> None:
    assert wording.raises_flag(vertebra(grade=grade, quality=quality)) is flag


def test_the_two_ends_of_the_table_of_contents(whole_spine: Case, flagged: Case) -> None:
    assert wording.seen_text(whole_spine.findings) == "17 of 18 vertebrae measured; levels not seen: none of T4 to L5"
    assert wording.seen_text(flagged.findings) == (
        "7 of 8 vertebrae measured; levels not seen: unknown, vertebrae are only counted from the top (V1)"
    )
    short = replace(whole_spine.findings, vertebrae=whole_spine.findings.vertebrae[6:16])
    assert wording.seen_text(short) == "10 of 10 vertebrae measured; levels not seen: T4, T5, T6, L4, L5"


def test_a_partial_vertebra_is_not_measured_whatever_it_carries() -> None:
    case = make_case(count=3)
    cut = replace(case.findings.vertebrae[0], quality=(Quality.PARTIAL,))
    findings = replace(case.findings, vertebrae=(cut, *case.findings.vertebrae[1:]))
    assert [v.name for v in wording.measured(findings)] == ["V2", "V3"]
    assert wording.grade_word(cut) == "not measured"
    said = wording.as_answered(findings).vertebrae
    assert (said[0].heights_mm, said[0].keypoints_lps_mm, said[0].grade, said[0].height_ratio) == (None,) * 4
    assert said[1:] == findings.vertebrae[1:]


def test_an_answer_without_a_measured_vertebra_is_not_evaluable(flagged: Case) -> None:
    seen_only = replace(flagged.findings, vertebrae=flagged.findings.vertebrae[7:])
    answered = wording.as_answered(seen_only)
    assert answered.refusal is not None
    assert answered.refusal.code is RefusalCode.NO_VERTEBRA_FOUND
    assert answered.patient.flag is None
    assert answered.vertebrae == ()
    assert wording.as_answered(flagged.findings) is flagged.findings


def test_the_verdicts(flagged: Case, normal: Case) -> None:
    ungraded = replace(normal.findings, patient=PatientFinding(None, None, "height-loss/1"))
    cases = {
        "FLAG": (flagged.findings, "FLAG: V4 severe, V6 moderate"),
        "no flag": (normal.findings, "NO FLAG"),
        "not graded": (ungraded, "NOT GRADED"),
        "not evaluable": (refused(), "NOT EVALUABLE"),
    }
    for word, (findings, sentence) in cases.items():
        assert wording.verdict(findings) == word
        assert wording.verdict_sentence(findings) == sentence


def test_never_fracture_alone_and_always_ascii() -> None:
    assert wording.FLAG_SENTENCE == "Vertebral height loss, possible fracture"
    for sentence in (*wording.QUALITY_SENTENCES.values(), wording.LIMITS_SENTENCE, wording.RESEARCH):
        assert sentence.isascii()
    for flag in Quality:
        assert wording.quality_sentence(flag)
    assert set(wording.QUALITY_SENTENCES) == set(Quality), "every quality flag has a sentence of its own"


def test_unknown_signs_are_spelled_or_replaced() -> None:
    assert wording.ascii_text("−40 % ≤ 1.5 mm ± 2° é 山") == "-40 % <= 1.5 mm +/- 2 deg e? ?"


def test_wrapped_lines_are_short_enough_for_viewers_that_do_not_wrap() -> None:
    lines = wording.wrapped("word " * 80).split("\r\n")
    assert max(len(line) for line in lines) <= 100
    assert " ".join(lines).split() == ["word"] * 80
