"""The delivering process; one destination that hangs holds up one of many places."""

from __future__ import annotations

from node.deliver.courier import Courier
from node.ledger import Database
from node.queue import DELIVER, run_worker
from node.settings import Settings


def run(settings: Settings, dsn: str) -> None:
    """Send results until told to stop."""
    places = max(4, 2 * len(settings.destinations))
    with Database(dsn, connections=places + 1) as database:
        courier = Courier(settings, database)
        run_worker(
            dsn,
            {DELIVER: courier.deliver},
            concurrency=places,
            stalled_after_s=settings.work.stalled_after_s,
            drain_s=settings.work.drain_s,
            name="deliver",
        )
