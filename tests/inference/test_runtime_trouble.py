"""Networks in trouble: too little memory, numbers that are none, shapes that were not promised."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from inference.runtime import CPU, ModelRunError, Models, load_models

NO_ROOM = RuntimeException("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 4294967296")
"""As onnxruntime's arena says it (see the last test); those of a GPU say it in the same words."""
FIXED = {"image": (1, "rows"), "answer": (1, "rows")}
BATCH = {"image": ("batch", 2), "answer": ("batch", 2)}


class Session:
    """Doubles what it is given while the batch is no larger than ``room``; answers in ``shape`` where that is set."""

    def __init__(self, room: float = np.inf, shape: tuple[int, ...] | None = None, value: float = 2.0) -> None:
        self.room, self.shape, self.value = room, shape, value
        self.batches: list[int] = []

    def get_outputs(self) -> list[Any]:
        return [type("Output", (), {"name": "answer"})]

    def run(self, _names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        image = inputs["image"]
        if len(image) > self.room:
            raise NO_ROOM
        self.batches.append(len(image))
        return [np.zeros(self.shape, np.float32) if self.shape else self.value * image]


def models(session: Session, shapes: Any, spare: Session | None = None) -> Models:
    return Models({"toy": session}, (), CPU, {"toy": shapes}, None if spare is None else lambda _name: spare)


def image(*shape: int) -> dict[str, np.ndarray]:
    return {"image": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}


def test_a_batch_that_does_not_fit_is_run_in_halves_and_the_answer_is_the_same() -> None:
    session = Session(room=2)
    answer = models(session, BATCH).run("toy", image(7, 2))["answer"]
    assert answer.tolist() == (2 * image(7, 2)["image"]).tolist()
    assert session.batches == [1, 2, 2, 2]


def test_what_does_not_fit_on_the_gpu_alone_is_run_on_the_cpu() -> None:
    gpu, cpu = Session(room=0), Session()
    answer = models(gpu, FIXED, cpu).run("toy", image(1, 3))["answer"]
    assert answer.tolist() == [[0.0, 2.0, 4.0]]
    assert (gpu.batches, cpu.batches) == ([], [1])


@pytest.mark.parametrize(("shapes", "size"), [(FIXED, (1, 2)), (BATCH, (4, 2))])
def test_too_little_memory_is_no_failure_of_the_network(shapes: Any, size: tuple[int, int]) -> None:
    with pytest.raises(MemoryError, match="network toy: not enough memory"):
        models(Session(room=0), shapes).run("toy", image(*size))
    with pytest.raises(MemoryError, match="network toy: not enough memory"):
        models(Session(room=0), shapes, Session(room=0)).run("toy", image(*size))


def test_axes_of_a_fixed_size_are_no_batch() -> None:
    session = Session(room=1)
    with pytest.raises(MemoryError):
        models(session, {"image": (2, "rows"), "answer": (2, "rows")}).run("toy", image(2, 3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_a_failure(value: float) -> None:
    with pytest.raises(ModelRunError, match="answer is not finite"):
        models(Session(value=value), FIXED).run("toy", {"image": np.ones((1, 3), np.float32)})


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (1, 3, 1), ()])
def test_a_shape_that_was_not_promised_is_a_failure(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelRunError, match=r"answer has the shape .*, promised was \(1, 'rows'\)"):
        models(Session(shape=shape or (7,)), FIXED).run("toy", image(1, 3))


def test_a_file_whose_output_has_another_size_than_it_states_is_found_out(tmp_path: Path) -> None:
    """onnxruntime takes the word of the file: one symbol, two sizes."""
    double = helper.make_node("Concat", ["image", "image"], ["answer"], axis=1)
    models = load_models(_folder(tmp_path, double, ["rows"]), "cpu", threads=1)
    with pytest.raises(ModelRunError, match=r"answer has the shape \(1, 6\), promised was \(1, 'rows'\)"):
        models.run("toy", image(1, 3))


def test_the_words_of_onnxruntime_for_too_little_memory_are_known(tmp_path: Path) -> None:
    """A real allocation that fails, in a process whose address space is limited."""
    _folder(tmp_path, helper.make_node("MatMul", ["column", "image"], ["answer"]), ["rows", "rows"], column=True)
    code = f"""
import resource, numpy as np
from pathlib import Path
from inference.runtime import load_models
models = load_models(Path({str(tmp_path)!r}), "cpu", threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
side = 2**15  # the product has 4 GiB
try:
    models.run("toy", {{"image": np.ones((1, side), np.float32), "column": np.ones((side, 1), np.float32)}})
except MemoryError as error:
    print("MemoryError:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "MemoryError: network toy: not enough memory\n", done.stderr


def _folder(folder: Path, node: Any, shape: list[str], column: bool = False) -> Path:
    """A folder of one model with input ``image`` (1, rows) (and ``column`` (rows, 1)) and output ``answer``."""
    stated = {"image": [1, "rows"], "answer": [*([1] if len(shape) == 1 else []), *shape]}
    if column:
        stated["column"] = ["rows", 1]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in stated.items()}
    inputs = [value for name, value in values.items() if name != "answer"]
    graph = helper.make_graph([node], "toy", inputs, [values["answer"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    (folder / "toy.onnx").write_bytes(content)
    entry = {
        "name": "toy",
        "version": "1.0.0",
        "file": "toy.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "inputs": {name: {"dtype": "float32", "shape": axes} for name, axes in stated.items() if name != "answer"},
        "outputs": {"answer": {"dtype": "float32", "shape": stated["answer"]}},
    }
    (folder / "manifest.json").write_text(json.dumps({"schema": "spine-node/models/1", "models": [entry]}))
    return folder
