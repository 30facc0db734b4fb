"""The whole CT pipeline on spines of blocks: names, masks, score and density of the same vertebrae."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_spine import (
    FINE,
    ToySession,
    axial_affine,
    blocks_along,
    completion,
    keypoints,
    labeller,
    localizer,
    models,
    render,
    segmenter,
)

from inference import masks_patch
from inference.abnormality import AbnormalitySettings
from inference.ct import CtAnswer, CtSettings, evaluate, frame_of
from inference.findings import KEYPOINTS, Acquisition, Grade, Level, Quality
from inference.geometry import Volume
from inference.masks import BODY, POSTERIOR
from inference.refusal import RefusalCode
from inference.runtime import Models

SPACING = (2.0, 2.0, 2.0)
SHAPE = (130, 80, 56)
LEVELS = [Level.T11, Level.T12, Level.L1, Level.L2, Level.L3]
SETTINGS = CtSettings(screening=FINE, abnormality=AbnormalitySettings(normal_surplus={}, smallest_ml=1.0))


def spine(heights: list[float], spacing=SPACING, shape=SHAPE) -> tuple[Volume, list]:
    blocks = blocks_along(lambda z: 0.0, lambda z: -15.0, heights, top=75.0)
    return render(blocks, axial_affine(shape, spacing), shape), blocks


def known(volume: Volume, blocks: list, levels: list[Level], **changed: ToySession) -> Models:
    line = localizer(volume, blocks)
    networks = {
        "labeller": labeller(volume, blocks, levels, line),
        "segmenter": segmenter(),
        "completion": completion(),
    }
    return models(volume, blocks, **(networks | changed))


def answered(heights: list[float], levels: list[Level], settings: CtSettings = SETTINGS, **more) -> CtAnswer:
    volume, blocks = spine(heights)
    return evaluate(volume, known(volume, blocks, levels), settings, age_years=70, **more)


@pytest.fixture(scope="module")
def healthy() -> CtAnswer:
    return answered([24.0] * 5, LEVELS, acquisition=Acquisition(120.0, False, "Br38f", False))


def test_points_name_mask_and_score_are_of_one_vertebra(healthy: CtAnswer) -> None:
    found = healthy.findings
    assert [v.level for v in found.vertebrae] == LEVELS
    assert found.numbering is not None and found.numbering.anchor == "last rib" and found.numbering.known
    assert Quality.LEVELS_UNKNOWN not in found.quality
    assert healthy.labels is not None and healthy.parts is not None
    assert healthy.labels.dtype == healthy.parts.dtype == np.uint8
    volume, blocks = spine([24.0] * 5)
    for vertebra, block in zip(found.vertebrae, blocks, strict=True):
        body = np.argwhere((healthy.labels == vertebra.ordinal) & (healthy.parts == BODY))
        assert np.linalg.norm(volume.to_lps(body.mean(axis=0)) - block.centre) < 2.0
        assert vertebra.body_volume_ml == pytest.approx(np.prod(block.size) / 1000, rel=0.15)
        assert vertebra.vertebra_volume_ml > vertebra.body_volume_ml
        assert vertebra.body_volume_ml == pytest.approx(len(body) * np.prod(SPACING) / 1000)
        assert vertebra.vertebra_volume_ml == pytest.approx(
            (healthy.labels == vertebra.ordinal).sum() * np.prod(SPACING) / 1000
        )
        assert vertebra.mask_heights_mm.as_tuple() == pytest.approx((24.0,) * 3, abs=2.5)
        assert vertebra.grade is Grade.NORMAL and Quality.MASK_DISAGREES not in vertebra.quality
        assert vertebra.abnormality_score < 10
        assert vertebra.trabecular_mean_hu == pytest.approx(500, abs=5)
    assert set(np.unique(healthy.parts)) == {0, BODY, POSTERIOR}
    assert list(found.timings_s) == [
        "localize", "straighten", "reformat", "keypoints", "names", "masks", "grade", "score", "density", "pictures",
    ]  # fmt: skip


def test_the_reader_sees_the_masks_where_the_vertebrae_are(healthy: CtAnswer) -> None:
    assert healthy.reformat is not None and healthy.coronal is not None
    shown, expected = healthy.masks_on_reformat, healthy.expected_on_reformat
    assert shown.shape == expected.shape == healthy.reformat.hu.shape
    for vertebra in healthy.findings.vertebrae:
        column, row = healthy.reformat.to_pixel(np.array(vertebra.centroid_lps_mm))
        assert shown[int(row), int(column)] == expected[int(row), int(column)] == vertebra.ordinal
        area = (shown == vertebra.ordinal).sum() * healthy.reformat.spacing_mm**2
        assert area == pytest.approx(24 * 30, rel=0.15)
        x, y = healthy.coronal.to_pixel(np.array(vertebra.centroid_lps_mm))
        assert healthy.coronal.hu[int(y), int(x)] == pytest.approx(500, abs=10)


def test_a_crushed_vertebra_scores_and_has_no_density() -> None:
    found = answered([24, 24, 12, 24, 24], LEVELS).findings
    crushed = found.vertebrae[2]
    assert crushed.level is Level.L1 and crushed.grade is Grade.SEVERE and found.patient.flag is True
    assert crushed.abnormality_score > 60 and crushed.trabecular_mean_hu is None
    assert all(v.abnormality_score < 15 for v in found.vertebrae if v is not crushed)


def test_beside_metal_there_is_neither_grade_nor_score_nor_density() -> None:
    volume, blocks = spine([24.0] * 5)
    index = np.rint(volume.to_index(blocks[2].centre)).astype(int)
    volume.hu[index[0] - 2 : index[0] + 3, index[1] - 2 : index[1] + 3, index[2] - 2 : index[2] + 3] = 3000
    found = evaluate(volume, known(volume, blocks, LEVELS), SETTINGS, age_years=70).findings
    cemented = found.vertebrae[2]
    assert cemented.level is Level.L1 and {Quality.METAL, Quality.FOREIGN_MATERIAL} <= set(cemented.quality)
    assert (cemented.grade, cemented.abnormality_score, cemented.trabecular_mean_hu) == (None, None, None)
    assert all(v.abnormality_score is not None for v in found.vertebrae if v is not cemented)


@pytest.mark.parametrize("height", [24.0, 14.0])
def test_cement_gets_no_grade_also_where_it_is_not_as_dense_as_metal(height: float) -> None:
    """Cement of 1,300 HU is below what counts as metal; most of it lies in vertebrae that broke."""
    volume, blocks = spine([24.0, 24.0, height, 24.0, 24.0])
    index = np.rint(volume.to_index(blocks[2].centre)).astype(int)
    volume.hu[index[0] - 1 : index[0] + 2, index[1] - 2 : index[1] + 3, index[2] - 2 : index[2] + 3] = 1300
    found = evaluate(volume, known(volume, blocks, LEVELS), SETTINGS, age_years=70).findings
    cemented = found.vertebrae[2]
    assert cemented.level is Level.L1 and cemented.heights_mm is not None
    assert Quality.FOREIGN_MATERIAL in cemented.quality and Quality.METAL not in cemented.quality
    assert (cemented.grade, cemented.abnormality_score, cemented.trabecular_mean_hu) == (None, None, None)
    assert found.patient.flag is False
    assert all(v.grade is Grade.NORMAL for v in found.vertebrae if v is not cemented)


def test_what_counts_as_metal_has_no_attenuation_however_dense_its_body_is() -> None:
    """A screw beside the body streaks into it: here everything above 450 HU is called metal."""
    settings = replace(SETTINGS, screening=replace(FINE, metal_hu=450.0))
    found = answered([24.0] * 5, LEVELS, settings).findings
    for v in found.vertebrae:
        assert Quality.METAL in v.quality and Quality.FOREIGN_MATERIAL not in v.quality
        assert (v.grade, v.abnormality_score, v.trabecular_mean_hu) == (None, None, None)
    assert found.patient.flag is None


def test_the_sacrum_is_neither_listed_nor_segmented() -> None:
    levels = [Level.L2, Level.L3, Level.L4, Level.L5, Level.S1]
    volume, blocks = spine([24.0] * 5)
    seen = known(volume, blocks, levels)

    def without_last(inputs):
        answer = keypoints().run(["objectness", "keypoints", "nearby"], inputs)
        answer[0][:, :, int(0.72 * answer[0].shape[2]) :] = 0
        return dict(zip(("objectness", "keypoints", "nearby"), answer, strict=True))

    blind = ToySession(
        {n: (lambda inputs, n=n: without_last(inputs)[n]) for n in ("objectness", "keypoints", "nearby")}
    )
    seen = replace(seen, sessions={**seen.sessions, "keypoints": blind})
    answer = evaluate(volume, seen, SETTINGS, age_years=70)
    assert [v.level for v in answer.findings.vertebrae] == levels[:4]
    assert answer.labels.max() == 4
    assert "sacrum" in answer.findings.numbering.anchor


def test_without_an_anchor_nothing_is_named_and_everything_else_is_there() -> None:
    answer = answered([24.0] * 5, [Level.T5, Level.T6, Level.T7, Level.T8, Level.T9])
    found = answer.findings
    assert [v.name for v in found.vertebrae] == ["V1", "V2", "V3", "V4", "V5"]
    assert Quality.LEVELS_UNKNOWN in found.quality and not found.numbering.known
    assert found.numbering.alternatives[0].startswith("T5 to T9")
    assert all(v.grade is Grade.NORMAL and v.body_volume_ml for v in found.vertebrae)
    assert all(v.trabecular_mean_hu is None for v in found.vertebrae), "only T11 to L5"


def test_expected_bodies_lie_on_the_source_grid_where_asked_for(healthy: CtAnswer) -> None:
    assert healthy.expected_labels is None
    answer = answered([24, 24, 12, 24, 24], LEVELS, with_expected=True)
    assert answer.expected_labels.shape == answer.labels.shape and answer.expected_labels.dtype == np.uint8
    volume, blocks = spine([24, 24, 12, 24, 24])
    for ordinal, block in enumerate(blocks, start=1):
        index = np.argwhere(answer.expected_labels == ordinal)
        assert np.linalg.norm(volume.to_lps(index.mean(axis=0)) - block.centre) < 3.0
        assert len(index) * 8 / 1000 == pytest.approx(36 * 30 * 24 / 1000, rel=0.1)


def test_headers_make_the_density_unsafe() -> None:
    quality = answered([24.0] * 5, LEVELS, acquisition=Acquisition(100.0, True, "Br64", True)).findings.quality
    assert {Quality.KVP_NOT_120, Quality.CONTRAST_AGENT, Quality.SHARP_KERNEL} <= set(quality)
    silent = answered([24.0] * 5, LEVELS).findings.quality
    assert {Quality.KVP_UNKNOWN, Quality.CONTRAST_UNKNOWN, Quality.KERNEL_UNKNOWN} <= set(silent)


def test_slices_of_4_mm_are_named_and_segmented_but_not_measured() -> None:
    shape = (65, 80, 56)
    volume, blocks = spine([24.0] * 5, (4.0, 2.0, 2.0), shape)
    answer = evaluate(volume, known(volume, blocks, LEVELS), SETTINGS, age_years=70)
    found = answer.findings
    assert found.refusal is None and found.patient.flag is None and found.patient.worst_grade is None
    assert [v.level for v in found.vertebrae] == LEVELS
    assert all(v.heights_mm is None and v.grade is None and v.body_volume_ml for v in found.vertebrae)
    assert all(v.quality == (Quality.NO_END_PLATES,) for v in found.vertebrae)
    assert all(v.abnormality_score is None and v.trabecular_mean_hu is None for v in found.vertebrae)
    thicker, blocks = spine([24.0] * 5, (5.5, 2.0, 2.0), (47, 80, 56))
    refused = evaluate(thicker, known(thicker, blocks, LEVELS), SETTINGS).findings.refusal
    assert refused.code is RefusalCode.SLICES_TOO_THICK


def segments_nothing() -> ToySession:
    background = np.zeros((1, 3, *masks_patch.SHAPE), np.float32)
    background[:, 0] = 1.0
    return ToySession({"probability": lambda inputs: background})


def test_what_has_neither_end_plates_nor_a_mask_is_no_vertebra() -> None:
    volume, blocks = spine([24.0] * 5, (4.0, 2.0, 2.0), (65, 80, 56))
    seen = known(volume, blocks, LEVELS, segmenter=segments_nothing())
    answer = evaluate(volume, seen, SETTINGS, age_years=70)
    assert answer.findings.refusal.code is RefusalCode.NO_VERTEBRA_FOUND
    assert answer.findings.vertebrae == () and answer.labels is None


def test_points_without_a_mask_are_flagged() -> None:
    nothing = segments_nothing()
    volume, blocks = spine([24.0] * 5)
    answer = evaluate(volume, known(volume, blocks, LEVELS, segmenter=nothing), SETTINGS, age_years=70)
    assert all(Quality.NO_MASK in v.quality and v.body_volume_ml is None for v in answer.findings.vertebrae)
    assert all(v.heights_mm and v.abnormality_score is None for v in answer.findings.vertebrae)
    assert answer.labels.max() == 0


def test_heights_of_mask_and_points_that_disagree_are_flagged() -> None:
    def taller(inputs):
        out = segmenter().run(["probability"], inputs)[0]
        out[0, 1] = np.maximum(out[0, 1], np.roll(out[0, 1], 4, axis=0))
        out[0, 0] = np.clip(1 - out[0, 1:].sum(axis=0), 0, 1)
        return out

    volume, blocks = spine([24.0] * 5)
    seen = known(volume, blocks, LEVELS, segmenter=ToySession({"probability": taller}))
    found = evaluate(volume, seen, SETTINGS, age_years=70).findings
    assert all(Quality.MASK_DISAGREES in v.quality for v in found.vertebrae[1:])


def test_a_gap_in_the_spine_is_no_neighbourhood() -> None:
    """Blocks two and three places apart: what lies beyond the gap is no first neighbour."""
    calls: list[np.ndarray] = []

    def watched(inputs):
        calls.append(inputs["context"][0].reshape(4, -1).max(axis=1) > 0)
        return completion().run(["expected"], inputs)[0]

    volume, blocks = spine([24.0] * 5)
    for index in np.argwhere(volume.hu > 200):
        if abs(volume.to_lps(index)[2] - blocks[2].centre[2]) < 14:
            volume.hu[tuple(index)] = 40
    there = [blocks[0], blocks[1], blocks[3], blocks[4]]
    levels = [Level.T11, Level.T12, Level.L2, Level.L3]
    seen = known(volume, there, levels, completion=ToySession({"expected": watched}))
    evaluate(volume, seen, SETTINGS, age_years=70)
    assert [c.tolist() for c in calls] == [
        [False, False, True, False],
        [False, True, False, True],
        [True, False, True, False],
        [False, True, False, False],
    ]


def blind_to(unseen: int) -> ToySession:
    """Key points of every block but one, counted from the head."""
    names = ("objectness", "keypoints", "nearby")

    def answer(inputs):
        said = dict(zip(names, keypoints().run(list(names), inputs), strict=True))
        rows = said["objectness"].max(axis=(0, 1, 3)) > 0
        first = np.flatnonzero(rows & ~np.concatenate([[False], rows[:-1]]))
        said["objectness"][:, :, first[unseen] : first[unseen + 1]] = 0
        return said

    return ToySession({name: (lambda inputs, n=name: answer(inputs)[n]) for name in names})


def test_nobody_says_of_a_body_without_end_plates_that_it_is_sound() -> None:
    """Its attenuation is flagged, and no neighbour's shape is judged by its own."""
    calls: list[list[bool]] = []

    def watched(inputs):
        calls.append((inputs["context"][0].reshape(4, -1).max(axis=1) > 0).tolist())
        return completion().run(["expected"], inputs)[0]

    volume, blocks = spine([24.0] * 5)
    seen = known(volume, blocks, LEVELS, keypoints=blind_to(2), completion=ToySession({"expected": watched}))
    found = evaluate(volume, seen, SETTINGS, age_years=70).findings
    unmeasured = found.vertebrae[2]
    assert unmeasured.level is Level.L1 and unmeasured.heights_mm is None
    assert unmeasured.trabecular_mean_hu is not None and unmeasured.abnormality_score is not None
    assert unmeasured.quality == (Quality.NO_END_PLATES, Quality.SHAPE_UNKNOWN)
    assert all(Quality.SHAPE_UNKNOWN not in v.quality for v in found.vertebrae if v is not unmeasured)
    assert calls == [
        [False, False, True, False],
        [False, True, False, True],
        [True, True, True, True],
        [True, False, True, False],
        [False, True, False, False],
    ]


def test_a_likely_sacrum_with_end_plates_is_no_vertebra_to_compare_with() -> None:
    """Its sign is seen, not surely enough to name anything by it."""
    calls: list[list[bool]] = []

    def watched(inputs):
        calls.append((inputs["context"][0].reshape(4, -1).max(axis=1) > 0).tolist())
        return completion().run(["expected"], inputs)[0]

    levels = [Level.L2, Level.L3, Level.L4, Level.L5, Level.S1]
    volume, blocks = spine([24.0, 24.0, 24.0, 24.0, 14.0])
    settings = replace(SETTINGS, numbering=replace(SETTINGS.numbering, seen=0.99))
    seen = known(volume, blocks, levels, completion=ToySession({"expected": watched}))
    found = evaluate(volume, seen, settings, age_years=70).findings
    last = found.vertebrae[-1]
    assert last.name == "V5" and last.heights_mm is not None and Quality.LIKELY_SACRUM in last.quality
    assert (last.grade, last.abnormality_score) == (None, None)
    assert Quality.G_ONLY in found.vertebrae[3].quality and found.patient.flag is False
    assert calls == [
        [False, False, True, True],
        [False, True, True, True],
        [True, True, True, False],
        [True, True, False, False],
    ]


def without_one(missed: int, heights: list[float], disc: float) -> tuple[Volume, list]:
    """A spine of blocks of which one is soft tissue."""
    blocks = blocks_along(lambda z: 0.0, lambda z: -15.0, heights, top=75.0, disc=disc)
    there = [b for n, b in enumerate(blocks) if n != missed]
    return render(there, axial_affine(SHAPE, SPACING), SHAPE), there


def test_where_a_vertebra_was_not_seen_is_told_without_names_too() -> None:
    volume, there = without_one(2, [24.0] * 5, 6.0)
    seen = known(volume, there, [Level.T5, Level.T6, Level.T8, Level.T9])
    found = evaluate(volume, seen, SETTINGS, age_years=70).findings
    assert [v.name for v in found.vertebrae] == ["V1", "V2", "V3", "V4"]
    assert [Quality.GAP_BELOW in v.quality for v in found.vertebrae] == [False, True, False, False]


def test_names_tell_a_gap_that_the_distance_does_not() -> None:
    """L1 and L3 lie 1.5 times the usual distance apart."""
    calls: list[list[bool]] = []

    def watched(inputs):
        calls.append((inputs["context"][0].reshape(4, -1).max(axis=1) > 0).tolist())
        return completion().run(["expected"], inputs)[0]

    volume, there = without_one(2, [24.0, 24.0, 9.0, 24.0, 24.0], 6.0)
    named = [Level.T12, Level.L1, Level.L3, Level.L4]
    seen = known(volume, there, named, completion=ToySession({"expected": watched}))
    settings = replace(SETTINGS, numbering=replace(SETTINGS.numbering, skip=0.3))
    found = evaluate(volume, seen, settings, age_years=70).findings
    assert [v.level for v in found.vertebrae] == named
    assert [Quality.GAP_BELOW in v.quality for v in found.vertebrae] == [False, True, False, False]
    assert calls == [
        [False, False, True, False],
        [False, True, False, True],
        [True, False, True, False],
        [False, True, False, False],
    ]


def test_the_frame_of_six_points_is_that_of_the_block() -> None:
    block = blocks_along(lambda z: 0.2 * z, lambda z: 0.3 * z, [24.0])[0]
    assert frame_of(block.keypoints) == pytest.approx(block.frame, abs=1e-6)


def test_a_network_that_fails_stops_the_analysis() -> None:
    def fail(inputs):
        raise RuntimeError("a broken node")

    volume, blocks = spine([24.0] * 5)
    for name, output in (("labeller", "centre"), ("segmenter", "probability"), ("completion", "expected")):
        seen = known(volume, blocks, LEVELS, **{name: ToySession({output: fail})})
        refusal = evaluate(volume, seen, SETTINGS).findings.refusal
        assert refusal.code is RefusalCode.MODEL_FAILED and name in refusal.detail


def test_networks_follow_from_the_stages() -> None:
    assert CtSettings().networks == ("localizer", "keypoints", "labeller", "segmenter", "completion")
    assert CtSettings(labelling=None, masks=None).networks == ("localizer", "keypoints")
    assert len(KEYPOINTS) == 6
