"""One test for each weakness that DICOM software is known for, named by what it is, with the report that told of it."""

from __future__ import annotations

import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, get_frame
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from inference.refusal import RefusalCode
from node.deliver.association import UnreachableError
from node.deliver.sender import send
from node.gate import Unevaluable, load_volume, read_headers
from node.gate.deflated import inflates_too_far
from node.ledger import Database, overview
from node.receive.registrar import Registrar
from tests import peer
from tests.conftest import wait_until
from tests.dicom import ct_slice, write_series
from tests.gate.conftest import POLICY, Ct
from tests.listening import Certificates, Ear, descriptors, listening, resident_mb, threads
from tests.peer import CT_CONTEXT, ECHO_CONTEXT, Peer, fragment, p_data

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
"""Of values that break the rules: in the node's own processes nobody hears them, here they would be errors."""


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with listening(tmp_path, network_timeout_s=5.0) as opened:
        yield opened


def encoded(number: int = 0) -> bytes:
    """The data set of a CT slice as it travels, Explicit VR Little Endian."""
    buffer = DicomIO(cast(Any, BytesIO()))
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ct_slice(number))
    return cast(BytesIO, buffer.parent).getvalue()


@pytest.mark.parametrize("length", [0xFFFFFFFF, 2**31, 131073])
def test_memory_is_not_taken_by_a_declared_pdu_length(ear: Ear, length: int) -> None:
    """pynetdicom #1086, fo-dicom #1678: a buffer of the declared length, before the first byte of it has come."""
    memory = resident_mb()
    strangers = [Peer(ear.port) for _ in range(8)]
    for stranger in strangers:
        stranger.associate()
        stranger.send(peer.pdu(4, bytes(1000), length=length))
    for stranger in strangers:
        assert stranger.last().kind in (0, peer.ABORTED)
        stranger.socket.close()
    assert resident_mb() - memory < 30
    assert [event["why"] for event in ear.told("peer_refused")] == [f"a PDU of {length} bytes"]
    ear.echo()


def test_a_pdv_longer_than_its_pdu_reads_nothing_behind_it(ear: Ear) -> None:
    """DCMTK #87: the fragment's length was believed, and what lay behind the PDU was read as a part of it."""
    command = peer.store_command()
    with Peer(ear.port) as stranger:
        stranger.associate()
        lying = peer.pdu(4, struct.pack(">IBB", len(command) + 2 + len(peer.ECHO), CT_CONTEXT, 3) + command)
        stranger.send(lying + peer.ECHO)
        assert stranger.last().kind == peer.ABORTED
    assert ear.receptions == []


HOSTILE_UIDS = {
    "path": b"../../../../../../tmp/spine-owned",
    "absolute path": b"/tmp/spine-owned",
    "windows path": b"C:\\windows\\spine-owned",
    "sql": b"1.2'; DROP TABLE instance; --",
    "html": b"<script>alert(1)</script>",
    "ansi": b"\x1b[2J\x1b[31m1.2.3",
    "zero": b"1.2\x003.4",
    "template": b"${jndi:ldap://x}{{7*7}}%n%s",
    "not ascii": "1.2.ä€".encode(),
    "too long": b"1." * 200 + b"1",
    "64 kB": b"1." * 30_000 + b"1",
}
NO_UIDS = {
    "a space": b" ",
    "zeros": bytes(8),
    "line ends": b"\r\n\r\n",
    "dots": b"..",
    "steps": b"..\\..\\x",
    "both": b"\0\n\0\n",
}


@pytest.mark.parametrize("name", HOSTILE_UIDS)
def test_a_uid_is_never_a_path(ear: Ear, tmp_path: Path, name: str) -> None:
    """pynetdicom #1086: the SOP instance UID as a file name writes anywhere. The object itself is stored like any."""
    before = {path for path in tmp_path.parent.rglob("*") if "spool" not in path.parts}
    with Peer(ear.port) as stranger:
        stranger.associate(maximum_length=0)
        assert stranger.ask(peer.store(encoded(), HOSTILE_UIDS[name])).status == 0
    (stored,) = ear.stored()
    assert stored.endswith(encoded())
    assert ear.spool.recover(ear.receptions[0].spool_name) == ear.receptions[0], "whole after a restart, too"
    assert {path for path in tmp_path.parent.rglob("*") if "spool" not in path.parts} == before
    assert not Path("/tmp/spine-owned").exists()
    assert all(path.parent.parent == ear.spool.folder for path in ear.spool.folder.rglob("*.dcm"))
    ear.echo()


@pytest.mark.parametrize("name", NO_UIDS)
def test_a_request_that_names_no_instance_is_answered_and_the_association_goes_on(ear: Ear, name: str) -> None:
    with Peer(ear.port) as stranger:
        stranger.associate()
        assert stranger.ask(peer.store(encoded(), NO_UIDS[name])).status == 0xC000
        assert stranger.ask(peer.store(encoded(), b"1.2.3")).status == 0
    assert [reception.sop_instance_uid for reception in ear.receptions] == ["1.2.3"]
    assert len(ear.told("no_instance_uid")) == 1


@pytest.mark.parametrize("title", ["../../../etc/x", "a/b", "$(reboot)", "'; DROP TABLE x", "<b>", "%s%n", "..", "~"])
def test_an_ae_title_is_never_a_path(ear: Ear, title: str) -> None:
    """pynetdicom #1086, by the calling AE title."""
    with Peer(ear.port) as stranger:
        stranger.associate(calling=title)
        assert stranger.ask(peer.store(encoded())).status == 0
    (reception,) = ear.receptions
    assert reception.calling_ae == title[:16].strip()
    assert all(path.parent.parent == ear.spool.folder for path in ear.spool.folder.rglob("*.dcm"))


def test_a_deflate_bomb_is_stored_and_never_inflated(
    ear: Ear, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little that inflates to 200 MB, a limit of 3 MB: acknowledged as it came, unreadable in the ledger."""
    for module in ("node.gate.headers", "node.receive.content"):
        monkeypatch.setattr(f"{module}.inflates_too_far", lambda path: inflates_too_far(path, 3_000_000))
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = stream.compress(b"\x7f\xe0\x10\x00OB\0\0\0\0\xff\x7f"[:12])
    for _ in range(200):
        bomb += stream.compress(bytes(1 << 20))
    bomb += stream.flush()
    memory = resident_mb()
    with Peer(ear.port) as stranger:
        stranger.associate(contexts=[(CT_CONTEXT, peer.CT, (DeflatedExplicitVRLittleEndian,))])
        stranger.send(p_data(fragment(peer.store_command(), command=True)))
        for start in range(0, len(bomb), 100_000):
            last = start + 100_000 >= len(bomb)
            stranger.send(p_data(fragment(bomb[start : start + 100_000], command=False, last=last)))
        assert stranger.read().status == 0
    registrar = Registrar(ear.spool, database, lambda _connection, _study: None)
    registrar.enter_spool()
    with database.transaction() as connection:
        assert overview.counts(connection)["instances"] == 1
        assert overview.counts(connection)["studies"] == 0
    headers = read_headers([ear.spool.path(ear.receptions[0].spool_name)])
    assert (len(headers.headers), len(headers.unreadable)) == (0, 1)
    assert resident_mb() - memory < 100


def _encode_j2k(array: NDArray[np.uint16]) -> bytes:
    data_set = ct_slice(0, size=array.shape[0])
    data_set.Rows, data_set.Columns, data_set.PixelData = *array.shape, array.tobytes()
    data_set.compress(JPEG2000Lossless, generate_instance_uid=False)
    return get_frame(data_set.PixelData, 0, number_of_frames=1)


def compressed_series(folder: Path, syntax: str, frame: bytes) -> list[Path]:
    """A CT series whose slices hold ``frame`` as their pixel data."""
    paths = []
    for index, path in enumerate(Ct().write(folder)):
        data_set = pydicom.dcmread(path)
        data_set.file_meta.TransferSyntaxUID = syntax
        data_set.PixelData = encapsulate([frame])
        data_set["PixelData"].VR = "OB"
        data_set.InstanceNumber = index + 1
        data_set.save_as(path)
        paths.append(path)
    return paths


def refused_without_memory(paths: list[Path], sentence: str) -> None:
    memory = resident_mb()
    result = load_volume(read_headers(paths).headers, POLICY)
    assert isinstance(result, Unevaluable)
    assert result.refusal.code is RefusalCode.PIXELS_UNREADABLE
    assert sentence in result.refusal.sentence
    assert resident_mb() - memory < 100


def test_a_jpeg_2000_bomb_is_not_decoded(tmp_path: Path) -> None:
    """A codestream that claims 60,000 by 60,000 pixels in a slice of ten by eight."""
    frame = bytearray(_encode_j2k(np.zeros((64, 64), np.uint16)))
    start = frame.index(b"\xff\x4f\xff\x51")
    frame[start + 8 : start + 16] = struct.pack(">II", 60_000, 60_000)
    frame[start + 24 : start + 32] = struct.pack(">II", 60_000, 60_000)
    paths = compressed_series(tmp_path, JPEG2000Lossless, bytes(frame))
    refused_without_memory(paths, "has another size than the header says")


def test_an_rle_bomb_is_not_decoded(tmp_path: Path) -> None:
    """Runs that expand to 64 times the megabyte that was sent, in a slice of ten by eight."""
    segments = b"\x81\x00" * 500_000
    header = struct.pack("<16I", 2, 64, 64 + len(segments), *[0] * 13)
    paths = compressed_series(tmp_path, RLELossless, header + segments + segments)
    refused_without_memory(paths, "is longer than its pixels")


def test_command_and_data_in_one_pdu_are_stored(ear: Ear) -> None:
    """fo-dicom #1960: legal (PS3.8 Annex E), and taken for an error elsewhere."""
    command, content = peer.store_command(), encoded()
    with Peer(ear.port) as sender:
        sender.associate()
        both = p_data(fragment(command, command=True), fragment(content, command=False))
        assert sender.ask(both).status == 0
        split = p_data(
            fragment(command[:30], command=True, last=False),
            fragment(command[30:], command=True),
            fragment(content[:99], command=False, last=False),
        )
        sender.send(split)
        assert sender.ask(p_data(fragment(content[99:], command=False))).status == 0
    assert [stored.endswith(content) for stored in ear.stored()] == [True, True]


def test_an_executable_preamble_is_never_written(ear: Ear, tmp_path: Path) -> None:
    """CVE-2019-11687: the 128 bytes before DICM can hold a program. Ours are zeros, whatever the sender's file has."""
    (path,) = write_series(tmp_path / "in", 1)
    raw = bytearray(path.read_bytes())
    raw[:4] = b"MZ\x90\x00"
    path.write_bytes(bytes(raw))
    assert ear.send([path])[0].status_code == 0
    (stored,) = ear.stored()
    assert stored[:132] == bytes(128) + b"DICM"


def test_probes_of_a_load_balancer_leave_nothing(ear: Ear) -> None:
    """pynetdicom #669: a thread for each connection that is opened and closed."""
    before, files = threads(), descriptors()
    for index in range(200):
        probe = socket.create_connection(("127.0.0.1", ear.port), timeout=20)
        if index % 2:  # closed by a reset
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        probe.close()
    ear.echo()
    wait_until(lambda: ear.waiting == 0 and threads() <= before, what="no thread is left")
    wait_until(lambda: descriptors() <= files, what="no descriptor is left")
    assert ear.events == [], "a probe is no event"


def test_probes_on_the_tls_port_leave_nothing(tmp_path: Path, certificates: Certificates) -> None:
    with listening(tmp_path, tls=certificates.listener()) as ear:
        before, files = threads(), descriptors()
        for _ in range(50):
            socket.create_connection(("127.0.0.1", ear.port), timeout=20).close()
        ear.echo(tls=certificates.destination())
        wait_until(lambda: ear.waiting == 0 and threads() <= before, what="no thread is left")
        wait_until(lambda: descriptors() <= files, what="no descriptor is left")
        assert ear.events == []


def test_aborts_leave_no_threads(ear: Ear) -> None:
    """pynetdicom #912: threads of associations that the peer aborts, or that it just leaves."""
    before, files = threads(), descriptors()
    for index in range(30):
        with Peer(ear.port) as sender:
            sender.associate()
            if index % 3 == 0:
                sender.send(peer.ABORT)
            elif index % 3 == 1:
                sender.send(p_data(fragment(peer.store_command(), command=True)) + peer.ABORT)
    wait_until(lambda: ear.guests == 0 and threads() <= before, what="no thread is left")
    wait_until(lambda: descriptors() <= files, what="no descriptor is left")


def test_one_silent_client_on_the_tls_port_does_not_stop_the_listener(
    tmp_path: Path, certificates: Certificates
) -> None:
    """The hand-shake inside ``accept``, as pynetdicom does it: nobody else is let in until the silent one speaks."""
    with (
        listening(tmp_path, network_timeout_s=60.0, tls=certificates.listener()) as ear,
        socket.create_connection(("127.0.0.1", ear.port), timeout=20),
    ):
        wait_until(lambda: ear.waiting == 1, what="the silent one is there")
        ear.echo(tls=certificates.destination())
        assert ear.waiting == 1, "and it still is"


def test_small_objects_are_not_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 ms stalls of Nagle's algorithm: it is off on both sides of ours."""
    set_to: list[int] = []
    original = socket.socket.setsockopt

    def note(self: socket.socket, *arguments: Any) -> None:
        original(self, *arguments)
        if arguments[:2] == (socket.IPPROTO_TCP, socket.TCP_NODELAY):
            set_to.append(self.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(socket.socket, "setsockopt", note)
    with listening(tmp_path) as ear:
        with Peer(ear.port) as sender:
            set_to.clear()  # the scripted peer's own
            sender.associate()
            assert [bool(value) for value in set_to] in ([], [True]), "accepted before or after the line above"
        ear.echo()
        assert len(set_to) >= 2
        assert all(set_to)


BAD_ELEMENTS = {
    "an item without its sequence": b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    "an element longer than the rest": b"\x10\x00\x10\x00PN\xff\xff",
    "a VR that there is not": b"\x10\x00\x10\x00ZZ\x04\x00ABCD",
    "a date of letters": b"\x08\x00\x20\x00DA\x08\x00notadate",
    "elements in the wrong order": b"\x08\x00\x18\x00UI\x04\x001.2\0",
    "a number of letters": b"\x28\x00\x30\x00DS\x04\x00abcd",
    "an undefined length outside sequences": b"\x28\x00\x30\x00UN\0\0\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", BAD_ELEMENTS)
def test_one_bad_element_does_not_abort_the_association(ear: Ear, name: str) -> None:
    """mercure #50: one object that cannot be parsed ended the association, and the rest of the series with it."""
    with Peer(ear.port) as sender:
        sender.associate()
        contents = [encoded(0), encoded(1) + BAD_ELEMENTS[name], encoded(2)]
        for index, content in enumerate(contents):
            assert sender.ask(peer.store(content, b"1.2.%d" % index, index + 1)).status == 0
        assert sender.ask(peer.RELEASE).kind == peer.RELEASED
    assert [stored.endswith(content) for stored, content in zip(ear.stored(), contents, strict=True)] == [True] * 3
    assert ear.events == []


def test_a_receiver_that_stalls_in_mid_answer_does_not_hold_the_sender(tmp_path: Path) -> None:
    """The other way round: a destination that sends half a PDU and no more."""
    stalls = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = stalls.accept()
        connection.recv(100_000)
        connection.sendall(peer.pdu(2, bytes(10), length=1000))
        connection.recv(1)
        connection.close()

    server = threading.Thread(target=serve)
    server.start()
    port = stalls.getsockname()[1]
    with pytest.raises(UnreachableError):
        send(
            write_series(tmp_path, 1),
            "127.0.0.1",
            port,
            called_ae="X",
            calling_ae="Y",
            timeout_s=1.0,
            replied=lambda *_: None,
        )
    server.join(20)
    assert not server.is_alive()
    stalls.close()


def test_an_echo_in_its_context_is_answered(ear: Ear) -> None:
    with Peer(ear.port) as sender:
        sender.associate()
        assert sender.ask(p_data(fragment(peer.echo_command(7), command=True, context=ECHO_CONTEXT))).status == 0


def test_what_lies_in_the_spool_is_the_nodes_alone(ear: Ear, tmp_path: Path) -> None:
    assert ear.send(write_series(tmp_path / "in", 2))[0].status_code == 0
    found = [ear.spool.folder, *ear.spool.folder.rglob("*")]
    assert len(found) >= 4
    assert all(path.stat().st_mode & 0o077 == 0 for path in found), [oct(path.stat().st_mode) for path in found]
