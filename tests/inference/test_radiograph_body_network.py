"""The method's own network, which tells bodies alone, in the place of the whole-film network's map of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from toy_film import filmed, models, network, spine
from toy_spine import ToySession

from inference.film_grid import whole_film
from inference.geometry import Radiograph
from inference.radiograph import RadiographSettings, evaluate
from inference.runtime import load_models
from onnx_models import MODELS
from onnx_models.training.film_cases import demo_film

SPACING = 0.7
HEIGHTS = [(33.0, 31.0, 35.0), (34.0, 32.0, 36.0), (34.0, 31.0, 36.0), (36.0, 33.0, 38.0), (37.0, 34.0, 38.0)]


def test_bodies_of_another_network_take_the_place_of_the_first_ones() -> None:
    """The method's own network tells bodies alone; what it does not see is not there, everything else is as before."""
    film = filmed(spine(HEIGHTS, top=(60, 170), depth=50.0, bend=0.08, tilt=-0.2, disc=11, waist=0.05))
    shown = Radiograph(film.pixels, (SPACING, SPACING))
    alone = evaluate(shown, models(network(film)), RadiographSettings(points=None, foreign=None), 70).findings
    settings = RadiographSettings(body_network="film_mdr2unet", points=None, foreign=None)
    assert settings.networks == ("film", "film_mdr2unet")
    lowest = film.points[-1].mean(axis=0)
    grid = whole_film(film.pixels.shape, (SPACING, SPACING), 256)
    gone = int(grid.to_grid(lowest)[0] - 14)

    def body(inputs):
        seen = network(film).run(["body"], inputs)[0].copy()
        seen[:, :, gone:] = 0
        return seen

    both = models(network(film))
    both = replace(both, sessions={**both.sessions, "film_mdr2unet": ToySession({"body": body})})
    found = evaluate(shown, both, settings, 70).findings
    assert len(found.vertebrae) == len(alone.vertebrae) - 1
    assert found.vertebrae[0].heights_mm == alone.vertebrae[0].heights_mm


def test_the_shipped_network_of_the_method_measures_a_film() -> None:
    settings = RadiographSettings(body_network="film_mdr2unet")
    shipped = load_models(MODELS, "cpu", threads=1, names=settings.networks)
    film = demo_film()
    found = evaluate(Radiograph(film.image), shipped, settings, 70).findings
    assert {m.name for m in found.models} == {"film", "film_mdr2unet", "film_points", "film_foreign"}
    whole = film.truth.centres[(film.seen > 0.99) & ~film.truth.sacral]
    told = np.array([v.centroid_px[::-1] for v in found.vertebrae if v.keypoints_px is not None and v.centroid_px])
    height = float(np.linalg.norm(np.diff(whole, axis=0), axis=1).min())
    near = np.linalg.norm(told[:, None] - whole[None], axis=2).min(axis=0) < 0.3 * height
    assert near.sum() >= 3, f"{near.sum()} of {len(whole)}"
