"""Keeps the promise while nobody looks: takes over from the dead, wakes what is outstanding, lets old images go."""

from __future__ import annotations

from functools import partial

import psycopg
import structlog
from procrastinate.exceptions import ConnectorException
from psycopg_pool import PoolTimeout

from node.deliver.retraction import Retractor, maker
from node.ledger import Database, answers, deliveries, erasure, intake
from node.leftovers import Leftovers, delete_each, delete_result
from node.queue import Queue, forget_ended, release_stalled
from node.receive.spool import Spool
from node.settings import Settings

log = structlog.get_logger(__name__)

RETENTION_BATCH = 500
EVENT_DAYS = 365.0


class Keeper:
    """Derives outstanding work from the ledger; safe to run on several machines at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._queue = Queue(database.dsn)
        self._spool = Spool(settings.spool_dir)
        self._leftovers = Leftovers(settings, database, self._spool)
        self._retractor = Retractor(settings, database, maker(settings))

    def round(self) -> None:
        """One look at everything; whatever fails is tried again in the next round."""
        try:
            self.take_over()
            self.wake_outstanding()
            self.expire()
            self._leftovers.sweep()
            if self._settings.deliver.reject_superseded:
                self._retractor.reject_superseded()
        except (psycopg.Error, PoolTimeout, ConnectorException, OSError) as error:
            log.warning("the ledger or the storage is away", reason=type(error).__name__)
        except Exception:
            log.exception("a round of the keeper failed")

    def take_over(self) -> None:
        """End the jobs of dead workers, so that ``wake_outstanding`` gives their work to others."""
        released = release_stalled(self._database.dsn, self._settings.work.stalled_after_s)
        if released:
            log.warning("took over from dead workers", jobs=released)

    def wake_outstanding(self) -> None:
        """Defer a job for whatever the ledger says is outstanding and has none."""
        with self._database.transaction() as connection:
            for study_uid in answers.outstanding_studies(connection):
                wait_s = answers.seconds_until_quiet(connection, study_uid, self._settings.study.quiet_s)
                self._queue.wake_evaluation(connection, study_uid, wait_s or 0.0)
        with self._database.transaction() as connection:
            for row in deliveries.outstanding(connection):
                self._queue.wake_delivery(connection, row["answer_id"], row["destination"], row["wait_s"])

    def expire(self) -> None:
        """Delete images and results past their retention: first the ledger says so, then the file goes.

        A file that does not go, or was not reached, is a leftover: it is found again.
        """
        rules = self._settings.retention
        with self._database.transaction() as connection:
            rows = intake.expired(connection, rules.answered_hours, rules.not_eligible_hours, RETENTION_BATCH)
            intake.mark_erased(connection, [row["id"] for row in rows])
            results = intake.expired_results(connection, rules.answered_hours, RETENTION_BATCH)
            intake.mark_results_erased(connection, [row["id"] for row in results])
            intake.forget_events(connection, EVENT_DAYS)
            forget_ended(connection, RETENTION_BATCH)
            erasure.forget(connection, erasure.old_studies(connection, rules.ledger_days, RETENTION_BATCH))
        delete_each([row["spool_name"] for row in rows], self._spool.remove)
        delete_each([row["outbox_name"] for row in results], partial(delete_result, self._settings.outbox_dir))
        if rows or results:
            log.info("past their retention and deleted", images=len(rows), results=len(results))
