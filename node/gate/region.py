"""Of which region a radiograph is, as far as its header says: thoracic and lumbar spine, chest, or something else.

Codes (Body Part Examined, Anatomic Region) count more than words. Words of a spine in general ("spine", "Wirbelsäule")
say nothing beside those of the neck, since films of the neck are not answered; those of the thoracic or lumbar spine
do. "Dorsal" alone is no word of the spine: hands and feet are dorsal, too. A sacrum or coccyx alone is another region.
"""

from __future__ import annotations

import re
from enum import StrEnum

from pydicom.dataset import Dataset

from node.gate.policy import GatePolicy
from node.gate.values import items, plain, text


class Region(StrEnum):
    """What a radiograph is of, as far as its header says."""

    SPINE = "spine"
    CHEST = "chest"
    OTHER = "other"
    UNKNOWN = "unknown"


OF_THE_IMAGE = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
OF_THE_STUDY = ("StudyDescription", "RequestedProcedureDescription", "PerformedProcedureStepDescription")

SPINE_CODES = frozenset(
    """421060004 122495006 122496007 1217256009 1217253001 110517009 T-D04FF T-11502 T-11503""".split()  # noqa: SIM905
)
CHEST_CODES = frozenset("816094009 51185008 113197003 56873002 80891009 T-D3000".split())  # noqa: SIM905
OTHER_CODES = frozenset(
    # neck and neck to thorax, sacrum, coccyx, sacroiliac joint; head, limbs and their joints
    """122494005 1217257000 45048000 774007 T-11501 54735007 64688005 1217254007 39723000 T-11AD0 T-11BF0
    89546000 69536005 91397008 91609006 661005 70925003 53620006 T-11100
    53120007 85562004 7569003 76505004 74670003 14975008 16953009 40983000 85050009 16982005 51299004 79601000
    61685007 56459004 29707007 80144004 70258002 30021000 72696002 64234005 71341001 68367000 29836001 24136001
    66019005 76752008 T-D8700 T-D9700""".split()  # noqa: SIM905
)
"""CID 4009 and 4031 (SNOMED CT), the commonest as SNOMED-RT identifiers, too. Abdomen and pelvis say nothing."""


def region(dataset: Dataset, policy: GatePolicy) -> tuple[Region, str]:
    """The region, and what told it.

    In this order: a site's own rule; a code of another region; words of the neck or of another region; a code of the
    spine; words of the series; a code of the chest; words of the study. Abdomen and chest as codes give way to words of
    the spine, because consoles without a better code use them; a code of the spine beside words of the chest says
    nothing.
    """
    body_part = text(dataset, "BodyPartExamined")
    own = " | ".join(text(dataset, keyword) for keyword in OF_THE_IMAGE)
    study = " | ".join(text(dataset, keyword) for keyword in OF_THE_STUDY)
    letters = re.sub(r"[^A-Z]", "", body_part.upper())
    site = " | ".join((letters, own, study))
    if any(re.search(pattern, site, re.IGNORECASE) for pattern in policy.site_spine_words):
        return Region.SPINE, "site's own rule"
    by_code, code = _by_codes(dataset, body_part, policy)
    if by_code is Region.OTHER:
        return Region.OTHER, code
    by_words, words = _by_words(own, policy)
    if by_code is Region.SPINE and words != NECK:
        return (Region.UNKNOWN, "") if by_words is Region.CHEST else (Region.SPINE, code)
    if by_words is not Region.UNKNOWN:
        return by_words, words
    return (by_code, code) if by_code is Region.CHEST else _of_study(study, policy)


def _of_study(study: str, policy: GatePolicy) -> tuple[Region, str]:
    """What the words of the study say; of one of the spine and another region nobody knows which an image shows."""
    said, _ = _by_words(study, policy)
    mixed = said is Region.SPINE and re.search(f"{policy.film_neck_words}|{policy.film_other_words}", plain(study))
    return (Region.UNKNOWN, "") if mixed else (said, "study description")


def _by_codes(dataset: Dataset, body_part: str, policy: GatePolicy) -> tuple[Region, str]:
    """What body part and anatomic regions say together, and in which words; another region counts most."""
    said = [(_of_part(body_part, policy), f"body part {_quotable(body_part)}")] if body_part else []
    for item in items(dataset, "AnatomicRegionSequence"):
        meaning = text(item, "CodeMeaning")
        said.append((_of_code(text(item, "CodeValue"), meaning, policy), f"anatomic region {_quotable(meaning)}"))
    for wanted in (Region.OTHER, Region.SPINE, Region.CHEST):
        for found, told_by in said:
            if found is wanted:
                return found, told_by
    return Region.UNKNOWN, ""


def _of_part(body_part: str, policy: GatePolicy) -> Region:
    """Of Body Part Examined: a code, or free text in its place."""
    letters = re.sub(r"[^A-Z]", "", body_part.upper())
    if letters in policy.film_spine_parts:
        return Region.SPINE
    if letters in policy.film_chest_parts:
        return Region.CHEST
    if letters in policy.film_other_parts:
        return Region.OTHER
    return _by_words(body_part, policy)[0]


def _of_code(value: str, meaning: str, policy: GatePolicy) -> Region:
    for codes, found in ((SPINE_CODES, Region.SPINE), (CHEST_CODES, Region.CHEST), (OTHER_CODES, Region.OTHER)):
        if value in codes:
            return found
    return _by_words(meaning, policy)[0]


NECK, ELSEWHERE = "the description names the neck", "the description names another region"


def _by_words(words: str, policy: GatePolicy) -> tuple[Region, str]:
    """What a description says. Words of the thoracic or lumbar spine outweigh the others, but for those of the chest;
    words of a spine in general do not."""
    said = plain(words)
    rest = re.sub(policy.film_neck_words, " ", said)
    neck = rest != said
    level = re.search(policy.film_level_words, rest) is not None
    chest = re.search(policy.film_chest_words, rest) is not None
    elsewhere = re.search(policy.film_other_words, rest) is not None
    if level:
        return (Region.UNKNOWN, "") if chest else (Region.SPINE, "description")
    if neck:
        return Region.OTHER, NECK
    if elsewhere:
        return Region.OTHER, ELSEWHERE
    spine = re.search(policy.film_spine_words, re.sub(policy.film_spurious_spines, " ", rest)) is not None
    if spine and chest:
        return Region.UNKNOWN, ""
    if spine or chest:
        return (Region.SPINE if spine else Region.CHEST), "description"
    return Region.UNKNOWN, ""


def _quotable(value: str) -> str:
    """A code or its meaning as a sentence may quote it: letters, digits and single spaces."""
    return " ".join(re.sub(r"[^A-Za-z0-9]+", " ", value).split())[:24]
