"""Reasons to doubt six points on a film."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from toy_film import Body

from inference.film_checks import disagreement, has_double_contour
from inference.film_contour import SixPoints
from inference.film_grid import whole_film
from inference.film_preparation import prepare
from inference.geometry import Radiograph

SHAPE = (240, 240)
BODY = Body((120.0, 120.0), (60.0, 56.0, 62.0), 80.0, 0.1)


def seen(*bodies: Body, noise: float = 0.01) -> bool:
    """Whether the first body shows an end plate twice on a film of all of them, each adding to the brightness."""
    share = sum(b.covers(SHAPE, 3) for b in bodies) / len(bodies)
    pixels = 0.3 + 0.4 * gaussian_filter(share, 1.0) + np.random.default_rng(2).normal(0, noise, SHAPE)
    film = prepare(Radiograph(pixels.clip(0, 1).astype(np.float32)))
    grid = whole_film(SHAPE, (1.0, 1.0), 256)
    six = SixPoints(grid.to_grid(bodies[0].points), bodies[0].axes)
    return has_double_contour(film, grid, six)


def test_a_plain_end_plate_shows_once() -> None:
    assert not seen(BODY)


@pytest.mark.parametrize("by", [7.0, 10.0])
def test_an_oblique_end_plate_shows_twice(by: float) -> None:
    """The two rims of an end plate that the rays met obliquely: one above the other, each as bright as the other."""
    heights = tuple(h + 2 * by for h in BODY.heights)
    assert seen(BODY, Body(BODY.centre, heights, BODY.depth, BODY.tilt))


def test_noise_alone_is_no_contour() -> None:
    rng = np.random.default_rng(7)
    film = prepare(Radiograph(np.full(SHAPE, 0.5, np.float32)))
    grid = whole_film(SHAPE, (1.0, 1.0), 256)
    for _ in range(5):
        centre = rng.uniform(80, 160, 2)
        body = Body((float(centre[0]), float(centre[1])), (60.0, 56.0, 62.0), 80.0)
        assert not has_double_contour(film, grid, SixPoints(grid.to_grid(body.points), body.axes))


def test_two_measurements_are_compared_by_their_heights() -> None:
    first = SixPoints(BODY.points, BODY.axes)
    assert disagreement(first, SixPoints(BODY.points + np.array([3.0, -2.0]), BODY.axes)) == pytest.approx(0)
    lower = Body(BODY.centre, (54.0, 56.0, 62.0), BODY.depth, BODY.tilt)
    assert disagreement(first, SixPoints(lower.points, lower.axes)) == pytest.approx(6 / 62)
