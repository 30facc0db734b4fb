"""Orthanc (Debian's package) on loopback ports of its own, as a PACS that is not ours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import wait_until


class Orthanc:
    """A running Orthanc."""

    def __init__(self, dicom_port: int, http_port: int) -> None:
        self.dicom_port = dicom_port
        self.url = f"http://127.0.0.1:{http_port}"
        self.pid = 0

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def file(self, instance: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/instances/{instance}/file", timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def store(self, path: Path) -> None:
        """Store a DICOM file by HTTP."""
        request = urllib.request.Request(f"{self.url}/instances", data=path.read_bytes(), method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def delete(self, instance: str) -> None:
        """Lose an instance."""
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/instances/{instance}", method="DELETE"), timeout=30
        ):
            pass

    def answers(self) -> bool:
        try:
            self.get("/system")
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def orthanc(
    folder: Path,
    program: str,
    plugins: Sequence[Path] = (),
    modalities: Mapping[str, tuple[str, int]] | None = None,
    options: Mapping[str, object] | None = None,
) -> Iterator[Orthanc]:
    """Start ``program`` with its storage in ``folder`` and further options; stop it at the end.

    ``modalities`` are those that may query and to which it reports: name to AE title and port, all on this machine.
    """
    http_port = free_port()
    running = Orthanc(free_port(), http_port)
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": "ORTHANC",
        "DicomPort": running.dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(path) for path in plugins],
        "DicomModalities": {name: [title, "127.0.0.1", port] for name, (title, port) in (modalities or {}).items()},
        "DicomWeb": {"Enable": bool(plugins), "Root": "/dicom-web/"},
        **(options or {}),
    }
    folder.mkdir(exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(configuration), encoding="ascii")
    with (folder / "orthanc.log").open("wb") as log:
        environment = {**os.environ, "TCP_NODELAY": "1"}  # DCMTK leaves Nagle's algorithm on
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, env=environment)
        running.pid = process.pid
        try:
            wait_until(running.answers, 60, "Orthanc to start")
            yield running
        finally:
            process.terminate()
            process.wait(20)
