"""The receiving process: listener and registrar."""

from __future__ import annotations

import psycopg

from node.deliver.reports import ReportDesk
from node.ledger import Database
from node.process import stop_event, write_state
from node.queue import Queue
from node.receive.association import Listener
from node.receive.registrar import Registrar
from node.receive.spool import Spool
from node.settings import Settings


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
        write_state(settings, port=listener.port)
        stop.wait()
        listener.stop(settings.work.drain_s)
        registrar.stop()
