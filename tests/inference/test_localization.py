"""The network's grid, and which slices are believed."""

from __future__ import annotations

import numpy as np
import pytest
from toy_spine import axial_affine

from inference.geometry import Volume
from inference.localization import LocalizationSettings, canonical_grid, longest_run
from inference.refusal import Refusal, RefusalCode
from inference.surface import CentreLine

SETTINGS = LocalizationSettings()


def field(points: np.ndarray) -> np.ndarray:
    """A smooth field of the patient, the same whichever grid samples it."""
    x, y, z = np.moveaxis(points, -1, 0)
    return 300 * np.sin(x / 40) + 200 * np.cos(y / 50) + 2.0 * z


def volume_on(affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)
    return Volume(field(index @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32), affine)


def permuted(affine: np.ndarray, order: tuple[int, int, int], signs: tuple[int, int, int]) -> np.ndarray:
    out = affine.copy()
    out[:3, :3] = affine[:3, :3][:, order] * signs
    out[:3, 3] = affine[:3, :3] @ ((np.array([40, 50, 60]) - 1) / 2) + affine[:3, 3]
    out[:3, 3] -= out[:3, :3] @ ((np.array([40, 50, 60])[list(order)] - 1) / 2)
    return out


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_any_axis_order_and_direction_gives_the_same_grid(order, signs) -> None:
    shape = np.array([40, 50, 60])
    affine = permuted(axial_affine((40, 50, 60), (4.0, 2.0, 3.0), (5.0, -100.0, 80.0)), order, signs)
    grid = canonical_grid(volume_on(affine, tuple(int(n) for n in shape[list(order)])))
    assert grid.hu.shape == (54, 34, 60)
    points = grid.to_lps(*(np.array([20.0, 30.0]), np.array([10.0, 25.0]), np.array([30.0, 11.0])))
    assert grid.hu[[20, 30], [10, 25], [30, 11]] == pytest.approx(field(points), abs=2.0)
    assert points[0, 2] > points[1, 2] and points[0, 1] < points[1, 1]


def test_a_turned_grid_is_resampled_and_the_corners_are_air() -> None:
    angle = np.radians(25)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grid = canonical_grid(volume_on(turn @ axial_affine((50, 60, 60), (3.0, 3.0, 3.0)), (50, 60, 60)))
    middle = np.array(grid.hu.shape) // 2
    points = grid.to_lps(*(np.array([m + d], float) for m, d in zip(middle, (5, -6, 3), strict=True)))
    assert grid.hu[tuple(middle + np.array([5, -6, 3]))] == pytest.approx(field(points)[0], abs=2.0)
    assert grid.hu[0, 0, 0] == -1024


def test_fine_voxels_are_averaged_not_picked() -> None:
    shape = (60, 80, 80)
    rng = np.random.default_rng(1)
    noisy = Volume(rng.normal(100, 50, shape).astype(np.float32), axial_affine(shape, (1.0, 0.75, 0.75)))
    grid = canonical_grid(noisy)
    assert grid.hu.shape == (20, 20, 20)
    assert grid.hu.std() < 50 / np.sqrt(20)
    assert grid.hu.mean() == pytest.approx(100, abs=1)


def test_whole_numbers_of_fine_voxels_keep_their_place() -> None:
    shape = (90, 90, 90)
    grid = canonical_grid(volume_on(axial_affine(shape, (1.0, 1.0, 1.0)), shape))
    k, j, i = (np.array([12.0]),) * 3
    assert grid.hu[12, 12, 12] == pytest.approx(field(grid.to_lps(k, j, i))[0], abs=1.0)


def test_network_input_is_normalised_then_padded_with_air() -> None:
    shape = (21, 34, 35)
    volume = volume_on(axial_affine(shape, (3.0, 3.0, 3.0)), shape)
    grid = canonical_grid(volume)
    image = grid.network_input()
    assert image.shape == (1, 1, 24, 40, 40) and image.dtype == np.float32
    inner = image[0, 0, :21, :34, :35]
    assert inner.mean() == pytest.approx(0, abs=1e-4) and inner.std() == pytest.approx(1, abs=1e-4)
    clipped = np.clip(grid.hu, -1024, 2000)
    assert image[0, 0, -1, -1, -1] == pytest.approx((-1024 - clipped.mean()) / clipped.std(), rel=1e-4)


def test_one_value_everywhere_divides_by_one() -> None:
    image = canonical_grid(Volume(np.full((8, 8, 8), 40, np.int16), axial_affine((8, 8, 8), (3, 3, 3)))).network_input()
    assert np.all(np.isfinite(image)) and np.abs(image).max() == 0


def run_of(n: int = 60, **changed):
    """A straight spine of n slices that the network is sure of."""
    points = np.column_stack([np.zeros(n), np.zeros(n), -3.0 * np.arange(n)])
    peak, presence, whole = np.full(n, 0.8), np.full(n, 0.95), np.ones(n, bool)
    for name, (where, value) in changed.items():
        {"x": points[:, 0], "y": points[:, 1], "peak": peak, "presence": presence, "whole": whole}[name][where] = value
    return longest_run(points, peak, presence, whole, SETTINGS)


def test_a_sure_spine_is_kept_whole() -> None:
    line = run_of()
    assert isinstance(line, CentreLine) and len(line.points_lps_mm) == 60
    assert line.confidence.min() > 0.9


def test_slices_beyond_the_spine_are_left_out() -> None:
    line = run_of(presence=(slice(45, 60), 0.01))
    assert len(line.points_lps_mm) == 45


def test_presence_alone_is_not_believed() -> None:
    """In the pelvis presence may stay high while the point jumps about."""
    rng = np.random.default_rng(2)
    line = run_of(x=(slice(40, 60), rng.uniform(-60, 60, 20)), y=(slice(40, 60), rng.uniform(-60, 60, 20)))
    assert 38 <= len(line.points_lps_mm) <= 44
    assert np.abs(line.points_lps_mm[:38, 0]).max() == 0


def test_a_flat_map_is_not_believed() -> None:
    assert len(run_of(peak=(slice(0, 20), 0.02)).points_lps_mm) == 40


def test_doubtful_ends_are_taken_along() -> None:
    assert len(run_of(presence=(slice(0, 12), 0.3)).points_lps_mm) == 60
    assert len(run_of(presence=(slice(0, 12), 0.1)).points_lps_mm) == 48


def test_a_few_bad_slices_are_bridged_many_are_not() -> None:
    assert len(run_of(x=(slice(20, 23), 40.0)).points_lps_mm) == 57
    assert len(run_of(presence=(slice(25, 40), 0.0)).points_lps_mm) == 25


def test_where_the_body_is_cut_by_the_field_of_view_nothing_is_believed() -> None:
    assert len(run_of(whole=(slice(0, 30), False)).points_lps_mm) == 30


def test_doubt_everywhere_is_no_spine() -> None:
    refusal = run_of(presence=(slice(0, 60), 0.3))
    assert isinstance(refusal, Refusal) and refusal.code is RefusalCode.NO_SPINE_FOUND


@pytest.mark.parametrize(("slices", "code"), [(5, RefusalCode.NO_SPINE_FOUND), (15, RefusalCode.TOO_LITTLE_SPINE)])
def test_short_runs_are_refused(slices: int, code: RefusalCode) -> None:
    refusal = run_of(presence=(slice(slices, 60), 0.0))
    assert isinstance(refusal, Refusal) and refusal.code is code
