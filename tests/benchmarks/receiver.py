"""The node's listener in a process of its own, so that its CPU time and memory can be told from the sender's.

``python -m tests.benchmarks.receiver SPOOL [--plain] [--digest] [--ledger DSN]`` prints its port, and ends with its
standard input. ``--digest``: SHA-256 of every file, in a thread behind the acknowledgement; ``--ledger``: the real
registrar, which does that too.
"""

from __future__ import annotations

import argparse
import hashlib
import queue
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import structlog

from node.receive.association import Listener
from node.receive.spool import Reception, Spool
from node.settings import Receive


def main() -> None:
    """Listen until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("spool", type=Path)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--digest", action="store_true")
    parser.add_argument("--ledger")
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with ExitStack() as stack:
        spool = Spool(options.spool)
        arrived: Any = _nothing
        record: Any = _nothing
        if options.digest:
            arrivals: queue.SimpleQueue[Reception] = queue.SimpleQueue()
            threading.Thread(target=_digest, args=(spool, arrivals), daemon=True).start()
            arrived = arrivals.put
        if options.ledger:
            from node.ledger import Database
            from node.receive.registrar import Registrar

            database = stack.enter_context(Database(options.ledger, connections=2))
            registrar = Registrar(spool, database, lambda _connection, _study: None)
            registrar.start()
            stack.callback(registrar.stop)
            arrived, record = registrar.arrived, registrar.record
        listener = Listener(Receive(port=0, free_space_reserve_mb=0), spool, arrived, record, plain=options.plain)
        listener.start()
        print(listener.port, flush=True)
        sys.stdin.read()
        listener.stop()


def _nothing(*_: object) -> None:
    return


def _digest(spool: Spool, arrivals: queue.SimpleQueue[Reception]) -> None:
    while True:
        try:
            hashlib.sha256(spool.path(arrivals.get().spool_name).read_bytes())
        except FileNotFoundError:  # the bench has cleared the spool
            continue


if __name__ == "__main__":
    main()
