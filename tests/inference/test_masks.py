"""Masks: patches, cleaning, the way back to the grid of the volume, overlaps, edges, volumes and heights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.geometry import Volume
from inference.masks import BODY, POSTERIOR, MaskSettings, VertebraMasks, cleaned, on_grid, segment
from inference.masks_heights import body_surface_heights
from inference.masks_patch import CENTRE, SHAPE, STEP_MM, affine_of, heat_map, image_of, points_of, seen_by
from inference.runtime import Models
from inference.sampling import inside

SETTINGS = MaskSettings()
BODY_MM = np.array([40.0, 30.0, 24.0])
"""Width, depth and height of the toy bodies."""
ARCH_MM = np.array([30.0, 12.0, 16.0])
"""The toy arch: a block behind the body."""


class _Output:
    name = "probability"


class _Session:
    """Finds the bright block around the middle of the patch: above 350 HU body, 150 to 350 HU posterior elements."""

    def __init__(self) -> None:
        self.runs = 0

    def get_outputs(self) -> list[Any]:
        return [_Output()]

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.runs += 1
        hu = inputs["patch"][0, 0] * 200 + 150
        k = np.abs(np.arange(SHAPE[0]) - CENTRE[0])[:, None, None] * STEP_MM
        own = k < 0.5 * BODY_MM[2] + 1.5
        body = np.clip((hu - 250) / 250, 0, 1) * own
        posterior = np.where(hu < 320, np.clip((hu - 40) / 160, 0, 1), 0) * own * (body < 0.2)
        out = np.stack([1 - body - posterior, body, posterior]).astype(np.float32)
        return [out[None]]


def _models() -> Models:
    return Models({"segmenter": _Session()}, (), "cpu")


def _points(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def _within(points: np.ndarray, centre: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.asarray((np.abs(points - centre) <= size / 2).all(axis=-1))


def _volume(centroids: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
    p = _points(shape, affine)
    hu = np.full(shape, 0, np.int16)
    for c in centroids:
        hu[_within(p, c + BEHIND, ARCH_MM)] = 200
        hu[_within(p, c, BODY_MM)] = 500
    return Volume(hu, affine)


def _grid(spacing: tuple[float, float, float], low: tuple[float, float, float]) -> np.ndarray:
    """Canonical: slices towards the feet."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, spacing[2]], [0, spacing[1], 0], [-spacing[0], 0, 0]])
    affine[:3, 3] = low
    return affine


BEHIND = np.array([0.0, 24.0, 0.0])
CENTROIDS = np.array([[1.3, -2.1, 20.0], [0.2, 1.0, -14.5], [-1.0, 2.0, -48.0]])


def _scene() -> Volume:
    return _volume(CENTROIDS, _grid((1.5, 1.0, 1.0), (-50, -40, 70)), (100, 110, 100))


def test_the_centroid_lies_at_its_place_in_the_patch_and_axes_run_to_feet_back_and_left() -> None:
    affine = affine_of(np.array([3.0, 5.0, 7.0]))
    assert np.allclose(affine[:3, :3] @ np.array(CENTRE) + affine[:3, 3], [3, 5, 7])
    assert np.allclose(affine[:3, :3] / STEP_MM, [[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    assert (SHAPE[1] - CENTRE[1] - 1) * STEP_MM > 75  # spinous processes end 75 mm behind the centre
    assert np.unravel_index(heat_map().argmax(), SHAPE)[:2] == (16, 15)


def test_a_patch_is_the_mean_around_each_voxel_and_air_outside() -> None:
    ramp = np.broadcast_to(np.arange(60, dtype=np.float32) * 10, (60, 60, 60))
    volume = Volume(np.ascontiguousarray(ramp), _grid((1, 1, 1), (0, 0, 60)))
    points = np.array([[[10.0, 20.0, 30.0], [200.0, 20.0, 30.0]]])
    assert np.allclose(image_of(volume, points), [[100.0, -1024.0]], atol=1e-3)


def test_masks_lie_where_the_vertebrae_are_with_labels_in_the_order_of_the_centroids() -> None:
    volume = _scene()
    masks = segment(volume, CENTROIDS, _models(), SETTINGS)
    p = _points(volume.hu.shape, volume.affine)
    for n, c in enumerate(CENTROIDS):
        truth = _within(p, c, BODY_MM)
        said = (masks.labels == n + 1) & (masks.parts == BODY)
        assert 2 * (truth & said).sum() / (truth.sum() + said.sum()) > 0.93
        middle = tuple(np.rint(volume.to_index(c + BEHIND)).astype(int))
        assert masks.labels[middle] == n + 1
        assert masks.parts[middle] == POSTERIOR
    assert ((masks.labels > 0) == (masks.parts > 0)).all()
    assert masks.labels.dtype == masks.parts.dtype == np.uint8
    assert (masks.confidence > 0.6).all()


def test_a_vertebra_found_twice_has_one_mask() -> None:
    volume = _scene()
    twice = np.array([CENTROIDS[0], CENTROIDS[1], CENTROIDS[1] + [0.0, 0.0, 9.0]])
    masks = segment(volume, twice, _models(), SETTINGS)
    lost = np.isnan(masks.volumes_ml[:, 0])
    assert lost.sum() == 1 and not lost[0]
    assert ((masks.labels > 0) == (masks.parts > 0)).all()
    assert set(np.unique(masks.labels)) == {0, *(1 + np.flatnonzero(~lost))}


def _counted_ml(masks: VertebraMasks, volume: Volume) -> list[list[float]]:
    """Of each vertebra: its voxels and those of its body, in ml."""
    voxel_ml = abs(np.linalg.det(volume.affine[:3, :3])) / 1000
    mine = [masks.labels == n for n in range(1, len(masks.partial) + 1)]
    return [[m.sum() * voxel_ml, (m & (masks.parts == BODY)).sum() * voxel_ml] for m in mine]


def test_volumes_are_those_of_the_masks() -> None:
    volume = _scene()
    masks = segment(volume, CENTROIDS, _models(), SETTINGS)
    assert np.allclose(masks.volumes_ml[:, 1], BODY_MM.prod() / 1000, rtol=0.1)
    assert (masks.volumes_ml[:, 0] > masks.volumes_ml[:, 1] + 2).all()
    assert np.allclose(masks.volumes_ml, _counted_ml(masks, volume))


def test_a_voxel_that_a_neighbour_took_counts_in_no_other_volume() -> None:
    near = np.array([[0.0, 0.0, 20.0], [0.0, 0.0, 2.0]])
    sheared = _grid((1, 1, 1), (-50, -40, 70))
    sheared[2, 1] = 0.3
    volume = _volume(near, sheared, (110, 110, 100))
    masks = segment(volume, near, _models(), SETTINGS)
    alone = [segment(volume, one[None], _models(), SETTINGS) for one in near]
    both = sum(one.labels.astype(int) for one in alone)
    assert (both == 2).sum() > 1000, "they claim the same voxels"
    assert np.allclose(masks.volumes_ml, _counted_ml(masks, volume))
    assert masks.volumes_ml[:, 0].sum() == pytest.approx(
        _counted_ml(alone[0], volume)[0][0] + _counted_ml(alone[1], volume)[0][0] - (both == 2).sum() / 1000
    )


@pytest.mark.parametrize("flip", [(1, 1, -1), (-1, 1, 1), (1, -1, 1), (-1, -1, -1)])
def test_a_grid_stored_upside_down_or_mirrored_gives_the_same_masks(flip: tuple[int, int, int]) -> None:
    volume = _scene()
    turned = volume.affine.copy()
    for axis, sign in enumerate(flip):
        if sign < 0:
            turned[:3, 3] += turned[:3, axis] * (volume.hu.shape[axis] - 1)
            turned[:3, axis] *= -1
    step = tuple(slice(None, None, s) for s in flip)
    other = segment(Volume(np.ascontiguousarray(volume.hu[step]), turned), CENTROIDS, _models(), SETTINGS)
    masks = segment(volume, CENTROIDS, _models(), SETTINGS)
    assert (other.labels[step] == masks.labels).mean() > 0.9995
    assert np.allclose(other.volumes_ml, masks.volumes_ml, rtol=1e-3)


def test_parallel_and_oblique_grids_are_interpolated_alike() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(SHAPE, dtype=np.float32)
    affine = affine_of(np.array([2.0, -3.0, 4.0]))
    volume = Volume(np.zeros((30, 40, 36), np.int16), _grid((1.7, 0.9, 1.1), (-15, -12, 27)))
    box = (slice(2, 28), slice(1, 39), slice(0, 36))
    fast = on_grid(values, affine, volume, box)
    tilted = volume.affine.copy()
    tilted[2, 1] += 1e-5  # not parallel any more, and next to no change of place
    slow = on_grid(values, affine, Volume(volume.hu, tilted), box)
    assert fast.shape == (26, 38, 36)
    assert np.abs(fast - slow).max() < 1e-3


@pytest.mark.parametrize(("order", "flip"), [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (1, -1, 1)), ((1, 2, 0), (-1, 1, -1))])
def test_a_patch_of_a_parallel_grid_is_the_patch_of_its_points(
    order: tuple[int, int, int], flip: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(4)
    hu = np.ascontiguousarray(rng.integers(-900, 1500, (60, 70, 80)).astype(np.int16))
    affine = _grid((1.3, 0.9, 1.1), (-40, -30, 30))[:, [*order, 3]] * np.array([*flip, 1.0])
    volume = Volume(hu, affine)
    middle = volume.to_lps(np.array([30.0, 35.0, 40.0]))
    for centre in middle + np.array([[0, 0, 0], [30, -20, 25], [500, 0, 0]]):
        patch = affine_of(centre)
        image, seen = seen_by(volume, patch)
        points = points_of(patch)
        assert np.abs(image - image_of(volume, points)).max() < 0.01
        assert (seen == inside(volume, points)).all()


def test_a_mirrored_answer_is_turned_back_before_the_mean_is_taken() -> None:
    lopsided = _volume(CENTROIDS, _grid((1.5, 1.0, 1.0), (-50, -40, 70)), (100, 110, 100))
    lopsided.hu[..., 70:] = 0
    models = _models()
    once = segment(lopsided, CENTROIDS, models, SETTINGS)
    twice = segment(lopsided, CENTROIDS, models, replace(SETTINGS, mirrored=True))
    assert models.sessions["segmenter"].runs == 3 * len(CENTROIDS)
    assert np.allclose(once.volumes_ml, twice.volumes_ml)
    assert (once.labels == twice.labels).all()


def test_some_masks_alone_are_counted_from_one() -> None:
    masks = segment(_scene(), CENTROIDS, _models(), SETTINGS)
    assert masks.only([0, 1, 2]) is masks
    some = masks.only([0, 2])
    assert ((some.labels == 1) == (masks.labels == 1)).all()
    assert ((some.labels == 2) == (masks.labels == 3)).all()
    assert ((some.parts > 0) == (some.labels > 0)).all()
    assert np.allclose(some.volumes_ml, masks.volumes_ml[[0, 2]])
    assert not masks.only([]).labels.any()


def test_a_voxel_that_two_claim_goes_to_the_surer_one() -> None:
    near = np.array([[0.0, 0.0, 20.0], [0.0, 0.0, 6.0]])
    volume = _volume(near, _grid((1, 1, 1), (-50, -40, 70)), (110, 110, 100))
    masks = segment(volume, near, _models(), SETTINGS)
    upper, lower = (np.argwhere(masks.labels == n).mean(axis=0)[0] for n in (1, 2))
    assert upper < lower
    assert (masks.labels == 1).any()
    assert (masks.labels == 2).any()


def test_what_touches_the_edge_or_padding_is_partial_and_what_lies_outside_has_no_volume() -> None:
    affine = _grid((1, 1, 1), (-50, -40, 25))
    centroids = np.vstack([CENTROIDS[:2], [[0.0, 0.0, 400.0]]])
    volume = _volume(centroids[:2], affine, (80, 110, 100))
    masks = segment(volume, centroids, _models(), SETTINGS)
    assert masks.partial.tolist() == [True, False, True]
    assert np.isnan(masks.volumes_ml[2]).all()
    assert masks.confidence[2] == 0
    padding = np.zeros(volume.hu.shape, bool)
    padding[:, :30] = True
    padded = segment(Volume(volume.hu, affine, padding=padding), centroids, _models(), SETTINGS)
    assert padded.partial[1]


def test_nothing_bright_gives_no_vertebra_and_no_centroid_gives_empty_maps() -> None:
    empty = Volume(np.zeros((60, 60, 60), np.int16), _grid((1, 1, 1), (-30, -30, 30)))
    masks = segment(empty, np.zeros((1, 3)), _models(), SETTINGS)
    assert not masks.labels.any()
    assert np.isnan(masks.volumes_ml).all()
    none = segment(empty, np.zeros((0, 3)), _models(), SETTINGS)
    assert none.volumes_ml.shape == (0, 2)
    assert none.partial.shape == (0,)


def test_centroids_that_are_not_finite_or_too_many_are_refused() -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), np.eye(4))
    with pytest.raises(ValueError, match="finite"):
        segment(volume, np.array([[0, 0, np.nan]]), _models(), SETTINGS)
    with pytest.raises(ValueError, match="256 centroids"):
        segment(volume, np.zeros((256, 3)), _models(), SETTINGS)


def test_cleaning_keeps_the_largest_body_and_both_halves_of_an_arch() -> None:
    probability = np.zeros((2, *SHAPE), np.float32)
    probability[0, 10:22, 8:22, 14:34] = 0.9
    probability[0, 32:36, 8:14, 14:20] = 0.9  # a piece of the vertebra below
    probability[1, 10:18, 26:34, 12:20] = 0.9
    probability[1, 10:18, 26:34, 28:36] = 0.9
    probability[1, 2:4, 50:52, 40:42] = 0.9  # a speck
    kept = cleaned(probability, SETTINGS)
    assert kept[0, 10:22, 8:22, 14:34].min() > 0.8
    assert kept[1, 10:18, 26:34, 12:20].min() > 0.8
    assert kept[1, 10:18, 26:34, 28:36].min() > 0.8
    assert kept[0, 32:36].max() == 0
    assert kept[1, 2:4].max() == 0


def test_heights_are_read_from_the_mask_along_the_axes_of_the_vertebra() -> None:
    affine = _grid((1, 1, 1), (-40, -40, 40))
    p = _points((80, 80, 80), affine)
    turn = np.deg2rad(18)
    frame = np.array([[1, 0, 0], [0, np.cos(turn), np.sin(turn)], [0, -np.sin(turn), np.cos(turn)]])
    local = p @ frame.T
    half = 12 - 3 * (1 - local[..., 1] / 15) / 2  # 18 mm high in front, 24 behind
    mask = (np.abs(local[..., 2]) < half) & (np.abs(local[..., 1]) < 15) & (np.abs(local[..., 0]) < 20)
    masks = VertebraMasks(
        mask.astype(np.uint8), mask.astype(np.uint8), np.array([[1.0, 1.0]]), np.array([False]), np.array([1.0])
    )
    volume = Volume(np.zeros(mask.shape, np.int16), affine)
    heights = body_surface_heights(volume, masks, 1, np.zeros(3), frame)
    assert heights is not None
    assert np.allclose(heights.as_tuple(), (18.6, 21.0, 23.4), atol=0.6)
    cut = VertebraMasks(masks.labels, masks.parts, masks.volumes_ml, np.array([True]), masks.confidence)
    assert body_surface_heights(volume, cut, 1, np.zeros(3), frame) is None
    assert body_surface_heights(volume, masks, 1, np.array([0.0, 0.0, 500.0]), frame) is None
