"""The running node: a supervisor with three children, each of which may die at any moment.

``receive`` listens and spools, ``evaluate`` answers studies, ``deliver`` sends results. The supervisor owns the private
database, starts children again, and runs the keeper. Nothing is handed from process to process but through spool,
outbox and ledger.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import psycopg
import structlog

import onnx_models
from inference.runtime import load_models
from node.deliver.courier import Courier
from node.keeper import Keeper
from node.ledger import Database, migrate, private_database
from node.logs import configure_logs
from node.queue import DELIVER, EVALUATE, Queue, run_worker
from node.receive.association import Listener
from node.receive.registrar import Registrar
from node.receive.spool import Spool
from node.settings import Settings
from node.workflow import Workflow

log = structlog.get_logger(__name__)

KEEPER_PERIOD_S = 5.0
RESTART_PAUSE_S = 1.0


class AlreadyRunningError(Exception):
    """Another node works on this data directory."""


def models_folder(settings: Settings) -> Path:
    """Where the networks are: the site's choice, or those shipped."""
    return settings.models.folder or Path(onnx_models.__file__).parent


# --- the three roles -------------------------------------------------------------------------------------------------


def receive(settings: Settings, dsn: str) -> None:
    """Listen until told to stop; then let open associations end."""
    stop = _stop_event()
    queue = Queue(dsn)
    spool = Spool(settings.spool_dir, settings.receive.free_space_reserve_mb * 2**20)
    with Database(dsn, connections=2) as database:
        registrar = Registrar(
            spool, database, lambda connection, study: queue.wake_evaluation(connection, study, settings.study.quiet_s)
        )
        listener = Listener(settings.receive, spool, registrar.arrived, registrar.record)
        registrar.start()
        listener.start()
        _write_state(settings, port=listener.port)
        stop.wait()
        listener.stop(settings.work.drain_s)
        registrar.stop()


def evaluate(settings: Settings, dsn: str) -> None:
    """Answer studies, one at a time (the networks use all cores)."""
    models = load_models(models_folder(settings), settings.models.provider, threads=settings.models.threads or None)
    with Database(dsn) as database:
        workflow = Workflow(settings, database, models)
        run_worker(
            dsn,
            {EVALUATE: workflow.evaluate_study},
            concurrency=1,
            stalled_after_s=settings.work.stalled_after_s,
            drain_s=settings.work.drain_s,
            name="evaluate",
        )


def deliver(settings: Settings, dsn: str) -> None:
    """Send results; one destination that hangs holds up one of many places."""
    with Database(dsn, connections=8) as database:
        courier = Courier(settings, database)
        run_worker(
            dsn,
            {DELIVER: courier.deliver},
            concurrency=max(4, 2 * len(settings.destinations)),
            stalled_after_s=settings.work.stalled_after_s,
            drain_s=settings.work.drain_s,
            name="deliver",
        )


ROLES: dict[str, Callable[[Settings, str], None]] = {"receive": receive, "evaluate": evaluate, "deliver": deliver}


# --- the supervisor --------------------------------------------------------------------------------------------------


def run(settings: Settings, stop: threading.Event | None = None) -> None:
    """Run the node until SIGTERM, SIGINT or ``stop``.

    Raises
    ------
    AlreadyRunningError
        Another node works on the same data directory.
    inference.runtime.ModelError
        A network is missing, altered, or cannot run on the provider that was asked for.
    node.ledger.DatabaseError
        The database cannot be had.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    stop = stop or _stop_event()
    with _only_node(settings), _database(settings) as dsn:
        migrate(dsn)
        models = load_models(models_folder(settings), settings.models.provider, threads=settings.models.threads or None)
        log.info("models checked", provider=models.provider, models=[m.name for m in models.identities])
        del models
        context = multiprocessing.get_context("spawn")
        children = {name: _start(context, name, settings, dsn) for name in ROLES}
        _write_state(settings, dsn=dsn, pids={name: child.pid for name, child in children.items()})
        with Database(dsn, connections=2) as database:
            keeper = Keeper(settings, database)
            next_round = time.monotonic() + 1.0
            while not stop.wait(0.2):
                for name, child in list(children.items()):
                    if not child.is_alive():
                        log.error("a process ended and is started again", role=name, exit_code=child.exitcode)
                        time.sleep(RESTART_PAUSE_S)
                        children[name] = _start(context, name, settings, dsn)
                        _write_state(settings, pids={n: c.pid for n, c in children.items()})
                if time.monotonic() >= next_round:
                    keeper.round()
                    next_round = time.monotonic() + KEEPER_PERIOD_S
        _stop_children(children, settings.work.drain_s)
        _state_path(settings).unlink(missing_ok=True)


def _start(context: multiprocessing.context.SpawnContext, name: str, settings: Settings, dsn: str) -> BaseProcess:
    child = context.Process(target=_child, args=(name, settings, dsn, os.getpid()), name=name)
    child.start()
    return child


def _child(role: str, settings: Settings, dsn: str, parent: int) -> None:
    configure_logs()
    structlog.contextvars.bind_contextvars(role=role)

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow_parent, name="follow parent", daemon=True).start()
    ROLES[role](settings, dsn)


def _stop_children(children: dict[str, BaseProcess], drain_s: float) -> None:
    for child in children.values():
        child.terminate()
    deadline = time.monotonic() + drain_s + 5.0
    for name, child in children.items():
        child.join(max(0.1, deadline - time.monotonic()))
        if child.is_alive():
            log.warning("a process did not end in time and is killed", role=name)
            child.kill()
            child.join()


def _stop_event() -> threading.Event:
    """Set by SIGTERM or SIGINT."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


@contextmanager
def _only_node(settings: Settings) -> Iterator[None]:
    with (settings.data_dir / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunningError(f"another node works on {settings.data_dir}") from error
        yield


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    if settings.database_dsn is not None:
        yield settings.database_dsn
    else:
        with private_database(settings.data_dir) as dsn:
            yield dsn


@contextmanager
def ledger_of(settings: Settings) -> Iterator[Database]:
    """The ledger, whether the node runs or not (then its private database is started for as long as this takes)."""
    running = read_state(settings).get("dsn")
    if settings.database_dsn is None and isinstance(running, str) and _answers(running):
        with Database(running, connections=1) as database:
            yield database
        return
    with _database(settings) as dsn:
        migrate(dsn)
        with Database(dsn, connections=1) as database:
            yield database


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=3).close()
    except psycopg.OperationalError:
        return False
    return True


def _state_path(settings: Settings) -> Path:
    return settings.data_dir / "state.json"


def read_state(settings: Settings) -> dict[str, object]:
    """What the running node wrote of itself: port, process ids, DSN; empty when none runs."""
    try:
        state = json.loads(_state_path(settings).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(settings: Settings, **changes: object) -> None:
    path = _state_path(settings)
    with (settings.data_dir / "state.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = read_state(settings) | {"supervisor": os.getppid() if "port" in changes else os.getpid()} | changes
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(state), encoding="ascii")
        temporary.chmod(0o600)
        temporary.replace(path)
