"""Reads the findings back from the details SR of a CT or of a film, as an auditor does who has nothing but the PACS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from inference.findings import Grade
from node.results import codes
from node.results.context import RADIOGRAPH

MEASUREMENT_GROUP = "125007"
TRACKING_IDENTIFIER = "112039"
RELATIVE = codes.RELATIVE_HEIGHTS


@dataclass(frozen=True)
class ReadVertebra:
    """One vertebra as the SR has it; mm and LPS. What the SR does not say is ``None``."""

    name: str
    centroid_lps_mm: tuple[float, float, float]
    heights_mm: tuple[float, float, float] | None
    largest_loss: float | None
    height_ratio: float | None
    grade: Grade | None
    score: float | None = None
    trabecular_mean_hu: float | None = None


@dataclass(frozen=True)
class ReadAnswer:
    """The patient's verdict and the vertebrae, from the top."""

    flag: bool | None
    vertebrae: tuple[ReadVertebra, ...]


@dataclass(frozen=True)
class ReadBody:
    """One vertebral body of a film as the SR has it.

    Attributes
    ----------
    lines_px
        (3, 2, 2): anterior, middle and posterior height; superior and inferior end; column and row on the film as it
        was sent. ``None`` where they were not drawn.
    relative_heights
        Anterior and middle height over the posterior one.
    """

    name: str
    lines_px: NDArray[np.float64] | None
    relative_heights: tuple[float, float] | None
    compression_ratio_percent: float | None
    grade: Grade | None


@dataclass(frozen=True)
class ReadFilm:
    """The patient's verdict and the bodies of which heights are told, in the order of the SR (from the head)."""

    flag: bool | None
    bodies: tuple[ReadBody, ...]


def read_film_details(path: Path) -> ReadFilm:
    """Findings in the details SR of a film.

    Raises
    ------
    ValueError
        The SR is not ours, or not of a film.
    """
    root = _details(path)
    if not _is_of_film(root):
        raise ValueError(f"{path.name} is not of a film")
    groups: dict[str, list[Dataset]] = {}
    for item in _walk(root):
        if _name(item) == MEASUREMENT_GROUP:
            name = next(str(i.TextValue) for i in item.ContentSequence if _name(i) == TRACKING_IDENTIFIER)
            groups.setdefault(name, []).append(item)
    bodies = [_body(name, [i for g in found for i in g.ContentSequence]) for name, found in groups.items()]
    return ReadFilm(_flag(root), tuple(b for b in bodies if b is not None))


def _body(name: str, items: list[Dataset]) -> ReadBody | None:
    """One body from all groups of its name; ``None`` where no height is told as films tell it."""
    numbers = {_name(i): float(i.MeasuredValueSequence[0].NumericValue) for i in items if i.ValueType == "NUM"}
    lines = {_name(i): _polyline(i) for i in items if i.ValueType == "NUM" and "ContentSequence" in i}
    drawn = [lines.get(mm.value, lines.get(part.value)) for mm, part in zip(codes.HEIGHTS, RELATIVE, strict=True)]
    relative = [numbers.get(code.value) for code in RELATIVE[:2]]
    grades = [_code(i.ConceptCodeSequence[0]) for i in items if _name(i) == codes.SEVERITY.value]
    if relative[0] is None and all(line is None for line in drawn):
        return None
    return ReadBody(
        name=name,
        lines_px=np.array(drawn) if all(line is not None for line in drawn) else None,
        relative_heights=(relative[0], relative[1]) if relative[0] is not None and relative[1] is not None else None,
        compression_ratio_percent=numbers.get(codes.COMPRESSION_RATIO.value),
        grade=next((grade for grade, code in codes.SEVERITIES.items() if code.value in grades), None),
    )


def _polyline(item: Dataset) -> NDArray[np.float64] | None:
    for child in item.ContentSequence:
        if child.ValueType == "SCOORD":
            return np.array(child.GraphicData, np.float64).reshape(-1, 2)
    return None


def read_details(path: Path) -> ReadAnswer:
    """Findings in the details SR of a CT.

    Raises
    ------
    ValueError
        The SR is not ours, or of a film.
    """
    root = _details(path)
    if _is_of_film(root):
        raise ValueError(f"{path.name} is of a film")
    groups = (_vertebra(item) for item in _walk(root) if _name(item) == MEASUREMENT_GROUP)
    vertebrae = [vertebra for vertebra in groups if vertebra is not None]
    return ReadAnswer(_flag(root), tuple(sorted(vertebrae, key=lambda v: -v.centroid_lps_mm[2])))


def _details(path: Path) -> Dataset:
    root = dcmread(path)
    if "ConceptNameCodeSequence" not in root or _code(root.ConceptNameCodeSequence[0]) != codes.DETAILS_TITLE.value:
        raise ValueError(f"{path.name} is not a details SR of this software")
    return root


def _is_of_film(root: Dataset) -> bool:
    """Whether the pipeline that made the SR is that of radiographs."""
    said = next((str(i.TextValue) for i in _walk(root) if _name(i) == codes.PIPELINE.value), "")
    return said.split(" ")[0] == RADIOGRAPH


def _flag(root: Dataset) -> bool | None:
    for item in _walk(root):
        if _name(item) == codes.PATIENT_FLAG.value:
            said = _code(item.ConceptCodeSequence[0])
            return {codes.FLAG_RAISED.value: True, codes.FLAG_NOT_RAISED.value: False}.get(said)
    return None


def _vertebra(group: Dataset) -> ReadVertebra | None:
    numbers: dict[str, float] = {}
    grade, name = None, ""
    grades = {code.value: grade for grade, code in codes.SEVERITIES.items()}
    for item in group.ContentSequence:
        concept = _name(item)
        if item.ValueType == "NUM":
            numbers[concept] = float(item.MeasuredValueSequence[0].NumericValue)
        elif concept == codes.SEVERITY.value:
            grade = grades.get(_code(item.ConceptCodeSequence[0]))
        elif concept == TRACKING_IDENTIFIER:
            name = str(item.TextValue)
    centre = [numbers.get(code.value) for code in codes.CENTROID]
    if None in centre:  # the group of end points repeats the heights only
        return None
    heights = [numbers.get(code.value) for code in codes.HEIGHTS]
    losses = [numbers[code.value] for code in codes.HEIGHT_LOSSES if code.value in numbers]
    return ReadVertebra(
        name=name,
        centroid_lps_mm=_triple(centre),
        heights_mm=None if None in heights else _triple(heights),
        largest_loss=max(losses) if losses else None,
        height_ratio=numbers.get(codes.HEIGHT_RATIO.value),
        grade=grade,
        score=numbers.get(codes.ABNORMALITY_SCORE.value),
        trabecular_mean_hu=numbers.get(codes.ATTENUATION.value),
    )


def _triple(values: list[float | None]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values if value is not None)
    return first, second, third


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _walk(child)


def _name(item: Dataset) -> str:
    sequence: Any = item.get("ConceptNameCodeSequence")
    return _code(sequence[0]) if sequence else ""


def _code(item: Dataset) -> str:
    return str(item.CodeValue)
