"""A listener without a ledger, by either handler: what arrived, and what it told, are lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from node.receive.association import Listener
from node.receive.spool import Reception, Spool
from node.settings import Receive
from tests.conftest import wait_until
from tests.pdus import RawSender, store

HEADER = 132 + 12


class Ear:
    """A listener and its spool."""

    def __init__(self, folder: Path, plain: bool, **settings: Any) -> None:
        self.spool = Spool(folder / "spool")
        self.receptions: list[Reception] = []
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.listener = Listener(
            Receive(port=0, free_space_reserve_mb=0, **settings),
            self.spool,
            self.receptions.append,
            lambda *event: self.events.append(event),
            plain=plain,
        )

    @property
    def kinds(self) -> list[str]:
        """Kinds of the events so far."""
        return [kind for kind, _, _ in self.events]

    def sender(self) -> RawSender:
        """A connection that is no association yet."""
        return RawSender(self.listener.port)

    def data_set(self, reception: Reception) -> bytes:
        """What lies in the spool behind the header, which has to be whole."""
        assert self.spool.recover(reception.spool_name) == reception
        raw = self.spool.path(reception.spool_name).read_bytes()
        return raw[HEADER + int.from_bytes(raw[140:144], "little") :]

    def files(self) -> list[Path]:
        """Every file below the spool."""
        return [path for path in self.spool.folder.rglob("*") if path.is_file()]

    def serves(self) -> None:
        """The next honest client is served."""
        before = len(self.receptions)
        with self.sender() as sender:
            sender.associate()
            assert sender.store_all([store("1.2.3.99", b"\x08\0\x05\0CS\x02\0AB")]) == [0]
            assert sender.release() == 6
        assert len(self.receptions) == before + 1

    def wait_for(self, kind: str) -> None:
        """An event of a kind."""
        wait_until(lambda: kind in self.kinds, what=f"the event {kind} among {self.kinds}")


MakeEar = Callable[..., AbstractContextManager[Ear]]


@pytest.fixture
def make_ear(tmp_path: Path) -> Iterator[MakeEar]:
    """Makes listeners that are stopped at the end of the test."""
    with ExitStack() as stack:

        @contextmanager
        def make(plain: bool = False, **settings: Any) -> Iterator[Ear]:
            ear = Ear(tmp_path, plain, **settings)
            ear.listener.start()
            stack.callback(ear.listener.stop)
            yield ear

        yield make


@pytest.fixture(params=["fast", "plain"])
def ear(request: pytest.FixtureRequest, make_ear: MakeEar) -> Iterator[Ear]:
    """A listener by either handler."""
    with make_ear(plain=request.param == "plain") as made:
        yield made


@pytest.fixture
def fast(make_ear: MakeEar) -> Iterator[Ear]:
    """A listener by the fast path: peers may be silent for two seconds, instances have 4 MiB at most."""
    with make_ear(network_timeout_s=2.0, max_instance_mb=4) as made:
        yield made
