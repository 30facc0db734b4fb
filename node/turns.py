"""How studies share one evaluating process: several are in work, one at a time is analysed.

Reading images and encoding results take one core and the disk, the networks take all cores: while one study is
analysed, the next is read and the former encoded. A study whose evaluation has failed before is worked on alone, so
that one which kills its process takes no other down with it more than once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ClosedError(Exception):
    """The process ends: nothing more is begun."""


class Turns:
    """Shared by the threads of one process.

    Attributes
    ----------
    analysis
        Held while the networks run.
    """

    def __init__(self) -> None:
        self.analysis = threading.Lock()
        self._changed = threading.Condition()
        self._in_work = 0
        self._alone = False
        self._wanting_alone = 0
        self._closed = False

    def close(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextmanager
    def place(self, *, alone: bool) -> Iterator[None]:
        """Work on a study, beside others or ``alone``; whoever wants to be alone is let in before who comes later.

        Raises
        ------
        ClosedError
            Nobody is let in any more.
        """
        with self._changed:
            if alone:
                self._wanting_alone += 1
                self._changed.wait_for(lambda: self._closed or not self._in_work)
                self._wanting_alone -= 1
            else:
                self._changed.wait_for(lambda: self._closed or not (self._alone or self._wanting_alone))
            if self._closed:
                raise ClosedError
            self._in_work += 1
            self._alone = alone
        try:
            yield
        finally:
            with self._changed:
                self._in_work -= 1
                self._alone = False
                self._changed.notify_all()
