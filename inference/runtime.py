"""ONNX sessions: what the manifest promises is checked before the first patient.

``onnx_models/manifest.json`` (schema ``spine-node/models/1``) lists every shipped model with its SHA-256, its inputs
and outputs. A file that is missing, changed or of another contract stops the start with a `ModelError`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inference.findings import ModelIdentity

SCHEMA = "spine-node/models/1"
MANIFEST = "manifest.json"
Provider = Literal["auto", "cuda", "cpu"]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class ModelError(Exception):
    """A model cannot be used: the message says which, why, and what a person can do."""


class ModelRunError(Exception):
    """A network did not return finite numbers of the promised shape for this image."""


@dataclass(frozen=True)
class Models:
    """Loaded networks by name.

    Attributes
    ----------
    provider
        The first of ``session.get_providers()``: what really runs, not what was asked for.
    identities
        Name, version and SHA-256 of every model, for the SR.
    """

    sessions: Mapping[str, Any]
    identities: tuple[ModelIdentity, ...]
    provider: str

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of the network ``name`` by their names.

        Raises
        ------
        ModelRunError
            When the run fails or an output is not finite.
        """
        session = self.sessions[name]
        names = [output.name for output in session.get_outputs()]
        try:
            values = session.run(names, dict(inputs))
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            raise ModelRunError(f"network {name}: {type(error).__name__}: {error}") from error
        for key, value in zip(names, values, strict=True):
            if not np.isfinite(value).all():
                raise ModelRunError(f"network {name}: output {key} is not finite")
        return dict(zip(names, values, strict=True))


def load_models(
    folder: Path, provider: Provider = "auto", *, threads: int | None = None, names: Sequence[str] | None = None
) -> Models:
    """Load and check the models of ``folder``.

    Parameters
    ----------
    folder
        Holds ``manifest.json`` and the files that it names.
    provider
        ``auto`` takes CUDA where it works and else the CPU; ``cuda`` fails where CUDA was not obtained; ``cpu``.
    threads
        Threads of one run on the CPU; onnxruntime's choice where ``None``.
    names
        Which models; all of the manifest where ``None``.

    Raises
    ------
    ModelError
        Manifest or file missing or unreadable, hash or contract not as promised, CUDA wanted and not obtained.
    """
    entries = read_manifest(folder)
    wanted = list(entries) if names is None else list(names)
    missing = [n for n in wanted if n not in entries]
    if missing:
        raise ModelError(f"{folder / MANIFEST}: no model named {', '.join(missing)}; install the shipped models again")
    sessions = {name: _open(folder, entries[name], provider, threads) for name in wanted}
    obtained = {session.get_providers()[0] for session in sessions.values()}
    if provider == "cuda" and obtained != {CUDA}:
        raise ModelError(
            f"provider cuda was asked for, {', '.join(sorted(obtained))} was obtained: install the CUDA and cuDNN "
            "libraries of onnxruntime-gpu and a driver, or set the provider to auto or cpu"
        )
    identities = tuple(ModelIdentity(n, str(entries[n]["version"]), str(entries[n]["sha256"])) for n in wanted)
    return Models(sessions, identities, CPU if CPU in obtained or not obtained else sorted(obtained)[0])


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of the manifest by model name.

    Raises
    ------
    ModelError
        When it is missing, not JSON, of another schema, or an entry lacks a field.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; install the shipped models again") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise ModelError(f"{path}: schema is {found!r}, this software reads {SCHEMA!r}")
    entries: dict[str, dict[str, Any]] = {}
    for entry in manifest.get("models", []):
        lacking = [k for k in ("name", "version", "file", "sha256", "inputs", "outputs") if k not in entry]
        if lacking:
            raise ModelError(f"{path}: model {entry.get('name', '?')!r} lacks {', '.join(lacking)}")
        if Path(entry["file"]).name != entry["file"]:
            raise ModelError(f"{path}: model {entry['name']!r}: file must be a plain name, not {entry['file']!r}")
        entries[entry["name"]] = entry
    return entries


def _open(folder: Path, entry: Mapping[str, Any], provider: Provider, threads: int | None) -> Any:
    path = folder / str(entry["file"])
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"model {entry['name']}: {path} cannot be read ({error}); install it again") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        raise ModelError(
            f"model {entry['name']}: {path} has SHA-256 {digest}, the manifest says {entry['sha256']}: the file was "
            "changed or is damaged; install it again"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        with _quiet(provider):
            session = ort.InferenceSession(content, options, providers=_providers(provider))
    except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
        raise ModelError(f"model {entry['name']}: {path} cannot be loaded: {error}") from error
    _check_contract(entry, "inputs", session.get_inputs())
    _check_contract(entry, "outputs", session.get_outputs())
    return session


def _providers(provider: Provider) -> list[Any]:
    if provider == "cpu" or CUDA not in ort.get_available_providers():
        return [CPU]
    return [(CUDA, {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}), CPU]


@contextmanager
def _quiet(provider: Provider) -> Iterator[None]:
    """Without onnxruntime's own lines on the console: what was obtained is read from the session afterwards."""
    ort.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if provider != "cpu" and CUDA in ort.get_available_providers():
                ort.preload_dlls()  # CUDA and cuDNN from Python packages, where they are installed
            yield
    finally:
        ort.set_default_logger_severity(2)


def _check_contract(entry: Mapping[str, Any], kind: str, found: Sequence[Any]) -> None:
    """Names, element types and shapes (a text stands for any size) of the file against those of the manifest."""
    promised = entry[kind]
    actual = {value.name: value for value in found}
    if set(promised) != set(actual):
        raise ModelError(f"model {entry['name']}: {kind} are {sorted(actual)}, the manifest says {sorted(promised)}")
    for name, contract in promised.items():
        value = actual[name]
        kind_of = str(value.type).removeprefix("tensor(").removesuffix(")")
        kind_of = {"float": "float32", "double": "float64"}.get(kind_of, kind_of)
        if contract["dtype"] != kind_of:
            raise ModelError(
                f"model {entry['name']}: {kind} {name} is {kind_of}, the manifest says {contract['dtype']}"
            )
        shape = list(contract["shape"])
        same = len(shape) == len(value.shape) and all(
            isinstance(a, str) or not isinstance(b, int) or a == b for a, b in zip(shape, value.shape, strict=True)
        )
        if not same:
            raise ModelError(f"model {entry['name']}: {kind} {name} has shape {value.shape}, the manifest says {shape}")
