"""Export: what ships answers as PyTorch does, on every shape, and the manifest changes as a whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make train-env")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from onnx_models.training import export as house  # noqa: E402
from onnx_models.training.localizer_network import Localizer  # noqa: E402
from onnx_models.training.localizer_task import export_network  # noqa: E402

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained localizer."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(3)
    network = Localizer().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    result = export_network(network, {"steps": 5, "seed": 3, "begun_from": None}, folder)
    assert result.parity < house.PARITY
    torch.save(network, folder / "network.pt")
    return folder


def test_other_shapes_agree_too(exported: Path) -> None:
    network = torch.load(exported / "network.pt", weights_only=False)
    for shape in ((8, 8, 8), (16, 80, 40), (112, 104, 128)):
        example = (torch.randn(1, 1, *shape),)
        assert house.compare(network, exported / "localizer.onnx", [example]) < house.PARITY


def test_manifest_entry(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["schema"] == "spine-node/models/1"
    (entry,) = manifest["models"]
    assert entry["sha256"] == hashlib.sha256((exported / entry["file"]).read_bytes()).hexdigest()
    assert (exported / entry["weights"]).is_file()
    assert entry["provenance"]["steps"] == 5
    session = house.session_of(exported / "localizer.onnx")
    assert [i.name for i in session.get_inputs()] == list(entry["inputs"])
    assert [o.name for o in session.get_outputs()] == list(entry["outputs"])
    assert session.get_inputs()[0].shape[2] == "8*depth_eighth"


def test_outputs_are_probabilities(exported: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(1, 1, 24, 32, 40)).astype(np.float32)
    centre, peak, presence = house.session_of(exported / "localizer.onnx").run(None, {"volume": volume})
    assert centre.shape == (1, 24, 2)
    assert (centre >= 0).all()
    assert (centre[..., 0] <= 31).all() and (centre[..., 1] <= 39).all()
    for value in (peak, presence):
        assert value.shape == (1, 24)
        assert (value >= 0).all() and (value <= 1.00001).all()


def test_weights_start_another_training(exported: Path) -> None:
    again = Localizer()
    again.load_state_dict(safetensors.load_file(exported / "training/weights/localizer.safetensors"))
    volume = torch.randn(1, 1, 16, 24, 24)
    before = torch.load(exported / "network.pt", weights_only=False)
    assert torch.equal(again.eval()(volume)[0], before(volume)[0])


def test_manifest_update_touches_one_entry(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    house.update_manifest(path, {"name": "a", "sha256": "1"})
    house.update_manifest(path, {"name": "b", "sha256": "2"})
    house.update_manifest(path, {"name": "a", "sha256": "3"})
    models = json.loads(path.read_text())["models"]
    assert models == [{"name": "a", "sha256": "3"}, {"name": "b", "sha256": "2"}]
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"], "no partial file is left"


def test_manifest_of_another_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"schema": "something/2", "models": []}')
    with pytest.raises(ValueError, match="something/2"):
        house.update_manifest(path, {"name": "a"})
    assert json.loads(path.read_text())["models"] == []


def test_disagreement_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "_to_onnx", lambda network, example, contract, path: path.write_bytes(b"onnx"))
    monkeypatch.setattr(house, "compare", lambda network, onnx_file, examples: 3e-5)
    with pytest.raises(house.ParityError, match=r"localizer: ONNX Runtime differs from PyTorch by 3\.0e-05"):
        export_network(Localizer().eval(), {"steps": 0, "seed": 0, "begun_from": None}, tmp_path)
    assert list(tmp_path.iterdir()) == []
