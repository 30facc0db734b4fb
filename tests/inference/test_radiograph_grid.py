"""The square grid of a network on a film of any shape, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from inference.film_grid import whole_film

SHAPES = [((300, 200), (1.0, 1.0)), ((181, 260), (0.2, 0.2)), ((200, 200), (0.3, 0.15)), ((97, 40), (1.0, 2.5))]


@pytest.mark.parametrize(("shape", "pixel"), SHAPES)
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_point_goes_to_the_grid_and_back(shape: tuple[int, int], pixel: tuple[float, float], turn: int) -> None:
    grid = whole_film(shape, pixel, 128, turn)
    points = np.random.default_rng(3).uniform(0, 1, (50, 2)) * (np.array(shape) - 1)
    np.testing.assert_allclose(grid.to_film(grid.to_grid(points)), points, atol=1e-9)
    corners = grid.to_grid(np.array([[-0.5, -0.5], [shape[0] - 0.5, shape[1] - 0.5]]))
    assert corners.min() >= -0.5 - 1e-9 and corners.max() <= 127.5 + 1e-9
    extent = np.abs(corners[1] - corners[0])
    assert extent.max() == pytest.approx(128)
    np.testing.assert_allclose((corners[0] + corners[1]) / 2, 63.5)


@pytest.mark.parametrize(("shape", "pixel"), SHAPES)
def test_the_aspect_is_that_of_the_patient(shape: tuple[int, int], pixel: tuple[float, float]) -> None:
    grid = whole_film(shape, pixel, 128)
    a, b = grid.to_film(np.array([[10.0, 20.0], [11.0, 20.0]])), grid.to_film(np.array([[10.0, 20.0], [10.0, 21.0]]))
    for first, second in (a, b):
        assert np.linalg.norm((second - first) * pixel) == pytest.approx(grid.step)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_turned_grid_shows_the_film_turned_as_numpy_does(turn: int) -> None:
    film = np.random.default_rng(4).uniform(0, 1, (60, 44))
    upright = whole_film(film.shape, (1.0, 1.0), 60).from_film(film)
    turned = whole_film(film.shape, (1.0, 1.0), 60, turn).from_film(film)
    np.testing.assert_allclose(turned, np.rot90(upright, turn), atol=1e-6)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_disc_on_the_film_comes_back_where_it_was(turn: int) -> None:
    shape, pixel = (400, 250), (0.5, 1.0)
    row, column = np.indices(shape)
    centre = np.array([151.3, 97.6])
    disc = 1 / (1 + np.exp(np.hypot((row - centre[0]) * pixel[0], (column - centre[1]) * pixel[1]) - 18))
    grid = whole_film(shape, pixel, 128, turn)
    seen = grid.from_film(disc)
    there = np.array(np.indices(seen.shape)).reshape(2, -1) @ seen.ravel() / seen.sum()
    np.testing.assert_allclose(grid.to_film(there), centre, atol=0.1)
    np.testing.assert_allclose(grid.image_points(there), centre[::-1] + 0.5, atol=0.1)
    back = grid.onto_film(seen)
    again = np.array(np.indices(back.shape)).reshape(2, -1) @ back.ravel() / back.sum()
    np.testing.assert_allclose(again, centre, atol=0.1)


def test_the_first_pixels_centre_is_half_and_half() -> None:
    grid = whole_film((64, 64), (1.0, 1.0), 64)
    np.testing.assert_allclose(grid.image_points(np.array([0.0, 0.0])), [0.5, 0.5])


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_window_shows_its_part_of_the_grid_and_beyond(turn: int) -> None:
    film = np.random.default_rng(5).uniform(0, 1, (60, 44))
    grid = whole_film(film.shape, (1.0, 1.0), 60, turn)
    part = grid.window((-4, 20), (30, 30)).from_film(film)
    np.testing.assert_allclose(part[4:], grid.from_film(film)[:26, 20:50], atol=1e-6)
    assert not part[:4].any()
