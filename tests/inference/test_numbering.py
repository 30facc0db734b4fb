"""Numbering: one sequence, variants, alternatives, and silence without an anchor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.findings import Level
from inference.labelling import LEVELS, Candidate
from inference.numbering import NamedSequence, NumberingSettings, number, worded

NORMAL = [
    *(f"C{i}" for i in range(1, 8)),
    *(f"T{i}" for i in range(1, 13)),
    *(f"L{i}" for i in range(1, 6)),
    "S1",
]


def spine(names: list[str], looks: float = 0.6, shift: int = 0, edge_mm: float = 15.0) -> list[Candidate]:
    """Candidates as a network sees that spine; ``shift`` moves the names by looks, not what is seen."""
    out = []
    z = 0.0
    for k, name in enumerate(names):
        probability = np.full(len(LEVELS), (1 - looks) / (len(LEVELS) - 1))
        probability[int(np.clip(LEVELS.index(Level(name)) + shift, 0, len(LEVELS) - 1))] = looks
        gap = 20.0 if name[0] == "C" else 26.0 if name[0] == "T" else 35.0
        z -= gap
        edge = edge_mm + 25.0 * min(k, len(names) - 1 - k)
        rib, sacrum, axis = (0.98 if yes else 0.02 for yes in (name[0] == "T", name == "S1", name == "C2"))
        out.append(Candidate(np.array([0.0, 0.0, z]), probability, 0.97, rib, sacrum, axis, edge))
    return out


def named(found: NamedSequence) -> list[str | None]:
    return [None if level is None else str(level) for level in found.levels]


def without(*names: str) -> list[str]:
    return [name for name in NORMAL if name not in names]


def test_a_whole_spine_is_named_with_all_its_anchors() -> None:
    found = number(spine(NORMAL))
    assert named(found) == NORMAL
    assert found.kept == tuple(range(len(NORMAL)))
    assert found.numbering is not None
    assert found.numbering.anchor == "C2 and last rib and sacrum"
    assert found.numbering.confidence > 0.95
    assert all(c is not None and c > 0.95 for c in found.confidences)


@pytest.mark.parametrize(
    ("names", "unusual"),
    [
        ([*NORMAL[:24], "L6", "S1"], "L6"),
        ([*NORMAL[:19], "T13", *NORMAL[19:]], "T13"),
        (without("T12"), "T11"),
        (without("L5"), "L4"),
    ],
    ids=["L6", "T13", "eleven thoracic", "four lumbar"],
)
def test_variants_keep_their_names_where_all_anchors_are_seen(names: list[str], unusual: str) -> None:
    found = number(spine(names))
    assert named(found) == names
    assert unusual in named(found)


def test_a_sixth_lumbar_vertebra_is_never_called_the_fifth() -> None:
    names = [*NORMAL[16:24], "L6", "S1"]
    found = number(spine(names, looks=0.3))
    assert found.numbering is not None
    assert named(found)[-2:] == ["L6", "S1"]


@pytest.mark.parametrize(
    "names", [NORMAL[20:23], NORMAL[9:17], NORMAL[3:7], NORMAL[20:24]], ids=["lumbar", "chest", "neck", "L2 to L5"]
)
def test_without_an_anchor_nothing_is_named_however_sure_the_looks_are(names: list[str]) -> None:
    found = number(spine(names, looks=0.995))
    assert found.numbering is None
    assert set(named(found)) == {None}
    assert set(found.confidences) == {None}
    assert found.alternatives
    assert sum(p for _, p in found.alternatives) <= 1.0 + 1e-9
    assert all(len(sequence) == len(found.kept) for sequence, _ in found.alternatives)


def test_the_sacrum_outweighs_names_by_looks_that_are_off_by_one() -> None:
    names = NORMAL[17:]
    found = number(spine(names, looks=0.6, shift=-1))
    assert named(found) == names


@pytest.mark.parametrize("shift", [-1, 1])
def test_sure_looks_that_are_all_off_by_one_do_not_count_a_vertebra_more_or_less(shift: int) -> None:
    """The sacrum alone is seen: five lumbar vertebrae are likelier than that looks can count."""
    names = NORMAL[20:25]
    found = number(spine(names, looks=0.97, shift=shift))
    assert named(found) == names
    assert found.numbering is not None
    assert found.numbering.confidence < 0.9


def test_a_sacrum_without_a_sharp_centre_must_be_seen_plainly_and_far_from_the_end() -> None:
    seen = spine(["L3", "L4", "L5", "S1"])
    seen[-1] = replace(seen[-1], confidence=0.4, sacrum=0.95, edge_mm=60.0)
    found = number(seen)
    assert found.numbering is not None and found.numbering.anchor == "sacrum"
    assert named(found) == ["L3", "L4", "L5", "S1"]
    for worse in (replace(seen[-1], sacrum=0.8), replace(seen[-1], edge_mm=15.0)):
        assert number([*seen[:-1], worse]).numbering is None


def test_a_cut_last_lumbar_vertebra_that_looks_like_a_sacrum_names_nothing() -> None:
    seen = spine(["L1", "L2", "L3", "L4", "L5"], looks=0.9, shift=1)
    seen[-1] = replace(seen[-1], confidence=0.45, sacrum=0.9)
    assert number(seen).numbering is None


def without_t12(gap: float) -> list[Candidate]:
    """A whole spine without a candidate for T12, T11 and L1 so many mm apart."""
    seen = spine(NORMAL)
    k = NORMAL.index("T12")
    shift = seen[k - 1].centroid_lps_mm[2] - seen[k + 1].centroid_lps_mm[2] - gap
    up = np.array([0.0, 0.0, shift])
    return [*seen[:k], *(replace(c, centroid_lps_mm=c.centroid_lps_mm + up) for c in seen[k + 1 :])]


@pytest.mark.parametrize("gap", [26.0, 34.0, 39.0, 40.0, 48.0])
def test_a_vertebra_that_may_have_been_missed_is_not_called_absent(gap: float) -> None:
    """A T12 that is crushed and was not found: the shorter the gap, the more it looks as if there were none."""
    found = number(without_t12(gap))
    assert found.numbering is not None
    if gap > 30.0:
        assert Level.T12 in found.unseen and found.numbering.absent == ()
        assert "last rib" not in found.numbering.anchor
    else:
        assert found.numbering.absent == (Level.T12,)


def test_one_anchor_leaves_the_variants_open() -> None:
    found = number(spine(NORMAL[21:], looks=0.04))
    assert found.numbering is not None
    assert found.numbering.anchor == "sacrum"
    assert named(found) == ["L3", "L4", "L5", "S1"]
    assert found.numbering.confidence < 0.93
    assert any(Level.L6 in sequence for sequence, _ in found.alternatives)
    assert any("L6" in words for words in found.numbering.alternatives)


@pytest.mark.parametrize(("first", "last", "region"), [(10, 25, "T"), (21, 25, "L"), (12, 23, "T")])
def test_looks_never_claim_a_count_that_no_anchor_shows(first: int, last: int, region: str) -> None:
    found = number(spine(NORMAL[first:last], looks=0.99))
    assert found.numbering is not None
    given = [c for c, name in zip(found.confidences, named(found), strict=True) if name and name[0] == region]
    assert given
    assert all(c is not None and c < 0.9 for c in given)


def test_a_false_peak_below_the_sacrum_and_one_on_a_disc_are_dropped() -> None:
    whole = spine(NORMAL[15:])
    s2 = Candidate(whole[-1].centroid_lps_mm - [0, 0, 28.0], whole[-1].probability, 0.3, 0.05, 0.4, 0.05, 20.0)
    middle = 0.5 * (whole[4].centroid_lps_mm + whole[5].centroid_lps_mm)
    disc = Candidate(middle, np.full(len(LEVELS), 1 / len(LEVELS)), 0.25, 0.3, 0.05, 0.02, 60.0)
    found = number([*whole[:5], disc, *whole[5:], s2])
    assert named(found) == NORMAL[15:]
    assert 5 not in found.kept
    assert len(whole) + 1 not in found.kept


def test_a_vertebra_that_was_missed_leaves_its_name_out() -> None:
    whole = spine(NORMAL[14:])
    found = number([*whole[:7], *whole[8:]])
    assert named(found) == [name for name in NORMAL[14:] if name != NORMAL[21]]


def test_a_cut_end_is_no_last_rib() -> None:
    names = NORMAL[10:20]  # the lowest, L1, lies at the end of the images, where its missing rib proves nothing
    found = number(spine(names, edge_mm=8.0))
    assert found.numbering is None


def test_a_mid_chest_where_ribs_fade_out_at_the_end_is_not_anchored() -> None:
    chest = spine(NORMAL[9:16])
    last = chest[-1]
    chest[-1] = Candidate(last.centroid_lps_mm, last.probability, 0.9, 0.1, 0.05, 0.05, 30.0)
    assert number(chest).numbering is None


def test_nothing_in_nothing_out() -> None:
    assert number([]) == NamedSequence((), (), (), None, ())


def test_one_vertebra_alone_has_alternatives_only() -> None:
    found = number(spine(["L3"]), NumberingSettings())
    assert found.levels == (None,)
    assert found.alternatives[0][0] == (Level.L3,)


def test_probabilities_are_probabilities() -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        first = int(rng.integers(0, 18))
        candidates = spine(NORMAL[first : first + int(rng.integers(2, 9))], looks=float(rng.uniform(0.1, 0.9)))
        found = number(candidates)
        given = [c for c in found.confidences if c is not None]
        assert all(0.0 <= c <= 1.0 for c in given)
        assert sum(share for _, share in found.alternatives) <= 1.0 + 1e-9
        assert list(found.kept) == sorted(found.kept)


@pytest.mark.parametrize(
    ("names", "unseen", "said"),
    [
        (NORMAL[17:], (), "T11 to S1"),
        (NORMAL[17:21], (), "T11 to L2"),
        (["T10", "T11", "L1", "L2"], (), "T10 to L2, no T12"),
        (["T10", "T11", "L1", "L2"], ("T12",), "T10 to L2, T12 not seen"),
        (["T10", "L1"], ("T11",), "T10 to L1, no T12, T11 not seen"),
        (["L3", "L4", "S1"], (), "L3 to S1, no L5"),
        (["L3", "L4", "S1"], ("L5",), "L3 to S1, L5 not seen"),
        (["T7", "T9"], ("T8",), "T7 to T9, T8 not seen"),
        (["T12", "T13", "L1"], (), "T12 to L1, T13"),
    ],
)
def test_a_vertebra_that_is_lacking_and_one_that_was_not_seen_are_said_differently(
    names: list[str], unseen: tuple[str, ...], said: str
) -> None:
    assert worded(tuple(Level(n) for n in names), tuple(Level(n) for n in unseen)) == said


@pytest.mark.parametrize("missing", ["T9", "T12", "L5"])
def test_a_candidate_that_is_missing_leaves_a_vertebra_unseen(missing: str) -> None:
    candidates = [c for c, name in zip(spine(NORMAL), NORMAL, strict=True) if name != missing]
    found = number(candidates)
    assert named(found) == without(missing)
    assert found.unseen == (Level(missing),)
    assert found.numbering is not None and found.numbering.absent == ()


def test_a_person_without_t12_has_nothing_unseen() -> None:
    found = number(without_t12(28.0))
    assert named(found) == without("T12") and found.unseen == ()
    assert found.numbering is not None and found.numbering.absent == (Level.T12,)


def test_beside_a_vertebra_that_was_not_seen_no_rib_is_known_to_be_the_last() -> None:
    names = NORMAL[14:23]
    assert "T12" in names
    candidates = [c for c, name in zip(spine(names, edge_mm=40.0), names, strict=True) if name != "T12"]
    found = number(candidates)
    assert found.numbering is None and set(found.levels) == {None}
    assert found.alternatives_in_words[0].startswith("T8 to L4")
    whole = number(spine(names, edge_mm=40.0))
    assert whole.numbering is not None and whole.numbering.anchor == "last rib"
