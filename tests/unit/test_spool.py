"""The spool: acknowledged means recoverable from the file alone."""

import fcntl
import os
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from node.receive.spool import BusyError, OutOfSpaceError, ReceivedObject, Reception, Spool, filesystem_type
from tests.dicom import ct_slice

ARRIVED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def received(content: bytes, syntax: str = ExplicitVRLittleEndian) -> ReceivedObject:
    return ReceivedObject(
        data_set=content,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid="1.2.3.4",
        transfer_syntax=syntax,
        calling_ae="SCANNER",
        called_ae="SPINENODE",
        received_at=ARRIVED,
    )


def encoded_slice(tmp_path: Path) -> bytes:
    path = tmp_path / "slice.dcm"
    ct_slice(0).save_as(path, enforce_file_format=True)
    raw = path.read_bytes()
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


def test_a_file_alone_tells_everything_of_its_reception(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(encoded_slice(tmp_path)))
    assert Spool(tmp_path / "spool").read_reception(stored.spool_name) == stored
    assert stored.received_at == ARRIVED
    assert dcmread(spool.path(stored.spool_name)).PatientID == "P-1"


def test_deflated_objects_are_told_from_torn_ones_too(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(b"\x01\x02\x03\x04", DeflatedExplicitVRLittleEndian))
    assert spool.read_reception(stored.spool_name) == stored


@pytest.mark.parametrize(
    "begins",
    [
        b"\x02\x00\x10\x00ZZ\x00\x00",
        b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.2\0",
        b"\x02\x00\x02\x01OB\0\0\xff\xff\xff\x7f",
        b"\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\xff",
    ],
)
def test_a_data_set_that_begins_with_elements_of_group_2_is_no_torn_file(tmp_path: Path, begins: bytes) -> None:
    """Found by the fuzz: they were read as ours, and an acknowledged file was set aside after a restart."""
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(begins + encoded_slice(tmp_path)))
    assert spool.recover(stored.spool_name) == stored


def test_two_receptions_of_one_uid_are_two_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    content = encoded_slice(tmp_path)
    first, second = spool.store(received(content)), spool.store(received(content))
    assert first.spool_name != second.spool_name
    assert sorted(spool.names()) == sorted([first.spool_name, second.spool_name])


@pytest.mark.parametrize("keep", [0, 100, 150, 400, -1])
def test_a_torn_file_is_never_taken_for_an_instance(tmp_path: Path, keep: int) -> None:
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(encoded_slice(tmp_path)))
    path = spool.path(stored.spool_name)
    path.write_bytes(path.read_bytes()[:keep])
    assert spool.recover(stored.spool_name) is None
    assert list(spool.names()) == []
    assert len(list((tmp_path / "spool" / "quarantine").iterdir())) == 1


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(encoded_slice(tmp_path)))
    path = spool.path(stored.spool_name)
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 0x10
    path.write_bytes(raw)
    assert spool.read_reception(stored.spool_name) is None


def test_refused_below_the_reserve_and_taken_again_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool", free_space_reserve_bytes=1000)
    monkeypatch.setattr(Spool, "free_bytes", lambda _self: 1001)
    with pytest.raises(OutOfSpaceError, match="reserve"):
        spool.store(received(b"12345678"))
    assert list(spool.names()) == []
    monkeypatch.setattr(Spool, "free_bytes", lambda _self: 1008)
    assert isinstance(spool.store(received(b"12345678")), Reception)


def test_a_disk_that_fills_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OutOfSpaceError, match="No space left"):
        spool.store(received(b"12345678"))
    assert list(spool.names()) == []


def test_only_the_node_s_user_may_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(b"12345678"))
    path = spool.path(stored.spool_name)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_names_say_nothing_about_the_object(tmp_path: Path) -> None:
    stored = Spool(tmp_path / "spool").store(received(b"12345678"))
    hour, _, name = stored.spool_name.partition("/")
    assert hour == "2026030405"
    assert "1.2.3.4" not in name


def test_the_hour_s_directory_goes_with_its_last_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(b"12345678"))
    spool.remove(stored.spool_name)
    assert not spool.path(stored.spool_name).parent.exists()
    again = spool.store(received(b"12345678"))
    assert spool.path(again.spool_name).is_file()


def test_the_running_hour_s_directory_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    now = ReceivedObject(**{**received(b"12345678").__dict__, "received_at": datetime.now(UTC) + timedelta(minutes=1)})
    stored = spool.store(now)
    spool.remove(stored.spool_name)
    assert spool.path(stored.spool_name).parent.is_dir()


def test_the_file_system_s_type_is_found() -> None:
    assert filesystem_type(Path("/proc")) == "proc"


def test_the_data_set_is_not_parsed_to_learn_of_its_reception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncated deflate stream, acknowledged as it came, is no torn file; nothing is inflated to find out."""
    spool = Spool(tmp_path / "spool")
    deflated = zlib.compress(encoded_slice(tmp_path) * 50, wbits=-15)[:-20]
    stored = spool.store(received(deflated, DeflatedExplicitVRLittleEndian))
    monkeypatch.setattr(zlib, "decompressobj", None)
    monkeypatch.setattr(zlib, "decompress", None)
    assert spool.recover(stored.spool_name) == stored


@pytest.mark.parametrize("damage", [b"\xff" * 40, b"\x02\x00\x02\x01UI\xff\xff" * 5], ids=["noise", "lengths"])
def test_a_header_of_nonsense_is_a_torn_file_and_no_error(tmp_path: Path, damage: bytes) -> None:
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(b"12345678"))
    path = spool.path(stored.spool_name)
    raw = path.read_bytes()
    path.write_bytes(raw[:158] + damage + raw[158 + len(damage) :])
    assert spool.recover(stored.spool_name) is None


def test_a_file_that_is_being_written_is_busy_and_not_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")
    seen: list[str] = []
    flush = os.fdatasync

    def look(descriptor: int) -> None:
        name = next(iter(spool.names()))
        with pytest.raises(BusyError):
            Spool(tmp_path / "spool").recover(name)
        seen.append(name)
        flush(descriptor)

    monkeypatch.setattr(os, "fdatasync", look)
    stored = spool.store(received(b"12345678"))
    assert seen == [stored.spool_name]
    assert spool.recover(stored.spool_name) == stored


def test_a_file_judged_before_it_was_locked_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader was first: it sets the still empty file aside, and the writer starts over before it acknowledges."""
    spool = Spool(tmp_path / "spool")
    lock, judged = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if how == fcntl.LOCK_EX and not judged:
            judged.append(next(iter(spool.names())))
            assert spool.recover(judged[0]) is None
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    stored = spool.store(received(b"12345678"))
    assert judged != [stored.spool_name]
    assert list(spool.names()) == [stored.spool_name]
    assert spool.recover(stored.spool_name) == stored


def test_nothing_acknowledged_is_set_aside_while_others_write(tmp_path: Path) -> None:
    spool, scanner = Spool(tmp_path / "spool"), Spool(tmp_path / "spool")
    content = b"\0" * 200_000
    stored: list[Reception] = []

    def write() -> None:
        stored.extend(spool.store(received(content)) for _ in range(40))

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for name in scanner.names():
            try:
                scanner.recover(name)
            except (BusyError, FileNotFoundError):
                continue
    assert len(stored) == 120
    assert {reception.spool_name for reception in stored} <= set(spool.names())


def test_only_hours_are_looked_at(tmp_path: Path) -> None:
    """A spool on a mount of its own has a lost+found that only root may read."""
    spool = Spool(tmp_path / "spool")
    stored = spool.store(received(b"12345678"))
    for other in ("lost+found", "quarantine", "20260304", "2026030406-old"):
        (tmp_path / "spool" / other).mkdir()
        (tmp_path / "spool" / other / "x.dcm").write_bytes(b"x")
    assert list(spool.names()) == [stored.spool_name]
    assert spool.hours() == {"2026030405": 1}


def test_a_disk_too_full_for_the_hour_s_directory_is_out_of_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OutOfSpaceError, match="No space left"):
        spool.store(received(b"12345678"))


def test_names_of_files_of_a_certain_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")
    old, young, vanishing = (spool.store(received(b"12345678")).spool_name for _ in range(3))
    os.utime(spool.path(old), (time.time() - 100, time.time() - 100))
    names = list(spool.names())
    spool.path(vanishing).unlink()
    monkeypatch.setattr(spool, "names", lambda *_: iter(names))
    assert spool.names_older_than(60) == [old]
    assert sorted(spool.names_older_than(0)) == sorted([old, young])
