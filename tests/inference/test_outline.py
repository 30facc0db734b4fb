"""The outline on the source grid."""

from __future__ import annotations

import numpy as np
import pytest
from toy_spine import axial_affine, blocks_along

from inference.geometry import Volume
from inference.outline import in_polygon, outlines
from inference.surface import CentreLine, CurvedSurface


def straight_surface() -> CurvedSurface:
    z = np.linspace(200, -200, 401)
    return CurvedSurface.through(CentreLine(np.column_stack([0 * z, 0 * z, z]), np.ones(len(z))))


def test_polygon_with_a_hollow() -> None:
    corners = np.array([[0, 0], [5, 2], [10, 0], [10, 10], [5, 8], [0, 10]], float)
    points = np.array([[5, 1], [5, 3], [1, 1], [5, 9], [5, 5], [-1, 5], [11, 5]], float)
    assert in_polygon(points, corners).tolist() == [False, True, True, False, True, False, False]


@pytest.mark.parametrize("spacing", [(0.8, 0.7, 0.7), (3.0, 3.0, 3.0)])
def test_area_and_thickness(spacing) -> None:
    shape = tuple(int(120 / s) for s in spacing)
    volume = Volume(np.zeros(shape, np.int16), axial_affine(shape, spacing))
    block = blocks_along(lambda z: 0.0, lambda z: 0.0, [26.0], top=13.0)[0]
    labels = outlines(volume, straight_surface(), [None, block.keypoints])
    assert set(np.unique(labels)) == {0, 2}
    points = volume.to_lps(np.argwhere(labels))
    assert np.abs(points[:, 0]).max() <= max(2.0, spacing[2] * 0.51)
    per_plane = len(points) / len(np.unique(points[:, 0])) * spacing[0] * spacing[1]
    assert per_plane == pytest.approx(26 * 30, rel=0.12)


def test_the_first_of_two_that_touch_keeps_its_voxels() -> None:
    shape = (60, 60, 60)
    volume = Volume(np.zeros(shape, np.int16), axial_affine(shape, (2.0, 2.0, 2.0)))
    upper, lower = blocks_along(lambda z: 0.0, lambda z: 0.0, [24.0, 24.0], top=24.0, disc=-2.0)
    labels = outlines(volume, straight_surface(), [upper.keypoints, lower.keypoints])
    assert (labels == 1).sum() > (labels == 2).sum() > 0


def test_outside_the_volume_nothing_is_drawn() -> None:
    volume = Volume(np.zeros((10, 10, 10), np.int16), axial_affine((10, 10, 10), (2.0, 2.0, 2.0)))
    block = blocks_along(lambda z: 0.0, lambda z: 0.0, [24.0], top=160.0)[0]
    assert outlines(volume, straight_surface(), [block.keypoints]).max() == 0


def test_more_than_a_byte_is_refused() -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), axial_affine((4, 4, 4), (2.0, 2.0, 2.0)))
    with pytest.raises(ValueError, match="255"):
        outlines(volume, straight_surface(), [None] * 256)
