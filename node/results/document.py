"""``findings.json``: the findings as a document with a schema. Not measured is null, never 0.

``python -m node.results.schema`` writes the JSON schema that ships beside this module.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydicom.dataset import Dataset

from inference.findings import FLAG_LOSS, Findings, Grade, Level, Quality, VertebraFinding
from inference.refusal import RefusalCode
from node.results.context import RADIOGRAPH, ResultContext
from node.results.wording import answer_quality, as_answered

SCHEMA_ID = "spine-node/findings/1"
SCHEMA_FILE = Path(__file__).with_name("findings.schema.json")

Fraction = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(gt=0)]
PointMm = tuple[float, float, float]
PointPx = tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Software(_Part):
    """The node that made the document."""

    name: Literal["spine-node"] = "spine-node"
    version: str
    configuration_sha256: str


class Input(_Part):
    """The analysed series, or the one radiograph of it that ``sop_instance_uid`` names."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str | None = None
    modality: str
    instances: int = Field(ge=1)
    input_sha256: str


class RefusalPart(_Part):
    """Why nothing was measured."""

    code: RefusalCode
    sentence: str


class ModelPart(_Part):
    """One network."""

    name: str
    version: str
    sha256: str


class Pipeline(_Part):
    """What computed the findings."""

    name: str
    version: str
    provider: str | None
    models: list[ModelPart]


class Patient(_Part):
    """The verdict; ``flag`` is null when not evaluable. ``flag_loss`` is the site's cut-off of the flag alone."""

    worst_grade: Grade | None
    flag: bool | None
    rule: str
    flag_loss: Fraction = FLAG_LOSS


class NumberingPart(_Part):
    """How levels were counted; where ``anchor`` is empty they are not known, and only alternatives are given."""

    anchor: str
    confidence: Fraction
    alternatives: list[str]
    absent: list[Level] = []


class KeypointsMm(_Part):
    """End plate points in patient coordinates (LPS, mm)."""

    anterior_superior: PointMm
    anterior_inferior: PointMm
    middle_superior: PointMm
    middle_inferior: PointMm
    posterior_superior: PointMm
    posterior_inferior: PointMm


class KeypointsPx(_Part):
    """End plate points of a radiograph as (column, row); those in the middle alone where its front is not sure."""

    anterior_superior: PointPx | None = None
    anterior_inferior: PointPx | None = None
    middle_superior: PointPx
    middle_inferior: PointPx
    posterior_superior: PointPx | None = None
    posterior_inferior: PointPx | None = None


class AcquisitionPart(_Part):
    """What the headers say of how attenuation came about."""

    kvp: Annotated[float, Field(gt=0)] | None
    contrast: bool | None
    kernel: str | None
    sharp_kernel: bool | None


class HeightsMm(_Part):
    """Three heights; none can be 0."""

    anterior: Millimetres
    middle: Millimetres
    posterior: Millimetres


class RelativeHeights(_Part):
    """Three heights over the posterior one, which is 1."""

    anterior: Annotated[float, Field(gt=0)]
    middle: Annotated[float, Field(gt=0)]
    posterior: Annotated[float, Field(ge=1, le=1)]


class PixelSizePart(_Part):
    """Size of a radiograph's pixels in the plane of the spine, (row, column); null where it is not known."""

    spacing_mm: tuple[Millimetres, Millimetres] | None
    source: str


class WithoutSidePart(_Part):
    """What can be told of a vertebra on a radiograph whose front may lie on either side."""

    middle_mm: Millimetres | None
    middle_loss: float | None
    wall_loss: float | None


class Losses(_Part):
    """1 - measured / expected per height; negative where a vertebra is taller than its neighbours let expect."""

    anterior: float
    middle: float
    posterior: float


class Vertebra(_Part):
    """One vertebra, counted from the top."""

    ordinal: int = Field(ge=1)
    level: Level | None
    level_confidence: Fraction | None
    centroid_lps_mm: PointMm | None
    centroid_px: PointPx | None = None
    keypoints_lps_mm: KeypointsMm | None
    keypoints_px: KeypointsPx | None
    heights_mm: HeightsMm | None
    height_uncertainty_mm: Millimetres | None
    height_ratio: Annotated[float, Field(gt=0, le=1)] | None
    relative_heights: RelativeHeights | None = None
    height_loss: Losses | None
    compression_ratio_percent: float | None
    compared_with: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    without_side: WithoutSidePart | None = None
    grade: Grade | None
    rule: str | None
    mask_heights_mm: HeightsMm | None = None
    mask_relative_heights: RelativeHeights | None = None
    abnormality_score: Annotated[float, Field(ge=0, le=100)] | None
    vertebra_volume_ml: Annotated[float, Field(gt=0)] | None
    body_volume_ml: Annotated[float, Field(gt=0)] | None
    trabecular_mean_hu: float | None
    confidence: Fraction
    quality: list[Quality]


class FindingsDocument(_Part):
    """The whole of ``findings.json``."""

    schema_: Literal["spine-node/findings/1"] = Field(default="spine-node/findings/1", alias="schema")
    software: Software
    input: Input
    status: Literal["evaluated", "not_evaluable"]
    sent: bool
    quality: list[Quality]
    refusal: RefusalPart | None
    pipeline: Pipeline
    patient: Patient
    numbering: NumberingPart | None
    acquisition: AcquisitionPart | None = None
    spacing_along_spine_mm: Millimetres | None
    pixel_size: PixelSizePart | None = None
    vertebrae: list[Vertebra]
    plan: None = None
    timings_s: dict[str, Annotated[float, Field(ge=0)]]


def findings_document(
    source: Sequence[Dataset],
    findings: Findings,
    context: ResultContext,
    *,
    sent: bool,
    timings_s: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The document as plain JSON values.

    Parameters
    ----------
    source
        Headers of the analysed series, or the one of the radiograph.
    sent
        False where nothing was evaluable and no spine was expected, so that nothing goes to the archive.
    timings_s
        Seconds per step; those of the findings are kept where not given again.
    """
    findings = as_answered(findings)
    refusal = findings.refusal
    first = source[0]
    document = FindingsDocument(
        software=Software(version=context.software_version, configuration_sha256=context.configuration_sha256),
        input=Input(
            study_instance_uid=str(first.StudyInstanceUID),
            series_instance_uid=str(first.SeriesInstanceUID),
            sop_instance_uid=str(first.SOPInstanceUID) if findings.pipeline == RADIOGRAPH else None,
            modality=str(first.get("Modality", "")),
            instances=len(source),
            input_sha256=context.input_sha256,
        ),
        status="evaluated" if refusal is None else "not_evaluable",
        sent=sent,
        quality=list(answer_quality(findings)),
        refusal=None if refusal is None else RefusalPart(code=refusal.code, sentence=refusal.sentence),
        pipeline=Pipeline(
            name=findings.pipeline,
            version=findings.pipeline_version,
            provider=findings.provider,
            models=[ModelPart(**asdict(model)) for model in findings.models],
        ),
        patient=Patient(**asdict(findings.patient)),
        numbering=None
        if findings.numbering is None
        else NumberingPart(
            anchor=findings.numbering.anchor,
            confidence=findings.numbering.confidence,
            alternatives=list(findings.numbering.alternatives),
            absent=list(findings.numbering.absent),
        ),
        acquisition=None if findings.acquisition is None else AcquisitionPart(**asdict(findings.acquisition)),
        spacing_along_spine_mm=findings.spacing_along_spine_mm,
        pixel_size=None if findings.pixel_size is None else PixelSizePart(**asdict(findings.pixel_size)),
        vertebrae=[_vertebra(v) for v in findings.vertebrae],
        timings_s={**findings.timings_s, **(timings_s or {})},
    )
    plain: dict[str, Any] = document.model_dump(mode="json", by_alias=True)
    return plain


def _vertebra(vertebra: VertebraFinding) -> Vertebra:
    values = asdict(vertebra)
    values["quality"] = list(vertebra.quality)
    return Vertebra.model_validate(values)


def json_schema() -> str:
    """The JSON schema (2020-12) of the document, as the shipped file holds it."""
    schema = FindingsDocument.model_json_schema(by_alias=True, mode="serialization")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
