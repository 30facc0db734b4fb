"""Every reason why something was not analysed, in one enumeration, each with the sentence a person reads.

A refusal is never a DIMSE status: what arrives is stored whatever it contains, and the reason stands in the ledger.
Three outcomes use these codes: *not eligible* and *not chosen* stay in the ledger; *not evaluable* is
sent to the PACS where a spine was expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a series."""

    NOT_ELIGIBLE = "not_eligible"
    NOT_CHOSEN = "not_chosen"
    ANSWERED = "answered"


class RefusalCode(StrEnum):
    """One member per reason. The value is what stands in the ledger, in findings.json and in the SR."""

    # wrong object: not eligible
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    UNSUPPORTED_MODALITY = "UNSUPPORTED_MODALITY"
    OWN_RESULT = "OWN_RESULT"
    LOCALIZER = "LOCALIZER"
    DERIVED_IMAGE = "DERIVED_IMAGE"
    REFORMATTED = "REFORMATTED"
    SCREEN_CAPTURE = "SCREEN_CAPTURE"
    COLOUR_IMAGE = "COLOUR_IMAGE"
    TOO_FEW_IMAGES = "TOO_FEW_IMAGES"
    NOT_AXIAL = "NOT_AXIAL"
    SECONDARY_IMAGE = "SECONDARY_IMAGE"
    SEVERAL_FRAMES = "SEVERAL_FRAMES"
    NOT_A_LATERAL_SPINE = "NOT_A_LATERAL_SPINE"
    CHEST_FILM = "CHEST_FILM"
    FOR_PROCESSING_TWIN = "FOR_PROCESSING_TWIN"
    FOR_PROCESSING_ONLY = "FOR_PROCESSING_ONLY"
    NOT_INSTALLED = "NOT_INSTALLED"
    PATIENT_MISMATCH = "PATIENT_MISMATCH"
    NO_PATIENT_ID = "NO_PATIENT_ID"
    MISSING_IDENTIFIERS = "MISSING_IDENTIFIERS"
    UNREADABLE = "UNREADABLE"
    IMAGES_DELETED = "IMAGES_DELETED"
    TOO_MANY_IMAGES = "TOO_MANY_IMAGES"
    # a better series of the same study
    BETTER_SERIES = "BETTER_SERIES"
    # answered: not evaluable
    GAP_IN_SERIES = "GAP_IN_SERIES"
    UNEVEN_SPACING = "UNEVEN_SPACING"
    SLICES_TOO_THICK = "SLICES_TOO_THICK"
    DUPLICATE_POSITIONS = "DUPLICATE_POSITIONS"
    GANTRY_TILT = "GANTRY_TILT"
    MIXED_ORIENTATION = "MIXED_ORIENTATION"
    INVALID_ORIENTATION = "INVALID_ORIENTATION"
    MIXED_GEOMETRY = "MIXED_GEOMETRY"
    MISSING_GEOMETRY = "MISSING_GEOMETRY"
    SEVERAL_FRAMES_OF_REFERENCE = "SEVERAL_FRAMES_OF_REFERENCE"
    NO_FRAME_OF_REFERENCE = "NO_FRAME_OF_REFERENCE"
    NOT_HOUNSFIELD = "NOT_HOUNSFIELD"
    PIXELS_UNREADABLE = "PIXELS_UNREADABLE"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    PIXEL_ASPECT = "PIXEL_ASPECT"
    AGE_BELOW_18 = "AGE_BELOW_18"
    NO_SPINE_FOUND = "NO_SPINE_FOUND"
    SEVERAL_PEOPLE = "SEVERAL_PEOPLE"
    TOO_LITTLE_SPINE = "TOO_LITTLE_SPINE"
    NO_VERTEBRA_FOUND = "NO_VERTEBRA_FOUND"
    MODEL_FAILED = "MODEL_FAILED"


SENTENCES: dict[RefusalCode, str] = {
    RefusalCode.NOT_AN_IMAGE: "This object holds no image (for example a report, a structure set or a document).",
    RefusalCode.UNSUPPORTED_MODALITY: "Images of this modality are not analysed here.",
    RefusalCode.OWN_RESULT: "This object is a result of this software; it is never analysed again.",
    RefusalCode.LOCALIZER: "This is a localizer (scout) image.",
    RefusalCode.DERIVED_IMAGE: "This image was computed from other images (ImageType value 1 is DERIVED).",
    RefusalCode.REFORMATTED: "This is a reformation or projection (MPR or MIP) of another series.",
    RefusalCode.SCREEN_CAPTURE: "This is a secondary capture of a screen.",
    RefusalCode.COLOUR_IMAGE: "This is a colour image; only grey-scale images carry attenuation values.",
    RefusalCode.TOO_FEW_IMAGES: "The series has too few images to hold a spine.",
    RefusalCode.NOT_AXIAL: "The images of this series are not axial.",
    RefusalCode.SECONDARY_IMAGE: (
        "This radiograph was made from another image, not by an exposure (ImageType value 2 is SECONDARY)."
    ),
    RefusalCode.SEVERAL_FRAMES: "This is a series of exposures (several frames); only single radiographs are analysed.",
    RefusalCode.NOT_A_LATERAL_SPINE: "This is not a lateral view of the thoracic or lumbar spine.",
    RefusalCode.CHEST_FILM: "This is a chest radiograph.",
    RefusalCode.FOR_PROCESSING_TWIN: (
        "This is the detector's own image; the same exposure was sent as it is read, and that image is analysed."
    ),
    RefusalCode.FOR_PROCESSING_ONLY: (
        "This is the detector's own image, not processed for reading; the image that is read was not received."
    ),
    RefusalCode.NOT_INSTALLED: "The networks that analyse images of this kind are not installed here.",
    RefusalCode.PATIENT_MISMATCH: "Images of one study carry different patient IDs; nothing was analysed.",
    RefusalCode.NO_PATIENT_ID: "The images carry no patient ID, so a result could not be filed safely.",
    RefusalCode.MISSING_IDENTIFIERS: "A study, series or instance UID is missing or malformed: no result can name it.",
    RefusalCode.UNREADABLE: "The object could not be read as DICOM.",
    RefusalCode.IMAGES_DELETED: (
        "Earlier images of this series were deleted after their retention; send the whole series again."
    ),
    RefusalCode.TOO_MANY_IMAGES: "The study has more images than this software takes; nothing of it was analysed.",
    RefusalCode.BETTER_SERIES: "Another series of this study suits the analysis better and was chosen instead.",
    RefusalCode.GAP_IN_SERIES: "Slices are missing inside the series.",
    RefusalCode.UNEVEN_SPACING: "The distance between slices is not constant.",
    RefusalCode.SLICES_TOO_THICK: "The distance between slices is too large to evaluate the spine.",
    RefusalCode.DUPLICATE_POSITIONS: "Several images lie at the same position and could not be told apart.",
    RefusalCode.GANTRY_TILT: "The slices are sheared against their normal (gantry tilt).",
    RefusalCode.MIXED_ORIENTATION: "The images of this series have different orientations.",
    RefusalCode.INVALID_ORIENTATION: "The image orientation is not a pair of perpendicular unit vectors.",
    RefusalCode.MIXED_GEOMETRY: "The images of this series differ in size or pixel spacing.",
    RefusalCode.MISSING_GEOMETRY: "Position, orientation or pixel spacing is missing from an image.",
    RefusalCode.SEVERAL_FRAMES_OF_REFERENCE: "The images of this series use different frames of reference.",
    RefusalCode.NO_FRAME_OF_REFERENCE: "The images carry no frame of reference, so a segmentation cannot be placed.",
    RefusalCode.NOT_HOUNSFIELD: "The pixel values cannot be converted to Hounsfield units.",
    RefusalCode.PIXELS_UNREADABLE: "The pixel data of an image could not be decoded.",
    RefusalCode.IMAGE_TOO_LARGE: "The image has more pixels than this node analyses.",
    RefusalCode.PIXEL_ASPECT: "The pixels are declared as more than twice as high as wide, or as wide as high.",
    RefusalCode.AGE_BELOW_18: "The patient is younger than 18 years; unfused vertebrae are not evaluated.",
    RefusalCode.NO_SPINE_FOUND: "No spine was found in the images.",
    RefusalCode.SEVERAL_PEOPLE: "More than one person seems to lie in the images.",
    RefusalCode.TOO_LITTLE_SPINE: "Too short a part of the spine is in the field of view.",
    RefusalCode.NO_VERTEBRA_FOUND: "A spine was found, but no whole vertebra could be measured on it.",
    RefusalCode.MODEL_FAILED: "The analysis stopped with an internal error; the node's log has the details.",
}


@dataclass(frozen=True)
class Refusal:
    """Why something was not analysed.

    Attributes
    ----------
    code
        Machine-readable reason.
    detail
        What was seen in this very case (numbers, positions), in plain English and without patient data; may be empty.
    """

    code: RefusalCode
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The fixed sentence of the code, followed by the detail of this case."""
        return f"{SENTENCES[self.code]} {self.detail}".strip()
