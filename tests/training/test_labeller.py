"""The labeller's and the detector's networks, what they are taught, and that training and use see the same views."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from inference.findings import Level  # noqa: E402
from inference.labelling import LEVELS  # noqa: E402
from onnx_models.training.detector_network import Detector  # noqa: E402
from onnx_models.training.detector_task import at_six_mm  # noqa: E402
from onnx_models.training.evaluation_groups import NO_ANCHOR  # noqa: E402
from onnx_models.training.labeller_data import _blurred, draw_window, evidence_of  # noqa: E402
from onnx_models.training.labeller_evaluation import Judged, figures, reliability  # noqa: E402
from onnx_models.training.labeller_network import NAMES, Btrfly, TwoView  # noqa: E402
from onnx_models.training.labeller_scenes import Scene, make_scene, named_centres  # noqa: E402
from onnx_models.training.labeller_task import heat_maps, loss_of  # noqa: E402
from onnx_models.training.localizer_data import Crop  # noqa: E402
from onnx_models.training.phantom import sample_patient  # noqa: E402

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(3)


def test_a_scene_names_the_whole_spine_head_to_feet(scene: Scene) -> None:
    names = [LEVELS[i] for i in scene.level]
    assert names[:3] == [Level.C1, Level.C2, Level.C3]
    assert names[-1] == Level.S1
    assert list(scene.level) == sorted(scene.level)
    assert np.all(np.diff(scene.row) > 3)
    rows = np.rint(scene.row[3:]).astype(int)
    inside = np.array([float(scene.hu[r, 38:42, 32:36].mean()) for r in rows])
    assert (inside > 0).mean() > 0.9  # bone on the line, not lung


def test_centres_are_those_of_the_patient() -> None:
    patient = sample_patient(np.random.default_rng(4))
    names, centres = named_centres(patient)
    assert np.all(np.diff(centres[:, 2]) < 0)
    assert np.allclose(centres[2:], [v.centroid_lps_mm for v in patient.vertebrae])
    assert names[2:] == [v.level for v in patient.vertebrae]


def test_windows_teach_what_lies_there(scene: Scene) -> None:
    rng = np.random.default_rng(8)
    for rows in (36, 120, 300):
        window = draw_window(scene, rows, rng)
        assert window.views.shape == (4, rows, 60)
        assert window.views.min() >= -1.67
        assert np.all((window.centre >= 0) & (window.centre <= 1))
        near = window.weight > 0.5
        if near.any():
            assert np.all(np.diff(window.level[near]) >= 0)
            expected = np.array([evidence_of(int(i)) for i in window.level[near]]).T
            assert np.array_equal(window.evidence[:, near], expected)


def test_signs_of_each_name() -> None:
    seen = {name: evidence_of(LEVELS.index(name)) for name in (Level.C2, Level.T13, Level.L6, Level.S1)}
    assert seen == {Level.C2: (0, 0, 1), Level.T13: (1, 0, 0), Level.L6: (0, 0, 0), Level.S1: (0, 1, 0)}


def test_what_is_seen_comes_from_near_by_and_the_name_from_afar() -> None:
    torch.manual_seed(0)
    network = TwoView((4, 6, 8), 16).eval()
    views = torch.randn(1, 4, 200, 60)
    other = views.clone()
    other[:, :, 140:] += 1.0
    with torch.no_grad():
        one, two = network(views), network(other)
    assert torch.equal(one[0][:, :120], two[0][:, :120])
    assert torch.equal(one[2][:, :, :120], two[2][:, :, :120])
    assert not torch.equal(one[1][:, :, :120], two[1][:, :, :120])


def test_both_labellers_learn_from_a_window(scene: Scene) -> None:
    window = draw_window(scene, 72, np.random.default_rng(2))
    batch = type(window)(*(np.stack([part, part]) for part in window))
    network = TwoView((4, 6, 8), 16)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss, _ = loss_of(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    maps = Btrfly((4, 6, 8))(torch.from_numpy(batch.views))
    targets = heat_maps(batch, 72)
    assert [m.shape for m in maps] == [t.shape for t in targets] == [(2, NAMES + 1, 72, 60)] * 2
    assert all(float(t.min()) >= 0 and float(t.max()) <= 1 for t in targets)


def test_the_ridge_lies_on_the_curve_and_nowhere_else() -> None:
    centre = np.zeros((1, 16, 2), np.float32) + np.array([20.5, 12.5], np.float32)
    presence = np.ones((1, 16), np.float32)
    presence[0, 8:12] = 0
    presence[0, 12:] = -1
    volume = np.random.default_rng(0).normal(size=(1, 1, 16, 48, 48)).astype(np.float32)
    made, ridge, weight = at_six_mm(Crop(volume, centre, presence > 0, presence))
    assert made.shape == ridge.shape == (1, 1, 8, 24, 24)
    assert np.unravel_index(int(ridge[0, 0, 0].argmax()), (24, 24)) == (10, 6)
    assert float(ridge[0, 0, 4:].max()) == 0
    assert weight[0, 0, :, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert Detector((4, 6, 8))(made).shape == ridge.shape


def test_reshaped_windows_keep_their_centres_and_names(scene: Scene) -> None:
    """Ribs hang and widths change; the offsets follow, rows do not."""
    offsets = []
    for seed in range(12):
        window = draw_window(scene, 120, np.random.default_rng(seed))
        at = np.flatnonzero(window.weight > 0.985)
        inside = [
            float(window.views[1, r, int(np.clip(round(36 + o / 2), 4, 55)) - 3 :][:6].mean())
            for r, o in zip(at, window.offset_mm[1, at], strict=True)
            if scene.level[-1] != window.level[r]
        ]
        offsets += inside
    assert np.mean(np.array(offsets) > -0.8) > 0.95  # bone or soft tissue, not lung or air


def test_the_blur_keeps_the_sum_and_widens() -> None:
    bead = np.zeros((21, 5, 5), np.float32)
    bead[10, 2, 2] = 100.0
    for sigma in (0.4, 0.9, 1.3):
        made = _blurred(bead, 0, sigma)
        profile = made[:, 2, 2]
        assert float(made.sum()) == pytest.approx(100.0, rel=1e-5)
        variance = float((profile * (np.arange(21) - 10.0) ** 2).sum() / profile.sum())
        assert variance == pytest.approx(sigma**2, rel=1e-3)


def judged(group: str, confidences: tuple[float, ...], correct: tuple[bool, ...], anchor: str | None) -> Judged:
    return Judged(group, True, 4, 4, sum(correct), confidences, correct, anchor)


def test_figures_count_sure_names_apart() -> None:
    right = judged("ordinary", (0.95, 0.92, 0.8, 0.8), (True, True, True, False), "sacrum")
    silent = judged(NO_ANCHOR, (), (), None)
    made = figures([right, silent])
    assert made["ordinary"]["sure_right"] == [1.0, 1.0, 1.0]
    assert made["ordinary"]["sure_names"] == 2
    assert made["ordinary"]["identified"][0] == pytest.approx(0.75)
    assert made["ordinary"]["views_any_wrong"] == 1.0
    assert made[NO_ANCHOR]["abstained"] == 1.0
    assert made[NO_ANCHOR]["names_right"] is None
    assert made["phantoms with an anchor"]["views"] == 1


def test_reliability_compares_confidence_with_truth() -> None:
    made = reliability([judged("ordinary", (0.95, 0.95, 0.6, 0.6), (True, True, True, False), "sacrum")])
    assert [one["names"] for one in made["bins"]] == [2, 2]
    assert [one["right"] for one in made["bins"]] == [0.5, 1.0]
    assert made["expected_calibration_error"] == pytest.approx(0.5 * 0.1 + 0.5 * 0.05, abs=1e-3)
    assert reliability([])["bins"] == []
