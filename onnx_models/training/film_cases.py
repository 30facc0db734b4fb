"""The film of the demo: the same patient as on the demo's CT, seen from the side."""

from __future__ import annotations

import numpy as np

from onnx_models.training.film_data import VIEWS, FormedFilm, Placement, formed
from onnx_models.training.film_look import clinical_look
from onnx_models.training.film_views import film_of
from onnx_models.training.phantom.cases import demo_patient

LONG_SIDE = 640


def demo_film(seed: int = 1) -> FormedFilm:
    """A lateral film of the lumbar spine of `demo_patient`, upright, as a department would pass it."""
    film = film_of(np.random.default_rng([2029, seed]), demo_patient(seed), VIEWS[0], "lumbar", LONG_SIDE)
    rng = np.random.default_rng([7, 0])
    return formed(film, rng, clinical_look(rng), Placement())
