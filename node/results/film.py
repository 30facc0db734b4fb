"""Findings on a radiograph to DICOM objects: the film itself is the reader's picture, so there is no reformat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import XRayRadiofluoroscopicImageStorage

from inference.findings import Findings
from inference.geometry import Radiograph
from node.results.capture import build_capture, picture
from node.results.context import RADIOGRAPH, Result, ResultContext, ResultError
from node.results.details import build_details
from node.results.film_lines import drawn
from node.results.film_picture import film_picture
from node.results.identity import Identity
from node.results.report import build_report
from node.results.segmentation import FILM, build_segmentation, film_skeleton
from node.results.text_report import build_text_report
from node.results.wording import as_answered, measured


@dataclass(frozen=True)
class FilmAnswer:
    """What was found on a radiograph.

    Attributes
    ----------
    findings
        Always there; ``findings.refusal`` says why where nothing could be evaluated.
    film
        The radiograph; ``None`` where its pixels could not be read.
    labels
        uint8 of the shape of ``film.pixels``: 0, or the ordinal of the vertebra whose body a pixel shows.
    sacrum_px
        (n, 2), (column, row): the closed outline of S1, where it was seen below the last vertebra.
    """

    findings: Findings
    film: Radiograph | None = None
    labels: NDArray[np.uint8] | None = None
    sacrum_px: NDArray[np.float64] | None = None


def encode_film(
    source: Dataset, answer: FilmAnswer, context: ResultContext, *, with_segmentation: bool = False
) -> list[Result]:
    """Every object of one answer to a radiograph, in order of sending; the report's lines lie on the source image.

    Parameters
    ----------
    source
        Header of the radiograph, without pixels.
    with_segmentation
        Whether the bodies are sent as a segmentation, too. Some viewers cannot read one of a projection image; of a
        fluoroscopic one there is none, because the library takes its class for a multi-frame one.

    Raises
    ------
    ResultError
        When source and findings contradict each other: a point outside the image, labels of another shape,
        millimetres on a film that has none.
    """
    if context.pipeline != RADIOGRAPH:
        raise ResultError(f"the context is of the pipeline {context.pipeline}, the answer of a radiograph")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not source.get(keyword):
            raise ResultError(f"the radiograph's header has no {keyword}: results can neither be filed nor refer to it")
    findings, film = as_answered(answer.findings), answer.film
    identity = Identity.of(findings, context)
    headers = [source]
    if findings.refusal is not None:
        capture = build_capture(picture(findings, None, headers, context), headers, findings, identity, context)
        return [_result("capture", capture), _result("report", build_text_report(headers, findings, identity, context))]
    if film is None:
        raise ResultError("vertebrae were found, but there is no radiograph to show them on")
    _agree(findings, film, source)
    shown = film_picture(film, findings, answer.labels, answer.sacrum_px)
    capture = build_capture(picture(findings, shown, headers, context), headers, findings, identity, context)
    if measured(findings):
        report = build_report(source, drawn, headers, findings, identity, context)
    else:
        report = build_text_report(headers, findings, identity, context)
    results = [_result("capture", capture), _result("report", report)]
    results.append(_result("details", build_details(headers, findings, [], identity, context)))
    if with_segmentation and answer.labels is not None and source.SOPClassUID != XRayRadiofluoroscopicImageStorage:
        built = build_segmentation(
            FILM, answer.labels[np.newaxis], headers, findings, identity, context, [film_skeleton(source)]
        )
        if built is not None:
            results.append(Result(FILM.name, 1, built.file, "segmentation.dcm"))
    return results


def _agree(findings: Findings, film: Radiograph, source: Dataset) -> None:
    """Whether film, findings and header are of one image.

    Raises
    ------
    ResultError
        When they are not.
    """
    size = (int(source.Rows), int(source.Columns))
    if film.pixels.shape != size:
        raise ResultError(f"the radiograph has the shape {film.pixels.shape}, its header says {size}")
    in_mm = any(v.heights_mm is not None for v in findings.vertebrae)
    if in_mm and film.spacing_mm is None:
        raise ResultError("heights are given in mm, but the size of the radiograph's pixels is not known")


def _result(kind: str, dataset: FileDataset) -> Result:
    return Result(kind=kind, ordinal=1, dataset=dataset, filename=f"{kind}.dcm")
