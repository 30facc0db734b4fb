"""Images out of line integrals, and films on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnx_models.training.film_data import (
    VIEWS,
    Placement,
    StoredFilm,
    end_plate_visibility,
    formed,
    sample_placement,
    seen_part,
)
from onnx_models.training.film_formation import exposed_field, form, smooth_field
from onnx_models.training.film_geometry import cone_beam
from onnx_models.training.film_look import Look, sample_look
from onnx_models.training.film_rendering import LineIntegrals, render_film
from onnx_models.training.film_truth import coverage, film_truth
from onnx_models.training.phantom import TRAINING, sample_patient

CLEAN = Look(counts=1e9)
STRAIGHT = Placement()


@pytest.fixture(scope="module")
def film() -> StoredFilm:
    ranges = replace(TRAINING, trabecular_hu=(180.0, 200.0), contrast=0.0, metal=0.0, cement=0.0, arms_down=0.0)
    patient = sample_patient(np.random.default_rng(5), ranges)
    centre = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == "L2")
    beam = cone_beam(centre, 170, 110, long_side=150)
    return StoredFilm(render_film(patient, beam), film_truth(patient, beam), VIEWS[0], beam.pitch_mm, {"seed": 5})


def wedge(bone: float = 0.0) -> LineIntegrals:
    """Water from 10 to 20 cm from left to right, a block of bone in the middle."""
    soft = np.tile(np.linspace(10, 20, 60, dtype=np.float32), (80, 1))
    block = np.zeros_like(soft)
    block[30:50, 20:40] = bone
    return LineIntegrals(soft, block, np.zeros_like(soft))


def test_without_anything_the_image_is_linear_in_the_path() -> None:
    image, exposed = form(wedge(), replace(CLEAN, low=0.0, high=0.0), np.random.default_rng(1))
    assert exposed.all()
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[40], np.linspace(0, 1, 60), atol=2e-3)


def test_bone_is_bright_and_scatter_takes_its_contrast() -> None:
    rng = np.random.default_rng(1)
    contrast = []
    for scatter in (0.0, 1.5):
        image, _ = form(wedge(2.0), replace(CLEAN, scatter=scatter, scatter_width=0.3), rng)
        contrast.append(float(image[40, 30] - 0.5 * (image[25, 30] + image[55, 30])))
    assert contrast[0] > 0.1
    assert 0.2 * contrast[0] < contrast[1] < 0.8 * contrast[0]


def test_hollow_bone_keeps_its_edges_and_spread_bone_its_amount() -> None:
    shown = wedge(3.0)
    whole, hollow, spread = (
        form(shown, replace(CLEAN, hollow=h, bone_blur=b), np.random.default_rng(1))[0]
        for h, b in ((0, 0), (1, 0), (0, 2))
    )
    without = form(wedge(), CLEAN, np.random.default_rng(1))[0]
    inside, edge = (slice(38, 42), slice(28, 32)), (slice(30, 31), slice(28, 32))
    assert (hollow - without)[inside].mean() < 0.4 * (whole - without)[inside].mean()
    assert (hollow - without)[edge].mean() > 1.5 * (hollow - without)[inside].mean()
    assert spread[26:29, 28:32].mean() > whole[26:29, 28:32].mean() + 0.01  # beyond the edge


def test_inverted_films_have_dark_bone() -> None:
    image, _ = form(wedge(2.0), replace(CLEAN, inverted=True), np.random.default_rng(1))
    assert image[40, 30] < image[25, 30]


def test_fewer_quanta_are_noisier() -> None:
    noise = []
    for counts in (200.0, 5000.0):
        image, _ = form(wedge(), replace(CLEAN, counts=counts), np.random.default_rng(1))
        noise.append(float(np.std(np.diff(image[:, :30], axis=0))))
    assert noise[0] > 3 * noise[1] > 0


def test_the_collimator_hides_what_lies_beyond_it() -> None:
    look = replace(CLEAN, shutter="black", collimator=(0.2, 0.1, 0.25, 0.0), edge=0.1)
    image, exposed = form(wedge(), look, np.random.default_rng(1))
    assert (image[:15] == 0).all()
    assert (image[:, :14] == 0).all()
    assert exposed[16:70, 16:].all()
    assert exposed.mean() == pytest.approx(0.7 * 0.75, abs=0.03)
    turned = exposed_field((80, 60), replace(look, collimator_deg=20.0))
    assert 0.1 < turned.mean() < 0.7 * 0.75


def test_every_random_look_gives_a_grey_image(film: StoredFilm) -> None:
    for seed in range(40):
        rng = np.random.default_rng([11, seed])
        image, exposed = form(film.integrals, sample_look(rng), rng)
        assert image.shape == exposed.shape == film.integrals.soft.shape
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 1
        assert image[exposed].std() > 0.02, seed


def test_the_same_seed_gives_the_same_film(film: StoredFilm) -> None:
    a, b = (formed(film, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.truth.points, b.truth.points)


def test_fields_have_unit_variance_whatever_their_width() -> None:
    for width in (0.8, 6.0, 30.0):
        field = smooth_field((200, 150), width, np.random.default_rng(2))
        assert field.shape == (200, 150)
        assert 0.5 < field.std() < 1.5


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
@pytest.mark.parametrize("rotation", [0.0, 9.0])
def test_truth_stays_on_the_bodies_however_the_film_is_turned(
    film: StoredFilm, mirrored: bool, quarter: int, rotation: float
) -> None:
    place = Placement((0.9, 0.85), (0.3, 0.6), rotation, mirrored, quarter)
    found = formed(film, np.random.default_rng(4), replace(CLEAN, bone_gain=3.0, low=0.0, high=0.0), place)
    i = found.truth.levels.index("L2")
    shape = found.image.shape
    assert abs(shape[quarter % 2] - 0.9 * film.integrals.soft.shape[0]) <= 1
    # the truth's rim is brighter than what lies 2 mm beyond it, at both end plates
    plain = formed(film, np.random.default_rng(4), replace(CLEAN, bone_gain=3.0, low=0.0, high=0.0), STRAIGHT)
    k = plain.truth.levels.index("L2")
    inside = coverage(found.truth.outlines[i], shape) > 0.9
    reference = coverage(plain.truth.outlines[k], plain.image.shape) > 0.9
    assert abs(inside.sum() - reference.sum()) < 0.06 * reference.sum()
    assert end_plate_visibility(found)[i].min() > 0.5 * end_plate_visibility(plain)[k].min() > 0.2


def test_the_side_of_the_front_follows_mirror_and_turns(film: StoredFilm) -> None:
    def side(**place: object) -> float:
        found = formed(film, np.random.default_rng(4), CLEAN, Placement(**place))  # type: ignore[arg-type]
        return float(found.front_columns[found.truth.levels.index("L2")])

    assert side() > 0.8
    assert side(mirrored=True) < -0.8
    assert side(quarter_turns=2) < -0.8
    assert abs(side(quarter_turns=1)) < 0.5


def test_bodies_cut_by_the_collimator_or_the_edge_are_partial(film: StoredFilm) -> None:
    whole = formed(film, np.random.default_rng(4), CLEAN, STRAIGHT)
    levels = whole.truth.levels
    assert not whole.partial[levels.index("L2")]
    assert whole.partial[0]  # the uppermost one is cut by the film
    top = float(whole.truth.centres[levels.index("L2")][0]) / whole.image.shape[0]
    look = replace(CLEAN, shutter="black", collimator=(top, 0.0, 0.0, 0.0))
    cut = formed(film, np.random.default_rng(4), look, STRAIGHT)
    assert "L2" in cut.truth.levels
    assert cut.partial[cut.truth.levels.index("L2")]
    assert cut.seen[cut.truth.levels.index("L2")] == pytest.approx(0.5, abs=0.12)
    assert "L1" not in cut.truth.levels
    square = np.array([[2.0, 2.0], [2.0, 6.0], [6.0, 6.0], [6.0, 2.0]])
    assert seen_part(square, np.ones((20, 20), bool)) == pytest.approx(1.0, abs=0.01)
    assert seen_part(square + 30, np.ones((20, 20), bool)) == 0.0


def test_the_bone_of_a_stored_film_is_the_same_to_a_hundredth_of_a_millimetre(film: StoredFilm, tmp_path: Path) -> None:
    film.save(tmp_path / "a.npz")
    again = StoredFilm.load(tmp_path / "a.npz")
    assert np.abs(again.integrals.bone - film.integrals.bone).max() <= 0.00101
    assert np.abs(again.integrals.soft - film.integrals.soft).max() < 0.3  # half the resolution
    assert np.abs(again.integrals.soft - film.integrals.soft).mean() < 0.03
    assert again.truth.levels == film.truth.levels
    np.testing.assert_allclose(again.truth.outlines, film.truth.outlines, rtol=1e-6)
    assert (again.view, again.pitch_mm, again.facts) == (film.view, film.pitch_mm, {"seed": 5})
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_films_of_the_chest_are_hardly_cut() -> None:
    parts = [sample_placement(np.random.default_rng(n), "lateral chest").part for n in range(50)]
    assert min(min(p) for p in parts) >= 0.94
    assert min(min(sample_placement(np.random.default_rng(n)).part) for n in range(50)) < 0.85
