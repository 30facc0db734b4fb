"""Is the node well? Looked at from outside, as a monitor does: listener, database, disk, what is parked, destinations.

Nothing is started for it and nothing is changed.
"""

from __future__ import annotations

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from node.deliver.association import UnreachableError
from node.deliver.sender import echo
from node.ledger import overview
from node.process import read_state
from node.settings import Destination, Entrance, Settings

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
MOST_AT_ONCE = 8


@dataclass(frozen=True)
class Check:
    """One look: at what, whether it is well, and a sentence for a person.

    ``ours`` is false where a restart of the node would not help.
    """

    name: str
    ok: bool
    sentence: str
    ours: bool = True


def probe(settings: Settings, timeout_s: float = 5.0, *, local: bool = False) -> list[Check]:
    """Look at everything; with ``local`` at the node alone, as a supervisor that restarts it should."""
    checks = [*_listeners(settings, timeout_s), _disk(settings), *_ledger(settings, timeout_s)]
    if local:
        return [check for check in checks if check.ours]
    if settings.destinations:
        with ThreadPoolExecutor(min(len(settings.destinations), MOST_AT_ONCE)) as pool:
            checks += pool.map(
                lambda destination: _destination(settings, destination, timeout_s), settings.destinations
            )
    return checks


def _listeners(settings: Settings, timeout_s: float) -> list[Check]:
    if "receive" not in settings.roles:
        return []
    state, entrances = read_state(settings), settings.receive.entrances
    ports = state.get("ports")
    if not isinstance(ports, list) or len(ports) != len(entrances):
        ports = [
            state.get("port") or settings.receive.port,
            *(entrance.port for entrance in settings.receive.listeners),
        ]
    return [_listener(at, int(port), timeout_s) for at, port in zip(entrances, ports, strict=True)]


def _listener(entrance: Entrance, port: int, timeout_s: float) -> Check:
    """An echo; behind TLS a connection alone, because the certificate that is let in is not ours."""
    host = WILDCARDS.get(entrance.host, entrance.host)
    title = entrance.ae_title
    if entrance.tls is not None:
        try:
            with socket.create_connection((host, port), timeout=timeout_s):
                return Check("listener", True, f"something listens on {host}:{port} (TLS: no echo was tried)")
        except OSError as error:
            return Check("listener", False, f"nothing listens on {host}:{port} ({type(error).__name__})")
    calling = entrance.calling_ae_titles[0] if entrance.calling_ae_titles else title
    try:
        echo(host, port, called_ae=title, calling_ae=calling, timeout_s=timeout_s)
    except UnreachableError as error:
        return Check("listener", False, str(error))
    return Check("listener", True, f"{title} answers on {host}:{port}")


def _ledger(settings: Settings, timeout_s: float) -> list[Check]:
    """The database, and what the ledger says is waiting for a person."""
    dsn = settings.database_dsn or read_state(settings).get("dsn")
    if not isinstance(dsn, str):
        return [Check("database", False, f"no node works on {settings.data_dir}: its private database is not there")]
    try:
        with psycopg.connect(dsn, connect_timeout=max(2, round(timeout_s)), row_factory=dict_row) as connection:
            counts = overview.counts(connection)
    except (psycopg.Error, OSError) as error:
        return [Check("database", False, f"the ledger does not answer ({type(error).__name__}): see the node's log")]
    waiting = f"{counts['deliveries_pending']} to send, {counts['deliveries_unproven']} to prove"
    parked = counts["studies_parked"] + counts["deliveries_parked"]
    if parked:
        sentence = f"{parked} parked, {waiting}: a person must act, see `spine-node jobs list`"
        return [Check("database", True, "the ledger answers"), Check("work", False, sentence, ours=False)]
    return [Check("database", True, "the ledger answers"), Check("work", True, waiting, ours=False)]


def _disk(settings: Settings) -> Check:
    folder = settings.storage_dir or settings.data_dir
    if not folder.is_dir():
        return Check("disk", False, f"{folder} is not there")
    free_mb, reserve_mb = shutil.disk_usage(folder).free // 2**20, settings.receive.free_space_reserve_mb
    if free_mb < reserve_mb:
        return Check("disk", False, f"{free_mb} MB free, less than the reserve of {reserve_mb}: C-STORE is refused")
    return Check("disk", True, f"{free_mb} MB free, reserve {reserve_mb}")


def _destination(settings: Settings, destination: Destination, timeout_s: float) -> Check:
    name = f"destination {destination.name}"
    try:
        echo(
            destination.host,
            destination.port,
            called_ae=destination.ae_title,
            calling_ae=destination.calling_ae_title or settings.receive.ae_title,
            timeout_s=min(timeout_s, destination.timeout_s),
            tls=destination.tls,
        )
    except UnreachableError as error:
        return Check(name, False, str(error), ours=False)
    return Check(name, True, f"{destination.ae_title} answers on {destination.host}:{destination.port}", ours=False)
