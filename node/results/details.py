"""``details.dcm``: what machines and auditors read. Everything in ``findings.json`` stands here too.

Comprehensive 3D SR with TID 1500 content under a title of our own, so that no viewer mistakes it for lines to draw.
Per vertebra one group that refers to its segment (TID 1411; TID 1501 where there is no segment) with all numbers and
evaluations, one TID 1501 group under the same tracking UID whose heights are inferred from end points in patient
coordinates, and one TID 1411 group of the body's volume that refers to the body's own segment. The patient's verdict
and the provenance follow in containers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
from highdicom.sr import CodedConcept, ContentItem, UIDRefContentItem
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage, XRayRadiofluoroscopicImageStorage

from inference.findings import Findings, VertebraFinding
from node.results import codes, film_notes
from node.results.common import local_date, source_text
from node.results.context import RADIOGRAPH, ResultContext
from node.results.film_lines import drawn, outline
from node.results.identity import Identity
from node.results.report import HEIGHT_DIGITS, height_lines, measurements_along
from node.results.rounding import loss_cut, ratio_cut
from node.results.segmentation import BODIES, EXPECTED, WHOLE, Segmentation
from node.results.structured import (
    CONTAINS,
    algorithm,
    code,
    container,
    document,
    group_head,
    number,
    observation_context,
    text,
)
from node.results.wording import (
    DENSITY_SENTENCE,
    FLAG_SENTENCE,
    LIMITS_SENTENCE,
    RESEARCH,
    SCORE_SENTENCE,
    acquisition_text,
    answer_quality,
    graded_text,
    is_measured,
    is_without_side,
    losses,
    numbering_text,
    percent,
    quality_sentence,
    rule_text,
    seen_text,
)

Group = (
    hd.sr.MeasurementsAndQualitativeEvaluations
    | hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations
)

Row = tuple[CodedConcept, float | None, CodedConcept, int]
"""Name, value, unit and decimals of a number; without a value it is left out."""
RATIO_DIGITS = 4
"""Decimals of ratios, losses and probabilities."""
SCORE_DIGITS = 1


def build_details(
    source: Sequence[Dataset],
    findings: Findings,
    segmentations: Sequence[Segmentation],
    identity: Identity,
    ctx: ResultContext,
) -> FileDataset:
    """The details of evaluated findings, which refer to the segments that there are."""
    site = str(source[0].get("FrameOfReferenceUID", "") or "")
    groups: list[Group] = []
    for vertebra in findings.vertebrae:
        segments = {
            one.kind.name: _segment(one, vertebra, source) for one in segmentations if vertebra.ordinal in one.numbers
        }
        groups.append(_numbers(vertebra, findings, segments.get(WHOLE.name), identity, ctx))
        if is_measured(vertebra) and ctx.pipeline == RADIOGRAPH:
            groups += [_lines(vertebra, source[0], identity), _outline(vertebra, source[0], identity)]
        elif is_without_side(vertebra) and drawn(vertebra):
            groups.append(_lines(vertebra, source[0], identity))
        elif is_measured(vertebra) and site:
            groups.append(_end_points(vertebra, site, identity))
        if BODIES.name in segments:
            groups.append(_body(vertebra, segments[BODIES.name], identity))
    tree = hd.sr.MeasurementReport(
        observation_context=observation_context(ctx),
        procedure_reported=codes.PROCEDURE_REPORTED[ctx.pipeline],
        imaging_measurements=groups,
        title=codes.DETAILS_TITLE,
    )
    root = tree[0]
    fluoroscopic = source[0].get("SOPClassUID") == XRayRadiofluoroscopicImageStorage
    verdict = _verdict(findings, is_fluoroscopic=fluoroscopic)
    root.ContentSequence.append(container(codes.QUALITATIVE_EVALUATIONS, verdict))
    root.ContentSequence.append(container(codes.PROVENANCE, _provenance(source, findings, identity, ctx)))
    return document(
        "details",
        Comprehensive3DSRStorage,
        root,
        [*source, *(one.file for one in segmentations if one.kind is not EXPECTED)],
        source,
        findings,
        identity,
        ctx,
        [ctx.predecessor_details],
    )


def _segment(
    segmentation: Segmentation, vertebra: VertebraFinding, source: Sequence[Dataset]
) -> hd.sr.ReferencedSegment:
    return hd.sr.ReferencedSegment(
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=segmentation.file.SOPInstanceUID,
        segment_number=segmentation.numbers[vertebra.ordinal],
        source_series=hd.sr.SourceSeriesForSegmentation(source[0].SeriesInstanceUID),
    )


def _numbers(
    vertebra: VertebraFinding,
    findings: Findings,
    segment: hd.sr.ReferencedSegment | None,
    identity: Identity,
    ctx: ResultContext,
) -> Group:
    """Every number and evaluation of one vertebra."""
    shared: dict[str, Any] = {
        **group_head(vertebra, identity),
        "algorithm_id": algorithm(findings, ctx),
        "measurements": _measurements(vertebra),
        "qualitative_evaluations": _evaluations(vertebra),
    }
    group: Group
    if segment is not None:
        group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **shared)
    else:
        group = hd.sr.MeasurementsAndQualitativeEvaluations(**shared)
    items = group[0].ContentSequence
    if vertebra.rule is not None:
        items.append(text(codes.RULE, vertebra.rule))
    if is_without_side(vertebra):
        lost = "; ".join(f"{name} {percent(loss)}" for name, loss in losses(vertebra).items())
        items.append(text(codes.HOW_TO_READ, f"{film_notes.WITHOUT_SIDE}" + (f": {lost}" if lost else "")))
    elif not is_measured(vertebra):
        items.append(text(codes.NOT_MEASURED, "seen but not measured"))
    if (numbering := numbering_text(findings)) is not None:
        items.append(text(codes.NUMBERING, numbering))
    if vertebra.trabecular_mean_hu is not None:
        items.append(text(codes.ACQUISITION, acquisition_text(findings.acquisition)))
    if (compared := film_notes.compared_text(vertebra, findings)) is not None:
        why = f"a neighbour is {film_notes.PASSED_OVER}"
        items.append(text(codes.HOW_TO_READ, f"compression ratio against {compared}: {why}; {film_notes.WEIGHTED}"))
    for flag in vertebra.quality:
        items.append(text(codes.QUALITY, f"{flag}: {quality_sentence(flag)}"))
    return group


def _measurements(vertebra: VertebraFinding) -> list[hd.sr.Measurement]:
    """Heights, losses, G, score, volumes, HU, confidences and the centre; what was not measured is left out."""
    rows = _height_rows(vertebra)
    rows.append((codes.COMPRESSION_RATIO, vertebra.compression_ratio_percent, codes.PERCENT, 1))
    if vertebra.height_ratio is not None:
        ratio = ratio_cut(vertebra.height_ratio, RATIO_DIGITS)
        rows.append((codes.HEIGHT_RATIO, ratio, codes.RATIO, RATIO_DIGITS))
    if vertebra.mask_heights_mm is not None:
        heights = vertebra.mask_heights_mm.as_tuple()
        rows += [(c, v, codes.MILLIMETRE, HEIGHT_DIGITS) for c, v in zip(codes.MASK_HEIGHTS, heights, strict=True)]
    if vertebra.mask_relative_heights is not None:
        beside = zip(codes.MASK_RELATIVE_HEIGHTS, vertebra.mask_relative_heights.as_tuple()[:2], strict=True)
        rows += [(c, v, codes.RATIO, RATIO_DIGITS) for c, v in beside]
    if vertebra.abnormality_score is not None:
        score = loss_cut(vertebra.abnormality_score, SCORE_DIGITS)
        rows.append((codes.ABNORMALITY_SCORE, score, codes.NO_UNITS, SCORE_DIGITS))
    rows.append((codes.CONFIDENCE, vertebra.confidence, codes.NO_UNITS, RATIO_DIGITS))
    rows.append((codes.LEVEL_CONFIDENCE, vertebra.level_confidence, codes.NO_UNITS, RATIO_DIGITS))
    if vertebra.centroid_lps_mm is not None:
        centre = zip(codes.CENTROID, vertebra.centroid_lps_mm, strict=True)
        rows += [(c, v, codes.MILLIMETRE, HEIGHT_DIGITS) for c, v in centre]
    measurements = [
        hd.sr.Measurement(name=name, value=round(float(value), digits), unit=unit)
        for name, value, unit, digits in rows
        if value is not None
    ]
    if vertebra.vertebra_volume_ml is not None:
        measurements.append(_volume(codes.VOLUME, vertebra.vertebra_volume_ml))
    if vertebra.body_volume_ml is not None:
        measurements.append(_volume(codes.BODY_VOLUME, vertebra.body_volume_ml))
    if vertebra.trabecular_mean_hu is not None:
        measurements.append(
            hd.sr.Measurement(
                name=codes.ATTENUATION,
                value=round(vertebra.trabecular_mean_hu, 1),
                unit=codes.HOUNSFIELD,
                derivation=codes.MEAN,
                method=codes.TRABECULAR_CORE,
            )
        )
    return measurements


def _height_rows(vertebra: VertebraFinding) -> list[Row]:
    """Heights, losses and relative heights; those that need no side where the front is not sure."""
    rows: list[Row] = []
    if vertebra.heights_mm is not None:
        heights = vertebra.heights_mm.as_tuple()
        rows += [(c, v, codes.MILLIMETRE, HEIGHT_DIGITS) for c, v in zip(codes.HEIGHTS, heights, strict=True)]
        rows.append((codes.HEIGHT_UNCERTAINTY, vertebra.height_uncertainty_mm, codes.MILLIMETRE, HEIGHT_DIGITS))
    if (side := vertebra.without_side) is not None:
        rows.append((codes.HEIGHTS[1], side.middle_mm, codes.MILLIMETRE, HEIGHT_DIGITS))
        if side.middle_mm is not None:
            rows.append((codes.HEIGHT_UNCERTAINTY, vertebra.height_uncertainty_mm, codes.MILLIMETRE, HEIGHT_DIGITS))
        if side.middle_loss is not None:
            rows.append(
                (codes.HEIGHT_LOSSES[1], loss_cut(side.middle_loss, RATIO_DIGITS), codes.NO_UNITS, RATIO_DIGITS)
            )
    if vertebra.height_loss is not None:
        losses = (loss_cut(loss, RATIO_DIGITS) for loss in vertebra.height_loss.as_tuple())
        rows += [(c, v, codes.NO_UNITS, RATIO_DIGITS) for c, v in zip(codes.HEIGHT_LOSSES, losses, strict=True)]
    if vertebra.relative_heights is not None:
        relative = vertebra.relative_heights.as_tuple()[:2]
        rows += [(c, v, codes.RATIO, RATIO_DIGITS) for c, v in zip(codes.RELATIVE_HEIGHTS, relative, strict=False)]
    return rows


def _volume(name: CodedConcept, volume_ml: float) -> hd.sr.Measurement:
    """A volume; 1 ml is 1 cm3, the unit that DICOM lists (CID 7462)."""
    return hd.sr.Measurement(
        name=name, value=round(volume_ml, 2), unit=codes.CUBIC_CENTIMETRE, method=codes.VOLUME_METHOD
    )


def _body(vertebra: VertebraFinding, segment: hd.sr.ReferencedSegment, identity: Identity) -> Group:
    """The body's volume once more, under its own tracking UID, at its own segment."""
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=segment,
        measurements=[] if vertebra.body_volume_ml is None else [_volume(codes.VOLUME, vertebra.body_volume_ml)],
        **group_head(vertebra, identity, BODIES),
    )


def _evaluations(vertebra: VertebraFinding) -> list[hd.sr.QualitativeEvaluation]:
    evaluations = []
    if vertebra.grade is not None:
        evaluations.append(hd.sr.QualitativeEvaluation(codes.SEVERITY, codes.SEVERITIES[vertebra.grade]))
    if vertebra.height_ratio is not None and vertebra.grade is not None:  # beside a grade, never instead of one
        category = codes.ratio_category(vertebra.height_ratio)
        evaluations.append(hd.sr.QualitativeEvaluation(codes.RATIO_CATEGORY, category))
    return evaluations


def _end_points(
    vertebra: VertebraFinding, frame_of_reference_uid: str, identity: Identity
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """The heights once more, each inferred from its superior and inferior point in patient coordinates."""
    heights = vertebra.heights_mm.as_tuple() if vertebra.heights_mm is not None else ()
    measurements = [
        hd.sr.Measurement(
            name=name,
            value=round(float(value), HEIGHT_DIGITS),
            unit=codes.MILLIMETRE,
            referenced_coordinates=[
                hd.sr.CoordinatesForMeasurement3D(
                    graphic_type=hd.sr.GraphicTypeValues3D.POLYLINE,
                    graphic_data=line,
                    frame_of_reference_uid=frame_of_reference_uid,
                )
            ],
        )
        for name, value, line in zip(codes.HEIGHTS, heights, height_lines(vertebra), strict=True)
    ]
    return hd.sr.MeasurementsAndQualitativeEvaluations(**group_head(vertebra, identity), measurements=measurements)


def _lines(
    vertebra: VertebraFinding, image: Dataset, identity: Identity
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """The numbers of a radiograph once more, each inferred from its line on the image."""
    numbers = measurements_along(drawn(vertebra, short=False), image, vertebra.name)
    return hd.sr.MeasurementsAndQualitativeEvaluations(**group_head(vertebra, identity), measurements=numbers)


def _outline(vertebra: VertebraFinding, image: Dataset, identity: Identity) -> Group:
    """The body as the polygon of its six points on the image (TID 1410)."""
    region = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=outline(vertebra),
        source_image=hd.sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
    )
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region, **group_head(vertebra, identity, BODIES)
    )


def _verdict(findings: Findings, *, is_fluoroscopic: bool) -> list[ContentItem]:
    """The patient's flag, worst grade, what was not looked at, and what the finding cannot tell."""
    flag = {True: codes.FLAG_RAISED, False: codes.FLAG_NOT_RAISED, None: codes.FLAG_NOT_GRADED}
    items: list[ContentItem] = [code(codes.PATIENT_FLAG, flag[findings.patient.flag])]
    if findings.patient.flag:
        items.append(text(codes.FINDING, FLAG_SENTENCE))
    if findings.patient.worst_grade is not None:
        items.append(code(codes.WORST_GRADE, codes.SEVERITIES[findings.patient.worst_grade]))
    items.append(text(codes.RULE, rule_text(findings.patient)))
    items.append(text(codes.SEEN, f"{seen_text(findings)}; {graded_text(findings)}"))
    if (numbering := numbering_text(findings)) is not None:
        items.append(text(codes.NUMBERING, numbering))
    if any(v.abnormality_score is not None for v in findings.vertebrae):
        items.append(text(codes.HOW_TO_READ, SCORE_SENTENCE))
    if findings.pixel_size is not None and (said := film_notes.compression(findings)):
        items.append(text(codes.HOW_TO_READ, said))
    if any(v.trabecular_mean_hu is not None for v in findings.vertebrae):
        items.append(text(codes.HOW_TO_READ, DENSITY_SENTENCE))
    if is_fluoroscopic:
        items.append(text(codes.HOW_TO_READ, film_notes.NO_SEGMENTATION))
    if findings.acquisition is not None:
        items.append(text(codes.ACQUISITION, acquisition_text(findings.acquisition)))
    items += [text(codes.QUALITY, f"{flag}: {quality_sentence(flag)}") for flag in answer_quality(findings)]
    items.append(text(codes.LIMITS, LIMITS_SENTENCE))
    if findings.pixel_size is not None:
        items.append(text(codes.LIMITS, film_notes.LIMITS))
    items.append(text(codes.USE, RESEARCH))
    return items


def _provenance(
    source: Sequence[Dataset], findings: Findings, identity: Identity, ctx: ResultContext
) -> list[ContentItem]:
    """Everything that an auditor needs to know which software said this, of which input, when and how."""
    items: list[ContentItem] = [
        text(codes.SOFTWARE, f"spine-node {ctx.software_version}"),
        text(codes.PIPELINE, f"{findings.pipeline} {findings.pipeline_version}"),
        *(text(codes.MODEL, f"{m.name} {m.version} sha256 {m.sha256}") for m in findings.models),
        text(codes.PROVIDER, findings.provider or "none"),
        text(codes.CONFIGURATION_HASH, ctx.configuration_sha256),
        text(codes.INPUT_HASH, ctx.input_sha256),
        UIDRefContentItem(name=codes.ALGORITHM_UID, value=identity.algorithm_uid(), relationship_type=CONTAINS),
        UIDRefContentItem(name=codes.SOURCE_SERIES_UID, value=source[0].SeriesInstanceUID, relationship_type=CONTAINS),
        text(codes.SOURCE_SERIES_UID, source_text(source[0], ctx)),
        number(codes.SOURCE_INSTANCES, len(source), codes.NO_UNITS, 0),
    ]
    if findings.spacing_along_spine_mm is not None:
        items.append(number(codes.SPACING, findings.spacing_along_spine_mm, codes.MILLIMETRE, 3))
    if (calibration := film_notes.calibration(findings)) is not None:
        items.append(text(codes.PIXEL_SIZE, calibration))
    items.append(text(codes.DATED, local_date(source[0], ctx).isoformat(timespec="seconds")))
    for step, seconds in sorted(findings.timings_s.items()):
        items.append(text(codes.DURATION, f"{step} {seconds:.3f} s"))
    items += [text(codes.PARAMETER, f"{name} = {value}") for name, value in ctx.parameters]
    items.append(text(codes.SITE, ctx.site))
    items.append(number(codes.REVISION, ctx.revision, codes.NO_UNITS, 0))
    return items
