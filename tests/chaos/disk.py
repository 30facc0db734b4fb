"""A disk that forgets, on a power cut, what was not flushed: a model of the page cache over a real folder.

Everything is written for real; the model notes each flush, with what it made durable, and each promise that was made to
somebody. From these notes the folder is built as it may look after a power cut at any moment:

- A file has the bytes of its last fsync or fdatasync. What was never flushed is there whole, torn, with pages of zeros,
  empty, or not at all.
- Its name is durable by one of two rules: that of ext4, XFS and btrfs (a new file's flush makes its name durable), or
  the strict one of POSIX (only an fsync of the directory does, and so on up to the root).
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = 4096


class PowerCutError(BaseException):
    """The machine is off: nothing catches it."""


@dataclass(frozen=True)
class Flush:
    """A file whose bytes are durable, or a directory (``names``)."""

    path: Path
    digest: str = ""
    names: frozenset[str] | None = None


@dataclass(frozen=True)
class Promise:
    """Something was said to somebody outside: what, and what it rests on."""

    subject: str
    rests_on: Any = None


@dataclass
class ForgetfulDisk:
    """Notes what is flushed below ``root``; ``store`` keeps the bytes of each flush.

    Attributes
    ----------
    notes
        Flushes and promises in order.
    cut_at
        Number of the flush that does not happen any more: the power is cut instead.
    """

    root: Path
    store: Path
    notes: list[Flush | Promise] = field(default_factory=list)
    cut_at: int | None = None

    def __post_init__(self) -> None:
        self.store.mkdir()
        self._lock = threading.Lock()
        self._flushes = 0

    def attach(self, patch: pytest.MonkeyPatch) -> None:
        """Note every flush from now on."""
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._noting(getattr(os, name)))

    def promise(self, subject: str, rests_on: Any = None) -> None:
        """Somebody was told."""
        with self._lock:
            self.notes.append(Promise(subject, rests_on))

    def _noting(self, real: Any) -> Any:
        def flush(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not path.is_relative_to(self.root):
                real(descriptor)
                return
            with self._lock:
                if self._flushes == self.cut_at:
                    raise PowerCutError
                self._flushes += 1
                real(descriptor)
                name = path.relative_to(self.root)
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    self.notes.append(Flush(name, names=frozenset(entry.name for entry in path.iterdir())))
                else:
                    content = path.read_bytes()
                    digest = hashlib.sha256(content).hexdigest()
                    if not (self.store / digest).exists():
                        (self.store / digest).write_bytes(content)
                    self.notes.append(Flush(name, digest))

        return flush

    def promised(self, moment: int) -> list[Promise]:
        """What was promised before the power was cut."""
        return [note for note in self.notes[:moment] if isinstance(note, Promise)]

    def after_power_cut(self, moment: int, target: Path, rng: np.random.Generator, *, strict: bool) -> None:
        """Build the folder as it may look when the power is cut behind the first ``moment`` notes."""
        flushes = [note for note in self.notes[:moment] if isinstance(note, Flush)]
        data = {flush.path: flush.digest for flush in flushes if flush.names is None}
        listed = {flush.path / name for flush in flushes for name in flush.names or ()}
        target.mkdir(mode=0o700)
        everything = {flush.path: flush.digest for flush in self.notes if isinstance(flush, Flush) and flush.digest}
        for path, last in sorted(everything.items()):
            durable = path in data
            chain = [path, *path.parents][:-1]
            named = all(part in listed for part in chain) if strict else durable
            if not named and rng.random() < 0.5:
                continue
            (target / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if durable:
                os.link(self.store / data[path], target / path)
            else:
                (target / path).write_bytes(_torn((self.store / last).read_bytes(), rng))


def _torn(content: bytes, rng: np.random.Generator) -> bytes:
    """What may be left of bytes that were not flushed."""
    if rng.random() < 0.2:
        return content  # written back by chance
    left = bytearray(content[: int(rng.integers(0, len(content) + 1))])
    for start in range(0, len(left), PAGE):
        if rng.random() < 0.3:
            left[start : start + PAGE] = bytes(len(left[start : start + PAGE]))
    return bytes(left)
