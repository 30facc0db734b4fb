"""Work on many images by as many threads as there are cores.

Reading, hashing and arithmetic on arrays let other threads run; decoders of compressed images do not: there each thread
has a process that decodes for it (:mod:`node.gate.decoding`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVarTuple

MOST_THREADS = 8
TURNS = 8
"""Of each thread, where there are so many items: handing over costs more than reading a small image."""

Arguments = TypeVarTuple("Arguments")


def in_parallel(
    work: Callable[[*Arguments], None], items: Iterable[tuple[*Arguments]], threads: int | None = None
) -> None:
    """Call ``work`` with each of the items, in so many threads; ``None``: one for each core, `MOST_THREADS` at most.

    Raises
    ------
    Exception
        That of the first item, in their order, for which ``work`` raised; what was not begun then is not begun.
    """
    each = list(items)
    threads = threads or min(len(os.sched_getaffinity(0)), MOST_THREADS)
    together = max(1, len(each) // (threads * TURNS))

    def several(start: int) -> None:
        for item in each[start : start + together]:
            work(*item)

    with ThreadPoolExecutor(threads, "images") as pool:
        pending = [pool.submit(several, start) for start in range(0, len(each), together)]
        try:
            for future in pending:
                future.result()
        finally:
            for future in pending:
                future.cancel()
