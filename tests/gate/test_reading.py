"""Pixels read from their place and by several threads: the same as pydicom finds, or left to it."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.gate import pixels
from node.gate.headers import InstanceHeader, read_header
from node.gate.parallel import in_parallel
from node.gate.values import permissive
from tests.dicom import ct_slice


def written(folder: Path, data_set: Dataset, syntax: str = ExplicitVRLittleEndian) -> InstanceHeader:
    path = folder / "slice.dcm"
    data_set.file_meta.TransferSyntaxUID = syntax
    data_set.save_as(path, enforce_file_format=True, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    header = read_header(path)
    assert isinstance(header, InstanceHeader)
    return header


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(("stored", "signed"), [(16, 0), (16, 1), (12, 0), (12, 1)])
def test_pixels_at_the_end_are_those_that_pydicom_finds(tmp_path: Path, syntax: str, stored: int, signed: int) -> None:
    data_set = ct_slice(3)
    data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = stored, stored - 1, signed
    header = written(tmp_path, data_set, syntax)
    (values,) = pixels.stored_values(header, (None,))
    kind = "<i2" if signed else "<u2"
    expected = np.frombuffer(dcmread(header.path).PixelData, kind).reshape(16, 16)
    assert pixels._at_end(header) is not None
    assert (values == ((expected << (16 - stored)) >> (16 - stored))).all()
    assert values.dtype == np.dtype(kind)


def test_pixels_that_are_not_at_the_end_are_looked_for(tmp_path: Path) -> None:
    data_set = ct_slice(3)
    data_set.DataSetTrailingPadding = b"\0" * 10
    padded = written(tmp_path, data_set)
    assert pixels._at_end(padded) is None
    (values,) = pixels.stored_values(padded, (None,))
    assert values.tobytes() == data_set.PixelData
    longer = ct_slice(3)
    longer.PixelData = longer.PixelData + b"\0\0"
    assert pixels._at_end(written(tmp_path, longer)) is None
    shorter = written(tmp_path, ct_slice(3))
    shorter.path.write_bytes(shorter.path.read_bytes()[:-2])
    assert pixels._at_end(shorter) is None
    with pytest.raises(pixels.PixelError):
        list(pixels.stored_values(shorter, (None,)))
    shorter.path.write_bytes(b"")
    assert pixels._at_end(shorter) is None


def test_the_first_item_that_fails_is_the_one_that_is_told() -> None:
    begun = threading.Event()

    def work(number: int) -> None:
        if number == 1:
            begun.wait(10)
            raise ValueError("the first")
        if number == 2:
            begun.set()
            raise KeyError("the second")

    if len(os.sched_getaffinity(0)) == 1:
        begun.set()
    with pytest.raises(ValueError, match="the first"):
        in_parallel(work, [(0,), (1,), (2,), (3,)])


def test_all_items_are_worked_on_once() -> None:
    seen: list[int] = []
    in_parallel(lambda number, more: seen.append(number + more), [(number, 1) for number in range(100)])
    assert sorted(seen) == list(range(1, 101))


def test_warnings_are_silenced_until_the_last_thread_is_through() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with permissive():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    before = list(warnings.filters)
    with permissive():
        thread.start()
        assert inside.wait(10)
    warnings.warn("as pydicom quotes a value", UserWarning, stacklevel=1)  # would be an error
    leave.set()
    thread.join(10)
    assert warnings.filters == before
    with pytest.raises(UserWarning):
        warnings.warn("heard again", UserWarning, stacklevel=1)
