"""The spool: an instance is acknowledged once one file here is on the disk, and recoverable from that file alone.

A file is created under its final name, written once and flushed with one fdatasync; it is never renamed. Its name is
unique per reception and says nothing about the patient or the object. Length and CRC-32 of the data set, both AE
titles and the time of arrival stand in the file meta information (PS3.10 7.1, private information), so that a torn
file is told from a whole one, and a ledger row can be rebuilt, in every transfer syntax, deflated ones included.

A writer holds an exclusive lock (flock) on its file until it is whole, and whoever judges a file takes a shared one:
a file that is still being written is never taken for a torn one.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import cast

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

SPOOL_CREATOR_UID = UID("2.25.307178310338207403062412164268463870841")
"""Marks the private information of our file meta (0002,0100)."""
DURABLE_WITHOUT_DIRECTORY_SYNC = frozenset({"ext4", "xfs", "btrfs"})
"""On these, fdatasync of a new file makes its name durable too (crash images of each were checked)."""
QUARANTINE = "quarantine"
_HOUR = re.compile(r"[0-9]{10}")
_TRIES = 3
_CHUNK = 1 << 20
_GROUP_LENGTH_END = 144
_LONGEST_META = 1 << 20


class OutOfSpaceError(Exception):
    """The spool's disk is at its reserve, or full."""


class BusyError(Exception):
    """The file is still being written."""


@dataclass(frozen=True)
class Reception:
    """What is known of an instance without looking at its content."""

    spool_name: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    calling_ae: str
    called_ae: str
    received_at: datetime


def filesystem_type(path: Path) -> str:
    """Type of the file system that holds ``path``, as the kernel names it ("ext4", "nfs4", ...); "" if unknown."""
    try:
        device = path.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return ""


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Spool:
    """Folder of acknowledged instances: ``<hour of arrival>/<unique name>.dcm``."""

    def __init__(self, folder: Path, free_space_reserve_bytes: int = 0) -> None:
        self.folder = folder
        self._reserve = free_space_reserve_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        _sync_directory(folder.parent)
        self._directory_sync_needed = filesystem_type(folder) not in DURABLE_WITHOUT_DIRECTORY_SYNC
        self._hours_made: set[str] = set()

    def path(self, spool_name: str) -> Path:
        """Full path of a name that the ledger holds."""
        return self.folder / spool_name

    def store(self, reception_of: ReceivedObject) -> Reception:
        """Write one instance so that it survives a power cut, then say under which name.

        Raises
        ------
        OutOfSpaceError
            Less than the reserve is free, or the disk filled up while writing. Nothing is left behind.
        """
        content = reception_of.data_set
        self._refuse_below_reserve(len(content))
        hour = reception_of.received_at.astimezone(UTC).strftime("%Y%m%d%H")
        header = _file_header(reception_of)
        for _ in range(_TRIES):
            name = f"{hour}/{uuid.uuid4().hex}.dcm"
            path = self.path(name)
            try:
                directory = self._hour_directory(hour)
                _write_durably(path, header, content)
                if self._directory_sync_needed:
                    _sync_directory(directory)
                break
            except FileNotFoundError:  # taken away before it was locked: once more, under another name
                continue
            except OSError as error:
                path.unlink(missing_ok=True)
                raise OutOfSpaceError(f"the spool could not be written: {error.strerror}") from error
        else:
            raise OutOfSpaceError("the spool could not be written: its files vanish")
        return Reception(
            spool_name=name,
            sop_class_uid=reception_of.sop_class_uid,
            sop_instance_uid=reception_of.sop_instance_uid,
            transfer_syntax=reception_of.transfer_syntax,
            calling_ae=reception_of.calling_ae,
            called_ae=reception_of.called_ae,
            received_at=reception_of.received_at,
        )

    def names(self) -> Iterator[str]:
        """Names of all instances on the disk, oldest hour first; the quarantine is not among them."""
        for hour in sorted(self.hours()):
            try:
                with os.scandir(self.folder / hour) as entries:
                    yield from sorted(f"{hour}/{entry.name}" for entry in entries if entry.name.endswith(".dcm"))
            except FileNotFoundError:
                continue

    def hours(self) -> dict[str, int]:
        """Number of files in each hour's directory. Whatever else lies in the spool (lost+found) is not looked at."""
        counts = {}
        for directory in self.folder.iterdir():
            if _HOUR.fullmatch(directory.name):
                try:
                    with os.scandir(directory) as entries:
                        counts[directory.name] = sum(1 for entry in entries if entry.name.endswith(".dcm"))
                except (FileNotFoundError, NotADirectoryError):
                    continue
        return counts

    def names_older_than(self, seconds: float) -> list[str]:
        """Names of the instances whose file was last written at least so long ago."""
        latest = time.time() - seconds
        names = []
        for name in self.names():
            try:
                if self.path(name).stat().st_mtime <= latest:
                    names.append(name)
            except FileNotFoundError:
                continue
        return names

    def recover(self, spool_name: str) -> Reception | None:
        """What the file itself says of its reception; a torn or altered file is set aside, and ``None`` returned.

        Raises
        ------
        BusyError
            The file is being written: it will be announced, or found torn by a later look.
        FileNotFoundError
            The file is gone.
        OSError
            It cannot be read, which says nothing about its content.
        """
        with self.path(spool_name).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(spool_name) from error
            reception = self.read_reception(spool_name)
            if reception is None:
                self.quarantine(spool_name)  # under the lock: its writer notices, and starts over
            return reception

    def read_reception(self, spool_name: str) -> Reception | None:
        """What the file itself says of its reception; ``None`` for a torn or altered file.

        Only the file meta information is parsed; of the data set, length and checksum are compared.

        Raises
        ------
        OSError
            The file is gone or cannot be read.
        """
        path = self.path(spool_name)
        try:
            meta, offset = _own_meta(path)
            if meta.PrivateInformationCreatorUID != SPOOL_CREATOR_UID:
                return None
            version, arrived, length, crc = bytes(meta.PrivateInformation).rstrip(b"\0 ").decode("ascii").split(";")
            if version != "1" or _length_and_crc(path, offset) != (int(length), int(crc, 16)):
                return None
            return Reception(
                spool_name=spool_name,
                sop_class_uid=str(meta.MediaStorageSOPClassUID),
                sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
                transfer_syntax=str(meta.TransferSyntaxUID),
                calling_ae=str(meta.get("SendingApplicationEntityTitle", "")),
                called_ae=str(meta.get("ReceivingApplicationEntityTitle", "")),
                received_at=datetime.fromisoformat(arrived),
            )
        except (OSError, MemoryError):
            raise
        except Exception:  # whatever pydicom makes of a torn header
            return None

    def quarantine(self, spool_name: str) -> Path:
        """Set a torn or altered file aside; it is kept, and no longer taken for an instance."""
        target = self.folder / QUARANTINE / Path(spool_name).name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        self.path(spool_name).rename(target)
        _sync_directory(target.parent)
        return target

    def remove(self, spool_name: str) -> None:
        """Delete an instance's file, and its hour's directory when that is empty and past."""
        path = self.path(spool_name)
        path.unlink(missing_ok=True)
        if path.parent.name < datetime.now(UTC).strftime("%Y%m%d%H"):
            try:
                path.parent.rmdir()
            except OSError:  # not empty, or already gone
                return

    def free_bytes(self) -> int:
        """Bytes free for the node's user."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def _refuse_below_reserve(self, size: int) -> None:
        if self.free_bytes() < self._reserve + size:
            raise OutOfSpaceError(f"less than the reserve of {self._reserve // 2**20} MB is free on the spool's disk")

    def _hour_directory(self, hour: str) -> Path:
        directory = self.folder / hour
        if hour not in self._hours_made or not directory.is_dir():
            directory.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(self.folder)
            self._hours_made = {hour}
        return directory


@dataclass(frozen=True)
class ReceivedObject:
    """One C-STORE request: its encoded data set and who sent it to whom."""

    data_set: bytes | memoryview
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    calling_ae: str
    called_ae: str
    received_at: datetime


def _file_header(received: ReceivedObject) -> bytes:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(received.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(received.sop_instance_uid)
    meta.TransferSyntaxUID = UID(received.transfer_syntax)
    meta.ImplementationClassUID = SPOOL_CREATOR_UID
    meta.SendingApplicationEntityTitle = received.calling_ae
    meta.ReceivingApplicationEntityTitle = received.called_ae
    meta.PrivateInformationCreatorUID = SPOOL_CREATOR_UID
    checksum = zlib.crc32(received.data_set)
    note = f"1;{received.received_at.isoformat()};{len(received.data_set)};{checksum:08x}"
    meta.PrivateInformation = (note + " " * (len(note) % 2)).encode("ascii")
    buffer = BytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(cast(DicomIO, buffer), meta, enforce_standard=True)
    return buffer.getvalue()


def _own_meta(path: Path) -> tuple[Dataset, int]:
    """The file meta information and where it ends, by its group length: a data set that begins with elements of group
    2 is the sender's mistake, and no part of what we wrote."""
    with path.open("rb") as file:
        start = file.read(_GROUP_LENGTH_END)
        end = _GROUP_LENGTH_END + int.from_bytes(start[-4:], "little")
        if start[128:136] != b"DICM\x02\x00\x00\x00" or end > _LONGEST_META:
            raise ValueError("no file of ours")
        meta = BytesIO(start[132:] + file.read(end - _GROUP_LENGTH_END))
    return read_dataset(meta, is_implicit_VR=False, is_little_endian=True), end


def _length_and_crc(path: Path, offset: int) -> tuple[int, int]:
    length = crc = 0
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            length += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return length, crc


def _write_durably(path: Path, *parts: bytes | memoryview) -> None:
    """Write a new file, locked until it is whole and on the disk.

    Raises
    ------
    FileNotFoundError
        The directory went, or the still empty file was set aside before it could be locked.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _write_all(descriptor, *parts)
        os.fdatasync(descriptor)
        path.stat()  # still there under its name
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, *parts: bytes | memoryview) -> None:
    rest = [memoryview(part) for part in parts]
    while rest:
        written = os.writev(descriptor, rest)
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][written:]
