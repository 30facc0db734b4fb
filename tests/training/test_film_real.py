"""Films of the real CT: for evaluation only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_models.training.film_geometry import FRONTAL, LATERAL, cone_beam
from onnx_models.training.film_real import (
    GRID_MM,
    POSES,
    Block,
    RealSpineCt,
    example_ct,
    line_integrals,
    pose,
    real_film,
    section_mask,
)


def made_up() -> RealSpineCt:
    """Three bodies of 40 x 30 x 24 mm with a bar behind each, in a block of water."""
    shape = (90, 80, 80)
    hu = np.full(shape, -1000.0, np.float32)
    hu[5:85, 10:70, 10:70] = 0
    low = np.full(3, -60.0)
    bodies, posterior = {}, {}
    for n, level in enumerate(("L1", "L2", "L3")):
        body, bar = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        first = 62 - 26 * n
        body[first : first + 16, 20:40, 27:53] = 1
        bar[first + 6 : first + 10, 40:60, 36:44] = 1
        hu[(body + bar) > 0] = 700
        bodies[level], posterior[level] = Block(body, low), Block(bar, low)
    return RealSpineCt(Block(hu, low), bodies, posterior)


def test_soft_and_bone_add_up_to_the_whole() -> None:
    ct = made_up()
    beam = cone_beam([0, -10, 6], 60, 60, long_side=20, source_detector_mm=4000)
    both = line_integrals(ct, beam)
    beside, through = both.total[0, 0], both.bone.max()
    assert beside == pytest.approx(9.0, rel=0.02)  # 60 voxels of water
    assert through == pytest.approx(26 * GRID_MM / 10 * 0.64, rel=0.05)  # 39 mm of 700 HU where 60 would be


def test_the_section_is_that_of_the_body_in_its_middle() -> None:
    ct = made_up()
    beam = cone_beam(ct.bodies["L2"].centroid, 60, 60, long_side=120, source_detector_mm=2000)
    mask = section_mask(ct, "L2", beam)
    mm = beam.pitch_mm / float(beam.magnification(ct.bodies["L2"].centroid))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert len(rows) * mm == pytest.approx(16 * GRID_MM, abs=1.1)
    assert len(columns) * mm == pytest.approx(20 * GRID_MM, abs=1.1)


def test_every_film_has_its_masks() -> None:
    film = real_film(made_up(), 1, long_side=96)
    assert film.levels == ["L1", "L2", "L3"]
    assert film.sections.shape == (3, *film.image.shape)
    assert film.mirrored
    area = film.sections.sum((1, 2))
    assert (area > 50).all()
    assert (film.silhouettes.sum((1, 2)) >= 0.95 * area).all()
    with pytest.raises(ValueError, match="views are"):
        real_film(made_up(), 1, "oblique", 96)


def test_poses_differ_and_stay_as_they_are() -> None:
    ct = made_up()
    ratios = {round(pose(ct, n).source_detector_mm, 3) for n in range(POSES)}
    assert len(ratios) == POSES
    np.testing.assert_array_equal(pose(ct, 3).corner_lps_mm, pose(ct, 3).corner_lps_mm)


@pytest.mark.real_data
def test_bone_of_the_real_ct_lies_under_its_silver_masks(real_data: Path) -> None:
    ct = example_ct(real_data)
    assert {"T12", "L1", "L2", "L3", "L4", "L5"} <= set(ct.bodies)
    for view in (LATERAL, FRONTAL):
        film = real_film(ct, 2, view, 256)
        assert film.image.std() > 0.05
    film = real_film(ct, 2, LATERAL, 256)
    chosen = [film.levels.index(f"L{n}") for n in range(1, 5)]
    assert film.whole[chosen[1:]].all()
    rows = [np.argwhere(film.sections[n])[:, 0].mean() for n in chosen]
    assert rows == sorted(rows)  # L1 above L2
    beam = pose(ct, 2, LATERAL, 256)
    bone = line_integrals(ct, beam).bone
    inside = film.sections[chosen].any(0)
    ahead = np.roll(inside, -round(1.4 * np.flatnonzero(film.sections[chosen[1]].any(0)).size), axis=1)
    assert bone[inside].mean() > 2 * bone[ahead].mean()  # what lies in front of them is soft
    for n in chosen:
        overlap = 2 * (film.sections[n] & film.silhouettes[n]).sum()
        assert 0.75 < overlap / (film.sections[n].sum() + film.silhouettes[n].sum()) < 0.99
