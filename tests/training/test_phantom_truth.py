"""The phantom's truth: signs, statistics, key points on the surface, labels, determinism."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from inference.findings import KEYPOINTS, Level
from onnx_models.training.phantom import (
    EVALUATION,
    TRAINING,
    Patient,
    Plan,
    Ranges,
    VertebraTruth,
    gibbus_patient,
    kyphotic_patient,
    sample_patient,
    scoliotic_patient,
)
from onnx_models.training.phantom.spine import Column, build_column

A, M, P = 0, 1, 2


def column(seed: int, ranges: Ranges = TRAINING, plan: Plan | None = None) -> Column:
    return build_column(np.random.default_rng(seed), ranges, plan or Plan())


def tilt_deg(v: VertebraTruth) -> float:
    """Sagittal tilt of the up axis: positive leans backward."""
    return float(np.degrees(np.arctan2(v.frame[2][1], v.frame[2][2])))


def by_level(vertebrae: list[VertebraTruth]) -> dict[str, VertebraTruth]:
    return {v.level: v for v in vertebrae}


@pytest.fixture(scope="module")
def columns() -> list[Column]:
    return [column(seed) for seed in range(160)]


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return [sample_patient(np.random.default_rng(seed)) for seed in range(6)]


def test_levels_run_from_the_top_and_are_known_names(columns: list[Column]) -> None:
    seen = set()
    for c in columns:
        seen.update(c.levels)
        assert [*c.levels[:5], *c.levels[-2:]] == ["C3", "C4", "C5", "C6", "C7", "S1", "S2"]
        z = c.table[:, 2]
        assert (np.diff(z) < 0).all(), "vertebrae are listed from head to feet"
    assert seen - {"S2"} <= {str(level) for level in Level}
    assert {"T13", "L6"} <= seen, "variants occur"
    assert min(sum(n.startswith("T") for n in c.levels) for c in columns) == 11
    assert min(sum(n.startswith("L") for n in c.levels) for c in columns) == 4


def test_frames_are_right_handed_and_point_left_back_up(columns: list[Column]) -> None:
    for c in columns[:20]:
        for i in range(len(c.levels) - 2):
            frame = c.frame(i)
            np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-9)
            np.testing.assert_allclose(np.cross(frame[0], frame[1]), frame[2], atol=1e-9)
            assert frame[0][0] > 0.4 and frame[1][1] > 0.4 and frame[2][2] > 0.4


def test_kyphosis_leans_forward_above_and_bulges_backward(columns: list[Column]) -> None:
    t1, l1, bulge = [], [], []
    for c in columns:
        v = by_level(c.truth)
        t1.append(tilt_deg(v["T1"]))
        l1.append(tilt_deg(v["L1"]))
        a, b, apex = v["T1"].centroid_lps_mm, v["L1"].centroid_lps_mm, v["T7"].centroid_lps_mm
        share = (apex[2] - b[2]) / (a[2] - b[2])
        bulge.append(apex[1] - (b[1] + share * (a[1] - b[1])))
    assert np.median(t1) == pytest.approx(-23, abs=3)
    assert np.median(l1) == pytest.approx(11, abs=3)
    assert np.mean(np.array(bulge) > 0) > 0.95, "the thoracic spine bulges to the back (+y)"


def test_lordosis_bulges_forward_and_s1_lies_behind_and_below_l5(columns: list[Column]) -> None:
    bulge = []
    for c in columns:
        v = by_level(c.truth)
        last = c.levels[c.levels.index("S1") - 1]
        s1, l5, l1 = v["S1"].centroid_lps_mm, v[last].centroid_lps_mm, v["L1"].centroid_lps_mm
        assert s1[1] > l5[1], "S1 lies behind the last lumbar vertebra"
        assert s1[2] < l5[2] - 20, "and below it"
        s2 = c.truth[c.levels.index("S2")].centroid_lps_mm
        assert s2[1] > s1[1] and s2[2] < s1[2], "the sacrum runs backward"
        mid = v["L3"].centroid_lps_mm
        share = (mid[2] - s1[2]) / (l1[2] - s1[2])
        bulge.append(mid[1] - (s1[1] + share * (l1[1] - s1[1])))
    assert np.mean(np.array(bulge) < 0) > 0.95, "the lumbar spine bulges to the front (-y)"


def test_statistics_of_thoracic_vertebrae(columns: list[Column]) -> None:
    g, ap, mp, disc, growth = [], [], [], [], []
    for c in columns:
        thoracic = [t for t, name in zip(c.truth, c.levels, strict=True) if name.startswith("T")]
        g += [t.G for t in thoracic]
        whole = [t for t in thoracic if t.deformity == "none"]
        ap += [t.heights_mm[A] / t.heights_mm[P] for t in whole]
        mp += [t.heights_mm[M] / t.heights_mm[P] for t in whole]
        for upper, lower in itertools.pairwise(thoracic):
            if upper.deformity == lower.deformity == "none":
                gap = np.linalg.norm(upper.keypoints_lps_mm[[1, 5]] - lower.keypoints_lps_mm[[0, 4]], axis=1).mean()
                disc.append(gap / upper.heights_mm[[A, P]].mean())
                growth.append(lower.heights_mm.mean() / upper.heights_mm.mean())
    assert np.median(g) == pytest.approx(0.844, abs=0.02)
    assert np.percentile(g, 75) == pytest.approx(0.874, abs=0.02)
    assert np.percentile(g, 95) == pytest.approx(0.919, abs=0.02)
    assert np.median(mp) == pytest.approx(0.851, abs=0.02)
    assert np.median(ap) == pytest.approx(0.918, abs=0.02)
    assert np.median(disc) == pytest.approx(0.174, abs=0.02)
    assert np.median(growth) == pytest.approx(1.037, abs=0.02)


def test_lower_lumbar_vertebrae_are_lower_behind(columns: list[Column]) -> None:
    for name, low, high in (("L3", 0.77, 0.84), ("L4", 0.77, 0.84), ("L5", 0.77, 0.84)):
        whole = [t for c in columns for t in c.truth if t.level == name and t.deformity == "none"]
        assert low <= np.median([t.G for t in whole]) <= high
    ratio = [
        np.median([t.heights_mm[P] / t.heights_mm[A] for c in columns for t in c.truth if t.level == n])
        for n in ("L1", "L4", "L5")
    ]
    assert ratio[0] > 1 > ratio[1] > ratio[2]


def test_keypoints_lie_on_the_surface_and_the_label_holds_the_centroid(patients: list[Patient]) -> None:
    for p in patients:
        assert [p.label(v.centroid_lps_mm)[0] for v in p.vertebrae] == list(range(1, len(p.vertebrae) + 1))
        for v in p.vertebrae:
            assert v.keypoints_lps_mm.shape == (len(KEYPOINTS), 3)
            assert np.abs(p.body_distance(v.keypoints_lps_mm)).max() < 0.3
            # in the vertebra's mid-sagittal plane
            local = (v.keypoints_lps_mm - v.centroid_lps_mm) @ v.frame.T
            assert np.abs(local[:, 0]).max() < 1e-6
            # anterior in front of posterior, superior above inferior
            assert (local[[0, 1], 1] < local[[4, 5], 1] - 8).all()
            assert (local[0::2, 2] > local[1::2, 2]).all()


def test_the_posterior_wall_is_concave_in_the_axial_plane(patients: list[Patient]) -> None:
    """The posterior points lie on the wall itself: beside the mid-sagittal plane the bone reaches further back."""
    for p in patients:
        v = by_level(p.vertebrae)["L2"]
        mid = v.keypoints_lps_mm[[4, 5]].mean(0)
        beside = np.array([mid + v.frame[0] * x + v.frame[1] * 0.15 for x in (-8.0, 8.0)])
        wall = p.body_distance(np.array([mid + v.frame[1] * 0.15]))[0]
        assert (p.body_distance(beside) < wall).all()


def test_heights_are_distances_and_losses_refer_to_the_undeformed_twin(columns: list[Column]) -> None:
    deformed = 0
    for c in columns:
        for v in c.truth:
            k = v.keypoints_lps_mm
            np.testing.assert_allclose(v.heights_mm, np.linalg.norm(k[0::2] - k[1::2], axis=1), atol=1e-4)
            np.testing.assert_allclose(v.loss, 1 - v.heights_mm / v.healthy_heights_mm, atol=1e-6)
            if v.deformity == "none":
                assert np.abs(v.loss).max() < 1e-3
            else:
                deformed += 1
                assert v.loss.max() > 0.05
    assert deformed > 60


@pytest.mark.parametrize(("kind", "most", "least"), [("wedge", A, P), ("biconcave", M, P), ("crush", None, None)])
def test_each_deformity_takes_its_part(kind: str, most: int | None, least: int | None) -> None:
    for seed in range(12):
        for loss in (0.22, 0.35, 0.5):
            v = by_level(column(seed, plan=Plan({"T9": (kind, loss)}, standard_levels=True)).truth)["T9"]
            assert v.deformity == kind
            assert v.loss.max() == pytest.approx(loss, abs=0.17)
            if most is None:
                assert v.loss.min() > 0.5 * loss, "a crush lowers every part"
            else:
                assert least is not None
                assert int(np.argmax(v.loss)) == most or v.loss[most] > 0.8 * v.loss.max()
                assert v.loss[least] < 0.1


def test_a_wedge_is_lower_in_front_and_tilts_what_is_above_forward() -> None:
    ahead = []
    for seed in range(16):
        healthy = column(seed, plan=Plan({}, standard_levels=True))
        wedged = column(seed, plan=Plan({"T12": ("wedge", 0.5)}, standard_levels=True))
        v = by_level(wedged.truth)["T12"]
        assert v.heights_mm[A] < 0.75 * v.heights_mm[P]
        # the superior end plate falls toward the front: its anterior point is the lower one
        local = (v.keypoints_lps_mm - v.centroid_lps_mm) @ v.frame.T
        angle = (local[0, 2] - local[1, 2]) - (local[4, 2] - local[5, 2])
        assert angle < 0
        before = tilt_deg(by_level(healthy.truth)["T11"]) - tilt_deg(by_level(healthy.truth)["L1"])
        after = tilt_deg(by_level(wedged.truth)["T11"]) - tilt_deg(by_level(wedged.truth)["L1"])
        ahead.append(after - before)
    assert np.median(ahead) < -2, "T11 leans forward against L1"


def test_the_centre_line_passes_through_the_mid_height_points(patients: list[Patient]) -> None:
    for p in patients:
        for v in p.vertebrae:
            mid = v.keypoints_lps_mm[2:4].mean(0)
            x, y = p.centre_line(mid[2])
            assert np.hypot(x - mid[0], y - mid[1]) < 0.05


def test_curves_on_purpose() -> None:
    for seed in range(3):
        v = by_level(kyphotic_patient(seed).vertebrae)
        assert 55 <= tilt_deg(v["T12"]) - tilt_deg(v["T3"]) <= 72
        v = by_level(gibbus_patient(seed).vertebrae)
        assert 27 <= tilt_deg(v["L1"]) - tilt_deg(v["T11"]) <= 42
        assert v["T12"].loss[A] > 0.4
        v = by_level(scoliotic_patient(seed).vertebrae)
        lateral = [np.degrees(np.arcsin(t.frame[2][0])) for t in v.values()]
        assert 34 <= max(lateral) - min(lateral) <= 46


def test_bodies_do_not_meet() -> None:
    """Between the end plates of neighbours lies a disc of 1 mm at least, with any curve."""
    for make in (kyphotic_patient, gibbus_patient, scoliotic_patient):
        p = make(0)
        for upper, lower in itertools.pairwise(p.vertebrae):
            line = np.linspace(upper.keypoints_lps_mm[1::2], lower.keypoints_lps_mm[0::2], 9)[2:-2]
            assert not p.label(line.reshape(-1, 3)).any()


def test_the_same_seed_gives_the_same_patient_and_another_a_different_one() -> None:
    points = np.random.default_rng(0).uniform((-80, -80, 70), (80, 80, 230), (500, 3))
    a, b, c = (sample_patient(np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(a.hu(points), b.hu(points))
    for v, w in zip(a.vertebrae, b.vertebrae, strict=True):
        np.testing.assert_array_equal(v.keypoints_lps_mm, w.keypoints_lps_mm)
    assert np.abs(a.hu(points) - c.hu(points)).max() > 10


def test_ranges_survive_json_and_refuse_unknown_names() -> None:
    assert Ranges.from_json(EVALUATION.to_json()) == EVALUATION
    with pytest.raises(TypeError, match="wobble"):
        Ranges.from_json('{"wobble": 1}')
