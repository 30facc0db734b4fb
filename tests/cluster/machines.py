"""Machines of one installation: node processes with roles and data directories of their own, one ledger and storage."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from node.demo.stage import RunningNode
from node.process import read_state
from node.settings import Settings

PATIENCE_S = 300.0
"""Many processes start side by side, perhaps on two cores that do other things, too."""
LISTENER = ("receive",)
WORKER = ("evaluate", "deliver")


class Cluster:
    """Machines by name, started side by side.

    Attributes
    ----------
    storage
        Shared spool and outbox.
    machines
        By name; what each does stands in its settings.
    """

    def __init__(
        self,
        folder: Path,
        dsn: str,
        roles: Mapping[str, tuple[str, ...]],
        kind: type[RunningNode] = RunningNode,
        **sections: Any,
    ) -> None:
        self.storage = folder / "storage"
        for name in ("spool", "outbox"):
            (self.storage / name).mkdir(mode=0o700, parents=True)
        self.machines: dict[str, RunningNode] = {}
        for name, does in roles.items():
            (folder / name).mkdir()
            shared = {"database_dsn": dsn, "storage_dir": str(self.storage), "roles": list(does)}
            self.machines[name] = kind(folder / name, **{**shared, **sections})

    @property
    def settings(self) -> Settings:
        """Settings of the first machine: ledger and storage are everybody's."""
        return next(iter(self.machines.values())).settings

    def ports(self) -> list[int]:
        """Where the listeners listen that say so, dead or alive."""
        states = [read_state(m.settings) for m in self.machines.values() if "receive" in m.settings.roles]
        return [int(state["port"]) for state in states if "port" in state]

    def tail(self) -> str:
        """The last lines of every machine's log."""
        return "\n".join(f"--- {name}\n{machine.tail(6)}" for name, machine in self.machines.items())

    def processes(self) -> dict[str, psutil.Process]:
        """Living processes by machine and role; the supervisors, too."""
        found = {}
        for name, machine in self.machines.items():
            pids = read_state(machine.settings).get("pids") or {}
            for role, pid in {"supervisor": machine.process.pid, **pids}.items():
                try:
                    found[f"{name}/{role}"] = psutil.Process(pid)
                except psutil.NoSuchProcess:
                    continue
        return found


@contextmanager
def cluster(
    dsn: str,
    roles: Mapping[str, tuple[str, ...]],
    before: Callable[[Cluster], None] = lambda _made: None,
    kind: type[RunningNode] = RunningNode,
    **sections: Any,
) -> Iterator[Cluster]:
    """Started machines in a temporary folder, stopped and removed at the end; ``before`` is called before the start."""
    folder = Path(tempfile.mkdtemp(prefix="spine-cluster-"))
    try:
        made = Cluster(folder, dsn, roles, kind, **sections)
        before(made)
        with ExitStack() as stack:
            for machine in made.machines.values():
                stack.callback(machine.stop)
                machine.start(wait=False)
            for machine in made.machines.values():
                machine.await_ready(PATIENCE_S)
            yield made
            for machine in made.machines.values():
                if machine.process.poll() is None:
                    machine.process.terminate()  # all at once; each is then waited for
    finally:
        shutil.rmtree(folder, ignore_errors=True)
