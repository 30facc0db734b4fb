"""Radiographs: which of a study's are looked at, and one of them as `inference.geometry.Radiograph`.

The unit is the image, not the series: a CR series often holds the frontal and the lateral view of one examination, and
every lateral spine image is answered.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from inference.findings import PixelSize, Quality
from inference.geometry import Radiograph
from inference.refusal import Refusal, RefusalCode
from node.gate.eligibility import NOT_ELIGIBLE, is_grey, is_own_result, says_screen
from node.gate.geometry import Slice
from node.gate.headers import FILM_CLASSES, FILM_MODALITIES, FOR_PROCESSING, InstanceHeader, has_valid_identifiers
from node.gate.identity import age_years, identifiers, pixel_digest
from node.gate.pixels import PixelError, is_lossy, stored_values
from node.gate.policy import GatePolicy
from node.gate.presentation import SHUTTER, SHUTTER_POLYGON, as_read
from node.gate.projection import ASPECT, aspect, lateral, orientation, pixel_size
from node.gate.region import Region, region
from node.gate.values import integer, items, text, texts
from node.gate.volume import Unevaluable

SCREEN_CONVERSIONS = frozenset({"DV", "DRW", "SYN", "WSD", "SD"})
"""Conversion types (C.8.6.1) of pictures of a screen, drawings and documents; a digitised film is one of films."""

DESCRIBING = (
    "ImageType",
    "PhotometricInterpretation",
    "PresentationLUTShape",
    "PresentationIntentType",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "ImagerPixelSpacing",
    "PixelAspectRatio",
    "EstimatedRadiographicMagnificationFactor",
    "ViewPosition",
    "PatientOrientation",
    "BodyPartExamined",
)
"""What an answer depends on, beside the stored values and who the patient is."""


@dataclass(frozen=True, eq=False)
class FilmAssessment:
    """What the header of one radiograph says.

    Attributes
    ----------
    headers
        Receptions of the image in order of arrival; the last one counts: a header may have been corrected since.
    refusal
        Why the image is not eligible or not evaluable; ``None`` where its header allows everything.
    replaces
        SOP instance UID of the detector's own image that gave way to this one; empty where there is none.
    """

    headers: tuple[InstanceHeader, ...]
    refusal: Refusal | None
    spine_expected: bool
    lateral: bool | None
    age_years: float | None
    replaces: str = ""

    @property
    def header(self) -> InstanceHeader:
        """The reception that counts."""
        return self.headers[-1]

    @property
    def eligible(self) -> bool:
        """Whether the image may be answered at all."""
        return self.refusal is None or self.refusal.code not in NOT_ELIGIBLE

    @property
    def for_processing(self) -> bool:
        """Whether it is the detector's own image, not yet processed for reading."""
        return is_for_processing(self.header)


@dataclass(frozen=True, eq=False)
class LoadedFilm:
    """A radiograph ready for a pipeline.

    Attributes
    ----------
    film
        As a reader sees it.
    datasets
        Its header without pixels, alone in a tuple.
    quality
        LOSSY_SOURCE, FOR_PROCESSING, WINDOW_OVERRULED, UNCALIBRATED.
    input_sha256
        Identity of the input.
    age_years
        ``None`` where unknown.
    corrected
        How many earlier receptions showed the same pixels under another header, or could not be read.
    """

    film: Radiograph
    datasets: tuple[Dataset]
    quality: tuple[Quality, ...]
    input_sha256: str
    spine_expected: bool
    age_years: float | None
    corrected: int = 0

    @property
    def pixel_size(self) -> PixelSize:
        """Of the film, as findings carry it."""
        return PixelSize(self.film.spacing_mm, self.film.spacing_source)


def is_film(header: InstanceHeader) -> bool:
    """Whether an object is a projection image of the kinds that are looked at here."""
    if header.sop_class_uid:
        return header.sop_class_uid in FILM_CLASSES
    return header.modality in FILM_MODALITIES


def is_for_processing(header: InstanceHeader) -> bool:
    """Whether an image is the detector's own (C.8.11.3.1.1), by its class or by its intent."""
    intent = text(header.dataset, "PresentationIntentType").upper()
    return intent == "FOR PROCESSING" or (header.sop_class_uid == FOR_PROCESSING and not intent)


def assess_films(headers: Iterable[InstanceHeader], policy: GatePolicy) -> list[FilmAssessment]:
    """Judge the radiographs of one study by their headers, sorted by series and SOP instance UID.

    ``headers`` come in order of arrival, which counts among receptions of one image only.
    """
    images: dict[tuple[str, str], list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        images[header.series_uid, header.sop_instance_uid or str(header.path)].append(header)
    films = _one_answer_an_exposure([_assess(images[key], policy) for key in sorted(images)], policy)
    return films if policy.films else [_not_installed(film) for film in films]


def load_film(headers: Sequence[InstanceHeader], policy: GatePolicy) -> LoadedFilm | Unevaluable:
    """Load one radiograph from its receptions, given in order of arrival: the last one counts.

    Whatever the file holds, the answer is a radiograph or a refusal. Its study is not judged here:
    :func:`node.gate.choice.choose` does that.

    Raises
    ------
    OSError
        The file cannot be read (gone, disk or network failing): that may pass and says nothing about the image.
    """
    found = _assess(headers, policy)
    if found.refusal is not None:
        return _unevaluable(found, found.refusal)
    dataset = found.header.dataset
    try:
        stored = next(stored_values(found.header, (None,)))
    except PixelError as error:
        detail = f"({str(error)[:1].upper()}{str(error)[1:]}.)"
        return _unevaluable(found, Refusal(RefusalCode.PIXELS_UNREADABLE, detail))
    digest = pixel_digest(stored)
    identity = _identity(found.header, digest)
    earlier = [_read_before(header) for header in found.headers[:-1]]
    if any(read is not None and read != digest for read in earlier):
        detail = "(Two different images carry the same SOP Instance UID.)"
        return _unevaluable(found, Refusal(RefusalCode.DUPLICATE_POSITIONS, detail))
    corrected = sum(
        read is None or _identity(header, read) != identity
        for header, read in zip(found.headers[:-1], earlier, strict=True)
    )
    try:
        shown = as_read(stored, dataset, for_processing=found.for_processing)
    except (ValueError, TypeError, ArithmeticError, IndexError) as error:
        detail = f"(Their values could not be converted: {type(error).__name__}.)"
        return _unevaluable(found, Refusal(RefusalCode.PIXELS_UNREADABLE, detail))
    size = pixel_size(dataset)
    film = Radiograph(
        pixels=shown.pixels,
        spacing_mm=size.spacing_mm,
        aspect=aspect(dataset),
        spacing_source=size.source,
        orientation=orientation(dataset),
        lateral=found.lateral,
    )
    flags = (
        (Quality.LOSSY_SOURCE, is_lossy(found.header)),
        (Quality.FOR_PROCESSING, found.for_processing),
        (Quality.WINDOW_OVERRULED, shown.window_overruled),
        (Quality.UNCALIBRATED, size.spacing_mm is None),
    )
    return LoadedFilm(
        film=film,
        datasets=(dataset,),
        quality=tuple(flag for flag, holds in flags if holds),
        input_sha256=identity,
        spine_expected=found.spine_expected,
        age_years=found.age_years,
        corrected=corrected,
    )


def unevaluable_film(headers: Sequence[InstanceHeader], policy: GatePolicy, refusal: Refusal) -> Unevaluable:
    """One radiograph, given as to `load_film`, as "not evaluable" for a reason that was met elsewhere."""
    return _unevaluable(_assess(headers, policy), refusal)


def _read_before(header: InstanceHeader) -> str | None:
    """Digest of the pixels of an earlier reception; ``None`` where they cannot be decoded: it was sent again."""
    try:
        return pixel_digest(next(stored_values(header, (None,))))
    except PixelError:
        return None


def _assess(headers: Sequence[InstanceHeader], policy: GatePolicy) -> FilmAssessment:
    last = headers[-1]
    where, told_by = region(last.dataset, policy)
    side = lateral(last.dataset)
    age = age_years(Slice(header, image) for header in headers for image in header.images)
    refusal = (
        _object_refusal(last, policy)
        or _view_refusal(where, told_by, side, policy)
        or _evaluation_refusal(last.dataset, age, policy)
    )
    return FilmAssessment(tuple(headers), refusal, where is Region.SPINE, side, age)


def _object_refusal(header: InstanceHeader, policy: GatePolicy) -> Refusal | None:
    """Why an object is no radiograph that may be looked at, whatever it shows."""
    dataset = header.dataset
    image_type = tuple(value.upper() for value in texts(dataset, "ImageType"))
    frames = integer(dataset, "NumberOfFrames") or 1
    code: RefusalCode | None = None
    detail = ""
    if is_own_result(header, policy):
        code = RefusalCode.OWN_RESULT
    elif not header.images:
        code = RefusalCode.NOT_AN_IMAGE
    elif (integer(dataset, "SamplesPerPixel") or 1) != 1 or not is_grey(dataset):
        code = RefusalCode.COLOUR_IMAGE
    elif says_screen(image_type) or text(dataset, "ConversionType").upper() in SCREEN_CONVERSIONS:
        code = RefusalCode.SCREEN_CAPTURE
    elif image_type[1:2] == ("SECONDARY",):
        code = RefusalCode.SECONDARY_IMAGE
    elif frames > 1:
        code, detail = RefusalCode.SEVERAL_FRAMES, f"({frames} frames.)"
    elif not has_valid_identifiers(header):
        code = RefusalCode.MISSING_IDENTIFIERS
    return Refusal(code, detail) if code else None


def _evaluation_refusal(dataset: Dataset, age: float | None, policy: GatePolicy) -> Refusal | None:
    """Why a lateral view of the spine cannot be evaluated, as far as its header tells."""
    rows, columns = _size(dataset)
    if rows < 1 or columns < 1:
        return Refusal(RefusalCode.PIXELS_UNREADABLE, f"(Declared as {rows} x {columns} pixels.)")
    if rows * columns > policy.max_film_pixels:
        most = policy.max_film_pixels // 1_000_000
        return Refusal(RefusalCode.IMAGE_TOO_LARGE, f"({rows} x {columns}; at most {most} million.)")
    height = aspect(dataset)
    if not ASPECT[0] <= height <= ASPECT[1]:
        return Refusal(RefusalCode.PIXEL_ASPECT, f"(Height over width: {height:.3g}.)")
    return Refusal(RefusalCode.AGE_BELOW_18) if age is not None and age < policy.min_age_years else None


def _size(dataset: Dataset) -> tuple[int, int]:
    return integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0


def _view_refusal(where: Region, told_by: str, side: bool | None, policy: GatePolicy) -> Refusal | None:
    """Why the header says that this is another view or another region."""
    if where is Region.CHEST and not (policy.lateral_chest and side is not False):
        return Refusal(RefusalCode.CHEST_FILM, f"({_told(told_by)}.)")
    if where is Region.OTHER:
        return Refusal(RefusalCode.NOT_A_LATERAL_SPINE, f"(Another region: {told_by}.)")
    if side is False:
        return Refusal(RefusalCode.NOT_A_LATERAL_SPINE, "(The header names another view.)")
    return None


def _told(told_by: str) -> str:
    return f"{told_by[:1].upper()}{told_by[1:]}"


def _not_installed(film: FilmAssessment) -> FilmAssessment:
    return replace(film, refusal=Refusal(RefusalCode.NOT_INSTALLED)) if film.eligible else film


# images for processing and their twins


def _one_answer_an_exposure(films: Sequence[FilmAssessment], policy: GatePolicy) -> list[FilmAssessment]:
    """The films, with the detector's own images refused where the same exposure is there for presentation as well.

    Alone they are refused, too, since the image that is read may still come; a site may have them answered. The image
    that came later knows which one it takes the place of, so that its answer becomes a revision of that one's.
    """
    read = [film for film in films if film.eligible and not film.for_processing]
    replaced: dict[str, str] = {}
    judged: list[FilmAssessment] = []
    for film in films:
        if not (film.eligible and film.for_processing):
            judged.append(film)
            continue
        twin = next((other for other in read if _same_exposure(film, other)), None)
        if twin is not None:
            replaced.setdefault(twin.header.sop_instance_uid, film.header.sop_instance_uid)
            judged.append(replace(film, refusal=Refusal(RefusalCode.FOR_PROCESSING_TWIN)))
        elif policy.for_processing:
            judged.append(film)
        else:
            judged.append(replace(film, refusal=Refusal(RefusalCode.FOR_PROCESSING_ONLY)))
    return [replace(film, replaces=replaced.get(film.header.sop_instance_uid, "")) for film in judged]


def _same_exposure(raw: FilmAssessment, other: FilmAssessment) -> bool:
    """Whether a processed image is of the same exposure: it says so itself, or irradiation or time agree.

    Where neither image can be told apart by any of these, the same view in the same study is taken for the same one.
    """
    sources = {text(i, "ReferencedSOPInstanceUID") for i in items(other.header.dataset, "SourceImageSequence")}
    if raw.header.sop_instance_uid in sources:
        return True
    for keywords in (("IrradiationEventUID",), ("AcquisitionDateTime",), ("AcquisitionDate", "AcquisitionTime")):
        mine, theirs = (_joined(film.header.dataset, keywords) for film in (raw, other))
        if mine and theirs:
            return mine == theirs
    return raw.lateral is other.lateral


def _joined(dataset: Dataset, keywords: Sequence[str]) -> str:
    values = [text(dataset, keyword) for keyword in keywords]
    return " ".join(values) if all(values) else ""


# identity of the input


def _unevaluable(found: FilmAssessment, refusal: Refusal) -> Unevaluable:
    return Unevaluable(
        refusal,
        (found.header.dataset,),
        _identity(found.header, ""),
        found.spine_expected,
        found.age_years,
    )


def _identity(header: InstanceHeader, digest: str) -> str:
    """Hash of all that an answer depends on; without a digest (refused before its pixels were read) of the header."""
    dataset = header.dataset
    record = [
        header.sop_instance_uid,
        digest,
        list(_size(dataset)),
        [[_decimal(value) for value in texts(dataset, keyword)] for keyword in DESCRIBING],
        [_lut_digest(dataset, keyword) for keyword in ("ModalityLUTSequence", "VOILUTSequence")],
        identifiers(header),
    ]
    for keywords in (SHUTTER, (SHUTTER_POLYGON,)):
        shutter = [[_decimal(value) for value in texts(dataset, keyword)] for keyword in keywords]
        if any(shutter):  # most have none: they keep the identity that they had before it counted
            record.append(shutter)
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _decimal(value: str) -> str:
    """Decimal strings as archives may rewrite them ("0.1430", "1.43e-1") become one."""
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value.upper()


def _lut_digest(dataset: Dataset, keyword: str) -> str:
    sequence = items(dataset, keyword)
    if not sequence:
        return ""
    data = sequence[0].get("LUTData")
    content = data if isinstance(data, bytes) else json.dumps(np.asarray(data).tolist(), default=str).encode()
    return hashlib.sha256(text(sequence[0], "LUTDescriptor").encode() + content).hexdigest()
