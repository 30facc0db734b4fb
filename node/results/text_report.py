"""The SR of an answer without heights, in words that every viewer shows: why nothing was measured, or what was named.

Of a radiograph whose front may lie on either side it tells the verdict and what needs no side of each vertebra.

Basic Text SR under "Diagnostic Imaging Report", never 126000: a measurement report without coordinates opens as a
black view.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import ContainerContentItem, ContentItem, ContentSequence, LanguageOfContentItemAndDescendants
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.uid import BasicTextSRStorage

from inference.findings import Findings, Quality, VertebraFinding
from inference.refusal import Refusal
from node.results import codes, film_notes
from node.results.common import local_date, source_text
from node.results.context import ResultContext, ResultError
from node.results.identity import Identity
from node.results.structured import HAS_CONCEPT_MOD, code, container, document, observation_context, text
from node.results.wording import (
    DENSITY_SENTENCE,
    FLAG_SENTENCE,
    LIMITS_SENTENCE,
    RESEARCH,
    acquisition_text,
    answer_quality,
    grade_word,
    graded_text,
    losses,
    measured,
    named_only_text,
    numbering_text,
    percent,
    quality_sentence,
    ratio_text,
    rule_text,
    seen_text,
    told,
    verdict_sentence,
    wrapped,
)


def build_text_report(
    source: Sequence[Dataset], findings: Findings, identity: Identity, ctx: ResultContext
) -> FileDataset:
    """The Basic Text SR (PS3.3 A.35.1) of a refusal, or of vertebrae that were named or segmented only.

    Its evidence is the first source image.
    """
    if measured(findings):
        raise ResultError("heights were measured: their report is one with lines")
    root = ContainerContentItem(name=codes.DIAGNOSTIC_IMAGING_REPORT)
    root.ContentSequence = ContentSequence()
    root.ContentSequence.extend(LanguageOfContentItemAndDescendants(codes.ENGLISH))
    root.ContentSequence.extend(observation_context(ctx))
    procedure = codes.PROCEDURE_REPORTED[ctx.pipeline]
    root.ContentSequence.append(code(dicom_codes.DCM.ProcedureReported, procedure, HAS_CONCEPT_MOD))
    said = _refused(findings, findings.refusal) if findings.refusal is not None else _named(findings)
    flags = (text(codes.QUALITY, f"{flag}: {quality_sentence(flag)}") for flag in answer_quality(findings))
    root.ContentSequence.append(container(codes.FINDINGS, [*said, *flags]))
    root.ContentSequence.append(container(codes.CONCLUSIONS, _conclusions(source, findings, ctx)))
    return document(
        "report",
        BasicTextSRStorage,
        root,
        [source[0]],
        source,
        findings,
        identity,
        ctx,
        [ctx.predecessor_report, ctx.predecessor_details],
    )


def _refused(findings: Findings, refusal: Refusal) -> list[ContentItem]:
    return [
        code(codes.CAD_SUMMARY, codes.NO_ALGORITHMS_SUCCEEDED),
        text(codes.FINDING, wrapped(f"Not evaluable: {refusal.sentence}")),
        text(codes.REFUSAL_CODE, str(refusal.code)),
    ]


def _named(findings: Findings) -> list[ContentItem]:
    """What is there without heights: the verdict where there is one, numbering, then a line for each vertebra."""
    numbering = numbering_text(findings)
    first = _verdict(findings) if told(findings) else f"{named_only_text(findings)}."
    return [
        code(codes.CAD_SUMMARY, codes.NOT_ALL_ALGORITHMS_SUCCEEDED),
        text(codes.FINDING, wrapped(first)),
        text(codes.SEEN, wrapped(seen_text(findings))),
        *([text(codes.NUMBERING, wrapped(numbering))] if numbering else []),
        *(text(codes.FINDING, wrapped(_line(v))) for v in findings.vertebrae),
    ]


def _verdict(findings: Findings) -> str:
    """The verdict with its sentence, and how to read what is told without knowing the front."""
    flagged = f" {FLAG_SENTENCE}." if findings.patient.flag else ""
    unsure = quality_sentence(Quality.FRONT_UNSURE)
    return (
        f"{verdict_sentence(findings)}.{flagged} {unsure[:1].upper()}{unsure[1:]}. "
        f"{film_notes.without_side_text(findings)}; {rule_text(findings.patient)}."
    )


def _line(vertebra: VertebraFinding) -> str:
    """One vertebra without heights: "L3 (0.98), 61 ml, body 33 ml, 142 HU: end plates not found: no heights"."""
    confidence = vertebra.level_confidence
    said = vertebra.name + (f" (confidence {confidence:.2f})" if confidence is not None else "")
    side = vertebra.without_side
    if side is not None:
        said += f", {grade_word(vertebra)}"
        said += f", Hm {side.middle_mm:.1f} mm" if side.middle_mm is not None else ""
        said += "".join(f", {name} {percent(loss)}" for name, loss in losses(vertebra).items())
        said += f", G {ratio_text(vertebra.height_ratio)}" if vertebra.height_ratio is not None else ""
    for pattern, value in (
        ("{:.1f} ml", vertebra.vertebra_volume_ml),
        ("body {:.1f} ml", vertebra.body_volume_ml),
        ("{:.0f} HU", vertebra.trabecular_mean_hu),
    ):
        said += f", {pattern.format(value)}" if value is not None else ""
    return said + (f"; {'; '.join(quality_sentence(f) for f in vertebra.quality)}" if vertebra.quality else "")


def _conclusions(source: Sequence[Dataset], findings: Findings, ctx: ResultContext) -> list[ContentItem]:
    what = "not evaluated" if findings.refusal is not None else "not measured"
    lead = f"Vertebrae were {what}; this is neither a normal nor an abnormal result. "
    if told(findings):
        lead = f"{verdict_sentence(findings)}: {seen_text(findings)}; {graded_text(findings)}. "
    of_film = findings.refusal is None and findings.pixel_size is not None
    limits = f"{LIMITS_SENTENCE} {film_notes.LIMITS}" if of_film else LIMITS_SENTENCE
    densities = any(v.trabecular_mean_hu is not None for v in findings.vertebrae)
    said = (
        lead
        + (f"{DENSITY_SENTENCE} ({acquisition_text(findings.acquisition)}). " if densities else "")
        + f"Source: {source_text(source[0], ctx)}, {len(source)} instances. {RESEARCH}. {limits}"
    )
    return [
        text(codes.CONCLUSION, said),
        text(codes.ALGORITHM_NAME, f"spine-node {ctx.pipeline}"),
        text(codes.ALGORITHM_VERSION, findings.pipeline_version),
        *(text(codes.MODEL, f"{m.name} {m.version} sha256 {m.sha256}") for m in findings.models),
        text(codes.SOFTWARE, f"spine-node {ctx.software_version}"),
        text(codes.PROVIDER, findings.provider or "none"),
        text(codes.CONFIGURATION_HASH, ctx.configuration_sha256),
        text(codes.INPUT_HASH, ctx.input_sha256),
        text(codes.DATED, local_date(source[0], ctx).isoformat(timespec="seconds")),
    ]
