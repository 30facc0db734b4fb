"""Coded concepts of the results, and the project's own scheme 99SPINE.

A private code stands only where no standard one was found. The scheme is declared in every object that uses it
(CodingSchemeIdentificationSequence, PS3.3 C.12.1.1.1).
"""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from inference.findings import Grade, Level
from inference.grading import PUBLISHED_G

SCHEME = "99SPINE"
SCHEME_NAME = "spine-node codes"
SCHEME_VERSION = "1"
SCHEME_ORGANIZATION = "spine-node project"


def _concept(value: str, scheme: str, meaning: str) -> CodedConcept:
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def private(value: str, meaning: str) -> CodedConcept:
    """A concept of 99SPINE."""
    return _concept(value, SCHEME, meaning)


# Titles and containers
ENGLISH = _concept("en-US", "RFC5646", "English (United States)")
IMAGING_MEASUREMENT_REPORT = _concept("126000", "DCM", "Imaging Measurement Report")
DETAILS_TITLE = private("VFX000", "Vertebral Screening Details")
DIAGNOSTIC_IMAGING_REPORT = _concept("18748-4", "LN", "Diagnostic Imaging Report")
FINDINGS = _concept("121070", "DCM", "Findings")
CONCLUSIONS = _concept("121076", "DCM", "Conclusions")
CONCLUSION = _concept("121077", "DCM", "Conclusion")
FINDING = _concept("121071", "DCM", "Finding")
COMMENT = _concept("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = _concept("C0034375", "UMLS", "Qualitative Evaluations")
PROVENANCE = private("VFX060", "Provenance")
CAD_SUMMARY = _concept("111017", "DCM", "CAD Processing and Findings Summary")
NO_ALGORITHMS_SUCCEEDED = _concept("111245", "DCM", "No algorithms succeeded; without findings")
NOT_ALL_ALGORITHMS_SUCCEEDED = _concept("111244", "DCM", "Not all algorithms succeeded; with findings")
ALGORITHM_NAME = _concept("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = _concept("111003", "DCM", "Algorithm Version")
ARTIFICIAL_INTELLIGENCE = _concept("123110", "DCM", "Artificial Intelligence")
PROCESSING_EQUIPMENT = _concept("109102", "DCM", "Processing Equipment")
SOURCE_IMAGE = _concept("121322", "DCM", "Source image for image processing operation")
SOURCE_SERIES = _concept("121232", "DCM", "Source series for segmentation")

PROCEDURE_REPORTED = {
    "ct": _concept("25045-6", "LN", "CT unspecified body region"),
    "mr": _concept("25056-3", "LN", "MRI unspecified body region"),
    "radiograph": _concept("43468-8", "LN", "XR unspecified body region"),
}

# Rejection notes (PS3.16 CID 7011; IHE IOCM)
REJECTED_FOR_QUALITY = _concept("113001", "DCM", "Rejected for Quality Reasons")
REJECTED_FOR_PATIENT_SAFETY = _concept("113037", "DCM", "Rejected for Patient Safety Reasons")

# Segments and findings
ANATOMICAL_STRUCTURE = _concept("91723000", "SCT", "Anatomical Structure")
VERTEBRA = _concept("51282000", "SCT", "Vertebra")
VERTEBRAL_BODY = _concept("3572006", "SCT", "Vertebral body")

_WHOLE_VERTEBRA = {
    Level.C1: "14806007",
    Level.C2: "39976000",
    Level.C3: "113205007",
    Level.C4: "5329002",
    Level.C5: "36978003",
    Level.C6: "36054005",
    Level.C7: "87391001",
    Level.T1: "64864005",
    Level.T2: "53733008",
    Level.T3: "1626008",
    Level.T4: "73071006",
    Level.T5: "56401006",
    Level.T6: "45296009",
    Level.T7: "62487009",
    Level.T8: "11068009",
    Level.T9: "82687006",
    Level.T10: "7610001",
    Level.T11: "12989004",
    Level.T12: "23215003",
    Level.L1: "66794005",
    Level.L2: "14293000",
    Level.L3: "36470004",
    Level.L4: "11994002",
    Level.L5: "49668003",
}


def vertebra(level: Level | None) -> CodedConcept:
    """The whole vertebra of a level (CID 7602); a region where no code of the level is verified, never another level.

    T13 is "thoracic vertebra" and L6 "lumbar vertebra"; their names stand in labels and tracking identifiers.
    """
    if level is None:
        return VERTEBRA
    if level is Level.T13:
        return _concept("35769007", "SCT", "Thoracic vertebra")
    if level is Level.L6:
        return _concept("73903008", "SCT", "Lumbar vertebra")
    if level is Level.S1:
        return _concept("65985001", "SCT", "First sacral vertebra")
    return _concept(_WHOLE_VERTEBRA[level], "SCT", f"{level} vertebra")


_VERTEBRAL_BODY = {
    Level.C3: "91116008",
    Level.C4: "14705001",
    Level.C5: "67479001",
    Level.C6: "88298007",
    Level.C7: "16126006",
    Level.T1: "56094003",
    Level.T2: "50060007",
    Level.T3: "73138009",
    Level.T4: "86197001",
    Level.T5: "6105006",
    Level.T6: "45296009",
    Level.T7: "71737002",
    Level.T8: "77435000",
    Level.T9: "33766003",
    Level.T10: "48405002",
    Level.T11: "52120002",
    Level.T12: "280849005",
    Level.T13: "1186895000",
    Level.L1: "61032001",
    Level.L2: "53983007",
    Level.L3: "55492004",
    Level.L4: "71996003",
    Level.L5: "21799000",
}
"""From the value set of HL7 mCODE for radiotherapy; no context group of DICOM lists vertebral bodies."""


def vertebral_body(level: Level | None) -> CodedConcept:
    """The vertebral body of a level; "vertebral body" where no code of it is verified (C1, C2, L6, S1)."""
    if level not in _VERTEBRAL_BODY:
        return VERTEBRAL_BODY
    return _concept(_VERTEBRAL_BODY[level], "SCT", f"Body of {level} vertebra")


# Severity (SNOMED CT)
SEVERITY = _concept("246112005", "SCT", "Severity")
SEVERITIES = {
    Grade.NORMAL: _concept("17621005", "SCT", "Normal"),
    Grade.MILD: _concept("255604002", "SCT", "Mild"),
    Grade.MODERATE: _concept("6736007", "SCT", "Moderate"),
    Grade.SEVERE: _concept("24484000", "SCT", "Severe"),
}

# Measurements: (short meaning for viewers that draw it, full meaning)
HEIGHT_CODES = ("VFX001", "VFX002", "VFX003")
SHORT_HEIGHTS = tuple(private(c, m) for c, m in zip(HEIGHT_CODES, ("Ha", "Hm", "Hp"), strict=True))
HEIGHTS = tuple(
    private(code, f"{part} vertebral height")
    for code, part in zip(HEIGHT_CODES, ("Anterior", "Middle", "Posterior"), strict=True)
)
HEIGHT_UNCERTAINTY = private("VFX004", "Height uncertainty, one standard deviation")
HEIGHT_LOSSES = tuple(
    private(code, f"{part} height loss against neighbours")
    for code, part in zip(("VFX005", "VFX006", "VFX007"), ("Anterior", "Middle", "Posterior"), strict=True)
)
RELATIVE_CODES = ("VFX016", "VFX017", "VFX018")
SHORT_RELATIVE_HEIGHTS = tuple(private(c, m) for c, m in zip(RELATIVE_CODES, ("Ha/Hp", "Hm/Hp", "Hp/Hp"), strict=True))
RELATIVE_HEIGHTS = tuple(
    private(code, f"{part} height over posterior height")
    for code, part in zip(RELATIVE_CODES, ("Anterior", "Middle", "Posterior"), strict=True)
)
SHORT_COMPRESSION_RATIO = private("VFX012", "VCR")
COMPRESSION_RATIO = private("VFX012", "Compression ratio: anterior height lost against both neighbours")
HEIGHT_RATIO = private("VFX010", "Height ratio G, smallest to largest height")
RATIO_CATEGORY = private("VFX011", "Height ratio G against published cut-offs 0.8 and 0.74")
RATIO_ABOVE = private("VFX110", "G above 0.8")
RATIO_BETWEEN = private("VFX111", "G above 0.74 and at most 0.8")
RATIO_BELOW = private("VFX112", "G at most 0.74")
MASK_HEIGHTS = tuple(
    private(code, f"{part} height of the body mask")
    for code, part in zip(("VFX013", "VFX014", "VFX015"), ("Anterior", "Middle", "Posterior"), strict=True)
)
MASK_RELATIVE_HEIGHTS = tuple(
    private(code, f"{part} height of the body mask over its posterior height")
    for code, part in zip(("VFX019", "VFX028"), ("Anterior", "Middle"), strict=True)
)
EXPECTED_BODY = private("VFX026", "Vertebral body that the neighbours predict, not anatomy")
ABNORMALITY_SCORE = private("VFX020", "Abnormality score, 0 (as the neighbours predict) to 100")
VOLUME = _concept("118565006", "SCT", "Volume")
BODY_VOLUME = private("VFX023", "Volume of the vertebral body")
VOLUME_METHOD = private("VFX027", "Sum of the voxels of the segment")
ATTENUATION = _concept("112031", "DCM", "Attenuation Coefficient")
MEAN = _concept("373098007", "SCT", "Mean")
TRABECULAR_CORE = private("VFX025", "Ellipsoid of trabecular bone, off cortex and end plates")
CONFIDENCE = private("VFX021", "Detection confidence, 0 to 1")
LEVEL_CONFIDENCE = private("VFX022", "Level confidence, 0 to 1")
CENTROID = tuple(private(f"VFX03{i}", f"Body centre {axis}, LPS") for i, axis in enumerate("xyz", start=1))

# Statements
RULE = private("VFX040", "Grading rule")
QUALITY = private("VFX041", "Quality flag")
NOT_MEASURED = private("VFX042", "Seen but not measured")
ACQUISITION = private("VFX043", "Acquisition of the attenuation")
HOW_TO_READ = private("VFX044", "How to read the numbers")
PATIENT_FLAG = private("VFX050", "Vertebral height loss flag")
FLAG_RAISED = private("VFX150", "Flag: vertebral height loss, possible fracture")
FLAG_NOT_RAISED = private("VFX151", "No flag")
FLAG_NOT_GRADED = private("VFX152", "Not graded")
WORST_GRADE = private("VFX051", "Worst grade of the patient")
LIMITS = private("VFX052", "Limits of the finding")
SEEN = private("VFX053", "Vertebrae seen and measured")
NUMBERING = private("VFX054", "Numbering of levels")
USE = private("VFX055", "Permitted use")
REFUSAL_CODE = private("VFX056", "Reason code")
# Provenance
SOFTWARE = private("VFX061", "Software")
PIPELINE = private("VFX062", "Pipeline")
MODEL = private("VFX063", "Model")
PROVIDER = private("VFX064", "Execution provider")
CONFIGURATION_HASH = private("VFX065", "Configuration SHA-256")
INPUT_HASH = private("VFX066", "Input SHA-256")
SOURCE_SERIES_UID = private("VFX067", "Source series")
SOURCE_INSTANCES = private("VFX068", "Number of source instances")
SPACING = private("VFX069", "Slice spacing along the spine")
DATED = private("VFX077", "Date of the answer")
DURATION = private("VFX071", "Duration")
PARAMETER = private("VFX072", "Parameter")
REVISION = private("VFX073", "Revision of the answer")
ALGORITHM_UID = private("VFX074", "Device UID of the algorithm")
SITE = private("VFX075", "Site")
PIXEL_SIZE = private("VFX076", "Size of a pixel at the spine")

# Units (UCUM)
MILLIMETRE = _concept("mm", "UCUM", "mm")
NO_UNITS = _concept("1", "UCUM", "no units")
RATIO = _concept("{ratio}", "UCUM", "ratio")
"""Of ratios that viewers write beside a line: with the unit 1 they write "0.92 1", which reads like 0.921."""
PERCENT = _concept("%", "UCUM", "%")
SECOND = _concept("s", "UCUM", "s")
CUBIC_CENTIMETRE = _concept("cm3", "UCUM", "cm3")
HOUNSFIELD = _concept("[hnsf'U]", "UCUM", "Hounsfield unit")


def ratio_category(ratio: float) -> CodedConcept:
    """The height ratio G against the published cut-offs (Pisov et al. 2020, section 3: .8 and .74)."""
    upper, lower = PUBLISHED_G
    if ratio > upper:
        return RATIO_ABOVE
    return RATIO_BETWEEN if ratio > lower else RATIO_BELOW


def scheme_identification() -> Dataset:
    """One item of CodingSchemeIdentificationSequence: who 99SPINE belongs to."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = SCHEME_NAME
    item.CodingSchemeVersion = SCHEME_VERSION
    item.CodingSchemeResponsibleOrganization = SCHEME_ORGANIZATION
    return item


def code_item(concept: CodedConcept) -> Dataset:
    """The concept as a plain code sequence item (PS3.3 section 8)."""
    item = Dataset()
    item.CodeValue = concept.value
    item.CodingSchemeDesignator = concept.scheme_designator
    item.CodeMeaning = concept.meaning
    return item
