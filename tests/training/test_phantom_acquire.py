"""The phantom's images: attenuation, partial volume, geometry of grids, fields of view, negatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_models.training.phantom import (
    TRAINING,
    Patient,
    acquire,
    canonical_grid,
    render,
    sample_grid,
    sample_negative,
    sample_patient,
    slice_truth,
)
from onnx_models.training.phantom.cases import NEGATIVES, demo_grid, demo_patient

PLAIN = replace(
    TRAINING,
    noise_hu=(0.01, 0.02),
    blur_mm=(0.1, 0.1),
    slice_blur_mm=(0.1, 0.1),
    sharp_kernel=0.0,
    hu_offset=(0.0, 0.0),
    bias=0.0,
    round_fov=0.0,
)


@pytest.fixture(scope="module")
def patient() -> Patient:
    return sample_patient(
        np.random.default_rng(3), replace(TRAINING, soft_hu_shift=(0.0, 0.0), metal=0.0, cement=0.0, clutter=(0, 0))
    )


def test_air_is_air_and_water_is_water() -> None:
    p = sample_negative(np.random.default_rng(1), kind="cylinder")
    assert p.hu(np.array([[190.0, 190.0, 0.0]]))[0] == pytest.approx(-1000, abs=1)
    assert p.hu(np.array([[0.0, 0.0, 20.0]]))[0] == pytest.approx(0, abs=1)
    grid = canonical_grid(np.array([-6.0, -6.0, -6.0]), np.array([6.0, 6.0, 6.0]), (3.0, 3.0, 3.0))
    volume = acquire(p, grid, np.random.default_rng(0), PLAIN)
    assert volume.hu.dtype == np.int16
    assert np.abs(volume.hu).max() <= 1


def test_bone_is_denser_than_muscle_and_lung_is_nearly_air(patient: Patient) -> None:
    v = {v.level: v for v in patient.vertebrae}
    wall = v["L3"].keypoints_lps_mm[[0, 1]].mean(0)
    ring = wall + v["L3"].frame[1] * np.linspace(0, 6, 30)[:, None]
    assert patient.hu(ring, 0.2).max() > 240, "the anterior wall has a cortical shell"
    lung = v["T7"].centroid_lps_mm + np.array([[75.0, -30.0, 0.0], [-75.0, -30.0, 0.0]])
    assert (patient.hu(lung) < -550).all()
    z = v["L2"].centroid_lps_mm[2]
    assert patient.hu(np.array([[400.0, 0.0, z]]))[0] == pytest.approx(-1000, abs=1)
    behind = v["L3"].centroid_lps_mm + np.array([[28.0, 48.0, 0.0]])
    assert -130 < patient.hu(behind)[0] < 120


def test_partial_volume_keeps_the_mean(patient: Patient) -> None:
    """A coarse sample is about the mean of fine ones: surfaces do not move with the spacing."""
    v = {v.level: v for v in patient.vertebrae}["L2"]
    low, high = v.centroid_lps_mm - 30, v.centroid_lps_mm + 30
    coarse = render(patient, canonical_grid(low, high, (3.0, 3.0, 3.0)))
    fine = render(patient, canonical_grid(low, high, (1.0, 1.0, 1.0)))
    mean = fine.reshape(20, 3, 20, 3, 20, 3).mean((1, 3, 5))
    assert abs(float((coarse - mean).mean())) < 6
    assert float(np.corrcoef(coarse.ravel(), mean.ravel())[0, 1]) > 0.95


def test_thick_slices_are_means_of_thin_ones(patient: Patient) -> None:
    v = {v.level: v for v in patient.vertebrae}["T9"]
    low, high = v.centroid_lps_mm - 20, v.centroid_lps_mm + 20
    thick = render(patient, canonical_grid(low, high, (5.0, 1.0, 1.0)))
    thin = render(patient, canonical_grid(low, high, (1.25, 1.0, 1.0)))
    np.testing.assert_allclose(thick, thin.reshape(8, 4, 40, 40).mean(1), atol=1.0)


def test_the_grid_is_canonical_and_truth_lies_in_the_vertebrae(patient: Patient) -> None:
    grid = sample_grid(
        patient, np.random.default_rng(0), replace(TRAINING, narrow_fov=0.0, truncated_fov=0.0), region="spine"
    )
    assert grid.spacing_mm == pytest.approx((3, 3, 3))
    assert grid.affine[2, 0] < 0 < min(grid.affine[1, 1], grid.affine[0, 2]), "head first, front first, right first"
    truth = slice_truth(patient, grid)
    volume = acquire(patient, grid, np.random.default_rng(0))
    for v in patient.vertebrae:
        k = int(np.rint(volume.to_index(v.centroid_lps_mm)[0]))
        if not 0 <= k < grid.shape[0]:
            continue
        row, column = truth.centre[k]
        point = volume.to_lps(np.array([k, row, column]))
        assert truth.present[k]
        assert patient.label(point)[0] == patient.vertebrae.index(v) + 1
    z = grid.affine[2, 0] * np.arange(grid.shape[0]) + grid.affine[2, 3]
    assert not truth.present[z < patient.presence_mm[0]].any()
    assert not truth.present[z > patient.presence_mm[1]].any()


def test_fields_of_view_crop_as_asked() -> None:
    margins, truncated, off = [], 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        p = sample_patient(rng)
        grid = sample_grid(p, rng, replace(TRAINING, narrow_fov=1.0))
        assert 140 <= grid.shape[2] * 3 <= 195
        truth = slice_truth(p, grid)
        z = grid.affine[2, 0] * np.arange(grid.shape[0]) + grid.affine[2, 3]
        crosses = (z > p.presence_mm[0]) & (z < p.presence_mm[1])
        truncated += bool((crosses & ~truth.present).any() and truth.present.any())
        margins.append(1 - float(truth.centre[crosses, 0].mean() + 0.5) / grid.shape[1])
        off += bool(slice_truth(p, sample_grid(p, rng, region="off-spine")).present.any())
    assert min(margins) < 0.2, "the spine comes close to the posterior edge"
    assert 1 <= truncated <= 30, "in some the spine leaves the field of view"
    assert off <= 2, "an off-spine field of view misses the spine"


def test_acquisition_is_deterministic_and_noisy(patient: Patient) -> None:
    v = {v.level: v for v in patient.vertebrae}["L2"].centroid_lps_mm
    grid = canonical_grid(v - 40, v + 40, (2.0, 1.0, 1.0))
    a, b, c = (acquire(patient, grid, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.hu, b.hu)
    assert np.std(a.hu.astype(float) - c.hu) > 3
    assert int(a.hu.min()) >= -1024


def test_metal_throws_streaks_across_its_slices_only() -> None:
    p = sample_patient(np.random.default_rng(3), replace(PLAIN, metal=1.0, cement=0.0))
    carriers = [v.centroid_lps_mm for v in p.vertebrae if v.metal]
    assert carriers
    middle = np.mean(carriers, axis=0)
    half = np.array([60.0, 60.0, 9.0])
    grid = canonical_grid(middle - half, middle + half, (3.0, 1.5, 1.5))
    clean, seen = render(p, grid), acquire(p, grid, np.random.default_rng(0), PLAIN).hu.astype(float)
    metal = clean.max((1, 2)) > 2200
    assert metal.any()
    soft = np.abs(clean - 50) < 40
    spread = [np.median(np.abs((seen - clean)[k][soft[k]])) for k in range(len(metal))]
    assert min(np.array(spread)[metal]) > 1.0
    assert all(s < 0.6 for s in np.array(spread)[~metal])


def test_an_oblique_grid_shows_the_same_anatomy(patient: Patient) -> None:
    grid = sample_grid(patient, np.random.default_rng(4), replace(TRAINING, oblique_deg=(12.0, 12.0)), region="chest")
    rows = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    np.testing.assert_allclose(rows.T @ rows, np.eye(3), atol=1e-9)
    assert abs(rows[2, 0]) < 0.9999
    volume = acquire(patient, grid, np.random.default_rng(0), PLAIN)
    index = np.array([5, 20, 30])
    assert float(volume.hu[tuple(index)]) == pytest.approx(float(patient.hu(volume.to_lps(index), 3.0)[0]), abs=2)
    with pytest.raises(ValueError, match="axis-aligned"):
        slice_truth(patient, grid)


@pytest.mark.parametrize("kind", NEGATIVES)
def test_negatives_have_no_spine_and_no_truth(kind: str) -> None:
    rng = np.random.default_rng(2)
    p = sample_negative(rng, kind=kind)
    assert not p.vertebrae and not p.has_spine
    grid = sample_grid(p, rng)
    assert not slice_truth(p, grid).present.any()
    assert np.isfinite(acquire(p, grid, rng).hu).all()
    assert p.label(np.zeros((1, 3)))[0] == 0
    with pytest.raises(ValueError, match="no spine"):
        p.centre_line(0.0)


def test_the_demo_patient_has_a_severe_crush_and_a_moderate_wedge() -> None:
    p = demo_patient()
    deformed = {v.level: v for v in p.vertebrae if v.deformity != "none"}
    assert {name: v.deformity for name, v in deformed.items()} == {"T8": "wedge", "L1": "crush"}
    assert deformed["L1"].loss.max() >= 0.45
    assert 0.27 <= deformed["T8"].loss.max() <= 0.38
    grid = demo_grid(p)
    assert grid.shape[0] >= 200 and 1.0 <= grid.spacing_mm[0] <= 1.25
