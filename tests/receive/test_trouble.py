"""What a sender, a stranger or a full disk can do to the fast path, and what it must not cost anybody."""

from __future__ import annotations

import errno
import gc
import os
import struct
import threading
import time
from pathlib import Path

import psutil
import pytest
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from node.receive.inlet import BUFFER_BYTES
from node.receive.spool import BusyError, Origin, Spool
from tests.conftest import wait_until
from tests.pdus import (
    A_ABORT,
    ABORT,
    COMMAND,
    CT,
    ECHO,
    LAST,
    RELEASE,
    RELEASE_RP,
    associate_request,
    command_set,
    data_pdus,
    p_data,
    pdv,
    store,
    store_command,
)
from tests.receive.conftest import Ear, MakeEar

BIG = os.urandom(3 * BUFFER_BYTES)
BEGUN = p_data(pdv(store_command("1.2.3"), COMMAND | LAST)) + data_pdus(BIG)[:-100_000]
"""All but the end of an instance: some of it is in the file already."""


def half_sent(ear: Ear) -> Path:
    """Wait until some of :data:`BEGUN` is in its file."""
    wait_until(lambda: any(path.stat().st_size > BUFFER_BYTES for path in ear.files()), what="a file that has begun")
    return ear.files()[0]


@pytest.mark.parametrize(
    ("end", "answer"), [(A_ABORT, 0), (RELEASE, RELEASE_RP), (b"", 0)], ids=["abort", "release", "hang-up"]
)
def test_what_ends_in_mid_object_is_no_instance(ear: Ear, end: bytes, answer: int) -> None:
    whole = p_data(pdv(store_command("1.2.3"), COMMAND | LAST)) + b"".join(
        p_data(pdv(BIG[start : start + 100_000], 0)) for start in range(0, 2_500_000, 100_000)
    )
    with ear.sender() as sender:
        sender.associate()
        sender.send(whole, end)
        if end:
            assert sender.read()[0] == answer
    ear.serves()
    assert len(ear.receptions) == 1
    wait_until(lambda: len(ear.files()) == 1, what="the torso to be removed")


def test_a_file_that_streams_is_busy_and_its_torso_is_torn(fast: Ear) -> None:
    with fast.sender() as sender:
        sender.associate()
        sender.send(BEGUN)
        path = half_sent(fast)
        name = f"{path.parent.name}/{path.name}"
        assert fast.spool.is_being_written(name)
        with pytest.raises(BusyError):
            Spool(fast.spool.folder).recover(name)
        torso = path.with_name("0" * 32 + ".dcm")  # what a power cut would leave
        torso.write_bytes(path.read_bytes())
        assert not torso.read_bytes()[128:].startswith(b"DICM")
        assert fast.spool.recover(f"{path.parent.name}/{torso.name}") is None
        sender.send(data_pdus(BIG)[-100_000:])
        assert sender.status() == 0
    assert not fast.spool.is_being_written(name)
    assert fast.data_set(fast.receptions[0]) == BIG


def test_what_is_here_is_written_while_the_rest_is_waited_for(fast: Ear) -> None:
    """A pause in the midst of an instance, and of a PDU, that is far smaller than the buffer."""
    with fast.sender() as sender:
        sender.associate()
        content = BIG[:200_000]
        request = p_data(pdv(store_command("1.2.3"), COMMAND | LAST)) + data_pdus(content)
        sender.send(request[:10_000])
        time.sleep(0.2)
        assert fast.files() == [], "too little to be worth a write"
        sender.send(request[10_000:120_000])
        wait_until(lambda: any(path.stat().st_size > 100_000 for path in fast.files()), what="what is here in its file")
        sender.send(request[120_000:])
        assert sender.status() == 0
    assert fast.data_set(fast.receptions[0]) == content


def test_an_instance_that_is_too_large_is_refused_and_the_next_one_taken(ear: Ear, make_ear: MakeEar) -> None:
    plain = ear.listener._plain
    with make_ear(plain=plain, max_instance_mb=1) as small, small.sender() as sender:
        sender.associate()
        assert sender.store_all([store("1.2.3", BIG), store("1.2.4", BIG[: 2**20])]) == [0xA700, 0]
        assert small.kinds == ["instance_too_large"]
        assert len(small.files()) == len(small.receptions) == 1


def test_an_instance_without_end_is_cut_off(fast: Ear) -> None:
    with fast.sender() as sender:
        sender.associate()
        sender.send(p_data(pdv(store_command("1.2.3"), COMMAND | LAST)))
        fragment = p_data(pdv(b"\0" * 100_000, 0))
        with pytest.raises(OSError, match=r"."):
            for _ in range(5000):
                sender.send(fragment)
    fast.wait_for("instance_too_large")
    fast.serves()


@pytest.mark.parametrize("call", ["writev", "fdatasync", "pwrite", "open"])
def test_a_disk_that_fills_in_mid_object_is_answered_and_recovers(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = os.open

    def full_for_spool(path: object, *more: int) -> int:
        return full() if str(path).endswith(".dcm") and more[0] & os.O_CREAT else real(path, *more)  # type: ignore[call-overload]

    with ear.sender() as sender:
        sender.associate()
        assert sender.store_all([store("1.2.1", BIG)]) == [0]
        monkeypatch.setattr(os, call, full_for_spool if call == "open" else full)
        used = call != "pwrite" or not ear.listener._plain  # the plain handler has the whole data set at once
        assert sender.store_all([store("1.2.2", BIG)]) == [0xA700 if used else 0]
        monkeypatch.undo()
        assert sender.store_all([store("1.2.3", BIG)]) == [0]
    assert ear.kinds.count("out_of_space") == used
    assert len(ear.files()) == len(ear.receptions) == 3 - used


def test_the_reserve_is_watched_while_an_instance_streams(fast: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    with fast.sender() as sender:
        sender.associate()
        sender.send(BEGUN)
        half_sent(fast)
        monkeypatch.setattr(Spool, "free_bytes", lambda _self: 10)
        sender.send(data_pdus(BIG)[-100_000:])
        assert sender.status() == 0xA700
    assert fast.files() == []


def test_a_failure_of_our_own_is_answered(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a mistake of ours")

    with ear.sender() as sender:
        sender.associate()
        monkeypatch.setattr("node.receive.spool_file.file_header", broken)
        assert sender.store_all([store("1.2.3", BIG)]) == [0x0110]
        monkeypatch.undo()
        assert ear.files() == []
        assert sender.store_all([store("1.2.3", BIG)]) == [0]


UIDS = ["../../../../tmp/x", "/etc/passwd", "1.2/3", "1." * 200, "'; DROP TABLE instance; --", "\x1b[2J", " 1.2 "]


@pytest.mark.parametrize("uid", UIDS)
def test_a_uid_is_never_a_path(fast: Ear, uid: str, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    with fast.sender() as sender:
        sender.associate()
        assert sender.store_all([store(uid, b"12345678")]) == [0]
    (reception,) = fast.receptions
    assert reception.sop_instance_uid == uid.rstrip("\0 ")[:64]
    new = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert new == {fast.spool.path(reception.spool_name)}
    recovered = fast.spool.recover(reception.spool_name)
    assert recovered is not None
    assert recovered.sop_instance_uid.strip() == uid.strip()[:64].strip()


BAD = {
    "a PDU longer than negotiated": struct.pack(">BBI", 4, 0, 131073) + b"\0" * 1000,
    "a PDU longer than negotiated, in mid-object": p_data(pdv(store_command("1.2.3"), COMMAND | LAST))
    + p_data(pdv(b"\0" * 131072, 0)),
    "a PDU of 4 GB": struct.pack(">BBI", 4, 0, 0xFFFFFFFF) + b"\0" * 1000,
    "a fragment longer than its PDU": struct.pack(">BBIIBB", 4, 0, 100, 200, CT, 3) + b"\0" * 94,
    "a fragment of 4 GB": struct.pack(">BBIIBB", 4, 0, 100, 0xFFFFFFFF, CT, 3) + b"\0" * 94,
    "a fragment without its control header": struct.pack(">BBIIB", 4, 0, 5, 1, CT),
    "half a fragment header": struct.pack(">BBI", 4, 0, 3) + b"\0\0\0",
    "data before its command": p_data(pdv(b"12345678", LAST)),
    "a command after its command": p_data(
        pdv(store_command("1.2.3"), COMMAND | LAST), pdv(store_command("1.2.3"), COMMAND | LAST)
    ),
    "another context in mid-message": p_data(pdv(store_command("1.2.3"), COMMAND | LAST), pdv(b"12345678", LAST, ECHO)),
    "a context that was not proposed": p_data(pdv(store_command("1.2.3"), COMMAND | LAST, 77)),
    "an instance in the context of an echo": p_data(pdv(store_command("1.2.3"), COMMAND | LAST, ECHO)),
    "a SOP class that is no storage": p_data(pdv(store_command("1.2.3", sop_class="1.2.3.4"), COMMAND | LAST)),
    "a command of noise": p_data(pdv(b"\xde\xad\xbe\xef" * 30, COMMAND | LAST)),
    "an empty command": p_data(pdv(b"", COMMAND | LAST)),
    "a command without end": b"".join(p_data(pdv(b"\0" * 60_000, COMMAND)) for _ in range(3)),
    "a request without its number": p_data(
        pdv(command_set(1, ((2, b"1.2.840.10008.5.1.4.1.1.2"), (0x1000, b"1.2.3")), True), COMMAND | LAST)
    ),
    "a query with an endless identifier": p_data(pdv(command_set(0x20, (), True), COMMAND | LAST))
    + p_data(pdv(b"\0" * 100_000, 0)) * 12,
    "garbage": b"\xff" * 100,
}


@pytest.mark.parametrize("name", BAD)
def test_who_breaks_the_protocol_is_aborted_and_the_next_is_served(fast: Ear, name: str) -> None:
    with fast.sender() as sender:
        sender.associate()
        sender.send(BAD[name])
        kind, _ = sender.read()
        assert kind == ABORT
        assert sender.read()[0] == 0  # and hung up on
    if name != "garbage":  # which pynetdicom sees for itself
        fast.wait_for("peer_refused")
    fast.serves()
    wait_until(lambda: len(fast.files()) == 1, what="the torso to be removed")


@pytest.mark.parametrize("sent", [BEGUN, BEGUN[:2000], b"\x04\0\0"], ids=["in a PDU", "in the first", "in a header"])
def test_a_sender_that_stalls_in_mid_pdu_is_dropped(fast: Ear, sent: bytes) -> None:
    with fast.sender() as sender:
        sender.associate()
        sender.send(sent)
        assert sender.read()[0] in (ABORT, 0)
    fast.serves()
    wait_until(lambda: len(fast.files()) == 1, what="the torso to be removed")


def test_a_slow_drip_holds_no_place(fast: Ear) -> None:
    """A byte now and then does not keep a PDU waiting beyond the time-out."""
    with fast.sender() as sender:
        sender.associate()
        begun = time.monotonic()
        with pytest.raises(OSError, match=r"."):
            for byte in p_data(pdv(b"\0" * 1000, 0)):
                sender.send(bytes([byte]))
                time.sleep(0.2)
        assert time.monotonic() - begun < 100


@pytest.mark.parametrize("sent", [b"", BEGUN], ids=["idle", "in mid-object"])
def test_stopping_aborts_what_is_open(make_ear: MakeEar, sent: bytes) -> None:
    with make_ear() as ear, ear.sender() as sender:
        sender.associate()
        sender.send(sent)
        if sent:
            half_sent(ear)
        threads = threading.active_count()
        ear.listener.stop()
        assert sender.read()[0] == ABORT
        assert sender.read()[0] == 0
        wait_until(lambda: threading.active_count() < threads, what="the association's threads to end")
        assert ear.files() == []


def test_nothing_is_left_of_many_associations(ear: Ear) -> None:
    process = psutil.Process()
    ear.serves()
    wait_until(lambda: "Acceptor" not in str(threading.enumerate()), what="the association to end")
    before = process.num_fds(), threading.active_count()
    for number in range(30):
        with ear.sender() as sender:
            sender.associate()
            if number % 5 > 1:
                sender.send(BEGUN[: number * 50_000])
            if number % 5 == 3:
                sender.send(A_ABORT)
    if ear.listener._plain:
        wait_until(lambda: threading.active_count() <= before[1], what="threads to end")
        gc.collect()  # pynetdicom leaves sockets to the garbage collector
    wait_until(
        lambda: process.num_fds() <= before[0] and threading.active_count() <= before[1],
        what="descriptors and threads to be given back",
    )


def test_a_failure_of_our_own_outside_of_an_instance_is_told(fast: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_origin: Origin) -> None:
        raise MemoryError

    with monkeypatch.context() as failure, fast.sender() as sender:
        failure.setattr(fast.spool, "receive", failing)
        sender.associate()
        sender.send(store("1.2.3", b"ab"))
        assert sender.read()[0] == ABORT
        assert sender.read()[0] == 0
    fast.wait_for("peer_refused")
    assert [detail["why"] for _, _, detail in fast.events] == ["an internal error (MemoryError)"]
    fast.serves()


@pytest.mark.parametrize("thread", [Association, DULServiceProvider])
def test_nothing_is_left_of_associations_for_which_there_is_no_thread(
    make_ear: MakeEar, monkeypatch: pytest.MonkeyPatch, thread: type[threading.Thread]
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    process = psutil.Process()
    with make_ear() as ear:
        ear.serves()
        wait_until(lambda: "Acceptor" not in str(threading.enumerate()), what="the association to end")
        before = process.num_fds()
        with monkeypatch.context() as without:
            without.setattr(thread, "start", start)
            for _ in range(10):
                with ear.sender() as sender:
                    sender.send(associate_request())
                    assert sender.read()[0] == ABORT
        wait_until(lambda: ear.listener.associations == 0, what="the associations to end")
        wait_until(lambda: gc.collect() >= 0 and process.num_fds() <= before, what="descriptors to be given back")
        ear.serves()


def test_idle_associations_do_not_poll(make_ear: MakeEar) -> None:
    """Fifty of them: pynetdicom's own loops would wake 100,000 times in this second."""
    with make_ear() as ear:
        senders = [ear.sender() for _ in range(50)]
        for sender in senders:
            sender.associate()
        process = psutil.Process()
        wait_until(lambda: process.num_threads() >= 100, what="all threads")
        time.sleep(0.5)
        before = process.num_ctx_switches().voluntary
        time.sleep(1.0)
        assert process.num_ctx_switches().voluntary - before < 2000
        for sender in senders:
            sender.socket.close()
