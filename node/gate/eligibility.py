"""Which images are worth looking at: the wrong object, scouts, reformations, screen shots and our own results are not.

Decided per image, because localizers hide inside ordinary series. The refusals of this module mean *not eligible*:
they stand in the ledger and nothing is sent.
"""
# ruff: noqa: SIM905 - word lists read better as words than as quoted literals

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset

from inference.refusal import Refusal, RefusalCode
from node.gate.headers import ENHANCED_CT, ImageHeader, InstanceHeader, has_valid_identifiers
from node.gate.policy import GatePolicy
from node.gate.values import integer, items, text

CT_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.2"}) | ENHANCED_CT
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage; its multi-frame classes have one more component."""

NOT_ELIGIBLE = frozenset(
    {
        RefusalCode.NOT_AN_IMAGE,
        RefusalCode.UNSUPPORTED_MODALITY,
        RefusalCode.OWN_RESULT,
        RefusalCode.LOCALIZER,
        RefusalCode.DERIVED_IMAGE,
        RefusalCode.REFORMATTED,
        RefusalCode.SCREEN_CAPTURE,
        RefusalCode.COLOUR_IMAGE,
        RefusalCode.TOO_FEW_IMAGES,
        RefusalCode.NOT_AXIAL,
        RefusalCode.SECONDARY_IMAGE,
        RefusalCode.SEVERAL_FRAMES,
        RefusalCode.NOT_A_LATERAL_SPINE,
        RefusalCode.CHEST_FILM,
        RefusalCode.FOR_PROCESSING_TWIN,
        RefusalCode.FOR_PROCESSING_ONLY,
        RefusalCode.NOT_INSTALLED,
        RefusalCode.PATIENT_MISMATCH,
        RefusalCode.NO_PATIENT_ID,
        RefusalCode.MISSING_IDENTIFIERS,
        RefusalCode.UNREADABLE,
        RefusalCode.TOO_MANY_IMAGES,
    }
)
"""Codes that keep a series in the ledger; every other code is an answer (not evaluable)."""

_REFORMATTED = frozenset(
    "REFORMATTED MPR MPR3D MIP MINIP MAX_IP MIN_IP MAXIP PROJECTION VRT VR SSD CURVED CPR RESAMPLED MPVR".split()
)
_SCREEN = frozenset("SCREEN SCREENSAVE SCREENSHOT SECONDARYCAPTURE".split())


def is_own_result(header: InstanceHeader, policy: GatePolicy) -> bool:
    """Whether an object is one of ours, also after an archive gave it new UIDs.

    Known by manufacturer, by the equipment that contributed to it, by the UID of its creator, and by the fixed
    beginning of our series descriptions.
    """
    dataset = header.dataset
    ours = {name.casefold() for name in policy.own_manufacturers}
    makers = [text(dataset, "Manufacturer")]
    makers += [text(i, "Manufacturer") for i in items(dataset, "ContributingEquipmentSequence")]
    return (
        any(maker.casefold() in ours for maker in makers)
        or text(dataset, "InstanceCreatorUID") in policy.own_creator_uids
        or re.search(policy.own_description, text(dataset, "SeriesDescription"), re.IGNORECASE) is not None
    )


def instance_refusal(header: InstanceHeader, policy: GatePolicy) -> Refusal | None:
    """Why none of the images of an instance can be used, or ``None``."""
    dataset = header.dataset
    code: RefusalCode | None = None
    detail = ""
    if is_own_result(header, policy):
        code = RefusalCode.OWN_RESULT
    elif not header.images:
        code = RefusalCode.NOT_AN_IMAGE
    elif header.sop_class_uid.startswith(SECONDARY_CAPTURE) and header.sop_class_uid not in CT_CLASSES:
        code = RefusalCode.SCREEN_CAPTURE
    elif header.modality not in ("CT", "") or (header.sop_class_uid and header.sop_class_uid not in CT_CLASSES):
        code, detail = RefusalCode.UNSUPPORTED_MODALITY, f"(Modality {quotable(header.modality)}.)"
    elif not header.modality and not header.sop_class_uid:
        code, detail = RefusalCode.UNSUPPORTED_MODALITY, "(Modality and SOP class are missing.)"
    elif (integer(dataset, "SamplesPerPixel") or 1) != 1 or not is_grey(dataset):
        code = RefusalCode.COLOUR_IMAGE
    elif integer(dataset, "BitsAllocated") == 8 or text(dataset, "BurnedInAnnotation").upper() == "YES":
        code = RefusalCode.SCREEN_CAPTURE
    elif not has_valid_identifiers(header):
        code = RefusalCode.MISSING_IDENTIFIERS
    return Refusal(code, detail) if code else None


def quotable(value: str) -> str:
    """A short code string as it may be quoted: capitals and digits only."""
    return re.sub(r"[^A-Z0-9]", "", value.upper())[:16] or "unknown"


def is_grey(dataset: Dataset) -> bool:
    """Whether the photometric interpretation, where there is one, is that of a grey-scale image."""
    return text(dataset, "PhotometricInterpretation").upper() in ("", "MONOCHROME1", "MONOCHROME2")


def says_screen(image_type: Iterable[str]) -> bool:
    """Whether Image Type, in capitals, says that this is a picture of a screen."""
    return not _SCREEN.isdisjoint(word for value in image_type for word in (value, *re.split(r"[ _]+", value)))


def image_refusal(header: InstanceHeader, image: ImageHeader, policy: GatePolicy) -> Refusal | None:
    """Why one image of a usable instance cannot be used, or ``None`` (Image Type: PS3.3 C.7.6.1.1.2, C.8.2.1.1.1)."""
    words = {word for value in image.image_type for word in (value, *re.split(r"[ _]+", value))}
    description = text(header.dataset, "SeriesDescription")
    code: RefusalCode | None = None
    if "LOCALIZER" in words or "SCOUT" in words:
        code = RefusalCode.LOCALIZER
    elif says_screen(image.image_type):
        code = RefusalCode.SCREEN_CAPTURE
    elif words & _REFORMATTED or any(re.search(p, description, re.IGNORECASE) for p in policy.projection_words):
        code = RefusalCode.REFORMATTED
    elif image.image_type[:1] == ("DERIVED",):
        code = RefusalCode.DERIVED_IMAGE
    return Refusal(code) if code else None


def commonest(refusals: Iterable[Refusal]) -> Refusal | None:
    """The refusal that most images share; among equals the one declared first. ``None`` for no refusal at all."""
    counts = Counter(refusals)
    if not counts:
        return None
    order: Sequence[RefusalCode] = list(RefusalCode)
    return min(counts, key=lambda r: (-counts[r], order.index(r.code), r.detail))


def patient_refusal(headers: Sequence[InstanceHeader], policy: GatePolicy) -> Refusal | None:
    """Why nothing of one study may be answered: no patient ID, or more than one.

    Compared over all objects of the study that are not ours (an archive may have corrected the patient before ours
    came back). An empty ID beside a filled one is a mismatch: nobody knows whose image that is.
    """
    patients = {text(h.dataset, "PatientID") for h in headers if not is_own_result(h, policy)}
    if len(patients) > 1:
        return Refusal(RefusalCode.PATIENT_MISMATCH, f"({len(patients)} different values in this study.)")
    return Refusal(RefusalCode.NO_PATIENT_ID) if patients == {""} else None
