"""The queue (Procrastinate): wakes workers, holds no truth. Whatever is lost here is woken again from the ledger.

Rules: a job is deferred in the transaction of the state change, inside a savepoint, last; one
job waits per key (``queueing_lock``) and one runs per key (``lock``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import procrastinate
import psycopg
import structlog
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException, UniqueViolation
from procrastinate.signals import on_stop
from psycopg.rows import dict_row
from psycopg_pool import PoolTimeout

from node.ledger import deaths, intake
from node.ledger.database import RECONNECT_S

log = structlog.get_logger(__name__)

EVALUATE = "evaluate"
DELIVER = "deliver"
POLLING_S = 0.5
"""A job that was scheduled for later is not announced when its time comes: it is found within this time."""

LONGEST_QUEUE_NAME = 40
"""PostgreSQL refuses a notification on a channel of 64 bytes, and Procrastinate's prefix has 23 of them."""
MOST_CONNECTIONS = 10
"""Of a process to the queue: each is needed for milliseconds."""
AWAY = (psycopg.Error, PoolTimeout, ConnectorException)
"""What ledger and queue raise while they are away: no fault of the work that needs them."""


def delivery_queue(destination: str) -> str:
    """The queue of one destination, so that one that hangs delays no other; a long name is cut and digested."""
    name = f"{DELIVER}:{destination}"
    if len(name) <= LONGEST_QUEUE_NAME:
        return name
    digest = hashlib.sha256(destination.encode("utf-8")).hexdigest()[:12]
    return f"{name[: LONGEST_QUEUE_NAME - 13]}#{digest}"


def delivery_key(answer_id: int, destination: str) -> str:
    """One delivery job of an answer to a destination waits, and one runs, at a time."""
    return f"delivery:{destination}:{answer_id}"


class Queue:
    """Defers jobs on a caller's connection."""

    def __init__(self, dsn: str) -> None:
        self._app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=dsn))

    def wake_evaluation(self, connection: psycopg.Connection[Any], study_uid: str, delay_s: float) -> None:
        """Have a worker look at a study after ``delay_s``."""
        self._defer(connection, EVALUATE, EVALUATE, f"study:{study_uid}", delay_s, study_uid=study_uid)

    def wake_delivery(
        self, connection: psycopg.Connection[Any], answer_id: int, destination: str, delay_s: float = 0.0
    ) -> None:
        """Have a worker send an answer's outstanding results to one destination after ``delay_s``, or sooner.

        A job that waits already is brought forward: something new must not wait for a proof that is due tomorrow.
        """
        key = delivery_key(answer_id, destination)
        queue = delivery_queue(destination)
        if not self._defer(connection, DELIVER, queue, key, delay_s, answer_id=answer_id, destination=destination):
            connection.execute(
                """
                UPDATE procrastinate_jobs SET scheduled_at = now() + make_interval(secs => %s)
                 WHERE queueing_lock = %s AND status = 'todo' AND scheduled_at > now() + make_interval(secs => %s)
                """,
                (max(delay_s, 0.0), key, max(delay_s, 0.0)),
            )

    def _defer(
        self, connection: psycopg.Connection[Any], task: str, queue: str, key: str, delay_s: float, **arguments: Any
    ) -> bool:
        """Whether the job was deferred: not where one of that key waits already."""
        configured = self._app.configure_task(
            task,
            queue=queue,
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
            return False
        return True


def run_worker(
    dsn: str,
    tasks: dict[str, Callable[..., None]],
    *,
    concurrency: int,
    stalled_after_s: float,
    drain_s: float,
    name: str,
    queues: Sequence[str] | None = None,
    give_up: Callable[[], None] = lambda: None,
) -> None:
    """Work on ``queues`` until SIGTERM or SIGINT; then finish what runs within ``drain_s``.

    Each queue has a worker, and so ``concurrency`` places, of its own; without ``queues`` each task's queue is the one
    of its name. When one worker ends by itself (its connection broke), all end.

    What does not end in time is handed back: others take these jobs at once, and nobody takes this process for dead.
    It then ends here and now, with exit status 0, because threads cannot be ended. ``give_up`` is called before, to
    take back what the jobs have written of themselves.
    """
    queues = list(tasks) if queues is None else queues
    places = concurrency * len(queues)
    connector = procrastinate.PsycopgConnector(
        conninfo=dsn,
        max_size=max(concurrency + 3, min(places + 3, MOST_CONNECTIONS)),
        reconnect_timeout=RECONNECT_S,
    )
    app = procrastinate.App(connector=connector)
    running: dict[int | None, procrastinate.jobs.Job] = {}

    def known_while_it_runs(function: Callable[..., None]) -> Callable[..., None]:
        def run(context: procrastinate.JobContext, **arguments: Any) -> None:
            running[context.job.id] = context.job
            try:
                function(**arguments)
            finally:
                del running[context.job.id]

        return run

    for task_name, function in tasks.items():
        app.task(name=task_name, queue=task_name, pass_context=True)(known_while_it_runs(function))

    async def work_on(queue: str) -> None:
        await app.run_worker_async(
            queues=[queue],
            name=name,
            concurrency=concurrency,
            fetch_job_polling_interval=POLLING_S,
            # no shutdown_graceful_timeout: after it Procrastinate would wait for threads, whose jobs stay in work
            install_signal_handlers=False,  # each worker's would replace those of the one before
            update_heartbeat_interval=max(stalled_after_s / 3, 0.5),
            stalled_worker_timeout=stalled_after_s,
            delete_jobs="always",  # one that failed holds nothing that the ledger lacks, and names a study
        )

    async def work() -> None:
        # asyncio's own threads are as few as the machine's cores: a hanging destination would take them all
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(places, thread_name_prefix=name))
        stop = asyncio.Event()
        with on_stop(stop.set):
            async with app.open_async():
                workers = [asyncio.create_task(work_on(queue)) for queue in queues]
                stopped = asyncio.create_task(stop.wait())
                await asyncio.wait([stopped, *workers], return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                for worker in workers:
                    worker.cancel()  # to Procrastinate: take no more, finish what runs
                _, late = await asyncio.wait(workers, timeout=drain_s)
                if late:
                    await _hand_back(app, list(running.values()), give_up)
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(0)
                for worker in workers:
                    with contextlib.suppress(asyncio.CancelledError):
                        worker.result()

    asyncio.run(work())


async def _hand_back(
    app: procrastinate.App, jobs: Sequence[procrastinate.jobs.Job], give_up: Callable[[], None]
) -> None:
    """Let others have these jobs; what fails at it is found later, like the work of a process that died."""
    log.warning("what did not end in time is handed back", jobs=len(jobs))
    try:
        give_up()
    except AWAY as error:
        log.warning("an attempt that was given up stays counted", reason=type(error).__name__)
    try:
        for job in jobs:
            try:
                await app.job_manager.retry_job(job)
            except UniqueViolation:  # its like waits already
                await app.job_manager.finish_job(job, status=procrastinate.jobs.Status.FAILED, delete_job=True)
    except AWAY as error:
        log.warning("not handed back", reason=type(error).__name__)


def forget_ended(connection: psycopg.Connection[Any], limit: int) -> int:
    """Delete jobs that ended and are still there: former programs kept those that failed. Returns how many."""
    return connection.execute(
        """
        DELETE FROM procrastinate_jobs WHERE id IN (
            SELECT id FROM procrastinate_jobs WHERE status NOT IN ('todo', 'doing') ORDER BY id LIMIT %s)
        """,
        (limit,),
    ).rowcount


def release_stalled(dsn: str, stalled_after_s: float) -> int:
    """End the jobs of workers without a heartbeat; the ledger wakes their work again. Returns how many.

    Each is an event ``worker_died`` of its study or, of a delivery, of its key; that is tried apart from others then.
    """

    async def release() -> list[procrastinate.jobs.Job]:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, min_size=1, max_size=2))
        async with app.open_async():
            stalled = list(await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=stalled_after_s))
            ended = []
            for job in stalled:
                try:
                    await app.job_manager.finish_job(job, status=procrastinate.jobs.Status.FAILED, delete_job=True)
                except ConnectorException:  # another machine's keeper was first, or the database is away
                    continue
                ended.append(job)
            return ended

    released = asyncio.run(release())
    if released:
        with psycopg.connect(dsn, row_factory=dict_row) as connection:
            for job in released:
                arguments: dict[str, Any] = job.task_kwargs
                subject = str(arguments.get("study_uid") or job.lock or "")  # a study's UID alone: erasure finds it
                intake.record_event(connection, "worker_died", subject, {"task": job.task_name})
                if job.task_name == DELIVER:
                    deaths.died_among_others(connection, arguments["answer_id"], arguments["destination"])
    return len(released)
