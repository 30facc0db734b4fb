"""The same input has the same hash, whatever way it came; another input has another one. Ages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import FileDataset

from node.gate import InstanceHeader, LoadedSeries, Unevaluable, load_volume
from tests.gate.conftest import POLICY, Ct, HeadersOf, raw


def digest(headers: list[InstanceHeader]) -> str:
    result = load_volume(headers, POLICY)
    assert isinstance(result, LoadedSeries)
    return result.input_sha256


def test_the_order_of_the_instances_does_not_matter(headers_of: HeadersOf) -> None:
    headers = headers_of(Ct())
    assert digest(headers) == digest(headers[::-1])
    assert len(digest(headers)) == 64


def rewritten_decimals(_: int, ds: FileDataset) -> None:
    z = float(ds.ImagePositionPatient[2])
    raw(ds, "ImagePositionPatient", "DS", f"-3.000000\\-4.0\\{z:.6f}".encode())
    raw(ds, "PixelSpacing", "DS", b"0.80000\\7.0e-1")
    raw(ds, "RescaleSlope", "DS", b"1.000000")
    raw(ds, "ImageOrientationPatient", "DS", b"1\\-0.0\\0\\0\\1.00000\\-0")


def padded_text(_: int, ds: FileDataset) -> None:
    raw(ds, "PatientName", "PN", b"Doe^Jane^^^ ")
    raw(ds, "PatientID", "LO", b" P1 ")


def other_bookkeeping(_: int, ds: FileDataset) -> None:
    ds.SeriesDescription = "renamed by the archive"
    ds.InstanceNumber = 77
    ds.StationName = "ARCHIVE"
    ds.WindowCenter = 50


@pytest.mark.parametrize("edit", [rewritten_decimals, padded_text, other_bookkeeping])
def test_what_archives_rewrite_is_the_same_input(
    headers_of: HeadersOf, edit: Callable[[int, FileDataset], None]
) -> None:
    series = Ct()
    before = digest(headers_of(series))
    series.edit = edit
    assert digest(headers_of(series)) == before


def one_pixel(index: int, ds: FileDataset) -> None:
    if index == 4:
        ds.PixelData = ds.PixelData[:-2] + b"\x05\x04"


def moved(index: int, ds: FileDataset) -> None:
    ds.ImagePositionPatient = [-3.0, -3.9, -20 + 3.0 * index]


def corrected_patient(_: int, ds: FileDataset) -> None:
    ds.PatientID = "P1-corrected"


def corrected_name(_: int, ds: FileDataset) -> None:
    ds.PatientName = "Doe^Janet"


def corrected_study(_: int, ds: FileDataset) -> None:
    ds.AccessionNumber = "A2"


def other_rescale(_: int, ds: FileDataset) -> None:
    ds.RescaleIntercept = -1000


@pytest.mark.parametrize("edit", [one_pixel, moved, corrected_patient, corrected_name, corrected_study, other_rescale])
def test_what_an_answer_depends_on_is_another_input(
    headers_of: HeadersOf, edit: Callable[[int, FileDataset], None]
) -> None:
    series = Ct()
    before = digest(headers_of(series))
    series.edit = edit
    assert digest(headers_of(series)) != before


def test_one_slice_more_is_another_input(headers_of: HeadersOf) -> None:
    series = Ct()
    before = digest(headers_of(series))
    series.count = 13
    assert digest(headers_of(series)) != before


def test_a_refused_series_has_a_stable_hash_too(headers_of: HeadersOf) -> None:
    series = Ct(spacing=6.0)
    headers = headers_of(series)
    first, second = load_volume(headers, POLICY), load_volume(headers[::-1], POLICY)
    assert isinstance(first, Unevaluable)
    assert isinstance(second, Unevaluable)
    assert first.input_sha256 == second.input_sha256
    series.count = 13
    third = load_volume(headers_of(series), POLICY)
    assert isinstance(third, Unevaluable)
    assert third.input_sha256 != first.input_sha256


@pytest.mark.parametrize(
    ("age", "born", "expected"),
    [
        ("055Y", "19500301", 55.0),
        ("018Y", "", 18.0),
        ("240M", "", 20.0),
        ("", "20080301", 18.0),
        ("", "1950.03.01", 76.0),
        ("", "20080302", None),  # one day short of 18: refused
        ("017Y", "19500301", None),
        ("000Y", "19500301", 76.0),  # an age that nobody knew
        ("000Y", "", None),
        ("003W", "", None),
        ("200D", "", None),
    ],
)
def test_age_at_the_study(headers_of: HeadersOf, age: str, born: str, expected: float | None) -> None:
    def aged(_: int, ds: FileDataset) -> None:
        raw(ds, "PatientAge", "AS", age.encode())
        raw(ds, "PatientBirthDate", "DA", born.encode())

    result = load_volume(headers_of(Ct(edit=aged)), POLICY)
    if expected is None:
        assert isinstance(result, Unevaluable)
        assert result.refusal.code == "AGE_BELOW_18"
        assert result.age_years is not None
        assert result.age_years < 18
    else:
        assert isinstance(result, LoadedSeries)
        assert result.age_years == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("age", "born"), [("", ""), ("old", ""), ("55", "unknown"), ("", "20260302"), ("", "19501399")]
)
def test_an_unknown_age_is_none_and_no_refusal(headers_of: HeadersOf, age: str, born: str) -> None:
    def aged(_: int, ds: FileDataset) -> None:
        raw(ds, "PatientAge", "AS", age.encode())
        raw(ds, "PatientBirthDate", "DA", born.encode())

    result = load_volume(headers_of(Ct(edit=aged)), POLICY)
    assert isinstance(result, LoadedSeries)
    assert result.age_years is None
