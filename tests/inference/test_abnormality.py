"""The abnormality score: frames, geometry, what is said and when nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.abnormality import (
    BODY_SHAPE,
    CONTEXT_SHAPE,
    GRID_MM,
    AbnormalitySettings,
    Body,
    frames,
    grid_affine,
    score_bodies,
    score_of,
    surplus_of,
)
from inference.findings import Level
from inference.masks import BODY, POSTERIOR
from inference.runtime import Models, load_models

SETTINGS = AbnormalitySettings(fractured="told", normal_surplus={"L2": 0.1, "L3": 0.2}, full_surplus=0.5)


class _Output:
    name = "expected"


class _Session:
    """Answers with the box that a body of 40 x 30 x 25 mm fills, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[np.ndarray] = []

    def get_outputs(self) -> list[Any]:
        return [_Output()]

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.asked.append(inputs["context"].copy())
        box = np.zeros((1, *BODY_SHAPE), np.float32)
        box[0, 7:17, 6:18, 6:22] = 1.0
        return [box]


def _models() -> tuple[Models, _Session]:
    session = _Session()
    return Models({"completion": session}, (), "cpu"), session


def _spine(heights: tuple[float, ...] = (26.0,) * 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes 35 mm apart from head to feet, numbered 1, 2, ...; 1 mm voxels, slices towards the feet."""
    labels = np.zeros((35 * len(heights) + 10, 80, 60), np.uint8)
    parts = np.zeros_like(labels)
    for n, height in enumerate(heights):
        middle = 20 + 35 * n
        low, high = round(middle - height / 2), round(middle + height / 2)
        labels[low:high, 20:50, 10:50], parts[low:high, 20:50, 10:50] = n + 1, BODY
        labels[middle - 3 : middle + 3, 58:70, 27:33], parts[middle - 3 : middle + 3, 58:70, 27:33] = n + 1, POSTERIOR
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    affine[:3, 3] = (-30, -40, 90)
    return labels, parts, affine


def _bodies(**changes: Any) -> list[Body]:
    levels = (Level.T12, Level.L1, Level.L2, Level.L3, Level.L4)
    return [Body(n + 1, level, **changes.get(str(level), {})) for n, level in enumerate(levels)]


def test_frames_of_an_upright_spine_are_the_patients_axes() -> None:
    centroids = np.array([[0, 0, 60.0], [0, 0, 30], [0, 0, 0]])
    backs = np.array([[0, 30.0, -5], [np.nan] * 3, [0, 30, 5]])
    for frame in frames(centroids, backs):
        np.testing.assert_allclose(frame, np.eye(3), atol=1e-9)


def test_frames_follow_the_neighbours_and_are_right_handed() -> None:
    centroids = np.array([[10.0, 0, 60], [0, 5, 30], [-10, 0, 0]])
    frame = frames(centroids, np.full((3, 3), np.nan))[1]
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(frame) == pytest.approx(1.0)
    np.testing.assert_allclose(frame[2], np.array([20, 0, 60]) / np.hypot(20, 60))


def test_frame_of_a_spine_that_lies_along_the_assumed_back_is_still_one() -> None:
    frame = frames(np.array([[0, 0, 0.0], [0, -30, 0]]), np.full((2, 3), np.nan))[0]
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-9)


def test_common_grid_runs_to_feet_back_and_left_around_its_centre() -> None:
    affine = grid_affine(np.array([1.0, 2, 3]), np.eye(3), CONTEXT_SHAPE)
    middle = (np.array(CONTEXT_SHAPE) - 1) / 2
    np.testing.assert_allclose(affine[:3, :3] @ middle + affine[:3, 3], [1, 2, 3])
    np.testing.assert_allclose(affine[:3, 0], [0, 0, -GRID_MM])
    np.testing.assert_allclose(affine[:3, 1], [0, GRID_MM, 0])
    np.testing.assert_allclose(affine[:3, 2], [GRID_MM, 0, 0])


def test_context_holds_the_neighbours_where_they_are() -> None:
    models, session = _models()
    score_bodies(*_spine(), _bodies(), models, SETTINGS, chosen=[2])
    context = session.asked[0][0]
    volume_ml = context.sum(axis=(1, 2, 3)) * GRID_MM**3 / 1000
    np.testing.assert_allclose(volume_ml[1:3], 26 * 30 * 40 / 1000, rtol=0.02)
    heads = [np.average(np.arange(CONTEXT_SHAPE[0]), weights=c.sum(axis=(1, 2))) for c in context]
    np.testing.assert_allclose(np.diff(heads)[1], 70 / GRID_MM, atol=0.1)
    assert heads == sorted(heads)


def test_a_body_of_which_nobody_knows_whether_it_is_sound_is_no_context_and_has_a_score() -> None:
    models, session = _models()
    said = score_bodies(*_spine(), _bodies(L2={"context": False}), models, SETTINGS)
    assert all(one.score is not None for one in said)
    asked = [[bool(channel.any()) for channel in one[0]] for one in session.asked]
    assert asked == [
        [False, False, True, False],
        [False, True, False, True],
        [True, True, True, True],
        [True, False, True, False],
        [False, True, False, False],
    ]


def test_a_body_as_expected_has_no_surplus_and_a_crushed_one_has() -> None:
    models, _ = _models()
    whole = score_bodies(*_spine(), _bodies(), models, SETTINGS)[2]
    low = score_bodies(*_spine((26, 26, 16, 26, 26)), _bodies(), models, SETTINGS)[2]
    assert whole.score == 0.0
    assert whole.surplus is not None and whole.surplus < 0.06
    assert low.surplus == pytest.approx(0.36, abs=0.05)
    assert low.score == pytest.approx(100 * (0.36 - 0.1) / 0.5, abs=10)
    assert whole.expected is not None and whole.expected.volume_ml == pytest.approx(30, abs=0.1)


@pytest.mark.parametrize("flip", [(0,), (2,), (0, 1, 2)])
def test_the_score_does_not_depend_on_how_the_grid_lies(flip: tuple[int, ...]) -> None:
    labels, parts, affine = _spine((26, 26, 16, 26, 26))
    models, _ = _models()
    before = score_bodies(labels, parts, affine, _bodies(), models, SETTINGS)[2].surplus
    turned = affine.copy()
    for axis in flip:
        turned[:3, 3] += turned[:3, axis] * (labels.shape[axis] - 1)
        turned[:3, axis] *= -1
    turned = turned[:, [2, 0, 1, 3]]
    arrays = [np.ascontiguousarray(np.flip(a, flip).transpose(2, 0, 1)) for a in (labels, parts)]
    after = score_bodies(arrays[0], arrays[1], turned, _bodies(), models, SETTINGS)[2].surplus
    assert before is not None
    assert after == pytest.approx(before, abs=1e-4)


def test_a_fractured_neighbour_is_told_or_left_out() -> None:
    bodies = _bodies(L1={"fractured": True})
    models, session = _models()
    told = score_bodies(*_spine(), bodies, models, SETTINGS, chosen=[2])[2]
    assert session.asked[0][0, 1].min() == -1.0 and session.asked[0][0, 1].max() == 0.0
    assert told.neighbours == 4
    zeros = AbnormalitySettings(fractured="zeros")
    left_out = score_bodies(*_spine(), bodies, models, zeros, chosen=[2])[2]
    assert not session.asked[1][0, 1].any()
    assert left_out.neighbours == 3


def test_nothing_is_said_of_the_neck_of_cut_bodies_and_of_a_body_alone() -> None:
    labels, parts, affine = _spine()
    models, session = _models()
    neck = [Body(n, level) for n, level in zip(range(1, 4), (Level.C5, Level.C6, Level.C7), strict=True)]
    assert all(a.score is None and a.expected is None for a in score_bodies(labels, parts, affine, neck, models))
    alone = [Body(1, Level.L1), Body(2, Level.L2, partial=True)]
    assert [a.score for a in score_bodies(labels, parts, affine, alone, models)] == [None, None]
    missing = [Body(9, Level.L1)]
    assert score_bodies(labels, parts, affine, missing, models)[0].score is None
    assert session.asked == []
    assert score_bodies(labels, parts, affine, [], models) == []


def test_a_body_of_unknown_level_is_scored_only_when_too_large_for_the_neck() -> None:
    models, _ = _models()
    bodies = [Body(n) for n in range(1, 6)]
    assert score_bodies(*_spine(), bodies, models, SETTINGS)[2].score is not None
    careful = AbnormalitySettings(smallest_ml=32.0)
    assert score_bodies(*_spine(), bodies, models, careful)[2].score is None


def test_differences_in_front_count_less_than_those_above() -> None:
    expected = np.zeros(BODY_SHAPE, np.float32)
    expected[6:18, 6:18, 8:20] = 1.0
    above, front = expected.copy(), expected.copy()
    above[6:8], front[:, 6:8] = 0.0, 0.0
    sigma = AbnormalitySettings().sigma
    assert surplus_of(expected, expected, sigma) == 0.0
    assert surplus_of(expected, np.zeros_like(expected), sigma) == pytest.approx(1.0)
    assert surplus_of(expected, front, sigma) < 0.8 * surplus_of(expected, above, sigma)
    assert surplus_of(np.zeros_like(expected), expected, sigma) == 0.0


def test_score_is_clipped_and_counts_beyond_the_levels_own_surplus() -> None:
    assert score_of(0.05, Level.L2, SETTINGS) == 0.0
    assert score_of(0.35, Level.L2, SETTINGS) == pytest.approx(50.0)
    assert score_of(0.35, Level.L3, SETTINGS) == pytest.approx(30.0)
    assert score_of(0.35, None, SETTINGS) == pytest.approx(40.0)
    assert score_of(2.0, Level.L2, SETTINGS) == 100.0


@pytest.mark.real_data
def test_the_healthy_real_spine_is_not_abnormal_and_a_crushed_body_in_it_is(
    real_data: Path, shipped_models: Path
) -> None:
    """Silver masks of the one real CT; nothing was tuned on it."""
    nifti = pytest.importorskip("onnx_models.training.real_cases", reason="reading NIfTI needs nibabel").nifti
    silver = real_data / "totalsegmentator" / "spine_report" / "example_ct_report"
    read, inside = nifti(silver / "totalseg.nii.gz"), nifti(silver / "totalseg_vertebrae_body.nii.gz")
    labels = np.where((read.hu >= 26) & (read.hu <= 33), read.hu, 0).astype(np.uint8)
    parts = np.where(inside.hu == 1, BODY, POSTERIOR).astype(np.uint8)
    levels = (Level.T12, Level.L1, Level.L2, Level.L3, Level.L4, Level.L5)
    bodies = [Body(33, Level.T11, partial=True), *(Body(32 - n, level) for n, level in enumerate(levels))]
    models = load_models(shipped_models, "cpu", threads=1, names=["completion"])
    found = score_bodies(labels, parts, read.affine, bodies, models)
    assert found[0].score is None
    scores = [a.score for a in found[1:]]
    assert all(score is not None and score < 30 for score in scores)
    # L2 without its upper half
    body = np.argwhere((labels == 30) & (parts == BODY))
    z = read.to_lps(body)[:, 2]
    labels[tuple(body[z > np.median(z)].T)] = 0
    low = score_bodies(labels, parts, read.affine, bodies, models, chosen=[3])[3]
    assert low.score is not None and low.score > 60
