"""What the node's processes share: the signal to stop, and the state file that says how to reach the node."""

from __future__ import annotations

import fcntl
import json
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from node.settings import Settings


def stop_event() -> threading.Event:
    """Set by SIGTERM or SIGINT."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def state_path(settings: Settings) -> Path:
    """The state file of a running node."""
    return settings.data_dir / "state.json"


def read_state(settings: Settings) -> dict[str, Any]:
    """What the running node wrote of itself: port, process ids, DSN; empty when none runs."""
    try:
        state = json.loads(state_path(settings).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(settings: Settings, **changes: Any) -> None:
    """Change some of the state; atomic for readers, and safe between the node's processes."""
    path = state_path(settings)
    with (settings.data_dir / "state.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        temporary = path.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(read_state(settings) | changes), encoding="ascii")
        temporary.replace(path)
