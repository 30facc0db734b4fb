"""A listener without a ledger: what it stored and told is kept in lists. And throw-away certificates, by openssl."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from node.deliver.sender import echo, send
from node.deliver.status import Reply
from node.receive.association import Listener
from node.receive.spool import Reception, Spool
from node.settings import DestinationTls, KeyPair, ListenerTls, Receive


class Ear:
    """A started listener with its spool."""

    def __init__(self, folder: Path, settings: Receive, plain: bool = False) -> None:
        self.spool = Spool(folder / "spool")
        self.receptions: list[Reception] = []
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.listener = Listener(settings, self.spool, self.receptions.append, self._record, plain=plain)

    def _record(self, kind: str, subject: str, detail: dict[str, Any]) -> None:
        self.events.append((kind, subject, detail))

    @property
    def port(self) -> int:
        return self.listener.port

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Details of the events of a kind."""
        return [detail for found, _, detail in list(self.events) if found == kind]

    def echo(self, **more: Any) -> None:
        """An honest client that is served, or an exception."""
        echo("127.0.0.1", self.port, **{"called_ae": "SPINENODE", "calling_ae": "SCANNER", **more})

    def send(self, paths: list[Path], **more: Any) -> list[Reply]:
        replies: list[Reply] = []
        send(
            paths,
            "127.0.0.1",
            self.port,
            **{"called_ae": "SPINENODE", "calling_ae": "SCANNER", "timeout_s": 20, **more},
            replied=lambda _index, reply: replies.append(reply),
        )
        return replies

    def stored(self) -> list[bytes]:
        """Whole files of the spool, in order of arrival."""
        return [self.spool.path(reception.spool_name).read_bytes() for reception in list(self.receptions)]

    @property
    def guests(self) -> int:
        """Associations that are open."""
        return sum(entrance.server.guests for entrance in self.listener._open)

    @property
    def waiting(self) -> int:
        """Connections without an association."""
        assert self.listener._door is not None
        return self.listener._door.waiting


@contextmanager
def listening(folder: Path, plain: bool = False, **settings: Any) -> Iterator[Ear]:
    """A listener on a free loopback port."""
    ear = Ear(folder, Receive(**{"port": 0, **settings}), plain)
    ear.listener.start()
    try:
        yield ear
    finally:
        ear.listener.stop()


def threads() -> int:
    """Number of threads of associations in this process (two for each on either side)."""
    return sum("AcceptorThread" in thread.name or "run_reactor" in thread.name for thread in threading.enumerate())


def descriptors() -> int:
    """Number of open files and sockets of this process."""
    return psutil.Process().num_fds()


def resident_mb() -> float:
    """Resident memory of this process."""
    return float(psutil.Process().memory_info().rss) / 2**20


@dataclass(frozen=True)
class Certificates:
    """An authority, and certificates that it made; one of another authority."""

    folder: Path

    def listener(self, name: str = "node", **more: Any) -> ListenerTls:
        return ListenerTls(
            certificate=self.folder / f"{name}.pem",
            key=self.folder / f"{name}.key",
            **{"client_authorities": self.folder / "ca.pem", **more},
        )

    def pair(self, name: str) -> KeyPair:
        return KeyPair(certificate=self.folder / f"{name}.pem", key=self.folder / f"{name}.key")

    def destination(self, own: str | None = "scanner", authority: str = "ca", **more: Any) -> DestinationTls:
        pair = self.pair(own) if own is not None else None
        return DestinationTls(authorities=self.folder / f"{authority}.pem", own=pair, **more)

    def make(self, name: str, authority: str = "ca", days: int = 2, password: str | None = None) -> None:
        """A certificate for 127.0.0.1 and localhost, signed by an authority; another one on each call."""
        signed = ["-CA", self._path(f"{authority}.pem"), "-CAkey", self._path(f"{authority}.key")]
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]
        self._request(name, days, "rsa:2048", [*signed, *names], password)

    def make_authority(self, name: str) -> None:
        """A self-signed authority."""
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-addext", "basicConstraints=critical,CA:TRUE"]
        curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
        self._request(name, 2, "ec", [*curve, *usage], None)

    def _request(self, name: str, days: int, kind: str, more: list[str], password: str | None) -> None:
        secrecy = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        files = ["-keyout", self._path(f"{name}.key"), "-out", self._path(f"{name}.pem"), *secrecy]
        done = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", kind, "-subj", f"/CN={name}", "-days", str(days), *files, *more],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (self.folder / f"{name}.key").chmod(0o600)

    def _path(self, name: str) -> str:
        return str(self.folder / name)


def make_certificates(folder: Path) -> Certificates:
    """An authority "ca" with "node" and "scanner", and an authority "other" with "stranger"."""
    made = Certificates(folder)
    for authority, names in (("ca", ("node", "scanner")), ("other", ("stranger",))):
        made.make_authority(authority)
        for name in names:
            made.make(name, authority)
    return made
