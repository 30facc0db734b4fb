"""Shape completion: samples, losses, export and the figures of its evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from inference.abnormality import BODY_SHAPE, CONTEXT_SHAPE, Body, score_bodies  # noqa: E402
from inference.findings import Level  # noqa: E402
from inference.geometry import Volume  # noqa: E402
from inference.masks import VertebraMasks  # noqa: E402
from inference.runtime import Models, load_models  # noqa: E402
from onnx_models.training import completion_scans  # noqa: E402
from onnx_models.training.completion_card import BEGIN, COLUMNS, END, written  # noqa: E402
from onnx_models.training.completion_cases import crushed, drawn, phantom_case, phantom_shapes  # noqa: E402
from onnx_models.training.completion_data import (  # noqa: E402
    ABSENT,
    FRACTURED,
    SACRUM,
    SOUND,
    Samples,
    batch,
    prepare,
    presence,
    sunk,
)
from onnx_models.training.completion_evaluation import Record, auc, figures, full_surplus, specificity_at  # noqa: E402
from onnx_models.training.completion_network import CompletionNetwork  # noqa: E402
from onnx_models.training.completion_task import critic_loss, export_network, judged, loss_of  # noqa: E402
from onnx_models.training.phantom import EVALUATION, TRAINING, Plan  # noqa: E402
from onnx_models.training.phantom.spine import build_column  # noqa: E402

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("completion")
    prepare(folder, 6, seed=5, per_patient=3)
    return Samples.load(folder)


def _network() -> CompletionNetwork:
    torch.manual_seed(1)
    return CompletionNetwork(width=8, latent=8, critic_width=4)


def test_samples_have_a_healthy_body_in_the_middle_between_its_neighbours(samples: Samples) -> None:
    assert samples.context.shape == (6, 4, *CONTEXT_SHAPE)
    for context, body, state in zip(samples.context, samples.body, samples.state, strict=True):
        inside = np.argwhere(body <= 0)
        np.testing.assert_allclose(inside.mean(axis=0), (np.array(BODY_SHAPE) - 1) / 2, atol=4)
        assert 0.0 < len(inside) < 0.5 * body.size
        assert inside.min() > 0  # whole: no voxel of the body at the edge
        heads = [np.argwhere(c <= 0)[:, 0].mean() for c, s in zip(context, state, strict=True) if s != ABSENT]
        assert heads == sorted(heads)


def test_neighbours_sink_towards_the_body_that_stays() -> None:
    rng = np.random.default_rng(3)
    column = build_column(rng, TRAINING, Plan(deformities={}))
    i = column.levels.index("L1")
    table = sunk(rng, column, i)
    np.testing.assert_array_equal(table[i], column.table[i])
    before, after = (np.linalg.norm(t[i - 1, :3] - t[i + 1, :3]) for t in (column.table, table))
    assert after < before


def test_missing_and_fractured_neighbours_are_drawn_and_one_always_stays() -> None:
    rng = np.random.default_rng(4)
    drawn_ones = np.array([presence(rng, np.array([SOUND, FRACTURED, SACRUM, ABSENT], np.int8)) for _ in range(300)])
    assert set(np.unique(drawn_ones[:, 1])) == {-1.0, 0.0, 1.0}
    assert not drawn_ones[:, 3].any()
    assert drawn_ones.any(axis=1).all()


def test_loss_teaches_every_part_and_the_critic_only_from_its_own(samples: Samples) -> None:
    network = _network()
    made = batch(samples, np.random.default_rng(1), 2)
    assert made.context.shape == (2, 4, *CONTEXT_SHAPE)
    loss, parts = loss_of(network, made, realism=0.01)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.detail.parameters())
    assert set(parts) == {"coarse", "refined", "dice", "critic", "penalty", "opinion"}
    found = [p.grad.clone() for p in network.critic.parameters() if p.grad is not None]
    network.zero_grad()
    context, body = torch.from_numpy(made.context), torch.from_numpy(made.body)
    torch.manual_seed(9)
    imagined = torch.sigmoid(network(context)[1]).detach()
    distance, _ = critic_loss(network.critic, context, body, imagined)
    distance.backward()
    assert all(p.grad is None for p in network.coarse.parameters())
    assert len(found) == len(list(network.critic.parameters()))


def test_a_few_steps_learn_and_are_judged(samples: Samples) -> None:
    network = _network()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    losses = []
    for step in range(12):
        loss, _ = loss_of(network, batch(samples, np.random.default_rng(step), 2), realism=0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert set(judged(network, samples, size=3)) == {"coarse_dice", "refined_dice", "surplus"}


def test_export_runs_in_the_score(tmp_path: Path) -> None:
    exported = export_network(_network(), {"steps": 0, "seed": 1, "begun_from": None}, tmp_path)
    assert exported.parity < 2e-5
    models = load_models(tmp_path, "cpu", threads=1, names=["completion"])
    case = phantom_case(3, 0)
    found = score_bodies(case.labels, case.parts, case.affine, case.bodies, models, chosen=[10])
    assert found[10].expected is not None
    assert found[10].expected.occupancy.shape == BODY_SHAPE
    assert found[10].neighbours == 4
    assert found[9].score is None


def test_cases_are_what_they_say() -> None:
    plain, rough, again = (phantom_case(3, 1, degraded=d) for d in (False, True, False))
    np.testing.assert_array_equal(plain.labels, again.labels)
    assert plain.labels.shape == rough.labels.shape
    assert (plain.labels != rough.labels).any()
    assert [b.fractured for b in plain.bodies] == [bool(x >= 0.2) for x in plain.loss]
    assert isinstance(plain.bodies[0], Body)


def test_a_crushed_shape_has_lost_so_much_of_its_height() -> None:
    shapes = phantom_shapes(np.random.default_rng(2), EVALUATION, Plan(deformities={}))
    shape = next(s for s in shapes if s.level == "L2")

    def volume(one: object) -> int:
        case = drawn([one], np.random.default_rng(0), (1.0, 1.0, 1.0))  # type: ignore[list-item]
        return int((case.parts == 1).sum())

    assert volume(crushed(shape, 0.4, wedge=False)) / volume(shape) == pytest.approx(0.6, abs=0.03)
    assert 0.7 < volume(crushed(shape, 0.4, wedge=True)) / volume(shape) < 0.9


def test_auc_and_specificity_by_hand() -> None:
    assert auc([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert auc([1.0, 2.0], [1.0, 2.0]) == 0.5
    assert np.isnan(auc([], [1.0]))
    positive = list(range(1, 11))
    assert specificity_at(positive, [0.5, 1.5, 2.5, 3.5]) == 0.5


def test_the_scale_of_the_score_is_where_severe_ones_have_the_published_mean() -> None:
    assert full_surplus([0.15, 0.15]) == pytest.approx(0.20)  # 100 * .15 / .20 is 75
    assert full_surplus([0.20, 0.60]) == pytest.approx(0.40)  # one is beyond all bounds: (50 + 100) / 2
    assert full_surplus([0.0, 0.0]) == pytest.approx(0.10)


def test_figures_have_intervals_over_patients() -> None:
    rng = np.random.default_rng(1)
    records = [
        Record(case, "L1", loss, 0, 0.0, float(100 * loss + rng.normal(0, 3)))
        for case in range(12)
        for loss in (0.0, 0.0, 0.22, 0.3, 0.5)
    ]
    found = figures(records, rounds=50)
    assert found["vertebrae"] == 60
    assert found["patients"] == 12
    assert (found["n_normal"], found["n_mild"], found["n_moderate"], found["n_severe"]) == (24, 12, 12, 12)
    value, low, high = found["auc"]
    assert 0.9 < low <= value <= high <= 1.0
    assert found["mean_severe"][0] == pytest.approx(50, abs=3)


def test_a_scan_becomes_a_case_of_its_masks_and_its_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((8, 6, 5), np.uint8)
    labels[1:3], labels[4:6] = 1, 2
    masks = VertebraMasks(labels, labels.clip(0, 1), np.ones((2, 2)), np.array([True, False]), np.ones(2))
    monkeypatch.setattr(completion_scans, "segment", lambda *_: masks)
    volume = Volume(np.zeros(labels.shape, np.int16), np.diag([-2.0, 1.0, 1.0, 1.0]))
    made = completion_scans.Scan(volume, (Level.T12, Level.L1), np.zeros((2, 3)), np.array([0.0, 0.3]))
    completion_scans._write(tmp_path / "5-0001.npz", made)
    scan = completion_scans.scan_of(5, 1, cache=tmp_path)
    assert scan.levels == made.levels
    case = completion_scans.segmented(scan, Models({}, (), "cpu"))
    assert case.bodies == (Body(1, Level.T12, False, True), Body(2, Level.L1, True, False))
    assert (case.labels == labels).all()
    assert case.loss.tolist() == [0.0, 0.3]


def test_figures_stand_in_the_card_where_the_command_puts_them() -> None:
    group = {key: [0.5, 0.4, 0.6] for key in COLUMNS.values()}
    group |= {"vertebrae": 9, "n_normal": 5, "n_mild": 1, "n_moderate": 1, "n_severe": 2}
    group["mean_mild"] = [float("nan")] * 3
    told = {
        "fractured_neighbours_are": "told",
        "phantoms_segmented": group,
        "phantoms_segmented_by_fractured_neighbours": {"0": group},
        "real_ct": [{"level": "L1", "score": 2.04}, {"level": "T11", "score": None}],
        "real_shapes": [{"change": "as it is", "score": 1.0}, {"change": "as it is", "score": 3.0}],
    }
    card = written(f"before\n{BEGIN}\nold\n{END}\nafter\n", told, {"completion": "ef" * 32}, "the command")
    assert card.startswith("before\n") and card.endswith("\nafter\n") and "old" not in card
    assert "| **masks of the shipped segmenter** | 9 (5, 1, 1, 2) | 0.500 (0.400 to 0.600) |" in card
    assert "| no fractured neighbour | 9 (5, 1, 1, 2) |" in card and " | none | " in card
    assert "* silver masks: L1 2.0, T11 none" in card
    assert "| as it is | 2 | 2.0 (1.0 to 3.0) |" in card
