"""Sending: on a busy machine, to a peer that takes nothing, and the demo, which sends what it is given."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pytest
from pydicom.uid import CTImageStorage
from rich.console import Console

from node.deliver.association import NothingAcceptedError
from node.deliver.sender import echo, is_dicom, send
from node.deliver.status import Reply, Verdict
from node.demo import show
from node.demo.pacs import AE_TITLE, SmallPacs
from node.demo.reading import ReadAnswer, ReadVertebra
from node.demo.stage import RunningNode, StageError, stage
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


@contextmanager
def pacs_without(folder: Path, abstract_syntax: str) -> Iterator[SmallPacs]:
    pacs = SmallPacs(folder)
    pacs._ae.remove_supported_context(abstract_syntax)
    with pacs:
        yield pacs


def test_a_peer_that_takes_none_of_the_classes_is_no_peer_that_is_down(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", 3)
    replies: dict[int, Reply] = {}
    with pacs_without(tmp_path / "pacs", CTImageStorage) as pacs:
        send(files, "127.0.0.1", pacs.port, called_ae=AE_TITLE, calling_ae="TEST", replied=replies.__setitem__)
    assert [replies[index].verdict for index in range(3)] == [Verdict.PERMANENT] * 3
    assert all("does not take CT Image Storage" in (reply.sentence or "") for reply in replies.values())


def test_an_echo_to_a_peer_without_verification_says_so(tmp_path: Path) -> None:
    with (
        pacs_without(tmp_path / "pacs", "1.2.840.10008.1.1") as pacs,
        pytest.raises(NothingAcceptedError, match="not Verification SOP Class"),
    ):
        echo("127.0.0.1", pacs.port, called_ae=AE_TITLE, calling_ae="TEST")


def test_dicom_files_are_told_by_their_preamble(tmp_path: Path) -> None:
    (file,) = write_series(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("x" * 200)
    (tmp_path / "empty").touch()
    assert [is_dicom(path) for path in (file, tmp_path / "notes.txt", tmp_path / "empty", tmp_path / "none")] == [
        True,
        False,
        False,
        False,
    ]


def test_the_demo_leaves_out_what_is_not_dicom_and_wants_something_that_is(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x" * 200)
    with pytest.raises(StageError, match="holds no DICOM file"):
        show.run_demo(tmp_path / "in", tmp_path / "out", console)
    assert not (tmp_path / "out").exists()
    files = write_series(tmp_path / "in", 2)
    assert show._dicom_only(tmp_path / "in", console) == files


@dataclass
class True1:
    """A vertebra of which everything is known."""

    level: str = "L1"
    centroid_lps_mm: tuple[float, ...] = (0.0, 0.0, 0.0)
    heights_mm: tuple[float, ...] = (12.0, 12.0, 24.0)
    loss: tuple[float, ...] = (0.5, 0.5, 0.0)
    deformity: str = "wedge"


@dataclass
class Told:
    """What the demo printed."""

    console: Console = field(default_factory=lambda: Console(file=io.StringIO(), width=300))

    def __str__(self) -> str:
        file = self.console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()


@pytest.mark.parametrize(
    ("flags", "loss", "fine"),
    [((True,), 0.5, True), ((False,), 0.5, False), ((None,), 0.5, False), ((), 0.5, False), ((False,), 0.3, True)],
)
def test_the_demo_fails_when_a_severe_fracture_is_not_flagged(
    flags: tuple[bool | None, ...], loss: float, fine: bool
) -> None:
    told = Told()
    truth = [True1(loss=(loss, loss, 0.0))]
    assert show._severe_are_flagged([ReadAnswer(flag, ()) for flag in flags], truth, told.console) is fine
    assert ("not flagged: L1 wedge, 50 % lost" in str(told)) is not fine


def test_brackets_in_dicom_text_are_shown_and_not_obeyed() -> None:
    told = Told()
    vertebra = ReadVertebra("[red]L1[/nothing]", (0.0, 0.0, 0.0), None, None, None, None)
    show._print_findings(ReadAnswer(None, (vertebra,)), (), told.console)
    assert "[red]L1[/nothing]" in str(told)


def test_sigterm_stops_what_the_demo_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RunningNode] = []

    def start(node: RunningNode) -> None:
        node._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        started.append(node)

    def elsewhere(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("SIGTERM did not become KeyboardInterrupt")

    monkeypatch.setattr(RunningNode, "start", start)
    former = signal.signal(signal.SIGTERM, elsewhere)
    try:
        with pytest.raises(KeyboardInterrupt), stage():
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(10)
        assert signal.getsignal(signal.SIGTERM) is elsewhere
    finally:
        signal.signal(signal.SIGTERM, former)
    (node,) = started
    assert node.process.poll() == -signal.SIGTERM
    assert not node.configuration.parent.exists()
