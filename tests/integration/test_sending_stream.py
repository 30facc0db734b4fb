"""Objects straight from the file to the connection: whole, whatever their size; and peers that answer nonsense."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from node.deliver import stream
from node.deliver.association import UnreachableError
from node.deliver.sender import send
from node.deliver.status import Reply, Verdict
from node.receive import command
from tests.conftest import wait_until
from tests.dicom import write_series
from tests.pdus import ABORT, COMMAND, LAST, command_set, p_data, pdv

UID = b"1.2.3\0"


def file_of(folder: Path, content: bytes, vr_of_the_private: bytes = b"") -> Path:
    """A file whose data set is ``content``; with private information in its meta information where a VR is given."""
    elements = b"".join(
        struct.pack("<HH2sH", 2, number, b"UI", len(value)) + value
        for number, value in (
            (0x0002, CTImageStorage.encode() + b"\0"),
            (0x0003, UID),
            (0x0010, ExplicitVRLittleEndian.encode() + b"\0"),
        )
    )
    if vr_of_the_private:
        elements += struct.pack("<HH2sHI", 2, 0x0102, vr_of_the_private, 0, 6000) + b"x" * 6000
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(content)}.dcm"
    meta = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements
    path.write_bytes(b"\0" * 128 + b"DICM" + meta + content)
    return path


class Scp:
    """Takes CT images; what it stores is kept as a digest, and its answers may be somebody else's bytes."""

    def __init__(self, largest_pdu: int = 131072, instead: Callable[[evt.Event], bytes | None] | None = None) -> None:
        self.digests: list[str] = []
        self.longest_pdu = 0
        self._instead = instead
        ae = AE(ae_title="SCP")
        ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.maximum_pdu_size = largest_pdu
        handlers = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_DATA_RECV, self._on_data)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = int(self._server.socket.getsockname()[1])

    def __enter__(self) -> Scp:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _on_data(self, event: evt.Event) -> None:
        if event.data[0] == 4:
            self.longest_pdu = max(self.longest_pdu, len(event.data) - 6)

    def _on_store(self, event: evt.Event) -> int:
        if self._instead is not None and (raw := self._instead(event)) is not None:
            event.assoc.dul.socket.socket.sendall(raw)
        data = event.request.DataSet
        self.digests.append(hashlib.sha256(data.getvalue() if data else b"").hexdigest())
        return 0x0000


def sent(files: list[Path], port: int, timeout_s: float = 20.0) -> list[Reply]:
    replies: dict[int, Reply] = {}
    send(
        files,
        "127.0.0.1",
        port,
        called_ae="SCP",
        calling_ae="TEST",
        timeout_s=timeout_s,
        replied=replies.__setitem__,
    )
    return [replies[index] for index in range(len(files))]


@pytest.mark.parametrize("largest_pdu", [4096, 131072, 0], ids=["small PDUs", "our PDUs", "PDUs of any length"])
def test_objects_of_every_size_arrive_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest_pdu: int
) -> None:
    monkeypatch.setattr(stream, "BUFFER_BYTES", 300_000)
    room = (largest_pdu or stream.LARGEST_PDU) - 6
    sizes = [1, 2, room - 1, room, room + 1, 2 * room, 299_000, 300_000, 900_001]
    contents = [bytes([size % 251]) * size for size in sizes]
    with Scp(largest_pdu) as scp:
        replies = sent([file_of(tmp_path, content) for content in contents], scp.port)
        assert [reply.verdict for reply in replies] == [Verdict.STORED] * len(sizes)
        assert scp.digests == [hashlib.sha256(content).hexdigest() for content in contents]
        assert scp.longest_pdu == (largest_pdu or stream.LARGEST_PDU)


def test_meta_information_that_is_not_plain_is_read_by_pydicom(tmp_path: Path) -> None:
    content = b"\x08\0\x60\0CS\x02\0CT"
    long = file_of(tmp_path, content, b"OB")
    assert stream._plain_meta(long.read_bytes()[: stream._LARGEST_META]) is None
    seen = stream.look_at(long)
    assert (seen.sop_class_uid, seen.sop_instance_uid) == (CTImageStorage, "1.2.3")
    assert long.read_bytes()[seen.offset :] == content
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\x10\0UI\x02\x001\0")
    with pytest.raises(ValueError, match="lacks file meta information"):
        stream.look_at(bare)


def test_files_as_pydicom_writes_them_are_read_as_pydicom_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = write_series(tmp_path, 1)
    quick = stream.look_at(file)
    monkeypatch.setattr(stream, "_plain_meta", lambda _raw: None)
    assert stream.look_at(file) == quick


ANSWER = command_set(0x8001, ((0x0120, b"\1\0"), (0x0900, b"\0\0")), with_data=False)
NONSENSE = {
    "an abort": struct.pack(">BBII", ABORT, 0, 4, 0),
    "a release": struct.pack(">BBII", 5, 0, 4, 0),
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a PDU of 4 GB": b"\4\0\xff\xff\xff\xff",
    "a fragment longer than its PDU": b"\4\0\0\0\0\x08\0\0\xff\xff\1\3zz",
    "a data set": p_data(pdv(b"1234", LAST)),
    "another command": p_data(pdv(command_set(0x8030, ((0x0900, b"\0\0"),), with_data=False), COMMAND | LAST)),
    "the answer to another request": p_data(pdv(ANSWER.replace(b"\1\0", b"\x07\0"), COMMAND | LAST)),
    "a command set that ends too soon": p_data(pdv(ANSWER[:-1], COMMAND | LAST)),
    "a command set without end": p_data(pdv(b"\0" * 60_000, COMMAND)) * 2,
}


@pytest.mark.parametrize("raw", NONSENSE.values(), ids=NONSENSE.keys())
def test_a_peer_that_answers_nonsense_is_a_peer_that_is_down(tmp_path: Path, raw: bytes) -> None:
    file = file_of(tmp_path, b"x" * 1000)
    before = threading.active_count()
    with Scp(instead=lambda _event: raw) as scp, pytest.raises(UnreachableError, match=r"ended|answered"):
        sent([file, file], scp.port)
    wait_until(lambda: threading.active_count() <= before, what="the associations' threads to end")


def test_an_answer_in_pieces_is_an_answer(tmp_path: Path) -> None:
    pieces = p_data(pdv(ANSWER[:7], COMMAND), pdv(ANSWER[7:20], COMMAND)) + p_data(pdv(ANSWER[20:], COMMAND | LAST))
    with Scp(instead=lambda _event: pieces) as scp:
        (reply,) = sent([file_of(tmp_path, b"x" * 1000)], scp.port)
    assert reply.status_code == 0


def test_a_peer_that_does_not_answer_is_not_waited_for_longer_than_said(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def dawdle(_event: evt.Event) -> None:
        goes_on.wait(20)

    with Scp(instead=dawdle) as scp:
        try:
            with pytest.raises(UnreachableError, match="did not answer within 1 s"):
                sent([file_of(tmp_path, b"x")], scp.port, timeout_s=1.0)
        finally:
            goes_on.set()


def test_pynetdicom_sends_where_its_upper_layer_cannot_be_lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stream.can_be_lent()
    monkeypatch.setattr(stream, "can_be_lent", lambda: False)
    content = b"\x08\0\x60\0CS\x02\0CT"
    with Scp() as scp:
        (reply,) = sent([file_of(tmp_path, content)], scp.port)
        assert scp.digests == [hashlib.sha256(content).hexdigest()]
    assert reply.verdict is Verdict.STORED


def test_the_request_is_understood_by_our_own_receiver() -> None:
    pdus = command.store_request("1.2.840", "1.2.3", 7, 1, 0)
    assert command.decode(pdus[12:]) == command.Command(command.C_STORE_RQ, 7, "1.2.840", "1.2.3", True)
