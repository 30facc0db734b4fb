"""The pipeline from end to end on spines of blocks, with toy networks, and on everything that is no spine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_spine import (
    FINE,
    ToySession,
    axial_affine,
    blocks_along,
    models,
    render,
    screen,
    sees_nothing,
    sees_spine_everywhere,
)

from inference.findings import KEYPOINTS, Grade, Heights, Quality, VertebraFinding
from inference.geometry import Volume
from inference.grading import GradingRule
from inference.refusal import RefusalCode
from inference.screening import ScreeningSettings, safely_graded

HEIGHTS = [24.0] * 9


def kyphosis(degrees: float):
    radius = 300.0 / np.radians(degrees)
    return lambda z: float(np.sqrt(radius**2 - z**2) - radius)


def gibbus(degrees: float):
    slope = np.tan(np.radians(degrees / 2))
    return lambda z: float(-slope * (np.sqrt(z**2 + 12.0**2) - 12.0))


def scoliosis(z: float) -> float:
    return float(20.0 * np.sin(z / 60.0))


def none(z: float) -> float:
    return 0.0


SHAPES = {
    "straight": (none, none),
    "kyphosis 60": (none, kyphosis(60)),
    "gibbus 30": (none, gibbus(30)),
    "scoliosis": (scoliosis, none),
    "kyphosis and scoliosis": (scoliosis, kyphosis(60)),
}
SHAPE = (170, 60, 46)
SPACING = (2.0, 2.0, 2.0)


def spine(x=none, y=none, heights=HEIGHTS, shape=SHAPE, spacing=SPACING) -> tuple[Volume, list]:
    blocks = blocks_along(x, y, list(heights))
    return render(blocks, axial_affine(shape, spacing), shape), blocks


def keypoints_of(vertebra) -> np.ndarray:
    return np.array([getattr(vertebra.keypoints_lps_mm, name) for name in KEYPOINTS])


@pytest.mark.parametrize("name", SHAPES)
def test_every_vertebra_is_found_once_and_drawn_as_it_is_reported(name: str) -> None:
    volume, blocks = spine(*SHAPES[name])
    result = screen(volume, models(volume, blocks), age_years=70)
    found = result.findings.vertebrae
    assert [v.ordinal for v in found] == list(range(1, len(blocks) + 1))
    for vertebra, block in zip(found, blocks, strict=True):
        assert np.linalg.norm(np.array(vertebra.centroid_lps_mm) - block.centre) < 2.5
        points = keypoints_of(vertebra)
        drawn = result.reformat.to_pixel(points)
        pixels = np.linalg.norm(drawn[0::2] - drawn[1::2], axis=1) * result.reformat.spacing_mm
        assert pixels == pytest.approx(vertebra.heights_mm.as_tuple(), rel=0.02)
        assert vertebra.heights_mm.as_tuple() == pytest.approx((24.0,) * 3, abs=3.0)
    assert result.findings.patient.flag is False
    assert result.findings.spine_found and result.findings.refusal is None


def test_a_crushed_vertebra_is_flagged_and_its_place_is_right() -> None:
    heights = [24, 24, 24, 24, 13, 24, 24, 24]
    volume, blocks = spine(y=kyphosis(40), heights=heights)
    findings = screen(volume, models(volume, blocks), age_years=70).findings
    grades = [v.grade for v in findings.vertebrae]
    assert grades[4] is Grade.SEVERE and set(grades[1:4] + grades[5:7]) == {Grade.NORMAL}
    assert findings.patient.flag is True and findings.patient.worst_grade is Grade.SEVERE
    assert findings.vertebrae[4].height_loss.middle == pytest.approx(1 - 13 / 24, abs=0.06)
    assert np.linalg.norm(np.array(findings.vertebrae[4].centroid_lps_mm) - blocks[4].centre) < 2.5


def turn4(turn: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = turn
    return affine


def test_the_answer_does_not_depend_on_how_the_grid_lies() -> None:
    """Feet first, from right to left, and turned by 15 degrees: the same patient."""
    _, blocks = spine(scoliosis, kyphosis(40), [24, 24, 14, 24, 24])
    blocks = [replace(b, centre=b.centre - [0, 0, 80]) for b in blocks]
    shape, larger = (90, 60, 46), (110, 100, 46)
    straight = axial_affine(shape, SPACING)
    flipped = axial_affine(shape, SPACING)
    flipped[:3, :3] *= -1
    flipped[:3, 3] *= -1
    angle = np.radians(15)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    tilted = turn4(turn) @ axial_affine(larger, SPACING)
    volumes = [render(blocks, a, s) for a, s in ((straight, shape), (flipped, shape), (tilted, larger))]
    answers = [screen(v, models(v, blocks), FINE) for v in volumes]
    first = answers[0].findings
    for other in (a.findings for a in answers[1:]):
        assert [v.grade for v in other.vertebrae] == [v.grade for v in first.vertebrae]
        for a, b in zip(first.vertebrae, other.vertebrae, strict=True):
            assert a.centroid_lps_mm == pytest.approx(b.centroid_lps_mm, abs=1.0)
            assert a.heights_mm.as_tuple() == pytest.approx(b.heights_mm.as_tuple(), abs=0.8)


def test_flags_of_the_whole_answer() -> None:
    volume, blocks = spine(heights=[24] * 4, shape=(110, 50, 40))
    known = models(volume, blocks)
    assert Quality.AGE_UNKNOWN in screen(volume, known, FINE).findings.quality
    young = screen(volume, known, FINE, age_years=35).findings
    assert Quality.OUTSIDE_SCREENING_AGE in young.quality and young.refusal is None
    old = screen(volume, known, FINE, age_years=50).findings
    assert old.quality == (Quality.LEVELS_UNKNOWN,)
    child = screen(volume, known, FINE, age_years=17.9).findings
    assert child.refusal.code is RefusalCode.AGE_BELOW_18
    assert child.patient.flag is None and child.vertebrae == ()


def test_a_vertebra_cut_by_the_edge_is_not_measured() -> None:
    """The first block begins 8 mm above the volume."""
    blocks = blocks_along(none, none, [24] * 6, top=88.0)
    volume = render(blocks, axial_affine((80, 50, 40), SPACING), (80, 50, 40))
    findings = screen(volume, models(volume, blocks), FINE).findings
    top = findings.vertebrae[0]
    assert Quality.PARTIAL in top.quality
    assert top.heights_mm is None and top.keypoints_lps_mm is None and top.grade is None
    assert all(v.heights_mm is not None for v in findings.vertebrae[1:5])
    assert Quality.G_ONLY in findings.vertebrae[1].quality


def test_a_vertebra_near_the_edge_says_so() -> None:
    blocks = blocks_along(none, none, [24] * 5, top=78.0)
    volume = render(blocks, axial_affine((80, 50, 40), SPACING), (80, 50, 40))
    findings = screen(volume, models(volume, blocks), FINE).findings
    assert Quality.NEAR_EDGE in findings.vertebrae[0].quality
    assert Quality.NEAR_EDGE not in findings.vertebrae[2].quality


def test_metal_beside_the_body_takes_the_grade_away() -> None:
    volume, blocks = spine(heights=[24, 24, 13, 24, 24])
    hu = volume.hu.copy()
    for side in (-15.0, 15.0):
        i, j, k = np.rint(volume.to_index(blocks[2].centre + np.array([side, 12.0, 0]))).astype(int)
        hu[i - 1 : i + 2, j - 4 : j + 4, k : k + 2] = 3000
    findings = screen(replace(volume, hu=hu), models(volume, blocks), FINE).findings
    assert [Quality.METAL in v.quality for v in findings.vertebrae] == [False, False, True, False, False]
    assert findings.vertebrae[2].grade is None and findings.patient.flag is False


@pytest.mark.parametrize(("fine", "mild", "coarse"), [(1.5, Grade.MILD, False), (1.4, None, True)])
def test_mild_loss_by_spacing(fine: float, mild: Grade | None, coarse: bool) -> None:
    volume, blocks = spine(heights=[28, 28, 28, 21.7, 28, 28], spacing=(1.5, 2.0, 2.0), shape=(220, 50, 40))
    settings = ScreeningSettings(rule=GradingRule(fine_spacing_mm=fine))
    findings = screen(volume, models(volume, blocks), settings).findings
    assert findings.vertebrae[3].grade is mild
    assert (Quality.MILD_NOT_REPORTED in findings.vertebrae[3].quality) is coarse
    assert (Quality.COARSE_SPACING in findings.quality) is coarse
    assert findings.spacing_along_spine_mm == pytest.approx(1.5)


def test_thick_slices_are_refused_before_looking() -> None:
    volume, blocks = spine(heights=[24] * 4, spacing=(4.0, 2.0, 2.0), shape=(80, 50, 40))
    answer = screen(volume, models(volume, blocks))
    assert answer.findings.refusal.code is RefusalCode.SLICES_TOO_THICK
    assert answer.reformat is None and answer.coronal is None and answer.labels is None
    told = ScreeningSettings(rule=GradingRule(coarse_spacing_mm=5.0))
    assert screen(volume, models(volume, blocks), told).findings.refusal is None


def test_steps_are_told_and_timed() -> None:
    volume, blocks = spine(heights=[24] * 4)
    told: list[str] = []
    findings = screen(volume, models(volume, blocks), progress=told.append).findings
    assert told == ["localize", "straighten", "reformat", "keypoints", "names", "masks", "grade"]
    assert list(findings.timings_s) == told and all(t >= 0 for t in findings.timings_s.values())
    assert findings.provider == "CPUExecutionProvider" and findings.models[0].name == "toy"


NOTHING_FOUND = (RefusalCode.NO_SPINE_FOUND, RefusalCode.TOO_LITTLE_SPINE, RefusalCode.NO_VERTEBRA_FOUND)


def empty(value, shape=(60, 50, 40), dtype=np.int16) -> Volume:
    return Volume(np.full(shape, value, dtype), axial_affine(shape, (2.0, 2.0, 2.0)))


@pytest.mark.parametrize(
    "volume",
    [
        empty(-1000),
        empty(0),
        empty(3071),
        empty(np.nan, dtype=np.float32),
        empty(np.inf, dtype=np.float32),
        empty(40, (1, 1, 1)),
        empty(40, (1, 512, 512)),
        empty(40, (3, 2, 2)),
        Volume(
            np.full((60, 50, 40), 500, np.int16),
            axial_affine((60, 50, 40), (2, 2, 2)),
            padding=np.ones((60, 50, 40), bool),
        ),
    ],
)
def test_what_is_no_spine_is_refused_and_raises_nothing(volume: Volume) -> None:
    for localizer in (sees_nothing(), sees_spine_everywhere()):
        findings = screen(volume, models(localizer=localizer)).findings
        assert findings.refusal.code in NOTHING_FOUND
        assert findings.vertebrae == () and findings.patient.flag is None


def test_noise_raises_nothing() -> None:
    rng = np.random.default_rng(3)
    volume = Volume(rng.normal(0, 400, (60, 50, 40)).astype(np.float32), axial_affine((60, 50, 40), (2, 2, 2)))
    assert screen(volume, models(localizer=sees_spine_everywhere())).findings.patient.flag in (None, False, True)


def test_absurd_extent_is_refused() -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), axial_affine((4, 4, 4), (2.0, 900.0, 900.0)))
    refusal = screen(volume, models()).findings.refusal
    assert refusal.code is RefusalCode.NO_SPINE_FOUND and "more than a patient" in refusal.sentence


def test_too_little_spine_is_told_from_none() -> None:
    shape = (60, 80, 60)
    blocks = blocks_along(none, none, [24.0], top=12.0)
    short = render(blocks, axial_affine(shape, (1.0, 1.5, 1.5)), shape)
    findings = screen(short, models(short, blocks)).findings
    assert findings.refusal.code is RefusalCode.TOO_LITTLE_SPINE and findings.spine_found


def failing(values: dict) -> ToySession:
    return ToySession({name: (lambda inputs, v=value: v) for name, value in values.items()})


def test_numbers_that_are_not_finite_stop_the_analysis() -> None:
    volume, blocks = spine(heights=[24] * 4)
    nan = np.full((1, 8, 2), np.nan, np.float32)
    broken = failing({"centre": nan, "peak": nan[..., 0], "presence": nan[..., 0]})
    refusal = screen(volume, models(localizer=broken)).findings.refusal
    assert refusal.code is RefusalCode.MODEL_FAILED and "not finite" in refusal.detail
    broken = failing(
        {
            "objectness": np.full((1, 16, 16, 80), np.inf),
            "keypoints": np.zeros((1, 16, 12, 16, 80)),
            "nearby": np.zeros((1, 12, 16, 80)),
        }
    )
    answer = screen(volume, models(volume, blocks, keypoints=broken))
    assert answer.findings.refusal.code is RefusalCode.MODEL_FAILED
    assert answer.findings.spine_found and answer.reformat is not None


def test_a_network_that_raises_stops_the_analysis() -> None:
    def fail(inputs):
        raise RuntimeError("a broken node")

    volume, _ = spine(heights=[24] * 4)
    broken = ToySession({"centre": fail, "peak": fail, "presence": fail})
    refusal = screen(volume, models(localizer=broken)).findings.refusal
    assert refusal.code is RefusalCode.MODEL_FAILED and "a broken node" in refusal.detail


def test_a_spine_without_a_vertebra_is_not_evaluable_but_found() -> None:
    volume, blocks = spine(heights=[24] * 4)

    def nothing(inputs):
        shape = inputs["image"].shape[2:]
        sizes = {"objectness": (16,), "keypoints": (16, 12), "nearby": (12,)}
        return {name: np.zeros((1, *size, *shape), np.float32) for name, size in sizes.items()}

    blind = ToySession({n: (lambda inputs, n=n: nothing(inputs)[n]) for n in ("objectness", "keypoints", "nearby")})
    answer = screen(volume, models(volume, blocks, keypoints=blind))
    assert answer.findings.refusal.code is RefusalCode.NO_VERTEBRA_FOUND
    assert answer.findings.spine_found and answer.labels is None


def test_a_single_bright_body_on_a_doubtful_line_is_no_spine() -> None:
    """As the left atrium of a contrast-filled heart once was."""
    shape = (110, 50, 40)
    blocks = blocks_along(none, none, [30.0], top=15.0)
    volume = render(blocks, axial_affine(shape, SPACING), shape)
    doubtful = sees_spine_everywhere(peak=0.15)
    findings = screen(volume, models(volume, blocks, localizer=doubtful)).findings
    assert findings.refusal.code is RefusalCode.TOO_LITTLE_SPINE
    assert findings.spine_found is False and findings.vertebrae == ()


def test_no_grade_rests_on_doubtful_heights_alone() -> None:
    both = (Quality.LOW_CONFIDENCE, Quality.G_ONLY)
    given = tuple(
        VertebraFinding(n, (0, 0, 0), heights_mm=Heights(25, 15, 25), grade=Grade.SEVERE, rule="r", quality=q)
        for n, q in enumerate([both, both[:1], both[1:]], start=1)
    )
    said = safely_graded(given)
    assert [v.grade for v in said] == [None, Grade.SEVERE, Grade.SEVERE]
    assert said[0].rule is None and said[0].heights_mm == given[0].heights_mm


def test_padding_inside_the_volume_is_air_not_bone() -> None:
    volume, blocks = spine(heights=[24] * 5)
    padding = np.zeros(volume.hu.shape, bool)
    padding[:, :, :3] = True
    hu = volume.hu.copy()
    hu[padding] = 3000
    with_padding = screen(replace(volume, hu=hu, padding=padding), models(volume, blocks)).findings
    without = screen(volume, models(volume, blocks)).findings
    for a, b in zip(with_padding.vertebrae, without.vertebrae, strict=True):
        assert a.heights_mm.as_tuple() == pytest.approx(b.heights_mm.as_tuple(), abs=0.3)
