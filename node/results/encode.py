"""Findings to DICOM objects, in the order in which they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from inference.findings import Findings
from node.results.capture import build_capture, picture, png
from node.results.context import Result, ResultContext, ResultError
from node.results.details import build_details
from node.results.identity import Identity
from node.results.not_evaluable import build_not_evaluable
from node.results.reformat import Ruler, build_reformat
from node.results.report import build_report
from node.results.segmentation import SliceReference, build_segmentation, in_source_order, segment_numbers
from node.results.wording import as_answered


class Screened(Protocol):
    """What is needed of ``inference.screening.Screening``."""

    @property
    def findings(self) -> Findings: ...

    @property
    def reformat(self) -> Ruler | None: ...

    @property
    def outlines(self) -> NDArray[np.uint8] | None: ...


def encode(
    source: Sequence[Dataset],
    screening: Screened | Findings,
    context: ResultContext,
    references: Sequence[SliceReference] | None = None,
) -> list[Result]:
    """Every object of one answer, the reformat first: a report whose image is absent opens as a black view.

    Parameters
    ----------
    source
        Headers of the analysed series, without pixels, in the slice order of the outlines; at least one.
    screening
        What the pipeline gave, or findings alone when the series is not evaluable.
    references
        The image behind each slice of the outlines (``LoadedSeries.references``). Needed where the source is one
        multi-frame instance; without them such a series gets no segmentation.

    Raises
    ------
    ResultError
        When source and findings contradict each other (a point outside the reformat, outlines on another grid).
    """
    if not source:
        raise ResultError("no source header was given: results cannot be filed without patient and study")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not all(header.get(keyword) for header in source):
            raise ResultError(f"a source header has no {keyword}: results can neither be filed nor refer to it")
    findings, ruler, outlines = _parts(screening)
    identity = Identity.of(findings, context)
    capture = build_capture(picture(findings, ruler, source, context), source, findings, identity, context)
    if findings.refusal is not None:
        report = build_not_evaluable(source, findings, identity, context)
        return [_result("capture", capture), _result("report", report)]
    if ruler is None:
        raise ResultError("vertebrae were measured, but there is no reformat to draw their heights on")

    reformat = build_reformat(ruler, source, findings, identity, context)
    labels = in_source_order(outlines, source, references) if outlines is not None else None
    segmentation = build_segmentation(labels, source, findings, identity, context) if labels is not None else None
    segments = segment_numbers(labels, findings) if segmentation is not None else {}
    results = [_result("reformat", reformat), _result("capture", capture)]
    if segmentation is not None:
        results.append(_result("segmentation", segmentation))
    results.append(_result("report", build_report(reformat, ruler, source, findings, identity, context)))
    results.append(_result("details", build_details(source, findings, segmentation, segments, identity, context)))
    return results


def capture_png(source: Sequence[Dataset], screening: Screened | Findings, context: ResultContext) -> bytes:
    """The capture as a PNG file: the same pixels as in ``capture.dcm``."""
    findings, ruler, _ = _parts(screening)
    return png(picture(findings, ruler, source, context))


def _parts(screening: Screened | Findings) -> tuple[Findings, Ruler | None, NDArray[np.uint8] | None]:
    if isinstance(screening, Findings):
        return as_answered(screening), None, None
    return as_answered(screening.findings), screening.reformat, screening.outlines


def _result(kind: str, dataset: FileDataset) -> Result:
    return Result(kind=kind, ordinal=1, dataset=dataset, filename=f"{kind}.dcm")
