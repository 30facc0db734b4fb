"""What the network for whole films sees on one: its maps, and the vertebral bodies in them.

A film is looked at after some quarter turns, and its mirror image as well: what is told of the one must hold for the
other.
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
MAPS = ("body", "centre", "sacrum", "front", "head")
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
        The `SIZE` x `SIZE` grid of the turned film.
    maps
        By the names of `MAPS`, each (`SIZE`, `SIZE`) float32, 0 to 1.
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

    def __call__(self, film: PreparedFilm, turn: int = 0) -> FilmSight:
        """Look at a film after so many quarter turns.

        Raises
        ------
        ModelRunError
            When a network fails.
        """
        grid = whole_film(film.film_shape, film.pixel, SIZE, turn)
        shown = film.on(grid)
        maps, views = self._told(shown)
        if self.mirrored_too:
            mirrored, others = self._told(np.ascontiguousarray(shown[:, ::-1]))
            mirrored["front"] = 1 - mirrored["front"]
            maps = {name: _mean(maps[name], mirrored[name][:, ::-1]) for name in maps}
            views = _mean(views, others)
        measured = film.measured_on(grid)
        found = find_bodies(maps["body"], maps["centre"], maps["sacrum"], measured, self.bodies)
        return FilmSight(turn, grid, maps, found, _by_name(views), head_is_up(found, maps))

    def _told(self, shown: Map) -> tuple[dict[str, Map], Map]:
        """(maps by name, probabilities of `VIEWS`) that the networks tell of a prepared film."""
        inputs = {"film": shown[None, None]}
        outputs = self.models.run(self.network, inputs)
        if self.body_network is not None:
            outputs = outputs | self.models.run(self.body_network, inputs)
        return {name: outputs[name][0, 0] for name in MAPS}, outputs["view"][0]


def _by_name(views: Sequence[float] | Map) -> dict[str, float]:
    return {name: float(p) for name, p in zip(VIEWS, views, strict=True)}


def _mean(a: Map, b: Map) -> Map:
    return np.asarray((a + b) / 2, np.float32)
