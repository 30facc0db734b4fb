"""From the box to candidates: the corridor, its views, and peaks with their evidence."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.detection import SpineBox
from inference.geometry import Volume
from inference.labelling import ACROSS_MM, DEPTH_MM, LEVELS, STEP_MM, LabellingSettings, corridor, decoded, views_of


def bead_volume(flip: tuple[int, ...] = ()) -> Volume:
    """One bright bead at (10, -5, 40) LPS in water, 2 mm, with its array axes turned round where asked."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 2.0], [0, 2.0, 0], [-2.0, 0, 0]])
    affine[:3, 3] = (-90, -105, 100)
    hu = np.zeros((70, 90, 90), np.int16)
    k, j, i = np.rint(np.linalg.inv(affine) @ np.array([10, -5, 40, 1]))[:3].astype(int)
    hu[k, j, i] = 1000
    for axis in flip:
        affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
        affine[:3, axis] *= -1
        hu = np.flip(hu, axis)
    return Volume(np.ascontiguousarray(hu), affine)


def box(x: float = 0.0) -> SpineBox:
    z = np.arange(90.0, -30.0, -6.0)
    line = np.column_stack([np.full(len(z), x), np.zeros(len(z)), z])
    return SpineBox(np.array([-60.0, -72.0, -36.0]), np.array([60.0, 48.0, 100.0]), line, 0.9)


@pytest.mark.parametrize("flip", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_the_corridor_lies_in_the_patient_not_in_the_array(flip: tuple[int, ...]) -> None:
    part = corridor(bead_volume(flip), box())
    assert part.hu.shape == (68, 60, 60)
    row, depth, across = np.unravel_index(int(part.hu.argmax()), part.hu.shape)
    assert abs(part.line_lps_mm[row, 2] - 40) <= STEP_MM
    assert abs(DEPTH_MM[depth] - -5) <= STEP_MM
    assert abs(ACROSS_MM[across] - 10) <= STEP_MM


def test_the_corridor_follows_its_line() -> None:
    part = corridor(bead_volume(), box(x=8.0))
    across = int(part.hu.max(axis=(0, 1)).argmax())
    assert abs(ACROSS_MM[across] - 2) <= STEP_MM


def test_views_hold_what_their_names_say() -> None:
    hu = np.zeros((20, 60, 60), np.float32)
    hu[4, 10, np.abs(ACROSS_MM - 40).argmin()] = 800  # far to the left, in front: only in the coronal maximum
    hu[9, np.abs(DEPTH_MM).argmin(), np.abs(ACROSS_MM).argmin()] = 800
    sagittal, sagittal_mean, coronal, coronal_mean = views_of(hu)
    water = (0 - 200) / 300
    assert np.allclose(sagittal[4], water)
    assert coronal[4].max() == pytest.approx(2.0)
    assert np.allclose(coronal_mean[4], water)
    assert all(view[9].max() > water for view in (sagittal, sagittal_mean, coronal, coronal_mean))


def answer(rows: int, centres: dict[int, float]) -> dict[str, NDArray[np.float64]]:
    at = np.arange(rows)
    centre = np.zeros(rows)
    level = np.full((len(LEVELS), rows), 1 / len(LEVELS))
    evidence = np.full((3, rows), 0.1)
    for number, (row, height) in enumerate(centres.items()):
        centre = np.maximum(centre, height * np.exp(-0.5 * ((at - row) / 2.0) ** 2))
        near = np.abs(at - row) < 6
        level[:, near] = 0.01
        level[number + 19, near] = 1 - 0.01 * (len(LEVELS) - 1)
        evidence[0, near] = 0.9 if number == 0 else 0.1
    return {"centre": centre, "level": level, "evidence": evidence, "offset_mm": np.full((2, rows), 3.0)}


def test_peaks_become_candidates_head_to_feet() -> None:
    line = np.column_stack([np.zeros(60), np.full(60, 7.0), 100.0 - STEP_MM * np.arange(60)])
    found = decoded(line, answer(60, {12: 0.9, 28: 0.8, 45: 0.1}), (-30.0, 101.0), LabellingSettings())
    assert len(found) == 2  # the third peak is too low
    assert np.allclose(found[0].centroid_lps_mm, [3.0, 10.0, 76.0], atol=0.2)
    assert found[0].rib > 0.8
    assert found[1].rib < 0.2
    assert [int(c.probability.argmax()) for c in found] == [19, 20]
    assert found[0].edge_mm == pytest.approx(25.0, abs=0.5)
    assert all(abs(c.probability.sum() - 1) < 1e-9 for c in found)


def test_of_two_near_peaks_the_higher_one_stays() -> None:
    line = np.column_stack([np.zeros(60), np.zeros(60), -STEP_MM * np.arange(60)])
    found = decoded(line, answer(60, {20: 0.6, 23: 0.9}), (-120.0, 0.0), LabellingSettings())
    assert len(found) == 1
    assert abs(found[0].centroid_lps_mm[2] + 46) < 3
