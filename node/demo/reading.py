"""Reads the findings back from ``details.dcm``, as an auditor does who has nothing but the PACS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from inference.findings import Grade
from node.results import codes

MEASUREMENT_GROUP = "125007"
TRACKING_IDENTIFIER = "112039"


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


def read_details(path: Path) -> ReadAnswer:
    """Findings in a details SR.

    Raises
    ------
    ValueError
        The SR is not ours.
    """
    root = dcmread(path)
    if _code(root.ConceptNameCodeSequence[0]) != codes.DETAILS_TITLE.value:
        raise ValueError(f"{path.name} is not a details SR of this software")
    flag = None
    vertebrae = []
    for item in _walk(root):
        name = _name(item)
        if name == MEASUREMENT_GROUP:
            vertebra = _vertebra(item)
            if vertebra is not None:
                vertebrae.append(vertebra)
        elif name == codes.PATIENT_FLAG.value:
            said = _code(item.ConceptCodeSequence[0])
            flag = {codes.FLAG_RAISED.value: True, codes.FLAG_NOT_RAISED.value: False}.get(said)
    return ReadAnswer(flag, tuple(sorted(vertebrae, key=lambda v: -v.centroid_lps_mm[2])))


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
