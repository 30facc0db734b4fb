"""A delivery at which a sending process has died, tried again in a process of its own.

::

    sent among others ── the process dies ──▶ each that was under way: tried apart
    tried apart ─┬─ ends, however ──────────▶ among others again
                 └─ its process dies ───────▶ counted against this delivery; tried apart again, at last parked

Whatever dies there, nothing else was under way in it: nobody is parked for another's deaths, and all others go on
meanwhile. What is to go to a destination, or belongs to an answer, of which a sender has died is tried apart, too: it
may be the archive's answers, or the objects, that kill.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TextIO

import structlog

from node.deliver.courier import Courier
from node.ledger import Database, deaths, intake
from node.logs import configure_logs, count_as, log_uncaught
from node.metrics.tally import TALLY
from node.process import check_storage
from node.queue import AWAY, DELIVER, delivery_key
from node.settings import ConfigurationError, Settings

log = structlog.get_logger(__name__)

DEADLY = (
    "the sending process died {} times at this delivery, at last with nothing else under way: see the logs of node and "
    "machine"
)
FEWEST_DEATHS = 2
"""Before a delivery is parked, whatever the configuration says: the first one may have been a neighbour's."""
PASSING = 75
"""Exit code (EX_TEMPFAIL of sysexits.h) of a process that could not do its work, and did not die of it."""
CONNECTIONS = 2
FIRST_TO_GO = "1000"
"""For the machine that looks for a process to kill when memory is short (proc(5), oom_score_adj)."""


class Careful:
    """A courier who tries apart what a sending process has died of."""

    def __init__(self, settings: Settings, database: Database, courier: Courier) -> None:
        self._settings = settings
        self._database = database
        self._courier = courier
        self._known = {destination.name for destination in settings.destinations}

    def deliver(self, answer_id: int, destination: str) -> None:
        """`Courier.deliver`, here or in a process of its own."""
        with self._database.transaction() as connection:
            apart = deaths.is_tried_apart(connection, answer_id, destination)
        if not apart or destination not in self._known:  # without a destination nothing is sent
            self._courier.deliver(answer_id, destination)
            return
        exit_code = self._run(answer_id, destination)
        with self._database.transaction() as connection:
            if exit_code == 0 or not deaths.is_outstanding(connection, answer_id, destination):
                deaths.ended(connection, answer_id, destination)
                return
        if exit_code != PASSING:
            self._died(answer_id, destination, exit_code)
        self._courier.wake_again(answer_id, destination, self._settings.deliver.backoff_s[0])

    def _run(self, answer_id: int, destination: str) -> int:
        """Exit code of the process; negative: killed by that signal. It ends when this one does."""
        order = {
            "settings": self._settings.model_dump(mode="json"),
            "dsn": self._database.dsn,
            "answer_id": answer_id,
            "destination": destination,
        }
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "node.deliver.apart"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError as error:
            log.warning("no process could be started", reason=type(error).__name__)
            return PASSING
        with process:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()
            counted = process.stdout.read()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        with contextlib.suppress(ValueError):
            TALLY.add({(name, tuple(labels)): value for name, labels, value in json.loads(counted)})
        return process.returncode

    def _died(self, answer_id: int, destination: str, exit_code: int) -> None:
        """Count it against the delivery; park that in the end."""
        with self._database.transaction() as connection:
            died = deaths.died_alone(connection, answer_id, destination)
            detail = {"task": DELIVER, "alone": True, "exit_code": exit_code}
            intake.record_event(connection, "worker_died", delivery_key(answer_id, destination), detail)
        log.error("a sender died, alone", destination=destination, deaths=died, exit_code=exit_code)
        if died >= max(self._settings.work.max_attempts, FEWEST_DEATHS):
            self._courier.give_up(answer_id, destination, DEADLY.format(died))
            with self._database.transaction() as connection:
                deaths.gave_up(connection, answer_id, destination)


def main(orders: TextIO) -> int:
    """Try one delivery; what was counted goes to standard output. Returns the exit code."""
    configure_logs()
    count_as("deliver")
    log_uncaught()
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the sending process is asked to end, and waits for this one
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO, encoding="ascii")
    structlog.contextvars.bind_contextvars(role="deliver", apart=True)
    order = json.loads(orders.readline())

    def follow_sender() -> None:
        orders.read()
        os._exit(PASSING)  # it is gone, and another one may try this delivery

    threading.Thread(target=follow_sender, name="follow sender", daemon=True).start()
    settings = Settings.model_validate(order["settings"])
    try:
        check_storage(settings)
        with Database(order["dsn"], connections=CONNECTIONS) as database:
            Courier(settings, database).deliver(order["answer_id"], order["destination"])
    except (*AWAY, ConfigurationError, OSError, MemoryError) as error:
        log.warning("not tried", reason=type(error).__name__)
        return PASSING
    json.dump([[name, labels, value] for (name, labels), value in TALLY.read().items()], sys.stdout)
    return 0


if __name__ == "__main__":
    code = main(sys.stdin)
    sys.stdout.flush()
    os._exit(code)  # a thread reads standard input: nothing that tidies up behind it may make this end a death
