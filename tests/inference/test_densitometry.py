"""Density of the trabecular core: the right voxels, and every reason not to trust or not to measure."""

from __future__ import annotations

import numpy as np
import pytest

from inference.abnormality import Body
from inference.densitometry import (
    TrabecularHu,
    acquisition_quality,
    foreign_material_between,
    holds_foreign_material,
    trabecular_hu,
)
from inference.findings import Acquisition, Level, Quality
from inference.geometry import Volume
from inference.masks import BODY, POSTERIOR


def _scan(step: float = 1.0) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A body 30 mm high, 32 deep, 44 wide: 120 HU within a 2 mm shell of 600, a vein of 20 HU in its back middle."""
    shape = tuple(round(n / step) for n in (50, 80, 70))
    k, j, i = (step * g for g in np.indices(shape))
    x, y, z = i - 35.0, j - 25.0, 25.0 - k
    inside = (np.abs(x) < 22) & (np.abs(y) < 16) & (np.abs(z) < 15)
    core = (np.abs(x) < 20) & (np.abs(y) < 14) & (np.abs(z) < 13)
    hu = np.where(inside, np.where(core, 120.0, 600.0), 40.0)
    hu[inside & (np.abs(z) < 3) & (np.abs(x) < 3) & (y > 8)] = 20.0
    arch = (np.abs(x) < 4) & (y > 28) & (y < 40) & (np.abs(z) < 5)
    labels = (inside | arch).astype(np.uint8)
    parts = np.where(inside, BODY, np.where(arch, POSTERIOR, 0)).astype(np.uint8)
    affine = np.eye(4)
    affine[:3, :3] = step * np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    return Volume(hu.astype(np.float32), affine), labels, parts


@pytest.mark.parametrize("step", [0.8, 1.0, 2.0])
def test_core_is_off_cortex_end_plates_and_vein(step: float) -> None:
    volume, labels, parts = _scan(step)
    one = trabecular_hu(volume, labels, parts, [Body(1, Level.L1)])[0]
    assert one.mean_hu == pytest.approx(120.0, abs=0.5)
    assert one.deviation_hu == pytest.approx(0.0, abs=2.0)
    assert one.voxels * step**3 > 1500
    assert one.quality == ()


def test_only_t11_to_l5_are_measured() -> None:
    volume, labels, parts = _scan()
    for level in (Level.T10, Level.C5, Level.S1, None):
        assert trabecular_hu(volume, labels, parts, [Body(1, level)]) == [TrabecularHu(None)]


@pytest.mark.parametrize(
    "body", [Body(1, Level.L1, fractured=True), Body(1, Level.L1, partial=True), Body(7, Level.L1), Body(255, None)]
)
def test_deformed_cut_and_missing_bodies_are_not_measured_and_the_finding_says_why(body: Body) -> None:
    volume, labels, parts = _scan()
    assert trabecular_hu(volume, labels, parts, [body]) == [TrabecularHu(None)]


def test_cement_is_not_bone() -> None:
    volume, labels, parts = _scan()
    volume.hu[20:26, 20:26, 30:38] = 1700.0
    one = trabecular_hu(volume, labels, parts, [Body(1, Level.L1)])[0]
    assert one.mean_hu is None
    assert one.quality == (Quality.FOREIGN_MATERIAL,)


def test_foreign_material_is_within_the_body_and_not_its_cortex() -> None:
    volume, _, parts = _scan()
    whole = (slice(None),) * 3
    assert not holds_foreign_material(volume, parts == BODY, whole)
    volume.hu[volume.hu == 600.0] = 1200.0
    assert not holds_foreign_material(volume, parts == BODY, whole), "a dense shell, with overshoot of a sharp kernel"
    volume.hu[20:26, 20:26, 30:38] = 1300.0
    assert holds_foreign_material(volume, parts == BODY, whole)


def test_cement_is_told_by_six_points_where_there_is_no_mask() -> None:
    volume, _, _ = _scan()
    left, middle = np.array([1.0, 0.0, 0.0]), volume.to_lps(np.array([25.0, 25.0, 35.0]))
    corners = [(y, z) for y in (-16.0, 0.0, 16.0) for z in (15.0, -15.0)]
    points = middle + np.array([(0.0, y, z) for y, z in corners])
    assert not foreign_material_between(volume, points, left)
    volume.hu[volume.hu == 600.0] = 1700.0
    assert not foreign_material_between(volume, points, left), "a dense shell alone"
    volume.hu[20:26, 20:26, 30:38] = 1300.0
    assert foreign_material_between(volume, points, left)


def test_a_bone_island_is_flagged() -> None:
    volume, labels, parts = _scan()
    volume.hu[22:28, 20:26, 31:39] = 800.0
    assert (volume.hu > 1000).sum() == 0
    one = trabecular_hu(volume, labels, parts, [Body(1, Level.L1)])[0]
    assert one.mean_hu is not None and one.mean_hu > 140
    assert one.quality == (Quality.CORE_UNEVEN,)


def test_a_body_without_a_core_is_too_small() -> None:
    volume, labels, parts = _scan()
    parts[:24] = parts[27:] = POSTERIOR
    one = trabecular_hu(volume, labels, parts, [Body(1, Level.L1)])[0]
    assert one.mean_hu is None
    assert one.quality == (Quality.CORE_TOO_SMALL,)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_body_one_voxel_wide_is_too_small_and_raises_no_warning(axis: int) -> None:
    volume, labels, parts = _scan(2.0)
    thin = np.zeros(labels.shape, bool)
    thin[tuple(slice(n // 2, n // 2 + 1) if a == axis else slice(None) for a, n in enumerate((25, 25, 35)))] = True
    body = np.where((parts == BODY) & thin, labels, 0).astype(np.uint8)
    assert body.any()
    one = trabecular_hu(volume, body, parts, [Body(1, Level.L1, frame=np.eye(3))])[0]
    assert one == TrabecularHu(None, quality=(Quality.CORE_TOO_SMALL,))


def test_what_the_headers_say_or_do_not_say_is_told_once_of_the_whole_scan() -> None:
    assert acquisition_quality(Acquisition(122.0, False, "B", False), 1.0) == ()
    assert acquisition_quality(Acquisition(100.0, True, "C", True), 5.0) == (
        Quality.CONTRAST_AGENT,
        Quality.KVP_NOT_120,
        Quality.SHARP_KERNEL,
        Quality.COARSE_SPACING,
    )
    unknown = (Quality.CONTRAST_UNKNOWN, Quality.KVP_UNKNOWN, Quality.KERNEL_UNKNOWN)
    assert acquisition_quality(Acquisition()) == unknown
    assert acquisition_quality(None) == unknown


def test_masks_of_another_grid_are_refused() -> None:
    volume, labels, parts = _scan()
    with pytest.raises(ValueError, match="not on the grid"):
        trabecular_hu(volume, labels[1:], parts[1:], [Body(1, Level.L1)])
