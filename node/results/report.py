"""``report.dcm``: what a reader checks. Every height is a line on the reformat.

Comprehensive 3D SR, Imaging Measurement Report (126000 DCM), one TID 1501 group per measured vertebra: a comment that
starts with the vertebra's name, then Ha, Hm and Hp, each inferred from a two-point polyline on the reformat. Groups
that raise the flag come first, worst first, because viewers open the first one. No group is without coordinates: one
such group was seen to blank all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import Comprehensive3DSRStorage

from inference.findings import Findings, VertebraFinding
from node.results import codes
from node.results.context import ResultContext, ResultError
from node.results.identity import Identity
from node.results.reformat import Ruler
from node.results.structured import document, group_head, observation_context, text
from node.results.wording import comment, reading_order

HEIGHT_DIGITS = 2
"""Decimals of a height in mm."""


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


def build_report(
    reformat_file: Dataset,
    ruler: Ruler,
    source: Sequence[Dataset],
    findings: Findings,
    identity: Identity,
    ctx: ResultContext,
) -> FileDataset:
    """The report on ``reformat_file``, whose pixels ``ruler`` maps to the patient."""
    groups = [_group(v, reformat_file, ruler, identity) for v in reading_order(findings)]
    tree = hd.sr.MeasurementReport(
        observation_context=observation_context(ctx),
        procedure_reported=codes.PROCEDURE_REPORTED[ctx.pipeline],
        imaging_measurements=groups,
        title=codes.IMAGING_MEASUREMENT_REPORT,
    )
    return document(
        "report",
        Comprehensive3DSRStorage,
        tree[0],
        [reformat_file],
        source,
        findings,
        identity,
        ctx,
        [ctx.predecessor_report],
    )


def _group(
    vertebra: VertebraFinding, reformat_file: Dataset, ruler: Ruler, identity: Identity
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """One vertebra: TID 1501 with the comment before its measurements."""
    if vertebra.heights_mm is None:
        raise ResultError(f"{vertebra.name} has no heights, so it cannot stand in the report")
    pixels = ruler.to_pixel(height_lines(vertebra))
    limits = np.array([reformat_file.Columns, reformat_file.Rows], np.float64)
    if not (np.isfinite(pixels).all() and (pixels >= 0).all() and (pixels <= limits).all()):
        raise ResultError(f"a point of {vertebra.name} lies outside the reformat, so its line cannot be drawn")
    image = hd.sr.SourceImageForRegion(reformat_file.SOPClassUID, reformat_file.SOPInstanceUID)
    measurements = [
        hd.sr.Measurement(
            name=name,
            value=round(float(value), HEIGHT_DIGITS),
            unit=codes.MILLIMETRE,
            referenced_coordinates=[
                hd.sr.CoordinatesForMeasurement(
                    graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
                    graphic_data=line,
                    source_image=image,
                )
            ],
        )
        for name, value, line in zip(codes.SHORT_HEIGHTS, vertebra.heights_mm.as_tuple(), pixels, strict=True)
    ]
    group = hd.sr.MeasurementsAndQualitativeEvaluations(**group_head(vertebra, identity), measurements=measurements)
    items = group[0].ContentSequence
    first_number = next(i for i, item in enumerate(items) if item.ValueType == "NUM")
    items.insert(first_number, text(codes.COMMENT, comment(vertebra)))
    return group
