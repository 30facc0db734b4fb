"""One flush of a directory for several files: for file systems on which a new name has to be flushed, too.

Whoever comes while a flush is under way cannot rely on it, since it may have begun before his name was entered. He
waits for the next one, and so does everybody else who comes meanwhile: however many there are, they share it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path


class _Flush:
    """One flush, its end, and what went wrong."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.error: OSError | None = None


class SharedSync:
    """Flushes directories; callers of one directory at the same time share a flush that begins after they came."""

    def __init__(self, sync: Callable[[Path], None]) -> None:
        self._sync = sync
        self._lock = threading.Lock()
        self._running: dict[Path, _Flush] = {}
        self._next: dict[Path, _Flush] = {}

    def __call__(self, directory: Path) -> None:
        """Return once the directory is on the disk with everything that was in it at the call.

        Raises
        ------
        OSError
            It could not be flushed.
        """
        with self._lock:
            flush = self._next.get(directory)
            mine = flush is None
            if flush is None:
                flush = self._next[directory] = _Flush()
            before = self._running.get(directory)
        if mine:
            if before is not None:
                before.over.wait()
            self._run(directory, flush)
        flush.over.wait()
        if flush.error is not None:
            raise OSError(flush.error.errno, flush.error.strerror)

    def _run(self, directory: Path, flush: _Flush) -> None:
        with self._lock:  # who comes from now on waits for another one
            del self._next[directory]
            self._running[directory] = flush
        try:
            self._sync(directory)
        except OSError as error:
            flush.error = error
        finally:
            with self._lock:
                if self._running.get(directory) is flush:
                    del self._running[directory]
            flush.over.set()
