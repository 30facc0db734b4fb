"""What lies acknowledged in the spool and is not in the ledger: no study is complete meanwhile, and dead listeners'
files are found.

Directories that were found wholly registered are not read again until their time of change moves: with a hundred
thousand images a day reading all of them would cost each evaluation seconds.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from node.ledger import intake
from node.receive.spool import Spool

CLOCK_TICK_S = 2.0
"""A directory that changed this recently may change again within the same tick of its time stamp."""
HOUR = "%Y%m%d%H"


class Backlog:
    """Looks for names that the ledger does not have. Threads may share it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._settled: dict[str, int] = {}

    def names(self, connection: intake.Connection, older_than_s: float) -> list[str]:
        """Names of whole or torn instances, last written at least so long ago, that have no row; oldest hour first."""
        changes = self._spool.changes()
        # copied: what another thread notes meanwhile is lost, and its directory read once more
        self._settled = {hour: at for hour, at in self._settled.copy().items() if hour in changes}
        unsettled = [hour for hour, at in changes.items() if self._settled.get(hour) != at]
        if not unsettled:
            return []
        registered = intake.registered_per_hour(connection, _begin(min(unsettled)))
        suspicious = []
        for hour, files in self._spool.hours(unsettled).items():
            if files != registered.get(hour, 0):  # fewer, too: what is lost must not hide what is new
                suspicious.append(hour)
            elif time.time_ns() - changes[hour] > CLOCK_TICK_S * 1e9:
                self._settled[hour] = changes[hour]
        if not suspicious:
            return []
        names = self._spool.names_older_than(older_than_s, suspicious)
        known = intake.registered(connection, names)
        return [name for name in names if name not in known]


def _begin(hour: str) -> datetime:
    """Earlier than the arrival of everything in an hour's directory."""
    try:
        return datetime.strptime(hour, HOUR).replace(tzinfo=UTC) - timedelta(hours=1)
    except (ValueError, OverflowError):  # a directory of somebody else's with ten digits
        return datetime.min.replace(tzinfo=UTC)
