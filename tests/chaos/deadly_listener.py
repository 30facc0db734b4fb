"""A listener like the node's that dies by SIGKILL at a step of an instance, or never registers one.

``python -m tests.chaos.deadly_listener STEP NUMBER`` takes the same order over standard input as ``python -m node.role
receive``; it dies at that step of the instance of that number, counted from 1.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from node.receive import role, spool_file
from node.receive.registrar import Registrar
from node.receive.spool import Spool
from node.settings import Settings

HALF_WRITTEN = "half of it is written"
WRITTEN = "it is written and not flushed"
FLUSHED = "it is flushed and not acknowledged"
ACKNOWLEDGED = "it is acknowledged and not registered"


def main(step: str, number: int) -> None:
    """Receive until the end."""
    order = json.loads(sys.stdin.readline())
    counted = itertools.count(1)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write_all, make_durable = spool_file._write_all, Spool._make_durable

    def write_half(descriptor: int, pieces: Any, total: int) -> None:
        if next(counted) == number:
            whole = b"".join(pieces)
            os.write(descriptor, whole[: len(whole) // 2])
            die()
        write_all(descriptor, pieces, total)

    def flush(spool: Spool, descriptor: int, spool_name: str) -> None:
        last = next(counted) == number
        if last and step == WRITTEN:
            die()
        make_durable(spool, descriptor, spool_name)
        if last:
            die()

    def never(_registrar: Registrar, _items: object) -> None:
        threading.Event().wait()

    patches: dict[str, Callable[[], None]] = {
        HALF_WRITTEN: lambda: setattr(spool_file, "_write_all", write_half),
        WRITTEN: lambda: setattr(Spool, "_make_durable", flush),
        FLUSHED: lambda: setattr(Spool, "_make_durable", flush),
        ACKNOWLEDGED: lambda: setattr(Registrar, "_transact", never),
    }
    patches[step]()
    role.run(Settings.model_validate(order["settings"]), order["dsn"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
