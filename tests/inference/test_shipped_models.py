"""The shipped networks on phantoms with known truth, and on real images where they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from inference.ct import CtSettings, evaluate
from inference.findings import KEYPOINTS, Grade, Level
from inference.geometry import Volume
from inference.masks import BODY
from inference.refusal import RefusalCode
from inference.runtime import Models, load_models
from inference.sampling import inside
from onnx_models.training.phantom import (
    Patient,
    acquire,
    canonical_grid,
    gibbus_patient,
    kyphotic_patient,
    scoliotic_patient,
)
from onnx_models.training.phantom.cases import DEMO

SHIPPED = Path(__file__).resolve().parents[2] / "onnx_models"
SILVER = {31: "L1", 30: "L2", 29: "L3", 28: "L4", 27: "L5"}


@pytest.fixture(scope="module")
def shipped() -> Models:
    return load_models(SHIPPED, "cpu", threads=1, names=CtSettings().networks)


def keypoints_of(vertebra) -> np.ndarray:
    return np.array([getattr(vertebra.keypoints_lps_mm, name) for name in KEYPOINTS])


def scan(patient: Patient) -> Volume:
    """Chest and abdomen, 1.5 mm slices, the trunk behind the heart."""
    seen = [v.keypoints_lps_mm for v in patient.vertebrae if v.level in ("T4", "T8", "T12", "L3", "S1")]
    points = np.concatenate(seen)
    low = points.min(axis=0) - np.array([75, 85, 20])
    high = points.max(axis=0) + np.array([75, 70, 15])
    grid = canonical_grid(low, high, (1.5, 1.3, 1.3))
    return acquire(patient, grid, np.random.default_rng(5), DEMO)


@pytest.mark.parametrize("make", [kyphotic_patient, gibbus_patient, scoliotic_patient])
def test_drawn_lines_and_heights_are_right_on_bent_spines(make: Callable[[int], Patient], shipped: Models) -> None:
    """60 degrees of kyphosis, a gibbus of 30 degrees, scoliosis: every height drawn as reported, and true; no name is
    wrong, and masks lie on their vertebrae."""
    patient = make(1)
    volume = scan(patient)
    result = evaluate(volume, shipped, age_years=70)
    measured = [v for v in result.findings.vertebrae if v.heights_mm]
    truth = [v for v in patient.vertebrae if v.level != "S1" and inside(volume, v.keypoints_lps_mm, 3.0).all()]
    errors = []
    for vertebra in truth:
        near = [m for m in measured if np.linalg.norm(np.array(m.centroid_lps_mm) - vertebra.centroid_lps_mm) < 6]
        assert len(near) == 1, f"{vertebra.level} found {len(near)} times"
        errors.extend(np.array(near[0].heights_mm.as_tuple()) - vertebra.heights_mm)
        assert near[0].level in (None, vertebra.level)
        at = tuple(np.rint(volume.to_index(np.array(vertebra.centroid_lps_mm))).astype(int))
        assert (result.labels[at], result.parts[at]) == (near[0].ordinal, BODY)
    assert len(truth) >= 14
    stated = measured[0].height_uncertainty_mm
    assert np.mean(np.abs(errors) < 2 * stated) > 0.95
    assert np.mean(np.abs(errors)) < 0.8
    for vertebra in measured:
        drawn = result.reformat.to_pixel(keypoints_of(vertebra))
        pixels = np.linalg.norm(drawn[0::2] - drawn[1::2], axis=1) * result.reformat.spacing_mm
        assert pixels == pytest.approx(vertebra.heights_mm.as_tuple(), rel=0.02)


def nifti(path: Path, dtype=np.int16) -> Volume:
    """Third, second and first axis as (slice, row, column); RAS becomes LPS."""
    image = nibabel.load(path)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    affine = affine[:, [2, 1, 0, 3]]
    return Volume(np.ascontiguousarray(np.asarray(image.dataobj).transpose(2, 1, 0)).astype(dtype), affine)


@pytest.mark.real_data
def test_the_healthy_abdomen(real_data: Path, shipped: Models) -> None:
    """L1 to L5 once each and nothing else measured: not S1, no disc, not T11, which the upper edge cuts."""
    folder = real_data / "totalsegmentator"
    volume = nifti(folder / "example_ct.nii.gz")
    report = folder / "spine_report" / "example_ct_report"
    silver, parts = (nifti(report / f"totalseg{s}.nii.gz", np.uint8) for s in ("", "_vertebrae_body"))
    bodies = silver.hu * (parts.hu == 1)
    result = evaluate(volume, shipped, age_years=55)
    measured = [v for v in result.findings.vertebrae if v.heights_mm]
    found = []
    for vertebra in measured:
        distance = {
            name: np.linalg.norm(
                np.array(vertebra.centroid_lps_mm) - silver.to_lps(np.argwhere(bodies == n).mean(axis=0))
            )
            for n, name in SILVER.items()
        }
        name = min(distance, key=lambda n: distance[n])
        found.append(name)
        assert distance[name] < 4, f"{vertebra.name} lies {distance[name]:.1f} mm from {name}"
    assert found == ["L1", "L2", "L3", "L4", "L5"]
    assert result.findings.patient.flag is False
    assert not any(v.grade in (Grade.MODERATE, Grade.SEVERE) for v in measured)
    for vertebra, (n, name) in zip(measured, SILVER.items(), strict=True):
        assert vertebra.level in (None, Level(name)), f"{name} was called {vertebra.level}"
        index = np.argwhere(result.labels == vertebra.ordinal)
        there = np.rint(silver.to_index(volume.to_lps(index))).astype(int)
        own = silver.hu[tuple(there.T)]
        assert (own == n).mean() >= 0.8 and np.isin(own, [n, 0]).mean() >= 0.97, f"the mask of {name} is elsewhere"
        assert (own == n).sum() / (silver.hu == n).sum() * np.prod(volume.spacing_mm) / np.prod(silver.spacing_mm) > 0.6


@pytest.mark.real_data
def test_a_heart_without_a_spine_is_refused(real_data: Path, shipped: Models) -> None:
    volume = nifti(real_data / "totalsegmentator" / "pulmonary_report_models_ct_cropped.nii.gz")
    findings = evaluate(volume, shipped, age_years=60).findings
    assert findings.refusal.code in (
        RefusalCode.NO_SPINE_FOUND,
        RefusalCode.TOO_LITTLE_SPINE,
        RefusalCode.NO_VERTEBRA_FOUND,
    )
    assert findings.vertebrae == ()


@pytest.mark.real_data
def test_a_few_slices_are_too_little(real_data: Path, shipped: Models) -> None:
    whole = nifti(real_data / "totalsegmentator" / "example_ct.nii.gz")
    affine = whole.affine.copy()
    affine[:3, 3] = whole.to_lps(np.array([60.0, 0, 0]))
    findings = evaluate(Volume(whole.hu[60:74], affine), shipped, age_years=55).findings
    assert findings.refusal.code in (RefusalCode.TOO_LITTLE_SPINE, RefusalCode.NO_SPINE_FOUND)
