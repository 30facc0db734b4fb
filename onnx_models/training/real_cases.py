"""The real images that a model is looked at with; none is ever trained on or shipped.

They lie beside the project (``../shared/data``, or the folder named by ``SPINE_NODE_REAL_DATA``), with silver labels
that another model made. Read with nibabel; everything is turned into LPS.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from numpy.typing import NDArray

from inference.geometry import Volume

REPOSITORY = Path(__file__).resolve().parents[2]
LABELS = {33: "T11", 32: "T12", 31: "L1", 30: "L2", 29: "L3", 28: "L4", 27: "L5", 26: "S1"}
"""Numbers of the silver labels (TotalSegmentator)."""
WHOLE = ("L1", "L2", "L3", "L4", "L5")
"""Levels of the example CT that must be found; T11 is cut by the upper edge."""


@dataclass(frozen=True)
class RealCase:
    """One real volume and what is known of it.

    Attributes
    ----------
    name
        Folder or file it comes from.
    volume
        As read, on its source grid.
    spine
        Whether whole vertebral bodies are in view: ``True``, ``False``, or ``None`` where only a cut part is.
    centroids_lps_mm
        Silver body centroids by level; empty where there are none.
    heights_mm
        Silver (anterior, middle, posterior) by level, quantised to 1.5 mm.
    """

    name: str
    volume: Volume
    spine: bool | None
    centroids_lps_mm: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    heights_mm: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def real_folder() -> Path | None:
    """The folder of real images, or ``None`` where it is absent."""
    folder = Path(os.environ.get("SPINE_NODE_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if (folder / "README.md").is_file() else None


def nifti(path: Path) -> Volume:
    """A NIfTI file as a volume with axes (slice, row, column): its third, second and first axis; RAS becomes LPS."""
    image = nibabel.load(path)  # type: ignore[attr-defined]
    values = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, np.float64)  # type: ignore[attr-defined]
    affine = to_lps[:, [2, 1, 0, 3]]
    return Volume(np.ascontiguousarray(values.transpose(2, 1, 0)).astype(np.int16), affine)


def _example_ct(folder: Path) -> RealCase:
    silver = folder / "spine_report" / "example_ct_report"
    volume = nifti(folder / "example_ct.nii.gz")
    labels = nifti(silver / "totalseg.nii.gz")
    bodies = nifti(silver / "totalseg_vertebrae_body.nii.gz").hu == 1
    centroids = {}
    for number, level in LABELS.items():
        index = np.argwhere((labels.hu == number) & bodies)
        if len(index):
            centroids[level] = labels.to_lps(index.mean(axis=0))
    return RealCase("example_ct", volume, True, centroids, _silver_heights(silver / "spine_report.json"))


def _silver_heights(path: Path) -> dict[str, tuple[float, float, float]]:
    results = json.loads(path.read_text())["results"]
    parts = ("anterior", "middle", "posterior")
    return {level: tuple(results[f"vertebrae_{level}_height_{p}_mm"] for p in parts) for level in WHOLE}  # type: ignore[misc]


def dicom_series(folder: Path) -> Volume:
    """A DICOM series of axial images, read by SimpleITK and sorted by position."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing()))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Volume(SimpleITK.GetArrayFromImage(image).astype(np.int16), affine)


def real_cases() -> list[RealCase]:
    """Every real CT volume; empty where the folder is absent."""
    root = real_folder()
    if root is None:
        return []
    folder = root / "totalsegmentator"
    return [
        _example_ct(folder),
        RealCase("aorta crop", nifti(folder / "aorta_report_test_result_models_ct_cropped.nii.gz"), None),
        RealCase("pulmonary crop", nifti(folder / "pulmonary_report_models_ct_cropped.nii.gz"), False),
        RealCase("example_ct_dicom (20 slices)", dicom_series(folder / "example_ct_dicom"), True),
    ]
