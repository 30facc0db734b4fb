"""The header of a spool file: as pydicom reads it, as earlier versions wrote it, and torn in every place."""

from __future__ import annotations

import os
import random
import re
import threading
import time
import zlib
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from node.receive import write_out
from node.receive.shared_sync import SharedSync
from node.receive.spool import SPOOL_CREATOR_UID, Origin, Reception, Spool
from node.receive.spool_file import file_header
from node.receive.write_out import PAGE_BYTES

ORIGIN = Origin(
    CTImageStorage, "1.2.3.4", ExplicitVRLittleEndian, "SCANNER", "SPINE NODE", datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
)
CONTENT = b"\x08\0\x60\0CS\x02\0CT" + b"\x10\0\x10\0PN\x06\0Inv^Me"


def whole(spool: Spool, *pieces: bytes) -> Reception:
    incoming = spool.receive(ORIGIN)
    for piece in pieces[:-1]:
        incoming.write([piece])
    return incoming.commit([pieces[-1]])


@pytest.mark.parametrize("pieces", [[CONTENT], [CONTENT[:3], CONTENT[3:]], [CONTENT, b""], [b"", CONTENT]])
def test_pydicom_reads_what_is_written(tmp_path: Path, pieces: list[bytes]) -> None:
    spool = Spool(tmp_path / "spool")
    stored = whole(spool, *pieces)
    data_set = dcmread(spool.path(stored.spool_name))
    assert (data_set.Modality, str(data_set.PatientName)) == ("CT", "Inv^Me")
    meta = data_set.file_meta
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert meta.SendingApplicationEntityTitle == "SCANNER"
    assert meta.ReceivingApplicationEntityTitle == "SPINE NODE"
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert spool.recover(stored.spool_name) == stored


def test_the_header_s_size_does_not_depend_on_what_follows() -> None:
    assert len(file_header(ORIGIN, 0, 0)) == len(file_header(ORIGIN, 10**15, 0xFFFFFFFF))
    assert len(file_header(ORIGIN, 5, 5)) % 2 == 0


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Written by pydicom, the length not padded, its own implementation version among the elements."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(ORIGIN.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(ORIGIN.sop_instance_uid)
    meta.TransferSyntaxUID = UID(ORIGIN.transfer_syntax)
    meta.ImplementationClassUID = SPOOL_CREATOR_UID
    meta.SendingApplicationEntityTitle = ORIGIN.calling_ae
    meta.ReceivingApplicationEntityTitle = ORIGIN.called_ae
    meta.PrivateInformationCreatorUID = SPOOL_CREATOR_UID
    note = f"1;{ORIGIN.received_at.isoformat()};{len(CONTENT)};{zlib.crc32(CONTENT):08x}"
    meta.PrivateInformation = (note + " " * (len(note) % 2)).encode("ascii")
    buffer = BytesIO(b"\0" * 128 + b"DICM")
    buffer.seek(0, 2)
    write_file_meta_info(buffer, meta, enforce_standard=True)  # type: ignore[arg-type]
    spool = Spool(tmp_path / "spool")
    (tmp_path / "spool" / "2026030405").mkdir()
    name = "2026030405/00000000000000000000000000000001.dcm"
    spool.path(name).write_bytes(buffer.getvalue() + CONTENT)
    assert spool.recover(name) == Reception(name, **vars(ORIGIN))


def test_cut_anywhere_it_is_torn(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    path = spool.path(whole(spool, CONTENT).spool_name)
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        assert spool.read_reception(f"{path.parent.name}/{path.name}") is None, length


def test_the_disk_begins_with_whole_pages_behind_the_header_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "node.receive.spool_file.begin_write_out",
        lambda descriptor, begin, count: begun.append((begin, count)) or written.append(os.fstat(descriptor).st_size),
    )
    written: list[int] = []
    spool = Spool(tmp_path / "spool")
    incoming = spool.receive(ORIGIN)
    sizes = [100, 3000, 5000, 1, 40_000, 65_536]
    for size in sizes:
        incoming.write([b"\x55" * size])
    reception = incoming.commit([b"\x55" * 100_000])
    assert spool.recover(reception.spool_name) == reception
    ends = [begin + count for begin, count in begun]
    assert [begin for begin, _ in begun] == [PAGE_BYTES, *ends[:-1]], "each once, and never the first page"
    assert all(count > 0 and count % PAGE_BYTES == 0 for _, count in begun)
    assert all(end <= size < end + PAGE_BYTES for end, size in zip(ends, written, strict=True))
    assert ends[-1] > sum(sizes) - PAGE_BYTES


def test_with_any_page_lost_in_a_power_cut_it_is_torn(tmp_path: Path) -> None:
    """Some pages were written out, others not: zeros, or what lay there before; before the header and after it."""
    spool = Spool(tmp_path / "spool")
    incoming = spool.receive(ORIGIN)
    rng = random.Random(3)
    for _ in range(4):
        incoming.write([rng.randbytes(20_000)])
    (name,) = spool.names()
    path = spool.path(name)
    images = [path.read_bytes()]
    reception = incoming.commit([rng.randbytes(20_001)])
    whole = path.read_bytes()
    for page in range(0, len(whole), PAGE_BYTES):
        for lost in (b"\0", b"\xa5"):
            some = bytearray(whole)
            some[page : page + PAGE_BYTES] = lost * len(some[page : page + PAGE_BYTES])
            images.append(bytes(some))
    for image in images:
        path.write_bytes(image)
        assert spool.read_reception(name) is None
    path.write_bytes(whole)
    assert spool.read_reception(name) == reception


def test_where_the_system_cannot_begin_early_the_flush_does_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    monkeypatch.setattr("node.receive.spool_file.begin_write_out", write_out._linux())
    spool = Spool(tmp_path / "spool")
    reception = whole(spool, b"\x55" * 50_000, CONTENT)
    assert spool.recover(reception.spool_name) == reception


def test_no_name_comes_twice(tmp_path: Path) -> None:
    """Of one spool whose threads share it, and of two processes' spools in one folder."""
    spools = [Spool(tmp_path / "spool") for _ in range(2)]
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda spool=spool: names.extend(whole(spool, CONTENT).spool_name for _ in range(50)))
        for spool in spools * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(names)) == len(names) == 200
    assert all(re.fullmatch(r"2026030405/[0-9a-f]{32}\.dcm", name) for name in names)


def test_one_altered_byte_of_the_data_or_of_what_is_said_of_it_is_noticed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    path = spool.path(whole(spool, CONTENT).spool_name)
    raw = path.read_bytes()
    note = raw.index(b"1;2026")
    checked = [*range(128, 138), *range(140, 144), *range(raw.index(b";", note + 2) + 1, len(raw))]
    for place in checked:
        altered = bytearray(raw)
        altered[place] ^= 0x01
        path.write_bytes(altered)
        assert spool.read_reception(f"{path.parent.name}/{path.name}") is None, place


def test_callers_at_the_same_time_share_a_flush_that_begins_after_they_came(tmp_path: Path) -> None:
    begun, gate = [], threading.Event()

    def slow(directory: Path) -> None:
        begun.append(directory)
        gate.wait(10)

    sync = SharedSync(slow)
    first = threading.Thread(target=sync, args=(tmp_path,))
    first.start()
    while not begun:
        time.sleep(0.001)
    others = [threading.Thread(target=sync, args=(tmp_path,)) for _ in range(8)]
    for other in others:
        other.start()
    while threading.active_count() < 9:
        time.sleep(0.001)
    assert len(begun) == 1
    gate.set()
    for thread in (first, *others):
        thread.join(10)
    assert len(begun) in (2, 3)  # a late thread may have begun a third


def test_a_flush_that_fails_fails_for_everybody_who_shares_it(tmp_path: Path) -> None:
    def full(_directory: Path) -> None:
        raise OSError(28, "No space left on device")

    sync = SharedSync(full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            sync(tmp_path)
