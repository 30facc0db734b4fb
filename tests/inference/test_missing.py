"""Below which vertebrae one was not seen: by names, by distances, and by neither alone."""

from __future__ import annotations

import numpy as np
import pytest

from inference.findings import Level, Quality, VertebraFinding
from inference.gaps import by_distance, missing_between, with_gaps


def places(*at: float) -> np.ndarray:
    return np.array([[0.0, 0.0, -20.0 * place] for place in at])


@pytest.mark.parametrize(
    ("at", "missing"),
    [
        ((1, 2, 3, 4), [0, 0, 0]),
        ((1, 2, 4, 5), [0, 1, 0]),
        ((1, 2, 3, 6, 7), [0, 0, 2, 0]),
        ((1, 2, 3.55, 4.55), [0, 0, 0]),
        ((1, 2, 3.65, 4.65), [0, 1, 0]),
        ((1, 5), [0]),
        ((1,), []),
    ],
)
def test_without_names_the_distance_tells(at: tuple[float, ...], missing: list[int]) -> None:
    apart = by_distance(places(*at))
    assert apart == missing
    assert missing_between([None] * len(at), apart) == missing


@pytest.mark.parametrize(
    ("levels", "apart", "missing"),
    [
        ((Level.T7, Level.T9), 0, 1),
        ((Level.T7, Level.T8), 1, 0),
        ((Level.T5, Level.T9), 1, 3),
        ((Level.T12, Level.L1), 0, 0),
        ((Level.T12, Level.T13), 0, 0),
        ((Level.L5, Level.S1), 0, 0),
        ((Level.L5, Level.L6), 0, 0),
        ((Level.C7, Level.T2), 0, 1),
        ((None, Level.T9), 1, 1),
        ((Level.T9, None), 2, 2),
    ],
)
def test_where_both_have_a_name_the_names_tell(levels: tuple[Level | None, ...], apart: int, missing: int) -> None:
    assert missing_between(levels, [apart]) == [missing]


def test_a_level_that_the_spine_lacks_is_not_missed() -> None:
    assert missing_between([Level.T11, Level.L1], [0]) == [1]
    assert missing_between([Level.T11, Level.L1], [0], (Level.T12,)) == [0]
    assert missing_between([Level.L4, Level.S1], [0], (Level.L5,)) == [0]


def test_the_vertebra_above_bears_the_flag_after_its_own() -> None:
    own = Quality.LOW_CONFIDENCE
    found = [VertebraFinding(n, (0.0, 0.0, 0.0), quality=(own,) if n == 2 else ()) for n in (1, 2, 3)]
    assert [v.quality for v in with_gaps(found, [0, 2])] == [(), (own, Quality.GAP_BELOW), ()]
    assert with_gaps(found[:1], []) == (found[0],)
    assert with_gaps((), []) == ()
