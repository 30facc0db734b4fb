"""The words: what is said of a vertebra, of a patient, and of what was not seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from results_synthetic import Case, make_case, refused

from inference import grading
from inference.findings import Acquisition, Grade, Heights, Level, Numbering, PatientFinding, Quality, VertebraFinding
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
        ({"quality": (Quality.G_ONLY,), "height_loss": None}, "V3 moderate, G 0.72"),
        ({"height_loss": None}, "V3 moderate"),
        ({"abnormality_score": 70.6}, "V3 moderate, Hm -30 %, score 70"),
        ({"grade": Grade.NORMAL, "abnormality_score": 12.0}, "V3"),
        ({"grade": Grade.NORMAL, "abnormality_score": 24.96}, "V3"),
        ({"grade": Grade.NORMAL, "abnormality_score": 25.0}, "V3, score 25"),
        ({"grade": None, "abnormality_score": 3.0}, "V3 not graded, score 3"),
        ({"height_loss": Heights(-0.1, 0.2, 0.0), "grade": Grade.MILD}, "V3 mild, Hm -20 %"),
    ],
)
def test_comments(changes: dict[str, object], said: str) -> None:
    assert wording.comment(vertebra(**changes)) == said


@pytest.mark.parametrize(("loss", "said"), [(0.4, "-40 %"), (0.001, "0 %"), (-0.03, "+3 %"), (-0.001, "0 %")])
def test_a_loss_is_printed_as_a_change(loss: float, said: str) -> None:
    assert wording.percent(loss) == said


@pytest.mark.parametrize(
    ("grade", "loss", "quality", "flags_from"),
    [
        (Grade.MILD, 0.22, (), (0.20,)),
        (Grade.MODERATE, 0.28, (), (0.20, 0.25)),
        (Grade.SEVERE, 0.45, (), (0.20, 0.25, 0.30)),
        (Grade.MODERATE, None, (Quality.G_ONLY,), ()),
        (Grade.SEVERE, None, (Quality.G_ONLY,), (0.20, 0.25, 0.30)),
        (None, 0.45, (), ()),
    ],
)
def test_what_raises_the_flag(
    grade: Grade | None, loss: float | None, quality: tuple[Quality, ...], flags_from: tuple[float, ...]
) -> None:
    given = vertebra(grade=grade, quality=quality, height_loss=None if loss is None else Heights(0.0, loss, 0.0))
    for flag_loss in (0.20, 0.25, 0.30):
        patient = PatientFinding(grade, None, "height-loss/1", flag_loss)
        assert wording.raises_flag(given, patient) is (flag_loss in flags_from)


def test_on_coarse_slices_no_smaller_loss_is_said_to_flag_than_is_graded() -> None:
    early = PatientFinding(None, False, "height-loss/1", flag_loss=0.20)
    assert "20 %" in wording.flag_text(early) and "25 %" in wording.flag_text(early, coarse=True)
    late = PatientFinding(None, False, "height-loss/1", flag_loss=0.30)
    assert "30 %" in wording.flag_text(late, coarse=True)


def test_the_rule_in_words_names_the_grades_and_the_flag_of_the_site() -> None:
    assert wording.rule_text(PatientFinding(None, None, "height-loss/1", 0.2)) == (
        "height-loss/1: mild from a loss of 20 %, moderate from a loss of 25 %, severe from a loss of 40 % "
        "(by G only: up to 0.80/0.74/0.60); flag from a loss of 20 %, or severe by G only"
    )


@pytest.mark.parametrize(
    ("flag_loss", "sentence"), [(0.20, "FLAG: V3 mild"), (0.25, "NO FLAG")], ids=["20 percent", "25 percent"]
)
def test_a_site_that_flags_earlier_still_calls_it_mild(flag_loss: float, sentence: str) -> None:
    found = make_case({3: (0.78, 0.95, 1.0)}, count=6).findings
    rule = grading.GradingRule(flag_loss=flag_loss)
    findings = replace(found, patient=grading.patient_finding(found.vertebrae, rule))
    assert wording.verdict_sentence(findings) == sentence
    assert wording.as_answered(findings).patient == findings.patient


def test_the_two_ends_of_the_table_of_contents(whole_spine: Case, flagged: Case) -> None:
    assert wording.seen_text(whole_spine.findings) == "17 of 18 vertebrae measured; levels not seen: none of T4 to L5"
    assert wording.seen_text(flagged.findings) == (
        "7 of 8 vertebrae measured; levels not seen: unknown, vertebrae are only counted from the top (V1)"
    )
    short = replace(whole_spine.findings, vertebrae=whole_spine.findings.vertebrae[6:16])
    assert wording.seen_text(short) == "10 of 10 vertebrae measured; levels not seen: T4, T5, T6, L4, L5"


def test_a_level_that_a_spine_lacks_is_not_said_to_be_unseen(whole_spine: Case) -> None:
    without = tuple(v for v in whole_spine.findings.vertebrae if v.level is not Level.T12)
    findings = replace(whole_spine.findings, vertebrae=without, numbering=Numbering("C2", 0.9))
    assert wording.seen_text(findings).endswith("levels not seen: T12")
    lacking = replace(findings, numbering=Numbering("C2", 0.9, absent=(Level.T12,)))
    assert wording.seen_text(lacking).endswith("levels not seen: none of T4 to L5")


def test_a_partial_vertebra_is_not_measured_whatever_it_carries() -> None:
    case = make_case(count=3)
    cut = replace(case.findings.vertebrae[0], quality=(Quality.PARTIAL,))
    findings = replace(case.findings, vertebrae=(cut, *case.findings.vertebrae[1:]))
    assert [v.name for v in wording.measured(findings)] == ["V2", "V3"]
    assert wording.grade_word(cut) == "not measured"
    said = wording.as_answered(findings).vertebrae
    assert (said[0].heights_mm, said[0].keypoints_lps_mm, said[0].grade, said[0].height_ratio) == (None,) * 4
    assert said[1:] == findings.vertebrae[1:]


def test_a_vertebra_that_loses_its_grade_loses_its_flag() -> None:
    case = make_case({2: (0.5, 0.8, 1.0)}, count=5)
    assert case.findings.patient.flag
    cut = tuple(
        replace(v, quality=(Quality.PARTIAL,)) if v.grade is Grade.SEVERE else v for v in case.findings.vertebrae
    )
    said = wording.as_answered(replace(case.findings, vertebrae=cut)).patient
    assert said.flag is False
    assert said.worst_grade is Grade.NORMAL


def test_an_answer_with_vertebrae_that_were_only_seen_is_not_evaluable(flagged: Case, normal: Case) -> None:
    seen_only = replace(flagged.findings, vertebrae=flagged.findings.vertebrae[7:])
    answered = wording.as_answered(seen_only)
    assert answered.refusal is not None
    assert answered.refusal.code is RefusalCode.NO_VERTEBRA_FOUND
    assert answered.patient.flag is None
    assert answered.vertebrae == ()
    assert wording.as_answered(normal.findings) is normal.findings


def test_names_and_masks_without_heights_are_an_answer_without_a_verdict(thick: Case) -> None:
    said = wording.as_answered(thick.findings)
    assert said.refusal is None and said.vertebrae == thick.findings.vertebrae
    assert thick.findings.patient.flag is False
    assert said.patient == PatientFinding(None, None, "height-loss/1"), "nothing was looked at: no flag is no verdict"
    assert wording.verdict(said) == "not graded"
    unnamed = tuple(replace(v, level=None, level_confidence=None) for v in thick.findings.vertebrae)
    assert wording.as_answered(replace(thick.findings, vertebrae=unnamed)).refusal is None
    only_named = tuple(replace(v, vertebra_volume_ml=None) for v in thick.findings.vertebrae)
    assert wording.as_answered(replace(thick.findings, vertebrae=only_named)).refusal is None


def test_measured_but_not_graded_is_neither_flag_nor_no_flag(normal: Case) -> None:
    ungraded = tuple(replace(v, grade=None, rule=None) for v in normal.findings.vertebrae)
    said = wording.as_answered(replace(normal.findings, vertebrae=ungraded))
    assert (said.patient.flag, said.patient.worst_grade) == (None, None)


def test_a_vertebra_that_is_cut_has_no_volume_score_or_attenuation(complete: Case) -> None:
    cut = replace(complete.findings.vertebrae[2], quality=(Quality.PARTIAL,))
    findings = replace(complete.findings, vertebrae=(cut, *complete.findings.vertebrae[3:]))
    said = wording.as_answered(findings).vertebrae[0]
    assert (said.name, said.level_confidence) == ("T10", 0.97)
    for name in ("vertebra_volume_ml", "body_volume_ml", "abnormality_score", "trabecular_mean_hu", "mask_heights_mm"):
        assert getattr(cut, name) is not None
        assert getattr(said, name) is None


@pytest.mark.parametrize(
    ("numbering", "said"),
    [
        (None, None),
        (Numbering("sacrum", 0.934), "Numbering: counted from sacrum, confidence 0.93"),
        (Numbering("sacrum", 0.55), "Numbering: counted from sacrum, confidence 0.55 (probable)"),
        (
            Numbering("last rib and sacrum", 0.97, ("T13 to L5, T13 (0.02)", "T12 to L6, L6 (0.01)")),
            "Numbering: counted from last rib and sacrum, confidence 0.97; "
            "alternatives T13 to L5, T13 (0.02); T12 to L6, L6 (0.01)",
        ),
        (
            Numbering("sacrum", 0.9996),
            "Numbering: counted from sacrum, confidence 0.99",
        ),
        (
            Numbering("C2 and sacrum", 0.9, (), (Level.T12,)),
            "Numbering: counted from C2 and sacrum, confidence 0.90, this spine has no T12",
        ),
        (
            Numbering("", 0.0, ("T12 to L4 (0.61)", "T11 to L3 (0.35)")),
            "Numbering not known (no sure sacrum, last rib or C2 in view): counted from the top; "
            "likeliest T12 to L4 (0.61)",
        ),
        (
            Numbering("", 0.0),
            "Numbering not known (no sure sacrum, last rib or C2 in view): counted from the top",
        ),
    ],
)
def test_the_numbering_in_words(numbering: Numbering | None, said: str | None, normal: Case) -> None:
    assert wording.numbering_text(replace(normal.findings, numbering=numbering)) == said


@pytest.mark.parametrize(
    ("acquisition", "said"),
    [
        (None, "tube voltage unknown, contrast agent: unknown, kernel unknown"),
        (Acquisition(120.0, False, "B30f", False), "120 kV, contrast agent: no, kernel B30f"),
        (Acquisition(100.0, True, "Br64", True), "100 kV, contrast agent: yes, kernel Br64 (sharp)"),
        (Acquisition(kernel="Körnig"), "tube voltage unknown, contrast agent: unknown, kernel Ko?rnig"),
    ],
)
def test_the_acquisition_in_words(acquisition: Acquisition | None, said: str) -> None:
    assert wording.acquisition_text(acquisition) == said


def test_neighbours_are_named_as_a_range(whole_spine: Case) -> None:
    v = whole_spine.findings.vertebrae
    assert wording.names_text(v[:1]) == "T1"
    assert wording.names_text(v[:2]) == "T1, T2"
    assert wording.names_text((*v[:3], v[5], *v[11:])) == "T1 to T3, T6, T12 to L5"
    assert wording.names_text(()) == ""


def test_names_that_were_not_measured_are_not_said_to_be_unseen(thick: Case) -> None:
    said = wording.seen_text(thick.findings)
    assert said == "0 of 10 vertebrae measured; levels not seen: T4, T5, T6, T7, L5"
    assert wording.graded_text(thick.findings) == "none graded"
    assert wording.named_only_text(thick.findings) == (
        "Named or segmented only (slices 5.0 mm apart): no heights were measured, so no loss of height can be told"
    )


@pytest.mark.parametrize(
    ("confidence", "verdict"),
    [
        (0.89, "FLAG: T11 severe, T13 moderate"),
        (0.87, "FLAG: T11 (probable) severe, T13 (probable) moderate"),
        (0.55, "FLAG: T11 (probable) severe, T13 (probable) moderate"),
    ],
)
def test_a_name_that_is_not_sure_is_told_as_probable(confidence: float, verdict: str) -> None:
    named = make_case({4: (0.8, 0.5, 0.9), 6: (0.68, 0.8, 1.0)}, first_level=Level.T8).findings
    unsure = tuple(replace(v, level_confidence=confidence) for v in named.vertebrae)
    findings = replace(named, vertebrae=unsure)
    assert wording.verdict_sentence(findings) == verdict
    comments = [wording.comment(v) for v in wording.reading_order(findings)]
    assert comments[0].startswith(verdict.removeprefix("FLAG: ").partition(",")[0])
    assert comments[2] == "T8"


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


def test_what_a_terminal_would_obey_is_a_question_mark() -> None:
    assert wording.ascii_text("\x1b[31mred\x07\x00\x7f\x9b2J") == "?[31mred????2J"
    assert wording.ascii_text("a\r\nb\tc") == "a\r\nb\tc"


def test_never_fracture_alone_and_always_ascii() -> None:
    assert wording.FLAG_SENTENCE == "Vertebral height loss, possible fracture"
    sentences = (wording.LIMITS_SENTENCE, wording.RESEARCH, wording.DENSITY_SENTENCE, wording.SCORE_SENTENCE)
    for sentence in (*wording.QUALITY_SENTENCES.values(), *sentences):
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


@pytest.mark.parametrize(
    ("loss", "said"),
    [(0.246, "-24 %"), (0.4, "-40 %"), (0.397, "-39 %"), (0.29, "-29 %"), (-0.03, "+3 %"), (0.004, "0 %")],
)
def test_a_loss_never_seems_to_have_reached_the_next_grade(loss: float, said: str) -> None:
    assert wording.percent(loss) == said
