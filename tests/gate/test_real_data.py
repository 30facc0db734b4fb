"""Real images, with the outcome that was expected before the first run.

| series | expected |
|---|---|
| example_ct_series | answered; loads; agrees with example_ct.nii.gz voxel by voxel |
| example_ct_dicom as it is | not eligible: its study, series and instance UIDs were emptied, so no result can name it |
| example_ct_dicom with identifiers | answered; loads from JPEG 2000; 38 mm of spine are the pipeline's to refuse |
| tcia axial | not eligible: one image |
| tcia sagittal, coronal | not eligible: DERIVED\\SECONDARY\\REFORMATTED |
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from inference.refusal import Outcome, RefusalCode
from node.gate import LoadedSeries, choose, load_volume, read_headers
from tests.gate.conftest import POLICY, save

pytestmark = pytest.mark.real_data


def test_the_abdomen_series_agrees_with_its_nifti_original(real_data: Path) -> None:
    headers, unreadable = read_headers(sorted((real_data / "totalsegmentator" / "example_ct_series").iterdir()))
    assert unreadable == []
    (decision,) = choose(headers, POLICY)
    assert (decision.outcome, decision.refusal, decision.instances) == (Outcome.ANSWERED, None, 112)
    result = load_volume(headers, POLICY)
    assert isinstance(result, LoadedSeries)
    assert (result.quality, result.spine_expected, result.age_years) == ((), True, 55.0)
    assert (result.volume.hu.shape, result.volume.hu.dtype) == ((112, 101, 122), np.int16)
    assert result.spacing_along_normal_mm == 3.0

    nifti = nibabel.load(real_data / "totalsegmentator" / "example_ct.nii.gz")
    hu = np.asanyarray(nifti.dataobj)
    random = np.random.default_rng(20260101)
    index = random.integers(0, result.volume.hu.shape, size=(5000, 3))
    ras = result.volume.to_lps(index.astype(float)) * [-1, -1, 1]
    in_nifti = nibabel.affines.apply_affine(np.linalg.inv(nifti.affine), ras)
    assert np.abs(in_nifti - np.rint(in_nifti)).max() < 1e-3
    # the series was written with twelve bits: 238 voxels of air and metal were cut off at their ends
    there = np.clip(hu[tuple(np.rint(in_nifti).astype(int).T)], -1024, 3071)
    assert np.array_equal(result.volume.hu[tuple(index.T)], there)
    assert result.volume.hu.std() > 100


def test_the_compressed_series_lost_its_identifiers(real_data: Path) -> None:
    headers, unreadable = read_headers(sorted((real_data / "totalsegmentator" / "example_ct_dicom").iterdir()))
    assert (len(headers), unreadable) == (20, [])
    (decision,) = choose(headers, POLICY)
    assert decision.outcome is Outcome.NOT_ELIGIBLE
    assert decision.refusal is not None
    assert decision.refusal.code is RefusalCode.MISSING_IDENTIFIERS


def test_the_compressed_series_loads_once_it_has_identifiers(real_data: Path, tmp_path: Path) -> None:
    for path in sorted((real_data / "totalsegmentator" / "example_ct_dicom").iterdir()):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "1.2.3", "1.2.3.4", "EXAMPLE"
        save(ds, tmp_path / path.name)
    headers, unreadable = read_headers(sorted(tmp_path.iterdir()))
    assert unreadable == []
    (decision,) = choose(headers, POLICY)
    assert (decision.outcome, decision.refusal) == (Outcome.ANSWERED, None)
    assert decision.coverage_mm == pytest.approx(38.0)
    result = load_volume(headers, POLICY)
    assert isinstance(result, LoadedSeries)
    assert (result.volume.hu.shape, result.spacing_along_normal_mm) == ((20, 512, 512), 2.0)
    assert (result.quality, result.age_years, result.spine_expected) == ((), None, False)
    middle = pydicom.dcmread(
        next(h.path for h in headers if h.sop_instance_uid == result.references[10].sop_instance_uid)
    )
    assert np.array_equal(result.volume.hu[10], middle.pixel_array.astype(int) - 1024)
    assert result.volume.affine[2, 3] == -804.5


def test_the_single_slices_are_not_eligible(real_data: Path) -> None:
    paths = sorted((real_data / "tcia-covid19-ny-sbu").rglob("*.dcm"))
    headers, unreadable = read_headers(paths)
    assert (len(headers), unreadable) == (30, [])
    plane = {h.series_uid: h.path.parent.name for h in headers}
    expected = {
        "axial": RefusalCode.TOO_FEW_IMAGES,
        "sagittal": RefusalCode.REFORMATTED,
        "coronal": RefusalCode.REFORMATTED,
    }
    decisions = choose(headers, POLICY)
    assert len(decisions) == 30
    for decision in decisions:
        assert decision.outcome is Outcome.NOT_ELIGIBLE
        assert decision.refusal is not None
        assert decision.refusal.code is expected[plane[decision.series_uid]]


def test_volumes_without_a_dicom_header_are_unreadable(real_data: Path) -> None:
    paths = sorted(real_data.rglob("*.nii.gz"))
    headers, unreadable = read_headers(paths)
    assert headers == []
    assert len(unreadable) == len(paths) > 10
