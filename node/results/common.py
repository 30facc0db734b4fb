"""Attributes that every object shares: patient and study copied verbatim, our series, equipment and one clock.

Nothing of the patient is ever re-typed: elements are copied as they are, in the source's character set, and our own
text is ASCII, which every character set contains. All dates are those of ``ResultContext.dated_at``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from inference.findings import Findings
from node.results import codes
from node.results.context import RADIOGRAPH, ResultContext
from node.results.identity import Identity
from node.results.wording import ascii_text

MANUFACTURER = "spine-node"
IMPLEMENTATION_CLASS_UID = "2.25.188246073951104326190412236127302943411"
IMPLEMENTATION_VERSION = "SPINE-NODE-1"
LONGEST_DESCRIPTION = 64
"""Characters of an LO (PS3.5 6.2): what is longer breaks the rules, and must not fill our pages."""

_TEXT = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
"""Value representations whose text depends on SpecificCharacterSet (PS3.5 6.1.2.3)."""

_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
"""Must be there, may be empty (PS3.3 C.7.1.1, C.7.2.1)."""

_COPIED = (
    *_TYPE_2,
    # Patient (C.7.1.1)
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthTime",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "QualityControlSubject",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    # General Study (C.7.2.1)
    "StudyInstanceUID",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "RequestingServiceCodeSequence",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
    # Patient Study (C.7.2.2)
    "AdmittingDiagnosesDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "Occupation",
    "AdditionalPatientHistory",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ServiceEpisodeDescription",
    "PatientState",
    # Clinical Trial Subject and Study (C.7.1.3, C.7.2.3)
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)


def new_file(sop_class_uid: str, sop_instance_uid: str) -> FileDataset:
    """An empty object in Explicit VR Little Endian with its file meta information."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    file = FileDataset("", {}, file_meta=meta, preamble=b"\x00" * 128)
    file.SOPClassUID = sop_class_uid
    file.SOPInstanceUID = sop_instance_uid
    return file


def source_zone(source: Dataset) -> timezone | None:
    """The zone in which the source states its times (TimezoneOffsetFromUTC, C.12.1), ``None`` if it does not say."""
    match = re.fullmatch(r"([+-])(\d\d)(\d\d)", str(source.get("TimezoneOffsetFromUTC", "") or "").strip())
    if match is None:
        return None
    sign = -1 if match[1] == "-" else 1
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(sign * offset) if offset < timedelta(hours=24) else None


def local_date(source: Dataset, context: ResultContext) -> datetime:
    """Date and time of the answer on the source's own clock, or on the node's where the source names none."""
    zone = source_zone(source)
    return context.dated_at.astimezone(zone) if zone is not None else context.dated_at


def stamp(
    result: FileDataset,
    kind: str,
    source: Sequence[Dataset],
    findings: Findings,
    identity: Identity,
    ctx: ResultContext,
) -> None:
    """Write every shared attribute into a result, over whatever a library put there.

    Parameters
    ----------
    kind
        Key of ``identity.SERIES_OFFSETS``.
    source
        Headers of the analysed series; the first one gives patient and study.
    """
    first = source[0]
    copy_patient_and_study(result, first)
    dated = local_date(first, ctx)
    date, time = dated.strftime("%Y%m%d"), dated.strftime("%H%M%S")
    for event in ("InstanceCreation", "Content", "Series"):
        setattr(result, f"{event}Date", date)
        setattr(result, f"{event}Time", time)

    result.SeriesInstanceUID = identity.series_uid(kind)
    result.SeriesNumber = identity.series_number(kind)
    result.SeriesDescription = identity.series_description(kind)
    result.InstanceNumber = 1 if "InstanceNumber" not in result else result.InstanceNumber

    result.BodyPartExamined = "SPINE"  # unpaired: without it Laterality would be required

    result.Manufacturer = MANUFACTURER
    result.ManufacturerModelName = f"spine-node {ctx.pipeline}"
    result.SoftwareVersions = [ctx.software_version, f"{ctx.pipeline} {findings.pipeline_version}"]
    result.DeviceSerialNumber = ascii_text(ctx.device_serial)[:64]
    result.DeviceUID = ctx.device_uid
    result.InstanceCreatorUID = ctx.device_uid
    result.ContentQualification = "RESEARCH"
    result.ContributingEquipmentSequence = [_equipment(findings, identity, ctx)]


def copy_patient_and_study(result: Dataset, source: Dataset) -> None:
    """Patient, study, character set and time zone as the source has them; what it has not is empty or left out."""
    for keyword in _COPIED:
        if keyword in source:
            result[keyword] = copy.deepcopy(source[keyword])
        elif keyword in _TYPE_2:
            setattr(result, keyword, "")
        elif keyword in result:
            del result[keyword]
    _set_character_set(result, source)
    if source_zone(source) is not None:
        _copy_or_drop(result, source, "TimezoneOffsetFromUTC")


def _set_character_set(result: Dataset, source: Dataset) -> None:
    """The source's character set with the source's names; a lawful one where the source's is not.

    A source that names none although its text is not ASCII is read as Latin-1 everywhere, so Latin-1 is declared and
    the bytes stay as they are. Text under an unknown name of a character set is written in UTF-8.
    """
    declared = source.get("SpecificCharacterSet")
    names = [declared] if isinstance(declared, str) else list(declared or [])
    if "SpecificCharacterSet" in result:
        del result.SpecificCharacterSet
    if not any(names):
        if any(not str(element.value).isascii() for element in result.iterall() if element.VR in _TEXT):
            result.SpecificCharacterSet = "ISO_IR 100"
    elif all(str(name) in python_encoding for name in names):
        result.SpecificCharacterSet = declared
    else:
        result.SpecificCharacterSet = "ISO_IR 192"


def _copy_or_drop(result: Dataset, source: Dataset, keyword: str) -> None:
    if source.get(keyword):
        result[keyword] = copy.deepcopy(source[keyword])
    elif keyword in result:
        del result[keyword]


def _equipment(findings: Findings, identity: Identity, ctx: ResultContext) -> Dataset:
    """The algorithm as contributing equipment (C.12.1): its DeviceUID changes with every version and model."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [codes.code_item(codes.PROCESSING_EQUIPMENT)]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = f"spine-node {ctx.pipeline}"
    item.SoftwareVersions = [
        ctx.software_version,
        f"{ctx.pipeline} {findings.pipeline_version}",
        *(f"{m.name} {m.version}"[:64] for m in findings.models),
    ]
    item.DeviceSerialNumber = ascii_text(ctx.device_serial)[:64]
    item.DeviceUID = identity.algorithm_uid()
    item.ContributionDescription = "Opportunistic screening for vertebral height loss. Research use only."
    return item


def stamp_lossy(result: Dataset, source: Iterable[Dataset]) -> None:
    """State whether the pixels ever went through lossy compression (C.7.6.1.1.5): a source's loss is never undone."""
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in result:
            del result[keyword]
    lossy = [header for header in source if str(header.get("LossyImageCompression", "")) == "01"]
    result.LossyImageCompression = "01" if lossy else "00"
    if lossy:
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            telling = next((header for header in lossy if header.get(keyword)), None)
            if telling is not None:
                result[keyword] = copy.deepcopy(telling[keyword])


def source_references(source: Sequence[Dataset]) -> list[Dataset]:
    """SourceImageSequence items, one per source instance, in the given order."""
    items = []
    for header in source:
        item = Dataset()
        item.ReferencedSOPClassUID = header.SOPClassUID
        item.ReferencedSOPInstanceUID = header.SOPInstanceUID
        item.PurposeOfReferenceCodeSequence = [codes.code_item(codes.SOURCE_IMAGE)]
        items.append(item)
    return items


def referenced_series(source: Sequence[Dataset]) -> list[Dataset]:
    """ReferencedSeriesSequence of the Common Instance Reference module (C.12.2): one series, every instance."""
    series = Dataset()
    series.SeriesInstanceUID = source[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = []
    for header in source:
        item = Dataset()
        item.ReferencedSOPClassUID = header.SOPClassUID
        item.ReferencedSOPInstanceUID = header.SOPInstanceUID
        series.ReferencedInstanceSequence.append(item)
    return [series]


def source_text(source: Dataset, ctx: ResultContext | None = None) -> str:
    """Number and description of the source series in ASCII, cut where it is too long: "series 3, THORAX 1.0 B30f".

    Where the context is that of a radiograph, the image's number too: "series 1, image 2, LWS seitl.".
    """
    number = source.get("SeriesNumber")
    description = " ".join(str(source.get("SeriesDescription", "") or "")[:LONGEST_DESCRIPTION].split())
    named = f"series {number}" if number is not None and str(number) != "" else "series without a number"
    if ctx is not None and ctx.pipeline == RADIOGRAPH:
        image = source.get("InstanceNumber")
        named += f", image {image}" if image is not None and str(image) != "" else ", image without a number"
    return f"{named}, {ascii_text(description)}" if description else named
