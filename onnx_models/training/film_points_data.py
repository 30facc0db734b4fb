"""Crops around single bodies of films, cut as the pipeline cuts them, with the true points in them.

The pipeline places a crop by the points of an outline, which it gets from the network for whole films; so does this,
with the network that is shipped, and moves the points a little at random. So the second network learns from the very
mistakes that the first one makes. Films are kept in a pool from which every batch draws bodies, so that a batch holds
many films although a film costs more than a step can wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.film_contour import SixPoints, six_points
from inference.film_grid import FilmGrid, pixel_centres
from inference.film_points import CHANNELS, SIZE, OutlinedBody, crop_grid
from inference.film_points import shown as crop_shown
from inference.film_preparation import PreparedFilm, prepare
from inference.film_sight import FilmSight, Look
from inference.geometry import Radiograph
from inference.runtime import load_models
from onnx_models import MODELS
from onnx_models.training.film_data import (
    LATERAL_VIEWS,
    WHOLE,
    FormedFilm,
    StoredFilm,
    end_plate_visibility,
    formed,
)
from onnx_models.training.film_look import clinical_look
from onnx_models.training.film_truth import FilmTruth
from onnx_models.training.phantom.scene import F32
from onnx_models.training.radiograph_data import FilmSource

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
SHIFT, SCALE, TURN_DEG, POINT_NOISE = 0.05, 0.1, 8.0, 0.015
"""How far the points that place a crop are moved: parts of the depth, a factor, degrees; and each point by itself."""
NEAR = 0.4
"""A seen body is the true one whose centre is nearer than this part of its depth."""
MIRRORED = 0.05
"""So often the front lies on the other side: what lies towards column 0 is the front then, as the pipeline thinks."""
WARPED = 0.5
STRETCH, WEDGE, BEND = 0.2, 0.3, 0.12
"""How much crops are stretched along the spine: throughout, along the depth, and in its middle."""
SMALLEST = 8.0
"""Pixels of the film; shallower bodies are not taught."""
FRACTURED = 0.08
"""Loss of the part that loses most, from which on a body counts as deformed."""
FRACTURED_SHARE = 0.4
"""Part of a batch."""
POOL = 96
FIRST_FILL = 24
RICH_SHARE = 0.6
"""Part of the films that are drawn from the folder rich in fractures."""
CLINICAL_SHARE = 0.6
"""Part of the films that are formed as a department would pass them."""
SEEN_FROM, HIDDEN_WEIGHT = 0.8, 0.05
"""Visibility of the end plates from which on a body counts fully in the draw, and the weight of one that is hidden:
the pipeline hardly ever asks for a body that cannot be seen, and such a one teaches the mean shape."""


Sight = Callable[[PreparedFilm], FilmSight]
"""What is seen on a whole film that stands upright."""


@cache
def shipped_sight(folder: Path = MODELS) -> Sight:
    """That of the network for whole films in a folder of exported models, on one core."""
    return Look(load_models(folder, "cpu", threads=1, names=["film"]))


@dataclass(frozen=True)
class SeenFilm:
    """A prepared film with those of its whole bodies that are seen on it.

    Attributes
    ----------
    film
        As the pipeline prepares it.
    grid
        On which the pipeline has its outlines; here it stands as the film does.
    body
        On that grid: probability of bodies.
    outlined
        V bodies as the pipeline outlines them.
    probability
        (V,): mean of each body's pixels; 0 for one without a centre of its own.
    truth
        The same bodies, in film index.
    visibility
        (V,): mean of both end plates (`film_data.end_plate_visibility`).
    """

    film: PreparedFilm
    grid: FilmGrid
    body: F32
    outlined: tuple[OutlinedBody, ...]
    probability: F64
    truth: FilmTruth
    visibility: F64

    @property
    def fractured(self) -> Bools:
        """(V,)."""
        return np.asarray(self.truth.loss.max(axis=1, initial=0.0) >= FRACTURED)

    @property
    def foreign(self) -> Bools:
        """(V,): which hold cement or metal."""
        return np.asarray(self.truth.cement | self.truth.metal)

    def shown(self, body: int, crop: FilmGrid) -> F32:
        """(`CHANNELS`, rows, columns) of a crop, as the pipeline shows it to its network."""
        return crop_shown(self.film, self.grid, (self.body, self.outlined[body].alone), crop)


def seen_film(shown: FormedFilm, sight: Sight) -> SeenFilm | None:
    """A formed film as the pipeline sees it; ``None`` where no whole body of it is seen."""
    depth = np.linalg.norm(shown.truth.points[:, :2].mean(1) - shown.truth.points[:, 4:].mean(1), axis=1)
    whole = np.flatnonzero((shown.seen >= WHOLE) & ~shown.truth.sacral & (depth >= SMALLEST))
    if not len(whole):
        return None
    film = prepare(Radiograph(np.asarray(shown.image, np.float32)))
    seen = sight(film)
    centres = shown.truth.points[whole].mean(axis=1)
    found: dict[int, tuple[OutlinedBody, float]] = {}
    for n, body in enumerate(seen.found.bodies):
        distance = np.linalg.norm(centres - seen.grid.to_film(body.centre), axis=1)
        k = int(distance.argmin())
        if body.partial or distance[k] >= NEAR * depth[whole[k]]:
            continue
        alone = seen.found.alone(body.label, seen.maps["body"])
        six = six_points(alone, seen.found.up(n), _front(seen.grid.to_grid(shown.truth.points[whole[k]])))
        if six is not None:
            found[int(whole[k])] = OutlinedBody(six, alone), body.probability * body.seeded
    if not found:
        return None
    chosen = np.isin(np.arange(len(depth)), list(found))
    outlined, probability = zip(*(found[n] for n in sorted(found)), strict=True)
    visibility = end_plate_visibility(shown).mean(axis=1)[chosen]
    truth = shown.truth.chosen(chosen)
    return SeenFilm(film, seen.grid, seen.maps["body"], outlined, np.array(probability), truth, visibility)


def _front(points: F64) -> int:
    """On which side of points (6, 2) the front lies, as `six_points` takes it."""
    back, up = axes_of(points)
    return 1 if back @ np.array([-up[1], up[0]]) > 0 else -1


def axes_of(points: F64) -> F64:
    """Unit vectors to the back and to the head (2, 2) of six points (6, 2)."""
    up = (points[0::2] - points[1::2]).mean(axis=0)
    up /= np.linalg.norm(up)
    back = points[4:].mean(axis=0) - points[:2].mean(axis=0)
    back -= (back @ up) * up
    return np.stack([back / np.linalg.norm(back), up])


def jittered(points: F64, rng: np.random.Generator) -> F64:
    """Points (6, 2) as an outline might give them: moved, turned, scaled, and each a little off by itself."""
    depth = float(np.linalg.norm(points[4:].mean(axis=0) - points[:2].mean(axis=0)))
    angle = np.radians(np.clip(rng.normal(0, TURN_DEG / 2), -TURN_DEG, TURN_DEG))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    factor = 1 + SCALE * np.clip(rng.normal(0, 0.5), -1, 1)
    centre = points.mean(axis=0)
    moved = (points - centre) @ turn.T * factor + centre + rng.uniform(-SHIFT, SHIFT, 2) * depth
    return np.asarray(moved + rng.normal(0, POINT_NOISE * depth, (6, 2)))


def placed(seen: SeenFilm, body: int, rng: np.random.Generator) -> tuple[FilmGrid, F64]:
    """(crop, true points (6, 2) in it) of a body, moved at random."""
    true = seen.grid.to_grid(seen.truth.points[body])
    outlined = jittered(seen.outlined[body].six.points, rng)
    if rng.random() < MIRRORED:
        true, outlined = true[[4, 5, 2, 3, 0, 1]], outlined[[4, 5, 2, 3, 0, 1]]
    crop = crop_grid(seen.grid, SixPoints(outlined, axes_of(outlined)))
    return crop, crop.to_grid(seen.grid.to_film(true))


@dataclass(frozen=True)
class Warp:
    """A crop stretched along its rows by 1 + stretch + wedge u + bend (1 - 3 u u), u from -1 to 1 along its columns.

    A straight body becomes a wedge or a biconcave one, so that no shape goes with one level or one picture.
    """

    stretch: float = 0.0
    wedge: float = 0.0
    bend: float = 0.0

    def factor(self, columns: F64) -> F64:
        """Rows that one row of the new crop takes of the old one."""
        u = (columns - (SIZE - 1) / 2) / (SIZE / 2)
        return 1 + self.stretch + self.wedge * u + self.bend * (1 - 3 * u * u)

    def points(self, points: F64) -> F64:
        """Where points (..., 2) of the old crop lie in the new one."""
        middle = (SIZE - 1) / 2
        rows = middle + (points[..., 0] - middle) / self.factor(points[..., 1])
        return np.stack([rows, points[..., 1]], axis=-1)

    def shown(self, draw: Callable[[FilmGrid], F32], crop: FilmGrid) -> F32:
        """The new crop (channels, rows, columns); ``draw`` gives that of a grid."""
        index = pixel_centres((SIZE, SIZE))
        middle = (SIZE - 1) / 2
        index[..., 0] = middle + (index[..., 0] - middle) * self.factor(index[..., 1])
        margin = int(np.ceil(max(0.0, -index[..., 0].min(), index[..., 0].max() - SIZE + 1))) + 1
        matrix = crop.matrix.copy()
        matrix[:, 2] -= margin * matrix[:, 0]
        tall = draw(FilmGrid((SIZE + 2 * margin, SIZE), crop.film_shape, matrix, crop.step))
        index[..., 0] += margin
        at = index.reshape(-1, 2).T
        warped = [ndimage.map_coordinates(channel, at, np.float32, order=1) for channel in tall]
        return np.stack(warped).reshape(-1, SIZE, SIZE)


def sample_warp(rng: np.random.Generator) -> Warp:
    """Draw one; half of them change nothing."""
    if rng.random() > WARPED:
        return Warp()
    return Warp(*(float(rng.uniform(-a, a)) for a in (STRETCH, WEDGE, BEND)))


def crop_of(seen: SeenFilm, body: int, rng: np.random.Generator) -> tuple[F32, F64] | None:
    """(crop (`CHANNELS`, `SIZE`, `SIZE`), true points (6, 2) in it); ``None`` where a point lies outside it."""
    for _ in range(4):
        crop, points = placed(seen, body, rng)
        warp = sample_warp(rng)
        points = warp.points(points)
        if points.min() > 1 and points.max() < SIZE - 2:
            break
    else:  # an outline that is far off
        return None

    def draw(grid: FilmGrid) -> F32:
        return seen.shown(body, grid)

    return (draw(crop) if warp == Warp() else warp.shown(draw, crop)), points


class BodyPool:
    """Films that bodies are drawn from; it changes a little with every batch.

    ``shares`` says how often films are drawn from each of the ``sources`` that have any; of one alone, always.
    """

    def __init__(
        self,
        sources: tuple[FilmSource, ...],
        sight: Sight,
        size: int = POOL,
        shares: tuple[float, ...] = (1 - RICH_SHARE, RICH_SHARE),
    ) -> None:
        if len(shares) < len(sources):
            raise ValueError(f"{len(sources)} folders of films, but shares of {len(shares)}")
        self._sources = [(s, share) for s, share in zip(sources, shares, strict=False) if len(s)]
        self._sight = sight
        self._size = size
        self._films: list[SeenFilm] = []
        self._next = 0

    @property
    def films(self) -> int:
        """How many there are now."""
        return len(self._films)

    def renew(self, rng: np.random.Generator, films: int = 1) -> None:
        """Form new films and put them in the place of the oldest ones; the first call fills a part of the pool.

        Raises
        ------
        FileNotFoundError
            Where there is no film to draw from.
        """
        if not self._sources:
            raise FileNotFoundError(
                "no film: run onnx_models.training.film_generator, film_points_films and film_foreign_films"
            )
        wanted = films if self._films else max(films, min(FIRST_FILL, self._size))
        while wanted:
            share = np.array([share for _, share in self._sources])
            source = self._sources[int(rng.choice(len(share), p=share / share.sum()))][0]
            look = clinical_look(rng) if rng.random() < CLINICAL_SHARE else None
            new = seen_film(formed(source.draw(rng, LATERAL_VIEWS), rng, look), self._sight)
            if new is None:
                continue
            wanted -= 1
            if len(self._films) < self._size:
                self._films.append(new)
            else:
                self._films[self._next % self._size] = new
                self._next += 1

    @property
    def bodies(self) -> list[tuple[SeenFilm, int]]:
        """Every body of the pool: its film, and which one it is there."""
        return [(film, n) for film in self._films for n in range(len(film.truth.levels))]

    def drawn(self, rng: np.random.Generator, count: int, weight: F64) -> list[tuple[F32, F64, int]]:
        """``count`` crops with the true points (6, 2) in them, and of which of `bodies`; ``weight`` is that of each."""
        bodies, share = self.bodies, weight / weight.sum()
        out: list[tuple[F32, F64, int]] = []
        while len(out) < count:
            k = int(rng.choice(len(bodies), p=share))
            crop = crop_of(*bodies[k], rng)
            if crop is not None:
                out.append((*crop, k))
        return out

    def batch(self, rng: np.random.Generator, count: int) -> tuple[F32, F32]:
        """(crops (count, `CHANNELS`, `SIZE`, `SIZE`), true points (count, 6, 2))."""
        bad = np.concatenate([film.fractured for film in self._films])
        seen = np.concatenate([film.visibility for film in self._films])
        weight = np.clip(seen / SEEN_FROM, HIDDEN_WEIGHT, 1.0)
        for group, share in ((bad, FRACTURED_SHARE), (~bad, 1 - FRACTURED_SHARE)):
            weight[group] *= share / max(float(weight[group].sum()), 1e-9)
        drawn = self.drawn(rng, count, weight)
        return np.stack([c for c, *_ in drawn]), np.stack([p for _, p, _ in drawn]).astype(np.float32)


@dataclass(frozen=True)
class HeldOutBodies:
    """Crops of held-out films with their truth.

    Attributes
    ----------
    crops
        (n, `CHANNELS`, `SIZE`, `SIZE`) float32.
    points
        (n, 6, 2): true points in the crop.
    step
        (n,): pixels of the film in one of the crop.
    loss
        (n,): largest loss of height in space against the undeformed twin.
    visibility
        (n,): mean of both end plates.
    cement, metal
        (n,): in the body.
    """

    crops: F32
    points: F64
    step: F64
    loss: F64
    visibility: F64
    cement: Bools
    metal: Bools

    @property
    def foreign(self) -> Bools:
        """(n,): cement or metal in the body."""
        return np.asarray(self.cement | self.metal)

    def chosen(self, which: Bools) -> HeldOutBodies:
        """Those of a mask (n,)."""
        return HeldOutBodies(*(getattr(self, f.name)[which] for f in fields(self)))


def held_out_bodies(paths: list[Path], sight: Sight, seed: int = 19) -> HeldOutBodies:
    """Every body that is seen on the lateral films of a list, cut as the pipeline does; the same ones every time."""
    crops, points, step, loss, visibility, cement, metal = [], [], [], [], [], [], []
    for n, path in enumerate(paths):
        stored = StoredFilm.load(path)
        rng = np.random.default_rng([seed, n])
        look = clinical_look(rng) if n % 2 else None
        seen = seen_film(formed(stored, rng, look), sight) if stored.view in LATERAL_VIEWS else None
        for body in range(0 if seen is None else len(seen.truth.levels)):
            assert seen is not None
            crop = crop_grid(seen.grid, seen.outlined[body].six)
            crops.append(seen.shown(body, crop))
            points.append(crop.to_grid(seen.truth.points[body]))
            step.append(crop.step)
            loss.append(seen.truth.loss[body].max())
            visibility.append(seen.visibility[body])
            cement.append(seen.truth.cement[body])
            metal.append(seen.truth.metal[body])
    return HeldOutBodies(
        np.array(crops, np.float32).reshape(-1, CHANNELS, SIZE, SIZE), np.array(points).reshape(-1, 6, 2),
        np.array(step), np.array(loss), np.array(visibility),
        np.array(cement, bool), np.array(metal, bool),
    )  # fmt: skip
