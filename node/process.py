"""What the node's processes share: the signals to stop and to reload, and the state file that says how to reach it."""

from __future__ import annotations

import fcntl
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from node.settings import ConfigurationError, Settings


def stop_event() -> threading.Event:
    """Set by SIGTERM or SIGINT."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def reload_event() -> threading.Event:
    """Set by SIGHUP."""
    wanted = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        wanted.set()

    signal.signal(signal.SIGHUP, on_signal)
    return wanted


_followers: list[Callable[[Settings], None]] = []


def on_reload(follow: Callable[[Settings], None]) -> None:
    """Have ``follow`` called with the new settings whenever the supervisor sends some to this process."""
    _followers.append(follow)


def reload(settings: Settings) -> None:
    """New settings have come from the supervisor."""
    for follow in _followers:
        follow(settings)


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


def check_storage(settings: Settings) -> None:
    """Refuse to start beside a volume that is not mounted: what is acknowledged must not lie where no other looks."""
    missing = [folder for folder in (settings.spool_dir, settings.outbox_dir) if not folder.is_dir()]
    if settings.storage_dir is not None and missing:
        raise ConfigurationError(
            f"the shared storage {settings.storage_dir} has no folder {missing[0].name}: is its volume mounted? For a "
            f"new installation make it once: mkdir -m 700 {settings.spool_dir} {settings.outbox_dir}"
        )
