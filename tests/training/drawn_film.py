"""A film of bodies drawn from a phantom's truth, and a network that sees them as they are."""

from __future__ import annotations

import numpy as np

from inference.film_bodies import find_bodies
from inference.film_grid import pixel_centres, whole_film
from inference.film_preparation import PreparedFilm
from inference.film_sight import SIZE as GRID
from inference.film_sight import VIEWS as SEEN_VIEWS
from inference.film_sight import FilmSight
from onnx_models.training.film_data import VIEWS, FormedFilm, StoredFilm, seen_part
from onnx_models.training.film_geometry import cone_beam
from onnx_models.training.film_rendering import LineIntegrals
from onnx_models.training.film_truth import coverage, film_truth
from onnx_models.training.film_views import FILM
from onnx_models.training.phantom import Plan, sample_patient

PITCH = 0.8


def drawn_film() -> FormedFilm:
    """A film of bright bodies on a grey ground, L1 to the lower half lost in front; the front to the left or right."""
    rng = np.random.default_rng(8)
    patient = sample_patient(rng, FILM, Plan(deformities={"L1": ("wedge", 0.4)}))
    centre = next(v.centroid_lps_mm for v in patient.vertebrae if v.level == "L2")
    truth = film_truth(patient, cone_beam(centre, 300, 200, long_side=420))
    image = np.full((420, 280), 0.3, np.float32)
    for outline in truth.outlines:
        image += np.float32(0.4) * coverage(outline, image.shape)
    image += rng.normal(0, 0.01, image.shape).astype(np.float32)
    exposed = np.ones(image.shape, bool)
    seen = np.array([seen_part(outline, exposed) for outline in truth.outlines])
    return FormedFilm(image.clip(0, 1), exposed, truth, seen, VIEWS[0], PITCH)


class Sight:
    """Sees the bodies of a drawn film as they are."""

    def __init__(self, drawn: FormedFilm) -> None:
        self.truth = drawn.truth

    def __call__(self, film: PreparedFilm) -> FilmSight:
        grid = whole_film(film.film_shape, film.pixel, GRID)
        outlines = [o for o, sacral in zip(self.truth.outlines, self.truth.sacral, strict=True) if not sacral]
        masks = [coverage(grid.to_grid(outline), grid.shape) for outline in outlines]
        body = np.clip(sum(masks), 0, 1).astype(np.float32)
        index = pixel_centres(grid.shape)
        middles = [grid.to_grid(outline.mean(axis=0)) for outline in outlines]
        centre = max_of(np.exp(-0.5 * (np.linalg.norm(index - at, axis=-1) / 2) ** 2) for at in middles)
        none = np.zeros(grid.shape, np.float32)
        found = find_bodies(body, centre, none, film.measured_on(grid))
        maps = {"body": body, "centre": centre, "sacrum": none, "front": none, "head": none}
        return FilmSight(0, grid, maps, found, dict.fromkeys(SEEN_VIEWS, 0.0) | {"lateral spine": 1.0}, 1.0)


def max_of(maps) -> np.ndarray:
    out = np.zeros((GRID, GRID), np.float32)
    for one in maps:
        out = np.maximum(out, one.astype(np.float32))
    return out


def stored(drawn: FormedFilm) -> StoredFilm:
    """A film on disk with the truth of a drawn one: bodies are bone of 3 cm in soft tissue of 20."""
    soft = np.full(drawn.image.shape, 20, np.float32)
    bone = sum(np.float32(3) * coverage(outline, soft.shape) for outline in drawn.truth.outlines)
    return StoredFilm(LineIntegrals(soft, np.asarray(bone), np.zeros_like(soft)), drawn.truth, VIEWS[0], PITCH)
