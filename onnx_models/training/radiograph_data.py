"""What the networks for films are taught: stored films formed anew, prepared by the pipeline, with their maps.

A canvas is 256 x 256, the whole film in its middle with the aspect kept, 0 outside the film and the field that the
pipeline finds: where it misses an edge or finds one that is none, the networks learn from what they will be shown.
Index is (row, column), pixel centres at whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.film_grid import FilmGrid, whole_film
from inference.film_preparation import prepare
from inference.geometry import Radiograph
from onnx_models.training.film_data import (
    LATERAL_VIEWS,
    VIEWS,
    FormedFilm,
    Placement,
    StoredFilm,
    formed,
    sample_placement,
)
from onnx_models.training.film_look import Look, clinical_look
from onnx_models.training.film_truth import coverage
from onnx_models.training.film_views import blank
from onnx_models.training.phantom.scene import F32
from onnx_models.training.radiograph_network import MAPS, SIZE

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
SHARES = {
    "lateral spine": 0.66, "AP spine": 0.08, "lateral chest": 0.09, "chest": 0.06, "other": 0.07, "blank": 0.04,
}  # fmt: skip
"""How often each view is shown in the training."""
READABLE = (0.8, 0.3)
"""How often, at the begin and the end of a training, a film has the look that a department would pass: on many of the
others no eye sees a body, and a network that is shown little else is slow to find out what it is to look for."""
CLOSE = 0.3
"""So many lateral films are shown closer than a department would collimate them: bodies of any size are bodies."""
CENTRE_WIDTH = 0.11
"""Standard deviation of a centre's peak as a part of the body's diagonal, and at least 1.2 pixels."""
LEAST_SEEN = 0.5
"""Bodies of which less is exposed have no centre."""
SIDEWAYS = 0.5
"""Front and head are taught where they lie so far (cosine) along columns, or along rows."""


@dataclass(frozen=True)
class Sample:
    """One training image.

    Attributes
    ----------
    canvas
        (256, 256) float32, 0 to 1.
    maps
        (5, 256, 256) float32 in the order of ``radiograph_network.MAPS``.
    known
        (2, 256, 256) float32: 1 where the maps of the front and of the head mean anything.
    view
        Index into ``film_data.VIEWS``.
    """

    canvas: F32
    maps: F32
    known: F32
    view: int


def canvas_grid(shape: tuple[int, ...], size: int = SIZE) -> FilmGrid:
    """The pipeline's grid of a whole film with square pixels."""
    return whole_film((shape[0], shape[1]), (1.0, 1.0), size)


def canvas_matrix(shape: tuple[int, ...], size: int = SIZE) -> F64:
    """(2, 3): film index to canvas index, as ``FilmTruth.moved`` takes it."""
    grid = canvas_grid(shape, size)
    origin = grid.to_grid(np.zeros(2))
    return np.column_stack([grid.to_grid(np.eye(2)).T - origin[:, None], origin])


def prepared(image: F32, size: int = SIZE) -> tuple[F32, Bools]:
    """(the film as the pipeline shows it to its network, where it was measured), both (size, size)."""
    film = prepare(Radiograph(image))
    grid = canvas_grid(image.shape, size)
    return film.on(grid), film.measured_on(grid)


def target_maps(film: FormedFilm, size: int = SIZE) -> tuple[F32, F32]:
    """(maps (5, size, size), where front and head are known (2, size, size)) of a film; empty for frontal ones."""
    maps = np.zeros((len(MAPS), size, size), np.float32)
    known = np.zeros((2, size, size), np.float32)
    if film.view not in LATERAL_VIEWS:
        return maps, known
    truth = film.truth.moved(canvas_matrix(film.image.shape, size))
    shape = (size, size)
    field = canvas_grid(film.image.shape, size).from_film(film.exposed.astype(np.float32))
    row, column = np.arange(size)[:, None], np.arange(size)[None, :]
    front, head = film.front_columns, film.head_rows
    for n, outline in enumerate(truth.outlines):
        mask = coverage(outline, shape) * field
        maps[2 if truth.sacral[n] else 0] += mask
        for k, along in enumerate((front[n], head[n])):
            if abs(along) > SIDEWAYS:
                known[k][mask > 0.5] = 1
                maps[3 + k][mask > 0.5] = along > 0
        if truth.sacral[n] or film.seen[n] < LEAST_SEEN:
            continue
        diagonal = np.linalg.norm(np.ptp(truth.points[n], axis=0))
        width = max(1.2, CENTRE_WIDTH * float(diagonal))
        r, c = truth.centres[n]
        maps[1] = np.maximum(maps[1], np.exp(-0.5 * ((row - r) ** 2 + (column - c) ** 2) / width**2))
    maps[1] *= field
    return np.clip(maps, 0, 1), known


def training_look(rng: np.random.Generator, view: str, progress: float) -> Look | None:
    """A readable look (see `READABLE`) at this part of the training, 0 to 1; ``None``: any look."""
    first, last = READABLE
    if rng.random() >= first + (last - first) * progress:
        return None
    return clinical_look(rng, 0.05 if "chest" in view else 0.2)


def training_placement(film: StoredFilm, rng: np.random.Generator) -> Placement:
    """As films are placed, and now and then closer: a view of a few vertebrae, one of them in its middle."""
    drawn = sample_placement(rng, film.view)
    if film.view != VIEWS[0] or not len(film.truth.levels) or rng.random() >= CLOSE:
        return drawn
    shape = np.array(film.integrals.soft.shape)
    part = np.array([rng.uniform(0.4, 0.75), rng.uniform(0.5, 0.9)])
    aim = film.truth.centres[rng.integers(len(film.truth.levels))] + rng.normal(0, 0.05, 2) * shape
    at = np.clip((aim / shape - part / 2) / (1 - part), 0, 1)
    return replace(drawn, part=(float(part[0]), float(part[1])), at=(float(at[0]), float(at[1])))


def sample(
    film: StoredFilm, rng: np.random.Generator, look: Look | None = None, place: Placement | None = None
) -> Sample:
    """A new image of a stored film with its maps."""
    shown = formed(film, rng, look, place)
    canvas, measured = prepared(shown.image)
    maps, known = target_maps(shown)
    return Sample(canvas, maps * measured, known * measured, VIEWS.index(film.view))


def _spots(body: F32, rng: np.random.Generator) -> F32:
    """Bright spots over bodies, and a few dark ones: processes, osteophytes, gas that lie before and behind them."""
    spots = np.zeros_like(body)
    places = np.argwhere(body > 0.3)
    chosen = places[rng.integers(len(places), size=rng.integers(0, 14))] if len(places) else places
    spots[tuple(chosen.T)] = rng.uniform(-0.3, 1.0, len(chosen))
    spots = ndimage.gaussian_filter(spots, rng.uniform(0.8, 3.0, 2), truncate=3.0)
    return np.asarray(spots * np.float32(rng.uniform(0.1, 0.6) / max(float(np.abs(spots).max()), 1e-6)), np.float32)


def repainted(shown: Sample, rng: np.random.Generator) -> Sample:
    """The image with other bodies: darker or brighter than what is around them, with plates and walls of any strength.

    Plates that are thin and even bodies that are brighter than discs are the phantom's; a network that has learnt
    them sees nothing in a film whose plates are broad and whose bodies are no brighter than what lies beside them.
    For trainings alone.
    """
    body = shown.maps[0] + shown.maps[2]
    if not body.any():
        return shown
    soft = ndimage.gaussian_filter(body, rng.uniform(0.6, 2.4), truncate=3.0)
    plates, walls = (np.abs(g) / max(float(np.abs(g).max()), 1e-6) for g in np.gradient(soft))
    texture = ndimage.gaussian_filter(rng.standard_normal(body.shape).astype(np.float32), rng.uniform(0.5, 2.0))
    texture *= rng.uniform(0.0, 0.08) / max(float(texture.std()), 1e-6)
    inner, plate, wall = rng.uniform(-0.4, 0.3), rng.uniform(0.0, 0.6), rng.uniform(-0.15, 0.35)
    canvas = shown.canvas + np.float32(inner) * soft + np.float32(plate) * plates + np.float32(wall) * walls + texture
    canvas += _spots(body, rng)
    canvas = ndimage.gaussian_filter(canvas, rng.uniform(0.0, 1.2), truncate=3.0)
    canvas = np.where(shown.canvas > 0, np.clip(canvas, 0, 1), 0).astype(np.float32)
    return replace(shown, canvas=canvas)


class FilmSource:
    """Films of a folder, kept as they are on disk; blank ones are made on the spot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[Path] = set()
        self.films: dict[str, list[dict[str, NDArray[Any]]]] = {view: [] for view in VIEWS}
        self.reload()

    def reload(self) -> None:
        """Take in the files that are new: films may still be made while a training runs."""
        for path in sorted(self._folder.glob("*.npz")):
            if path in self._seen:
                continue
            with np.load(path) as z:
                arrays = {name: z[name] for name in z.files}
            self.films[StoredFilm.from_arrays(arrays).view].append(arrays)
            self._seen.add(path)

    def __len__(self) -> int:
        return len(self._seen)

    def draw(self, rng: np.random.Generator, views: tuple[str, ...] = VIEWS) -> StoredFilm:
        """A film of one of ``views``, by `SHARES`.

        Raises
        ------
        FileNotFoundError
            Where there is no film of any of them.
        """
        there = [v for v in views if v == "blank" or self.films[v]]
        if not [v for v in there if v != "blank"]:
            raise FileNotFoundError(
                f"no film of {', '.join(views)} in {self._folder}: run python -m onnx_models.training.film_generator"
            )
        share = np.array([SHARES[v] for v in there])
        view = str(rng.choice(there, p=share / share.sum()))
        if view == "blank":
            return blank(rng, 256)
        films = self.films[view]
        return StoredFilm.from_arrays(films[int(rng.integers(len(films)))])
