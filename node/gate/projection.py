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
MAGNIFICATION = (1.02, 2.5)
"""Magnifications of a spine that can be true. Nearer to 1 are rounding, and what consoles write for "not known"; below
it pixels would be larger at the patient than on the detector: then the image was resampled."""
SAME_BOTH_WAYS = 0.01
"""Relative difference up to which two magnifications are one: rows and columns are magnified alike."""
ASPECT = (0.5, 2.0)
"""Heights of a pixel over its width at which a radiograph is still measured."""


def pixel_size(dataset: Dataset) -> PixelSize:
    """Size of the pixels in the plane of the spine, (row, column) in mm, and in words where it comes from.

    Pixel Spacing is used where it is calibrated: where its calibration type says so, or, without one, where Imager
    Pixel Spacing is larger by what can be a magnification (PS3.3 10.7.1.3). What is called calibrated by geometry and
    is the detector's own spacing was corrected for nothing and is not believed: a spine would be a fifth too large.
    Else the detector's own spacing counts, divided by the magnification that the header states; where it states none,
    or where both spacings differ by what is no magnification, the size at the spine is not known. The distance from
    source to patient is no help: consoles mean the table's side by it.
    """
    spacing, detector = _spacing(dataset, "PixelSpacing"), _spacing(dataset, "ImagerPixelSpacing")
    calibration = text(dataset, "PixelSpacingCalibrationType").upper()
    ratio = _magnified(spacing, detector) if spacing is not None and detector is not None else None
    uncorrected = ratio is not None and ratio <= MAGNIFICATION[0]
    if spacing is not None and (calibration == "FIDUCIAL" or (calibration == "GEOMETRY" and not uncorrected)):
        return PixelSize(spacing, f"Pixel Spacing, calibrated ({calibration.lower()})")
    if detector is None:
        why = "Pixel Spacing without a calibration" if spacing is not None else "the header states no pixel spacing"
        return PixelSize(None, f"uncalibrated: {why}")
    if spacing is not None:
        if ratio is None:
            return PixelSize(None, "uncalibrated: Pixel Spacing and the detector's differ by what is no magnification")
        if not uncorrected:
            return PixelSize(spacing, f"Pixel Spacing, corrected: the detector's is {ratio:.3f} times as large")
    factor = number(dataset, "EstimatedRadiographicMagnificationFactor")
    if factor is None or not MAGNIFICATION[0] < factor <= MAGNIFICATION[1]:
        return PixelSize(None, "uncalibrated: detector pixel spacing, magnification not stated")
    source = f"detector pixel spacing / {factor:.3f} (Estimated Radiographic Magnification Factor)"
    return PixelSize((detector[0] / factor, detector[1] / factor), source)


def aspect(dataset: Dataset) -> float:
    """Height of a pixel over its width: from a spacing, whichever it is, else Pixel Aspect Ratio, else 1.

    It may lie outside `ASPECT`: such a radiograph is not measured.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = _spacing(dataset, keyword)
        if spacing is not None:
            return spacing[0] / spacing[1]
    ratio = numbers(dataset, "PixelAspectRatio", 2)
    return 1.0 if ratio is None or min(ratio) <= 0 else ratio[0] / ratio[1]


def _spacing(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    given = numbers(dataset, keyword, 2)
    if given is None or not all(PIXEL_MM[0] <= side <= PIXEL_MM[1] for side in given):
        return None
    return (given[0], given[1])


def _magnified(spacing: tuple[float, float], detector: tuple[float, float]) -> float | None:
    """How many times larger the detector's pixels are, alike both ways; ``None`` where that is no magnification."""
    by_row, by_column = detector[0] / spacing[0], detector[1] / spacing[1]
    ratio = (by_row * by_column) ** 0.5
    alike = abs(by_row - by_column) <= SAME_BOTH_WAYS * ratio
    return ratio if alike and 1 / MAGNIFICATION[0] <= ratio <= MAGNIFICATION[1] else None


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
