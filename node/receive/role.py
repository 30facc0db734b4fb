"""The receiving process: listener and registrar."""

from __future__ import annotations

import psycopg
import structlog

from node.deliver.reports import ReportDesk
from node.ledger import Database
from node.metrics.tally import LISTENERS, MOST_ASSOCIATIONS, OPEN_ASSOCIATIONS, TALLY, WAITING
from node.process import on_reload, stop_event, write_state
from node.queue import Queue
from node.receive.association import Listener
from node.receive.registrar import Registrar
from node.receive.spool import Spool
from node.settings import ConfigurationError, Settings

log = structlog.get_logger(__name__)

CERTIFICATE_PERIOD_S = 5.0
"""How often replaced certificates are looked for."""


def run(settings: Settings, dsn: str) -> None:
    """Listen until told to stop; then let open associations end."""
    stop = stop_event()
    queue = Queue(dsn)
    spool = Spool(settings.spool_dir, settings.receive.free_space_reserve_mb * 2**20)

    def wake(connection: psycopg.Connection[object], study_uid: str) -> None:
        queue.wake_evaluation(connection, study_uid, settings.study.quiet_s)

    with Database(dsn, connections=2) as database:
        registrar = Registrar(spool, database, wake)
        desk = ReportDesk(settings.deliver, database)
        listener = Listener(settings.receive, spool, registrar.arrived, registrar.record, desk.on_event_report)
        registrar.start()
        listener.start()
        TALLY.watch(LISTENERS, lambda: len(listener.ports))
        TALLY.watch(OPEN_ASSOCIATIONS, lambda: listener.associations)
        TALLY.watch(MOST_ASSOCIATIONS, lambda: settings.receive.max_associations)
        TALLY.watch(WAITING, lambda: listener.waiting)
        write_state(settings, port=listener.port, ports=listener.ports)

        def follow(fresh: Settings) -> None:
            try:
                listener.reload(fresh.receive)
            except ConfigurationError as error:
                log.error("access not reloaded; the former rules stay", reason=str(error))

        on_reload(follow)
        while not stop.wait(CERTIFICATE_PERIOD_S):
            listener.renew_certificates()
        listener.stop(settings.work.drain_s)
        registrar.stop()
