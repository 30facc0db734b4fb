"""Synthetic spines on a film with exact six points: what is drawn is known to the last decimal.

Everything is in the index (row, column) of a square grid. A body in its own frame: x from front (-depth / 2) to back,
y towards the head; end plates are parabolas through the corners, walls are parabolas through the corners too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from toy_spine import ToySession

from inference.film_grid import whole_film
from inference.film_preparation import prepare
from inference.film_sight import SIZE
from inference.findings import ModelIdentity
from inference.geometry import Radiograph
from inference.runtime import Models

FINE = 5
"""Samples a pixel and axis, by which a mask knows its partial pixels."""


@dataclass(frozen=True)
class Body:
    """One vertebral body.

    ``centre`` (row, column) of the middle between the four corners; ``tilt`` in radians turns the head end towards the
    front; ``lean`` is the part of the wedge that the upper plate has, ``waist`` what each wall loses in its middle, as
    a part of the depth; ``front`` -1: the front lies towards column 0.
    """

    centre: tuple[float, float]
    heights: tuple[float, float, float]
    depth: float
    tilt: float = 0.0
    lean: float = 0.5
    waist: float = 0.0
    front: int = -1

    def _plates(self, u):
        ha, hm, hp = self.heights
        rim, sag = (ha + hp) / 2, (ha + hp) / 2 - hm
        upper = rim / 2 + self.lean * (hp - ha) / 2 * u - sag / 2 * (1 - u**2)
        lower = -rim / 2 - (1 - self.lean) * (hp - ha) / 2 * u + sag / 2 * (1 - u**2)
        return upper, lower

    @property
    def axes(self) -> np.ndarray:
        """Rows: unit vectors to the back and to the head, as (row, column)."""
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        up = np.array([-c, s * self.front])
        back = np.array([-s, -self.front * c])
        return np.stack([back, up])

    @property
    def points(self) -> np.ndarray:
        """(6, 2) as (row, column), in the order of ``KEYPOINTS``."""
        out = []
        for u in (-1.0, 0.0, 1.0):
            for y in self._plates(u):
                out.append(np.array(self.centre) + np.array([u * self.depth / 2, y]) @ self.axes)
        return np.array(out)

    def covers(self, shape: tuple[int, int], fine: int = FINE) -> np.ndarray:
        """Part of each pixel that lies within the body."""
        reach = np.hypot(self.depth, max(self.heights)) / 2 + 2
        low = np.maximum(np.floor(np.array(self.centre) - reach).astype(int), 0)
        high = np.minimum(np.ceil(np.array(self.centre) + reach).astype(int) + 1, shape)
        out = np.zeros(shape)
        if (high <= low).any():
            return out
        offset = (np.arange(fine) + 0.5) / fine - 0.5
        axes = [(np.arange(a, b)[:, None] + offset).ravel() for a, b in zip(low, high, strict=True)]
        at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - self.centre
        x, y = np.moveaxis(at @ self.axes.T, -1, 0)
        u = 2 * x / self.depth
        upper, lower = self._plates(np.clip(u, -1.2, 1.2))
        t = (2 * y - upper - lower) / np.maximum(upper - lower, 1e-6)
        inside = (np.abs(t) <= 1) & (np.abs(u) <= 1 - 2 * self.waist * (1 - t**2))
        rows, columns = high - low
        share = inside.reshape(rows, fine, columns, fine).mean(axis=(1, 3))
        out[low[0] : high[0], low[1] : high[1]] = share
        return out


def spine(
    heights: Sequence[tuple[float, float, float]],
    top: tuple[float, float] = (20.0, 120.0),
    bend: float = 0.0,
    disc: float = 4.0,
    depth: float = 26.0,
    tilt: float = 0.0,
    **shape: float,
) -> list[Body]:
    """Bodies one below the other from ``top``; each is turned by ``bend`` radians against the one above."""
    bodies: list[Body] = []
    at = np.array(top, float)
    for n, h in enumerate(heights):
        turned = tilt + bend * n
        body = Body((0.0, 0.0), h, depth, turned, **shape)
        up = body.axes[1]
        middle = at - up * (h[0] + h[2]) / 4
        bodies.append(Body((float(middle[0]), float(middle[1])), h, depth, turned, **shape))
        at = middle - up * ((h[0] + h[2]) / 4 + disc)
    return bodies


def drawn(bodies: Sequence[Body], shape: tuple[int, int] = (256, 256)) -> np.ndarray:
    """Part of each pixel that lies within one of the bodies, (rows, columns)."""
    return np.clip(sum(b.covers(shape) for b in bodies), 0, 1)


@dataclass(frozen=True)
class ToyFilm:
    """A film of drawn bodies with what a perfect network would see on it, all in the film's own pixels.

    ``points`` (bodies, 6, 2) are true six points as (row, column) index; ``front`` and ``head`` are directions of the
    patient's front and head on the film as (row, column).
    """

    pixels: np.ndarray
    body: np.ndarray
    centre: np.ndarray
    sacrum: np.ndarray
    points: np.ndarray
    front: tuple[int, int]
    head: tuple[int, int] = (-1, 0)

    def laid(self, how: str) -> ToyFilm:
        """The same film mirrored, upside down, or lying on its side."""
        last_row, last_column = self.pixels.shape[0] - 1, self.pixels.shape[1] - 1
        turn, point, direction = {
            "upright": (lambda a: a, lambda r, c: (r, c), lambda r, c: (r, c)),
            "mirrored": (np.fliplr, lambda r, c: (r, last_column - c), lambda r, c: (r, -c)),
            "head down": (np.flipud, lambda r, c: (last_row - r, c), lambda r, c: (-r, c)),
            "turned half": (
                lambda a: np.rot90(a, 2),
                lambda r, c: (last_row - r, last_column - c),
                lambda r, c: (-r, -c),
            ),
            "turned left": (np.rot90, lambda r, c: (last_column - c, r), lambda r, c: (-c, r)),
            "turned right": (lambda a: np.rot90(a, 3), lambda r, c: (c, last_row - r), lambda r, c: (c, -r)),
        }[how]
        moved = np.stack(point(self.points[..., 0], self.points[..., 1]), axis=-1)
        maps = (np.ascontiguousarray(turn(a)) for a in (self.pixels, self.body, self.centre, self.sacrum))
        return ToyFilm(*maps, moved, direction(*self.front), direction(*self.head))

    @property
    def heights(self) -> np.ndarray:
        """(bodies, 3) in pixels, which are square."""
        return np.linalg.norm(self.points[:, 0::2] - self.points[:, 1::2], axis=-1)


def filmed(bodies: Sequence[Body], s1: Body | None = None, shape: tuple[int, int] = (512, 360)) -> ToyFilm:
    """A film of bright bodies on an uneven ground, with noise."""
    row, column = np.indices(shape)
    body = np.clip(sum(b.covers(shape, 3) for b in bodies), 0, 1)
    centre = np.zeros(shape)
    for b in bodies:
        d2 = (row - b.centre[0]) ** 2 + (column - b.centre[1]) ** 2
        centre = np.maximum(centre, np.exp(-d2 / (2 * 4.0**2)))
    sacrum = s1.covers(shape, 3) if s1 is not None else np.zeros(shape)
    rng = np.random.default_rng(0)
    ground = 0.25 + 0.1 * np.sin(row / 90) * np.cos(column / 70)
    pixels = ground + 0.4 * np.maximum(body, sacrum) + rng.normal(0, 0.02, shape)
    front = (0, bodies[0].front)
    points = np.array([b.points for b in bodies])
    return ToyFilm(pixels.clip(0, 1).astype(np.float32), body, centre, sacrum, points, front)


MAPS = ("body", "centre", "sacrum", "front", "head", "view")
VIEW = {"lateral spine": 0, "AP spine": 1, "lateral chest": 2, "chest": 3, "other": 4, "blank": 5}


def network(
    film: ToyFilm,
    view: str = "lateral spine",
    sure: float = 0.95,
    front: float = 0.95,
    spacing: float = 1.0,
    head_up: float = 0.95,
) -> ToySession:
    """A network that knows ``film``: it recognises how it was turned and mirrored, and tells the truth."""
    radiograph = Radiograph(film.pixels, spacing_mm=(spacing, spacing))
    prepared = prepare(radiograph)
    grids = [whole_film(film.pixels.shape, (spacing, spacing), SIZE, turn) for turn in range(4)]
    pictures = [prepared.on(grid) for grid in grids]
    told: dict[tuple[int, bool], dict[str, np.ndarray]] = {}

    def answer(inputs):
        shown = inputs["film"][0, 0]
        far = [[np.abs(p - image).mean() for image in (shown, shown[:, ::-1])] for p in pictures]
        turn, mirrored = divmod(int(np.argmin(far)), 2)
        key = (turn, bool(mirrored))
        return told[key] if key in told else told.setdefault(key, flipped(truth(turn)) if mirrored else truth(turn))

    def flipped(seen):
        seen = {n: m[..., ::-1] if n != "view" else m for n, m in seen.items()}
        return seen | {"front": 1 - seen["front"]}

    def truth(turn):
        step = 0.5 * max(film.pixels.shape) / SIZE
        maps = {n: gaussian_filter(getattr(film, n), step) for n in ("body", "centre", "sacrum")}
        seen = {n: grids[turn].from_film(m).clip(0, 1)[None, None] for n, m in maps.items()}
        seen["centre"] /= max(float(seen["centre"].max()), 1e-6)
        direction, head = film.front, film.head
        for _ in range(turn):
            direction, head = (-direction[1], direction[0]), (-head[1], head[0])
        for name, along, sure_of_it in (("front", direction[1], front), ("head", head[0], head_up)):
            seen[name] = np.full_like(seen["body"], {-1: sure_of_it, 0: 0.5, 1: 1 - sure_of_it}[along])
        seen["view"] = np.full((1, 6), (1 - sure) / 5, np.float32)
        seen["view"][0, VIEW[view]] = sure
        return seen

    return ToySession({n: (lambda inputs, n=n: answer(inputs)[n]) for n in MAPS})


def models(session: ToySession) -> Models:
    return Models({"film": session}, (ModelIdentity("film", "0", "0" * 64),), "CPUExecutionProvider")
