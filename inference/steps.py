"""What is under way, told to whoever waits, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Steps:
    """The clock of one run.

    Attributes
    ----------
    timings_s
        Seconds by step, in the order in which the steps ended.
    """

    def __init__(self, progress: Callable[[str], None] | None = None) -> None:
        self._progress = progress
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Tell that the step ``name`` begins, and note its duration unless it fails."""
        if self._progress is not None:
            self._progress(name)
        began = time.perf_counter()
        yield
        self.timings_s[name] = self.timings_s.get(name, 0.0) + time.perf_counter() - began
