"""What headers of radiographs say: millimetres honestly, the view, the region."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.gate.projection import aspect, lateral, orientation, pixel_size


def header(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def coded(value: str, meaning: str = "") -> Sequence:
    return Sequence([header(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)])


# millimetres


@pytest.mark.parametrize(
    ("values", "expected", "said"),
    [
        pytest.param(
            {"PixelSpacing": [0.12, 0.12], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.12, 0.12),
            "calibrated (fiducial)",
            id="calibrated by its type",
        ),
        pytest.param(
            {"PixelSpacing": [0.12, 0.12], "ImagerPixelSpacing": [0.143, 0.143]},
            (0.12, 0.12),
            "the detector's is 1.192 times as large",
            id="corrected: differs from the detector's by a magnification",
        ),
        pytest.param(
            {
                "PixelSpacing": [0.14, 0.14],
                "ImagerPixelSpacing": [0.14, 0.14],
                "PixelSpacingCalibrationType": "FIDUCIAL",
            },
            (0.14, 0.14),
            "calibrated (fiducial)",
            id="its type counts more than the detector's spacing",
        ),
        pytest.param(
            {
                "PixelSpacing": [0.12, 0.12],
                "ImagerPixelSpacing": [0.143, 0.143],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            (0.12, 0.12),
            "calibrated (geometry)",
            id="by geometry, and corrected",
        ),
        pytest.param(
            {
                "PixelSpacing": [0.14, 0.14],
                "ImagerPixelSpacing": [0.14, 0.14],
                "PixelSpacingCalibrationType": "GEOMETRY",
                "EstimatedRadiographicMagnificationFactor": 1.25,
            },
            (0.112, 0.112),
            "Estimated Radiographic Magnification Factor",
            id="by geometry, and yet the detector's: the factor tells",
        ),
        pytest.param(
            {"ImagerPixelSpacing": [0.15, 0.12], "EstimatedRadiographicMagnificationFactor": 1.2},
            (0.125, 0.1),
            "Estimated Radiographic Magnification Factor",
            id="detector's and the magnification factor",
        ),
        pytest.param(
            {
                "PixelSpacing": [0.143, 0.143],
                "ImagerPixelSpacing": [0.1434, 0.1434],
                "EstimatedRadiographicMagnificationFactor": 1.195,
            },
            (0.12, 0.12),
            "Estimated Radiographic Magnification Factor",
            id="a rounded detector spacing is the detector's",
        ),
    ],
)
def test_millimetres_are_told_where_they_are_known(
    values: dict[str, Any], expected: tuple[float, float], said: str
) -> None:
    size = pixel_size(header(**values))
    assert size.spacing_mm == pytest.approx(expected)
    assert said in size.source


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({}, "states no pixel spacing", id="nothing"),
        pytest.param({"PixelSpacing": [0.14, 0.14]}, "without a calibration", id="pixel spacing alone"),
        pytest.param(
            {"PixelSpacing": [0.14, 0.14], "ImagerPixelSpacing": [0.14, 0.14]},
            "magnification not stated",
            id="the same",
        ),
        pytest.param({"ImagerPixelSpacing": [0.14, 0.14]}, "magnification not stated", id="detector's alone"),
        pytest.param(
            {
                "PixelSpacing": [0.143, 0.143],
                "ImagerPixelSpacing": [0.1434, 0.1434],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            "magnification not stated",
            id="called calibrated by geometry, corrected for nothing",
        ),
        pytest.param(
            {"ImagerPixelSpacing": [0.14, 0.14], "EstimatedRadiographicMagnificationFactor": 1},
            "magnification not stated",
            id="a factor of one is what consoles write for not known",
        ),
        pytest.param(
            {"ImagerPixelSpacing": [0.14, 0.14], "DistanceSourceToDetector": 1150, "DistanceSourceToPatient": 920},
            "magnification not stated",
            id="the distance to the patient is that to the table's side",
        ),
        pytest.param(
            {"PixelSpacing": [0.143, 0.143], "ImagerPixelSpacing": [0.1434, 0.1434]},
            "magnification not stated",
            id="rounded",
        ),
        pytest.param(
            {"PixelSpacing": [0.28, 0.28], "ImagerPixelSpacing": [0.14, 0.14]},
            "no magnification",
            id="two by two pixels in one",
        ),
        pytest.param(
            {
                "PixelSpacing": [0.28, 0.28],
                "ImagerPixelSpacing": [0.14, 0.14],
                "EstimatedRadiographicMagnificationFactor": 1.2,
            },
            "no magnification",
            id="a factor does not say whose pixels it divides",
        ),
        pytest.param(
            {"PixelSpacing": [0.05, 0.05], "ImagerPixelSpacing": [0.14, 0.14]}, "no magnification", id="2.8 times"
        ),
        pytest.param(
            {"PixelSpacing": [0.12, 0.14], "ImagerPixelSpacing": [0.14, 0.14]},
            "no magnification",
            id="magnified along one axis only",
        ),
        pytest.param(
            {"PixelSpacing": [14, 14], "PixelSpacingCalibrationType": "FIDUCIAL"}, "states no", id="not plausible"
        ),
    ],
)
def test_no_millimetres_where_they_are_not(values: dict[str, Any], said: str) -> None:
    size = pixel_size(header(**values))
    assert size.spacing_mm is None
    assert size.source.startswith("uncalibrated: ")
    assert said in size.source


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"PixelSpacing": [0.3, 0.15]}, 2.0),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, 0.5),
        ({"PixelAspectRatio": [4, 3]}, 4 / 3),
        ({"PixelAspectRatio": [0, 3]}, 1.0),
        ({"PixelAspectRatio": [3, 1]}, 3.0),
        ({}, 1.0),
    ],
)
def test_the_aspect_is_kept_without_millimetres(values: dict[str, Any], expected: float) -> None:
    assert aspect(header(**values)) == pytest.approx(expected)


# view


@pytest.mark.parametrize("position", ["LL", "RL", "LATERAL"])
def test_view_position_tells_a_lateral(position: str) -> None:
    assert lateral(header(ViewPosition=position)) is True


@pytest.mark.parametrize("position", ["AP", "PA", "LLD", "RLO", "OBL"])
def test_view_position_tells_another_view(position: str) -> None:
    assert lateral(header(ViewPosition=position)) is False


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("399067008", True),
        ("399173006", True),
        ("R-10232", True),
        ("399348003", False),
        ("R-10214", False),
        ("7", None),
    ],
)
def test_view_code(code: str, expected: bool | None) -> None:
    assert lateral(header(ViewCodeSequence=coded(code))) is expected


def test_a_view_code_that_is_not_known_is_read_by_its_meaning() -> None:
    assert lateral(header(ViewCodeSequence=coded("LOCAL7", "Left lateral"))) is True


@pytest.mark.parametrize(
    ("directions", "expected"),
    [
        (["A", "F"], True),
        (["P", "F"], True),
        (["F", "A"], True),
        (["AR", "FP"], True),
        (["L", "F"], False),
        (["L", "P"], False),
    ],
)
def test_patient_orientation(directions: list[str], expected: bool) -> None:
    assert lateral(header(PatientOrientation=directions)) is expected
    assert orientation(header(PatientOrientation=directions)) == tuple(directions)


@pytest.mark.parametrize("directions", [["A"], ["X", "F"], "", ["A", "F", "L"]])
def test_a_malformed_orientation_says_nothing(directions: Any) -> None:
    assert orientation(header(PatientOrientation=directions)) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("LWS seitl.", True),
        ("L-SPINE LAT", True),
        ("Rachis lombaire profil", True),
        ("colonna L/L", None),
        ("BWS a.p.", False),
        ("T-Spine_PA", False),
        ("Lumbar oblique", False),
        ("LWS ap + lat", None),
        ("L spine lateral bending", None),
        ("LWS Seitneigung", None),
        ("L spine lat flexion", None),
        ("Lumbar spine", None),
    ],
)
def test_descriptions(words: str, expected: bool | None) -> None:
    assert lateral(header(SeriesDescription=words)) is expected


def test_a_header_that_contradicts_itself_says_nothing() -> None:
    assert lateral(header(ViewPosition="AP", PatientOrientation=["A", "F"])) is None
