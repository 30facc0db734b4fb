"""Small CT series on disk. Their values are a known function of the position, so that geometry can be checked by HU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.gate import (
    GatePolicy,
    InstanceHeader,
    LoadedFilm,
    LoadedSeries,
    Unevaluable,
    load_film,
    load_volume,
    read_headers,
)
from tests.films import Film

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
Edit = Callable[[int, FileDataset], None]
HeadersOf = Callable[..., list[InstanceHeader]]
FilmsOf = Callable[..., list[InstanceHeader]]
POLICY = GatePolicy()


def field_hu(points_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """A linear field: HU of points (..., 3). Different along every axis, so that a swap or a flip shows."""
    return 40.0 + points_lps_mm @ np.array([2.0, -3.0, 5.0])


@dataclass
class Ct:
    """A CT series to be written. Every attribute may be changed; ``edit(index, dataset)`` changes single instances."""

    count: int = 12
    spacing: float = 3.0
    rows: int = 10
    columns: int = 8
    pixel_spacing: tuple[float, float] = (0.8, 0.7)
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    origin: tuple[float, float, float] = (-3.0, -4.0, -20.0)
    step: tuple[float, float, float] | None = None
    positions: list[tuple[float, float, float]] | None = None
    description: str = "Abdomen 3.0 Br38"
    slope: float = 1.0
    intercept: float = -1024.0
    study_uid: str = field(default_factory=lambda: str(generate_uid()))
    series_uid: str = field(default_factory=lambda: str(generate_uid()))
    frame_of_reference_uid: str = field(default_factory=lambda: str(generate_uid()))
    edit: Edit | None = None

    def place(self, index: int) -> tuple[float, float, float]:
        """Image Position (Patient) of one slice."""
        if self.positions is not None:
            return self.positions[index]
        step = self.step or (0.0, 0.0, self.spacing)
        x, y, z = (o + index * s for o, s in zip(self.origin, step, strict=True))
        return (x, y, z)

    def hu(self, index: int) -> NDArray[np.int64]:
        """(rows, columns) of the field at one slice, rounded."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        j, i = np.mgrid[: self.rows, : self.columns]
        points = (
            np.array(self.place(index))
            + j[..., None] * column * self.pixel_spacing[0]
            + i[..., None] * row * self.pixel_spacing[1]
        )
        return np.rint(field_hu(points)).astype(np.int64)

    def dataset(self, index: int) -> FileDataset:
        """One instance, not yet written."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CT_IMAGE
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CT_IMAGE, f"{self.series_uid[:50]}.{index + 1}"
        meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.study_uid, self.series_uid
        ds.FrameOfReferenceUID = self.frame_of_reference_uid
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P1", "Doe^Jane", "19500301", "F"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260301", "101010", "A1", "1"
        ds.Modality, ds.Manufacturer, ds.SeriesNumber = "CT", "SIEMENS", 2
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SeriesDescription, ds.BodyPartExamined = self.description, "ABDOMEN"
        ds.ConvolutionKernel, ds.KVP, ds.AcquisitionNumber = "Br38f", "120", 1
        ds.InstanceNumber = 1 + (index * 7) % self.count  # says nothing about the order, on purpose
        ds.ImagePositionPatient = [round(v, 6) for v in self.place(index)]
        ds.ImageOrientationPatient = [round(v, 6) for v in self.orientation]
        ds.PixelSpacing = list(self.pixel_spacing)
        ds.SliceThickness = self.spacing
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = (
            self.rows,
            self.columns,
            1,
            "MONOCHROME2",
        )
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = self.slope, self.intercept, "HU"
        stored = np.rint((self.hu(index) - self.intercept) / self.slope)
        ds.PixelData = stored.astype("<u2").tobytes()
        return ds

    def write(self, folder: Path) -> list[Path]:
        """Write the series; the names of the files are not in the order of the slices."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for index in range(self.count):
            ds = self.dataset(index)
            if self.edit is not None:
                self.edit(index, ds)
            path = folder / f"{(index * 7919) % 100_003:06d}_{index:04d}.dcm"
            save(ds, path)
            paths.append(path)
        return paths


def save(ds: Dataset, path: Path) -> None:
    """Write without asking whether the values are legal."""
    with pydicom.config.disable_value_validation():
        ds.save_as(path, enforce_file_format=False)


@pytest.fixture
def headers_of(tmp_path: Path) -> Callable[..., list[InstanceHeader]]:
    """Writes one or several series and reads their headers; every file must be readable."""

    def write_and_read(*series: Ct) -> list[InstanceHeader]:
        paths = []
        for number, one in enumerate(series):
            folder = tmp_path / f"series_{number}_{len(list(tmp_path.iterdir()))}"
            paths += one.write(folder)
        headers, unreadable = read_headers(paths)
        assert unreadable == []
        return headers

    return write_and_read


def raw(ds: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """Put bytes into an element as a hostile or broken sender would, past every check of pydicom."""
    tag = Tag(keyword)
    value += b" " * (len(value) % 2)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def loaded(headers: list[InstanceHeader], policy: GatePolicy = POLICY) -> LoadedSeries:
    """The volume; fails with the refusal where there is none. Every voxel must hold the field at its place."""
    result = load_volume(headers, policy)
    assert isinstance(result, LoadedSeries), getattr(result, "refusal", None)
    return result


def refused(headers: list[InstanceHeader], policy: GatePolicy = POLICY) -> Unevaluable:
    """The refusal; fails where a volume came."""
    result = load_volume(headers, policy)
    assert isinstance(result, Unevaluable)
    return result


def assert_field(result: LoadedSeries, within_hu: float = 0.75) -> None:
    """Each voxel holds the linear field at the place that the affine gives it: order, axes and spacing are right."""
    index = np.stack(np.meshgrid(*map(np.arange, result.volume.hu.shape), indexing="ij"), axis=-1)
    expected = field_hu(result.volume.to_lps(index.astype(float)))
    assert np.abs(result.volume.hu - expected).max() <= within_hu


@pytest.fixture
def films_of(tmp_path: Path) -> Callable[..., list[InstanceHeader]]:
    """Writes radiographs and reads their headers; every file must be readable."""

    def write_and_read(*films: Film) -> list[InstanceHeader]:
        already = len(list(tmp_path.iterdir()))
        paths = [film.write(tmp_path / f"film_{already + n:03d}.dcm") for n, film in enumerate(films)]
        headers, unreadable = read_headers(paths)
        assert unreadable == []
        return headers

    return write_and_read


def film_of(headers: list[InstanceHeader], policy: GatePolicy = POLICY) -> LoadedFilm:
    """The one radiograph; fails with the refusal where there is none."""
    result = load_film(headers, policy)
    assert isinstance(result, LoadedFilm), getattr(result, "refusal", None)
    return result
