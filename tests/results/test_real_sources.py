"""Real scanners' headers behind the results: what comes out is valid whatever came in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom.uid import CTImageStorage
from results_synthetic import (
    UID_ROOT,
    Case,
    context,
    findings_of,
    masks,
    on_reformat,
    refused,
    upright_vertebra,
)

from inference.grading import grade
from inference.reformat import coronal, reformat
from inference.surface import CentreLine, CurvedSurface
from node.gate import GatePolicy, LoadedSeries, load_volume, read_headers
from node.gate.headers import has_valid_identifiers
from node.results import Result, encode

Validate = Callable[[Result], list[str]]


@pytest.fixture(scope="module")
def abdomen(real_data: Path) -> LoadedSeries:
    """The real abdomen as the gate gives it."""
    paths = sorted((real_data / "totalsegmentator" / "example_ct_series").glob("*.dcm"))
    loaded = load_volume(read_headers(paths).headers, GatePolicy())
    assert isinstance(loaded, LoadedSeries)
    return loaded


def _screened(series: LoadedSeries) -> Case:
    """Made-up vertebrae on a straight line through a real volume: the images are real, the findings are not."""
    corners = series.volume.to_lps(np.array([[0.0, 0, 0], np.array(series.volume.hu.shape) - 1.0]))
    low, high = corners.min(axis=0), corners.max(axis=0)
    z = np.linspace(high[2] - 10, low[2] + 10, 50)
    x, y = (low[:2] + high[:2]) / 2
    line = CentreLine(np.column_stack([np.full(50, x), np.full(50, y), z]), np.ones(50))
    surface = CurvedSurface.through(line)
    spacing = series.spacing_along_normal_mm
    made = [upright_vertebra(i, 20.0 + 40 * i, 24.0, (1.0, 1.0, 1.0), line, surface) for i in range(5)]
    graded = grade(made, spacing)
    picture = reformat(series.volume, line, surface)
    drawn = on_reformat(picture, {v.ordinal: v.keypoints_lps_mm for v in graded})
    labels, parts = masks(series.volume, picture, surface, drawn)
    return Case(
        findings_of(graded, spacing),
        picture,
        labels,
        series.volume,
        series.datasets,
        coronal(series.volume, line),
        parts,
        drawn,
    )


def test_objects_of_a_real_series_are_valid_and_lie_on_its_grid(
    abdomen: LoadedSeries, validation_errors: Validate, program: Callable[[str], str], tmp_path: Path
) -> None:
    case = _screened(abdomen)
    results = {r.kind: r for r in encode(abdomen.datasets, case, context(), abdomen.references)}
    assert {kind: validation_errors(r) for kind, r in results.items()} == {kind: [] for kind in results}

    # SimpleITK places the source series by itself: every voxel of the segmentation lies on one of its voxels
    reader = SimpleITK.ImageSeriesReader()
    folder = str(Path(str(abdomen.datasets[0].filename)).parent)
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    source = reader.Execute()
    seg = results["segmentation"].dataset
    plane = seg.SharedFunctionalGroupsSequence[0]
    assert [float(v) for v in plane.PixelMeasuresSequence[0].PixelSpacing] == pytest.approx(source.GetSpacing()[:2])
    origins = set()
    for frame in seg.PerFrameFunctionalGroupsSequence:
        position = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
        index = np.array(source.TransformPhysicalPointToContinuousIndex(position))
        assert index == pytest.approx(np.round(index), abs=1e-3)
        assert index[:2] == pytest.approx([0, 0], abs=1e-3)
        origins.add(round(index[2]))
    assert len(origins) == len(np.flatnonzero(case.labels.any(axis=(1, 2))))  # type: ignore[union-attr]
    for keyword in ("PatientID", "StudyInstanceUID", "StudyDate"):
        assert seg.get(keyword, "") == abdomen.datasets[0].get(keyword, "")


def test_a_refusal_of_every_real_series_is_valid(real_data: Path, validation_errors: Validate) -> None:
    folders = sorted(
        {p.parent for p in (real_data / "tcia-covid19-ny-sbu").rglob("*.dcm")}
        | {real_data / "totalsegmentator" / "example_ct_dicom"}
    )
    assert len(folders) > 10
    for folder in folders:
        read = read_headers(sorted(p for p in folder.iterdir() if p.is_file())[:3])
        datasets = [header.dataset for header in read.headers]
        assert datasets, folder
        for number, (header, dataset) in enumerate(zip(read.headers, datasets, strict=True), start=1):
            if not has_valid_identifiers(header):  # anonymised away; C-STORE does not carry such an object
                dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{UID_ROOT}5.{number}"
                dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{UID_ROOT}6", f"{UID_ROOT}7"
        for result in encode(datasets, refused(), context()):
            assert validation_errors(result) == [], folder
