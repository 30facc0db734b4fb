"""``segmentation.dcm`` and ``bodies.dcm``: vertebrae, and their bodies alone, as binary segmentations.

The grid is the source's own, because viewers refuse any other (Weasis #693, OHIF: rejected). Label maps are passed on
as they are, three-dimensional and one byte a voxel: a stack of one map per vertebra takes twenty times the memory.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian

from inference.findings import Findings, Grade, Level, VertebraFinding
from node.results import codes
from node.results.common import MANUFACTURER, new_file, stamp, stamp_lossy
from node.results.context import ResultContext, ResultError
from node.results.identity import Identity
from node.results.wording import probable_text

_GRADE_HUES: dict[Grade | None, float] = {
    Grade.NORMAL: 0.36,
    Grade.MILD: 0.15,
    Grade.MODERATE: 0.08,
    Grade.SEVERE: 0.0,
    None: 0.6,
}
"""Hue by grade; neighbours differ in lightness."""

_HEADER = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "ImageType",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
)
"""All that the segmentation library may see of a source header; patient and study are stamped afterwards."""


Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Kind:
    """What one of the segmentations is about."""

    name: str
    content_label: str
    content_description: str
    label: str
    """Of a segment, with the vertebra's name in it; also its tracking identifier, after the program's name."""
    finding: CodedConcept
    code: Callable[[Level | None], CodedConcept]
    tracking_uid: Callable[[Identity, int], str]


WHOLE = Kind(
    name="segmentation",
    content_label="VERTEBRAE",
    content_description="Whole vertebrae",
    label="{}",
    finding=codes.VERTEBRA,
    code=codes.vertebra,
    tracking_uid=Identity.tracking_uid,
)
BODIES = Kind(
    name="bodies",
    content_label="VERTEBRAL_BODIES",
    content_description="Vertebral bodies without posterior elements",
    label="{} body",
    finding=codes.VERTEBRAL_BODY,
    code=codes.vertebral_body,
    tracking_uid=Identity.body_tracking_uid,
)

EXPECTED = Kind(
    name="expected",
    content_label="EXPECTED_BODIES",
    content_description="Predicted bodies, not anatomy",
    label="{} expected body, predicted",
    finding=codes.EXPECTED_BODY,
    code=lambda _: codes.EXPECTED_BODY,
    tracking_uid=Identity.expected_tracking_uid,
)
"""Sent only where a destination asks for it by name."""

FILM = Kind(
    name="film_segmentation",
    content_label="VERTEBRAL_BODIES",
    content_description="Mid-sagittal section of the bodies",
    label="{} body",
    finding=codes.VERTEBRAL_BODY,
    code=codes.vertebral_body,
    tracking_uid=Identity.body_tracking_uid,
)
"""Of a radiograph. Sent only where a destination asks for it by name: some viewers cannot read it."""


@dataclass(frozen=True)
class Segmentation:
    """A built segmentation; ``numbers`` maps the ordinal of a vertebra to its segment."""

    kind: Kind
    file: FileDataset
    numbers: dict[int, int]


BODY = 1
"""Of the map of parts: vertebral body; 2 stands for posterior elements."""


def body_labels(labels: Labels, parts: Labels) -> Labels:
    """The label map of the bodies alone, slice by slice: one new map, nothing larger beside it.

    Raises
    ------
    ResultError
        When the two maps have different shapes.
    """
    if labels.shape != parts.shape:
        raise ResultError(f"the labels have the shape {labels.shape}, their parts {parts.shape}")
    bodies = np.zeros_like(labels)
    for whole, part, body in zip(labels, parts, bodies, strict=True):
        np.copyto(body, whole, where=part == BODY)
    return bodies


def segment_numbers(labels: Labels, findings: Findings) -> dict[int, int]:
    """Ordinal of a vertebra to its segment number: consecutive from 1, vertebrae without a voxel left out."""
    present = np.zeros(256, bool)
    for plane in labels:
        present[plane[plane > 0]] = True
    ordinals = [v.ordinal for v in findings.vertebrae]
    unknown = set(np.flatnonzero(present).tolist()) - set(ordinals)
    if unknown:
        raise ResultError(f"the masks hold the label {min(unknown)}, but no vertebra has this ordinal")
    return {ordinal: number for number, ordinal in enumerate((o for o in ordinals if present[o]), start=1)}


def tracking_identifier(vertebra: VertebraFinding, kind: Kind = WHOLE) -> str:
    """Human readable half of the tracking identity, the same in segmentation and reports."""
    return f"spine-node {kind.label.format(vertebra.name)}"


class SliceReference(Protocol):
    """What is needed of ``node.gate.volume.SliceReference``: the image behind one slice; ``frame`` counts from 1."""

    @property
    def sop_instance_uid(self) -> str: ...

    @property
    def frame(self) -> int | None: ...


def in_source_order(
    labels: Labels, source: Sequence[Dataset], references: Sequence[SliceReference] | None
) -> Labels | None:
    """The label map in the order of the source's own frames.

    Single-frame instances are already in the order of the slices. Of one multi-frame instance the slices are placed
    at their frames, which only ``references`` know: without them, or over several multi-frame instances, which one
    segmentation cannot refer to, the answer is ``None`` and there is no segmentation.

    Raises
    ------
    ResultError
        When masks, headers and references do not belong together.
    """
    rows, columns = int(source[0].Rows), int(source[0].Columns)
    if labels.shape[1:] != (rows, columns):
        raise ResultError(f"the masks have the shape {labels.shape}, the source images {rows} x {columns}")
    if references is not None and len(references) != len(labels):
        raise ResultError(f"there are {len(labels)} slices of masks, but {len(references)} references")
    if any("PerFrameFunctionalGroupsSequence" in header for header in source):
        if references is None or len(source) > 1:
            return None
        frames = np.zeros((int(source[0].NumberOfFrames), rows, columns), np.uint8)
        for plane, reference in zip(labels, references, strict=True):
            frames[(reference.frame or 1) - 1] = plane
        return frames
    if len(labels) != len(source):
        raise ResultError(f"the masks have the shape {labels.shape}, the source series {len(source)} images")
    if references is not None and any(
        r.sop_instance_uid != h.SOPInstanceUID for r, h in zip(references, source, strict=True)
    ):
        raise ResultError("the slices of the masks are not in the order of the source headers")
    return labels


def build_segmentation(
    kind: Kind,
    labels: Labels,
    source: Sequence[Dataset],
    findings: Findings,
    identity: Identity,
    ctx: ResultContext,
    images: Sequence[Dataset] | None = None,
) -> Segmentation | None:
    """The masks as a Segmentation (PS3.3 A.51), BINARY, frames without a voxel left out.

    Parameters
    ----------
    labels
        (slices, rows, columns), the label is the ordinal of the vertebra; as `in_source_order` gives it.
    images
        `skeletons` of the source, where more than one segmentation is built of it.

    Returns ``None`` when no vertebra has a voxel.
    """
    numbers = segment_numbers(labels, findings)
    if not numbers:
        return None
    vertebrae = {v.ordinal: v for v in findings.vertebrae}
    built = hd.seg.Segmentation(
        source_images=images or skeletons(source),
        pixel_array=_renumbered(labels, numbers),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(kind, vertebrae[ordinal], number, findings, identity, ctx)
            for ordinal, number in numbers.items()
        ],
        series_instance_uid=identity.series_uid(kind.name),
        series_number=identity.series_number(kind.name),
        sop_instance_uid=identity.instance_uid(kind.name),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=f"spine-node {ctx.pipeline}",
        software_versions=ctx.software_version,
        device_serial_number="-",
        content_label=kind.content_label,
        content_description=kind.content_description,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
    )
    file = new_file(built.SOPClassUID, built.SOPInstanceUID)
    for element in built:
        file[element.tag] = element
    stamp(file, kind.name, source, findings, identity, ctx)
    file.SoftwareVersions = [ctx.software_version, f"{ctx.pipeline} {findings.pipeline_version}"]
    stamp_lossy(file, source)
    _pin_dimensions(file, identity.uid(f"{kind.name}:dimensions"))
    if kind is FILM:
        # required of a projection image, which has no plane in the patient (C.7.6.1.1.1)
        file.PatientOrientation = source[0].get("PatientOrientation") or ""
    if "ContentCreatorName" not in file:
        file.ContentCreatorName = ""
    return Segmentation(kind, file, numbers)


def _renumbered(labels: Labels, numbers: dict[int, int]) -> Labels:
    """Ordinals as segment numbers; the map itself where they are the same, which is the rule."""
    if all(ordinal == number for ordinal, number in numbers.items()):
        return labels
    table = np.zeros(256, np.uint8)
    for ordinal, number in numbers.items():
        table[ordinal] = number
    return table[labels]


def skeletons(source: Sequence[Dataset]) -> list[Dataset]:
    """What the segmentation library needs of the source images, with empty patient and study."""
    empty = Dataset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(empty, keyword, "")
    empty.StudyDate = empty.StudyTime = empty.ReferringPhysicianName = ""
    tags = [tag_for_keyword(keyword) for keyword in _HEADER]
    bare = []
    for header in source:
        skeleton = Dataset({element.tag: element for element in empty})
        for tag in tags:
            if tag is not None and tag in header:
                skeleton.add(header[tag])
        if hasattr(header, "file_meta"):
            skeleton.file_meta = header.file_meta
        bare.append(skeleton)
    return bare


_PLANE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")


def film_skeleton(header: Dataset) -> Dataset:
    """The skeleton of a radiograph: a projection has no plane in the patient, whatever its header holds."""
    (bare,) = skeletons([header])
    for keyword in _PLANE:
        if keyword in bare:
            del bare[keyword]
    return bare


def _description(
    kind: Kind, vertebra: VertebraFinding, number: int, findings: Findings, identity: Identity, ctx: ResultContext
) -> hd.seg.SegmentDescription:
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=kind.label.format(vertebra.name),
        segmented_property_category=codes.ANATOMICAL_STRUCTURE,
        segmented_property_type=kind.code(vertebra.level),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"spine-node {ctx.pipeline}",
            version=findings.pipeline_version,
            family=codes.ARTIFICIAL_INTELLIGENCE,
        ),
        tracking_uid=kind.tracking_uid(identity, vertebra.ordinal),
        tracking_id=tracking_identifier(vertebra, kind),
        display_color=segment_colour(vertebra),
    )
    if (probable := probable_text(vertebra)) is not None:
        described.SegmentDescription = probable
    return described


def segment_colour(vertebra: VertebraFinding) -> hd.color.CIELabColor:
    """Colour by grade, lighter and darker in turn, so that neighbours stay apart."""
    lightness = 0.62 if vertebra.ordinal % 2 else 0.45
    rgb = colorsys.hls_to_rgb(_GRADE_HUES[vertebra.grade], lightness, 0.75 if vertebra.grade is not None else 0.25)
    return hd.color.CIELabColor.from_rgb(*(round(255 * channel) for channel in rgb))


def _pin_dimensions(file: Dataset, uid: str) -> None:
    """The library draws a random UID for the dimension organization; a derived one keeps runs identical."""
    file.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for index in file.DimensionIndexSequence:
        index.DimensionOrganizationUID = uid
