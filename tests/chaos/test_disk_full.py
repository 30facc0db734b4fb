"""Full disks, real ones (tmpfs of a few megabytes): refused in time, nothing torn left behind, on again by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from node.demo.pacs import SmallPacs
from node.demo.stage import RunningNode
from node.ledger import Database, migrate, private_database, revive_private_database
from node.process import read_state
from node.receive import registrar as registrar_module
from node.receive.association import Listener
from node.receive.registrar import Registrar
from node.receive.spool import Reception, Spool
from node.settings import Receive
from tests.chaos.counts import end_to_end, record
from tests.chaos.test_database import Trial, sections
from tests.conftest import wait_until
from tests.integration.test_films import LATERAL, House
from tests.pdus import RawSender, store
from tests.unit.test_spool import encoded_slice, received

pytestmark = [pytest.mark.xdist_group("node"), pytest.mark.chaos]

MB = 2**20
SMALL_DISK_MB = 8
SMALL_DATABASE_DISK_MB = 160
SAYS = {
    "tables": ["the ledger is away; receiving goes on", '"DiskFull"'],
    "log": ["the ledger is away; receiving goes on", "the private database does not come back"],
}
"""Words of the node's log."""
INSTANCE = bytes(300_000)


class SmallDisk:
    """A file system of its own with a size."""

    def __init__(self, folder: Path, size_kb: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", folder],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            pytest.skip(f"no disk of its own can be mounted here: {done.stderr.strip()}")

    def resize(self, size_kb: int) -> None:
        """Give it more room."""
        subprocess.run(["mount", "-o", f"remount,size={size_kb}k", self.folder], check=True)

    def fill(self, leave: int = 0) -> Path:
        """Fill it with a file, but for so many bytes."""
        ballast = self.folder / "ballast"
        status = os.statvfs(self.folder)
        with ballast.open("wb") as file:
            for _ in range((status.f_bavail * status.f_frsize - leave) // 4096):
                try:
                    file.write(bytes(4096))
                    file.flush()
                except OSError:
                    break
        return ballast

    @property
    def free(self) -> int:
        """Bytes that are free."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], SmallDisk]]:
    """Mounts small disks, unmounted at the end."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk of its own")
    with ExitStack() as stack:

        def mount(folder: Path, size_kb: int) -> SmallDisk:
            disk = SmallDisk(folder, size_kb)
            stack.callback(subprocess.run, ["umount", "-l", folder], check=True)
            return disk

        yield mount


@pytest.mark.parametrize("reserve_mb", [4, 0])
def test_a_full_spool_refuses_and_takes_again(
    tmp_path: Path,
    small_disk: Callable[[Path, int], SmallDisk],
    reserve_mb: int,
) -> None:
    """Four associations until each was refused ten times; with a reserve the disk is never full, without it is."""
    disk = small_disk(tmp_path / "disk", SMALL_DISK_MB * 1024)
    spool = Spool(disk.folder / "spool", reserve_mb * MB)
    receptions: list[Reception] = []
    events: list[str] = []

    def note(kind: str, _subject: str, _detail: dict[str, Any]) -> None:
        events.append(kind)

    listener = Listener(Receive(port=0), spool, receptions.append, note)
    listener.start()
    statuses: list[int] = []
    try:

        def send(thread: int) -> None:
            with RawSender(listener.port, timeout_s=120.0) as sender:
                sender.associate()
                mine: list[int] = []
                while mine.count(0xA700) < 10:
                    mine += sender.store_all([store(f"1.2.{thread}.{len(mine)}", INSTANCE)])
                statuses.extend(mine)
                sender.release()

        threads = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
        for started in threads:
            started.start()
        for started in threads:
            started.join(120)
        least_free = disk.free
        names = list(spool.names())
        assert set(statuses) == {0, 0xA700}
        assert statuses.count(0) == len(receptions) == len(names)
        assert {spool.recover(name) for name in names} == set(receptions), "whole, and no torso among them"
        assert set(events) == {"out_of_space"}
        if reserve_mb:
            assert least_free > (reserve_mb - 1) * MB - 4 * len(INSTANCE)
        for name in names[:10]:
            spool.remove(name)
        with RawSender(listener.port) as sender:
            sender.associate()
            assert sender.store_all([store(f"1.2.9.{n}", INSTANCE) for n in range(5)]) == [0] * 5, "without a restart"
            sender.release()
    finally:
        listener.stop()
    record(
        f"spool full, reserve {reserve_mb} MB",
        sent=len(statuses) + 5,
        acknowledged=len(receptions),
        refused_0xA700=statuses.count(0xA700),
        least_free_kb=least_free // 1024,
        **{"in the ledger": len(names) + 5},
    )


def test_a_full_outbox_is_waited_for(
    tmp_path: Path,
    database: Database,
    small_disk: Callable[[Path, int], SmallDisk],
) -> None:
    """The disk gives out at the first, the second, the third result; each try leaves no more than the one before."""
    house = House(tmp_path, database)
    disk = small_disk(house.settings.outbox_dir, 4)
    evaluate, house.evaluate = house.evaluate, lambda: None  # type: ignore[method-assign]
    house.receive(LATERAL.dataset())
    tries = 0
    for size_kb in (4, 4, 8, 16, 32, 64, 128, 8 * 1024):
        disk.resize(size_kb)
        evaluate()
        if [answer["state"] for answer in house.study()["answers"]] == ["done"]:
            break
        tries += 1
        assert house.study()["parked"] is None
        assert len(list(disk.folder.iterdir())) <= 1, "what the tries before left is gone"
    assert tries > 3, "more than the three that a study has which kills its worker"
    assert [answer["state"] for answer in house.study()["answers"]] == ["done"]
    assert {dataset.SOPInstanceUID for dataset in house.outbox()} == {uid for _, uid in house.sent()}
    record("outbox full", expected=3, received=len(house.outbox()), tries_on_a_full_disk=tries)


@pytest.mark.parametrize("what", ["tables", "log"])
def test_a_node_whose_database_has_no_room_receives_and_answers_once_there_is_some(
    tmp_path: Path, shipped_models: Path, small_disk: Callable[[Path, int], SmallDisk], what: str
) -> None:
    """For its tables: the server refuses to write. For its log: the server ends, and cannot be started."""
    folder = Path(tempfile.mkdtemp(prefix="spine-full-"))
    try:
        with SmallPacs(tmp_path / "pacs") as pacs:
            disk = small_disk(folder / "data" / "postgres", SMALL_DATABASE_DISK_MB * 1024)
            node = RunningNode(folder, **sections(pacs))
            try:
                node.start()
                trial = Trial(node, tmp_path / "studies")
                trial.study()
                trial.wait()
                supervisor = node.process.pid
                ballast = disk.fill()
                {"tables": _extend_tables, "log": _use_up_the_log}[what](str(read_state(node.settings)["dsn"]))
                trial.study()
                for words in SAYS[what]:
                    wait_until(lambda said=words: said in node.log.read_text(), 120, f"it to say {words}")  # type: ignore[misc]
                trial.study()
                ballast.unlink()
                trial.wait()
                end_to_end(f"no room for the database's {what}", node, pacs.received, trial.sent, trial.acknowledged)
                assert (node.process.poll(), node.process.pid) == (None, supervisor), "without a restart"
            finally:
                node.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extend_tables(dsn: str) -> None:
    """Write until no table can become larger."""
    with pytest.raises(psycopg.errors.DiskFull), psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE ballast AS SELECT repeat('x', 1000) AS x FROM generate_series(1, 1000000)")


def _use_up_the_log(dsn: str) -> None:
    """Write until the server gives itself up, since it cannot write its log."""
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        with pytest.raises(psycopg.OperationalError):
            for _ in range(SMALL_DATABASE_DISK_MB):
                connection.execute("SELECT pg_logical_emit_message(false, 'ballast', repeat('x', 1000000))")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_full_disk_of_the_private_database_is_waited_for(
    tmp_path: Path,
    small_disk: Callable[[Path, int], SmallDisk],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until the server gives itself up, since it cannot write its log; then there is room again."""
    monkeypatch.setattr(registrar_module, "PAUSE_S", 0.1)
    folder = Path(tempfile.mkdtemp(prefix="spine-full-"))
    try:
        disk = small_disk(folder, SMALL_DATABASE_DISK_MB * 1024)
        spool = Spool(tmp_path / "spool")
        content = encoded_slice(tmp_path)
        with private_database(folder / "data") as dsn:
            migrate(dsn)
            with Database(dsn, connections=2) as database:
                registrar = Registrar(spool, database, lambda _connection, _study: None)
                registrar.start()
                ballast = disk.fill()
                _use_up_the_log(dsn)
                receptions = [spool.store(received(content + bytes(2 * n))) for n in range(40)]
                for reception in receptions:
                    registrar.arrived(reception)
                ballast.unlink()
                revive_private_database(folder / "data", dsn)  # as the supervisor does every few seconds

                def entered() -> int:
                    with psycopg.connect(dsn) as connection:
                        row = connection.execute("SELECT count(*) FROM instance").fetchone()
                    return int(row[0]) if row is not None else 0

                wait_until(lambda: entered() == len(receptions), 60, "every instance in the ledger")
                registrar.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    record("database's disk full", sent=40, acknowledged=40, **{"in the ledger": 40})
