"""Findings as words. Every sentence that a person reads in a result is made here, in ASCII.

"Vertebral height loss, possible fracture", never "fracture"; "no flag" always with what was not looked at.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from inference import grading
from inference.findings import Acquisition, Findings, Grade, Heights, Level, PatientFinding, Quality, VertebraFinding
from inference.refusal import Refusal, RefusalCode
from node.results.gaps import gaps_text
from node.results.rounding import loss_cut, ratio_cut

RESEARCH = "AI - research use only"
NO_FLAG = "no flag"
FLAG_SENTENCE = "Vertebral height loss, possible fracture"
LIMITS_SENTENCE = (
    "Does not tell osteoporotic from traumatic, pathological, congenital or Scheuermann deformity, nor new from old."
)
NAMED_ONLY_SENTENCE = (
    "Vertebrae were named or segmented only: no heights were measured, so no loss of height can be told"
)
DENSITY_SENTENCE = "HU is the mean of the trabecular core: no T-score, no diagnosis of osteoporosis"
SCORE_SENTENCE = "Score 0 to 100: 0 = as the neighbours predict; wedges score low; read beside the heights"
NOTABLE_SCORE = 25.0
"""Two standard deviations above the published mean of normal vertebrae (Botros et al. 2022: 10.1 +/- 6.9)."""
SURE_NAME = 0.88
"""A name of less confidence is told as probable. One anchor gives at most .89, the part of people who have twelve
thoracic and five lumbar vertebrae: such a name is the one that a reader gives who counts from that anchor, too. On
films, where .85 is told, four names in five were right (model cards)."""
LOSS_NAMES = ("Ha", "Hm", "Hp")
"""Short names of the anterior, middle and posterior height."""
WALL = "wall"
"""Of that wall which lost more, anterior or posterior: nobody knows where the side of the front is not sure."""

GRADED_LEVELS = tuple(Level)[list(Level).index(Level.T4) : list(Level).index(Level.L5) + 1]
"""Levels whose absence is named when levels are known (T13 only where it was seen)."""

QUALITY_SENTENCES: dict[Quality, str] = {
    Quality.G_ONLY: "no undeformed vertebra above and below to compare with: only its own height ratio G can grade it",
    Quality.MILD_NOT_REPORTED: "a mild loss (20 to 25 %; G .74 to .8) cannot be told from normal at this spacing",
    Quality.LOW_CONFIDENCE: "the network was unsure of this vertebra or of one of its points",
    Quality.PARTIAL: "cut by the edge of the field of view",
    Quality.NEAR_EDGE: "a point lies within one slice of the edge of the field of view",
    Quality.OFF_CENTRE_LINE: "the centre line is unsure here",
    Quality.COARSE_SPACING: "slice spacing above 1.5 mm: heights are less certain",
    Quality.HEIGHTS_NOT_TOLD: "spacing too coarse to measure heights: names and masks only",
    Quality.METAL: "metal or cement in or beside the body: neither grade nor HU",
    Quality.OUTSIDE_SCREENING_AGE: "outside screening age",
    Quality.AGE_UNKNOWN: "age unknown",
    Quality.LOSSY_SOURCE: "source images are lossy compressed",
    Quality.TILT_CORRECTED: "gantry tilt was corrected",
    Quality.SPLIT_SERIES: "only the largest consistent block of the series was analysed",
    Quality.LEVELS_UNKNOWN: "levels are not known: vertebrae are counted from the top of the image",
    Quality.NOT_NAMED: "measured, but not among the named vertebrae",
    Quality.NO_END_PLATES: "end plates not found: no heights",
    Quality.NO_MASK: "not segmented",
    Quality.MASK_CUT: "a part lies outside the field of view: no volumes",
    Quality.MASK_DISAGREES: "heights of the mask and of the points differ (CT: by more than their stated error; "
    "radiograph: by more than 10 % of Hp)",
    Quality.CONTRAST_AGENT: "contrast agent raises the HU",
    Quality.CONTRAST_UNKNOWN: "unknown whether contrast agent raises the HU",
    Quality.KVP_NOT_120: "not taken at 120 kV: HU is not comparable",
    Quality.KVP_UNKNOWN: "tube voltage unknown: HU may not be comparable",
    Quality.SHARP_KERNEL: "edge-enhancing kernel: HU is less certain",
    Quality.KERNEL_UNKNOWN: "kernel unknown: HU is less certain",
    Quality.CORE_TOO_SMALL: "too little trabecular bone off the surface: no HU",
    Quality.CORE_UNEVEN: "uneven trabecular bone: an island, sclerosis or a streak moves the HU",
    Quality.FOREIGN_MATERIAL: "taken for a body with cement or metal: no grade (CT: no HU either)",
    Quality.UNCALIBRATED: "uncalibrated: ratios only, no millimetres",
    Quality.FOR_PROCESSING: "image as the detector gave it, not processed for reading",
    Quality.WINDOW_OVERRULED: "the header's window shows almost nothing: the range of the values was shown instead",
    Quality.FRONT_UNSURE: "not sure to which side the front lies: no anterior or posterior height is told, and no VCR",
    Quality.HEAD_UNSURE: "not sure which end is the head: vertebrae and their upper and lower points may be exchanged",
    Quality.HEADER_CONTRADICTED: "the header says otherwise how the film lies: what its pixels show was believed",
    Quality.GAP_BELOW: "by the names or the distance, a vertebra between it and the next one below was not seen",
    Quality.LIKELY_SACRUM: "likely the sacrum: not graded, and no other vertebra is compared with it",
    Quality.SHAPE_UNKNOWN: "heights were not measured: HU may be that of a deformed body",
    Quality.DOUBLE_CONTOUR: "an end plate shows twice (oblique): its height may be of either line",
}

DENSITY_FLAGS = frozenset(
    {
        Quality.CONTRAST_AGENT,
        Quality.CONTRAST_UNKNOWN,
        Quality.KVP_NOT_120,
        Quality.KVP_UNKNOWN,
        Quality.SHARP_KERNEL,
        Quality.KERNEL_UNKNOWN,
        Quality.CORE_UNEVEN,
        Quality.SHAPE_UNKNOWN,
    }
)
"""Reasons why an attenuation that was measured is unsafe to compare."""

_REPLACEMENTS = {"−": "-", "–": "-", "—": "-", "≤": "<=", "≥": ">=", "×": "x", "°": " deg", "±": "+/-", "…": "..."}


def ascii_text(text: str) -> str:
    """The text in ASCII: signs spelled out, accents dropped, anything else, control characters too, a question mark."""
    for sign, spelled in _REPLACEMENTS.items():
        text = text.replace(sign, spelled)
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "replace").decode("ascii")
    return "".join(c if c.isprintable() or c in "\r\n\t" else "?" for c in plain)


def wrapped(text: str, width: int = 100) -> str:
    """ASCII text with a line break before every ``width`` characters: viewers do not wrap every TEXT item."""
    return "\r\n".join(textwrap.wrap(ascii_text(text), width))


def quality_sentence(flag: Quality) -> str:
    """What a quality flag means, in words; the flag's own name where no sentence was written for it."""
    return QUALITY_SENTENCES.get(flag, str(flag).replace("_", " ").lower())


def doubts(findings: Findings) -> list[tuple[Quality, str]]:
    """Each quality flag of vertebrae once, with whose it is: "V2, V4: an end plate shows twice ...".

    Where a vertebra was not seen, `seen_text` says better: between which two.
    """
    by_flag: dict[Quality, list[VertebraFinding]] = {}
    for vertebra in findings.vertebrae:
        for flag in vertebra.quality:
            if flag is not Quality.GAP_BELOW:
                by_flag.setdefault(flag, []).append(vertebra)
    said = []
    for flag, those in by_flag.items():
        who = "all" if len(those) == len(findings.vertebrae) > 1 else names_text(those)
        said.append((flag, f"{who}: {quality_sentence(flag)}"))
    return said


def is_measured(vertebra: VertebraFinding) -> bool:
    """Whether heights and end points are there and the vertebra is whole: a partial one is not measured."""
    whole = Quality.PARTIAL not in vertebra.quality
    in_patient = vertebra.keypoints_lps_mm is not None and vertebra.heights_mm is not None
    on_film = vertebra.keypoints_px is not None and vertebra.relative_heights is not None
    return whole and (in_patient or on_film)


def measured(findings: Findings) -> tuple[VertebraFinding, ...]:
    """The vertebrae whose heights and end points are there, top to bottom."""
    return tuple(v for v in findings.vertebrae if is_measured(v))


def is_without_side(vertebra: VertebraFinding) -> bool:
    """Whether a whole vertebra of a radiograph was measured, but nobody knows which of its walls is the anterior."""
    return vertebra.without_side is not None and vertebra.keypoints_px is not None and not is_partial(vertebra)


def is_partial(vertebra: VertebraFinding) -> bool:
    """Whether the vertebra is cut by the edge of the field of view."""
    return Quality.PARTIAL in vertebra.quality


def told(findings: Findings) -> tuple[VertebraFinding, ...]:
    """The vertebrae of which a height or a ratio is told, top to bottom: `measured`, and those without a side."""
    return tuple(v for v in findings.vertebrae if is_measured(v) or is_without_side(v))


def says_something(vertebra: VertebraFinding) -> bool:
    """Whether a vertebra was measured, named or segmented, if only in part, and not only seen."""
    segmented = vertebra.vertebra_volume_ml is not None or Quality.MASK_CUT in vertebra.quality
    outlined = vertebra.centroid_px is not None and Quality.HEIGHTS_NOT_TOLD in vertebra.quality
    return is_measured(vertebra) or is_without_side(vertebra) or vertebra.level is not None or segmented or outlined


def as_answered(findings: Findings) -> Findings:
    """The findings as they may be said.

    A vertebra that is not whole keeps its name and no number; one without heights or points keeps no grade. Where no
    vertebra was graded there is neither flag nor "no flag". An answer in which no vertebra was measured, named or
    segmented is "not evaluable".
    """
    if findings.refusal is not None:
        return findings
    unjudged = replace(findings.patient, worst_grade=None, flag=None)
    if not any(says_something(v) for v in findings.vertebrae):
        return replace(findings, patient=unjudged, vertebrae=(), refusal=Refusal(RefusalCode.NO_VERTEBRA_FOUND))
    vertebrae = tuple(_as_answered(v) for v in findings.vertebrae)
    if vertebrae != findings.vertebrae:
        rule = grading.GradingRule(flag_loss=findings.patient.flag_loss)
        findings = replace(findings, vertebrae=vertebrae, patient=grading.patient_finding(vertebrae, rule))
    if all(v.grade is None for v in vertebrae) and findings.patient != unjudged:
        findings = replace(findings, patient=unjudged)
    return findings


def _as_answered(vertebra: VertebraFinding) -> VertebraFinding:
    if Quality.PARTIAL in vertebra.quality:
        vertebra = replace(
            vertebra,
            mask_heights_mm=None,
            mask_relative_heights=None,
            abnormality_score=None,
            vertebra_volume_ml=None,
            body_volume_ml=None,
            trabecular_mean_hu=None,
        )
    if is_measured(vertebra) or is_without_side(vertebra):
        return vertebra
    return replace(
        vertebra,
        without_side=None,
        keypoints_lps_mm=None,
        keypoints_px=None,
        relative_heights=None,
        compression_ratio_percent=None,
        compared_with=None,
        heights_mm=None,
        height_ratio=None,
        height_loss=None,
        height_uncertainty_mm=None,
        grade=None,
        rule=None,
    )


def verdict(findings: Findings) -> str:
    """The word of the series description: "FLAG", "no flag", "not graded" or "not evaluable"."""
    if findings.refusal is not None:
        return "not evaluable"
    if findings.patient.flag is None:
        return "not graded"
    return "FLAG" if findings.patient.flag else NO_FLAG


def raises_flag(vertebra: VertebraFinding, patient: PatientFinding) -> bool:
    """Whether this vertebra alone sets the patient's flag, by the cut-off under which the patient was judged."""
    lost = losses(vertebra)
    if vertebra.without_side is None or vertebra.grade is None or not lost or Quality.G_ONLY in vertebra.quality:
        return grading.raises_flag(vertebra, patient.flag_loss)
    return max(lost.values()) >= patient.flag_loss


def flag_text(patient: PatientFinding, coarse: bool = False) -> str:
    """What raises the flag: "flag from a loss of 25 %, or severe by G only".

    ``coarse``: slices so thick that no smaller loss is graded, whatever cut-off the site chose.
    """
    loss = max(patient.flag_loss, grading.SURE_LOSS) if coarse else patient.flag_loss
    return f"flag from a loss of {100 * loss:g} %, or severe by G only"


def rule_text(patient: PatientFinding) -> str:
    """The grading rule with its cut-offs, and the flag's, which a site may choose."""
    rule = grading.GradingRule()
    losses = ((rule.mild_loss, "mild"), (rule.moderate_loss, "moderate"), (rule.severe_loss, "severe"))
    grades = ", ".join(f"{word} from a loss of {100 * loss:g} %" for loss, word in losses)
    ratios = "/".join(f"{g:.2f}" for g in (rule.mild_g, rule.moderate_g, rule.severe_g))
    return f"{patient.rule}: {grades} (by G only: up to {ratios}); {flag_text(patient)}"


def largest_loss(vertebra: VertebraFinding) -> tuple[str, float] | None:
    """("Hm", 0.4): the part that lost most of its expected height; ``None`` when no loss is known."""
    lost = losses(vertebra)
    if not lost:
        return None
    name = max(lost, key=lambda part: lost[part])
    return name, lost[name]


def losses(vertebra: VertebraFinding) -> dict[str, float]:
    """Losses by the short name of the part; where the front is not sure that of the middle and of the worse wall."""
    if vertebra.height_loss is not None:
        return dict(zip(LOSS_NAMES, vertebra.height_loss.as_tuple(), strict=True))
    side = vertebra.without_side
    if side is None or side.middle_loss is None or side.wall_loss is None:
        return {}
    return {LOSS_NAMES[1]: side.middle_loss, WALL: side.wall_loss}


def reading_order(findings: Findings) -> tuple[VertebraFinding, ...]:
    """Measured vertebrae as a reader wants them: those that raise the flag, worst first, then top to bottom."""

    def badness(vertebra: VertebraFinding) -> tuple[int, float, float]:
        loss = largest_loss(vertebra)
        grade = vertebra.grade.rank if vertebra.grade is not None else -1
        return (-grade, -(loss[1] if loss else 0.0), vertebra.height_ratio or 1.0)

    vertebrae = told(findings)
    flagged = sorted((v for v in vertebrae if raises_flag(v, findings.patient)), key=badness)
    return (*flagged, *(v for v in vertebrae if not raises_flag(v, findings.patient)))


def grade_word(vertebra: VertebraFinding) -> str:
    """The word beside the colour: the grade, "not graded", or "not measured"."""
    if not (is_measured(vertebra) or is_without_side(vertebra)):
        return "not measured"
    return str(vertebra.grade) if vertebra.grade is not None else "not graded"


def percent(loss: float) -> str:
    """A loss as a change: .4 is "-40 %"; a vertebra taller than expected is "+3 %".

    It never seems to have reached the next grade: .246 is "-24 %" (`node.results.rounding`).
    """
    change = -round(100 * loss_cut(loss, 2))
    return f"{change:+d} %" if change else "0 %"


def ratio_text(ratio: float) -> str:
    """G with two decimals, on the side of each cut-off on which it lies."""
    return f"{ratio_cut(ratio, 2):.2f}"


def score_text(score: float) -> str:
    """The abnormality score without decimals: 24.9 is not yet the 25 that is notable."""
    return f"{loss_cut(score, 0):.0f}"


def loss_text(vertebra: VertebraFinding) -> str:
    """The cell of the loss: "Hm -40 %"; "G only" where the grade rests on G; "-" where nothing is known."""
    loss = largest_loss(vertebra)
    if loss is not None:
        return f"{loss[0]} {percent(loss[1])}"
    return "G only" if vertebra.grade is not None and Quality.G_ONLY in vertebra.quality else "-"


def told_name(vertebra: VertebraFinding) -> str:
    """Its name, "T12 (probable)" where the level is less sure than `SURE_NAME`."""
    return f"{vertebra.name} (probable)" if probable_text(vertebra) is not None else vertebra.name


def probable_text(vertebra: VertebraFinding) -> str | None:
    """What stands beside the code of a level that is not sure: "probably T12, confidence 0.55"."""
    confidence = vertebra.level_confidence or 0.0
    if vertebra.level is None or confidence >= SURE_NAME:
        return None
    return f"probably {vertebra.level}, confidence {loss_cut(confidence, 2):.2f}"


def comment(vertebra: VertebraFinding) -> str:
    """First line of a group in a viewer: "T12 severe, Hm -40 %, score 71"; a normal vertebra is its name alone.

    The score of a normal vertebra is said where it is notable, and of a deformed one that its name is only probable.
    """
    score = vertebra.abnormality_score
    notable = score is not None and (vertebra.grade is not Grade.NORMAL or score >= NOTABLE_SCORE)
    scored = f", score {score_text(score)}" if score is not None and notable else ""
    if vertebra.grade is Grade.NORMAL:
        return f"{vertebra.name}{scored}"
    if vertebra.grade is None:
        return f"{vertebra.name} not graded{scored}"
    loss = largest_loss(vertebra)
    if Quality.G_ONLY in vertebra.quality and vertebra.height_ratio is not None:
        return f"{told_name(vertebra)} {vertebra.grade}, G {ratio_text(vertebra.height_ratio)}{scored}"
    return f"{told_name(vertebra)} {vertebra.grade}" + (f", {loss[0]} {percent(loss[1])}" if loss else "") + scored


def heights_text(heights: Heights | None, pattern: str = "{:.1f}") -> tuple[str, str, str]:
    """Three cells of a table; "-" where nothing was measured."""
    if heights is None:
        return ("-", "-", "-")
    a, m, p = (pattern.format(value) for value in heights.as_tuple())
    return (a, m, p)


def seen_text(findings: Findings) -> str:
    """ "k of n measured, levels not seen: ..."; before that where a vertebra was not seen between two that were.

    Of levels that may be those of vertebrae without a name nobody knows whether they were seen: said apart.
    """
    k, n = len(told(findings)), len(findings.vertebrae)
    counted = f"{k} of {n} vertebrae measured" + (f"; {missed}" if (missed := gaps_text(findings)) else "")
    seen = {v.level for v in findings.vertebrae if v.level is not None}
    if not seen:
        why = ", vertebrae are only counted from the top (V1)" if findings.numbering is None else ""
        return f"{counted}; levels not seen: unknown{why}"
    absent = findings.numbering.absent if findings.numbering is not None else ()
    missing = [x for x in GRADED_LEVELS if x not in seen and x not in absent and x is not Level.T13]
    unnamed = {x: those for x in missing if (those := _may_be(x, findings))}
    unseen = [str(x) for x in missing if x not in unnamed]
    parts = [", ".join(unseen)] if unseen else []
    if unnamed:
        ordinals = {v.ordinal for those in unnamed.values() for v in those}
        names = names_text([v for v in findings.vertebrae if v.ordinal in ordinals])
        parts.append(f"unknown of {', '.join(unnamed)} ({names}: seen, not named)")
    return f"{counted}; levels not seen: {'; '.join(parts) if parts else 'none of T4 to L5'}"


def _may_be(level: Level, findings: Findings) -> list[VertebraFinding]:
    """Vertebrae without a name that may be of this level, by the named ones above and below them."""
    rungs = list(Level)
    named = {v.ordinal: rungs.index(v.level) for v in findings.vertebrae if v.level is not None}
    at = rungs.index(level)
    return [
        v
        for v in findings.vertebrae
        if v.level is None and all((rung < at) == (ordinal < v.ordinal) for ordinal, rung in named.items())
    ]


def graded_text(findings: Findings) -> str:
    """How many of the measured vertebrae could be graded, and which could not be."""
    graded = [v for v in told(findings) if v.grade is not None]
    if not graded:
        return "none graded"
    others = [v for v in findings.vertebrae if v.grade is None]
    return f"{len(graded)} graded" + (f"; not graded: {names_text(others)}" if others else "")


def names_text(vertebrae: Sequence[VertebraFinding]) -> str:
    """Names of vertebrae from the top, three and more neighbours as a range: "T4, T6 to T9"."""
    runs: list[list[VertebraFinding]] = []
    for vertebra in vertebrae:
        if runs and vertebra.ordinal == runs[-1][-1].ordinal + 1:
            runs[-1].append(vertebra)
        else:
            runs.append([vertebra])
    said = [[f"{r[0].name} to {r[-1].name}"] if len(r) > 2 else [v.name for v in r] for r in runs]
    return ", ".join(name for names in said for name in names)


def numbering_text(findings: Findings) -> str | None:
    """The numbering in words: from which anchor, how sure, and what else it may be; ``None`` where nobody counted."""
    numbering = findings.numbering
    if numbering is None:
        return None
    others = numbering.alternatives
    if numbering.known:
        said = f"Numbering: counted from {numbering.anchor}, confidence {loss_cut(numbering.confidence, 2):.2f}"
        said += " (probable)" if numbering.confidence < SURE_NAME else ""
        said += "".join(f", this spine has no {level}" for level in numbering.absent)
        return said + (f"; alternatives {'; '.join(others)}" if others else "")
    said = "Numbering not known (no sure sacrum, last rib or C2 in view): counted from the top"
    return said + (f"; likeliest {others[0]}" if others else "")


def acquisition_text(acquisition: Acquisition | None) -> str:
    """What attenuation depends on: "120 kV, contrast agent: no, kernel B30f"; what headers do not say is unknown."""
    given = acquisition or Acquisition()
    voltage = "tube voltage unknown" if given.kvp is None else f"{given.kvp:g} kV"
    contrast = {True: "yes", False: "no", None: "unknown"}[given.contrast]
    kernel = f"kernel {given.kernel}" if given.kernel else "kernel unknown"
    return ascii_text(f"{voltage}, contrast agent: {contrast}, {kernel}" + (" (sharp)" if given.sharp_kernel else ""))


def named_only_text(findings: Findings) -> str:
    """What an answer without heights says of itself."""
    spacing = findings.spacing_along_spine_mm
    thick = f" (slices {spacing:.1f} mm apart)" if spacing is not None else ""
    return f"Named or segmented only{thick}: no heights were measured, so no loss of height can be told"


def verdict_sentence(findings: Findings) -> str:
    """The answer in one line, as it stands in large letters on the capture."""
    if findings.refusal is not None:
        return "NOT EVALUABLE"
    names = [f"{told_name(v)} {v.grade}" for v in reading_order(findings) if raises_flag(v, findings.patient)]
    if findings.patient.flag:
        return f"FLAG: {', '.join(names)}" if names else "FLAG"
    if findings.patient.flag is None:
        return "NOT GRADED"
    return "NO FLAG"


ABOUT_VERTEBRAE = (
    Quality.LEVELS_UNKNOWN,
    Quality.HEIGHTS_NOT_TOLD,
    Quality.COARSE_SPACING,
    Quality.UNCALIBRATED,
    Quality.FRONT_UNSURE,
    Quality.HEAD_UNSURE,
)


def answer_quality(findings: Findings) -> tuple[Quality, ...]:
    """Quality flags of the whole answer; unknown levels are added where no vertebra has one.

    A refusal says nothing of vertebrae, since there are none in it.
    """
    flags = tuple(dict.fromkeys(findings.quality))
    if findings.refusal is not None:
        return tuple(flag for flag in flags if flag not in ABOUT_VERTEBRAE)
    unnamed = bool(findings.vertebrae) and all(v.level is None for v in findings.vertebrae)
    return (*flags, Quality.LEVELS_UNKNOWN) if unnamed and Quality.LEVELS_UNKNOWN not in flags else flags
