"""A film whose bodies are small is looked at again, nearer, and everything still lies where it is on the film."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from toy_film import MAPS, Body, drawn, models
from toy_spine import ToySession

from inference.film_preparation import PreparedFilm, prepare
from inference.film_sight import SIZE, SMALL, USUAL, FilmSight, Look
from inference.geometry import Radiograph

SHAPE = (1400, 620)
TURNED = {turn: lambda picture, turn=turn: np.rot90(picture, -turn) for turn in range(4)}
"""Films that the look's turn brings upright."""


def spine(count: int, height: float, disc: float) -> list[Body]:
    """Bodies along a bent line, one below the other, in the middle of a film."""
    top = (SHAPE[0] - count * (height + disc)) / 2
    rows = top + (height + disc) * (np.arange(count) + 0.5)
    return [Body((r, 300 + 60 * np.sin(r / 300)), (height,) * 3, 1.2 * height) for r in rows]


def film(bodies: list[Body]) -> np.ndarray:
    """Bright bodies on darker ground, with noise."""
    noise = np.random.default_rng(1).normal(0, 0.02, SHAPE)
    return (0.25 + 0.5 * drawn(bodies, SHAPE) + noise).clip(0, 1).astype(np.float32)


def sees_what_is_bright(shown: np.ndarray) -> dict[str, np.ndarray]:
    """Bodies where the picture is bright, centres in their middles: it knows nothing but what it is shown."""
    bright = shown > 0.6
    deep = ndimage.distance_transform_edt(bright)
    centre = np.where(bright, (deep / np.maximum(ndimage.maximum_filter(deep, 7), 1)) ** 4, 0)
    maps = {"body": np.where(bright, 0.95, 0.05), "centre": centre, "sacrum": np.zeros_like(shown)}
    maps |= {"front": np.full_like(shown, 0.9), "head": np.full_like(shown, 0.9)}
    return {n: m.astype(np.float32)[None, None] for n, m in maps.items()} | {"view": np.eye(1, 6, dtype=np.float32)}


def look(answer: Callable[[np.ndarray], dict[str, np.ndarray]] = sees_what_is_bright, **settings: bool) -> Look:
    told: dict[bytes, dict[str, np.ndarray]] = {}

    def said(inputs: dict[str, np.ndarray], name: str) -> np.ndarray:
        shown = inputs["film"][0, 0]
        key = shown.tobytes()
        if key not in told:
            told[key] = answer(shown)
        return told[key][name]

    session = ToySession({n: (lambda inputs, n=n: said(inputs, n)) for n in (*MAPS, "view")})
    return Look(models(session), **settings)


def found(seen: FilmSight) -> np.ndarray:
    """Centres in film index."""
    return np.array([seen.grid.to_film(b.centre) for b in seen.found.bodies])


@pytest.fixture(scope="module")
def small() -> list[Body]:
    return spine(18, 56.0, 14.0)


def shown(picture: np.ndarray) -> PreparedFilm:
    return prepare(Radiograph(np.ascontiguousarray(picture)))


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_small_bodies_are_looked_at_nearer_and_lie_where_they_are(small: list[Body], turn: int) -> None:
    picture = TURNED[turn](film(small))
    index = np.stack([TURNED[turn](i) for i in np.indices(SHAPE)], axis=-1)
    far = look(nearer_too=False)(shown(picture), turn)
    near = look()(shown(picture), turn)
    assert far.grid.shape == (SIZE, SIZE) and far.distance < SMALL
    assert near.grid.shape[0] > SIZE
    assert near.distance == pytest.approx(USUAL, rel=0.05)
    assert len(near.found.bodies) == len(small)
    at = np.rint(found(near)).astype(int)
    np.testing.assert_allclose(index[at[:, 0], at[:, 1]], [b.centre for b in small], atol=6)
    assert all(near.maps[name].shape == near.grid.shape for name in near.maps)


def test_bodies_of_the_usual_size_are_looked_at_once() -> None:
    seen = look()(shown(film(spine(8, 110.0, 24.0))))
    assert seen.grid.shape == (SIZE, SIZE) and len(seen.found.bodies) == 8


def test_a_nearer_look_that_sees_less_is_not_taken(small: list[Body]) -> None:
    def once(picture: np.ndarray) -> dict[str, np.ndarray]:
        seen = sees_what_is_bright(picture)
        whole_film = (picture[:, :40] == 0).all()  # its sides are empty
        return seen if whole_film else seen | {"body": np.zeros_like(seen["body"])}

    seen = look(once)(shown(film(small)))
    assert seen.grid.shape == (SIZE, SIZE) and len(seen.found.bodies) > 10
