"""One vertebra, one object: six points, names, and what contradicts what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.findings import Heights, Level, Numbering, Quality, VertebraFinding
from inference.joining import Joined, Placed, confirmed, join
from inference.labelling import LEVELS, Candidate
from inference.numbering import NamedSequence, number

STEP = 32.0


def measured(place: float, y: float = 0.0) -> Placed:
    finding = VertebraFinding(0, (0.0, y, -place), heights_mm=Heights(25.0, 24.0, 25.0), confidence=0.99)
    return Placed(finding, place)


def candidate(place: float, confidence: float = 0.9, sacrum: float = 0.0, edge_mm: float = 100.0) -> Candidate:
    flat = np.full(len(LEVELS), 1 / len(LEVELS))
    return Candidate(np.array([1.0, 3.0, -place]), flat, confidence, sacrum=sacrum, edge_mm=edge_mm)


def named(*levels: Level, kept: tuple[int, ...] | None = None) -> NamedSequence:
    indices = tuple(range(len(levels))) if kept is None else kept
    return NamedSequence(levels, (0.95,) * len(levels), indices, Numbering("sacrum", 0.93), ())


def unknown(*likeliest: Level) -> NamedSequence:
    nothing = (None,) * len(likeliest)
    return NamedSequence(nothing, nothing, tuple(range(len(likeliest))), None, ((likeliest, 0.6),))


def joined(places: list[float], seen: list[float], sequence: NamedSequence, **more) -> Joined:
    return join([measured(p) for p in places], [candidate(p, **more) for p in seen], seen, sequence)


def test_points_and_name_of_one_vertebra_are_one_finding() -> None:
    found = joined([0, STEP], [2, STEP - 3], named(Level.L1, Level.L2))
    assert [(v.ordinal, v.level, v.level_confidence) for v in found.vertebrae] == [
        (1, Level.L1, 0.95),
        (2, Level.L2, 0.95),
    ]
    assert all(v.heights_mm is not None and v.quality == () for v in found.vertebrae)
    assert found.places_mm == (0, STEP) and found.numbering == Numbering("sacrum", 0.93)


def test_a_named_vertebra_without_end_plates_stands_in_its_place() -> None:
    found = joined([STEP], [0, STEP], named(Level.T12, Level.L1))
    assert [v.name for v in found.vertebrae] == ["T12", "L1"]
    assert found.vertebrae[0].quality == (Quality.NO_END_PLATES,) and found.vertebrae[0].heights_mm is None
    cut = join([measured(STEP)], [candidate(0, edge_mm=4.0), candidate(STEP)], [0, STEP], named(Level.T12, Level.L1))
    assert cut.vertebrae[0].quality == (Quality.PARTIAL,)


@pytest.mark.parametrize("sequence", [named(Level.L5, Level.S1), unknown(Level.L5, Level.S1)])
def test_the_sacrum_alone_is_no_vertebra(sequence: NamedSequence) -> None:
    found = join([measured(0)], [candidate(0), candidate(STEP, sacrum=0.9)], [0, STEP], sequence)
    assert len(found.vertebrae) == 1


@pytest.mark.parametrize("likeliest", [(Level.L4, Level.L5, Level.S1), (Level.L3, Level.L4, Level.L5)])
def test_an_unnamed_sacrum_with_end_plates_is_told_as_what_it_likely_is(likeliest: tuple[Level, ...]) -> None:
    """By the likeliest numbering or, whatever that says, by its own look; what lies below it is no vertebra either."""
    places = [0, STEP, 2 * STEP]
    seen = [candidate(0), candidate(STEP), candidate(2 * STEP, sacrum=0.1 if likeliest[-1] is Level.S1 else 0.8)]
    found = join([measured(p) for p in [*places, 3 * STEP]], seen, places, unknown(*likeliest))
    flagged = [Quality.LIKELY_SACRUM in v.quality for v in found.vertebrae]
    assert flagged == [False, False, True, True]


def test_a_look_of_the_sacrum_above_other_vertebrae_or_against_a_name_is_none() -> None:
    seen = [candidate(0), candidate(STEP, sacrum=0.8), candidate(2 * STEP)]
    places = [0, STEP, 2 * STEP]
    points = [measured(p) for p in places]
    above = join(points, seen, places, unknown(Level.L2, Level.L3, Level.L4))
    against = join(points[:2], seen[:2], places[:2], named(Level.L4, Level.L5))
    assert all(Quality.LIKELY_SACRUM not in v.quality for v in (*above.vertebrae, *against.vertebrae))


def test_a_doubtful_candidate_without_end_plates_is_none() -> None:
    assert len(joined([0], [0, STEP], named(Level.L1, Level.L2), confidence=0.4).vertebrae) == 1


def test_end_plates_between_two_names_take_the_free_one() -> None:
    found = joined([0, STEP, 2 * STEP], [0, 2 * STEP], named(Level.L1, Level.L3))
    assert [v.level for v in found.vertebrae] == [Level.L1, Level.L2, Level.L3]
    across = joined([0, STEP, 2 * STEP], [0, 2 * STEP], named(Level.T11, Level.L1))
    assert [v.level for v in across.vertebrae] == [Level.T11, Level.T12, Level.L1]


def test_end_plates_where_a_level_is_said_to_be_lacking_end_all_names() -> None:
    sequence = replace(named(Level.T11, Level.L1), numbering=Numbering("sacrum", 0.93, absent=(Level.T12,)))
    lacking = joined([0, STEP], [0, STEP], sequence)
    assert lacking.numbering is not None and lacking.numbering.absent == (Level.T12,)
    seen = joined([0, STEP, 2 * STEP], [0, 2 * STEP], sequence)
    assert seen.numbering is not None and not seen.numbering.known
    assert [v.level for v in seen.vertebrae] == [None, None, None]


def test_end_plates_where_no_name_is_free_end_all_names() -> None:
    found = joined([0, STEP, 2 * STEP], [0, 2 * STEP], named(Level.L1, Level.L2))
    assert [v.level for v in found.vertebrae] == [None, None, None]
    assert found.numbering is not None and not found.numbering.known
    assert found.numbering.alternatives == ("L1 to L2 (0.93)",)


def test_end_plates_beyond_the_named_ones_stay_unnamed() -> None:
    found = joined([0, STEP], [STEP], named(Level.L1))
    assert [v.level for v in found.vertebrae] == [None, Level.L1]
    assert found.vertebrae[0].quality == (Quality.NOT_NAMED,)


def test_without_an_anchor_everything_is_counted_and_the_likeliest_is_told() -> None:
    found = joined([0, STEP], [0, STEP], unknown(Level.T7, Level.T8))
    assert [v.name for v in found.vertebrae] == ["V1", "V2"]
    assert found.numbering == Numbering("", 0.0, ("T7 to T8 (0.60)",))
    assert all(Quality.NOT_NAMED not in v.quality for v in found.vertebrae)


def test_what_lies_apart_is_not_the_same_vertebra() -> None:
    apart = join([measured(0, y=-20.0)], [candidate(0)], [0], named(Level.L1))
    assert len(apart.vertebrae) == 2
    two = join([measured(0)], [candidate(2), candidate(8)], [2, 8], named(Level.L1, Level.L2))
    assert [v.level for v in two.vertebrae] == [Level.L1, Level.L2], "the nearer one is its own"


def test_without_candidates_nothing_is_said_of_the_numbering() -> None:
    alone = join([measured(0)], (), (), NamedSequence((), (), (), None, ()))
    assert alone.numbering is None and alone.vertebrae[0].name == "V1"


@pytest.mark.parametrize("levels", [(Level.L2, Level.L1), (Level.L1, Level.L1)])
def test_names_out_of_order_end_all_names(levels: tuple[Level, Level]) -> None:
    found = joined([0, STEP], [0, STEP], named(*levels))
    assert [v.level for v in found.vertebrae] == [None, None]


def test_end_plates_make_a_candidate_surer_and_nothing_else() -> None:
    seen = [candidate(0, confidence=0.4), candidate(STEP, confidence=0.4)]
    found = confirmed(seen, [measured(2.0)])
    assert found[0].confidence == pytest.approx(1 - 0.6 * 0.05), "both learnt from the same phantoms"
    assert found[1] is seen[1] or found[1].confidence == pytest.approx(0.4)
    assert np.array_equal(found[0].centroid_lps_mm, seen[0].centroid_lps_mm)
    assert confirmed([], [measured(0.0)]) == ()


def test_two_candidates_are_not_confirmed_by_the_same_end_plates() -> None:
    found = confirmed([candidate(0, confidence=0.4), candidate(9.0, confidence=0.4)], [measured(1.0)])
    assert [round(c.confidence, 2) for c in found] == [0.97, 0.4]


@pytest.mark.parametrize("flag", [Quality.PARTIAL, Quality.LOW_CONFIDENCE, Quality.OFF_CENTRE_LINE])
def test_end_plates_that_are_themselves_unsure_confirm_less(flag: Quality) -> None:
    unsure = measured(0.0)
    unsure = replace(unsure, vertebra=replace(unsure.vertebra, quality=(flag,)))
    (found,) = confirmed([candidate(0, confidence=0.4)], [unsure])
    assert found.confidence == pytest.approx(1 - 0.6 * 0.2)


def test_an_unsure_candidate_with_end_plates_keeps_its_place_in_the_count() -> None:
    """It lies a little high: by its looks alone it would be dropped, and all names would contradict its end plates."""
    names = [Level.T7, Level.T8, Level.T9, Level.T10, Level.T11, Level.T12, Level.L1, Level.L2]
    places = [0.0, 16.7, 24.0, 41.9, 58.7, 80.5, 100.7, 122.0]

    def looks(place: float, level: Level, confidence: float) -> Candidate:
        flat = np.full(len(LEVELS), 0.002)
        flat[LEVELS.index(level)] = 1.0
        rib = 0.99 if level.startswith("T") else 0.01
        return Candidate(np.array([0.0, 0.0, -place]), flat / flat.sum(), confidence, rib=rib)

    sure = [0.98, 0.98, 0.21, 0.98, 0.98, 0.98, 0.98, 0.98]
    seen = [looks(p, n, c) for p, n, c in zip(places, names, sure, strict=True)]
    points = [measured(p) for p in places]
    assert 2 not in number(seen).kept
    sequence = number(confirmed(seen, points))
    assert sequence.kept == tuple(range(8))
    found = join(points, seen, places, sequence)
    assert [v.level for v in found.vertebrae] == names
