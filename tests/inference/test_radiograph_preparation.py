"""The exposed field of a film, and the film as the networks see it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from inference.film_field import block_mean, exposed_field
from inference.film_grid import FilmGrid, whole_film
from inference.film_preparation import prepare
from inference.geometry import Radiograph

SHAPE = (900, 700)


def collimated(degrees: float, border: float, half: tuple[float, float] = (380.0, 240.0), seed: int = 0):
    """A film of soft shades within a rotated rectangle, and that rectangle."""
    rng = np.random.default_rng(seed)
    row, column = np.indices(SHAPE, float)
    row, column = row - SHAPE[0] / 2, column - SHAPE[1] / 2
    t = np.radians(degrees)
    r, c = row * np.cos(t) + column * np.sin(t), column * np.cos(t) - row * np.sin(t)
    field = (np.abs(r) < half[0]) & (np.abs(c) < half[1])
    shades = gaussian_filter(rng.normal(size=SHAPE), 15)
    film = np.where(field, 0.5 + 0.15 * shades / shades.std(), border) + rng.normal(0, 0.01, SHAPE)
    return film.clip(0, 1).astype(np.float32), field


@pytest.mark.parametrize("border", [0.0, 0.2, 0.95])
@pytest.mark.parametrize("degrees", [0.0, 3.0, -8.0, 15.0])
def test_the_field_within_rotated_borders_is_found(degrees: float, border: float) -> None:
    film, truth = collimated(degrees, border)
    found = exposed_field(film).mask(SHAPE)
    assert (found & ~truth).mean() < 0.001
    assert (truth & ~found).mean() < 0.015


def test_text_in_the_border_does_not_move_it() -> None:
    film, truth = collimated(4.0, 0.0)
    film[20:50, 300:420] = 1.0
    found = exposed_field(film).mask(SHAPE)
    assert (found & ~truth).mean() < 0.001 and (truth & ~found).mean() < 0.015
    assert not found[20:50, 300:420].any()


def test_one_border_alone_is_one_edge() -> None:
    film, _ = collimated(0.0, 0.0, half=(2000.0, 2000.0))
    film[:, :90] = 0.02
    field = exposed_field(film)
    assert len(field.edges) == 1
    found = field.mask(SHAPE)
    assert not found[:, :90].any() and found[:, 96:].all()


@pytest.mark.parametrize(("noise", "edges"), [(0.0, 1), (0.01, 0)], ids=["a shutter", "a dark part of the picture"])
def test_a_shutter_ends_where_dark_lungs_begin(noise: float, edges: int) -> None:
    film, _ = collimated(0.0, 0.0, half=(2000.0, 2000.0))
    rng = np.random.default_rng(1)
    film[:300] = 0.1 + rng.normal(0, 0.01, (300, SHAPE[1]))
    film[:60] = np.abs(rng.normal(0, noise, (60, SHAPE[1])))
    field = exposed_field(film)
    assert len(field.edges) == edges
    assert field.mask(SHAPE)[66:].all() and field.mask(SHAPE)[:58].any() is np.bool_(edges == 0)


def test_a_film_without_borders_is_exposed_everywhere() -> None:
    film, _ = collimated(0.0, 0.0, half=(2000.0, 2000.0))
    assert exposed_field(film).mask(SHAPE).all()


def test_air_with_a_curved_skin_is_no_border() -> None:
    film, _ = collimated(0.0, 0.0, half=(2000.0, 2000.0))
    row, column = np.indices(SHAPE)
    film[(column - 120 - 90 * np.sin(row / 150)) < 0] = 0.0
    assert exposed_field(film).mask(SHAPE).all()


def intensified(
    radius: float, border: float, centre: tuple[float, float] = (400.0, 400.0), shape: tuple[int, int] = (800, 800)
):
    """A film of soft shades within a circle, and that circle."""
    rng = np.random.default_rng(2)
    row, column = np.indices(shape, float)
    field = (row - centre[0]) ** 2 + (column - centre[1]) ** 2 < radius**2
    shades = gaussian_filter(rng.normal(size=shape), 15)
    film = np.where(field, 0.5 + 0.12 * shades / shades.std(), border) + rng.normal(0, 0.01, shape)
    return film.clip(0, 1).astype(np.float32), field


@pytest.mark.parametrize("border", [0.0, 0.05, 0.95])
@pytest.mark.parametrize("radius", [280.0, 395.0, 440.0, 490.0], ids=lambda r: f"{r:.0f} of 800 pixels")
@pytest.mark.parametrize("off", [(0.0, 0.0), (12.0, -9.0)], ids=["central", "off centre"])
def test_the_round_field_of_an_intensifier_is_found(radius: float, border: float, off: tuple[float, float]) -> None:
    film, truth = intensified(radius, border, (400.0 + off[0], 400.0 + off[1]))
    field = exposed_field(film)
    found = field.mask(film.shape)
    assert (found & ~truth).mean() < 0.001
    assert (truth & ~found).mean() < 0.02
    assert not found[:20, :20].any() and not found[-20:, -20:].any()
    points = np.argwhere(np.ones((8, 8), bool)) * 100.0
    np.testing.assert_array_equal(field.inside(points), found[::100, ::100].ravel())


def test_text_in_one_corner_of_a_round_field_does_not_matter() -> None:
    film, truth = intensified(395.0, 0.0)
    film[20:60, 10:70] = 1.0
    found = exposed_field(film).mask(film.shape)
    assert (found & ~truth).mean() < 0.001 and (truth & ~found).mean() < 0.02


def test_dark_air_in_one_corner_of_a_round_field_is_still_exposed() -> None:
    film, truth = intensified(395.0, 0.0)
    film[:350, :350] = 0.0
    found = exposed_field(film).mask(film.shape)
    assert (found & ~truth).mean() < 0.001 and (truth & ~found).mean() < 0.02


def test_a_round_field_on_an_oblong_image_and_in_the_prepared_film() -> None:
    film, truth = intensified(330.0, 0.0, (440.0, 360.0), (880, 720))
    prepared = prepare(Radiograph(film))
    grid = whole_film(film.shape, (1.0, 1.0), 256)
    seen = prepared.on(grid)
    assert (seen[~prepared.measured_on(grid)] == 0).all()
    assert prepared.measured_on(grid).mean() == pytest.approx(truth.mean() * 720 / 880, abs=0.02)


@pytest.mark.parametrize(
    "name", ["three corners", "no step", "an ellipse", "an octagon", "a small disc", "a bent chain"]
)
def test_what_is_not_one_circle_in_all_corners_is_no_round_field(name: str) -> None:
    film = intensified(395.0, 0.0)[0]
    row, column = np.indices(film.shape) - 400.0
    inner = intensified(2000.0, 0.0)[0]
    if name == "three corners":
        film[:400, :400] = inner[:400, :400]
    elif name == "no step":
        film = (film * np.clip((395 - np.hypot(row, column)) / 60, 0, 1)).astype(np.float32)
    elif name == "an ellipse":
        film = np.where((row / 390) ** 2 + (column / 330) ** 2 < 1, inner, 0).astype(np.float32)
    elif name == "an octagon":
        turned = (np.abs(row) + np.abs(column)) / np.sqrt(2)
        film = np.where(np.maximum.reduce([np.abs(row), np.abs(column), turned]) < 370, inner, 0).astype(np.float32)
    elif name == "a small disc":
        film = np.where(np.hypot(row, column) < 150, inner, 0).astype(np.float32)
    elif name == "a bent chain":
        film = np.where(np.abs(column - 60 * np.sin(row / 150)) < 120, inner, 0).astype(np.float32)
    assert exposed_field(film).circle is None


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (33, 33), (40, 900), (500, 500)], ids=str)
@pytest.mark.parametrize("name", ["one grey", "noise", "a ramp", "half", "squares", "a line", "one spot"])
def test_no_picture_makes_the_search_for_a_circle_fail(shape: tuple[int, int], name: str) -> None:
    row, column = np.indices(shape)
    film = {
        "one grey": np.zeros(shape),
        "noise": np.random.default_rng(0).random(shape),
        "a ramp": row / shape[0],
        "half": column > shape[1] // 2,
        "squares": (row // 20 + column // 20) % 2,
        "a line": row == shape[0] // 2,
        "one spot": np.hypot(row - shape[0] // 2, column - shape[1] // 2) < 3,
    }[name].astype(np.float32)
    assert exposed_field(film).circle is None


@pytest.mark.parametrize("degrees", [0.0, 3.0, -8.0, 15.0, 40.0])
def test_a_field_with_straight_edges_is_never_round(degrees: float) -> None:
    for half in ((380.0, 240.0), (300.0, 300.0), (2000.0, 2000.0)):
        assert exposed_field(collimated(degrees, 0.0, half)[0]).circle is None


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_a_blank_film_is_exposed_everywhere_and_stays_even(grey: float) -> None:
    film = Radiograph(np.full((300, 200), grey, np.float32))
    prepared = prepare(film)
    assert prepared.exposed.all()
    assert np.ptp(prepared.picture) == 0


def test_what_is_outside_is_zero_and_does_not_change_what_is_inside() -> None:
    dark, truth = collimated(6.0, 0.0)
    bright, _ = collimated(6.0, 1.0)
    grid = whole_film(SHAPE, (1.0, 1.0), 256)
    first, second = (prepare(Radiograph(f)) for f in (dark, bright))
    inside = first.measured_on(grid) & second.measured_on(grid)
    assert inside.mean() > 0.95 * truth.mean() * SHAPE[1] / SHAPE[0]
    assert first.on(grid)[~first.measured_on(grid)].max() == 0
    assert np.abs(first.on(grid) - second.on(grid))[inside].mean() < 0.02


def test_pixels_are_shrunk_with_their_aspect_and_padded_with_zeros() -> None:
    film, _ = collimated(0.0, 0.0, half=(2000.0, 2000.0))
    grid = whole_film(SHAPE, (1.0, 2.0), 256)  # 900 x 1400 in widths of a pixel's height
    seen = prepare(Radiograph(film, aspect=0.5)).on(grid)
    assert seen.dtype == np.float32 and seen.min() >= 0 and seen.max() <= 1
    rows = np.flatnonzero(seen.any(axis=1))
    assert len(rows) == pytest.approx(256 * 900 / 1400, abs=1)
    assert rows[0] + rows[-1] == 255


@pytest.mark.parametrize("corner", [(-40, -30), (250, 180), (860, 660), (-900, 2000)])
def test_a_part_of_a_film_looks_as_it_does_in_the_whole(corner: tuple[int, int]) -> None:
    film, _ = collimated(4.0, 0.3)
    prepared = prepare(Radiograph(film))
    matrix = np.array([[1.9, 0.3, corner[0]], [-0.3, 1.9, corner[1]]])
    part = FilmGrid((60, 50), SHAPE, matrix, 2.0)
    wide = np.column_stack([matrix[:, :2], matrix[:, 2] - matrix[:, :2] @ [900, 900]])
    whole = FilmGrid((1860, 1850), SHAPE, wide, 2.0)  # holds the film and the part
    np.testing.assert_allclose(prepared.on(part), prepared.on(whole)[900:960, 900:950], atol=1e-5)


def test_blocks_keep_their_place() -> None:
    row = np.arange(103, dtype=np.float32)
    film = np.repeat(row[:, None], 50, axis=1)
    small = block_mean(film, 4)
    assert small.shape == (26, 13)
    np.testing.assert_allclose(small[:25, 0], np.arange(25) * 4 + 1.5)


def test_reducing_first_hardly_changes_what_a_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference import film_preparation

    film, _ = collimated(0.0, 0.0, half=(2000.0, 2000.0))
    big = Radiograph(np.repeat(np.repeat(film, 2, axis=0), 2, axis=1))
    grid = whole_film(big.pixels.shape, (1.0, 1.0), 256)
    reduced = prepare(big)
    assert reduced.block == 2
    monkeypatch.setattr(film_preparation, "LONGEST", 10_000)
    whole = prepare(big)
    assert whole.block == 1
    assert np.abs(whole.on(grid) - reduced.on(grid)).mean() < 0.02


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("finer", [1, 2])
def test_pixels_twice_as_high_or_wide_show_the_same_film(axis: int, finer: int) -> None:
    square = Radiograph(np.repeat(np.repeat(collimated(3.0, 0.0)[0], finer, axis=0), finer, axis=1))
    halves = np.moveaxis(square.pixels, axis, 0)
    pairs = np.moveaxis((halves[0::2] + halves[1::2]) / 2, 0, axis)
    long = Radiograph(np.ascontiguousarray(pairs), aspect=2.0 if axis == 0 else 0.5)
    size = [whole_film(f.pixels.shape, f.pixel_mm, 256) for f in (square, long)]
    seen, otherwise = (prepare(f).on(g) for f, g in zip((square, long), size, strict=True))
    inside = (seen > 0) & (otherwise > 0)
    assert inside.sum() > 0.97 * (seen > 0).sum()
    assert np.abs(seen - otherwise)[inside].mean() < 0.02
