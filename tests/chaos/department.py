"""A small radiology department: studies that arrive one after another, each sent again until it is acknowledged.

A study is a dozen tiny slices with a hole among them: the node answers it within a moment (*not evaluable*, a text
report and a picture), so that what is put to the test is receiving, ledger, queue and delivery, not arithmetic.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from node.deliver.association import UnreachableError
from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from tests.dicom import STUDY, ct_slice

SLICES = 14
HOLES = (4, 9)
RESULTS_PER_ANSWER = 2
"""A text report and a picture."""
SPACING_MM = 5.0
PAUSE_S = 0.3


@dataclass
class Counts:
    """What the department did: ``acknowledged`` holds SOP instance UIDs, ``sent`` counts requests with repeats."""

    sent: int = 0
    acknowledged: set[str] = field(default_factory=set)
    broken_associations: int = 0


class Department:
    """Sends ``studies`` studies, one every ``every_s`` seconds, to wherever ``port`` says."""

    def __init__(self, folder: Path, studies: int, port: Callable[[], int], every_s: float = 0.0) -> None:
        self.studies = [f"{STUDY}.{900 + number}" for number in range(studies)]
        self.counts = Counts()
        self._folder = folder
        self._port = port
        self._every_s = every_s
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="department", daemon=True)

    def __enter__(self) -> Department:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()
        self._thread.join(60)

    @property
    def busy(self) -> bool:
        """Whether there is something left to send."""
        return self._thread.is_alive()

    def _run(self) -> None:
        for number, study_uid in enumerate(self.studies):
            waiting = write_study(self._folder / str(number), study_uid)
            while waiting and not self._given_up.is_set():
                waiting = self._send(waiting)
                if waiting:
                    self.counts.broken_associations += 1
                    self._given_up.wait(PAUSE_S)
            self._given_up.wait(self._every_s)

    def _send(self, files: list[Path]) -> list[Path]:
        """Send; returns what was not acknowledged."""
        stored: set[int] = set()

        def replied(index: int, reply: Reply) -> None:
            self.counts.sent += 1
            if reply.verdict is Verdict.STORED:
                stored.add(index)

        try:
            port = self._port()
            with socket.create_connection(("127.0.0.1", port), timeout=1.0):
                pass
            send(files, "127.0.0.1", port, called_ae="SPINENODE", calling_ae="CT1", replied=replied)
        except (UnreachableError, OSError, KeyError, ValueError):  # it is down, or says no port yet
            time.sleep(PAUSE_S)
        self.counts.acknowledged |= {uid_of(files[index]) for index in stored}
        return [path for index, path in enumerate(files) if index not in stored]


def write_study(folder: Path, study_uid: str) -> list[Path]:
    """Write a study of one series with holes; returns its files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(SLICES):
        if number in HOLES:
            continue
        data_set = ct_slice(number, study_uid, f"{study_uid}.1")
        data_set.ImagePositionPatient = [-8.0, -8.0, SPACING_MM * number]
        data_set.SliceThickness = SPACING_MM
        paths.append(folder / f"{number:02d}.dcm")
        data_set.save_as(paths[-1], enforce_file_format=True)
    return paths


def uid_of(path: Path) -> str:
    """SOP Instance UID of a file."""
    return str(dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
