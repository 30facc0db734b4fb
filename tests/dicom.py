"""Small DICOM objects for tests of receiving and sending; the gate's tests build whole series of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY = "1.2.826.0.1.3680043.8.498.1"
SERIES = "1.2.826.0.1.3680043.8.498.1.1"


def ct_slice(number: int, study_uid: str = STUDY, series_uid: str = SERIES, size: int = 16) -> Dataset:
    """One axial CT slice of noise, 1 mm apart, of an invented patient."""
    data_set = Dataset()
    data_set.SOPClassUID = CTImageStorage
    data_set.SOPInstanceUID = UID(generate_uid(entropy_srcs=[study_uid, series_uid, str(number)]))
    data_set.StudyInstanceUID = study_uid
    data_set.SeriesInstanceUID = series_uid
    data_set.FrameOfReferenceUID = study_uid + ".9"
    data_set.PatientID = "P-1"
    data_set.PatientName = "Test^Invented"
    data_set.PatientBirthDate = "19500101"
    data_set.PatientSex = "F"
    data_set.StudyDate = "20260102"
    data_set.StudyTime = "101112"
    data_set.StudyID = "S1"
    data_set.AccessionNumber = "A1"
    data_set.ReferringPhysicianName = ""
    data_set.Modality = "CT"
    data_set.Manufacturer = "Test scanner"
    data_set.SeriesNumber = 2
    data_set.InstanceNumber = number + 1
    data_set.SeriesDescription = "Abdomen 1.0 B30f"
    data_set.BodyPartExamined = "ABDOMEN"
    data_set.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data_set.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data_set.ImagePositionPatient = [-8.0, -8.0, float(number)]
    data_set.PixelSpacing = [1.0, 1.0]
    data_set.SliceThickness = 1.0
    data_set.ConvolutionKernel = "B30f"
    data_set.RescaleIntercept = -1024
    data_set.RescaleSlope = 1
    data_set.RescaleType = "HU"
    data_set.Rows = data_set.Columns = size
    data_set.BitsAllocated = 16
    data_set.BitsStored = 16
    data_set.HighBit = 15
    data_set.PixelRepresentation = 0
    data_set.SamplesPerPixel = 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    noise = np.random.default_rng(number).integers(900, 1200, (size, size), dtype=np.uint16)
    data_set.PixelData = noise.tobytes()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    return data_set


def write_series(
    folder: Path, count: int, study_uid: str = STUDY, series_uid: str = SERIES, size: int = 16
) -> list[Path]:
    """Write ``count`` slices; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:04d}.dcm"
        ct_slice(number, study_uid, series_uid, size).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
