"""The surface, the reader's picture and the network's grid: one geometry, exact both ways."""

from __future__ import annotations

import numpy as np
import pytest

from inference.geometry import Volume
from inference.reformat import reformat
from inference.straightening import Straightening
from inference.surface import CentreLine, CurvedSurface, interpolate, smooth, smooth_centre_line


def line_of(x=lambda z: 0 * z, y=lambda z: 0 * z, top: float = 200.0, bottom: float = -200.0) -> CentreLine:
    z = np.linspace(top, bottom, 801)
    return CentreLine(np.column_stack([x(z), y(z), z]), np.ones(len(z)))


def kyphosis(degrees: float):
    """Circular arc, bulging to the back, that turns by so many degrees over 400 mm."""
    radius = 400.0 / np.radians(degrees)
    return lambda z: np.sqrt(radius**2 - z**2) - radius


def gibbus(degrees: float):
    """Two straight limbs that meet at z = 0 within 20 mm."""
    slope = np.tan(np.radians(degrees / 2))
    return lambda z: -slope * (np.sqrt(z**2 + 10.0**2) - 10.0)


def scoliosis(z):
    return 30.0 * np.sin(z / 70.0)


CURVES = {
    "straight": line_of(),
    "kyphosis 60": line_of(y=kyphosis(60)),
    "gibbus 30": line_of(y=gibbus(30)),
    "scoliosis": line_of(x=scoliosis),
    "all at once": line_of(x=scoliosis, y=lambda z: kyphosis(60)(z) + gibbus(30)(z)),
}


def volume_of(shape=(40, 60, 50), spacing=(10.0, 4.0, 4.0), value=100) -> Volume:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = -spacing[0], spacing[1], spacing[2], 1
    centre = np.array([[0, 0, -spacing[0]], [0, spacing[1], 0], [spacing[2], 0, 0]]) * 1.0
    size = (np.array(shape) - 1) / 2
    affine[:3, 3] = -(affine[:3, :3] @ size)
    assert centre.shape == (3, 3)
    return Volume(np.full(shape, value, np.int16), affine)


def test_interpolation_goes_on_straight() -> None:
    nodes, values = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 3.0])
    assert interpolate(np.array([-2.0, 0.5, 4.0]), nodes, values).tolist() == [-2.0, 0.5, 7.0]


def test_smoothing_keeps_a_straight_line_to_its_ends() -> None:
    ramp = np.linspace(0, 5, 50)
    assert np.allclose(smooth(ramp, 8.0), ramp)


def test_an_outlier_of_the_localizer_disappears() -> None:
    z = np.arange(150.0, -150.0, -3.0)
    x = 5 * np.sin(z / 60)
    x[40] += 25.0
    smoothed = smooth_centre_line(CentreLine(np.column_stack([x, 0 * z, z]), np.ones(len(z))))
    at, _, _ = smoothed.at(z)
    assert np.abs(at - 5 * np.sin(z / 60)).max() < 1.0


def test_centre_line_refuses_what_does_not_run_to_the_feet() -> None:
    with pytest.raises(ValueError, match="head to feet"):
        CentreLine(np.array([[0.0, 0, 0], [0, 0, 1]]), np.ones(2))
    with pytest.raises(ValueError, match="two points"):
        CentreLine(np.zeros((1, 3)), np.ones(1))


def test_extension_goes_on_along_the_end() -> None:
    line = line_of(x=lambda z: 0.2 * z, y=lambda z: -0.1 * z).extended(30.0, 20.0)
    assert line.top_mm == pytest.approx(230.0) and line.bottom_mm == pytest.approx(-220.0)
    assert line.points_lps_mm[0] == pytest.approx([46.0, -23.0, 230.0])
    assert line.points_lps_mm[-1] == pytest.approx([-44.0, 22.0, -220.0])
    assert line.confidence[0] == line.confidence[-1] == 0.0


@pytest.mark.parametrize("name", CURVES)
def test_unrolling_keeps_every_length(name: str) -> None:
    surface = CurvedSurface.through(CURVES[name])
    rng = np.random.default_rng(1)
    flat = np.column_stack([rng.uniform(20, 380, 200), rng.uniform(-40, 40, 200)])
    step = rng.normal(size=(200, 2))
    step *= 2.0 / np.linalg.norm(step, axis=1, keepdims=True)
    space = np.linalg.norm(surface.roll(flat + step) - surface.roll(flat), axis=1)
    assert space == pytest.approx(2.0, rel=2e-3)
    assert surface.unroll(surface.roll(flat)) == pytest.approx(flat, abs=1e-6)


def test_lateral_offset_points_left_and_is_a_distance() -> None:
    surface = CurvedSurface.through(CURVES["scoliosis"])
    flat = np.array([[150.0, 10.0], [260.0, -5.0]])
    left = surface.roll(flat, 4.0)
    assert np.all(left[:, 0] > surface.roll(flat)[:, 0])
    assert np.linalg.norm(left - surface.roll(flat), axis=1) == pytest.approx(4.0)
    assert surface.lateral(left) == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("name", CURVES)
def test_straightening_is_exact_both_ways_and_lies_on_the_readers_surface(name: str) -> None:
    line = CURVES[name]
    surface = CurvedSurface.through(line)
    straight = Straightening.along(line, surface)
    row, column = np.meshgrid(np.arange(5, straight.rows - 20, 7.3), np.arange(12, 68, 5.1), indexing="ij")
    grid = np.stack([row, column], axis=-1)
    points = straight.to_lps(grid)
    assert np.abs(surface.lateral(points)).max() < 1e-6
    assert straight.to_grid(points) == pytest.approx(grid, abs=1e-4)


def test_the_line_itself_becomes_vertical() -> None:
    line = CURVES["all at once"]
    straight = Straightening.along(line, CurvedSurface.through(line, sigma_mm=2.0), sigma_mm=2.0)
    grid = straight.to_grid(line.points_lps_mm)
    assert np.abs(grid[20:-20, 1] - 39.5).max() < 0.6
    assert np.all(np.diff(grid[:, 0]) > 0)


def test_head_is_up_and_front_is_left() -> None:
    line = CURVES["kyphosis 60"]
    straight = Straightening.along(line, CurvedSurface.through(line))
    head, feet = straight.to_lps(np.array([[10.0, 39.5], [300.0, 39.5]]))
    assert head[2] > feet[2]
    front, back = straight.to_lps(np.array([[200.0, 10.0], [200.0, 70.0]]))
    assert front[1] < back[1]
    right, left = straight.to_lps(np.array([[200.0, 40.0, -5.0], [200.0, 40.0, 5.0]]))
    assert right[0] < left[0]


def test_kyphosis_has_the_sign_of_the_body() -> None:
    """Above the apex of a kyphosis the line runs backward on its way to the feet, below it forward."""
    line = CURVES["kyphosis 60"]
    straight = Straightening.along(line, CurvedSurface.through(line))
    assert straight.angle[40] == pytest.approx(np.radians(30), abs=0.08)
    assert straight.angle[-40] == pytest.approx(-np.radians(30), abs=0.08)


@pytest.mark.parametrize("name", CURVES)
def test_a_height_is_the_same_on_grid_in_space_and_on_the_readers_picture(name: str) -> None:
    line = CURVES[name]
    surface = CurvedSurface.through(line)
    straight = Straightening.along(line, surface)
    picture = reformat(volume_of(), line, surface)
    superior = np.stack([np.arange(30.0, 350, 24), np.full(14, 24.0)], axis=-1)
    inferior = superior + np.array([20.0, 3.0])
    for offset in (0.0, 16.0, 32.0):
        a, b = (straight.to_lps(p + np.array([0, offset])) for p in (superior, inferior))
        in_space = np.linalg.norm(a - b, axis=1)
        drawn = np.linalg.norm(picture.to_pixel(a) - picture.to_pixel(b), axis=1) * picture.spacing_mm
        assert drawn == pytest.approx(in_space, rel=0.02)


def test_reformat_map_is_exact_and_first_pixel_centre_is_one_half() -> None:
    line = CURVES["all at once"]
    picture = reformat(volume_of(), line, CurvedSurface.through(line))
    pixels = np.array([[0.5, 0.5], [40.0, 100.0], [10.25, 333.5]])
    assert picture.to_pixel(picture.to_lps(pixels)) == pytest.approx(pixels, abs=1e-6)
    a, b = picture.to_lps(np.array([[10.0, 50.0], [11.0, 50.0]]))
    assert np.linalg.norm(a - b) == pytest.approx(picture.spacing_mm)


def test_reformat_shows_what_lies_at_its_pixels() -> None:
    """A volume whose value is y shows a ramp from front to back, whatever the curve."""
    source = volume_of()
    index = np.stack(np.meshgrid(*(np.arange(n) for n in source.hu.shape), indexing="ij"), axis=-1)
    ramp = Volume(np.rint(source.to_lps(index)[..., 1] * 8).astype(np.int16), source.affine)
    line = CURVES["all at once"]
    picture = reformat(ramp, line, CurvedSurface.through(line))
    rows, columns = picture.hu.shape
    middle = picture.hu[60 : rows - 60]
    y = picture.to_lps(np.stack([np.arange(columns) + 0.5, np.full(columns, rows / 2)], axis=-1))[:, 1]
    assert np.abs(middle - np.rint(y * 8))[:, 4:-4].max() <= 4
    assert picture.hu.dtype == np.int16 and 0.5 <= picture.spacing_mm <= 1.0


def test_reformat_of_a_narrow_volume_ends_where_it_ends() -> None:
    narrow = volume_of((40, 20, 20), (10.0, 2.0, 2.0))
    line = CURVES["straight"]
    picture = reformat(narrow, line, CurvedSurface.through(line))
    assert picture.hu.shape == (400, 40)
    assert np.all(picture.hu == 100)


def test_a_tilted_grid_gives_the_same_picture() -> None:
    """The source's grid may lie any way: the picture depends on the patient alone."""
    line = line_of(top=100, bottom=-100)

    def value(points):
        return (3 * points[..., 1] + points[..., 2]).astype(np.float32)

    angle = np.radians(20)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    pictures = []
    for axes in (np.diag([1.0, 1.0, 1.0])[:, ::-1], turn @ np.array([[0, 0, 1.0], [0, -1, 0], [-1, 0, 0]])):
        affine = np.eye(4)
        affine[:3, :3] = axes * 3.0
        affine[:3, 3] = -affine[:3, :3] @ np.array([60, 60, 60])
        index = np.stack(np.meshgrid(*(np.arange(121.0),) * 3, indexing="ij"), axis=-1)
        volume = Volume(value(index @ affine[:3, :3].T + affine[:3, 3]), affine)
        pictures.append(reformat(volume, line, CurvedSurface.through(line)))
    assert pictures[0].hu.shape == pictures[1].hu.shape
    assert np.abs(pictures[0].hu - pictures[1].hu.astype(int)).max() <= 1
