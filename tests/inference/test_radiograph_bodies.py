"""From maps to vertebral bodies: parted, cleaned, ordered, cut ones marked, S1 told apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from toy_film import Body, drawn, spine

from inference.film_bodies import FilmBodies, find_bodies

SHAPE = (200, 200)
HEIGHTS = [(11.0, 10.4, 12.0)] * 3 + [(14.0, 13.2, 15.0)] * 3
EVERYWHERE = np.ones(SHAPE, bool)
NOTHING = np.zeros(SHAPE)


def heat(bodies: list[Body], sigma: float = 2.0) -> np.ndarray:
    row, column = np.indices(SHAPE)
    out = np.zeros(SHAPE)
    for b in bodies:
        d2 = (row - b.centre[0]) ** 2 + (column - b.centre[1]) ** 2
        out = np.maximum(out, np.exp(-d2 / (2 * sigma**2)))
    return out


def found(bodies: list[Body], mask: np.ndarray | None = None, **changed: np.ndarray) -> FilmBodies:
    maps = {"body": drawn(bodies, SHAPE) if mask is None else mask, "centre": heat(bodies), "sacrum": NOTHING}
    maps |= {"measured": EVERYWHERE} | changed
    return find_bodies(**maps)


def assert_each_is_found(answer: FilmBodies, bodies: list[Body]) -> None:
    assert [b.label for b in answer.bodies] == list(range(1, len(bodies) + 1))
    for seen, drawn_body in zip(answer.bodies, bodies, strict=True):
        np.testing.assert_allclose(seen.centre, drawn_body.points.mean(axis=0), atol=1.5)


@pytest.mark.parametrize("bend", [0.0, 0.15, -0.15])
def test_bodies_come_from_head_to_feet_along_the_curve(bend: float) -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0, bend=bend, tilt=-2.5 * bend)
    answer = found(bodies)
    assert_each_is_found(answer, bodies)
    assert [b.place for b in answer.bodies] == [1, 2, 3, 4, 5, 6]
    assert all(b.seeded and not b.partial and b.probability > 0.9 for b in answer.bodies)
    for n, body in enumerate(bodies):
        assert answer.up(n) @ body.axes[1] > np.cos(0.25)


def test_a_spine_bent_beyond_a_right_angle_keeps_its_order() -> None:
    bodies = spine([(10.0, 9.5, 13.0)] * 9, top=(60, 40), depth=16.0, tilt=1.2, bend=-0.28)
    assert_each_is_found(found(bodies), bodies)


def test_touching_bodies_are_parted_where_they_touch() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0, disc=0.3)
    mask = (gaussian_filter(drawn(bodies, SHAPE), 0.7) > 0.5).astype(float)
    answer = found(bodies, mask)
    assert_each_is_found(answer, bodies)
    for seen, body in zip(answer.bodies, bodies, strict=True):
        middle = (answer.labels == seen.label).sum(axis=0)[int(body.centre[1])]
        assert middle == pytest.approx(body.heights[1], abs=2)  # without a gap half the way between centres decides


def test_a_gap_in_the_probability_parts_bodies_before_half_the_way_does() -> None:
    upper, lower = Body((60.0, 100.0), (8.0,) * 3, 18.0), Body((74.0, 100.0), (18.0,) * 3, 18.0)  # meet at row 64.5
    mask = drawn([upper, lower], SHAPE)
    mask[64:66, 91:109] = 0.6
    answer = found([upper, lower], mask)
    rows = np.flatnonzero((answer.labels == 2)[:, 100])
    assert rows[0] in (64, 65, 66)


def test_two_peaks_without_a_valley_are_one_vertebra() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0)
    centre = heat(bodies)
    row, column = (round(v) for v in bodies[3].centre)
    centre[row - 1 : row + 2, column - 5 : column + 6] = 0.95
    centre[row, [column - 5, column + 5]] = 1.0
    assert_each_is_found(found(bodies, centre=centre), bodies)


def test_voids_are_filled_and_small_pieces_removed() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0)
    mask = drawn(bodies, SHAPE)
    row, column = (round(v) for v in bodies[2].centre)
    mask[row - 2 : row + 2, column - 3 : column + 3] = 0.1
    mask[20:23, 20:23] = 0.9
    mask[150:156, 30:36] = 0.6  # larger, but unsure and without a centre
    answer = found(bodies, mask)
    assert_each_is_found(answer, bodies)
    assert answer.labels[row, column] == 3
    assert answer.alone(3, mask)[row, column] == 1


def test_a_body_without_a_centre_counts_when_it_is_sure() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0)
    answer = found(bodies, centre=heat(bodies[:3] + bodies[4:]))
    assert_each_is_found(answer, bodies)
    assert [b.seeded for b in answer.bodies] == [True, True, True, False, True, True]


def test_what_lies_far_beside_the_spine_is_no_vertebra() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0)
    stray = Body((80.0, 25.0), (12.0,) * 3, 16.0)
    assert_each_is_found(found(bodies, drawn([*bodies, stray], SHAPE), centre=heat([*bodies, stray])), bodies)


def test_a_branch_beside_the_chain_is_left_out() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0)
    stray = Body((bodies[2].centre[0], 130.0), (10.0,) * 3, 10.0)
    assert_each_is_found(found(bodies, drawn([*bodies, stray], SHAPE), centre=heat([*bodies, stray])), bodies)


def test_a_vertebra_that_was_not_seen_leaves_its_place() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0)
    seen = bodies[:2] + bodies[3:]
    assert [b.place for b in found(seen).bodies] == [1, 2, 4, 5, 6]


def test_bodies_at_the_edge_of_what_was_exposed_are_partial() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0)
    field = np.zeros(SHAPE, bool)
    field[int(bodies[0].centre[0]) :] = True
    answer = found(bodies, measured=field)
    assert [b.partial for b in answer.bodies] == [True] + [False] * 5
    shifted = spine(HEIGHTS, top=(-4, 100), depth=18.0)
    assert [b.partial for b in found(shifted).bodies] == [True] + [False] * 5


def test_s1_is_no_vertebra_and_an_anchor_only_where_it_follows() -> None:
    bodies = spine([*HEIGHTS, (14.0, 13.0, 15.0)], top=(30, 100), depth=18.0)
    s1, lumbar = bodies[-1], bodies[:-1]
    below = s1.covers(SHAPE)
    body = drawn(lumbar, SHAPE) + 0.8 * below  # the map of bodies claims it too, less surely
    answer = found(lumbar, body, sacrum=below)
    assert_each_is_found(answer, lumbar)
    assert answer.sacrum_probability > 0.9 and answer.sacrum.sum() == pytest.approx(below.sum(), rel=0.05)
    gap = found(lumbar[:-2], drawn(lumbar[:-2], SHAPE), sacrum=below)
    assert gap.sacrum_probability == 0  # two vertebrae between them were not seen


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_an_even_map_holds_no_chain(level: float) -> None:
    answer = find_bodies(np.full(SHAPE, level), NOTHING, NOTHING, EVERYWHERE)
    assert all(b.partial for b in answer.bodies)
    assert answer.sacrum_probability == 0


def test_pixels_of_one_body_end_half_the_way_to_the_next() -> None:
    bodies = spine(HEIGHTS, top=(30, 100), depth=18.0, disc=1.0)
    mask = drawn(bodies, SHAPE)
    answer = found(bodies, mask)
    parts = [answer.alone(n + 1, mask) for n in range(len(bodies))]
    np.testing.assert_allclose(sum(parts), mask, atol=0.51)
    assert (np.sum([p >= 0.5 for p in parts], axis=0) <= 1).all()


def test_a_map_of_noise_gives_no_more_bodies_than_a_film_can_show() -> None:
    rng = np.random.default_rng(11)
    noise = [rng.uniform(0, 1, SHAPE) for _ in range(3)]
    answer = find_bodies(*noise, EVERYWHERE)
    assert len(answer.bodies) <= 128
    assert all(b.probability < 0.9 for b in answer.bodies)


@pytest.mark.parametrize("together", [2, 3])
def test_bodies_seen_as_one_are_parted_and_said_to_have_no_centre_of_their_own(together: int) -> None:
    bodies = spine([(13.0, 12.4, 13.0)] * 8, top=(20, 100), depth=16.0)
    mask = drawn(bodies, SHAPE)
    first, last = bodies[2].points.mean(axis=0), bodies[1 + together].points.mean(axis=0)
    mask[round(first[0]) : round(last[0]), 92:109] = np.maximum(mask[round(first[0]) : round(last[0]), 92:109], 0.9)
    kept = [b for n, b in enumerate(bodies) if not 2 < n < 2 + together]  # one centre for all of them
    answer = found(bodies, mask, centre=heat(kept))
    assert_each_is_found(answer, bodies)
    assert [b.seeded for b in answer.bodies] == [not 2 <= n < 2 + together for n in range(8)]


def test_a_large_body_that_is_not_long_is_one() -> None:
    bodies = spine([(13.0, 12.4, 13.0)] * 6, top=(20, 100), depth=16.0)
    bodies[3] = Body(bodies[3].centre, bodies[3].heights, 34.0)
    assert len(found(bodies).bodies) == 6
