"""Six points from masks of drawn vertebrae, whose points are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from toy_film import Body, drawn, spine

from inference.film_bodies import find_bodies
from inference.film_contour import SixPoints, six_points

SPINES = {
    "healthy": [(15.0, 14.2, 16.0)] * 6,
    "wedged": [(15.0, 14.2, 16.0), (9.0, 12.0, 16.0), (15.5, 14.5, 16.5), (11.5, 13.3, 16.5), (16.0, 15.0, 17.0)],
    "biconcave": [(15.0, 14.2, 16.0), (15.0, 9.5, 16.0), (15.5, 14.5, 16.5), (16.0, 11.5, 17.0), (16.0, 15.0, 17.0)],
    "crushed": [(15.0, 14.2, 16.0), (7.5, 7.0, 8.5), (15.5, 14.5, 16.5), (10.0, 9.0, 12.0), (16.0, 15.0, 17.0)],
    "lower behind": [(15.0, 14.0, 14.5), (16.0, 14.0, 13.5), (16.0, 14.0, 12.5)],
}
CURVES = {"straight": {}, "tilted": {"tilt": 0.45}, "kyphotic": {"tilt": -0.5, "bend": 0.22}}


def measured(bodies: list[Body], mask: np.ndarray) -> list[SixPoints]:
    """Six points of every body of a mask, found as in the pipeline; centres as the network would show them."""
    row, column = np.indices(mask.shape)
    heat = np.zeros(mask.shape)
    for b in bodies:
        heat = np.maximum(heat, np.exp(-((row - b.centre[0]) ** 2 + (column - b.centre[1]) ** 2) / 8))
    found = find_bodies(mask, heat, np.zeros(mask.shape), np.ones(mask.shape, bool))
    assert len(found.bodies) == len(bodies)
    out = [six_points(found.alone(n + 1, mask), found.up(n), bodies[n].front) for n in range(len(bodies))]
    assert None not in out
    return [p for p in out if p is not None]


def true_heights(bodies: list[Body]) -> np.ndarray:
    return np.array([np.linalg.norm(b.points[0::2] - b.points[1::2], axis=1) for b in bodies])


@pytest.mark.parametrize(("curve", "front"), [("straight", -1), ("tilted", 1), ("kyphotic", -1), ("kyphotic", 1)])
@pytest.mark.parametrize("kind", SPINES)
def test_heights_of_perfect_masks_are_right_within_a_third_of_a_pixel(kind: str, curve: str, front: int) -> None:
    bodies = spine(SPINES[kind], top=(30.3, 120.7), depth=22.0, waist=0.05, lean=0.6, front=front, **CURVES[curve])
    found = measured(bodies, drawn(bodies, (200, 240)))
    errors = np.array([f.heights for f in found]) - true_heights(bodies)
    assert np.abs(errors).max() < 0.3
    apart = np.array([np.linalg.norm(f.points - b.points, axis=1) for f, b in zip(found, bodies, strict=True)])
    assert apart[:, [0, 1, 4, 5]].max() < 0.6
    assert apart[:, [2, 3]].max() < 0.1 * 22 + 0.6  # along the plates, to where they are deepest


def test_masks_without_partial_pixels_cost_little() -> None:
    errors = []
    for heights in SPINES.values():
        bodies = spine(heights, top=(30.3, 120.7), depth=22.0, waist=0.05, tilt=0.2)
        mask = (drawn(bodies, (200, 240)) >= 0.5).astype(float)
        errors.append(np.array([f.heights for f in measured(bodies, mask)]) - true_heights(bodies))
    error = np.concatenate(errors)
    assert np.abs(error).mean() < 0.3 and np.abs(error.mean(axis=0)).max() < 0.3


def test_blurred_masks_keep_their_corners() -> None:
    bodies = spine(SPINES["wedged"], top=(30.3, 120.7), depth=22.0, waist=0.05, disc=6.0)
    mask = gaussian_filter(drawn(bodies, (200, 240)), 0.8)
    errors = np.array([f.heights for f in measured(bodies, mask)]) - true_heights(bodies)
    assert np.abs(errors).max() < 0.5


def test_the_compression_of_a_wedge_is_not_flattened() -> None:
    loss = []
    for share in np.linspace(0.4, 1.1, 8):
        body = Body((30.2, 30.6), (16 * share, 16 * (1 + share) / 2 * 0.95, 16.0), 22.0, 0.2)
        points = six_points(body.covers((60, 60)).astype(np.float32), body.axes[1], -1)
        assert points is not None
        loss.append((1 - share, 1 - points.heights[0] / points.heights[2]))
    slope, shift = np.polyfit(*np.array(loss).T, 1)
    assert slope == pytest.approx(1, abs=0.03) and shift == pytest.approx(0, abs=0.01)


def test_a_rough_direction_to_the_head_is_enough() -> None:
    body = Body((40.2, 40.6), (11.0, 12.0, 16.0), 22.0, 0.3)
    mask = body.covers((80, 80)).astype(np.float32)
    for degrees in (-25, 25):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        points = six_points(mask, np.array([[c, -s], [s, c]]) @ body.axes[1], -1)
        assert points is not None
        np.testing.assert_allclose(points.points, body.points, atol=0.8)
        np.testing.assert_allclose(points.axes, body.axes, atol=0.05)


def test_the_middle_points_lie_where_a_fractured_plate_is_deepest() -> None:
    body = Body((40.0, 40.0), (16.0, 15.0, 16.0), 24.0)
    mask = body.covers((80, 80), 5)
    row, column = np.indices(mask.shape)
    dent = np.clip(3.5 - (column - 37.5) ** 2 / 10, 0, None)  # a dent in the upper plate, in front of the middle
    mask = mask * np.clip(row - (40 - 7.5 + dent) + 0.5, 0, 1)
    points = six_points(mask.astype(np.float32), np.array([-1.0, 0.0]), -1)
    assert points is not None
    assert points.points[2, 1] == pytest.approx(38.0, abs=1.2)
    assert points.heights[1] == pytest.approx(15 - 3.5, abs=0.8)


@pytest.mark.parametrize("size", [(1.5, 20.0), (20.0, 3.0)])
def test_a_streak_is_not_measured(size: tuple[float, float]) -> None:
    streak = Body((30.0, 30.0), (size[0],) * 3, size[1])
    assert six_points(streak.covers((60, 60)).astype(np.float32), np.array([-1.0, 0.0]), -1) is None


def test_an_empty_mask_is_not_measured() -> None:
    assert six_points(np.zeros((20, 20), np.float32), np.array([-1.0, 0.0]), -1) is None


def random_spine(rng: np.random.Generator) -> list[Body]:
    """Six bodies that grow towards the feet, two of them fractured in one of three ways, on a curve."""
    heights = []
    for n in range(6):
        posterior = 14.0 * 1.037**n * rng.normal(1, 0.02)
        heights.append([posterior * rng.normal(0.93, 0.04), posterior * rng.normal(0.86, 0.03), posterior])
    for n, kind in zip(rng.choice(6, 2, replace=False), rng.integers(3, size=2), strict=True):
        left = rng.uniform(0.5, 0.85)
        factors = [(left, (1 + left) / 2, 1.0), (0.97, left, 1.0), (left, left, (1 + left) / 2)][kind]
        heights[n] = [h * f for h, f in zip(heights[n], factors, strict=True)]
    shape = {"waist": rng.uniform(0, 0.07), "lean": rng.uniform(0.3, 0.7), "front": int(rng.choice([-1, 1]))}
    top = (20 + rng.uniform(), 110 + rng.uniform())
    bodies = [(h[0], min(h[1], 0.97 * (h[0] + h[2]) / 2), h[2]) for h in heights]
    return spine(bodies, top, bend=rng.uniform(-0.12, 0.12), disc=4.0, depth=21.0, tilt=rng.uniform(-0.3, 0.3), **shape)


def test_compression_ratios_of_perfect_masks_are_those_of_the_truth() -> None:
    rng = np.random.default_rng(20)
    told = []
    for _ in range(10):
        bodies = random_spine(rng)
        found = measured(bodies, drawn(bodies, (200, 220)))
        for n in range(1, 5):
            pair = [1 - h[n, 0] / ((h[n - 1, 0] + h[n + 1, 0]) / 2) for h in (
                true_heights(bodies), np.array([f.heights for f in found]))]  # fmt: skip
            told.append(pair)
    true, seen = 100 * np.array(told).T
    difference = seen - true
    assert np.corrcoef(true, seen)[0, 1] > 0.999
    assert abs(difference.mean()) < 0.2 and 1.96 * difference.std() < 1.5  # points; limits of agreement
    assert np.polyfit(true, seen, 1)[0] == pytest.approx(1, abs=0.02)


def test_a_body_that_is_two_pieces_side_by_side_has_no_points() -> None:
    body = np.zeros((60, 60), np.float32)
    body[20:40, 10:16] = body[20:40, 44:50] = 1.0
    assert six_points(body, np.array([-1.0, 0.0]), -1) is None
