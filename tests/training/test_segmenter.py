"""The segmenter's truth, patches, network and loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from inference.masks_patch import CENTRE, SHAPE, heat_map  # noqa: E402
from onnx_models.training import segmenter_shapes  # noqa: E402
from onnx_models.training.metrics import dice_of, surface_distance  # noqa: E402
from onnx_models.training.phantom import Patient, sample_patient  # noqa: E402
from onnx_models.training.segmenter_card import BEGIN, COLUMNS, END, REAL_COLUMNS, written  # noqa: E402
from onnx_models.training.segmenter_cases import _write, misplaced, patch_case, phantom_cases  # noqa: E402
from onnx_models.training.segmenter_data import MARGIN, WIDE, Patch, phantom_patch, read, wide_points, write  # noqa: E402
from onnx_models.training.segmenter_evaluation import Figure, limits, summary  # noqa: E402
from onnx_models.training.segmenter_network import SegmenterNetwork  # noqa: E402
from onnx_models.training.segmenter_task import PatchSource, _scaled, cropped, loss_of, varied  # noqa: E402


@pytest.fixture(scope="module")
def patient() -> Patient:
    return sample_patient(np.random.default_rng(31))


def _lumbar(patient: Patient) -> int:
    return 1 + [v.level for v in patient.vertebrae].index("L2")


def test_parts_agree_with_the_labels_of_bodies_and_surround_the_canal(patient: Patient) -> None:
    v = patient.vertebrae[_lumbar(patient) - 1]
    left, back = v.frame[0], v.frame[1]
    behind = v.centroid_lps_mm + back * (0.5 * v.depth_mm + 8)
    arch = v.centroid_lps_mm + back * (0.5 * v.depth_mm + 4) + left * 0.56 * 0.5 * v.width_mm + 0.16 * 24 * v.frame[2]
    vertebra, part = patient.part(np.stack([v.centroid_lps_mm, behind, arch, v.centroid_lps_mm + 300 * left]))
    assert vertebra.tolist() == [_lumbar(patient), 0, _lumbar(patient), 0]
    assert part.tolist() == [1, 0, 2, 0]
    points = wide_points(v.centroid_lps_mm)[::2, ::2, ::2].reshape(-1, 3)
    vertebra, part = patient.part(points)
    label = patient.label(points)
    inside = label > 0
    assert (vertebra[inside] == label[inside]).all()
    assert (part[inside] == 1).all()
    assert (part == 2).any()


def test_distances_and_parts_say_the_same(patient: Patient) -> None:
    n = _lumbar(patient)
    points = wide_points(patient.vertebrae[n - 1].centroid_lps_mm)[::3, ::3, ::3].reshape(-1, 3)
    body, posterior, others = patient.part_distances(points, n).T
    vertebra, part = patient.part(points)
    assert ((body <= 0) == ((vertebra == n) & (part == 1)))[others > 0].all()
    assert (np.minimum(body, posterior)[vertebra == n] <= 0).all()
    assert (others[(vertebra > 0) & (vertebra != n)] <= 0).all()


def test_a_patch_is_the_same_for_the_same_seed_and_its_truth_has_the_volume_of_the_shape(
    patient: Patient, tmp_path: Path
) -> None:
    n = _lumbar(patient)
    one, two = (phantom_patch(np.random.default_rng(5), patient, n, spacing_mm=(2.5, 1.5, 1.5)) for _ in range(2))
    assert one.hu.shape == WIDE
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    centre = patient.vertebrae[n - 1].centroid_lps_mm
    points = np.random.default_rng(2).uniform(-50, 50, (200_000, 3)) * [0.8, 0.8, 0.6] + centre
    exact = (patient.label(points) == n).mean() * 80 * 80 * 60 / 1000
    assert one.body.sum() / 255 * 8 / 1000 == pytest.approx(exact, rel=0.04)
    assert one.posterior.sum() / 255 * 8 / 1000 > 2
    write(tmp_path / "phantom_00000.npz", [one, two])
    assert all((a == b).all() for a, b in zip(read([tmp_path / "phantom_00000.npz"])[0], one, strict=True))


def _patch() -> Patch:
    hu = np.full(WIDE, 50, np.int16)
    body = np.zeros(WIDE, np.uint8)
    body[15:26, 12:28, 18:36] = 255
    posterior = np.zeros(WIDE, np.uint8)
    posterior[16:22, 34:42, 16:22] = 255
    hu[body > 0] = 300
    return Patch(hu, body, posterior)


def test_a_crop_moves_image_and_truth_together() -> None:
    image, truth = cropped(_patch(), np.array([0, 0, 0]))
    moved, moved_truth = cropped(_patch(), np.array([2, -1, 0]))
    assert image.shape == SHAPE
    assert (moved[:-2, 1:] == image[2:, :-1]).all()
    assert (moved_truth[:, :-2, 1:] == truth[:, 2:, :-1]).all()
    assert np.allclose(truth.sum(axis=0), 1)
    assert image[:, :, :].max() == 300
    assert MARGIN >= 2


def test_a_varied_patch_is_reproducible_and_keeps_truth_a_partition() -> None:
    for seed in range(12):
        image, truth = varied(np.random.default_rng(seed), _patch())
        again, _ = varied(np.random.default_rng(seed), _patch())
        assert (image == again).all()
        assert np.allclose(truth.sum(axis=0), 1)
        assert (image[1] == heat_map()).all()
    edges = [varied(np.random.default_rng(s), _patch())[0][0, [0, -1]] for s in range(40)]
    assert any((end == end.min()).all() and end.min() < -1.7 for e in edges for end in e), "some are cut by the edge"


def test_batches_hold_both_sources_and_new_files_are_taken_in(tmp_path: Path) -> None:
    source = PatchSource(tmp_path)
    with pytest.raises(FileNotFoundError, match="no patches"):
        source.batch(np.random.default_rng(1), 1)
    write(tmp_path / "phantom_00000.npz", [_patch()])
    write(tmp_path / "shapes_00000.npz", [_patch()])
    source.reload()
    image, truth = source.batch(np.random.default_rng(1), 2)
    assert image.shape == (4, 2, *SHAPE)
    assert truth.shape == (4, 3, *SHAPE)
    source.reload()
    assert {k: len(v) for k, v in source.patches.items()} == {"phantom": 1, "shapes": 1}


def test_the_loss_falls_towards_the_truth_and_wrong_volumes_cost_alike_both_ways() -> None:
    _, truth = cropped(_patch(), np.zeros(3, int))
    target = torch.from_numpy(truth)[None]
    right = loss_of(8 * target, target)[0]
    more, less = truth.copy(), truth.copy()
    more[0, 6:11, 8:24, 14:32], more[1, 6:11, 8:24, 14:32] = 0, 1
    less[0, 11:16, 8:24, 14:32], less[1, 11:16, 8:24, 14:32] = 1, 0
    wrong = [loss_of(8 * torch.from_numpy(x)[None], target) for x in (more, less)]
    assert all(float(loss) > 5 * float(right) for loss, _ in wrong)
    assert all(parts["volume"] > 0.3 for _, parts in wrong)


def test_a_patch_of_another_size_keeps_its_centroid_and_its_greys() -> None:
    patch = _patch()
    _, truth = cropped(patch, np.zeros(3, int))
    sizes = []
    for seed in range(12):
        image, scaled = _scaled(np.random.default_rng(seed), patch, np.zeros(3, int))
        assert np.allclose(scaled.sum(axis=0), 1, atol=1e-5)
        assert image.min() >= patch.hu.min()
        assert image.max() <= patch.hu.max()
        body = scaled[1] > 0.5
        middle = np.argwhere(truth[1] > 0.5).mean(axis=0) - CENTRE
        factor = body.sum() / (truth[1] > 0.5).sum()
        assert np.allclose(np.argwhere(body).mean(axis=0) - CENTRE, middle * np.cbrt(factor), atol=0.8)
        sizes.append(factor)
    assert min(sizes) < 0.85
    assert max(sizes) > 1.4


def test_the_network_gives_probabilities_and_learns_one_patch() -> None:
    torch.manual_seed(1)
    network = SegmenterNetwork()
    image, truth = (
        torch.from_numpy(np.ascontiguousarray(a)[None, :, :24, :32, 8:40])
        for a in varied(np.random.default_rng(3), _patch())
    )
    p = network(image)
    assert p.shape == truth.shape
    assert torch.allclose(p.sum(dim=1), torch.ones(1), atol=1e-5)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    first = None
    for _ in range(18):
        loss = loss_of(network.logits(image), truth)[0]
        first = float(loss.detach()) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.6 * first


@pytest.mark.real_data
def test_real_shapes_have_a_body_and_an_arch_and_the_held_out_ones_are_not_trained_on(
    real_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(segmenter_shapes, "CACHE", tmp_path / "label_map.npz")
    monkeypatch.setenv("SPINE_NODE_REAL_DATA", str(real_data))
    segmenter_shapes.shapes.cache_clear()
    s = segmenter_shapes.shapes()
    assert sorted(s.centroids) == [7, 8, 10, 11, *range(13, 25)]
    for number in s.centroids:
        own = s.labels == number
        assert 0.3 < (own & s.body).sum() / own.sum() < 0.75
    patch = segmenter_shapes.shape_patch(np.random.default_rng(2), 21)
    middle = np.argwhere(patch.body > 127).mean(axis=0)
    arch = np.argwhere(patch.posterior > 127).mean(axis=0)
    assert np.abs(middle - [20, 19, 27.5]).max() < 2.5
    assert arch[1] > middle[1] + 6
    segmenter_shapes.shapes.cache_clear()


def test_figures_of_two_masks_are_what_geometry_says() -> None:
    a = np.zeros((30, 30, 30), bool)
    a[8:20, 8:20, 8:20] = True
    b = np.roll(a, 2, axis=0)
    assert dice_of(a, b) == pytest.approx(10 / 12)
    assert surface_distance(a, a, (1.0, 1.0, 1.0)) == 0
    apart, stretched = surface_distance(a, b, (1.0, 1.0, 1.0)), surface_distance(a, b, (2.0, 1.0, 1.0))
    assert 0.3 < apart < 2
    assert stretched > apart
    assert np.isnan(surface_distance(a, np.zeros_like(a), (1.0, 1.0, 1.0)))


def test_summaries_have_intervals_over_patients() -> None:
    figures = [
        Figure(n // 3, "L1", 0.9 + 0.001 * n, 0.9, 0.9, 0.5, 1.02, 0.9 if n % 3 else 1.04, 1.0, 1.0) for n in range(12)
    ]
    found = summary(figures, rounds=50)
    assert (found["vertebrae"], found["groups"]) == (12, 4)
    value, low, high = found["dice"]
    assert low <= value <= high
    assert value == pytest.approx(0.9055)
    assert found["body_volume_error"][0] == pytest.approx((0.04 + 0.1 + 0.1) / 3, abs=1e-4)
    assert found["body_within_5_percent"][0] == pytest.approx(1 / 3, abs=1e-4)
    assert summary(figures[:3])["volume_error"] == pytest.approx(0.02)


def test_cases_are_kept_as_they_were_made(tmp_path: Path) -> None:
    patch = _patch()
    case = patch_case(patch, 4, "L2")
    assert case.body_ml == pytest.approx(patch.body.sum() / 255 * 0.008)
    _write(tmp_path / "80000000.npz", [case])
    (again,) = phantom_cases(1, cache=tmp_path)
    assert (again.group, again.level, again.vertebra_ml) == (4, "L2", case.vertebra_ml)
    assert (again.volume.hu == case.volume.hu).all()
    assert (again.vertebra == case.vertebra).all()
    assert (again.body == case.body).all()
    moved = [np.linalg.norm(misplaced(case, seed).centre - case.centre) for seed in range(200)]
    assert np.sqrt(np.mean(np.square(moved))) == pytest.approx(4.0, abs=0.4)


def test_the_patch_holds_nearly_all_of_an_exact_shape() -> None:
    found = limits([patch_case(_patch(), 0, "L2")])
    assert found["dice"] > 0.98
    assert found["outside"] == 0
    far = patch_case(_patch())
    assert limits([far._replace(centre=far.centre + np.array([90.0, 0.0, 0.0]))])["outside"] > 0.3


def test_figures_stand_in_the_card_where_the_command_puts_them() -> None:
    groups = {key: [0.9, 0.8, 0.95] for key in COLUMNS.values()}
    one = dict.fromkeys(REAL_COLUMNS.values(), 0.9)
    told = {
        "phantoms": {"vertebrae": 3, **groups},
        "limits of the patch": {"dice": 0.97, "dice_p5": 0.95, "outside": 0.001},
        "worst phantoms": [{"level": "T3", "dice": 0.7}],
        "real L1": one,
        "real L1, centroids off by 4 mm": {"vertebrae": 2, **groups},
    }
    card = written(f"before\n{BEGIN}\nold\n{END}\nafter\n", told, "ab" * 32, "the command")
    assert card.startswith("before\n") and card.endswith("\nafter\n") and "old" not in card
    assert "`the command`; model `abababababab`" in card
    assert "| phantoms | 3 | 0.900 (0.800 to 0.950) |" in card
    assert "| L1 | 0.900 (0.900) |" in card and "T3 0.70" in card
    with pytest.raises(ValueError, match="markers"):
        written("a card without them", told, "ab" * 32, "the command")
