"""A steady, mixed day: small CT series with and without holes, radiographs, repeats, junk objects and connections.

Each study is sent again until it is acknowledged as a whole; what it was and when that happened is kept.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread

from node.deliver.association import UnreachableError
from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from tests.chaos.department import write_study
from tests.dicom import STUDY, ct_slice, write_series
from tests.films import Film
from tests.pdus import A_ABORT, associate_request

JUNK = {
    "garbage": bytes(range(256)) * 16,
    "HTTP": b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 500,
    "giant PDU": b"\x04\x00\xff\xff\xff\xff" + bytes(64),
    "half an association": associate_request()[:100],
    "aborted association": associate_request() + A_ABORT,
    "probe": b"",
}
"""What strangers say before they hang up."""
KINDS = {"ct with a hole": 0.35, "ct": 0.1, "film": 0.25, "again": 0.1, "scout": 0.05, "junk": 0.15}
EXPECTED = {"ct with a hole": 2, "film": 3}
"""Results of the kinds whose way to the archive is timed."""
PAUSE_S = 0.5


@dataclass(frozen=True)
class Sent:
    """A study, its kind, its SOP Instance UIDs, and when (time.time) its last image was acknowledged."""

    study_uid: str
    kind: str
    uids: frozenset[str]
    acknowledged_at: float


class Traffic:
    """One event every ``every_s`` seconds, drawn by a seed. ``sent`` and ``counts`` say what there was."""

    def __init__(self, folder: Path, port: Callable[[], int], every_s: float, seed: int = 1) -> None:
        self.sent: list[Sent] = []
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._port = port
        self._every_s = every_s
        self._rng = np.random.default_rng(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._last: tuple[str, list[Path]] | None = None

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, patience_s: float = 120.0) -> None:
        """Send nothing new; return once what was begun is acknowledged."""
        self._over.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        due = time.monotonic()
        for number, kind in enumerate(self._kinds()):
            if self._over.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + self._every_s, time.monotonic())
            self.counts[kind] += 1
            if kind == "junk":
                name = str(self._rng.choice(list(JUNK)))
                _say(self._port, JUNK[name])
            elif kind == "again" and self._last is not None:
                self._until_acknowledged(self._last[1])
            elif kind != "again":
                self._study(number, kind)

    def _kinds(self) -> Iterator[str]:
        while True:
            yield str(self._rng.choice(list(KINDS), p=list(KINDS.values())))

    def _study(self, number: int, kind: str) -> None:
        study_uid = f"{STUDY}.7{number:05d}"
        folder = self._folder / str(number)
        if kind == "film":
            rows = int(self._rng.integers(96, 160))
            film = Film(study_uid=study_uid, series_uid=f"{study_uid}.1")
            film.stored = np.pad(film.stored, ((0, rows - 96), (0, 0)), mode="edge")
            paths = [film.write(folder / "film.dcm")]
        elif kind == "ct with a hole":
            paths = write_study(folder, study_uid)
        elif kind == "ct":
            paths = write_series(folder, 20, study_uid, f"{study_uid}.1", 32)
        else:
            folder.mkdir(parents=True)
            scout = ct_slice(0, study_uid, f"{study_uid}.1")
            scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            paths = [folder / "scout.dcm"]
            scout.save_as(paths[0], enforce_file_format=True)
        uids = frozenset(str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in paths)
        if self._until_acknowledged(paths):
            self.sent.append(Sent(study_uid, kind, uids, time.time()))
        if self._last is not None:
            for path in self._last[1]:
                path.unlink()
        self._last = (study_uid, paths)

    def _until_acknowledged(self, paths: list[Path]) -> bool:
        """Send until all is stored; false where the traffic was ended for a minute and it still is not."""
        waiting = list(paths)
        deadline: float | None = None
        while waiting:
            waiting = self._send(waiting)
            if waiting:
                if self._over.is_set():
                    deadline = deadline or time.monotonic() + 60.0
                    if time.monotonic() > deadline:
                        return False
                time.sleep(PAUSE_S)
        return True

    def _send(self, paths: list[Path]) -> list[Path]:
        stored: set[int] = set()

        def replied(index: int, reply: Reply) -> None:
            self.counts["requests"] += 1
            if reply.verdict is Verdict.STORED:
                stored.add(index)

        try:
            send(paths, "127.0.0.1", self._port(), called_ae="SPINENODE", calling_ae="CT1", replied=replied)
        except (UnreachableError, OSError, KeyError):
            self.counts["broken associations"] += 1
        return [path for index, path in enumerate(paths) if index not in stored]


def _say(port: Callable[[], int], words: bytes) -> None:
    try:
        with socket.create_connection(("127.0.0.1", port()), timeout=5.0) as connection:
            connection.sendall(words)
            connection.settimeout(1.0)
            connection.recv(4096)
    except (OSError, KeyError):
        return
