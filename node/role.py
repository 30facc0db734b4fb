"""One process of the node: ``python -m node.role receive``. Its supervisor tells it everything over standard input.

The order is one line of JSON; after it the pipe stays open for reloads, which look the same, and its end means that the
supervisor is gone. Each role's modules are imported in its own process only, before the order is read: the listener
needs no networks, and is ready as soon as the supervisor has a database for it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TextIO

import structlog

from node.logs import configure_logs, count_as, log_uncaught
from node.metrics.channel import answer_from
from node.metrics.tally import TALLY
from node.process import check_storage, reload
from node.settings import Settings

log = structlog.get_logger(__name__)

ROLES = {"receive": "node.receive.role", "evaluate": "node.evaluating", "deliver": "node.deliver.role"}
"""Role to the module whose ``run(settings, dsn)`` is the process."""


def main(role: str, orders: TextIO, figures: int | None = None) -> None:
    """Get ready, read the order and run the role until SIGTERM or until the supervisor is gone.

    ``figures``: the descriptor on which the supervisor asks what this process counts.
    """
    configure_logs()
    count_as(role)
    if figures is not None:
        answer_from(figures, TALLY)
    log_uncaught()
    os.umask(0o077)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's: it says what to reload
    structlog.contextvars.bind_contextvars(role=role)
    run: Callable[[Settings, str], None] = importlib.import_module(ROLES[role]).run
    line = orders.readline()
    if not line:  # the supervisor has ended before there was anything to do
        return
    order = json.loads(line)

    def follow_supervisor() -> None:
        for line in orders:
            try:
                reload(Settings.model_validate(json.loads(line)["settings"]))
            except Exception as error:  # the former settings stay, and the supervisor is followed on
                log.error("not reloaded", reason=type(error).__name__)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow_supervisor, name="follow supervisor", daemon=True).start()
    settings = Settings.model_validate(order["settings"])
    check_storage(settings)  # the volume may have gone since the supervisor looked: nothing is done beside it
    run(settings, order["dsn"])


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin, int(sys.argv[2]) if len(sys.argv) > 2 else None)
