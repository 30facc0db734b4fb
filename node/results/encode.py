"""Findings to DICOM objects, in the order in which they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from inference.findings import Findings
from node.results.capture import build_capture, picture, png
from node.results.context import Result, ResultContext, ResultError
from node.results.details import build_details
from node.results.identity import Identity
from node.results.pictures import Coronal, Pictures
from node.results.reformat import Ruler, build_reformat
from node.results.report import build_report, on_reformat
from node.results.segmentation import (
    BODIES,
    EXPECTED,
    WHOLE,
    Segmentation,
    SliceReference,
    body_labels,
    build_segmentation,
    in_source_order,
    skeletons,
)
from node.results.text_report import build_text_report
from node.results.wording import as_answered, measured


class Answer(Protocol):
    """What is needed of ``inference.ct.CtAnswer``, whose attributes these are."""

    @property
    def findings(self) -> Findings: ...

    @property
    def reformat(self) -> Ruler | None: ...

    @property
    def coronal(self) -> Coronal | None: ...

    @property
    def labels(self) -> NDArray[np.uint8] | None: ...

    @property
    def parts(self) -> NDArray[np.uint8] | None: ...

    @property
    def expected_labels(self) -> NDArray[np.uint8] | None: ...

    @property
    def masks_on_reformat(self) -> NDArray[np.uint8] | None: ...

    @property
    def expected_on_reformat(self) -> NDArray[np.uint8] | None: ...


def encode(
    source: Sequence[Dataset],
    answer: Answer | Findings,
    context: ResultContext,
    references: Sequence[SliceReference] | None = None,
) -> list[Result]:
    """Every object of one answer, the reformat first: a report whose image is absent opens as a black view.

    Where vertebrae were named or segmented but none was measured, the report is text: one without lines to draw opens
    as a black view, too.

    Parameters
    ----------
    source
        Headers of the analysed series, without pixels, in the slice order of the masks; at least one.
    answer
        What the pipeline gave, or findings alone when the series is not evaluable.
    references
        The image behind each slice of the masks (``LoadedSeries.references``). Needed where the source is one
        multi-frame instance; without them such a series gets no segmentation.

    Raises
    ------
    ResultError
        When source and findings contradict each other (a point outside the reformat, masks on another grid).
    """
    if not source:
        raise ResultError("no source header was given: results cannot be filed without patient and study")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not all(header.get(keyword) for header in source):
            raise ResultError(f"a source header has no {keyword}: results can neither be filed nor refer to it")
    findings, pictures = _parts(answer)
    identity = Identity.of(findings, context)
    capture = build_capture(picture(findings, pictures, source, context), source, findings, identity, context)
    if findings.refusal is not None:
        return [_result("capture", capture), _result("report", build_text_report(source, findings, identity, context))]
    if pictures is None:
        raise ResultError("vertebrae were found, but there is no reformat to show them on")

    reformat = build_reformat(pictures.ruler, source, findings, identity, context)
    if measured(findings):
        report = build_report(reformat, partial(on_reformat, ruler=pictures.ruler), source, findings, identity, context)
    else:
        report = build_text_report(source, findings, identity, context)
    segmentations = (
        [] if isinstance(answer, Findings) else _segmented(answer, source, findings, identity, context, references)
    )
    return [
        _result("reformat", reformat),
        _result("capture", capture),
        *(_result(one.kind.name, one.file) for one in segmentations),
        _result("report", report),
        _result("details", build_details(source, findings, segmentations, identity, context)),
    ]


def capture_png(source: Sequence[Dataset], answer: Answer | Findings, context: ResultContext) -> bytes:
    """The capture as a PNG file: the same pixels as in ``capture.dcm``."""
    findings, pictures = _parts(answer)
    return png(picture(findings, pictures, source, context))


def _segmented(
    answer: Answer,
    source: Sequence[Dataset],
    findings: Findings,
    identity: Identity,
    context: ResultContext,
    references: Sequence[SliceReference] | None,
) -> list[Segmentation]:
    """The segmentations that have a voxel: the vertebrae, their bodies, and those that were expected if asked for."""
    if answer.labels is None:
        return []
    labels = in_source_order(answer.labels, source, references)
    if labels is None:
        return []
    images = skeletons(source)
    built = [build_segmentation(WHOLE, labels, source, findings, identity, context, images)]
    if answer.parts is not None:
        parts = in_source_order(answer.parts, source, references)
        if parts is not None:
            bodies = body_labels(labels, parts)
            built.append(build_segmentation(BODIES, bodies, source, findings, identity, context, images))
    if answer.expected_labels is not None:
        expected = in_source_order(answer.expected_labels, source, references)
        if expected is not None:
            built.append(build_segmentation(EXPECTED, expected, source, findings, identity, context, images))
    return [one for one in built if one is not None]


def _parts(answer: Answer | Findings) -> tuple[Findings, Pictures | None]:
    if isinstance(answer, Findings):
        return as_answered(answer), None
    findings = as_answered(answer.findings)
    if answer.reformat is None:
        return findings, None
    return findings, Pictures(answer.reformat, answer.coronal, answer.masks_on_reformat, answer.expected_on_reformat)


def _result(kind: str, dataset: FileDataset) -> Result:
    return Result(kind=kind, ordinal=1, dataset=dataset, filename=f"{kind}.dcm")
