"""A film written as a digital X-ray image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from onnx_models.training.film_data import VIEWS, Placement, StoredFilm, formed
from onnx_models.training.film_dicom import orientation, write_film
from onnx_models.training.film_geometry import cone_beam
from onnx_models.training.film_look import Look
from onnx_models.training.film_rendering import LineIntegrals
from onnx_models.training.film_truth import film_truth
from onnx_models.training.film_views import FILM
from onnx_models.training.phantom import sample_patient

DCIODVFY = Path(sys.executable).with_name("dciodvfy")


@pytest.fixture(scope="module")
def film() -> StoredFilm:
    patient = sample_patient(np.random.default_rng(8), FILM)
    centre = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == "L2")
    beam = cone_beam(centre, 300, 150, long_side=120)
    soft = np.random.default_rng(1).uniform(10, 20, beam.shape).astype(np.float32)
    nothing = np.zeros_like(soft)
    return StoredFilm(LineIntegrals(soft, nothing, nothing), film_truth(patient, beam), VIEWS[0], beam.pitch_mm)


@pytest.mark.parametrize("view", VIEWS)
def test_dciodvfy_finds_no_error(film: StoredFilm, tmp_path: Path, view: str) -> None:
    shown = formed(StoredFilm(film.integrals, film.truth, view, film.pitch_mm), np.random.default_rng(2))
    path = write_film(shown, tmp_path / "film.dcm", magnification=1.2, inverse=view == "chest")
    done = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "DXImageForPresentation" in said
    assert "Error" not in said, said


def test_pixels_come_back_whichever_way_they_are_stored(film: StoredFilm, tmp_path: Path) -> None:
    shown = formed(film, np.random.default_rng(2), Look(counts=1e5), Placement())
    plain = pydicom.dcmread(write_film(shown, tmp_path / "a.dcm"))
    inverse = pydicom.dcmread(write_film(shown, tmp_path / "b.dcm", inverse=True))
    np.testing.assert_allclose(plain.pixel_array / 4095, shown.image, atol=2e-4)
    np.testing.assert_array_equal(inverse.pixel_array, 4095 - plain.pixel_array)
    assert (plain.PhotometricInterpretation, inverse.PhotometricInterpretation) == ("MONOCHROME2", "MONOCHROME1")
    assert float(plain.ImagerPixelSpacing[0]) == pytest.approx(film.pitch_mm)
    assert "PixelSpacing" not in plain
    assert "EstimatedRadiographicMagnificationFactor" not in plain


def test_the_same_call_writes_the_same_bytes(film: StoredFilm, tmp_path: Path) -> None:
    shown = formed(film, np.random.default_rng(2))
    a, b, c = (write_film(shown, tmp_path / f"{n}.dcm", seed=s) for n, s in enumerate((1, 1, 2)))
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Placement(), ("P", "F")),
        (Placement(mirrored=True), ("A", "F")),
        (Placement(quarter_turns=2), ("A", "H")),
        (Placement(quarter_turns=1), ("F", "A")),
    ],
)
def test_the_orientation_is_that_of_the_film_as_it_stands(
    film: StoredFilm, place: Placement, expected: tuple[str, str]
) -> None:
    assert orientation(formed(film, np.random.default_rng(2), Look(), place)) == expected
