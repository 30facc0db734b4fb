"""The queue (Procrastinate): wakes workers, holds no truth. Whatever is lost here is woken again from the ledger.

Rules (durability.md, rule 3): a job is deferred in the transaction of the state change, inside a savepoint, last; one
job waits per key (``queueing_lock``) and one runs per key (``lock``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import procrastinate
import psycopg
from procrastinate.exceptions import AlreadyEnqueued

EVALUATE = "evaluate"
DELIVER = "deliver"


class Queue:
    """Defers jobs on a caller's connection."""

    def __init__(self, dsn: str) -> None:
        self._app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=dsn))

    def wake_evaluation(self, connection: psycopg.Connection[Any], study_uid: str, delay_s: float) -> None:
        """Have a worker look at a study after ``delay_s``."""
        self._defer(connection, EVALUATE, f"study:{study_uid}", delay_s, study_uid=study_uid)

    def wake_delivery(
        self, connection: psycopg.Connection[Any], answer_id: int, destination: str, delay_s: float = 0.0
    ) -> None:
        """Have a worker send an answer's outstanding results to one destination after ``delay_s``."""
        key = f"delivery:{destination}:{answer_id}"
        self._defer(connection, DELIVER, key, delay_s, answer_id=answer_id, destination=destination)

    def _defer(
        self, connection: psycopg.Connection[Any], task: str, key: str, delay_s: float, **arguments: Any
    ) -> None:
        configured = self._app.configure_task(
            task,
            queue=task,
            lock=key,
            queueing_lock=key,
            schedule_in={"seconds": max(delay_s, 0.0)},
            connection=connection,
            allow_unknown=True,
        )
        try:
            with connection.transaction():  # a savepoint: a second defer must not abort the state change
                configured.defer(**arguments)
        except AlreadyEnqueued:
            return


def run_worker(
    dsn: str,
    tasks: dict[str, Callable[..., None]],
    *,
    concurrency: int,
    stalled_after_s: float,
    drain_s: float,
    name: str,
) -> None:
    """Work on the queues of ``tasks`` until SIGTERM or SIGINT; then finish what runs within ``drain_s``."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, max_size=concurrency + 3))
    for task_name, function in tasks.items():
        app.task(name=task_name, queue=task_name)(function)

    async def work() -> None:
        async with app.open_async():
            await app.run_worker_async(
                queues=list(tasks),
                name=name,
                concurrency=concurrency,
                fetch_job_polling_interval=2.0,
                shutdown_graceful_timeout=drain_s,
                update_heartbeat_interval=max(stalled_after_s / 3, 0.5),
                stalled_worker_timeout=stalled_after_s,
                delete_jobs="successful",
            )

    asyncio.run(work())


def release_stalled(dsn: str, stalled_after_s: float) -> int:
    """End the jobs of workers without a heartbeat; the ledger wakes their work again. Returns how many."""

    async def release() -> int:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, min_size=1, max_size=2))
        async with app.open_async():
            stalled = list(await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=stalled_after_s))
            for job in stalled:
                await app.job_manager.finish_job(job, status=procrastinate.jobs.Status.FAILED, delete_job=True)
            return len(stalled)

    return asyncio.run(release())
