"""The desk where reports of storage commitment arrive, whichever way they came: entered before they are answered.

A report is answered with success only once the ledger has it. Where the ledger is away, the archive is told so; an
archive that does not report again is asked again.
"""

from __future__ import annotations

import psycopg
import structlog
from procrastinate.exceptions import ConnectorException
from psycopg_pool import PoolTimeout
from pydicom.dataset import Dataset
from pynetdicom import evt

from node.deliver.commitment import ALL_COMMITTED, FAILURES_EXIST, InvalidReportError, Report, next_step, read_report
from node.ledger import Database, deliveries, intake, outdated, proofs
from node.queue import Queue
from node.settings import Deliver

log = structlog.get_logger(__name__)

SUCCESS, PROCESSING_FAILURE, NO_SUCH_EVENT_TYPE, INVALID_ARGUMENT = 0x0000, 0x0110, 0x0113, 0x0115
"""DIMSE statuses of an N-EVENT-REPORT response (PS3.7 10.1.1.1.8)."""


class ReportDesk:
    """Enters what archives report."""

    def __init__(self, rules: Deliver, database: Database) -> None:
        self._rules = proofs.Rules(rules.report_patience_s, rules.most_resent)
        self._database = database
        self._queue = Queue(database.dsn)

    def on_event_report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Handler of N-EVENT-REPORT, on our association or on one that an archive opened to our listener."""
        try:
            information = event.event_information
        except Exception:  # whatever pydicom makes of a stranger's bytes
            information = None
        archive = event.assoc.acceptor if event.assoc.is_requestor else event.assoc.requestor
        return self.answer(int(event.request.EventTypeID or 0), information, archive.ae_title), None

    def answer(self, event_type: int, information: Dataset | None, reporter: str) -> int:
        """Enter a report; returns the DIMSE status of the answer.

        Parameters
        ----------
        reporter
            AE title of the archive, for the ledger's events.
        """
        if event_type not in (ALL_COMMITTED, FAILURES_EXIST):
            return NO_SUCH_EVENT_TYPE
        try:
            if information is None:
                raise InvalidReportError("a report of storage commitment that cannot be read")
            report = read_report(event_type, information)
        except InvalidReportError as error:
            log.warning("a report was refused", reason=str(error))
            return INVALID_ARGUMENT
        try:
            return self._enter(report, reporter)
        except (psycopg.Error, PoolTimeout, ConnectorException) as error:
            log.warning("a report could not be entered; the ledger is away", reason=type(error).__name__)
            return PROCESSING_FAILURE

    def _enter(self, report: Report, reporter: str) -> int:
        with self._database.transaction() as connection:
            found = proofs.report(
                connection, report.transaction_uid, report.committed, report.failed, next_step, self._rules
            )
            if found is None:
                intake.record_event(connection, "commitment_unknown", reporter, {"objects": len(report.committed)})
                log.warning("a report of a transaction that was never asked for", reporter=reporter)
                return INVALID_ARGUMENT
            for uid, reason in found.parked.items():
                outdated.record_parked(connection, uid, {"reason": reason})
            waits = deliveries.waits(connection, found.answer_id, found.destination)
            if waits:
                wait_s = min(row["wait_s"] for row in waits)
                self._queue.wake_delivery(connection, found.answer_id, found.destination, wait_s)
        return SUCCESS
