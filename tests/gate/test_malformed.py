"""Headers that break the rules are read permissively, and nothing of them reaches a log."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import FileDataset

from node.gate import read_headers
from tests.gate.conftest import Ct, HeadersOf, assert_field, loaded, raw, save


def test_private_elements_bad_charsets_and_malformed_values_are_read_permissively(
    headers_of: HeadersOf, caplog: pytest.LogCaptureFixture
) -> None:
    def odd(_: int, ds: FileDataset) -> None:
        raw(ds, "SeriesNumber", "IS", b"two")
        raw(ds, "KVP", "DS", b"a lot of kilovolts")
        raw(ds, "StudyDate", "DA", b"yesterday")
        raw(ds, "PatientName", "PN", b"Secret^" + b"x" * 200)
        raw(ds, "PatientID", "LO", b"Secret" + b"x" * 100)
        ds.add_new(0x00091010, "LO", "private")

    headers = headers_of(Ct(edit=odd))
    caplog.clear()
    result = loaded(headers)
    assert_field(result)
    assert not any(element.is_private for d in result.datasets for element in d)
    assert not [r for r in caplog.records if "Secret" in r.getMessage()]


def test_nothing_of_a_malformed_value_reaches_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ds = Ct().dataset(0)
    raw(ds, "PatientBirthDate", "DA", b"Secret birthday")
    raw(ds, "PatientID", "LO", b"Secret" + b"x" * 100)
    save(ds, tmp_path / "one.dcm")
    caplog.clear()
    (header,), unreadable = read_headers([tmp_path / "one.dcm"])
    assert (caplog.records, unreadable) == ([], [])
    assert header.modality == "CT"


def test_an_unknown_character_set_is_read_all_the_same(tmp_path: Path) -> None:
    ds = Ct().dataset(0)
    save(ds, tmp_path / "one.dcm")
    content = (tmp_path / "one.dcm").read_bytes()
    element = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 999"
    group = content.index(b"\x08\x00\x08\x00CS")
    (tmp_path / "one.dcm").write_bytes(content[:group] + element + content[group:])
    (header,), unreadable = read_headers([tmp_path / "one.dcm"])
    assert unreadable == []
    assert str(header.dataset.PatientName) == "Doe^Jane"
