"""A wide network that begins as a narrow one."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")

from safetensors.torch import save_file  # noqa: E402

from onnx_models.training.radiograph_network import UNet, WholeFilmNetwork  # noqa: E402
from onnx_models.training.radiograph_task import WIDE, WholeFilmTask  # noqa: E402
from onnx_models.training.radiograph_widening import widened, widths_of  # noqa: E402
from onnx_models.training.train import Training  # noqa: E402

pytestmark = pytest.mark.training
NARROW, BROAD = (4, 5, 6, 7, 8, 9), (8, 10, 12, 16, 16, 32)


def trained_like(network: torch.nn.Module) -> torch.nn.Module:
    """Statistics and coarse weights as after some steps: at their begin they would hide mistakes."""
    torch.manual_seed(2)
    for name, value in network.state_dict().items():
        if "running_mean" in name or "coarse" in name:
            value.normal_()
        elif "running_var" in name:
            value.uniform_(0.5, 2)
    return network.eval()


def told(network: torch.nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(3)
    with torch.no_grad():
        return list(network(torch.rand(2, 1, 64, 96)))


@pytest.mark.parametrize("fresh", [0.0, 1e-3])
def test_a_widened_network_says_what_the_narrow_one_did(fresh: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_models.training.radiograph_widening.FRESH", fresh)
    torch.manual_seed(1)
    narrow, wide = trained_like(WholeFilmNetwork(NARROW)), WholeFilmNetwork(BROAD).eval()
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    wide.load_state_dict(widened(narrow.state_dict(), wide))
    for a, b in zip(told(narrow), told(wide), strict=True):
        assert torch.allclose(a, b, atol=1e-5 + 20 * fresh)
    assert torch.equal(wide.state_dict()["down.2.0.0.weight"][6:], before["down.2.0.0.weight"][6:])  # still at random


def test_widths_are_read_from_weights() -> None:
    assert widths_of(WholeFilmNetwork(NARROW).state_dict()) == NARROW


def test_weights_of_another_network_are_refused() -> None:
    wide = WholeFilmNetwork(BROAD)
    with pytest.raises(ValueError, match="does not fit"):
        widened(wide.state_dict(), WholeFilmNetwork(NARROW))
    with pytest.raises(ValueError, match="another network"):
        widened(UNet(4).state_dict(), wide)


def test_the_training_begins_with_narrow_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    narrow = trained_like(WholeFilmNetwork())
    save_file(narrow.state_dict(), tmp_path / "narrow.safetensors")
    training = Training(WholeFilmTask(tmp_path), tmp_path)
    training.start_from(tmp_path / "narrow.safetensors")
    assert widths_of(training.network.state_dict()) == widths_of(training.averaged.state_dict()) == WIDE
    for a, b in zip(told(narrow), told(training.averaged.eval()), strict=True):
        assert float((a - b).abs().mean()) < 0.1
