"""A film of the phantom as a digital X-ray image that strangers can read (PS3.3 A.26, Digital X-Ray Image IOD)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from onnx_models.training.film_data import LATERAL_VIEWS, FormedFilm
from onnx_models.training.phantom.dicom import derived_uid

BITS = 12
_SPINE = ("421060004", "SCT", "Spine")
_CHEST = ("51185008", "SCT", "Chest")
_LATERAL = ("399067008", "SCT", "lateral")
_FRONTAL = ("399348003", "SCT", "antero-posterior")


def write_film(
    film: FormedFilm,
    path: Path,
    *,
    patient_id: str = "PHANTOM-1",
    seed: int = 1,
    instance_number: int = 1,
    age_years: int = 71,
    sex: str = "F",
    magnification: float | None = None,
    inverse: bool = False,
    maker: str = "Procedural phantom",
) -> Path:
    """Write one image FOR PRESENTATION; returns its path.

    ``seed`` fixes every UID, date and number: the same call writes the same bytes. ``magnification`` is written as the
    estimated radiographic magnification factor, or left out; ``inverse`` stores bone dark as MONOCHROME1; ``maker`` is
    its Manufacturer. The patient is invented.
    """
    key = ("spine-node film", patient_id, seed)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = derived_uid(*key, "image", instance_number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = derived_uid(*key, "study"), derived_uid(*key, "series")
    _patient_and_study(ds, seed, patient_id, age_years, sex, maker)
    ds.InstanceNumber = instance_number
    lateral = film.view in LATERAL_VIEWS
    chest = "chest" in film.view
    ds.SeriesDescription = f"{film.view} (phantom)"
    ds.BodyPartExamined = "CHEST" if chest else "SPINE"
    ds.AnatomicRegionSequence = [_code(*(_CHEST if chest else _SPINE))]
    ds.ViewPosition = "LL" if lateral else "AP"
    view = _code(*(_LATERAL if lateral else _FRONTAL))
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.ImageLaterality, ds.PositionerType = "U", "COLUMN"
    ds.PatientOrientation = list(orientation(film))
    ds.ImagerPixelSpacing = [f"{film.pitch_mm:.9g}"] * 2
    if magnification is not None:
        ds.EstimatedRadiographicMagnificationFactor = f"{magnification:.6g}"
    _pixels(ds, film, inverse)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def orientation(film: FormedFilm) -> tuple[str, str]:
    """The patient's direction along increasing columns and along increasing rows, as in PatientOrientation.

    Of a lateral film it is told from its truth, so that it holds for mirrored and turned ones; others stand upright.
    """
    truth = film.truth
    if film.view not in LATERAL_VIEWS or len(truth.levels) < 2:
        return "L", "F"
    down = truth.centres[-1] - truth.centres[0]
    back = (truth.points[:, 4:].mean(1) - truth.points[:, :2].mean(1)).mean(0)
    letters = []
    for axis in (1, 0):  # along columns, along rows
        foot, behind = (float(v[axis] / np.linalg.norm(v)) for v in (down, back))
        pair, value = ("FH", foot) if abs(foot) > abs(behind) else ("PA", behind)
        letters.append(pair[0] if value > 0 else pair[1])
    return letters[0], letters[1]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _patient_and_study(ds: Dataset, seed: int, patient_id: str, age_years: int, sex: str, maker: str) -> None:
    when = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC) + dt.timedelta(days=seed % 200, minutes=7 * (seed % 60))
    day, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.AccessionNumber, ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = f"X{seed:07d}", str(seed), 1, 1
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.Manufacturer, ds.ManufacturerModelName = maker, "film"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.InstitutionName, ds.ReferringPhysicianName = "Phantom hospital", ""
    ds.StudyDescription = "Radiograph of the spine"
    ds.PatientName, ds.PatientID = f"Phantom^Seed {seed}", patient_id
    ds.PatientBirthDate = f"{when.year - age_years - 1}0701"
    ds.PatientSex, ds.PatientAge = sex, f"{age_years:03d}Y"
    ds.AcquisitionContextSequence = []


def _pixels(ds: Dataset, film: FormedFilm, inverse: bool) -> None:
    top = 2**BITS - 1
    stored = np.rint(np.clip(film.image, 0, 1) * top)
    stored = (top - stored if inverse else stored).astype("<u2")
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if inverse else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, BITS, BITS - 1, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1 if inverse else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.WindowCenter, ds.WindowWidth = f"{2 ** (BITS - 1)}", f"{2**BITS}"
    ds.LossyImageCompression, ds.BurnedInAnnotation = "00", "NO"
    ds.DetectorType, ds.DetectorConfiguration = "DIRECT", "AREA"
    ds.PixelData = stored.tobytes()
