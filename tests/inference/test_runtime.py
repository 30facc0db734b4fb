"""Models are checked before the first patient: hash, contract, provider."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inference.runtime import ModelError, ModelRunError, load_models, read_manifest


def model_bytes(shape=(1, "rows"), scale: str = "Add") -> bytes:
    """``answer`` = ``image`` + ``image`` (or its logarithm)."""
    node = helper.make_node(scale, ["image", "image"] if scale == "Add" else ["image"], ["answer"])
    graph = helper.make_graph(
        [node],
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, list(shape))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def folder_of(folder: Path, content: bytes | None = None, **changed) -> Path:
    content = model_bytes() if content is None else content
    (folder / "toy.onnx").write_bytes(content)
    tensor = {"dtype": "float32", "shape": [1, "rows"]}
    entry = {
        "name": "toy",
        "version": "1.2.3",
        "file": "toy.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "inputs": {"image": tensor},
        "outputs": {"answer": tensor},
    } | changed
    manifest = {"schema": "spine-node/models/1", "models": [{k: v for k, v in entry.items() if v is not None}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_good_model_runs_and_says_who_it_is(tmp_path: Path) -> None:
    models = load_models(folder_of(tmp_path), "cpu", threads=1)
    answer = models.run("toy", {"image": np.array([[1.0, 2.0]], np.float32)})
    assert answer["answer"].tolist() == [[2.0, 4.0]]
    assert models.provider == "CPUExecutionProvider"
    assert (models.identities[0].name, models.identities[0].version) == ("toy", "1.2.3")
    assert models.identities[0].sha256 == hashlib.sha256((tmp_path / "toy.onnx").read_bytes()).hexdigest()


def test_auto_says_what_really_runs(tmp_path: Path) -> None:
    models = load_models(folder_of(tmp_path), "auto", threads=1)
    assert models.provider == models.sessions["toy"].get_providers()[0]


def test_cuda_that_was_not_obtained_is_a_failed_start(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    if load_models(folder, "auto").provider == "CUDAExecutionProvider":
        assert load_models(folder, "cuda").provider == "CUDAExecutionProvider"
        return
    with pytest.raises(ModelError, match=r"cuda was asked for.*CPUExecutionProvider was obtained"):
        load_models(folder, "cuda")


def test_a_changed_file_stops_the_start(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "toy.onnx").write_bytes(model_bytes(scale="Log"))
    with pytest.raises(ModelError, match=r"model toy: .*manifest says .*changed or is damaged"):
        load_models(folder)


def test_a_missing_file_or_manifest_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest.json is missing"):
        load_models(tmp_path)
    folder = folder_of(tmp_path)
    (folder / "toy.onnx").unlink()
    with pytest.raises(ModelError, match=r"model toy: .*cannot be read"):
        load_models(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": {"volume": {"dtype": "float32", "shape": [1, "rows"]}}}, r"inputs are \['image'\]"),
        ({"outputs": {"answer": {"dtype": "float64", "shape": [1, "rows"]}}}, "answer is float32"),
        ({"outputs": {"answer": {"dtype": "float32", "shape": [2, "rows"]}}}, "answer has shape"),
        ({"inputs": {"image": {"dtype": "float32", "shape": [1, 3, "rows"]}}}, "image has shape"),
        ({"file": "../toy.onnx"}, "plain name"),
        ({"version": None}, "lacks version"),
    ],
)
def test_another_contract_stops_the_start(tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_models(folder_of(tmp_path, **changed))


def test_a_file_that_is_no_model_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_models(folder_of(tmp_path, b"not a model"))


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "spine-node/models/9"}'])
def test_a_manifest_that_is_none_stops_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match=r"manifest.json"):
        read_manifest(tmp_path)


def test_a_model_that_was_not_shipped_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model named other"):
        load_models(folder_of(tmp_path), names=["toy", "other"])


def test_numbers_that_are_not_finite_are_a_failure(tmp_path: Path) -> None:
    models = load_models(folder_of(tmp_path, model_bytes(scale="Log")), "cpu", threads=1)
    with pytest.raises(ModelRunError, match="answer is not finite"):
        models.run("toy", {"image": np.array([[0.0]], np.float32)})


def test_a_run_that_fails_is_a_failure(tmp_path: Path) -> None:
    models = load_models(folder_of(tmp_path), "cpu", threads=1)
    with pytest.raises(ModelRunError, match="network toy: InvalidArgument"):
        models.run("toy", {"image": np.zeros((2, 2, 2), np.float32)})
