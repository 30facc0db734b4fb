"""Real vertebrae as signed distances: on a box made by hand, and on the sources where they are present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_models.training.real_shapes import (
    STEP_MM,
    DistanceGrid,
    RealSpine,
    RealVertebra,
    load_mean_lumbar,
    load_visible_human,
    of_surface,
    section_points,
)

pytestmark = pytest.mark.training

BOX_MM = np.array([40.0, 30.0, 24.0])
"""Width, depth and height."""


def box(half_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners and triangles of a box about the origin, normals outward."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half_mm
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, np.array([t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))])


def test_distance_of_a_box_is_exact() -> None:
    grid = of_surface(*box(BOX_MM / 2))
    inward = grid(np.array([[0.0, 0.0, 0.0], [0.0, 13.0, 0.0], [0.0, 0.0, 11.0]]))
    outward = grid(np.array([[23.0, 0.0, 0.0], [0.0, -17.0, 0.0], [0.0, 0.0, 14.0]]))
    assert inward[1:] == pytest.approx([-2.0, -1.0], abs=0.1)
    assert inward[0] == pytest.approx(-12.0, abs=1.2 * STEP_MM), "deep inside the grid's own distance"
    assert outward == pytest.approx([3.0, 2.0, 2.0], abs=0.2)
    assert grid(np.array([0.0, 0.0, 300.0])) > 50


def test_volume_of_a_box() -> None:
    grid = of_surface(*box(BOX_MM / 2))
    assert (grid.values < 0).sum() * STEP_MM**3 == pytest.approx(BOX_MM.prod(), rel=0.05)


def test_an_open_surface_is_refused() -> None:
    corners, triangles = box(BOX_MM / 2)
    with pytest.raises(ValueError, match="open"):
        of_surface(corners, triangles[2:])


def test_points_of_a_box_are_its_corners() -> None:
    points = section_points(of_surface(*box(BOX_MM / 2)), np.eye(3), np.array([0.0, 2.0, 1.0]))
    expected = [[0, y, z] for y in (-15, 0, 15) for z in (12, -12)]
    assert points == pytest.approx(np.array(expected, float), abs=0.6)


def test_no_body_at_the_centre_is_said() -> None:
    empty = DistanceGrid(np.full((9, 9, 9), 5.0, np.float32), np.zeros(3))
    with pytest.raises(ValueError, match="no body"):
        section_points(empty, np.eye(3), np.zeros(3))


def test_a_body_that_is_not_separated_ends_behind_its_corners() -> None:
    grid = of_surface(*box(BOX_MM / 2))
    points = np.array([[0.0, y, z] for y in (-15, 0, 9) for z in (12, -12)])
    v = RealVertebra("L1", np.eye(3), points, grid, grid, separated=False)
    behind = np.array([[0.0, 12.0, 0.0], [0.0, 6.0, 0.0]])
    assert v.vertebra_distance(behind) == pytest.approx([-3, -9], abs=0.4)
    assert v.body_distance(behind) == pytest.approx([3, -3], abs=0.4)


def _looks_like_a_spine(spine: RealSpine) -> None:
    bodies = [v for v in spine.vertebrae if v.level != "S1"]
    heights = np.array([v.heights_mm for v in bodies])
    assert ((heights > 15) & (heights < 36)).all()
    assert (np.diff([v.centroid_lps_mm[2] for v in bodies]) < -18).all(), "from the top, one body apart"
    for v in bodies:
        points = v.keypoints_lps_mm
        assert np.abs(v.vertebra_distance(points)).max() < 1.5, "the points lie on the surface"
        assert (np.diff(points[0::2, 1]) > 0).all(), "front to back"
        assert np.linalg.det(v.frame) == pytest.approx(1.0)
        back = v.centroid_lps_mm + 38 * v.frame[1]
        assert v.vertebra_distance(back) < 12 and v.body_distance(back) > 10, "the spinous process lies behind"


def test_visible_human(real_data: Path) -> None:
    spine = load_visible_human(real_data)
    assert [v.level for v in spine.vertebrae] == ["L1", "L2", "L3", "L4", "L5", "S1"]
    _looks_like_a_spine(spine)
    last = spine.vertebrae[4].heights_mm
    assert last[0] > last[2], "L5 is lower behind"
    tilt = [float(np.degrees(np.arctan2(v.frame[2, 1], v.frame[2, 2]))) for v in spine.vertebrae]
    assert tilt[0] > 0 > tilt[4], "lordosis"


def test_mean_lumbar(real_data: Path) -> None:
    spine = load_mean_lumbar(real_data)
    assert [v.level for v in spine.vertebrae] == ["L2", "L3", "L4", "L5"]
    _looks_like_a_spine(spine)
