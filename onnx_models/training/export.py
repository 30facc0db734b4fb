"""Turns a trained network into what ships: ONNX, safetensors, and its entry in the manifest.

``python -m onnx_models.training.export localizer`` exports the averaged weights of the last checkpoint. An export is
refused unless ONNX Runtime gives the same answers as PyTorch (below 2e-5, relative to the largest value of each
output) on several shapes. Files and manifest appear atomically: a reader sees the old model or the new one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from onnx_models import MODELS

OPSET = 18
PARITY = 2e-5
SILENT = 0.01
"""What ONNX Runtime's sigmoid says of "never" is off by 1.4e-7, whatever the probability."""
SCHEMA = "spine-node/models/1"
RECIPES = {
    "localizer": "onnx_models.training.localizer_task:export",
    "keypoints": "onnx_models.training.keypoints_task:export",
    "segmenter": "onnx_models.training.segmenter_task:export",
    "completion": "onnx_models.training.completion_task:export",
    "detector": "onnx_models.training.detector_task:export",
    "labeller": "onnx_models.training.labeller_task:export",
    "film_points": "onnx_models.training.film_points_task:export",
    "film_foreign": "onnx_models.training.film_foreign_task:export",
    "film": "onnx_models.training.radiograph_task:export",
    "film_mdr2unet": "onnx_models.training.radiograph_task:export_mdr2unet",
}
"""The function that exports each network from its last checkpoint, ``module:function``, called with the folder."""


class ParityError(RuntimeError):
    """ONNX Runtime and PyTorch disagree; nothing was written."""


@dataclass(frozen=True)
class Contract:
    """What the manifest says of a model beside its hash.

    `inputs` and `outputs` map each name to {"dtype", "shape", "meaning"}, in the order of the graph; `dynamic` maps an
    input's name to {axis: torch.export dimension}.
    """

    name: str
    version: str
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    dynamic: dict[str, dict[int, Any]]
    preprocessing: str
    provenance: dict[str, Any]
    card: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What an export gave: the file's SHA-256 and the largest relative difference to PyTorch."""

    sha256: str
    parity: float


def export(
    network: nn.Module, examples: Sequence[tuple[Tensor, ...]], contract: Contract, folder: Path = MODELS
) -> Exported:
    """Export, compare on every example, write ``<name>.onnx``, the weights and the manifest's entry.

    Parameters
    ----------
    network
        In evaluation mode (batch normalisation is folded into the convolutions by the exporter).
    examples
        Inputs of different shapes; the first one is traced.
    contract
        Names, axes and the words of the manifest.
    folder
        ``onnx_models``, or a copy of it.

    Raises
    ------
    ParityError
        Where any output differs by `PARITY` or more, relative to the largest absolute value of that output.
    """
    network.eval()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
        onnx_file = Path(temporary) / f"{contract.name}.onnx"
        _to_onnx(network, examples[0], contract, onnx_file)
        parity = compare(network, onnx_file, examples)
        if not parity < PARITY:
            raise ParityError(
                f"{contract.name}: ONNX Runtime differs from PyTorch by {parity:.1e} (allowed {PARITY:.0e})"
            )
        sha256 = hashlib.sha256(onnx_file.read_bytes()).hexdigest()
        weights = f"training/weights/{contract.name}.safetensors"
        _save_weights(network, Path(temporary) / "weights.safetensors")
        (folder / weights).parent.mkdir(parents=True, exist_ok=True)
        (Path(temporary) / "weights.safetensors").chmod(0o644)
        (Path(temporary) / "weights.safetensors").replace(folder / weights)
        onnx_file.replace(folder / onnx_file.name)
    entry = {
        "name": contract.name,
        "version": contract.version,
        "file": f"{contract.name}.onnx",
        "sha256": sha256,
        "weights": weights,
        "opset": OPSET,
        "inputs": contract.inputs,
        "outputs": contract.outputs,
        "preprocessing": contract.preprocessing,
        "provenance": contract.provenance,
        "card": contract.card,
        **contract.extra,
    }
    update_manifest(folder / "manifest.json", entry)
    return Exported(sha256, parity)


def _to_onnx(network: nn.Module, example: tuple[Tensor, ...], contract: Contract, path: Path) -> None:
    dynamic = tuple(contract.dynamic.get(name, {}) for name in contract.inputs)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(contract.inputs),
            output_names=list(contract.outputs),
            dynamic_shapes=dynamic,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # what dynamo=True promises
    program.save(str(path), external_data=False)


def _save_weights(network: nn.Module, path: Path) -> None:
    save_file({name: value.detach().contiguous().clone() for name, value in network.state_dict().items()}, str(path))


def session_of(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """A CPU session; warnings of the runtime are kept off the console."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def compare(network: nn.Module, onnx_file: Path, examples: Sequence[tuple[Tensor, ...]]) -> float:
    """Largest difference between PyTorch and ONNX Runtime over all examples and outputs, relative to the output.

    Of an output that stays below `SILENT`, relative to that.
    """
    session = session_of(onnx_file)
    names = [i.name for i in session.get_inputs()]
    worst = 0.0
    for example in examples:
        expected = network(*example)
        expected = expected if isinstance(expected, tuple | list) else (expected,)
        got = session.run(None, dict(zip(names, (x.numpy() for x in example), strict=True)))
        for e, g in zip(expected, got, strict=True):
            scale = max(float(e.abs().max()), SILENT)
            if e.shape != g.shape:
                raise ParityError(f"shape {tuple(g.shape)} from ONNX Runtime, {tuple(e.shape)} from PyTorch")
            worst = max(worst, float(np.abs(e.numpy() - g).max()) / scale)
    return worst


def update_manifest(path: Path, entry: dict[str, Any]) -> None:
    """Replace the entry of that name, or append it; the other entries stay as they are. Atomic."""
    manifest = json.loads(path.read_text()) if path.is_file() else {"schema": SCHEMA, "models": []}
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{path} has the schema {manifest.get('schema')!r}, expected {SCHEMA!r}")
    names = [model["name"] for model in manifest["models"]]
    if entry["name"] in names:
        manifest["models"][names.index(entry["name"])] = entry
    else:
        manifest["models"].append(entry)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".manifest-")
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(manifest, indent=2) + "\n")
    Path(partial).chmod(0o644)
    Path(partial).replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m onnx_models.training.export", description=__doc__)
    parser.add_argument("network", choices=sorted(RECIPES))
    parser.add_argument("--folder", type=Path, default=MODELS)
    options = parser.parse_args(arguments)
    module, _, function = RECIPES[options.network].partition(":")
    exported: Exported = getattr(importlib.import_module(module), function)(options.folder)
    print(f"{options.network}: sha256 {exported.sha256}, parity {exported.parity:.1e}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
