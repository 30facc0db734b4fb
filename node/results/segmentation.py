"""``segmentation.dcm``: the six-point outlines as a binary segmentation on the source grid.

An outline is a few millimetres thick and says so in its label: it marks where was measured, it is no volume. The grid
is the source's own, because viewers refuse any other (Weasis #693, OHIF: rejected).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Protocol

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian

from inference.findings import Findings, Grade, VertebraFinding
from node.results import codes
from node.results.common import MANUFACTURER, new_file, stamp, stamp_lossy
from node.results.context import ResultContext, ResultError
from node.results.identity import Identity

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


def segment_numbers(outlines: NDArray[np.integer] | None, findings: Findings) -> dict[int, int]:
    """Ordinal of a vertebra to its segment number: consecutive from 1, vertebrae without a voxel left out."""
    if outlines is None:
        return {}
    present = set(np.unique(outlines[outlines > 0]).tolist())  # most of a volume is 0: looked at once, sorted never
    ordinals = [v.ordinal for v in findings.vertebrae]
    unknown = present - set(ordinals)
    if unknown:
        raise ResultError(f"the outlines hold the label {min(unknown)}, but no vertebra has this ordinal")
    return {ordinal: number for number, ordinal in enumerate((o for o in ordinals if o in present), start=1)}


def tracking_identifier(vertebra: VertebraFinding) -> str:
    """Human readable half of the tracking identity, the same in segmentation and reports."""
    return f"spine-node {vertebra.name}"


class SliceReference(Protocol):
    """What is needed of ``node.gate.volume.SliceReference``: the image behind one slice; ``frame`` counts from 1."""

    @property
    def sop_instance_uid(self) -> str: ...

    @property
    def frame(self) -> int | None: ...


def in_source_order(
    outlines: NDArray[np.uint8], source: Sequence[Dataset], references: Sequence[SliceReference] | None
) -> NDArray[np.uint8] | None:
    """The label map in the order of the source's own frames.

    Single-frame instances are already in the order of the slices. Of one multi-frame instance the slices are placed
    at their frames, which only ``references`` know: without them, or over several multi-frame instances, which one
    segmentation cannot refer to, the answer is ``None`` and there is no segmentation.

    Raises
    ------
    ResultError
        When outlines, headers and references do not belong together.
    """
    rows, columns = int(source[0].Rows), int(source[0].Columns)
    if outlines.shape[1:] != (rows, columns):
        raise ResultError(f"the outlines have the shape {outlines.shape}, the source images {rows} x {columns}")
    if references is not None and len(references) != len(outlines):
        raise ResultError(f"there are {len(outlines)} slices of outlines, but {len(references)} references")
    if any("PerFrameFunctionalGroupsSequence" in header for header in source):
        if references is None or len(source) > 1:
            return None
        frames = np.zeros((int(source[0].NumberOfFrames), rows, columns), np.uint8)
        for outline, reference in zip(outlines, references, strict=True):
            frames[(reference.frame or 1) - 1] = outline
        return frames
    if len(outlines) != len(source):
        raise ResultError(f"the outlines have the shape {outlines.shape}, the source series {len(source)} images")
    if references is not None and any(
        r.sop_instance_uid != h.SOPInstanceUID for r, h in zip(references, source, strict=True)
    ):
        raise ResultError("the slices of the outlines are not in the order of the source headers")
    return outlines


def build_segmentation(
    outlines: NDArray[np.uint8],
    source: Sequence[Dataset],
    findings: Findings,
    identity: Identity,
    ctx: ResultContext,
) -> FileDataset | None:
    """The outlines as a Segmentation (PS3.3 A.51), BINARY, frames without a voxel left out.

    Parameters
    ----------
    outlines
        (slices, rows, columns), the label is the ordinal of the vertebra; as `in_source_order` gives it.

    Returns ``None`` when no outline has a voxel.
    """
    numbers = segment_numbers(outlines, findings)
    if not numbers:
        return None
    table = np.zeros(256, np.uint8)
    for ordinal, number in numbers.items():
        table[ordinal] = number
    vertebrae = {v.ordinal: v for v in findings.vertebrae}
    built = hd.seg.Segmentation(
        source_images=_skeletons(source),
        pixel_array=table[outlines],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(vertebrae[ordinal], number, findings, identity, ctx) for ordinal, number in numbers.items()
        ],
        series_instance_uid=identity.series_uid("segmentation"),
        series_number=identity.series_number("segmentation"),
        sop_instance_uid=identity.instance_uid("segmentation"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=f"spine-node {ctx.pipeline}",
        software_versions=ctx.software_version,
        device_serial_number="-",
        content_label="OUTLINES",
        content_description="Six-point midline outlines, not volumes",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
    )
    file = new_file(built.SOPClassUID, built.SOPInstanceUID)
    for element in built:
        file[element.tag] = element
    stamp(file, "segmentation", source, findings, identity, ctx)
    file.SoftwareVersions = [ctx.software_version, f"{ctx.pipeline} {findings.pipeline_version}"]
    stamp_lossy(file, source)
    _pin_dimensions(file, identity.uid("segmentation:dimensions"))
    if "ContentCreatorName" not in file:
        file.ContentCreatorName = ""
    return file


def _skeletons(source: Sequence[Dataset]) -> list[Dataset]:
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


def _description(
    vertebra: VertebraFinding, number: int, findings: Findings, identity: Identity, ctx: ResultContext
) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{vertebra.name} midline outline, not a volume",
        segmented_property_category=codes.ANATOMICAL_STRUCTURE,
        segmented_property_type=codes.vertebra(vertebra.level),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"spine-node {ctx.pipeline}",
            version=findings.pipeline_version,
            family=codes.ARTIFICIAL_INTELLIGENCE,
        ),
        tracking_uid=identity.tracking_uid(vertebra.ordinal),
        tracking_id=tracking_identifier(vertebra),
        display_color=segment_colour(vertebra),
    )


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
