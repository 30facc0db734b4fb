"""Headers are read from anything that is DICOM, and anything else is reported, never raised."""

from __future__ import annotations

import errno
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileDataset

from node.gate import read_headers
from node.gate.headers import has_valid_identifiers
from tests.films import Film
from tests.gate.conftest import Ct, raw, save


def test_files_that_are_not_dicom_are_reported(tmp_path: Path) -> None:
    contents = {
        "empty": b"",
        "short": b"\0" * 64,
        "text.txt": b"Patient: nobody. This is no DICOM file.\n" * 100,
        "page.html": b"<html><body>" + b"x" * 5000,
        "preamble only": b"\0" * 128 + b"DICM",
        "zeros": b"\0" * 4096,
        "ones": b"\xff" * 4096,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    headers, unreadable = read_headers(tmp_path / name for name in contents)
    assert headers == []
    assert {u.path.name for u in unreadable} == set(contents)
    assert {u.errno for u in unreadable} == {None}
    assert not any("nobody" in u.reason for u in unreadable)


def test_a_missing_file_and_a_folder_are_reported_as_passing(tmp_path: Path) -> None:
    headers, unreadable = read_headers([tmp_path / "gone.dcm", tmp_path])
    assert headers == []
    assert [u.errno for u in unreadable] == [errno.ENOENT, errno.EISDIR]


def test_a_directory_of_a_medium_is_no_instance(tmp_path: Path) -> None:
    ds = Ct().dataset(0)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.1.3.10"
    save(ds, tmp_path / "DICOMDIR")
    headers, (unreadable,) = read_headers([tmp_path / "DICOMDIR"])
    assert headers == []
    assert "DICOMDIR" in unreadable.reason


def test_a_cut_header_never_raises(tmp_path: Path) -> None:
    (path,) = Ct(count=1).write(tmp_path)
    content = path.read_bytes()
    for length in range(0, 1600, 37):
        path.write_bytes(content[:length])
        headers, unreadable = read_headers([path])
        assert len(headers) + len(unreadable) == 1


def test_headers_keep_no_pixels(tmp_path: Path) -> None:
    (path,) = Ct(count=1).write(tmp_path)
    (header,), _ = read_headers([path])
    assert "PixelData" not in header.dataset
    assert header.dataset.PatientName == "Doe^Jane"
    assert header.dataset.AccessionNumber == "A1"


def test_the_instance_uid_of_the_file_meta_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    ds = Ct().dataset(0)
    uid = ds.SOPInstanceUID
    ds.SOPInstanceUID = ""
    ds.SOPClassUID = ""
    save(ds, tmp_path / "one.dcm")
    (header,), _ = read_headers([tmp_path / "one.dcm"])
    assert header.sop_instance_uid == uid
    assert header.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
    assert has_valid_identifiers(header)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", ["", "../../etc/passwd", "1.2." + "3" * 80, "1..2", ".1", "1.2.", "1.2/3", "a.b"])
def test_identifiers_that_cannot_be_named_are_not_valid(tmp_path: Path, keyword: str, value: str) -> None:
    ds = Ct().dataset(0)
    raw(ds, keyword, "UI", value.encode())
    save(ds, tmp_path / "one.dcm")
    (header,), _ = read_headers([tmp_path / "one.dcm"])
    assert not has_valid_identifiers(header)


def test_a_report_is_an_instance_without_images(tmp_path: Path) -> None:
    ds: FileDataset = Ct().dataset(0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    ds.Modality = "SR"
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(ds, keyword)
    save(ds, tmp_path / "one.dcm")
    (header,), _ = read_headers([tmp_path / "one.dcm"])
    assert header.images == ()


def test_the_order_of_the_files_is_kept(tmp_path: Path) -> None:
    paths = Ct().write(tmp_path)
    headers, _ = read_headers(paths[::-1])
    assert [h.path for h in headers] == paths[::-1]
    assert [h.sop_instance_uid for h in headers] == [pydicom.dcmread(p).SOPInstanceUID for p in paths[::-1]]


def test_lists_of_source_images_are_read_of_a_film_and_not_of_a_ct(tmp_path: Path) -> None:
    """A derived slice may list all five hundred that it was made from."""

    def listing(ds: FileDataset) -> None:
        ds.SourceImageSequence = [pydicom.Dataset() for _ in range(500)]
        for n, one in enumerate(ds.SourceImageSequence):
            one.ReferencedSOPInstanceUID = f"1.2.3.{n}"

    paths = Ct(count=3, edit=lambda _, ds: listing(ds)).write(tmp_path / "ct")
    paths.append(Film(edit=listing).write(tmp_path / "film.dcm"))
    headers, unreadable = read_headers(paths)
    assert unreadable == []
    assert [len(h.dataset.get("SourceImageSequence", [])) for h in headers] == [0, 0, 0, 500]
