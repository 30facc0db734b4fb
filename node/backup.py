"""Back-up and restore of ledger, spool and outbox: another machine goes on from it with what was outstanding.

The ledger is dumped first, the files are copied after it: what arrived meanwhile is more than the ledger knows, never
less, and is entered from its files as after any start. What retention deleted meanwhile nobody waits for. The queue is
left out: it is derived from the ledger. The manifest is written last; without it a back-up is not whole.

Of several machines any one makes the back-up, while all may run, or restores it, while none may: who is at work holds a
lock on the shared storage, and has sessions in the database. Where only one half was lost, the other stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psycopg
import structlog

from node import __version__
from node.ledger import Database, check_server, intake, migrate, programs_at_work
from node.ledger.dump import dump, load
from node.machines import machines_at_work
from node.process import check_storage
from node.receive.spool import Spool
from node.service import database_of_stopped, restore_marker
from node.settings import Settings

log = structlog.get_logger(__name__)

FORMAT = 1
MANIFEST, DUMP, SPOOL, OUTBOX = "manifest.json", "ledger.dump", "spool", "outbox"
Lost = Literal["everything", "ledger", "files"]
"""Which part of a node is not there any more and is restored."""


class BackupError(Exception):
    """A back-up cannot be made or used; the message says what a person can do."""


@dataclass(frozen=True)
class Manifest:
    """What a back-up holds; after a restore, what of it was brought back.

    ``schema`` is the ledger's version; ``damaged`` images were not copied; ``missing`` images and results stand in the
    ledger and are neither here nor in the back-up.
    """

    format: int
    made_at: str
    site: str
    software_version: str
    schema: int
    images: int
    results: int
    damaged: int
    ledger_sha256: str
    missing: int = 0


def back_up(settings: Settings, dsn: str, folder: Path) -> Manifest:
    """Back up the node whose ledger is at ``dsn``, running or not, into a folder that is empty or not there yet.

    Raises
    ------
    BackupError
        The folder has something in it.
    node.ledger.DatabaseError
        The ledger cannot be dumped.
    OSError
        The folder cannot be written.
    """
    check_storage(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    if any(folder.iterdir()):
        raise BackupError(f"{folder} is not empty: a back-up needs a folder of its own")
    dump(dsn, folder / DUMP)
    images, damaged = _copy_spool(Spool(settings.spool_dir), folder / SPOOL)
    results = _copy(settings.outbox_dir, folder / OUTBOX, list(_files(settings.outbox_dir)))
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    manifest = Manifest(
        format=FORMAT,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        site=settings.site,
        software_version=__version__,
        schema=row[0] if row is not None else 0,
        images=images,
        results=results,
        damaged=damaged,
        ledger_sha256=_digest(folder / DUMP),
    )
    os.sync()
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    os.sync()
    return manifest


def restore(settings: Settings, folder: Path, lost: Lost = "everything") -> Manifest:
    """Restore what was lost; no machine of the node may run.

    ``everything``: into a storage and a database that hold nothing yet. ``ledger``: into an empty database; images and
    results that are there stay, and what the ledger names besides is added. ``files``: what the ledger, which is there,
    names and the storage has no more; what was erased meanwhile does not come back.

    Raises
    ------
    BackupError
        The back-up is not whole or was altered, something is there already, or a machine is at work.
    node.ledger.DatabaseError
        The database cannot be had, or the dump cannot be loaded into it.
    node.service.AlreadyRunningError
        A node works on the data directory.
    node.settings.ConfigurationError
        The shared storage is not mounted.
    """
    check_storage(settings)
    manifest = read_manifest(folder)
    if manifest.site != settings.site:
        raise BackupError(
            f"{folder} is of site {manifest.site!r}, the configuration says {settings.site!r}: the results' UIDs rest "
            "on it, so that every result would come again under another"
        )
    if lost == "everything" and (any(_files(settings.spool_dir)) or any(_files(settings.outbox_dir))):
        raise BackupError(
            f"{settings.spool_dir.parent} holds images or results already: restore into an empty one, or, where only "
            "the ledger was lost, with --lost ledger"
        )
    with database_of_stopped(settings) as dsn:
        check_server(dsn)
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT to_regclass('schema_version') IS NOT NULL").fetchone()
        has_ledger = row is not None and row[0]
        if has_ledger and lost != "files":
            raise BackupError("the database has a ledger already: restore into an empty one")
        if not has_ledger and lost == "files":
            raise BackupError("the database has no ledger: restore without --lost files")
        with _alone(settings, dsn):
            if lost == "everything":
                images, damaged, results = _bring_all(settings, folder, manifest)
            if lost != "files":
                _refuse_sessions(dsn)
                load(dsn, folder / DUMP)
            migrate(dsn)
            with Database(dsn, connections=1) as database, database.transaction() as connection:
                missing = 0
                if lost != "everything":
                    images, damaged, results, missing = _bring_missing(settings, folder, connection)
                detail = {
                    **{"made_at": manifest.made_at, "lost": lost, "images": images, "results": results},
                    **{"damaged": damaged, "missing": missing},
                }
                intake.record_event(connection, "restored", "", detail)
            os.sync()
    log.info("restored from a back-up", **detail)
    return replace(manifest, images=images, results=results, damaged=damaged, missing=missing)


@contextmanager
def _alone(settings: Settings, dsn: str) -> Iterator[None]:
    """No machine is at work, and none starts before everything is there: the marker stays where something goes wrong.

    Raises
    ------
    BackupError
        A machine is at work; nothing was changed.
    """
    marker = restore_marker(settings)
    interrupted = marker.exists()
    marker.write_text("a back-up is being restored\n", encoding="utf-8")
    try:
        if found := machines_at_work(settings):
            raise BackupError(
                f"machines are at work on {settings.storage_dir}: {', '.join(found)}. Stop spine-node on every machine "
                "of this site first; nothing was changed"
            )
        _refuse_sessions(dsn)
    except BaseException:
        if not interrupted:
            marker.unlink()
        raise
    yield
    marker.unlink()


def _refuse_sessions(dsn: str) -> None:
    """A machine that lost its storage, or whose database was made anew beneath it, is seen by its sessions."""
    with psycopg.connect(dsn) as connection:
        found = programs_at_work(connection)
    if found:
        raise BackupError(
            f"spine-node is at work on the database, from {', '.join(found)}: stop it on every machine of this site "
            "first"
        )


def _bring_all(settings: Settings, folder: Path, manifest: Manifest) -> tuple[int, int, int]:
    """Copy all images and results; images, damaged images, results."""
    images, damaged = _copy_spool(Spool(folder / SPOOL), settings.spool_dir)
    results = _copy(folder / OUTBOX, settings.outbox_dir, list(_files(folder / OUTBOX)))
    if images + damaged != manifest.images or results != manifest.results:
        raise BackupError(
            f"{folder} has {images} whole images and {results} results, its manifest says {manifest.images} and "
            f"{manifest.results}: files are missing. Empty data_dir before you restore another back-up"
        )
    return images, damaged, results


def _bring_missing(
    settings: Settings, folder: Path, connection: psycopg.Connection[dict[str, Any]]
) -> tuple[int, int, int, int]:
    """Copy what the ledger names and the storage has not; images, damaged images, results, and what is nowhere."""
    source = Spool(folder / SPOOL)
    named = connection.execute("SELECT spool_name AS name FROM instance WHERE erased_at IS NULL").fetchall()
    wanted = [row["name"] for row in named if not (settings.spool_dir / row["name"]).exists()]
    there = [name for name in wanted if source.path(name).exists()]
    whole = [name for name in there if source.read_reception(name) is not None]
    images = _copy(source.folder, settings.spool_dir, [Path(name) for name in whole])
    named = connection.execute("SELECT outbox_name AS name FROM result WHERE erased_at IS NULL").fetchall()
    unsent = [Path(row["name"]) for row in named if not (settings.outbox_dir / row["name"]).exists()]
    built = [name for name in unsent if (folder / OUTBOX / name).exists()]
    results = _copy(folder / OUTBOX, settings.outbox_dir, built)
    return images, len(there) - len(whole), results, len(wanted) - images + len(unsent) - results


def read_manifest(folder: Path) -> Manifest:
    """What a back-up says of itself; its dump is compared with the digest.

    Raises
    ------
    BackupError
        It is not whole, was altered, or is of a newer program.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise BackupError(f"{folder} is of format {content['format']}, this program reads {FORMAT}")
        manifest = Manifest(**content)
        digest = _digest(folder / DUMP)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{folder} is no whole back-up ({type(error).__name__}): take an earlier one") from error
    if digest != manifest.ledger_sha256:
        raise BackupError(f"{folder / DUMP} was altered since it was made: take an earlier back-up")
    return manifest


def _copy_spool(source: Spool, target: Path) -> tuple[int, int]:
    """Copy the images that are whole; how many were, and how many were not. One that is being written is neither."""
    names = [name for name in source.names() if not source.is_being_written(name)]
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    whole = damaged = 0
    for name in names:
        try:
            if source.read_reception(name) is None:
                damaged += 1
            else:
                whole += _copy(source.folder, target, [Path(name)])
        except FileNotFoundError:  # past its retention
            continue
    return whole, damaged


def _copy(source: Path, target: Path, names: list[Path]) -> int:
    copied = 0
    for name in names:
        (target / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            shutil.copy2(source / name, target / name)
            copied += 1
        except FileNotFoundError:  # past its retention
            (target / name).unlink(missing_ok=True)
    return copied


def _files(folder: Path) -> Iterator[Path]:
    """Names of all files below a folder; none where it is not there."""
    return (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
