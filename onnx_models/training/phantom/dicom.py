"""A volume as a CT series that strangers can read (PS3.3 A.3 CT Image IOD)."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from inference.geometry import Volume

INTERCEPT = -1024


def derived_uid(*parts: object) -> str:
    """A UID under 2.25 from the SHA-256 of the parts: equal parts give equal UIDs (PS3.5 B.2)."""
    digest = hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).digest()[:16]
    value = int.from_bytes(digest, "big")
    value = value & ~(0xF << 76) | (0x8 << 76)  # version 8, variant 10: a valid UUID
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return f"2.25.{value}"


def write_dicom_series(
    volume: Volume,
    folder: Path,
    *,
    patient_id: str = "PHANTOM-1",
    seed: int = 1,
    age_years: int = 71,
    sex: str = "F",
    series_number: int = 3,
    series_description: str = "Chest Abdomen 1.25 soft",
    study_description: str = "CT chest and abdomen",
    body_part: str = "CHEST",
    kernel: str = "B30f",
    order: str = "ascending",
) -> list[Path]:
    """Write one file per slice; returns their paths in the volume's slice order.

    ``seed`` fixes every UID, date and number: the same call writes the same bytes. ``order`` of the instance numbers
    along the volume's slices is "ascending", "descending" or "shuffled" (they mean nothing to a careful reader).
    The patient is invented. Raises ``ValueError`` for a grid whose axes are not at right angles or an unknown order.
    """
    affine = volume.affine
    sk, sj, si = volume.spacing_mm
    across, down, through = affine[:3, 2] / si, affine[:3, 1] / sj, affine[:3, 0] / sk
    if max(abs(across @ down), abs(across @ through), abs(down @ through)) > 1e-4:
        raise ValueError("the axes of a CT series are at right angles, these are not")
    count = volume.hu.shape[0]
    numbers = np.arange(1, count + 1)
    if order == "descending":
        numbers = numbers[::-1]
    elif order == "shuffled":
        numbers = np.random.default_rng(seed).permutation(numbers)
    elif order != "ascending":
        raise ValueError(f"order is ascending, descending or shuffled, not {order!r}")
    folder.mkdir(parents=True, exist_ok=True)
    key = ("spine-node phantom", patient_id, seed)
    when = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC) + dt.timedelta(days=seed % 200, minutes=7 * (seed % 60))
    common = Dataset()
    _patient_and_study(common, when, patient_id, seed, age_years, sex)
    common.StudyInstanceUID = derived_uid(*key, "study")
    common.SeriesInstanceUID = derived_uid(*key, "series", series_number)
    common.FrameOfReferenceUID = volume.frame_of_reference_uid or derived_uid(*key, "frame of reference")
    common.StudyDescription, common.SeriesDescription = study_description, series_description
    common.SeriesNumber, common.BodyPartExamined, common.ConvolutionKernel = series_number, body_part, kernel
    common.SliceThickness = f"{sk:.6g}"
    common.ImageOrientationPatient = [f"{v:.9g}" for v in (*across, *down)]
    common.PixelSpacing = [f"{sj:.9g}", f"{si:.9g}"]
    stored = (np.clip(np.rint(volume.hu), INTERCEPT, 3071) - INTERCEPT).astype("<u2")
    paths = []
    for k in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = derived_uid(*key, "image", series_number, k)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"CT{int(numbers[k]):05d}.dcm"
        ds = FileDataset(str(path), copy.deepcopy(common), file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.InstanceNumber = int(numbers[k])
        position = affine[:3, 0] * k + affine[:3, 3]
        ds.ImagePositionPatient = [f"{v:.9g}" for v in position]
        ds.SliceLocation = f"{float(position @ np.cross(across, down)):.9g}"
        _pixels(ds, stored[k])
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _patient_and_study(ds: Dataset, when: dt.datetime, patient_id: str, seed: int, age_years: int, sex: str) -> None:
    """Modules Patient, General Study, General Series, General Equipment and what of CT Image is the same for all."""
    day, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.AccessionNumber, ds.StudyID = f"A{seed:07d}", str(seed)
    ds.Modality = "CT"
    ds.Manufacturer, ds.ManufacturerModelName = "Procedural phantom", "phantom"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.InstitutionName, ds.ReferringPhysicianName = "Phantom hospital", ""
    ds.PatientName, ds.PatientID = f"Phantom^Seed {seed}", patient_id
    ds.PatientBirthDate = f"{when.year - age_years - 1}0701"
    ds.PatientSex, ds.PatientAge = sex, f"{age_years:03d}Y"
    ds.KVP, ds.ProtocolName, ds.PatientPosition = "120", "phantom", "HFS"
    ds.AcquisitionNumber, ds.PositionReferenceIndicator = 1, ""


def _pixels(ds: Dataset, stored: NDArray[np.uint16]) -> None:
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = "50", "400"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(INTERCEPT), "1", "HU"
    ds.PixelData = stored.tobytes()
