"""Which films are taken, and the command that makes them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from onnx_models.training import film_generator
from onnx_models.training.film_data import VIEWS, StoredFilm, formed
from onnx_models.training.film_views import FILM, blank, make_film, sample_beam
from onnx_models.training.phantom import Patient, sample_patient


@pytest.fixture(scope="module")
def patient() -> Patient:
    return sample_patient(np.random.default_rng(8), FILM)


@pytest.mark.parametrize(
    ("region", "level"), [("lumbar", "L3"), ("thoracolumbar", "T12"), ("thoracic", "T7"), ("whole", "T10")]
)
def test_lateral_films_show_the_region_asked_for(patient: Patient, region: str, level: str) -> None:
    at = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == level)
    for seed in range(20):
        beam, facts = sample_beam(np.random.default_rng(seed), patient, VIEWS[0], region)
        row, column = beam.project(at) / beam.shape
        assert 0.05 < row < 0.95, seed
        assert 0.05 < column < 0.95, seed
        assert 1.0 < beam.magnification(at) < 1.7
        assert facts["region"] == region


def test_frontal_films_show_both_sides(patient: Patient) -> None:
    beam, _ = sample_beam(np.random.default_rng(3), patient, "AP spine", "lumbar")
    at = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == "L3")
    assert abs(beam.normal[1]) > 0.9
    assert 0.2 < beam.project(at)[1] / beam.shape[1] < 0.8


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_becomes_a_film(view: str) -> None:
    film = make_film(np.random.default_rng(12), view, long_side=64)
    assert film.view == view
    assert max(film.integrals.soft.shape) == 64
    image = formed(film, np.random.default_rng(1)).image
    assert np.isfinite(image).all()
    if view.startswith("lateral"):
        assert len(film.truth.levels) >= 3
    if view in ("other", "blank"):
        assert film.truth.levels == []


def test_a_view_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="views are"):
        make_film(np.random.default_rng(1), "oblique")


def test_blank_films_hold_no_bone() -> None:
    film = blank(np.random.default_rng(2), 80)
    assert not film.integrals.bone.any()
    assert film.truth.levels == []


def test_the_generator_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def quick(seed: int) -> StoredFilm:
        made.append(seed)
        return blank(np.random.default_rng(seed), 24)

    monkeypatch.setattr(film_generator, "film_of", quick)
    arguments = ["--folder", str(tmp_path), "--count", "3", "--held-out", "2", "--evaluation", "1"]
    assert film_generator.main(arguments) == 0
    assert sorted(made) == [0, 1, 2, 9_000_000, 9_000_001, 20_000_000]
    made.clear()
    (tmp_path / "train" / "00000001.npz").unlink()
    assert film_generator.main(arguments) == 0
    assert made == [1]
    assert film_generator.main([*arguments, "--count", "9", "--minutes", "0"]) == 0
    assert made == [1]


def test_a_seed_decides_its_film_and_sets_never_share_one() -> None:
    assert set(film_generator.ORDER) == set(VIEWS) - {"blank"}
    first = sorted(film_generator.SETS.values())
    assert min(b - a for a, b in itertools.pairwise(first)) > 1_000_000
