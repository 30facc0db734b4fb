"""What makes an input the same input, and what is known about the patient's age.

The hash covers, per instance, the SOP instance UID, the digest of the decoded pixels, the geometry, and the identifiers
of patient and study; not file bytes, since archives transcode and coerce. The order of the instances does not matter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date

import numpy as np
from numpy.typing import NDArray

from node.gate.geometry import Slice
from node.gate.headers import InstanceHeader
from node.gate.values import text

IDENTIFYING = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "StudyDate",
    "StudyID",
    "AccessionNumber",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
)
"""Corrected demographics make another input, so that a revision can supersede the old answer."""

DAYS_PER_YEAR = 365.25
_AGE_UNITS = {"D": 1 / DAYS_PER_YEAR, "W": 7 / DAYS_PER_YEAR, "M": 1 / 12, "Y": 1.0}


def pixel_digest(stored: NDArray[np.integer]) -> str:
    """SHA-256 of an image's stored values as (rows, columns), row by row, little endian, with type and shape."""
    little = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{little.dtype.str}{little.shape}".encode())
    digest.update(little.data)
    return digest.hexdigest()


def input_sha256(slices: Iterable[Slice], digests: Mapping[tuple[str, int], str]) -> str:
    """Hash of the images that an answer rests on, whatever their order.

    Parameters
    ----------
    digests
        :func:`pixel_digest` by :attr:`Slice.name`; an image without one (refused before its pixels were read) counts
        with its header alone.
    """
    records = sorted(json.dumps(_record(part, digests.get(part.name, ""))) for part in slices)
    return hashlib.sha256("\n".join(records).encode()).hexdigest()


def _record(part: Slice, digest: str) -> list[object]:
    image = part.image
    return [
        *part.name,
        digest,
        _rounded(image.position, 4),
        _rounded(image.orientation, 6),
        _rounded(image.pixel_spacing, 6),
        [image.rows, image.columns],
        _rounded((image.slope, image.intercept), 6),
        image.rescale_type.upper() or "HU",
        identifiers(part.header),
    ]


def identifiers(header: InstanceHeader) -> list[str]:
    """The values of :data:`IDENTIFYING`, without what archives add and drop around them."""
    return [_normalised(text(header.dataset, keyword)) for keyword in IDENTIFYING]


def _rounded(values: Iterable[float | None] | None, digits: int) -> list[str] | None:
    """Decimal strings as archives may rewrite them ("1", "1.000000") become one; -0 is 0."""
    if values is None:
        return None
    return ["" if v is None else f"{round(v, digits) + 0.0:.{digits}f}" for v in values]


def _normalised(value: str) -> str:
    """Without the padding and the empty name components that archives add and drop."""
    return value.rstrip("^= ").strip()


def age_years(slices: Iterable[Slice]) -> float | None:
    """Age at the study in years: Patient's Age if it is well formed, else study date minus birth date, else ``None``.

    An age of nought, which software writes that knows none, counts only where the birth date does not say otherwise.
    All images are asked; the youngest age found counts, so that one wrong image cannot make a child an adult.
    """
    found = {age for age in (_age(part) for part in slices) if age is not None}
    return min(found) if found else None


def _age(part: Slice) -> float | None:
    dataset = part.header.dataset
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text(dataset, "PatientAge").upper())
    said = int(match[1]) * _AGE_UNITS[match[2]] if match else None
    if said:
        return said
    born = _date(text(dataset, "PatientBirthDate"))
    days = (_date(text(dataset, k)) for k in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"))
    seen = next((d for d in days if d is not None), None)
    if born is None or seen is None:
        return said
    had_birthday = (seen.month, seen.day) >= (born.month, born.day)
    years = seen.year - born.year - (not had_birthday)
    since = (seen - born).days - int(years * DAYS_PER_YEAR)
    return years + min(max(since, 0), 364) / DAYS_PER_YEAR if 0 <= years <= 130 else said


def _date(value: str) -> date | None:
    digits = re.fullmatch(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})", value)
    if not digits:
        return None
    try:
        return date(int(digits[1]), int(digits[2]), int(digits[3]))
    except ValueError:
        return None
