"""``report.dcm``: what a reader checks. Every height is a line on the reformat, or on the radiograph itself.

Comprehensive 3D SR, Imaging Measurement Report (126000 DCM), one TID 1501 group per measured vertebra: a comment that
starts with the vertebra's name, then its numbers, each inferred from a two-point polyline on that image. Groups
that raise the flag come first, worst first, because viewers open the first one. No group is without coordinates: one
such group was seen to blank all others. How levels were numbered and what is doubtful stands in a container after them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept, ContentItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import Comprehensive3DSRStorage

from inference.findings import Findings, VertebraFinding
from node.results import codes, film_notes
from node.results.context import ResultContext, ResultError
from node.results.gaps import gaps
from node.results.identity import Identity
from node.results.reformat import Ruler
from node.results.structured import container, document, group_head, observation_context, text
from node.results.wording import (
    answer_quality,
    comment,
    doubts,
    graded_text,
    is_measured,
    numbering_text,
    quality_sentence,
    reading_order,
    seen_text,
)

HEIGHT_DIGITS = 2
"""Decimals of a height in mm."""


class Drawn(NamedTuple):
    """A number and the line that it was measured along: (2, 2) as (superior, inferior; column, row)."""

    name: CodedConcept
    value: float
    unit: CodedConcept
    digits: int
    ends: NDArray[np.float64]


def height_lines(vertebra: VertebraFinding) -> NDArray[np.float64]:
    """End points of the three heights, LPS mm: (3, 2, 3) as (anterior, middle, posterior; superior, inferior; xyz)."""
    k = vertebra.keypoints_lps_mm
    if k is None:
        raise ResultError(f"{vertebra.name} has no key points, so no height can be drawn")
    return np.array(
        [
            [k.anterior_superior, k.anterior_inferior],
            [k.middle_superior, k.middle_inferior],
            [k.posterior_superior, k.posterior_inferior],
        ],
        np.float64,
    )


def on_reformat(vertebra: VertebraFinding, ruler: Ruler) -> list[Drawn]:
    """The three heights of a vertebra as lines on the reformat that ``ruler`` maps to the patient."""
    if vertebra.heights_mm is None:
        raise ResultError(f"{vertebra.name} has no heights, so it cannot stand in the report")
    lines = ruler.to_pixel(height_lines(vertebra))
    return [
        Drawn(name, value, codes.MILLIMETRE, HEIGHT_DIGITS, line)
        for name, value, line in zip(codes.SHORT_HEIGHTS, vertebra.heights_mm.as_tuple(), lines, strict=True)
    ]


def build_report(
    image: Dataset,
    drawn: Callable[[VertebraFinding], Sequence[Drawn]],
    source: Sequence[Dataset],
    findings: Findings,
    identity: Identity,
    ctx: ResultContext,
) -> FileDataset:
    """The report whose lines lie on ``image``: the reformat, or the radiograph. ``drawn`` gives those of a vertebra."""
    after = _unseen_beside(findings)
    groups = [
        _group(v, drawn(v), image, identity, after.get(v.ordinal, ""))
        for v in reading_order(findings)
        if is_measured(v)
    ]
    tree = hd.sr.MeasurementReport(
        observation_context=observation_context(ctx),
        procedure_reported=codes.PROCEDURE_REPORTED[ctx.pipeline],
        imaging_measurements=groups,
        title=codes.IMAGING_MEASUREMENT_REPORT,
    )
    tree[0].ContentSequence.append(container(codes.QUALITATIVE_EVALUATIONS, _doubts(findings)))
    return document(
        "report",
        Comprehensive3DSRStorage,
        tree[0],
        [image],
        source,
        findings,
        identity,
        ctx,
        [ctx.predecessor_report],
    )


def measurements_along(drawn: Sequence[Drawn], image: Dataset, whose: str) -> list[hd.sr.Measurement]:
    """NUM items, each inferred from its line on the image (TID 1501, TID 320).

    Raises
    ------
    ResultError
        When an end of a line lies outside the image.
    """
    limits = np.array([image.Columns, image.Rows], np.float64)
    region = hd.sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID)
    measurements = []
    for number in drawn:
        if not (np.isfinite(number.ends).all() and (number.ends >= 0).all() and (number.ends <= limits).all()):
            raise ResultError(f"a point of {whose} lies outside the image, so its line cannot be drawn")
        line = hd.sr.CoordinatesForMeasurement(
            graphic_type=hd.sr.GraphicTypeValues.POLYLINE, graphic_data=number.ends, source_image=region
        )
        measurements.append(
            hd.sr.Measurement(
                name=number.name,
                value=round(float(number.value), number.digits),
                unit=number.unit,
                referenced_coordinates=[line],
            )
        )
    return measurements


def _unseen_beside(findings: Findings) -> dict[int, str]:
    """By ordinal: what a comment says of a gap, once for each, at the vertebra above it or at the measured one."""
    said: dict[int, str] = {}
    for above, below in gaps(findings):
        if is_measured(above):
            said[above.ordinal] = f"{said.get(above.ordinal, '')}; at least one not seen before {below.name}"
        else:
            said[below.ordinal] = f"; at least one not seen after {above.name}"
    return said


def _doubts(findings: Findings) -> list[ContentItem]:
    """What was seen and how it was numbered, how to read a compression ratio, what is doubtful and of whom, and what is
    not recognised on a radiograph."""
    items: list[ContentItem] = [text(codes.SEEN, f"{seen_text(findings)}; {graded_text(findings)}")]
    if (numbering := numbering_text(findings)) is not None:
        items.append(text(codes.NUMBERING, numbering))
    if findings.pixel_size is not None and (said := film_notes.compression(findings)):
        items.append(text(codes.HOW_TO_READ, said))
    items += [text(codes.QUALITY, f"{flag}: {quality_sentence(flag)}") for flag in answer_quality(findings)]
    items += [text(codes.QUALITY, f"{flag}: {said}") for flag, said in doubts(findings)]
    if findings.pixel_size is not None:
        items.append(text(codes.LIMITS, film_notes.LIMITS))
    return items


def _group(
    vertebra: VertebraFinding, drawn: Sequence[Drawn], image: Dataset, identity: Identity, unseen: str
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """One vertebra: TID 1501 with the comment before its measurements."""
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        **group_head(vertebra, identity), measurements=measurements_along(drawn, image, vertebra.name)
    )
    items = group[0].ContentSequence
    first_number = next(i for i, item in enumerate(items) if item.ValueType == "NUM")
    items.insert(first_number, text(codes.COMMENT, comment(vertebra) + unseen))
    return group
