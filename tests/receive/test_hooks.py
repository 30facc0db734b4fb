"""The contract with pynetdicom: what the fast path leans on is there, and without it the plain handler receives."""

from __future__ import annotations

import ssl
import sys
from typing import Any

import pytest
import structlog
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from node.receive import streaming
from node.receive.association import SWITCH_INTERVAL_S
from node.receive.streaming import Checkpoint, WaitingProvider, missing_hooks
from tests.listening import Certificates
from tests.pdus import COMMAND, ECHO, LAST, RawSender, echo_command, p_data, pdv, store
from tests.receive.conftest import MakeEar


def test_no_thread_of_the_process_holds_up_the_receiving_ones(
    make_ear: MakeEar, monkeypatch: pytest.MonkeyPatch
) -> None:
    intervals: list[float] = []
    monkeypatch.setattr(sys, "setswitchinterval", intervals.append)
    with make_ear() as ear:
        ear.serves()
    assert intervals == [SWITCH_INTERVAL_S]


def test_every_hook_is_there() -> None:
    assert missing_hooks() == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (DULServiceProvider, "_read_pdu_data"),
        (DULServiceProvider, "_decode_pdu"),
        (DULServiceProvider, "stop_dul"),
        (DULServiceProvider, "run_reactor"),
        (Association, "_run_reactor"),
    ],
)
def test_without_a_hook_the_plain_handler_receives_and_the_log_says_so(
    make_ear: MakeEar, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    with monkeypatch.context() as changed:
        if "reactor" in name:  # an association cannot be made without it
            changed.setattr(owner, name, None)
        else:
            changed.delattr(owner, name)
        missing = missing_hooks()
    assert any(name.strip("_") in hook for hook in missing)
    monkeypatch.setattr(streaming, "missing_hooks", lambda: missing)
    with structlog.testing.capture_logs() as logs, make_ear() as ear, ear.sender() as sender:
        assert [line["missing"] for line in logs if "fast path" in line["event"]] == [missing]
        sender.associate()
        assert sender.store_all([store("1.2.3", b"12345678")]) == [0]
        (association,) = ear.listener._open[0].server.associations
        assert type(association.dul) is DULServiceProvider
    assert len(ear.receptions) == 1


def test_the_fast_path_is_the_default(make_ear: MakeEar) -> None:
    with make_ear() as ear, ear.sender() as sender:
        sender.associate()
        (association,) = ear.listener._open[0].server.associations
        assert isinstance(association.dul, WaitingProvider)
        assert isinstance(association._reactor_checkpoint, Checkpoint)


def test_instances_stream_through_tls(make_ear: MakeEar, certificates: Certificates) -> None:
    """Records are taken from the TLS layer's buffer, too."""
    trusting = ssl.create_default_context(cafile=str(certificates.folder / "ca.pem"))
    trusting.load_cert_chain(certificates.folder / "scanner.pem", certificates.folder / "scanner.key")
    contents = [bytes([n]) * size for n, size in enumerate((10, 100_000, 3_000_000, 16_384, 16_385))]
    with make_ear(tls=certificates.listener()) as ear:
        connection = trusting.wrap_socket(RawSender(ear.listener.port).socket, server_hostname="localhost")
        with RawSender(ear.listener.port, connection=connection) as sender:
            sender.associate()
            assert sender.store_all([store(f"1.2.{n}", content) for n, content in enumerate(contents)]) == [0] * 5
            sender.send(p_data(pdv(echo_command(), COMMAND | LAST, ECHO)))
            assert sender.status() == 0
            sender.send(b"".join(store(f"1.3.{n}", content) for n, content in enumerate(contents)))
            assert [sender.status() for _ in contents] == [0] * 5
            assert sender.release() == 6
        assert [ear.data_set(reception) for reception in ear.receptions] == contents * 2
        with ear.sender() as silent, ear.sender() as plain:
            plain.send(b"\x01\0\0\0\0\xcd" + b"\0" * 205)  # no TLS at all
            assert silent.socket.fileno() > 0
            connection = trusting.wrap_socket(RawSender(ear.listener.port).socket, server_hostname="localhost")
            with RawSender(ear.listener.port, connection=connection) as sender:
                sender.associate()
                assert sender.store_all([store("1.2.9", b"12345678")]) == [0]
