"""Instances on disk to headers: one record per instance, one per image (frame) inside it, no pixels.

A single-frame instance holds one image; an enhanced multi-frame instance (PS3.3 A.38) holds one per frame, its values
taken from the per-frame functional groups, then from the shared ones (C.7.6.16). Everything behind this module sees
images only and does not care which kind of object they came from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag, Tag

from node.gate.deflated import inflates_too_far
from node.gate.plain import PlainReader
from node.gate.tags import FILM_SEQUENCES, HEADER_KEYWORDS
from node.gate.values import integer, is_uid, item, items, number, numbers, permissive, text, texts, tidy, uid

ENHANCED_CT = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
"""Enhanced CT Image Storage and Legacy Converted Enhanced CT Image Storage."""
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
MAX_FRAMES = 20_000

FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
FILM_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        FOR_PROCESSING,
        "1.2.840.10008.5.1.4.1.1.12.2",  # X-Ray Radiofluoroscopic
    }
)
FILM_MODALITIES = frozenset({"CR", "DX", "RF", "DR"})
"""Believed where the SOP class is missing."""

_HEADER_TAGS: list[BaseTag] = [Tag(t) for t in map(tag_for_keyword, HEADER_KEYWORDS) if t is not None]
_FILM_TAGS: list[BaseTag] = [Tag(t) for t in map(tag_for_keyword, FILM_SEQUENCES) if t is not None]


@dataclass(frozen=True)
class ImageHeader:
    """One grey-scale image: a single-frame instance, or one frame of a multi-frame instance.

    Attributes
    ----------
    frame
        Frame number counted from 1, or ``None`` for a single-frame instance.
    position
        LPS mm of the centre of the first pixel (Image Position (Patient)).
    orientation
        Direction cosines: three of a row (towards growing column index), then three of a column.
    pixel_spacing
        mm between rows, then between columns.
    slope, intercept
        Stored value to HU, ``None`` where missing or not finite.
    phase
        Values that may tell apart images at one position, in the order in which they are tried
        (see :data:`node.gate.geometry.PHASES`).
    """

    frame: int | None
    image_type: tuple[str, ...]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    rows: int | None
    columns: int | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    kernel: tuple[str, ...]
    phase: dict[str, str]


@dataclass(frozen=True, eq=False)
class InstanceHeader:
    """One instance: its identity, its images, and the dataset of selected elements (never pixels)."""

    path: Path
    dataset: Dataset
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    transfer_syntax_uid: str
    modality: str
    frame_of_reference_uid: str
    images: tuple[ImageHeader, ...]


@dataclass(frozen=True)
class Unreadable:
    """A file that is no readable DICOM instance, and why (without anything of its content).

    ``errno`` is that of a file which itself could not be read (gone, disk failing): another try may succeed.
    """

    path: Path
    reason: str
    errno: int | None = None


class HeaderReading(NamedTuple):
    """What :func:`read_headers` returns: ``headers, unreadable = read_headers(paths)``."""

    headers: list[InstanceHeader]
    unreadable: list[Unreadable]


def read_headers(paths: Iterable[Path]) -> HeaderReading:
    """Read the headers of many files, in the order given. Nothing in a file makes this raise.

    Pixel data are never read.
    """
    reading = HeaderReading([], [])
    reader = PlainReader(_HEADER_TAGS)
    for path in paths:
        found = read_header(path, reader)
        if isinstance(found, InstanceHeader):
            reading.headers.append(found)
        else:
            reading.unreadable.append(found)
    return reading


def read_header(path: Path, reader: PlainReader | None = None) -> InstanceHeader | Unreadable:
    """Read one file's header; a file without file meta information is read as well.

    ``reader`` is that of the files beside it, which most often say the same.
    """
    with permissive():
        try:
            dataset = (reader or PlainReader(_HEADER_TAGS)).read(path)
            if dataset is None:
                if inflates_too_far(path):
                    return Unreadable(path, "the deflated data set is larger than this node takes")
                dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_HEADER_TAGS))
                tidy(dataset)
                tidy(dataset.file_meta)
            if _may_be_film(dataset):
                more = dcmread(path, stop_before_pixels=True, force=True, specific_tags=_FILM_TAGS)
                tidy(more)
                dataset.update(more)
            return instance_header(path, dataset)
        except OSError as error:
            return Unreadable(path, f"the file cannot be read ({type(error).__name__})", error.errno)
        except Exception as error:  # hostile bytes reach every corner of the parser; the reason is reported
            return Unreadable(path, f"not readable as DICOM ({type(error).__name__})")


def _may_be_film(dataset: Dataset) -> bool:
    """Whether sequences that only radiographs are asked for are worth reading: in a CT they may list every slice."""
    return str(dataset.get("SOPClassUID", "")) in FILM_CLASSES or str(dataset.get("Modality", "")) in FILM_MODALITIES


def instance_header(path: Path, dataset: FileDataset) -> InstanceHeader | Unreadable:
    """The record of one dataset, which must be tidy, and its meta information too (:func:`node.gate.values.tidy`)."""
    meta = dataset.file_meta
    sop_class = uid(dataset, "SOPClassUID") or uid(meta, "MediaStorageSOPClassUID")
    if sop_class == MEDIA_DIRECTORY:
        return Unreadable(path, "a directory of a medium (DICOMDIR), not an instance")
    has_image = integer(dataset, "Rows") is not None and integer(dataset, "Columns") is not None
    if not sop_class and not has_image:
        return Unreadable(path, "not a DICOM instance: neither a SOP class nor an image")
    multi_frame = sop_class in ENHANCED_CT or bool(items(dataset, "PerFrameFunctionalGroupsSequence"))
    images = _frames(dataset) if multi_frame else (_single(dataset),)
    return InstanceHeader(
        path=path,
        dataset=dataset,
        sop_class_uid=sop_class,
        sop_instance_uid=uid(dataset, "SOPInstanceUID") or uid(meta, "MediaStorageSOPInstanceUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        transfer_syntax_uid=text(meta, "TransferSyntaxUID"),
        modality=text(dataset, "Modality").upper(),
        frame_of_reference_uid=uid(dataset, "FrameOfReferenceUID"),
        images=images if has_image else (),
    )


def has_valid_identifiers(header: InstanceHeader) -> bool:
    """Whether study, series and instance carry well-formed UIDs, so that a result can name them."""
    return all(is_uid(value) for value in (header.study_uid, header.series_uid, header.sop_instance_uid))


def _upper(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(v.upper() for v in values)


def _single(dataset: Dataset) -> ImageHeader:
    several = (integer(dataset, "NumberOfFrames") or 1) > 1
    return ImageHeader(
        frame=None,
        image_type=_upper(texts(dataset, "ImageType")),
        # several frames without functional groups have one position between them: it says nothing about each
        position=None if several else numbers(dataset, "ImagePositionPatient", 3),
        orientation=numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing=numbers(dataset, "PixelSpacing", 2),
        rows=integer(dataset, "Rows"),
        columns=integer(dataset, "Columns"),
        slope=number(dataset, "RescaleSlope"),
        intercept=number(dataset, "RescaleIntercept"),
        rescale_type=text(dataset, "RescaleType"),
        kernel=texts(dataset, "ConvolutionKernel"),
        phase={
            "acquisition number": text(dataset, "AcquisitionNumber"),
            "temporal position": text(dataset, "TemporalPositionIdentifier") or text(dataset, "TemporalPositionIndex"),
            "cardiac phase": text(dataset, "NominalPercentageOfCardiacPhase") or text(dataset, "TriggerTime"),
            "echo time": text(dataset, "EchoTime"),
            "tube voltage": text(dataset, "KVP"),
            "kernel": text(dataset, "ConvolutionKernel"),
            "image type": text(dataset, "ImageType").upper(),
            "contrast agent": text(dataset, "ContrastBolusAgent"),
            "acquisition date and time": text(dataset, "AcquisitionDateTime")
            or text(dataset, "AcquisitionDate") + text(dataset, "AcquisitionTime"),
        },
    )


def _frames(dataset: Dataset) -> tuple[ImageHeader, ...]:
    """One image per frame; none where the number of frames and of their functional groups disagree."""
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    declared = integer(dataset, "NumberOfFrames")
    if not 0 < len(per_frame) <= MAX_FRAMES or (declared if declared is not None else 1) != len(per_frame):
        return (_without_geometry(dataset),)
    shared = item(dataset, "SharedFunctionalGroupsSequence")
    return tuple(_frame(dataset, shared, group, n) for n, group in enumerate(per_frame, start=1))


def _without_geometry(dataset: Dataset) -> ImageHeader:
    single = _single(dataset)
    return ImageHeader(**{**vars(single), "frame": 1, "position": None, "orientation": None})


def _frame(dataset: Dataset, shared: Dataset, group: Dataset, frame: int) -> ImageHeader:
    def macro(sequence: str) -> Dataset:
        return item(group, sequence) if items(group, sequence) else item(shared, sequence)

    content = item(group, "FrameContentSequence")
    frame_type = _upper(texts(macro("CTImageFrameTypeSequence"), "FrameType"))
    transformation = macro("PixelValueTransformationSequence")
    reconstruction = macro("CTReconstructionSequence")
    kernel = texts(reconstruction, "ConvolutionKernel")
    return ImageHeader(
        frame=frame,
        image_type=frame_type or _upper(texts(dataset, "ImageType")),
        position=numbers(macro("PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers(macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        pixel_spacing=numbers(macro("PixelMeasuresSequence"), "PixelSpacing", 2),
        rows=integer(dataset, "Rows"),
        columns=integer(dataset, "Columns"),
        slope=number(transformation, "RescaleSlope"),
        intercept=number(transformation, "RescaleIntercept"),
        rescale_type=text(transformation, "RescaleType"),
        kernel=kernel,
        phase={
            "stack": text(content, "StackID"),
            "acquisition number": text(content, "FrameAcquisitionNumber"),
            "temporal position": text(content, "TemporalPositionIndex"),
            "cardiac phase": text(macro("CardiacSynchronizationSequence"), "NominalPercentageOfCardiacPhase"),
            "tube voltage": text(macro("CTXRayDetailsSequence"), "KVP"),
            "kernel": "\\".join(kernel),
            "image type": "\\".join(frame_type),
            "acquisition date and time": text(content, "FrameAcquisitionDateTime"),
        },
    )
