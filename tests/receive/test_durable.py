"""Acknowledged means on the disk: seen from outside, by strace, and memory stays bounded whatever is sent."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from node.receive.spool import Spool
from tests.conftest import REPOSITORY
from tests.pdus import COMMAND, LAST, RawSender, data_pdus, p_data, pdv, store, store_command

CALL = re.compile(r"^(?P<name>\w+)\((?P<fd>-?\d+|AT_FDCWD)(?P<rest>.*)= (?P<result>-?\d+)")


def receiver(spool: Path, *before: str) -> subprocess.Popen[str]:
    """The listener in a process of its own; the first line that it prints is its port."""
    return subprocess.Popen(
        [*before, sys.executable, "-m", "tests.benchmarks.receiver", str(spool)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


@pytest.mark.debian
def test_every_response_follows_the_flush_of_its_file(tmp_path: Path, program: Callable[[str], str]) -> None:
    """Four associations at once: on each one's thread, writes to a file, then its fdatasync, then a C-STORE-RSP.

    That the disk began before with a large file's first pages is no flush.
    """
    strace = [program("strace"), "-ff", "-qq", "-s", "16", "-o", str(tmp_path / "trace")]
    calls = "trace=openat,write,writev,pwrite64,sync_file_range,fdatasync,close,sendto"
    process = receiver(tmp_path / "spool", *strace, "-e", calls)
    sizes = [100, 600_000, 2_500_000, 33_000, 1_048_576]
    try:
        port = port_of(process)

        def send(first: int) -> None:
            with RawSender(port, timeout_s=120.0) as sender:
                sender.associate()
                requests = [store(f"1.2.{first}.{n}", bytes(size)) for n, size in enumerate(sizes)]
                assert sender.store_all(requests) == [0] * len(sizes)
                sender.release()

        threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
    finally:
        end(process)
    traces = [trace.read_text("latin-1") for trace in tmp_path.glob("trace.*")]
    assert sum(trace.count("sync_file_range(") for trace in traces) >= 4 * 3, "of what is larger than the buffer"
    responses = sum(_check(trace.splitlines()) for trace in traces)
    assert responses == 4 * len(sizes) == len(list(Spool(tmp_path / "spool").names()))


def _check(trace: list[str]) -> int:
    """Number of C-STORE responses that a thread sent; each has to follow the flush of a file written since."""
    written: dict[str, bool] = {}
    """Descriptors of spool files that are open: whether everything written to them is flushed."""
    flushed = responses = 0
    for line in trace:
        call = CALL.match(line)
        if call is None:
            continue
        name, descriptor, result = call["name"], call["fd"], call["result"]
        if name == "openat" and ".dcm" in line and "O_CREAT" in line:
            written[result] = False
        elif descriptor in written and name in ("write", "writev", "pwrite64"):
            written[descriptor] = False
        elif descriptor in written and name == "fdatasync":
            assert result == "0"
            written[descriptor] = True
        elif descriptor in written and name == "close":
            assert written.pop(descriptor), "closed with bytes that were not flushed"
            flushed += 1
        elif name == "sendto" and '"\\4' in line:  # a P-DATA-TF
            responses += 1
            assert not written, "answered with a file still open"
            assert flushed == responses, "answered without a flush"
    return responses


def test_memory_is_bounded_whatever_is_sent(tmp_path: Path) -> None:
    """One instance of 96 MiB, and 64 associations in mid-object, cost their buffers and no more."""
    process = receiver(tmp_path / "spool")
    try:
        port = port_of(process)
        resident = psutil.Process(process.pid)
        fragment = data_pdus(b"\0" * (1 << 20))[:-16]
        with RawSender(port, timeout_s=120.0) as sender:
            sender.associate()
            assert sender.store_all([store("1.2.1", b"\0" * (2 << 20))]) == [0]
            before = resident.memory_info().rss
            sender.send(p_data(pdv(store_command("1.2.2"), COMMAND | LAST)))
            piece = p_data(pdv(b"\0" * 100_000, 0))
            for _ in range(96 * 10):
                sender.send(piece)
            sender.send(p_data(pdv(b"", LAST)))
            assert sender.status() == 0
            assert resident.memory_info().rss - before < 8 << 20
        senders = [RawSender(port, timeout_s=120.0) for _ in range(40)]
        for sender in senders:
            sender.associate()
            sender.send(p_data(pdv(store_command("1.2.3"), COMMAND | LAST)), fragment[:500_000])
        assert resident.memory_info().rss - before < 40 * (2 << 20)
        for sender in senders:
            sender.socket.close()
    finally:
        end(process)
    assert len(list(Spool(tmp_path / "spool").names())) == 2
