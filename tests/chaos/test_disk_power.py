"""Power cuts at random moments: what was acknowledged is recoverable, what was sent is there or made again alike."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.ledger import Database
from node.receive.spool import Spool
from node.receive.storing import SUCCESS, StoringInSpool
from node.workflow import Workflow
from tests.chaos.counts import record
from tests.chaos.disk import Flush, ForgetfulDisk, PowerCutError
from tests.integration.test_films import LATERAL, NO_CT, STUDY, House
from tests.listening import listening
from tests.pdus import RawSender, store

pytestmark = pytest.mark.chaos

CUTS = 1000 if "SPINE_NODE_CHAOS_KILLS" in os.environ else 60
SEED = int(os.environ.get("SPINE_NODE_CHAOS_SEED", "7"))
SIZES = (100, 3_000, 40_000, 5_000, 700_000, 1_500_000)
"""Bytes of the instances that each association sends: in one piece, and streamed."""
RULES = {"ext4": False, "strict": True}


@pytest.fixture(params=RULES)
def strict(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether names are durable by the strict rule; the spool is told that its file system has that one."""
    rule = RULES[request.param]
    monkeypatch.setattr("node.receive.spool.filesystem_type", lambda _path: "nfs4" if rule else "ext4")
    return rule


def receive(folder: Path, disk: ForgetfulDisk, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four associations send at once; each acknowledgement is a promise. Returns what was sent, by UID."""
    finish = StoringInSpool.finish

    def promising(self: StoringInSpool, pieces: object) -> int:
        status = finish(self, pieces)  # type: ignore[arg-type]
        if status == SUCCESS:
            disk.promise(self._incoming._origin.sop_instance_uid)
        return status

    monkeypatch.setattr(StoringInSpool, "finish", promising)
    rng = np.random.default_rng(SEED)
    sent = {f"1.2.{thread}.{n}": rng.bytes(size) for thread in range(4) for n, size in enumerate(SIZES)}
    disk.attach(monkeypatch)
    with listening(folder) as ear:

        def send(thread: int) -> None:
            with RawSender(ear.port, timeout_s=120.0) as sender:
                sender.associate()
                mine = [uid for uid in sent if uid.startswith(f"1.2.{thread}.")]
                assert sender.store_all([store(uid, sent[uid]) for uid in mine]) == [0] * len(mine)
                sender.release()

        threads = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
        for started in threads:
            started.start()
        for started in threads:
            started.join(300)
    assert len(disk.promised(len(disk.notes))) == len(sent)
    return sent


def lost_in_cuts(disk: ForgetfulDisk, sent: dict[str, bytes], folder: Path, strict: bool) -> tuple[int, int, int]:
    """Cut the power ``CUTS`` times; promises that were made, those that were broken, torn files set aside."""
    rng = np.random.default_rng(SEED)
    promised = broken = torn = 0
    for cut in range(CUTS):
        moment = int(rng.integers(0, len(disk.notes) + 1))
        image = folder / f"cut{cut}"
        disk.after_power_cut(moment, image, rng, strict=strict)
        spool = Spool(image / "spool")
        found = set()
        for name in list(spool.names()):
            reception = spool.recover(name)
            if reception is None:
                torn += 1
                continue
            raw = spool.path(name).read_bytes()
            content = raw[144 + int.from_bytes(raw[140:144], "little") :]
            assert content == sent[reception.sop_instance_uid], "what is recovered is what was sent"
            found.add(reception.sop_instance_uid)
        kept = {promise.subject for promise in disk.promised(moment)}
        promised += len(kept)
        broken += len(kept - found)
        shutil.rmtree(image)
    return promised, broken, torn


def test_what_was_acknowledged_survives_every_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    disk = ForgetfulDisk(tmp_path / "node", tmp_path / "store")
    sent = receive(tmp_path / "node", disk, monkeypatch)
    promised, broken, torn = lost_in_cuts(disk, sent, tmp_path, strict)
    record(
        f"{CUTS} power cuts while receiving, {'strict' if strict else 'ext4'} rule",
        acknowledged=promised,
        **{"in the ledger": promised - broken, "torn files set aside": torn},
    )
    assert promised > 5 * CUTS
    assert torn > CUTS, "the model forgets"
    assert broken == 0


def _no_flush(_spool: Spool, _descriptor: int, _name: str) -> None:
    """As a node that acknowledges what is in the page cache."""


def _data_only(_spool: Spool, descriptor: int, _name: str) -> None:
    """As a node that knows only the rule of ext4."""
    os.fdatasync(descriptor)


@pytest.mark.parametrize(("mistake", "strict"), [(_no_flush, "ext4"), (_data_only, "strict")], indirect=["strict"])
def test_the_model_would_find_a_flush_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[[Spool, int, str], None], strict: bool
) -> None:
    disk = ForgetfulDisk(tmp_path / "node", tmp_path / "store")
    monkeypatch.setattr(Spool, "_make_durable", mistake)
    sent = receive(tmp_path / "node", disk, monkeypatch)
    if mistake is _no_flush:  # the files are known to the model by nothing else
        for path in (tmp_path / "node").rglob("*.dcm"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _, broken, _ = lost_in_cuts(disk, sent, tmp_path, strict)
    assert broken > CUTS


def test_what_was_built_is_there_once_the_ledger_says_so_or_is_made_again_alike(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power is cut at each flush of the outbox in turn; then the ledger enters the answer, and it is cut again."""
    house = House(tmp_path, database)
    house.evaluate = lambda: None  # type: ignore[method-assign]
    house.receive(LATERAL.dataset())
    outbox, rng = house.settings.outbox_dir, np.random.default_rng(SEED)
    digests: dict[str, set[str]] = {}
    cuts = 0
    while True:
        with database.transaction() as connection:  # else the third power cut in a row parks the study
            connection.execute("UPDATE study SET attempts = 0")
        disk = ForgetfulDisk(house.settings.data_dir, tmp_path / f"store{cuts}", cut_at=cuts)
        with monkeypatch.context() as patched:
            disk.attach(patched)
            try:
                Workflow(house.settings, database, NO_CT, house.films).evaluate_study(STUDY)
                finished = True
            except PowerCutError:
                finished = False
        for note in disk.notes:
            if isinstance(note, Flush) and note.digest:
                kept = disk.store / note.digest
                uid = str(dcmread(kept, stop_before_pixels=True).SOPInstanceUID)
                digests.setdefault(uid, set()).add(hashlib.sha256(kept.read_bytes()).hexdigest())
        disk.after_power_cut(len(disk.notes), tmp_path / f"image{cuts}", rng, strict=True)
        shutil.rmtree(outbox, ignore_errors=True)
        if (tmp_path / f"image{cuts}" / "outbox").exists():
            shutil.move(tmp_path / f"image{cuts}" / "outbox", outbox)
        if finished:
            break
        cuts += 1
    with database.transaction() as connection:
        rows = connection.execute("SELECT sop_instance_uid AS uid, sha256, outbox_name FROM result").fetchall()
    found = {row["uid"]: hashlib.sha256((outbox / row["outbox_name"]).read_bytes()).hexdigest() for row in rows}
    record(
        f"{cuts} power cuts while building results",
        expected=len(rows),
        received=len(found),
        **{"digests per UID": dict(Counter(len(made) for made in digests.values()))},
    )
    assert cuts == len(rows) + 4, "at the spool's start, each file, its folder, the outbox, the data directory"
    assert found == {row["uid"]: row["sha256"] for row in rows}
    assert {uid: {digest} for uid, digest in found.items()} == digests
