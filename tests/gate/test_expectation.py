"""Where a spine is expected, and how sharp a kernel is: word lists, so examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.gate import GatePolicy, read_headers
from node.gate.expectation import spine_expected
from node.gate.kernels import sharpness
from tests.gate.conftest import Ct, raw, save


@pytest.mark.parametrize(
    ("body_part", "series", "study", "expected"),
    [
        ("CHEST", "", "", True),
        ("LSPINE", "", "", True),
        ("L-SPINE", "", "", True),
        ("ABDOMEN_PELVIS", "", "", True),
        ("", "CHEST 1.25 MM", "", True),
        ("", "ABD/PEL 2.5 MM", "", True),
        ("", "LWS axial", "", True),
        ("", "Rachis lombaire", "", True),
        ("", "1.0 Br38", "CT Thorax-Abdomen", True),
        ("PARTIALBODY", "Ganzkoerper", "", True),
        ("HEAD", "C-Spine 1.0", "", True),
        ("HEAD", "Brain 5.0", "CT polytrauma head chest abdomen", False),
        ("HEAD", "", "", False),
        ("BRAIN", "", "CT head", False),
        ("KNEE", "bone", "", False),
        ("", "Brain thin", "CT head", False),
        ("", "", "", False),
        ("", "ESPINETTE", "", False),
    ],
)
def test_spine_expected(tmp_path: Path, body_part: str, series: str, study: str, expected: bool) -> None:
    ds = Ct().dataset(0)
    ds.SeriesDescription, ds.StudyDescription = series, study
    raw(ds, "BodyPartExamined", "CS", body_part.encode())
    save(ds, tmp_path / "one.dcm")
    assert spine_expected(read_headers([tmp_path / "one.dcm"]).headers, GatePolicy()) is expected


def test_a_sites_own_words(tmp_path: Path) -> None:
    ds = Ct().dataset(0)
    ds.BodyPartExamined, ds.SeriesDescription, ds.ProtocolName = "HEAD", "", "Rutine 7"
    save(ds, tmp_path / "one.dcm")
    headers, _ = read_headers([tmp_path / "one.dcm"])
    assert not spine_expected(headers, GatePolicy())
    assert spine_expected(headers, GatePolicy(site_spine_words=(r"rutine \d",)))


@pytest.mark.parametrize(
    ("manufacturer", "kernel", "rank"),
    [
        ("SIEMENS", ("Br38f", "3"), 0),
        ("Siemens Healthineers", ("B31f",), 0),
        ("SIEMENS", ("I41s",), 0),
        ("SIEMENS", ("B45f",), 1),
        ("SIEMENS", ("Br60f",), 2),
        ("SIEMENS", ("B70f",), 2),
        ("SIEMENS", ("Bl57d",), 2),
        ("SIEMENS", ("Qr40d", "2"), 0),
        ("GE MEDICAL SYSTEMS", ("STANDARD",), 0),
        ("GE MEDICAL SYSTEMS", ("SOFT",), 0),
        ("GE MEDICAL SYSTEMS", ("DETAIL",), 1),
        ("GE MEDICAL SYSTEMS", ("BONEPLUS",), 2),
        ("GE MEDICAL SYSTEMS", ("LUNG",), 2),
        ("TOSHIBA", ("FC08",), 0),
        ("Canon Medical Systems", ("FC18",), 0),
        ("TOSHIBA", ("FC30",), 2),
        ("TOSHIBA", ("FC52",), 2),
        ("Philips", ("B",), 0),
        ("Philips", ("YB",), 0),
        ("Philips", ("C",), 1),
        ("Philips", ("L",), 2),
        ("Philips", ("YE",), 2),
        ("UIH", ("B_SOFT_B",), 0),
        ("UIH", ("B_VSHARP_C",), 2),
        ("", ("Lung",), 2),
        ("", (), 1),
        ("SIEMENS", ("", "3"), 1),
        ("nobody", ("kernel of truth",), 1),
    ],
)
def test_kernels(manufacturer: str, kernel: tuple[str, ...], rank: int) -> None:
    assert sharpness(kernel, manufacturer) == rank
