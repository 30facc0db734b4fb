"""What the header of a radiograph says of it: how large a pixel is at the spine, and from which side it was taken.

Consoles fill these elements by habit, so nothing here is more than a hint: what contradicts itself says nothing, and
the pixels have the last word.
"""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from inference.findings import PixelSize
from node.gate.region import OF_THE_IMAGE
from node.gate.values import items, number, numbers, plain, text, texts

# how large a pixel is (PS3.3 10.7)

PIXEL_MM = (0.02, 2.0)
"""Sides of a radiograph's pixels that can be true."""
MAGNIFICATION = (1.0, 2.5)
"""More than the first, which many consoles write for "not known", and at most the second."""
SAME_SPACING = 1e-4
"""Relative difference up to which two spacings are one, written twice."""


def pixel_size(dataset: Dataset) -> PixelSize:
    """Size of the pixels in the plane of the spine, (row, column) in mm, and in words where it comes from.

    Pixel Spacing is used where it is calibrated: where its calibration type says so, or where it differs from Imager
    Pixel Spacing (PS3.3 10.7.1). Else the detector's own spacing counts, divided by the magnification that the header
    states; where it states none the size at the spine is not known.
    """
    spacing, detector = _spacing(dataset, "PixelSpacing"), _spacing(dataset, "ImagerPixelSpacing")
    calibration = text(dataset, "PixelSpacingCalibrationType").upper()
    if spacing is not None and calibration in ("GEOMETRY", "FIDUCIAL"):
        return PixelSize(spacing, f"Pixel Spacing, calibrated ({calibration.lower()})")
    if spacing is not None and detector is not None and not _same(spacing, detector):
        return PixelSize(spacing, "Pixel Spacing, corrected: it differs from the detector's")
    if detector is None:
        why = "Pixel Spacing without a calibration" if spacing is not None else "the header states no pixel spacing"
        return PixelSize(None, f"uncalibrated: {why}")
    factor, source = _magnification(dataset)
    if factor is None:
        return PixelSize(None, f"uncalibrated: detector pixel spacing, {source}")
    return PixelSize((detector[0] / factor, detector[1] / factor), f"detector pixel spacing / {factor:.3f} ({source})")


def aspect(dataset: Dataset) -> float:
    """Height of a pixel over its width: from a spacing, whichever it is, else Pixel Aspect Ratio, else 1."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = _spacing(dataset, keyword)
        if spacing is not None:
            return spacing[0] / spacing[1]
    ratio = numbers(dataset, "PixelAspectRatio", 2)
    if ratio is None or min(ratio) <= 0 or not 0.1 <= ratio[0] / ratio[1] <= 10:
        return 1.0
    return ratio[0] / ratio[1]


def _spacing(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    given = numbers(dataset, keyword, 2)
    if given is None or not all(PIXEL_MM[0] <= side <= PIXEL_MM[1] for side in given):
        return None
    return (given[0], given[1])


def _same(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(abs(x - y) <= SAME_SPACING * y for x, y in zip(a, b, strict=True))


def _magnification(dataset: Dataset) -> tuple[float | None, str]:
    """The factor and who says so; ``None`` and why there is none."""
    stated = number(dataset, "EstimatedRadiographicMagnificationFactor")
    if stated is not None and MAGNIFICATION[0] < stated <= MAGNIFICATION[1]:
        return stated, "Estimated Radiographic Magnification Factor"
    detector, patient = number(dataset, "DistanceSourceToDetector"), number(dataset, "DistanceSourceToPatient")
    if detector is not None and patient is not None and patient > 0:
        ratio = detector / patient
        if MAGNIFICATION[0] < ratio <= MAGNIFICATION[1]:
            return ratio, f"source to detector {detector:.0f} mm, source to patient {patient:.0f} mm"
    return None, "magnification not stated"


# from which side (C.8.1.2, C.8.11.5; CID 4010)

_LATERAL_POSITIONS = frozenset(
    {"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LLATERAL", "RLATERAL", "LEFTLATERAL", "RIGHTLATERAL"}
)
_OTHER_POSITIONS = frozenset("AP PA LLD RLD LLO RLO LAO RAO LPO RPO OBL OBLIQUE AX AXIAL FRONTAL".split())  # noqa: SIM905
_LATERAL_CODES = frozenset(
    {"399067008", "399173006", "399198007", "30730003", "399352003", "399260004"}  # SNOMED CT
    | {"R-102CD", "R-10236", "R-10232", "G-A145", "R-10228", "R-10224"}  # the same as SNOMED-RT identifiers
)
_OTHER_CODES = frozenset(
    {"399348003", "272479007", "399033003", "399312000", "399059000", "399182000", "399061009", "399135007"}
    | {"399356000", "399006002", "399038007", "399184004", "399236003", "399160007"}
    | {"R-10206", "R-10214", "R-40888", "R-10202"}
)
_NOT_A_SIDE_VIEW = r"\b(lat\w*|seit\w*) (bend\w*|flex\w*|decub\w*|neig\w*)|\bdecub\w*|seitneig\w*|\bbending\b"
"""Bent or lying to the side, seen from the front more often than not: such words say nothing."""
_LATERAL_WORDS = r"\b(lat|latera+l\w*|latero\w*|seitl\w*|profil\w*|ll|rl|sag|sagittal\w*|zijdel\w*)\b"
_OTHER_WORDS = r"\b(ap|a p|pa|p a|frontal\w*|antero ?post\w*|postero ?ant\w*|face|obl\w*|schr[aä]g\w*|[lr][ap]o)\b"


def orientation(dataset: Dataset) -> tuple[str, str] | None:
    """The patient's direction along increasing (column, row) index, as Patient Orientation has it: ("A", "F")."""
    given = tuple(value.upper() for value in texts(dataset, "PatientOrientation"))
    if len(given) != 2 or not all(re.fullmatch(r"[APRLHF]{1,3}", value) for value in given):
        return None
    return (given[0], given[1])


def lateral(dataset: Dataset) -> bool | None:
    """Whether the header calls this a lateral view; ``None`` where it says nothing or contradicts itself."""
    votes = {
        _by_position(text(dataset, "ViewPosition")),
        *(_by_code(text(i, "CodeValue"), text(i, "CodeMeaning")) for i in items(dataset, "ViewCodeSequence")),
        _by_orientation(orientation(dataset)),
        _by_words(" | ".join(text(dataset, keyword) for keyword in OF_THE_IMAGE)),
    } - {None}
    return votes.pop() if len(votes) == 1 else None


def _by_position(value: str) -> bool | None:
    letters = re.sub(r"[^A-Z]", "", value.upper())
    return _told(letters in _LATERAL_POSITIONS, letters in _OTHER_POSITIONS)


def _by_code(value: str, meaning: str) -> bool | None:
    known = _told(value in _LATERAL_CODES, value in _OTHER_CODES)
    return known if known is not None else _by_words(meaning)


def _by_orientation(directions: tuple[str, str] | None) -> bool | None:
    """A lateral view has front and back on one axis, head and feet on the other."""
    if directions is None:
        return None
    axes = {"AP" if d[0] in "AP" else "LR" if d[0] in "LR" else "HF" for d in directions}
    return _told(axes == {"AP", "HF"}, "LR" in axes)


def _by_words(words: str) -> bool | None:
    said = re.sub(_NOT_A_SIDE_VIEW, " ", plain(words))
    return _told(re.search(_LATERAL_WORDS, said) is not None, re.search(_OTHER_WORDS, said) is not None)


def _told(yes: bool, no: bool) -> bool | None:
    """What two signs say together; nothing where both or neither are there."""
    return None if yes is no else yes
