"""The series written from a phantom is a CT series that others can read."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from inference.geometry import Volume
from onnx_models.training.phantom import acquire, canonical_grid, sample_patient
from onnx_models.training.phantom.dicom import derived_uid, write_dicom_series

HALF = np.array([60.0, 60.0, 12.0])
DCIODVFY = Path(sys.executable).with_name("dciodvfy")


@pytest.fixture(scope="module")
def volume() -> Volume:
    p = sample_patient(np.random.default_rng(8))
    v = p.vertebrae[10].centroid_lps_mm
    return acquire(p, canonical_grid(v - HALF, v + HALF, (1.5, 1.25, 1.25)), np.random.default_rng(0))


def test_dciodvfy_finds_no_error(volume: Volume, tmp_path: Path) -> None:
    for path in write_dicom_series(volume, tmp_path, order="shuffled")[::5]:
        done = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert "CTImage" in said
        assert "Error" not in said, said


def test_pixels_and_places_come_back(volume: Volume, tmp_path: Path) -> None:
    paths = write_dicom_series(volume, tmp_path, order="shuffled")
    assert len(paths) == volume.hu.shape[0]
    numbers = []
    for k, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        np.testing.assert_array_equal(ds.pixel_array.astype(int) + int(ds.RescaleIntercept), volume.hu[k])
        np.testing.assert_allclose(
            [float(x) for x in ds.ImagePositionPatient], volume.to_lps(np.array([k, 0, 0])), atol=1e-6
        )
        # the first cosines go along increasing columns, the second along increasing rows
        np.testing.assert_allclose([float(x) for x in ds.ImageOrientationPatient], [1, 0, 0, 0, 1, 0], atol=1e-9)
        numbers.append(int(ds.InstanceNumber))
    assert sorted(numbers) == list(range(1, len(paths) + 1))
    assert numbers not in (sorted(numbers), sorted(numbers, reverse=True))


def test_the_same_seed_writes_the_same_bytes(volume: Volume, tmp_path: Path) -> None:
    first = write_dicom_series(volume, tmp_path / "a", seed=4)
    again = write_dicom_series(volume, tmp_path / "b", seed=4)
    other = write_dicom_series(volume, tmp_path / "c", seed=5)
    digest = [hashlib.sha256(b"".join(p.read_bytes() for p in paths)).hexdigest() for paths in (first, again, other)]
    assert digest[0] == digest[1] != digest[2]
    uids = [{pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in paths} for paths in (first, other)]
    assert not uids[0] & uids[1]


def test_derived_uids_are_valid_and_distinct() -> None:
    uids = {derived_uid("x", k) for k in range(50)}
    assert len(uids) == 50
    assert all(pydicom.uid.UID(u).is_valid and len(u) <= 64 for u in uids)


def test_a_skewed_grid_and_an_unknown_order_are_refused(volume: Volume, tmp_path: Path) -> None:
    skewed = volume.affine.copy()
    skewed[1, 0] = 0.4
    with pytest.raises(ValueError, match="right angles"):
        write_dicom_series(Volume(volume.hu, skewed), tmp_path)
    with pytest.raises(ValueError, match="sideways"):
        write_dicom_series(volume, tmp_path, order="sideways")
