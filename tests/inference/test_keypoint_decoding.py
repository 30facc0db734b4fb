"""From maps to vertebrae: encoding, one cluster per vertebra, no limit to their number."""

from __future__ import annotations

import numpy as np
import pytest
from toy_spine import way_to

from inference.keypoints import (
    ANCHORS,
    Detection,
    boxes_of,
    candidates,
    chained,
    decode,
    normalised,
    overlap,
    plausible,
    refined,
)

SHAPE = (700, 80)


def vertebra(row: float, column: float = 40.0, height: float = 22.0, depth: float = 30.0) -> np.ndarray:
    half, deep = height / 2, depth / 2
    rows = [row - half, row + half, row - half + 2, row + half - 2, row - half, row + half]
    columns = [column - deep, column - deep, column, column, column + deep, column + deep]
    return np.column_stack([rows, columns])


def maps_of(vertebrae: list[np.ndarray], reach: int = 4, score: float = 0.95, noise: float = 0.0, shape=SHAPE):
    """What a perfect network says: every anchor that fits by half, within ``reach`` pixels of the centre."""
    rng = np.random.default_rng(1)
    objectness = np.zeros((16, *shape), np.float32)
    encoded = rng.normal(size=(16, 12, *shape)).astype(np.float32)
    for points in vertebrae:
        centre = np.rint(points.mean(axis=0)).astype(int)
        box = boxes_of(points[None])[0]
        for r in range(centre[0] - reach, centre[0] + reach + 1):
            for c in range(centre[1] - reach, centre[1] + reach + 1):
                anchors = np.column_stack(
                    [r - ANCHORS[:, 1] / 2, c - ANCHORS[:, 0] / 2, r + ANCHORS[:, 1] / 2, c + ANCHORS[:, 0] / 2]
                )
                for a in np.flatnonzero(overlap(box, anchors) > 0.5):
                    objectness[a, r, c] = score
                    said = points + rng.normal(0, noise, points.shape)
                    encoded[a, 0::2, r, c] = (said[:, 1] - c) / ANCHORS[a, 0]
                    encoded[a, 1::2, r, c] = (said[:, 0] - r) / ANCHORS[a, 1]
    return objectness, encoded


def test_anchors_are_those_of_the_paper() -> None:
    assert ANCHORS.shape == (16, 2)
    assert np.sqrt(ANCHORS.prod(axis=1)).reshape(4, 4)[:, 0] == pytest.approx([17, 23, 28, 35])
    assert (ANCHORS[:, 0] / ANCHORS[:, 1]).reshape(4, 4)[0] == pytest.approx([0.8, 1.1, 1.3, 2.0])


def test_decoding_undoes_the_encoding() -> None:
    truth = vertebra(300.3, 41.7)
    points, scores = candidates(*maps_of([truth]), 0.5)
    assert len(points) > 50 and scores == pytest.approx(0.95)
    assert np.abs(points - truth).max() < 1e-3


def test_a_long_spine_keeps_every_vertebra() -> None:
    """24 of them, thousands of candidates: a limit on candidates dropped whole vertebrae once."""
    rows = 20 + 27.5 * np.arange(24)
    truth = [vertebra(r, height=18 + 0.3 * n, depth=20 + 0.6 * n) for n, r in enumerate(rows)]
    found = decode(*maps_of(truth, noise=1.0))
    assert len(found) == 24
    for said, true in zip(found, truth, strict=True):
        assert np.abs(said.points - true).max() < 0.5
        assert said.confidence > 0.9 and 0.5 < said.spread_mm < 3


def test_order_is_from_the_head_downward() -> None:
    found = decode(*maps_of([vertebra(400), vertebra(100), vertebra(250)]))
    assert [round(d.centre[0]) for d in found] == [100, 250, 400]


def test_one_vertebra_is_found_once_even_if_the_network_wavers() -> None:
    """Half of its pixels say 5 mm higher: one cluster, not two."""
    lower, upper = vertebra(300), vertebra(295)
    a, b = maps_of([lower]), maps_of([upper], score=0.8)
    objectness = np.maximum(a[0], b[0])
    encoded = np.where((b[0] > a[0])[:, None], b[1], a[1])
    assert len(decode(objectness, encoded)) == 1


def test_a_crushed_vertebra_between_two_tall_ones() -> None:
    truth = [vertebra(100, height=24), vertebra(126, height=9), vertebra(152, height=24)]
    found = decode(*maps_of(truth))
    assert len(found) == 3
    assert np.abs(found[1].points - truth[1]).max() < 0.5


def test_a_box_across_a_disc_gives_way_to_the_vertebrae() -> None:
    truth = [vertebra(100), vertebra(128)]
    a, b = maps_of(truth), maps_of([vertebra(114)], reach=2, score=0.6)
    objectness = np.maximum(a[0], b[0])
    encoded = np.where((b[0] > a[0])[:, None], b[1], a[1])
    found = decode(objectness, encoded)
    assert [round(d.centre[0]) for d in found] == [100, 128]


def test_few_candidates_lower_the_confidence() -> None:
    assert decode(*maps_of([vertebra(300)], reach=0))[0].confidence < 0.3
    assert decode(*maps_of([vertebra(300)], reach=4))[0].confidence > 0.9


def test_nothing_above_the_threshold_is_nothing_found() -> None:
    assert decode(np.full((16, 64, 80), 0.29, np.float32), np.zeros((16, 12, 64, 80), np.float32)) == []


def test_points_without_extent_are_no_vertebra() -> None:
    assert decode(np.ones((16, 32, 32), np.float32), np.zeros((16, 12, 32, 32), np.float32)) == []


def test_a_network_gone_wild_still_ends() -> None:
    rng = np.random.default_rng(4)
    objectness = rng.uniform(size=(16, 96, 80)).astype(np.float32)
    found = decode(objectness, rng.normal(0, 0.6, (16, 12, 96, 80)).astype(np.float32))
    assert len(found) <= 96


def test_overlap() -> None:
    box = np.array([0.0, 0, 10, 10])
    assert overlap(box, np.array([[0.0, 0, 10, 10], [0, 5, 10, 15], [20, 20, 30, 30]])) == pytest.approx([1, 1 / 3, 0])


def test_plausible_bodies() -> None:
    assert plausible(vertebra(100))
    assert plausible(vertebra(100, height=9))
    assert not plausible(vertebra(100)[[1, 0, 3, 2, 5, 4]]), "upside down"
    assert not plausible(vertebra(100)[[4, 5, 2, 3, 0, 1]]), "back to front"
    assert not plausible(vertebra(100, height=70))
    assert not plausible(vertebra(100, depth=5))


def test_normalisation_is_a_fixed_window() -> None:
    said = normalised(np.array([-1024.0, 150, 350, 5000]))
    assert said.dtype == np.float32
    assert said.tolist() == [-1.75, 0, 1, 4.25]


def test_points_go_where_the_pixels_around_them_say() -> None:
    truth = [vertebra(100.3, 40.6), vertebra(128.8, 41.2, height=11)]
    nearby = way_to(truth, (200, 80))
    drifted = vertebra(127.5, 40.0, height=16)
    said = refined(Detection(drifted, 0.9, 1.0), nearby, weight=1.0)
    assert said.points == pytest.approx(truth[1], abs=1e-3)
    assert said.disagreement_mm == pytest.approx(5.0, abs=1e-3)
    partly = refined(Detection(drifted, 0.9, 1.0), nearby)
    assert partly.points == pytest.approx(0.75 * truth[1] + 0.25 * drifted, abs=1e-3)
    assert said.confidence == 0.9 and said.spread_mm == pytest.approx(0, abs=1e-3)


def test_votes_are_averaged_and_their_spread_is_told() -> None:
    truth = vertebra(100.0)
    noise = np.random.default_rng(5).normal(0, 1.0, (12, 200, 80)).astype(np.float32)
    said = refined(Detection(vertebra(101.0), 0.9, 0.0), way_to([truth], (200, 80)) + noise, weight=1.0)
    assert np.abs(said.points - truth).max() < 0.8
    assert 0.7 < said.spread_mm < 2.5


def test_a_point_that_would_run_away_stays() -> None:
    start = vertebra(100.0)
    said = refined(Detection(start, 0.9, 0.0), np.full((12, 200, 80), 20, np.float32))
    assert said.points == pytest.approx(start)


def test_refinement_never_makes_an_impossible_body() -> None:
    """Upper and lower points that are told to meet: what was found from the middle stays."""
    start = vertebra(100.0, height=8)
    nearby = np.zeros((12, 200, 80), np.float32)
    nearby[1::4], nearby[3::4] = 4, -4
    detection = Detection(start, 0.9, 0.5)
    said = refined(detection, nearby, weight=1.0)
    assert said.points is start and said.disagreement_mm == pytest.approx(6.0, abs=2.1)


def test_refinement_at_the_edge_of_the_picture() -> None:
    start = vertebra(8.0)
    assert refined(Detection(start, 0.9, 0.0), way_to([start], (200, 80))).points == pytest.approx(start, abs=1e-3)


def chain_of(rows: list[float]) -> list[Detection]:
    return [Detection(vertebra(r), 0.9, 0.5) for r in rows]


def test_a_find_far_from_the_others_is_dropped() -> None:
    spine = [100.0, 128, 156, 184, 212]
    assert [d.centre[0] for d in chained(chain_of([*spine, 330.0]))] == spine
    assert [d.centre[0] for d in chained(chain_of([8.0, *spine]))] == spine


def test_a_missed_vertebra_does_not_break_the_chain() -> None:
    assert len(chained(chain_of([100.0, 128, 182, 210]))) == 4


def test_two_long_parts_are_both_kept() -> None:
    assert len(chained(chain_of([100.0, 128, 156, 300, 328, 356]))) == 6


def test_few_are_kept_where_there_are_no_more() -> None:
    assert len(chained(chain_of([100.0, 128]))) == 2
    assert chained([]) == []
