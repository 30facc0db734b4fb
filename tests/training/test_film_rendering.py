"""Films of the phantom: the perspective, the line integrals, and the projected truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_models.training import film_kernels
from onnx_models.training.film_geometry import FRONTAL, ConeBeam, cone_beam, to_image
from onnx_models.training.film_rendering import couch_groups, fine_groups, only, render_film, voxels
from onnx_models.training.film_truth import FilmTruth, coverage, film_truth, section, union
from onnx_models.training.phantom import TRAINING, Patient, Plan, sample_negative, sample_patient

PLAIN = replace(
    TRAINING, contrast=0.0, clutter=(0, 0), metal=0.0, cement=0.0, arms_down=0.0, trabecular_hu=(180.0, 200.0)
)


@pytest.fixture(scope="module")
def patient() -> Patient:
    plan = Plan({"L1": ("wedge", 0.4), "L3": ("biconcave", 0.35)}, cobb_deg=12.0, standard_levels=True, scale=1.0)
    return sample_patient(np.random.default_rng(5), PLAIN, plan)


def body(patient: Patient, level: str) -> int:
    return next(i for i, v in enumerate(patient.vertebrae) if v.level == level)


def close_up(patient: Patient, level: str = "L2", **more: float) -> ConeBeam:
    """A small film of one vertebra."""
    centre = patient.vertebrae[body(patient, level)].centroid_lps_mm
    return cone_beam(centre, 44, 52, long_side=56, **more)


def test_a_point_on_a_ray_is_projected_to_where_the_ray_ends() -> None:
    beam = cone_beam([4, -30, 20], 300, 200, rotation_deg=7, tilt_deg=-4, roll_deg=3, off_centre_mm=(12, -9))
    at = np.array([[0.0, 0.0], [17.25, 300.5], [511.0, 12.0]])
    ends = beam.place(at)
    half_way = beam.source_lps_mm + 0.6 * (ends - beam.source_lps_mm)
    np.testing.assert_allclose(beam.project(half_way), at, atol=1e-8)
    np.testing.assert_allclose(beam.magnification(half_way), 1 / 0.6, rtol=1e-12)


def test_distances_and_magnification_are_as_asked_for() -> None:
    beam = cone_beam([0, 0, 0], 400, 250, source_detector_mm=1500, object_detector_mm=300)
    assert beam.source_detector_mm == pytest.approx(1500)
    assert beam.magnification([0, 0, 0]) == pytest.approx(1500 / 1200)
    a, b = beam.project([[0, 0, 100], [0, 0, -100]])
    assert np.linalg.norm(a - b) * beam.pitch_mm == pytest.approx(200 * 1.25)
    assert beam.shape[0] == 512
    assert beam.shape[0] * beam.pitch_mm == pytest.approx(400 * 1.25)


def test_rows_run_to_the_feet_and_columns_to_the_back_or_to_the_left() -> None:
    for reverse in (False, True):
        lateral = cone_beam([0, 0, 0], 300, 300, reverse=reverse)
        middle, below, behind = lateral.project([[0, 0, 0], [0, 0, -50], [0, 50, 0]])
        assert below[0] > middle[0]
        assert behind[1] > middle[1]
        frontal = cone_beam([0, 0, 0], 300, 300, view=FRONTAL, reverse=reverse)
        middle, left = frontal.project([[0, 0, 0], [50, 0, 0]])
        assert left[1] > middle[1]


def test_the_middle_of_the_first_pixel_is_half_a_pixel_into_the_image() -> None:
    np.testing.assert_array_equal(to_image([[0, 0], [3, 7]]), [[0.5, 0.5], [7.5, 3.5]])


def test_a_view_or_a_distance_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="views are"):
        cone_beam([0, 0, 0], 300, 300, view="oblique")
    with pytest.raises(ValueError, match="not between"):
        cone_beam([0, 0, 0], 300, 300, object_detector_mm=2000)


def test_a_cube_of_water_has_the_analytic_line_integral() -> None:
    """A cube of 100 mm, voxels of 1 mm: along any ray 10 cm over the cosine of its angle to the faces."""
    air = np.full((140, 140, 140), -1000.0, np.float32)
    air[20:120, 20:120, 20:120] = 0.0
    beam = cone_beam([0, 0, 0], 40, 40, long_side=9, source_detector_mm=1000, object_detector_mm=150)
    low = np.full(3, -69.5, np.float32)
    found = film_kernels.soft_integrals(
        air, low, np.float32(1), *(np.asarray(v, np.float32) for v in beam_arrays(beam)), np.array(beam.shape),
        np.float32(0.5),
    )  # fmt: skip
    along = beam.place(np.stack(np.meshgrid(range(9), range(9), indexing="ij"), -1)) - beam.source_lps_mm
    cosine = np.abs(along[..., 0]) / np.linalg.norm(along, axis=-1)
    np.testing.assert_allclose(found, 10.0 / cosine, rtol=2e-4)


def beam_arrays(beam: ConeBeam) -> tuple[NDArray[np.float64], ...]:
    return beam.source_lps_mm, beam.corner_lps_mm, beam.row_step_mm, beam.column_step_mm


def brute_force(patient: Patient, beam: ConeBeam, step: float = 0.2) -> NDArray[np.float32]:
    """cm of water by equal steps through the scene itself."""
    packed = patient.packed
    keep = np.ones(len(packed[6]), bool)
    keep[couch_groups(packed)] = False
    bare = replace(patient, packed=only(packed, keep))
    out = np.empty(beam.shape, np.float32)
    for row in range(beam.shape[0]):
        ends = beam.place(np.stack([np.full(beam.shape[1], row), np.arange(beam.shape[1])], -1))
        way = ends - beam.source_lps_mm
        length = np.linalg.norm(way, axis=1)
        middle = beam.source_detector_mm - 220.0
        t = np.arange(middle - 250, middle + 219, step) + step / 2
        points = beam.source_lps_mm + (way / length[:, None])[:, None] * t[:, None]
        hu = bare.hu(points.reshape(-1, 3), 0.8).reshape(len(ends), len(t))
        out[row] = np.maximum(0, 1 + hu / 1000).sum(1) * step / 10
    return out


def test_marching_agrees_with_brute_force(patient: Patient) -> None:
    centre = patient.vertebrae[body(patient, "L2")].centroid_lps_mm
    beam = cone_beam(centre, 44, 52, long_side=18)
    found = render_film(patient, beam)
    expected = brute_force(patient, beam)
    off = found.total - expected
    assert found.bone.max() > 1.0
    assert abs(off.mean()) < 0.01 * expected.mean()
    assert np.abs(off).max() < 0.03 * expected.mean()


def test_steps_of_half_a_millimetre_are_fine_enough(patient: Patient) -> None:
    beam = close_up(patient)
    usual = render_film(patient, beam).bone
    packed = only(patient.packed, fine_groups(patient.packed))
    volume, low = voxels(patient, only(patient.packed, ~fine_groups(patient.packed)), beam)
    arrays = (np.asarray(v, np.float32) for v in beam_arrays(beam))
    exact = film_kernels.bone_integrals(
        *arrays, np.array(beam.shape), np.float32(0.8), np.float32(0.05), np.float32(0.05),
        np.zeros(len(packed[6]), bool), volume, low, np.float32(3), *packed[3:],
    )[0]  # fmt: skip
    assert abs(usual.mean() / exact.mean() - 1) < 0.01
    assert np.corrcoef(usual.ravel(), exact.ravel())[0, 1] > 0.999


def test_bone_is_brightest_where_the_truth_has_bodies(patient: Patient) -> None:
    beam = close_up(patient, "L3")
    bone = render_film(patient, beam).bone
    mask = coverage(film_truth(patient, beam).outlines[0], beam.shape)
    assert bone[mask > 0.9].mean() > 1.5 * bone[mask == 0].mean()


@pytest.mark.parametrize("turned", [(0.0, 0.0, 0.0), (9.0, -5.0, 4.0)])
def test_the_projected_six_points_are_the_projections_of_the_six_points(
    patient: Patient, turned: tuple[float, float, float]
) -> None:
    """They lie on the outline of the projected section, the posterior ones on the concave wall."""
    rotation, tilt, roll = turned
    centre = patient.vertebrae[body(patient, "L2")].centroid_lps_mm
    beam = cone_beam(centre, 330, 200, rotation_deg=rotation, tilt_deg=tilt, roll_deg=roll)
    truth = film_truth(patient, beam)
    assert {"T12", "L1", "L2", "L3", "L4"} <= set(truth.levels)
    for i, level in enumerate(truth.levels):
        v = patient.vertebrae[body(patient, level)]
        np.testing.assert_allclose(truth.points[i], beam.project(v.keypoints_lps_mm))
        for point in truth.points[i]:
            assert distance_to(truth.outlines[i], point) < 0.25
        # straight lines between the corners would run behind the concave walls
        wall = truth.outlines[i][16:32].mean(0)
        chord = truth.points[i, 4:].mean(0)
        front = truth.points[i, :2].mean(0)
        assert (chord - wall) @ (chord - front) >= -0.05 * np.linalg.norm(chord - front)


def distance_to(outline: NDArray[np.float64], point: NDArray[np.float64]) -> float:
    a, b = outline, np.roll(outline, -1, axis=0)
    way = b - a
    t = np.clip(((point - a) * way).sum(1) / np.maximum((way**2).sum(1), 1e-12), 0, 1)
    return float(np.linalg.norm(point - a - t[:, None] * way, axis=1).min())


def test_sections_lie_on_the_surface_of_the_body(patient: Patient) -> None:
    assert patient.column is not None
    for level in ("T8", "L1", "L3", "S1"):
        i = patient.column.levels.index(level)
        row = patient.column.table[i]
        for aside in (0.0, -0.5, 0.8):
            points = section(row, aside)
            distance = patient.part_distances(points, body(patient, level) + 1)[:, 0]
            assert np.abs(distance).max() < 0.35, (level, aside)  # its roughness is 0.09 mm of unit variance


def test_the_section_has_the_heights_of_the_body_and_the_silhouette_is_taller(patient: Patient) -> None:
    beam = close_up(patient, "L3")
    truth = film_truth(patient, beam)
    i = truth.levels.index("L3")
    shape = beam.shape
    mask, shadow = coverage(truth.outlines[i], shape), union(truth.silhouettes[i], shape)
    assert (shadow >= mask - 1e-3).all()
    middle = round(truth.centres[i][1])
    in_mm = beam.pitch_mm / truth.magnification[i]
    assert mask[:, middle].sum() * in_mm == pytest.approx(truth.heights_mm[i, 1], abs=0.8)
    assert shadow[:, middle].sum() * in_mm > truth.heights_mm[i, 1] + 1.0


def test_a_polygon_covers_its_area_wherever_it_lies() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        polygon = rng.uniform(8, 22, 2) + 6 * np.stack([np.sin(angle), np.cos(angle)], 1)
        y, x = polygon.T
        area = 0.5 * abs((y * np.roll(x, -1) - x * np.roll(y, -1)).sum())
        assert coverage(polygon, (30, 30)).sum() == pytest.approx(area, rel=0.01)
    square = np.array([[1.5, 2.5], [1.5, 5.5], [3.5, 5.5], [3.5, 2.5]])
    expected = np.zeros((6, 8), np.float32)
    expected[2:4, 3:6] = 1
    np.testing.assert_allclose(coverage(square, (6, 8)), expected)
    assert coverage(square - 10, (6, 8)).sum() == 0


def test_truth_moves_with_the_film(patient: Patient) -> None:
    truth = film_truth(patient, close_up(patient))
    mirrored = truth.moved([[1, 0, 0], [0, -1, 55]])
    np.testing.assert_allclose(mirrored.points[..., 1], 55 - truth.points[..., 1])
    np.testing.assert_allclose(mirrored.outlines[..., 0], truth.outlines[..., 0])
    assert isinstance(mirrored, FilmTruth)


def test_what_has_no_spine_is_rendered_without_truth() -> None:
    arm = sample_negative(np.random.default_rng(2), TRAINING, "arm")
    beam = cone_beam([0, 0, 0], 240, 160, long_side=48)
    film = render_film(arm, beam)
    assert film.bone.max() > 0.3
    assert film_truth(arm, beam).levels == []
