"""Kills parts of a running node, again and again, and waits until each is back before the next one dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter

import numpy as np

from node.demo.stage import RunningNode
from node.process import read_state
from tests.conftest import wait_until

VICTIMS = {"receive": 0.25, "evaluate": 0.3, "deliver": 0.25, "database": 0.1, "everything": 0.1}
"""How often each is chosen; "database" is the private PostgreSQL's postmaster, "everything" the process group."""
BACK_S = 90.0


class Killer:
    """Chooses victims by a seed. ``killed`` counts them by name."""

    def __init__(self, node: RunningNode, seed: int) -> None:
        self._node = node
        self._rng = np.random.default_rng(seed)
        self.killed: Counter[str] = Counter()

    def strike(self, most_pause_s: float = 1.5) -> None:
        """Wait a moment, kill one, and wait until it is there again."""
        time.sleep(float(self._rng.uniform(0.0, most_pause_s)))
        victim = str(self._rng.choice(list(VICTIMS), p=list(VICTIMS.values())))
        {"database": self._database, "everything": self._everything}.get(victim, lambda: self._child(victim))()
        self.killed[victim] += 1

    def _child(self, role: str) -> None:
        old = self._node.pids[role]
        with contextlib.suppress(ProcessLookupError):  # it has just been started again by itself
            os.kill(old, signal.SIGKILL)
        wait_until(lambda: self._pid(role) not in (None, old), BACK_S, f"{role} to be back: {self._node.tail()}")

    def _database(self) -> None:
        def there() -> int | None:
            try:
                return int((self._node.settings.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
            except (FileNotFoundError, IndexError, ValueError):
                return None

        wait_until(lambda: there() is not None, BACK_S, "the private database, which is just being started")
        old = there()
        if old is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(old, signal.SIGKILL)
        wait_until(lambda: there() not in (None, old), BACK_S, f"the private database to be back: {self._node.tail()}")

    def _everything(self) -> None:
        self._node.kill()
        self._node.start()

    def _pid(self, role: str) -> int | None:
        pids = read_state(self._node.settings).get("pids")
        return pids.get(role) if isinstance(pids, dict) else None
