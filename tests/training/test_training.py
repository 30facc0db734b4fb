"""The training loop: a resumed training goes on where it stopped, and a checkpoint is the right one's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from onnx_models.training.train import Schedule, Training, load_task, main  # noqa: E402

pytestmark = pytest.mark.training


class Line:
    """Learns y = 2 x."""

    name = "line"
    learning_rate = 0.05

    def network(self):
        return torch.nn.Linear(1, 1)

    def step(self, network, rng, progress):
        x = torch.from_numpy(rng.normal(size=(16, 1)).astype(np.float32))
        loss = ((network(x) - 2 * x) ** 2).mean()
        return loss, {"progress": progress}

    def evaluate(self, network):
        return {"weight": float(network.weight)}


def quiet(_: str) -> None:
    """No output in tests."""


def test_learns_and_averages(tmp_path: Path) -> None:
    training = Training(Line(), tmp_path)
    training.run(Schedule(steps=400, warm_up_steps=5, mean_decay=0.9), quiet)
    assert training.averaged.weight.item() == pytest.approx(2.0, abs=0.02)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 400
    assert lines[-1]["rate"] < 0.02 * Line.learning_rate, "the rate has decayed at the end"


def test_resumed_training_gives_the_same_steps(tmp_path: Path) -> None:
    through = Training(Line(), tmp_path / "through")
    schedule = Schedule(steps=30, warm_up_steps=5)
    through.run(schedule, quiet)

    broken = Training(Line(), tmp_path / "broken")
    original = broken.task.step

    def stops(network, rng, progress):
        broken.stopping = broken.step == 11
        return original(network, rng, progress)

    broken.task.step = stops
    broken.run(schedule, quiet)
    assert broken.step == 12

    again = Training(Line(), tmp_path / "broken")
    assert again.resume()
    assert again.step == 12
    again.run(schedule, quiet)
    assert again.step == 30
    assert torch.equal(again.network.weight, through.network.weight)
    assert torch.equal(again.averaged.weight, through.averaged.weight)


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    Training(Line(), tmp_path).save()
    other = Line()
    other.name = "other"
    with pytest.raises(ValueError, match="belongs to the training of line"):
        Training(other, tmp_path).resume()


def test_no_checkpoint_no_resume(tmp_path: Path) -> None:
    assert not Training(Line(), tmp_path).resume()


def test_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    task = Line()
    task.step = lambda network, rng, progress: (network.weight.sum() * float("nan"), {})
    with pytest.raises(FloatingPointError, match="line is nan at step 0"):
        Training(task, tmp_path).run(Schedule(steps=2), quiet)


def test_schedule_takes_the_nearer_bound() -> None:
    schedule = Schedule(minutes=10, steps=100)
    assert schedule.progress(50, 60.0) == 0.5
    assert schedule.progress(10, 480.0) == 0.8
    assert schedule.progress(1000, 0.0) == 1.0
    assert schedule.rate(0, 0.0) == pytest.approx(0.01)
    assert schedule.rate(500, 1.0) == pytest.approx(schedule.smallest_rate)


def test_starts_from_weights(tmp_path: Path) -> None:
    safetensors.save_file(
        {"weight": torch.tensor([[7.0]]), "bias": torch.tensor([1.0])}, str(tmp_path / "line.safetensors")
    )
    training = Training(Line(), tmp_path)
    training.start_from(tmp_path / "line.safetensors")
    assert training.network.weight.item() == training.averaged.weight.item() == 7.0


def test_bfloat16_is_for_the_convolutions_alone(tmp_path: Path) -> None:
    task, kinds = Line(), []
    original = task.step

    def looked_at(network, rng, progress):
        kinds.append(network(torch.ones(1, 1)).dtype)
        return original(network, rng, progress)

    task.step = looked_at
    training = Training(task, tmp_path, bfloat16=True)
    training.run(Schedule(steps=3), quiet)
    assert kinds == [torch.bfloat16] * 3
    assert training.network.weight.dtype == torch.float32
    with pytest.raises(SystemExit):
        main(["localizer", "--bf16", "--steps", "1"])


def test_losses_of_films_are_in_single_precision() -> None:
    from onnx_models.training.radiograph_task import whole_film_loss

    assert load_task("film").bfloat16
    assert load_task("film_mdr2unet").bfloat16
    generator = torch.Generator().manual_seed(3)
    maps, views = torch.randn(2, 5, 64, 64, generator=generator), torch.randn(2, 6, generator=generator)
    truth, known = (torch.rand(2, 5, 64, 64, generator=generator) > 0.9).float(), torch.ones(2, 2, 64, 64)
    told = [
        whole_film_loss(maps.to(kind), views.to(kind), truth, known, torch.tensor([0, 1]))[0]
        for kind in (torch.float32, torch.bfloat16)
    ]
    assert told[1].dtype == torch.float32
    assert told[1].item() == pytest.approx(told[0].item(), rel=2e-3)
