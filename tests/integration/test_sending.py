"""Sending many objects over one association, on a machine that is busy with other things."""

from __future__ import annotations

import threading
from pathlib import Path

from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from node.demo.pacs import AE_TITLE, SmallPacs
from tests.conftest import wait_until
from tests.dicom import write_series


def test_no_response_is_lost_on_a_busy_machine(tmp_path: Path) -> None:
    """The sender's own reactor thread must never take a response; its time-out would show as UnreachableError."""
    files = write_series(tmp_path / "in", 20)
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    spinners = [threading.Thread(target=spin) for _ in range(2)]
    before = threading.active_count()
    replies: list[Reply] = []
    with SmallPacs(tmp_path / "pacs") as pacs:
        for spinner in spinners:
            spinner.start()
        try:
            for _ in range(3):
                send(
                    files,
                    "127.0.0.1",
                    pacs.port,
                    called_ae=AE_TITLE,
                    calling_ae="TEST",
                    timeout_s=20,
                    replied=lambda _index, reply: replies.append(reply),
                )
        finally:
            stop.set()
            for spinner in spinners:
                spinner.join()
        assert [reply.verdict for reply in replies] == [Verdict.STORED] * 60
        assert len(pacs.received) == 60
    wait_until(lambda: threading.active_count() <= before, what="the associations' threads to end")
