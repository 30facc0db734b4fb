"""The SR of a series on which nothing could be measured: why, in words that every viewer shows.

Basic Text SR under "Diagnostic Imaging Report", never 126000: a measurement report without coordinates opens as a
black view.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import ContainerContentItem, ContentItem, ContentSequence, LanguageOfContentItemAndDescendants
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.uid import BasicTextSRStorage

from inference.findings import Findings
from node.results import codes
from node.results.common import local_start, source_text
from node.results.context import ResultContext, ResultError
from node.results.identity import Identity
from node.results.structured import HAS_CONCEPT_MOD, code, container, document, observation_context, text
from node.results.wording import LIMITS_SENTENCE, RESEARCH, answer_quality, quality_sentence, wrapped


def build_not_evaluable(
    source: Sequence[Dataset], findings: Findings, identity: Identity, ctx: ResultContext
) -> FileDataset:
    """The Basic Text SR of a refusal (PS3.3 A.35.1); its evidence is the first source image."""
    if findings.refusal is None:
        raise ResultError("these findings were evaluated: they have no refusal to report")
    root = ContainerContentItem(name=codes.DIAGNOSTIC_IMAGING_REPORT)
    root.ContentSequence = ContentSequence()
    root.ContentSequence.extend(LanguageOfContentItemAndDescendants(codes.ENGLISH))
    root.ContentSequence.extend(observation_context(ctx))
    procedure = codes.PROCEDURE_REPORTED[ctx.pipeline]
    root.ContentSequence.append(code(dicom_codes.DCM.ProcedureReported, procedure, HAS_CONCEPT_MOD))
    root.ContentSequence.append(
        container(
            codes.FINDINGS,
            [
                code(codes.CAD_SUMMARY, codes.NO_ALGORITHMS_SUCCEEDED),
                text(codes.FINDING, wrapped(f"Not evaluable: {findings.refusal.sentence}")),
                text(codes.REFUSAL_CODE, str(findings.refusal.code)),
                *(text(codes.QUALITY, f"{flag}: {quality_sentence(flag)}") for flag in answer_quality(findings)),
            ],
        )
    )
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


def _conclusions(source: Sequence[Dataset], findings: Findings, ctx: ResultContext) -> list[ContentItem]:
    said = (
        "Vertebrae were not evaluated; this is neither a normal nor an abnormal result. "
        f"Source: {source_text(source[0])}, {len(source)} instances. {RESEARCH}. {LIMITS_SENTENCE}"
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
        text(codes.STARTED, local_start(source[0], ctx).isoformat(timespec="seconds")),
    ]
