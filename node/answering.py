"""One series, or one radiograph, to one answer: infer, then encode. Node and ``spine-node analyze`` share this code."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

import onnx_models
from inference import radiograph
from inference.ct import PIPELINE, PIPELINE_VERSION, CtAnswer, CtSettings, evaluate
from inference.findings import Findings, Quality
from inference.geometry import Radiograph
from inference.grading import GradingRule, patient_finding
from inference.radiograph import RadiographSettings
from inference.refusal import Refusal, RefusalCode
from inference.runtime import Models, load_models, read_manifest
from inference.screening import ScreeningSettings
from node import __version__, gate
from node.device import device_uid
from node.gate import GatePolicy, InstanceHeader, LoadedFilm, LoadedSeries, SeriesDecision, Unevaluable
from node.results import (
    EXPECTED,
    FILM,
    DocumentReference,
    FilmAnswer,
    Result,
    ResultContext,
    encode,
    encode_film,
    findings_document,
)
from node.results.context import RADIOGRAPH
from node.results.wording import as_answered
from node.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Identity:
    """What results' UIDs, dates and revision derive from; known before anything is computed.

    ``dated_at``: when the last image arrived that the answer rests on; in a run without a ledger, its start.
    ``predecessors`` are the SR documents of the former revision by kind. ``with_durations``: the seconds of each step
    stand in the results, which are never made again under these UIDs.
    """

    revision: int
    dated_at: datetime
    predecessors: Mapping[str, DocumentReference] = field(default_factory=dict)
    with_durations: bool = False


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


@dataclass(frozen=True)
class FilmPipeline:
    """What analyses radiographs here.

    Attributes
    ----------
    version
        Of the pipeline.
    models
        Its networks, apart from those of the CT: another network for films must not make other results of a CT.
    evaluate
        Radiograph, age in years or ``None``, and whom to tell each step, to what was found. Nothing in an image makes
        it raise.
    parameters
        (name, value) of every threshold in force.
    """

    version: str
    models: Models
    evaluate: Callable[[Radiograph, float | None, Callable[[str], None] | None], FilmAnswer]
    parameters: tuple[tuple[str, str], ...] = ()


Loaded = LoadedSeries | LoadedFilm | Unevaluable
FILM_SERIES_NUMBERS = 9010
"""Results of radiographs are numbered from here, apart from those of a CT in the same study."""
WRONG_OBJECT = frozenset({RefusalCode.NOT_A_LATERAL_SPINE, RefusalCode.CHEST_FILM})
"""What the pixels of a radiograph may turn out to be: its header would have kept such an image from being answered."""


def film_pipeline(settings: Settings) -> FilmPipeline | None:
    """The pipeline of radiographs; ``None`` where its network is not installed: then they are not eligible.

    Raises
    ------
    ModelError
        As `inference.runtime.load_models`; of a network, too, that was asked for and is not there.
    """
    chosen = radiograph_settings(settings)
    folder = models_folder(settings)
    if chosen.network not in read_manifest(folder):
        return None
    models = load_models(
        folder, settings.models.provider, threads=settings.models.threads or None, names=chosen.networks
    )

    def evaluated(film: Radiograph, age_years: float | None, progress: Callable[[str], None] | None) -> FilmAnswer:
        said = radiograph.evaluate(film, models, chosen, age_years, progress)
        return FilmAnswer(said.findings, film, said.labels, said.sacrum_px)

    return FilmPipeline(radiograph.PIPELINE_VERSION, models, evaluated, tuple(_flat(asdict(chosen))))


def radiograph_settings(settings: Settings) -> RadiographSettings:
    """The thresholds of the radiograph pipeline, with what the site chose."""
    bodies = settings.models.film_bodies
    return RadiographSettings(
        body_network=bodies if bodies != RadiographSettings.network else None,
        rule=grading_rule(settings),
        chest_films=settings.study.lateral_chest,
        screening_age_years=settings.study.screening_age,
    )


def load(decision: SeriesDecision, headers: Iterable[InstanceHeader], policy: GatePolicy) -> Loaded:
    """The pixels of what was decided to be answered, or why they cannot be evaluated.

    ``headers`` come in order of arrival. What goes wrong with one radiograph, however unexpected, is a reason of its
    own: other images of the study are answered all the same.

    Raises
    ------
    OSError
        A file cannot be read; that may pass.
    MemoryError
        The machine had not enough memory; that may pass, too.
    """
    mine = [header for header in headers if decision.is_about(header)]
    if not decision.sop_instance_uid:
        return gate.load_volume(mine, policy)
    try:
        return gate.load_film(mine, policy)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        return gate.unevaluable_film(mine, policy, _failed("gate", error))


def _failed(step: str, error: Exception) -> Refusal:
    """The reason of an answer for which the code has an error: its kind. The log has the place, not the words, since
    these may quote a header."""
    where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("a radiograph could not be analysed", step=step, reason=type(error).__name__, where=where)
    return Refusal(RefusalCode.MODEL_FAILED, f"({step}: {type(error).__name__}.)")


def grading_rule(settings: Settings) -> GradingRule:
    """The rule of every pipeline, with the cut-off of the flag that the site chose."""
    return GradingRule(flag_loss=settings.screening.flag_loss)


def ct_settings(settings: Settings) -> CtSettings:
    """The pipeline's thresholds, with what the site chose."""
    screening = ScreeningSettings(rule=grading_rule(settings), screening_age_years=settings.study.screening_age)
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


def gate_policy(settings: Settings, films: FilmPipeline | None = None) -> GatePolicy:
    """The gate's rules, with what the site chose; without a pipeline for them radiographs are not eligible."""
    return GatePolicy(
        all_series=settings.study.all_series,
        site_spine_words=settings.study.spine_expected_patterns,
        own_creator_uids=(device_uid(settings),),
        films=films is not None,
        lateral_chest=settings.study.lateral_chest,
        for_processing=settings.study.for_processing,
        decoding_processes=settings.work.decoding_processes,
    )


def result_context(
    settings: Settings, series: Loaded, identity: Identity, films: FilmPipeline | None = None
) -> ResultContext:
    """The identity of the node and of this answer, as results carry it; with ``films`` that of a radiograph."""
    context = ResultContext(
        site=settings.site,
        pipeline=PIPELINE,
        input_sha256=series.input_sha256,
        configuration_sha256=settings.configuration_sha256,
        revision=identity.revision,
        dated_at=identity.dated_at,
        software_version=__version__,
        device_uid=device_uid(settings),
        device_serial=settings.site,
        predecessor_report=identity.predecessors.get("report"),
        predecessor_details=identity.predecessors.get("details"),
        parameters=tuple(_flat(asdict(ct_settings(settings)))),
    )
    if films is None:
        return context
    return replace(context, pipeline=RADIOGRAPH, series_number_base=FILM_SERIES_NUMBERS, parameters=films.parameters)


def answer(
    series: Loaded,
    models: Models,
    settings: Settings,
    identity: Identity,
    *,
    films: FilmPipeline | None = None,
    gate_s: float = 0.0,
    progress: Callable[[str], None] | None = None,
    turn: AbstractContextManager[object] | None = None,
) -> BuiltAnswer:
    """Analyse one series, or with ``films`` one radiograph, and build its results.

    ``gate_s`` is the time that reading the images took; ``turn`` is held while the networks run. Nothing about the
    images makes this raise: what cannot be evaluated is answered so.

    Raises
    ------
    MemoryError
        The machine had not enough memory: no answer, because an answer is final, and on a quieter machine, or a larger
        one, there may be one.
    """
    with turn or nullcontext():
        begun = time.perf_counter()
        if films is None:
            said: CtAnswer | FilmAnswer = _ct_answer(series, models, settings, progress)
        else:
            said = _film_answer(series, films, settings, progress)
        inferred = time.perf_counter()
    findings = as_answered(said.findings)
    encoded = findings if identity.with_durations else replace(findings, timings_s={})
    sent = _is_sent(series, findings)
    context = result_context(settings, series, identity, films)
    if progress is not None:
        progress("results")
    try:
        results = tuple(_encoded(series, replace(said, findings=encoded), settings, context)) if sent else ()
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if films is None or findings.refusal is not None:
            raise
        # one radiograph whose findings cannot be told must not take the answers to the others with it
        findings = _not_evaluable(_failed("results", error), films.models, RADIOGRAPH, films.version, settings)
        results = tuple(_encoded(series, FilmAnswer(findings), settings, context))
    timings_s = {
        **findings.timings_s,
        "gate": gate_s,
        "inference": inferred - begun,
        "results": time.perf_counter() - inferred,
    }
    findings = replace(findings, timings_s=timings_s)
    document = findings_document(series.datasets, findings, context, sent=sent)
    return BuiltAnswer(findings, sent, results, document)


def _ct_answer(series: Loaded, models: Models, settings: Settings, progress: Callable[[str], None] | None) -> CtAnswer:
    if isinstance(series, LoadedFilm):
        raise TypeError("a radiograph needs a pipeline for radiographs")
    if isinstance(series, Unevaluable):
        return CtAnswer(_not_evaluable(series.refusal, models, PIPELINE, PIPELINE_VERSION, settings))
    said = evaluate(
        series.volume,
        models,
        ct_settings(settings),
        series.age_years,
        series.acquisition,
        progress,
        with_expected=any(EXPECTED.name in destination.kinds for destination in settings.destinations),
    )
    return replace(said, findings=_with_quality(said.findings, series.quality))


def _film_answer(
    series: Loaded, films: FilmPipeline, settings: Settings, progress: Callable[[str], None] | None
) -> FilmAnswer:
    if isinstance(series, LoadedSeries):
        raise TypeError("a series of slices is no radiograph")
    if isinstance(series, Unevaluable):
        return FilmAnswer(_not_evaluable(series.refusal, films.models, RADIOGRAPH, films.version, settings))
    try:
        said = films.evaluate(series.film, series.age_years, progress)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        return FilmAnswer(
            _not_evaluable(_failed("inference", error), films.models, RADIOGRAPH, films.version, settings)
        )
    findings = replace(_with_quality(said.findings, series.quality), pixel_size=series.pixel_size)
    return FilmAnswer(findings, series.film, said.labels, said.sacrum_px)


def _with_quality(findings: Findings, quality: Iterable[Quality]) -> Findings:
    """The findings with what the gate has to say of the images first."""
    return replace(findings, quality=tuple(dict.fromkeys((*quality, *findings.quality))))


def _is_sent(series: Loaded, findings: Findings) -> bool:
    """Whether an answer goes to the archive: "not evaluable" only where a spine was expected or found.

    A radiograph whose pixels show another view is sent back only where its header calls it a lateral spine: else every
    frontal view whose header says nothing would have a page of its own.
    """
    refusal = findings.refusal
    if refusal is not None and refusal.code in WRONG_OBJECT:
        claimed = isinstance(series, LoadedFilm) and series.film.lateral is True
        return series.spine_expected and claimed
    return refusal is None or series.spine_expected or findings.spine_found


def _encoded(series: Loaded, said: CtAnswer | FilmAnswer, settings: Settings, context: ResultContext) -> list[Result]:
    if isinstance(said, CtAnswer):
        return encode(series.datasets, said, context, series.references if isinstance(series, LoadedSeries) else None)
    wanted = not settings.destinations or any(FILM.name in destination.kinds for destination in settings.destinations)
    return encode_film(series.datasets[0], said, context, with_segmentation=wanted)


def _flat(thresholds: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in thresholds.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _not_evaluable(refusal: Refusal, models: Models, pipeline: str, version: str, settings: Settings) -> Findings:
    return Findings(
        pipeline=pipeline,
        pipeline_version=version,
        provider=models.provider,
        models=models.identities,
        patient=patient_finding((), grading_rule(settings)),
        refusal=refusal,
    )
