"""One series to one answer: infer, then encode. The node and ``spine-node analyze`` share this code."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

import onnx_models
from inference.ct import PIPELINE, PIPELINE_VERSION, CtAnswer, CtSettings, evaluate
from inference.findings import Findings, PatientFinding
from inference.grading import RULE, GradingRule
from inference.refusal import Refusal
from inference.runtime import Models, load_models
from inference.screening import ScreeningSettings
from node import __version__
from node.gate import GatePolicy, LoadedSeries, Unevaluable
from node.results import EXPECTED, DocumentReference, Result, ResultContext, encode, findings_document
from node.results.wording import as_answered
from node.settings import Settings

log = structlog.get_logger(__name__)

NODE_NAMESPACE = uuid.UUID("8f6f8d8e-57f3-5f4a-9f0c-6f2d0c6f7a51")


@dataclass(frozen=True)
class Identity:
    """What results' UIDs, dates and revision derive from; pinned in the ledger before anything is computed.

    ``predecessors`` are the SR documents of the former revision by kind; ``run`` names a run without a ledger.
    """

    revision: int
    started_at: datetime
    predecessors: Mapping[str, DocumentReference] = field(default_factory=dict)
    run: str = ""


@dataclass(frozen=True)
class BuiltAnswer:
    """An answer as it will be sent.

    Attributes
    ----------
    findings
        What was found, or why nothing was.
    sent
        False: not evaluable where no spine was expected; the ledger knows, the PACS is spared.
    results
        DICOM objects in order of sending; empty when not sent.
    document
        Content of ``findings.json``.
    """

    findings: Findings
    sent: bool
    results: tuple[Result, ...]
    document: dict[str, Any]


def ct_settings(settings: Settings) -> CtSettings:
    """The pipeline's thresholds, with what the site chose."""
    screening = ScreeningSettings(
        rule=GradingRule(moderate_loss=settings.screening.flag_loss), screening_age_years=settings.study.screening_age
    )
    return CtSettings(screening=screening)


def models_folder(settings: Settings) -> Path:
    """Where the networks are: the site's choice, or those shipped."""
    return settings.models.folder or Path(onnx_models.__file__).parent


def pipeline_models(settings: Settings) -> Models:
    """The networks that the pipelines of these settings run, loaded and checked.

    Raises
    ------
    ModelError
        As `inference.runtime.load_models`.
    """
    chosen = settings.models
    return load_models(
        models_folder(settings), chosen.provider, threads=chosen.threads or None, names=ct_settings(settings).networks
    )


def device_uid(settings: Settings) -> str:
    """UID of this installation as a device; creator of all its results."""
    return f"2.25.{uuid.uuid5(NODE_NAMESPACE, f'device|{settings.site}').int}"


def gate_policy(settings: Settings) -> GatePolicy:
    """The gate's rules, with what the site chose."""
    return GatePolicy(
        all_series=settings.study.all_series,
        site_spine_words=settings.study.spine_expected_patterns,
        own_creator_uids=(device_uid(settings),),
        films=False,
    )


def result_context(settings: Settings, series: LoadedSeries | Unevaluable, identity: Identity) -> ResultContext:
    """The identity of the node and of this answer, as results carry it."""
    return ResultContext(
        site=settings.site,
        pipeline=PIPELINE,
        input_sha256=series.input_sha256,
        configuration_sha256=settings.configuration_sha256,
        revision=identity.revision,
        started_at=identity.started_at,
        software_version=__version__,
        device_uid=device_uid(settings),
        device_serial=settings.site,
        predecessor_report=identity.predecessors.get("report"),
        predecessor_details=identity.predecessors.get("details"),
        parameters=tuple(_flat(asdict(ct_settings(settings)))),
        run=identity.run,
    )


def answer(
    series: LoadedSeries | Unevaluable,
    models: Models,
    settings: Settings,
    identity: Identity,
    *,
    gate_s: float = 0.0,
    progress: Callable[[str], None] | None = None,
) -> BuiltAnswer:
    """Analyse one series and build its results.

    ``gate_s`` is the time that reading the series took. Nothing about the images makes this raise: what cannot be
    evaluated is answered so.
    """
    begun = time.perf_counter()
    if isinstance(series, Unevaluable):
        said = CtAnswer(_not_evaluable(series.refusal, models))
    else:
        said = evaluate(
            series.volume,
            models,
            ct_settings(settings),
            series.age_years,
            series.acquisition,
            progress,
            with_expected=any(EXPECTED.name in destination.kinds for destination in settings.destinations),
        )
        quality = tuple(dict.fromkeys((*series.quality, *said.findings.quality)))
        said = replace(said, findings=replace(said.findings, quality=quality))
    inferred = time.perf_counter()
    findings = as_answered(said.findings)
    said = replace(said, findings=findings)
    sent = findings.evaluable or series.spine_expected or findings.spine_found
    context = result_context(settings, series, identity)
    references = series.references if isinstance(series, LoadedSeries) else None
    if progress is not None:
        progress("results")
    results = tuple(encode(series.datasets, said, context, references)) if sent else ()
    timings_s = {
        **findings.timings_s,
        "gate": gate_s,
        "inference": inferred - begun,
        "results": time.perf_counter() - inferred,
    }
    findings = replace(findings, timings_s=timings_s)
    document = findings_document(series.datasets, findings, context, sent=sent)
    return BuiltAnswer(findings, sent, results, document)


def _flat(thresholds: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in thresholds.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _not_evaluable(refusal: Refusal, models: Models) -> Findings:
    return Findings(
        pipeline=PIPELINE,
        pipeline_version=PIPELINE_VERSION,
        provider=models.provider,
        models=models.identities,
        patient=PatientFinding(worst_grade=None, flag=None, rule=RULE),
        refusal=refusal,
    )
