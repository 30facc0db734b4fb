"""Studies in one process: beside each other, one at a time analysed, and alone where one has failed before."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from node.turns import ClosedError, Turns
from tests.conftest import wait_until


class Study(threading.Thread):
    """Takes a place, and keeps it until it is told to go."""

    def __init__(self, turns: Turns, alone: bool = False) -> None:
        super().__init__(daemon=True)
        self._turns, self._alone = turns, alone
        self.in_work, self._go = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self._turns.place(alone=self._alone):
            self.in_work.set()
            self._go.wait(20)

    def end(self) -> None:
        self._go.set()
        self.join(20)
        assert not self.is_alive()


def in_work(*studies: Study) -> Callable[[], bool]:
    return lambda: all(study.in_work.is_set() for study in studies)


def test_studies_are_in_work_beside_each_other_and_one_that_failed_is_alone() -> None:
    turns = Turns()
    first, second = Study(turns), Study(turns)
    wait_until(in_work(first, second), what="both in work")
    tried = Study(turns, alone=True)
    wait_until(lambda: turns._wanting_alone == 1, what="the one that failed to wait")
    later = Study(turns)
    first.end()
    assert not tried.in_work.wait(0.1)
    second.end()
    wait_until(in_work(tried), what="the one that failed")
    assert not later.in_work.wait(0.1), "the one that came later is not let in before it, nor beside it"
    tried.end()
    wait_until(in_work(later), what="the one that came later")
    later.end()


def test_two_that_failed_are_alone_one_after_the_other() -> None:
    turns = Turns()
    first = Study(turns, alone=True)
    wait_until(in_work(first), what="the first")
    second = Study(turns, alone=True)
    assert not second.in_work.wait(0.1)
    first.end()
    wait_until(in_work(second), what="the second")
    second.end()
    with turns.place(alone=False):
        assert turns.analysis.acquire(blocking=False)


def test_nobody_is_let_in_after_the_end_not_even_who_waits() -> None:
    turns = Turns()
    turned_away: list[bool] = []

    def wait(alone: bool) -> None:
        try:
            with turns.place(alone=alone):
                pass
        except ClosedError:
            turned_away.append(alone)

    first = Study(turns)
    wait_until(in_work(first), what="the first")
    waiting = [threading.Thread(target=wait, args=(True,))]
    waiting[0].start()
    wait_until(lambda: turns._wanting_alone == 1, what="the one that failed to wait")
    waiting.append(threading.Thread(target=wait, args=(False,)))
    waiting[1].start()
    turns.close()
    for thread in waiting:
        thread.join(20)
    assert sorted(turned_away) == [False, True]
    first.end()
    with pytest.raises(ClosedError), turns.place(alone=False):
        pass


def test_an_error_gives_the_place_back() -> None:
    turns = Turns()
    try:
        with turns.place(alone=True):
            raise OSError
    except OSError:
        pass
    with turns.place(alone=True), turns.analysis:
        assert turns.analysis.locked()
