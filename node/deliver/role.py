"""The delivering process: places of their own for each destination, so that one that hangs delays no other."""

from __future__ import annotations

import structlog

from node.deliver.apart import Careful
from node.deliver.courier import Courier
from node.ledger import Database
from node.queue import DELIVER, delivery_queue, run_worker
from node.settings import Settings

log = structlog.get_logger(__name__)

PLACES_PER_DESTINATION = 2
MOST_CONNECTIONS = 10
"""To the ledger: a transaction takes milliseconds, none is open while something is sent."""


def run(settings: Settings, dsn: str) -> None:
    """Send results until told to stop."""
    for destination in settings.destinations:
        if destination.commitment == "none":
            log.warning("a destination proves nothing: what it accepts is taken to be there", name=destination.name)
        if not destination.patient_check:
            log.info("a destination is not asked whose a study is before sending", name=destination.name)
    # the first queue is the one that all destinations shared in former versions: an upgrade finds its jobs there
    queues = [DELIVER, *(delivery_queue(destination.name) for destination in settings.destinations)]
    connections = min(PLACES_PER_DESTINATION * len(queues) + 1, MOST_CONNECTIONS)
    with Database(dsn, connections=connections) as database:
        courier = Courier(settings, database)
        courier.park_unconfigured()
        run_worker(
            dsn,
            {DELIVER: Careful(settings, database, courier).deliver},
            concurrency=PLACES_PER_DESTINATION,
            queues=queues,
            stalled_after_s=settings.work.stalled_after_s,
            drain_s=settings.work.drain_s,
            name="deliver",
        )
