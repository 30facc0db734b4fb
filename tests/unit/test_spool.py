"""The spool: acknowledged means recoverable from the file alone."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from node.receive.spool import OutOfSpaceError, ReceivedObject, Reception, Spool, filesystem_type
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
    assert spool.read_reception(stored.spool_name) is None
    spool.quarantine(stored.spool_name)
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
