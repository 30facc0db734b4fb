"""A department behind a load balancer: each study comes over two associations at once, and so over two listeners."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from node.deliver.association import UnreachableError
from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from tests.chaos.department import PAUSE_S, Department, uid_of


class SplitDepartment(Department):
    """Sends every second slice of a study over one association, and the others over another at the same time."""

    def _send(self, files: list[Path]) -> list[Path]:
        with ThreadPoolExecutor(2) as pool:
            left = list(pool.map(self._send_some, (files[::2], files[1::2])))
        return [*left[0], *left[1]]

    def _send_some(self, files: list[Path]) -> list[Path]:
        """Send over one association; returns what was not acknowledged."""
        replies: list[tuple[int, Reply]] = []
        try:
            if files:
                send(
                    files,
                    "127.0.0.1",
                    self._port(),
                    called_ae="SPINENODE",
                    calling_ae="CT1",
                    timeout_s=10.0,
                    replied=lambda index, reply: replies.append((index, reply)),
                )
        except (UnreachableError, OSError):
            self._given_up.wait(PAUSE_S)
        stored = {index for index, reply in replies if reply.verdict is Verdict.STORED}
        with _counting:
            self.counts.sent += len(replies)
            self.counts.acknowledged |= {uid_of(files[index]) for index in stored}
        return [path for index, path in enumerate(files) if index not in stored]


_counting = threading.Lock()
