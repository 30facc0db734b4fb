"""Where the head is and to which side the front lies; names above the sacrum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_film import Body, drawn, spine

from inference.film_bodies import FilmBodies, find_bodies
from inference.film_names import NameSettings, named
from inference.film_orientation import front_side, head_is_up, header_front, header_turn
from inference.findings import Level

SHAPE = (200, 200)
GROWING = [(h, 0.95 * h, h) for h in (10.0, 10.4, 10.8, 11.2, 11.6, 12.0)]
EVEN = np.ones(SHAPE, np.float32)
DRAWN = NameSettings(sure_sacrum=0.8)
"""The edges of a small drawn S1 are less sure than a network's."""


def found(bodies: list[Body], sacrum: Body | None = None) -> tuple[FilmBodies, np.ndarray, np.ndarray]:
    """Bodies, and the maps that they were found on."""
    body = drawn(bodies, SHAPE)
    s1 = sacrum.covers(SHAPE) if sacrum is not None else np.zeros(SHAPE)
    return find_bodies(body, centres_of(bodies), s1, np.ones(SHAPE, bool)), body, s1


def centres_of(bodies: list[Body]) -> np.ndarray:
    """The map of centres."""
    row, column = np.indices(SHAPE)
    peaks = [np.exp(-((row - b.centre[0]) ** 2 + (column - b.centre[1]) ** 2) / 8) for b in bodies]
    return np.max(peaks, axis=0)


@pytest.mark.parametrize(
    ("header", "turn", "front"),
    [
        (("P", "F"), 0, -1),
        (("A", "F"), 0, 1),
        (("PF", "FA"), 0, -1),
        (("P", "H"), 2, 1),
        (("A", "H"), 2, -1),
        (("F", "A"), 3, -1),
        (("F", "P"), 3, 1),
        (("H", "A"), 1, 1),
        (("H", "P"), 1, -1),
        (("L", "F"), 0, None),
    ],
)
def test_the_header_tells_turn_and_front(header: tuple[str, str], turn: int, front: int | None) -> None:
    assert header_turn(header) == turn
    assert header_front(header, turn) == front


@pytest.mark.parametrize("header", [None, ("", ""), ("A", "L"), ("X", "Y")])
def test_a_header_that_says_nothing_is_not_read(header: tuple[str, str] | None) -> None:
    assert header_turn(header) is None


def test_turning_as_numpy_does_brings_the_head_up() -> None:
    film = np.zeros((5, 5))
    film[2, 4] = 1  # the head, at the right: columns increase towards it
    turn = header_turn(("H", "A"))
    assert turn is not None and np.rot90(film, turn)[0, 2] == 1


@pytest.mark.parametrize(("front", "header", "side", "contradicts"), [
    (0.9, None, -1, False),
    (0.1, None, 1, False),
    (0.9, ("P", "F"), -1, False),
    (0.6, ("A", "F"), 1, False),  # an unsure network yields to the header
    (0.99, ("A", "F"), -1, True),  # a sure one does not
    (0.8, ("A", "F"), 1, True),  # or it yields, and that it saw something else is said
])  # fmt: skip
def test_network_and_header_are_weighed(front: float, header, side: int, contradicts: bool) -> None:
    seen, body, _ = found(spine(GROWING, top=(20, 100), depth=16.0))
    said = front_side(front * EVEN, body, seen, header, 0)
    assert (said.front, said.contradicts_header) == (side, contradicts)


def test_agreement_makes_the_side_surer() -> None:
    seen, body, _ = found(spine(GROWING, top=(20, 100), depth=16.0))
    alone, both = (front_side(0.8 * EVEN, body, seen, header, 0) for header in (None, ("P", "F")))
    assert 0.79 < alone.confidence < 0.81 and both.confidence > 0.95


def test_only_pixels_of_bodies_have_a_say() -> None:
    seen, body, _ = found(spine(GROWING, top=(20, 100), depth=16.0))
    front = np.where(seen.labels > 0, 0.9, 0.0)
    assert front_side(front, body, seen, None, 0).front == -1


@pytest.mark.parametrize("side", [-1, 1])
def test_the_sacrum_runs_backward(side: int) -> None:
    bodies = spine(GROWING, top=(20, 100), depth=16.0)
    row, column = bodies[-1].centre
    behind = Body((row + 15.0, column - side * 6.0), (12.0,) * 3, 16.0)
    seen, body, _ = found(bodies, behind)
    assert seen.sacrum_probability > 0.9
    said = front_side(0.5 * EVEN, body, seen, None, 0)
    assert said.front == side and said.confidence > 0.6


def maps(body: np.ndarray, s1: np.ndarray, head: float = 0.5) -> dict[str, np.ndarray]:
    return {"body": body, "sacrum": s1, "head": np.full(SHAPE, head)}


def test_the_head_is_where_bodies_are_small_and_the_sacrum_is_not() -> None:
    bodies = spine(GROWING, top=(40, 100), depth=16.0)
    seen, body, nothing = found(bodies)
    grown = head_is_up(seen, maps(body, nothing))
    assert grown > 0.1
    reverse, body_, _ = found(spine(GROWING[::-1], top=(40, 100), depth=16.0))
    assert head_is_up(reverse, maps(body_, nothing)) < -0.1
    below = Body((bodies[-1].centre[0] + 15, 100.0), (12.0,) * 3, 16.0)
    seen, body, s1 = found(bodies, below)
    assert head_is_up(seen, maps(body, s1)) == pytest.approx(grown + 0.5, abs=0.05)
    above = Body((25.0, 100.0), (12.0,) * 3, 16.0)
    seen, body, s1 = found(bodies, above)
    assert head_is_up(seen, maps(body, s1)) < 0


def test_a_sacrum_that_does_not_continue_the_spine_says_nothing_of_the_head() -> None:
    seen, body, nothing = found(spine(GROWING, top=(40, 100), depth=16.0))
    beside = Body((25.0, 160.0), (12.0,) * 3, 16.0).covers(SHAPE)
    far = Body((190.0, 100.0), (12.0,) * 3, 16.0).covers(SHAPE)
    alone = head_is_up(seen, maps(body, nothing))
    for s1 in (beside, far):
        assert head_is_up(seen, maps(body, s1)) == alone


def test_the_network_sees_the_head_on_every_body() -> None:
    seen, body, nothing = found(spine(GROWING[:3], top=(40, 100), depth=16.0))
    up, down = (head_is_up(seen, maps(body, nothing, p)) for p in (0.95, 0.05))
    assert up == pytest.approx(0.63) and down == pytest.approx(-0.63)
    elsewhere = np.where(seen.labels > 0, 0.5, 0.0)
    assert head_is_up(seen, {"body": body, "sacrum": nothing, "head": elsewhere}) == pytest.approx(0)


def test_names_are_counted_from_the_sacrum_as_far_as_the_count_is_sure() -> None:
    bodies = spine(GROWING, top=(20, 100), depth=16.0)
    row, column = bodies[-1].centre
    s1 = Body((row + 15.0, column), (12.0,) * 3, 16.0)
    seen, _, _ = found(bodies, s1)
    names = named(seen, DRAWN)
    assert names.levels == (Level.T12, Level.L1, Level.L2, Level.L3, Level.L4, Level.L5)
    assert names.numbering is not None and names.numbering.known
    assert [words[:17] for words in names.numbering.alternatives] == ["the lowest is L6 ", "the lowest is L4 "]
    above = (None, None, None, Level.L3, Level.L4, Level.L5)
    gap, _, _ = found(bodies[:2] + bodies[3:], s1)
    assert named(gap, DRAWN).levels == above[1:]
    third = seen.bodies[2]
    for doubtful in (replace(third, probability=0.8), replace(third, seeded=False)):
        doubted = replace(seen, bodies=(*seen.bodies[:2], doubtful, *seen.bodies[3:]))
        assert named(doubted, DRAWN).levels == above


def test_a_vertebra_seen_as_two_ends_the_names() -> None:
    bodies = spine(GROWING, top=(20, 100), depth=16.0)
    row, column = bodies[2].centre
    halves = [Body((row - 3.6, column), (5.0,) * 3, 16.0), Body((row + 3.6, column), (5.0,) * 3, 16.0)]
    s1 = Body((bodies[-1].centre[0] + 15.0, bodies[-1].centre[1]), (12.0,) * 3, 16.0)
    seen, _, _ = found(bodies[:2] + halves + bodies[3:], s1)
    assert len(seen.bodies) == 7
    named_upwards = [level for level in reversed(named(seen, DRAWN).levels) if level is not None]
    assert named_upwards[:3] == [Level.L5, Level.L4, Level.L3]
    assert len(named_upwards) <= 4  # the lower half may pass for L2, nothing above it may


def test_two_pieces_of_a_sacrum_are_no_anchor() -> None:
    bodies = spine(GROWING, top=(20, 100), depth=16.0)
    row, column = bodies[-1].centre
    pieces = [Body((row + d, column), (10.0,) * 3, 16.0).covers(SHAPE) for d in (15.0, 30.0)]
    seen, body, _ = found(bodies)
    one, both = (find_bodies(body, centres_of(bodies), s1, EVEN > 0) for s1 in (pieces[0], np.maximum(*pieces)))
    assert one.has_sacrum and not both.has_sacrum and len(both.bodies) == len(seen.bodies)


def test_names_need_a_sure_sacrum() -> None:
    bodies = spine(GROWING, top=(20, 100), depth=16.0)
    seen, _, _ = found(bodies)
    assert named(seen, DRAWN).levels == (None,) * 6
    s1 = Body((bodies[-1].centre[0] + 15.0, bodies[-1].centre[1]), (12.0,) * 3, 16.0)
    sure, _, _ = found(bodies, s1)
    assert named(sure, NameSettings(sure_sacrum=1.1)).numbering is None
    assert named(sure, replace(DRAWN, known=0.95)).levels == (None,) * 6


def test_a_spine_longer_than_the_ladder_of_names_ends_unnamed() -> None:
    bodies = spine([(5.0, 4.8, 5.0)] * 26, top=(2, 100), depth=9.0, disc=2.0)
    s1 = Body((bodies[-1].centre[0] + 7.0, 100.0), (5.0,) * 3, 9.0)
    seen, _, _ = found(bodies, s1)
    levels = named(seen, DRAWN).levels
    assert len(levels) == 26 and levels[-1] is Level.L5 and levels[0] is None
