"""A node of the demo's own: a configuration, a data directory and a process that end with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from node.process import read_state
from node.settings import Settings, load_settings

START_PATIENCE_S = 120.0


class StageError(Exception):
    """The node did not start, or ended early; the message has the last lines of its log."""


class RunningNode:
    """A node in a process of its own."""

    program = "node.cli"
    """Module that is run."""
    source: Path | None = None
    """Folder of the program, where that is another version."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.configuration = folder / "node.yaml"
        self.log = folder / "node.log"
        content = {"data_dir": str(folder / "data"), **sections}
        self.configuration.write_text(yaml.safe_dump(content), encoding="utf-8")
        self.settings: Settings = load_settings(self.configuration)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(str(read_state(self.settings)["port"]))

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by role, the supervisor's included."""
        state = read_state(self.settings)
        pids = state.get("pids")
        assert isinstance(pids, dict)
        return {"supervisor": self.process.pid, **pids}

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor."""
        if self._process is None:
            raise StageError("the node was not started")
        return self._process

    def start(self, *, wait: bool = True) -> None:
        """Start it, and return once it is ready, or at once.

        Raises
        ------
        StageError
            As `await_ready`.
        """
        environment = {  # a site's own node must not be touched: only its choice of models and provider counts here
            name: value
            for name, value in os.environ.items()
            if not name.startswith("SPINE_NODE_") or name.startswith("SPINE_NODE_MODELS__")
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.program, "run", "--config", str(self.configuration)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=self.source,
                start_new_session=True,
            )
        if wait:
            self.await_ready()

    def await_ready(self, patience_s: float = START_PATIENCE_S) -> None:
        """Return once its processes are started and, where that is among its roles, it listens.

        Raises
        ------
        StageError
            It is not ready in time.
        """
        deadline = time.monotonic() + patience_s
        awaited = {"port", "pids"} if "receive" in self.settings.roles else {"pids"}
        while not awaited <= set(read_state(self.settings)) or not self._is_ours():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise StageError(f"the node did not start:\n{self.tail()}")
            time.sleep(0.05)

    def _is_ours(self) -> bool:
        """Whether the state file is of this process, not of one that was killed."""
        return read_state(self.settings).get("supervisor") == self.process.pid

    def stop(self) -> int:
        """Ask it to stop; returns its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def kill(self) -> None:
        """SIGKILL the supervisor and its children at once, as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


@contextmanager
def stage(**sections: Any) -> Iterator[RunningNode]:
    """A started node in a temporary folder (short: a Unix socket's path has at most 107 bytes), removed at the end."""
    with _sigterm_interrupts() as keep_on:
        folder = Path(tempfile.mkdtemp(prefix="spine-"))
        try:
            node = RunningNode(folder, **sections)
            try:
                node.start()
                yield node
            finally:
                keep_on()
                node.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _sigterm_interrupts() -> Iterator[Callable[[], None]]:
    """SIGTERM as KeyboardInterrupt, so that what was started is stopped; after the function's call it is ignored.

    Python leaves signals to the main thread; in others this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def keep_on() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        keep_on()
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield keep_on
    finally:
        signal.signal(signal.SIGTERM, former)
