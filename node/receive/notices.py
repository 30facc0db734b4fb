"""Events that peers cause, on their way into the ledger: told once a minute each, so that no stranger can fill it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog

from node.metrics.tally import INCIDENTS, TALLY

log = structlog.get_logger(__name__)

PERIOD_S = 60.0
MOST_IN_A_PERIOD = 200
_MOST_KEYS = 2000

EventSink = Callable[[str, str, dict[str, Any]], None]
"""(kind, subject, detail): recorded in the ledger, behind the acknowledgement."""


class Notices:
    """Passes on the first of equal events of a minute, and with the next one how many were held back.

    The log names kind and address only: titles and everything else that a peer has chosen stand in the ledger alone.
    """

    def __init__(self, record: EventSink, clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
        self._clock = clock
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[str, str, str], tuple[float, int]] = OrderedDict()
        self._period_began = clock()
        self._in_period = 0
        self._dropped = 0

    def tell(self, kind: str, subject: str, address: str, **detail: Any) -> None:
        """An event of ``kind`` about ``subject`` (an AE title or nothing), caused from ``address``; never blocks."""
        TALLY.count(INCIDENTS, kind, str(detail.get("reason", "")) if kind == "association_rejected" else "")
        now = self._clock()
        with self._lock:
            dropped = self._begin_period(now)
            held_back = self._held_back((kind, subject, address), now)
        if dropped:
            self._record("events_dropped", "", {"count": dropped})
        if held_back is None:
            return
        if held_back:
            detail["times_before"] = held_back
        log.warning(kind, address=address)
        self._record(kind, subject, {**detail, "from": address})

    def _begin_period(self, now: float) -> int:
        if now - self._period_began < PERIOD_S:
            return 0
        dropped, self._dropped = self._dropped, 0
        self._period_began, self._in_period = now, 0
        return dropped

    def _held_back(self, key: tuple[str, str, str], now: float) -> int | None:
        """How many equal events were held back before this one; ``None`` where this one is, too."""
        told_at, held_back = self._told.get(key, (float("-inf"), 0))
        if now - told_at < PERIOD_S:
            self._told[key] = (told_at, held_back + 1)
            return None
        if self._in_period >= MOST_IN_A_PERIOD:
            self._dropped += 1
            return None
        self._in_period += 1
        self._told[key] = (now, 0)
        self._told.move_to_end(key)
        while len(self._told) > _MOST_KEYS:
            self._told.popitem(last=False)
        return held_back
