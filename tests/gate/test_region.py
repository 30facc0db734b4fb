"""Of which region radiographs are, by headers as consoles write them."""

from __future__ import annotations

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from inference.refusal import Outcome, RefusalCode
from node.gate import GatePolicy, choose
from node.gate.projection import lateral
from node.gate.region import Region, region
from tests.films import Film
from tests.gate.conftest import POLICY, FilmsOf

SPINE, CHEST, OTHER, UNKNOWN = Region.SPINE, Region.CHEST, Region.OTHER, Region.UNKNOWN


def said(part: str = "", series: str = "", study: str = "", policy: GatePolicy = POLICY) -> tuple[Region, str]:
    header = Dataset()
    with pydicom.config.disable_value_validation():
        header.BodyPartExamined, header.SeriesDescription, header.StudyDescription = part, series, study
    return region(header, policy)


@pytest.mark.parametrize("series", ["", "lat", "LAT ERECT", "seitlich", "Profil", "View 2", "lat spot, hips flexed"])
@pytest.mark.parametrize(
    "part",
    [
        "LSPINE",
        "TSPINE",
        "TLSPINE",
        "LSSPINE",
        "SPINE",
        "DSPINE",
        "L-SPINE",
        "T SPINE",
        "THORACOLUMBAR SPINE",
        "LUMBAR SPINE",
        "WHOLESPINE",
        "LWS",
        "Lendenwirbelsäule",
        "COLUMNA LUMBAR",
    ],
)
def test_body_parts_of_the_thoracic_and_lumbar_spine(part: str, series: str) -> None:
    assert said(part, series)[0] is SPINE


LATERAL_SPINES = [
    "L-SPINE LAT",
    "LSPINE LATERAL",
    "L Spine Lat.",
    "T-Spine lateral",
    "TL spine lat",
    "LS-SPINE LAT",
    "Lumbosacral spine lateral",
    "LUMBAR SPINE, LATERAL",
    "XR Thoracic Spine Lat",
    "LWS seitlich",
    "LWS seitl.",
    "BWS lat.",
    "BWS/LWS seitlich",
    "Brustwirbelsäule seitlich",
    "Lendenwirbelsäule lat.",
    "LWK 1 seitl.",
    "Columna lumbar lateral",
    "Columna dorsal lateral",
    "Columna dorsolumbar lat",
    "Col. dorsal perfil lateral",
    "Rachis lombaire profil",
    "Rachis dorsal profil",
    "Colonna lombare laterale",
    "Rachide lombosacrale laterale",
    "Colonna dorsale laterale",
    "Coluna lombar lateral",
    "Lumbale wervelkolom lateraal",
    "Lumbalrygg lateral",
    "Scoliosis lat",
    "Whole spine lateral",
    "Dorsal spine lateral",
    "L5/S1 lateral",
    "T4-12 lat",
    "Wirbelsäule seitlich",
    "HWS/BWS seitlich",
]


@pytest.mark.parametrize("words", LATERAL_SPINES)
@pytest.mark.parametrize("part", ["", "SPINE", "ABDOMEN", "PELVIS", "CHEST"])
def test_lateral_views_of_the_spine_in_many_languages(words: str, part: str) -> None:
    assert said(part, words)[0] is SPINE
    header = Dataset()
    header.SeriesDescription = words
    assert lateral(header) is True


OTHERS = [
    "HWS seitlich",
    "HWS seitl. Inklination",
    "Wirbelsäule HWS seitl",
    "C-Spine Lateral",
    "CSPINE LAT",
    "C SPINE LAT FLEXION",
    "Cervical spine lateral",
    "Spine cervical lat",
    "Cervical lat",
    "Columna cervical lateral",
    "Rachis cervical profil",
    "Colonna cervicale laterale",
    "Coluna cervical perfil",
    "Cervicothoracic swimmers lateral",
    "cervico-thoracic spine lat",
    "C1-C7 lateral",
    "C7/T1 swimmer's",
    "Dens lateral",
    "Halswirbelsäule seitl.",
    "Nekwervels lateraal",
    "Nackryggrad sida",
    "Hand dorsal",
    "Hand lateral",
    "Hand dorsovolar",
    "Mano dorsal",
    "Fuß dorsoplantar",
    "Vorfuß seitl.",
    "Foot lateral dorsal",
    "Pied profil",
    "Pie dorsal lateral",
    "Calcaneus lateral",
    "Sacrum lateral",
    "Sacrum/Coccyx lat",
    "Os sacrum seitlich",
    "Sakrum lateral",
    "Kreuzbein seitl.",
    "Steißbein seitlich",
    "Sacroiliac joints",
    "Coccyx profil",
    "Knie seitlich",
    "Knee lateral, tibial spine",
    "Schädel seitl.",
    "Skull lat",
    "Scapula spine lateral",
    "Pelvis, anterior iliac spine, hip lat",
    "Nasal spine lateral",
    "Ellenbogen seitlich",
    "Sprunggelenk seitlich",
]


@pytest.mark.parametrize("words", OTHERS)
@pytest.mark.parametrize("part", ["", "ABDOMEN", "CHEST"])
def test_neck_hand_foot_sacrum_and_head_are_other_regions(words: str, part: str) -> None:
    assert said(part, words)[0] is OTHER


@pytest.mark.parametrize(
    "part",
    [
        "CSPINE",
        "C-SPINE",
        "CERVICAL SPINE",
        "CTSPINE",
        "Cervical_Spine",
        "HWS",
        "NECK",
        "HAND",
        "HANDS",
        "LEFT HAND",
        "FOOT",
        "FEET",
        "TOE",
        "KNEE",
        "ANKLE",
        "WRIST",
        "SHOULDER",
        "SKULL",
        "SACRUM",
        "SSPINE",
        "COCCYX",
        "HIP",
        "EXTREMITY",
    ],
)
@pytest.mark.parametrize("series", ["", "lateral", "dorsal", "LWS seitl", "Thoracic spine lat", "Thorax lat"])
def test_a_code_of_another_region_counts_more_than_words(part: str, series: str) -> None:
    found, told_by = said(part, series)
    assert found is OTHER
    assert told_by.startswith("body part ")


@pytest.mark.parametrize(
    ("part", "series", "study", "expected"),
    [
        ("", "dorsal", "", UNKNOWN),  # of a hand, a foot or a spine: the pixels decide
        ("LSPINE", "sacrum in view", "", SPINE),
        ("LSPINE", "HWS seitl", "", OTHER),
        ("SPINE", "HWS seitl", "", OTHER),
        ("", "lat", "XR LUMBAR SPINE 2 VIEWS", SPINE),
        ("", "lat", "HWS und LWS in 2 Ebenen", UNKNOWN),  # of which of them?
        ("", "lat", "LWS und Knie rechts", UNKNOWN),
        ("", "LWS lat", "LWS und Knie rechts", SPINE),
        ("", "lat", "HWS in 2 Ebenen", OTHER),
        ("", "lat", "Hand dorsal und lat", OTHER),
        ("ABDOMEN", "lateral", "LWS in 2 Ebenen", SPINE),
        ("CHEST", "lateral", "LWS in 2 Ebenen", CHEST),
        ("CHEST", "lateral", "", CHEST),
        ("", "Thorax seitl", "", CHEST),
        ("", "Thorax seitl, BWS", "", UNKNOWN),
        ("LSPINE", "Thorax seitl", "", UNKNOWN),
        ("ABDOMEN", "lat", "", UNKNOWN),
        ("", "", "", UNKNOWN),
    ],
)
def test_where_codes_series_and_study_differ(part: str, series: str, study: str, expected: Region) -> None:
    assert said(part, series, study)[0] is expected


@pytest.mark.parametrize(
    ("value", "meaning", "expected"),
    [
        ("122496007", "", SPINE),
        ("T-11502", "", SPINE),
        ("421060004", "Spine", SPINE),
        ("122494005", "", OTHER),
        ("85562004", "", OTHER),
        ("816094009", "", CHEST),
        ("LOCAL1", "Lumbar spine", SPINE),
        ("LOCAL2", "Cervical spine", OTHER),
        ("818981001", "Abdomen", UNKNOWN),
    ],
)
def test_anatomic_regions_by_code_and_by_meaning(value: str, meaning: str, expected: Region) -> None:
    item, header = Dataset(), Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    header.AnatomicRegionSequence = Sequence([item])
    header.SeriesDescription = "lateral"
    assert region(header, POLICY)[0] is expected


def test_a_sites_own_rule_comes_first() -> None:
    policy = GatePolicy(site_spine_words=(r"unit 7",))
    assert said("HAND", study="Unit 7", policy=policy)[0] is SPINE


@pytest.mark.parametrize(
    ("film", "because"),
    [
        (Film(description="Cervical spine lat", body_part="SPINE"), "the description names the neck"),
        (Film(description="lat", body_part="CSPINE"), "body part CSPINE"),
        (Film(description="Hand dorsal lat", body_part=""), "the description names another region"),
    ],
)
def test_the_refusal_says_what_told_it(films_of: FilmsOf, film: Film, because: str) -> None:
    (decision,) = choose(films_of(film), POLICY)
    assert (decision.outcome, decision.refusal and decision.refusal.code) == (
        Outcome.NOT_ELIGIBLE,
        RefusalCode.NOT_A_LATERAL_SPINE,
    )
    assert decision.refusal is not None
    assert because in decision.refusal.sentence
