"""The processes of a running node as their supervisor sees them: one for each role, any of which may die any time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress

import structlog

from node.metrics.channel import Channel
from node.metrics.tally import RESTARTS, TALLY
from node.settings import Settings

log = structlog.get_logger(__name__)

ROLE_PROGRAM = "node.role"
"""Module that is run for each role."""
RESTART_PAUSE_S = 1.0
LONGEST_RESTART_PAUSE_S = 30.0
"""Between starts of a process that ends with an error each time (its networks cannot be loaded)."""


class RoleProcess:
    """A process that gets ready for a role and waits for its order; it ends when its standard input does.

    ``channel``: on which it tells what it counts, where the configuration opens a port for monitors.
    """

    def __init__(self, role: str, settings: Settings) -> None:
        command = [sys.executable, "-m", ROLE_PROGRAM, role]
        self.channel: Channel | None = None
        if settings.metrics.port is None:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
            return
        self.channel = Channel()
        inherited = self.channel.inherited
        self.process = subprocess.Popen([*command, str(inherited)], stdin=subprocess.PIPE, pass_fds=[inherited])
        self.channel.started()

    def order(self, line: bytes) -> None:
        """Tell it what to do, or what to do from now on."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already: it is started again, and begins with its order
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def close(self) -> None:
        """Close what joins us with a process that has ended."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.channel is not None:
            self.channel.close()

    def end(self) -> None:
        """SIGTERM, where it runs still, and wait for it."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.close()


class Child:
    """One role in a process of its own, started again whenever it ends.

    ``prepared``: its first process, which waits for the order.
    """

    def __init__(self, role: str, settings: Settings, dsn: str, prepared: RoleProcess | None = None) -> None:
        self.role = role
        self._settings = settings
        self._dsn = dsn
        self._pause_s = RESTART_PAUSE_S
        self._start(prepared)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its present process."""
        return self._running.process

    @property
    def channel(self) -> Channel | None:
        """On which the present process tells what it counts."""
        return self._running.channel

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def _order(self) -> bytes:
        order = {"settings": self._settings.model_dump(mode="json"), "dsn": self._dsn}
        return (json.dumps(order) + "\n").encode("utf-8")

    def _start(self, prepared: RoleProcess | None = None) -> None:
        self._running = prepared or RoleProcess(self.role, self._settings)
        self._running.order(self._order())
        self._renewing = False
        self._not_before = time.monotonic() + self._pause_s

    def restart_if_ended(self) -> bool:
        """Start it again when it ended, not faster than once a second; ever slower while it ends with an error.

        Returns whether it was started.
        """
        if self.process.poll() is None or time.monotonic() < self._not_before:
            return False
        lived_s = time.monotonic() - self._not_before + self._pause_s
        # a negative code is a signal's: being killed is nothing that it did
        failed = self.process.returncode > 0 and lived_s < 2 * LONGEST_RESTART_PAUSE_S
        self._pause_s = min(2 * self._pause_s, LONGEST_RESTART_PAUSE_S) if failed else RESTART_PAUSE_S
        if not self._renewing:
            log.error("a process ended and is started again", child=self.role, exit_code=self.process.returncode)
            TALLY.count(RESTARTS, self.role)
        self._running.close()
        self._start()
        return True

    def reload(self, settings: Settings) -> None:
        """Send it other settings, which it takes up as it runs."""
        self._settings = settings
        self._running.order(self._order())

    def renew(self, settings: Settings) -> None:
        """Have it finish what runs, and begin again with other settings."""
        self._settings = settings
        self._renewing = True
        self.process.terminate()

    def stop(self, deadline: float) -> None:
        """Wait for it to end (it was sent SIGTERM) until ``deadline`` of the monotonic clock, then kill it."""
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("a process did not end in time and is killed", child=self.role)
            self.process.kill()
            self.process.wait()
        self._running.close()
