"""What the network for whole films sees on one: its maps, and the vertebral bodies in them.

A film is looked at after some quarter turns, and its mirror image as well: what is told of the one must hold for the
other. Where its bodies turn out to be small (a film of the whole spine) it is looked at again in parts, nearer, so that
they are as large as on most films.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.film_bodies import BodySettings, FilmBodies, FilmBody, find_bodies
from inference.film_grid import FilmGrid, whole_film
from inference.film_orientation import head_is_up
from inference.film_preparation import PreparedFilm
from inference.runtime import Models

Map = NDArray[np.float32]
SIZE = 256
"""Rows and columns of the grid on which the network sees the whole film."""
SMALL, USUAL = 14.0, 19.0
"""Where neighbours lie nearer than the first (pixels of the grid) a nearer look brings them the second apart."""
NEAREST = 3.0
"""A nearer look is at most so many times finer."""
OVERLAP = 64
"""Pixels that the parts of a nearer look have in common: what lies at the end of one is in the middle of another."""
LEAST_CHAIN = 3
"""Bodies that say how large bodies are."""
LEAST_SEEN, SEEN_AGAIN = 0.5, 0.5
"""A nearer look that sees less than this part of the bodies (from this probability on) again is not taken."""
MAPS = ("body", "centre", "sacrum", "front", "head")
NEARER = ("body", "centre")
"""Maps that a nearer look tells anew; what lies far away decides the others."""
VIEWS = ("lateral spine", "AP spine", "lateral chest", "chest", "other", "blank")
"""What the network's output "view" tells, in its order."""


@dataclass(frozen=True)
class FilmSight:
    """What is seen on a film after some quarter turns.

    Attributes
    ----------
    turn
        Quarter turns counter-clockwise.
    grid
        The grid of the whole film, turned: `SIZE` x `SIZE`, or more after a nearer look.
    maps
        By the names of `MAPS`, each of the grid's shape, float32, 0 to 1.
    found
        Bodies and S1.
    view
        Probability of each of `VIEWS`.
    head_up
        Evidence, -1 to 1, that the head lies towards row 0.
    """

    turn: int
    grid: FilmGrid
    maps: dict[str, Map]
    found: FilmBodies
    view: dict[str, float]
    head_up: float

    @property
    def whole(self) -> tuple[FilmBody, ...]:
        """Bodies that are not cut."""
        return tuple(b for b in self.found.bodies if not b.partial)

    @property
    def distance(self) -> float:
        """Median distance of neighbouring centres in pixels of the grid; infinite where fewer than three are seen."""
        centres = np.array([b.centre for b in self.found.bodies])
        if len(centres) < LEAST_CHAIN:
            return np.inf
        return float(np.median(np.linalg.norm(np.diff(centres, axis=0), axis=1)))

    @property
    def upright(self) -> float:
        """Cosine of the angle between the chain of bodies and the direction of rows."""
        if len(self.found.bodies) < 2:
            return 0.0
        along = self.found.bodies[-1].centre - self.found.bodies[0].centre
        return float(along[0] / np.linalg.norm(along))

    @property
    def evidence(self) -> float:
        """How much of an upright spine this is."""
        sure = sum(b.probability for b in self.whole[:6]) / 6
        return (self.view[VIEWS[0]] + self.view[VIEWS[2]] + sure) * max(self.upright, 0.0) + 0.5 * self.head_up


@dataclass(frozen=True)
class Look:
    """Which networks look at a film, and how bodies are made of their maps; see ``RadiographSettings``."""

    models: Models
    network: str = "film"
    body_network: str | None = None
    mirrored_too: bool = True
    bodies: BodySettings | None = None
    nearer_too: bool = True

    def __call__(self, film: PreparedFilm, turn: int = 0) -> FilmSight:
        """Look at a film after so many quarter turns.

        Raises
        ------
        ModelRunError
            When a network fails.
        """
        grid = whole_film(film.film_shape, film.pixel, SIZE, turn)
        maps, views = self._seen(film.on(grid))
        first = self._sight(film, turn, grid, maps, _by_name(views))
        if not self.nearer_too or first.distance >= SMALL:
            return first
        nearer = self._nearer(film, first)
        before = _finer(first.maps["body"], len(nearer.maps["body"])) >= LEAST_SEEN
        again = before & (nearer.maps["body"] >= LEAST_SEEN)
        agrees = again.sum() >= SEEN_AGAIN * before.sum() and len(nearer.whole) >= len(first.whole)
        return nearer if agrees else first

    def _sight(
        self, film: PreparedFilm, turn: int, grid: FilmGrid, maps: dict[str, Map], view: dict[str, float]
    ) -> FilmSight:
        measured = film.measured_on(grid)
        found = find_bodies(maps["body"], maps["centre"], maps["sacrum"], measured, self.bodies)
        return FilmSight(turn, grid, maps, found, view, head_is_up(found, maps))

    def _nearer(self, film: PreparedFilm, first: FilmSight) -> FilmSight:
        """The same film on a finer grid: bodies and centres seen in parts along the chain, the rest as it was seen."""
        size = round(SIZE * min(USUAL / max(first.distance, 1.0), NEAREST))
        grid = whole_film(film.film_shape, film.pixel, size, first.turn)
        rows = np.flatnonzero(film.measured_on(grid).any(axis=1))
        chain = grid.to_grid(first.grid.to_film(np.array([b.centre for b in first.found.bodies])))
        maps = {name: _finer(first.maps[name], size) for name in MAPS}
        seen = {name: np.zeros((size, size), np.float32) for name in NEARER}
        weight = np.zeros((size, size), np.float32)
        fading = _fading()
        for start in _starts(int(rows[0]), int(rows[-1]) + 1, chain):
            told, _ = self._seen(film.on(grid.window(start, (SIZE, SIZE))))
            low, high = np.maximum(start, 0), np.minimum(np.add(start, SIZE), size)
            there = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            part = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            weight[there] += fading[part]
            for name in NEARER:
                seen[name][there] += fading[part] * told[name][part]
        for name in NEARER:
            maps[name] = np.where(weight > 0, seen[name] / np.maximum(weight, 1e-6), maps[name]).astype(np.float32)
        return self._sight(film, first.turn, grid, maps, first.view)

    def _seen(self, shown: Map) -> tuple[dict[str, Map], Map]:
        """Maps and views of a prepared film: the mean of what is told of it and of its mirror image."""
        maps, views = self._told(shown)
        if not self.mirrored_too:
            return maps, views
        mirrored, others = self._told(np.ascontiguousarray(shown[:, ::-1]))
        mirrored["front"] = 1 - mirrored["front"]
        return {name: _mean(maps[name], mirrored[name][:, ::-1]) for name in maps}, _mean(views, others)

    def _told(self, shown: Map) -> tuple[dict[str, Map], Map]:
        """(maps by name, probabilities of `VIEWS`) that the networks tell of a prepared film."""
        inputs = {"film": shown[None, None]}
        outputs = self.models.run(self.network, inputs)
        if self.body_network is not None:
            outputs = outputs | self.models.run(self.body_network, inputs)
        return {name: outputs[name][0, 0] for name in MAPS}, outputs["view"][0]


def _by_name(views: Sequence[float] | Map) -> dict[str, float]:
    return {name: float(p) for name, p in zip(VIEWS, views, strict=True)}


def _starts(top: int, end: int, chain: NDArray[np.float64]) -> list[tuple[int, int]]:
    """First points (row, column) of the parts that hold rows ``top`` to ``end``, each in the middle of the chain there.

    ``chain`` (n, 2) are centres from head to feet, on the same grid.
    """
    count = max(1, int(np.ceil((end - top - OVERLAP) / (SIZE - OVERLAP))))
    middles = np.linspace(top + SIZE / 2, max(end - SIZE / 2, top + SIZE / 2), count)
    columns = np.interp(middles, chain[:, 0], chain[:, 1])
    return [(round(float(r - SIZE / 2)), round(float(c - SIZE / 2))) for r, c in zip(middles, columns, strict=True)]


def _fading() -> Map:
    """How much each point of a part counts: less towards its edges, where a body is seen without what is beside it."""
    near = np.minimum(np.arange(1, SIZE + 1), np.arange(SIZE, 0, -1)) / (OVERLAP / 2)
    return np.minimum(near[:, None], near[None, :]).clip(max=1).astype(np.float32)


def _finer(seen: Map, size: int) -> Map:
    """A map of the whole film on a grid of ``size`` x ``size`` points in its place."""
    scale = size / len(seen)
    offset = (len(seen) - 1) / 2 - (size - 1) / 2 / scale
    matrix = np.array([[1 / scale, 0, offset], [0, 1 / scale, offset]])
    return FilmGrid((size, size), (len(seen), len(seen)), matrix, 1 / scale).from_film(seen)


def _mean(a: Map, b: Map) -> Map:
    return np.asarray((a + b) / 2, np.float32)
