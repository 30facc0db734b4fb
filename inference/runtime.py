"""ONNX sessions: what the manifest promises is checked before the first patient.

``onnx_models/manifest.json`` (schema ``spine-node/models/1``) lists every shipped model with its SHA-256, its inputs
and outputs. A file that is missing, changed or of another contract stops the start with a `ModelError`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inference.findings import ModelIdentity

log = logging.getLogger(__name__)

SCHEMA = "spine-node/models/1"
MANIFEST = "manifest.json"
Provider = Literal["auto", "cuda", "cpu"]
Shapes = Mapping[str, Sequence[int | str | None]]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
NO_MEMORY = re.compile(
    r"failed to allocate memory|bad[_ ]alloc|out of memory|alloc_failed|smaller than requested bytes|memoryallocation",
    re.IGNORECASE,
)
"""What onnxruntime, CUDA, cuDNN and cuBLAS say when an allocation fails: there is no exception type for it."""


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
    shapes
        Of each model the shape of every input and output as its file states it, by name: a number is a size, a text
        stands for any size, which is the same wherever the text is. What runs is held to it.
    on_cpu
        Opens a model on the CPU, for the runs that do not fit into the memory of the GPU; ``None`` where all are there.
    """

    sessions: Mapping[str, Any]
    identities: tuple[ModelIdentity, ...]
    provider: str
    shapes: Mapping[str, Shapes] = field(default_factory=dict)
    on_cpu: Callable[[str], Any] | None = None

    def run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of the network ``name`` by their names.

        Where memory does not suffice, a batch is run in halves; a single item, on the CPU.

        Raises
        ------
        ModelRunError
            When the run fails, or an output is not finite or not of the shape that the network promises.
        MemoryError
            There was not enough memory: on a quieter machine there may be. Says nothing about the image.
        """
        return self._run(self.sessions[name], name, inputs, self.on_cpu)

    def _run(
        self, session: Any, name: str, inputs: Mapping[str, NDArray[Any]], on_cpu: Callable[[str], Any] | None
    ) -> dict[str, NDArray[np.float32]]:
        names = [output.name for output in session.get_outputs()]
        try:
            outputs = dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # onnxruntime's own exceptions share no base class but Exception
            if not _is_out_of_memory(error):
                raise ModelRunError(f"network {name}: {type(error).__name__}: {error}") from error
            if halves := _halves(self.shapes.get(name, {}), inputs):
                log.warning("network %s: not enough memory for a batch, which is run in halves", name)
                parts = [self._run(session, name, half, on_cpu) for half in halves]
                return {key: np.concatenate([part[key] for part in parts]) for key in names}
            if on_cpu is not None:
                log.warning("network %s: not enough memory on the GPU, this run is done on the CPU", name)
                return self._run(on_cpu(name), name, inputs, None)
            raise MemoryError(f"network {name}: not enough memory") from error
        for key, value in outputs.items():
            if not np.isfinite(value).all():
                raise ModelRunError(f"network {name}: output {key} is not finite")
        _check_shapes(name, self.shapes.get(name, {}), {**inputs, **outputs})
        return outputs


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or NO_MEMORY.search(str(error)) is not None


def _halves(shapes: Shapes, inputs: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """The two halves of a batch; nothing where the network takes none, or where a single item is left.

    It takes one where the first axis of every input and output has the same symbol.
    """
    symbols = {shape[0] if shape else None for shape in shapes.values()}
    if len(symbols) != 1 or not isinstance(symbols.pop(), str):
        return []
    size = min(len(value) for value in inputs.values())
    parts = (slice(size // 2), slice(size // 2, None)) if size > 1 else ()
    return [{key: value[part] for key, value in inputs.items()} for part in parts]


def _check_shapes(name: str, shapes: Shapes, values: Mapping[str, NDArray[Any]]) -> None:
    """Inputs, which come first, say what each symbol stands for."""
    sizes: dict[str, int] = {}
    for key, value in values.items():
        stated = shapes.get(key)
        if stated is None:
            continue
        sizes.update({a: n for a, n in zip(stated, value.shape, strict=False) if isinstance(a, str) and a not in sizes})
        wanted = tuple(sizes.get(a, a) if isinstance(a, str) else a for a in stated)
        if len(wanted) != value.ndim or any(a not in (None, n) for a, n in zip(wanted, value.shape, strict=True)):
            raise ModelRunError(f"network {name}: {key} has the shape {value.shape}, promised was {tuple(stated)}")


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
    on_cpu = functools.cache(lambda name: _open(folder, entries[name], "cpu", threads)) if CUDA in obtained else None
    shapes = {
        name: {value.name: tuple(value.shape) for value in (*session.get_inputs(), *session.get_outputs())}
        for name, session in sessions.items()
    }
    provided = CPU if CPU in obtained or not obtained else sorted(obtained)[0]
    return Models(sessions, identities, provided, shapes, on_cpu)


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
