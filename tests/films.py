"""Radiographs made of a few bright boxes on a grey ground: enough for everything but the networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
RF = "1.2.840.10008.5.1.4.1.1.12.2"

Edit = Callable[[FileDataset], None]


def shades(rows: int = 96, columns: int = 64, bits: int = 12) -> NDArray[np.int64]:
    """Stored values (rows, columns): dark air, a grey ground, four bright bodies below each other."""
    top = (1 << bits) - 1
    film = np.broadcast_to(np.linspace(0.25, 0.45, rows)[:, None], (rows, columns)).copy()
    film[:, : columns // 8] = 0.02
    for n in range(4):
        row = 8 + n * (rows - 8) // 4
        film[row : row + (rows - 40) // 4, columns // 2 - 8 : columns // 2 + 10] = 0.8
    return np.rint(film * top).astype(np.int64)


@dataclass
class Film:
    """One lateral lumbar radiograph to be written. Every attribute may be changed; ``edit`` changes the dataset."""

    sop_class: str = DX
    modality: str = "DX"
    stored: NDArray[np.int64] = field(default_factory=shades)
    bits: int = 12
    allocated: int = 16
    signed: bool = False
    study_uid: str = "1.2.826.0.1.3680043.8.498.7"
    series_uid: str = "1.2.826.0.1.3680043.8.498.7.1"
    sop_uid: str = ""
    description: str = "LWS seitl."
    body_part: str = "LSPINE"
    edit: Edit | None = None

    def dataset(self) -> FileDataset:
        """The instance, not yet written."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = self.sop_class
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = self.sop_class, self.sop_uid or str(generate_uid())
        meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.study_uid, self.series_uid
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P1", "Doe^Jane", "19500301", "F"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260301", "101010", "A1", "1"
        ds.ReferringPhysicianName = ""
        ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = self.modality, "Plates & Tubes", 1, 1
        ds.ImageType = ["DERIVED", "PRIMARY"]
        ds.SeriesDescription, ds.BodyPartExamined = self.description, self.body_part
        ds.Rows, ds.Columns = self.stored.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = self.allocated, self.bits, self.bits - 1
        ds.PixelRepresentation = int(self.signed)
        content = self.stored.astype(f"<{'i' if self.signed else 'u'}{self.allocated // 8}").tobytes()
        ds.PixelData = content + b"\0" * (len(content) % 2)
        ds["PixelData"].VR = "OB" if self.allocated == 8 else "OW"
        if self.edit is not None:
            self.edit(ds)
        return ds

    def write(self, path: Path) -> Path:
        """Write the instance without asking whether its values are legal."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with pydicom.config.disable_value_validation():
            self.dataset().save_as(path, enforce_file_format=False)
        return path
