"""The running node: a supervisor with a child for each role, each of which may die at any moment.

``receive`` listens and spools, ``evaluate`` answers studies, ``deliver`` sends results. The supervisor owns the private
database, starts children again, and runs the keeper. Nothing is handed from process to process but through spool,
outbox and ledger.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from node.child import Child, RoleProcess
from node.ledger import Database, DatabaseError, check_server, migrate, private_database, revive_private_database
from node.logs import count_as
from node.machines import at_work
from node.metrics.tally import RESTARTS, TALLY
from node.process import check_storage, read_state, reload_event, state_path, stop_event, write_state
from node.receive.access import left_open
from node.role import ROLES
from node.settings import ConfigurationError, Entrance, Receive, Settings
from node.tls import destination_context, listener_context

if TYPE_CHECKING:
    from node.metrics.server import Monitor

log = structlog.get_logger(__name__)

KEEPER_PERIOD_S = 5.0
START_PATIENCE_S = 60.0
RECEIVE = "receive"
"""The role that gets ready before there is a database."""
RELOADED = ("receive", "destinations", "deliver")
"""Sections that are taken up on SIGHUP; all others need a restart."""


class AlreadyRunningError(Exception):
    """Another node works on this data directory."""


def run(settings: Settings, stop: threading.Event | None = None, again: Callable[[], Settings] | None = None) -> None:
    """Run the node until SIGTERM, SIGINT or ``stop``; on SIGHUP the configuration is read ``again``.

    Raises
    ------
    AlreadyRunningError
        Another node works on the same data directory.
    inference.runtime.ModelError
        A network is missing, altered, or cannot run on the provider that was asked for.
    node.ledger.DatabaseError
        The database cannot be had.
    node.settings.ConfigurationError
        A certificate or key cannot be used, the shared storage is not there, or the address for monitors is taken.
    """
    os.umask(0o077)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.data_dir.chmod(0o700)
    check_certificates(settings)
    check_storage(settings)
    reload_wanted = reload_event() if again is not None else threading.Event()
    stop = stop or stop_event()
    with (
        _only_node(settings),
        _at_work(settings),
        _receiver_getting_ready(settings) as receiver,
        _models_and_database(settings) as dsn,
    ):
        migrate(dsn)
        state_path(settings).unlink(missing_ok=True)  # of a node that was killed
        if not settings.destinations:
            log.warning("no destination is configured: answers stay in the outbox")
        if "receive" in settings.roles and (found := left_open(settings.receive)):
            log.warning("off in the configuration", what=found)
        children: list[Child] = []
        monitor = _monitor(settings, dsn, children)
        children += [
            Child(role, settings, dsn, receiver if role == RECEIVE else None)
            for role in ROLES
            if role in settings.roles
        ]
        try:
            _tell(settings, dsn, children)
            if monitor is not None:
                monitor.start()
                write_state(settings, metrics_port=monitor.port)
            threading.Thread(target=_keep, args=(settings, dsn, stop), name="keeper", daemon=True).start()
            while not stop.wait(0.2):
                if reload_wanted.is_set() and again is not None:
                    reload_wanted.clear()
                    settings = _reload(settings, again, children)
                _watch(settings, dsn, children, monitor)
        finally:
            if monitor is not None:
                monitor.stop()
            for child in children:
                child.process.terminate()
            deadline = time.monotonic() + settings.work.drain_s + 5.0
            for child in children:
                child.stop(deadline)
            state_path(settings).unlink(missing_ok=True)


def _watch(settings: Settings, dsn: str, children: list[Child], monitor: Monitor | None) -> None:
    """One look at everything that runs: what ended is started again, and monitors see what holds."""
    if monitor is not None:
        monitor.follow(settings)
        monitor.pulse()
    if [child for child in children if child.restart_if_ended()]:
        _tell(settings, dsn, children)


def _monitor(settings: Settings, dsn: str, children: list[Child]) -> Monitor | None:
    """What answers monitors, where the configuration names a port; its address is bound before anything is started."""
    if settings.metrics.port is None:
        return None
    from node.metrics.server import Monitor  # noqa: PLC0415 (Prometheus' client only where it is wanted)

    for child in ROLES:
        TALLY.begin(RESTARTS, child)
    count_as("supervisor")
    return Monitor(settings, dsn, lambda: list(children))


def _reload(settings: Settings, again: Callable[[], Settings], children: list[Child]) -> Settings:
    """Take up what can be taken up without a restart; the settings that hold from now on."""
    try:
        fresh = again()
        check_certificates(fresh)
    except ConfigurationError as error:
        log.error("the configuration cannot be used; the former one stays", reason=str(error))
        return settings
    later = [name for name in Settings.model_fields if name not in RELOADED and _differ(settings, fresh, name)]
    changes = {name: getattr(fresh, name) for name in RELOADED}
    if _fixed(settings.receive) != _fixed(fresh.receive):
        later.append("receive (addresses or limits)")
        changes["receive"] = settings.receive
    if later:
        log.warning("changed, but only a restart takes it up", what=later)
    kept = settings.model_copy(update=changes)
    delivers_otherwise = any(_differ(settings, kept, name) for name in ("destinations", "deliver"))
    for child in children:
        if child.role == "receive" or not delivers_otherwise:
            child.reload(kept)
        else:
            child.renew(kept)
    log.info("configuration reloaded", renewed=delivers_otherwise)
    if "receive" in kept.roles and (found := left_open(kept.receive)):
        log.warning("off in the configuration", what=found)
    return kept


def _differ(one: Settings, other: Settings, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def _fixed(receive: Receive) -> tuple[list[tuple[str, int]], dict[str, object]]:
    """What of the section cannot change while it is listened: addresses and limits."""
    addresses = [(entrance.host, entrance.port) for entrance in receive.entrances]
    return addresses, receive.model_dump(exclude={"listeners", *Entrance.model_fields})


def check_certificates(settings: Settings) -> None:
    """Refuse to start, or to reload, with certificates and keys that cannot be used."""
    for entrance in settings.receive.entrances:
        if entrance.tls is not None:
            listener_context(entrance.tls)
    for destination in settings.destinations:
        if destination.tls is not None:
            destination_context(destination.tls)


def _keep(settings: Settings, dsn: str, stop: threading.Event) -> None:
    """The keeper's rounds, in a thread of their own: a database that hangs must not hold up the supervisor."""
    from node.keeper import Keeper  # noqa: PLC0415 (it can make objects: not in the way of the start)

    with Database(dsn, connections=2) as database:
        keeper = Keeper(settings, database)
        while not stop.wait(KEEPER_PERIOD_S):
            if settings.database_dsn is None:
                try:
                    revive_private_database(settings.data_dir, dsn)
                except DatabaseError as error:
                    log.error("the private database does not come back", reason=str(error))
                    continue
            keeper.round()


def _tell(settings: Settings, dsn: str, children: list[Child]) -> None:
    pids = {child.role: child.process.pid for child in children}
    write_state(settings, supervisor=os.getpid(), dsn=dsn, pids=pids)


@contextmanager
def _receiver_getting_ready(settings: Settings) -> Iterator[RoleProcess | None]:
    """The receiving process imports what it needs while models and database are seen to; gone at the end."""
    if RECEIVE not in settings.roles:
        yield None
        return
    process = RoleProcess(RECEIVE, settings)
    try:
        yield process
    finally:
        process.end()  # where nothing came of the start


@contextmanager
def _models_and_database(settings: Settings) -> Iterator[str]:
    if "evaluate" in settings.roles:
        _check_models(settings)
    with _database(settings) as dsn:
        log.info("database there", private=settings.database_dsn is None)
        yield dsn


def _check_models(settings: Settings) -> None:
    """Refuse to start with a network that is not what the manifest says; say where the networks will run."""
    from node.answering import film_pipeline, pipeline_models  # noqa: PLC0415 (slow: others start meanwhile)

    models, film = pipeline_models(settings), film_pipeline(settings)
    names = [model.name for model in (*models.identities, *(film.models.identities if film is not None else ()))]
    log.info("models checked", provider=models.provider, models=names)


@contextmanager
def _only_node(settings: Settings) -> Iterator[None]:
    with (settings.data_dir / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunningError(f"another node works on {settings.data_dir}") from error
        yield


@contextmanager
def _at_work(settings: Settings) -> Iterator[None]:
    """Whoever restores a back-up writes the marker and then looks who is at work; here it is the other way round."""
    with at_work(settings):
        if (marker := restore_marker(settings)).exists():
            raise DatabaseError(
                f"a restore into {marker.parent} is under way, or was interrupted: then empty it, and restore again"
            )
        yield


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    if settings.database_dsn is not None:
        check_server(settings.database_dsn)
        yield settings.database_dsn
    else:
        with private_database(settings.data_dir) as dsn:
            yield dsn


@contextmanager
def database_of_stopped(settings: Settings) -> Iterator[str]:
    """DSN of the database of a node that does not run, and cannot be started meanwhile; nothing is migrated.

    Raises
    ------
    AlreadyRunningError
        It runs.
    node.ledger.DatabaseError
        The database cannot be had.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_node(settings), _database(settings) as dsn:
        yield dsn


def restore_marker(settings: Settings) -> Path:
    """There while a back-up is being restored: half of one must not be worked on."""
    return (settings.storage_dir or settings.data_dir) / "restore-unfinished"


@contextmanager
def ledger_of(settings: Settings) -> Iterator[Database]:
    """The ledger, whether the node runs or not (then its private database is started for as long as this takes)."""
    if settings.database_dsn is not None:
        migrate(settings.database_dsn)
        with Database(settings.database_dsn, connections=1) as database:
            yield database
        return
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with _only_node(settings), private_database(settings.data_dir) as dsn:
            migrate(dsn)
            with Database(dsn, connections=1) as database:
                yield database
    except AlreadyRunningError:  # its private database is joined, never started or stopped by us
        with Database(_dsn_of_running(settings), connections=1) as database:
            yield database


def _dsn_of_running(settings: Settings) -> str:
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline:
        dsn = read_state(settings).get("dsn")
        if isinstance(dsn, str):
            return dsn
        time.sleep(0.1)
    raise DatabaseError(f"a node works on {settings.data_dir}, but its database is not ready")
