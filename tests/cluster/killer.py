"""Kills processes and whole machines of a cluster at random; a machine comes back, as a service manager sees to it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Collection

import numpy as np

from node.process import read_state
from tests.cluster.machines import PATIENCE_S, Cluster

MACHINE = "machine"


class MachineKiller:
    """Goes through all targets in random order, again and again. ``killed`` counts (machine, role or "machine")."""

    def __init__(self, machines: Cluster, seed: int, spared: Collection[str] = ()) -> None:
        self._cluster = machines
        self._spared = spared
        self._rng = np.random.default_rng(seed)
        self._left: list[tuple[str, str]] = []
        self.killed: Counter[tuple[str, str]] = Counter()

    def strike(self, most_pause_s: float = 1.5) -> None:
        """Wait a moment, kill a target that runs, and do not wait until it is back."""
        time.sleep(float(self._rng.uniform(0.0, most_pause_s)))
        if not self._left:
            targets = [
                (name, what)
                for name, machine in self._cluster.machines.items()
                if name not in self._spared
                for what in (*machine.settings.roles, MACHINE)
            ]
            self._left = [targets[n] for n in self._rng.permutation(len(targets))]
        name, what = self._left.pop()
        machine = self._cluster.machines[name]
        machine.await_ready(PATIENCE_S)  # it may still be on its way up from the last kill
        if what == MACHINE:
            machine.kill()
            machine.start(wait=False)
        else:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(int(read_state(machine.settings)["pids"][what]), signal.SIGKILL)
        self.killed[name, what] += 1

    def deaths(self, role: str) -> int:
        """How often something that has this role died."""
        return sum(
            count
            for (name, what), count in self.killed.items()
            if what == role or (what == MACHINE and role in self._cluster.machines[name].settings.roles)
        )
