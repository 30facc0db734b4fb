"""One file of the spool: what stands in its header, and how it is written so that it is either whole or seen as torn.

The header is the file meta information (PS3.10 7.1). It has the same size whatever the length and the checksum of the
data set, so that its place can be left empty while a data set of unknown length streams in behind it: it is written
last. Until then the file does not even begin like a DICOM file.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydicom.uid import UID

from node.receive.checksum import crc32
from node.receive.write_out import PAGE_BYTES, begin_write_out

SPOOL_CREATOR_UID = UID("2.25.307178310338207403062412164268463870841")
"""Marks the private information of our file meta (0002,0100)."""
LONGEST_UID = 64
"""Bytes of a UID (PS3.5 9.1); what is longer is cut in the header, as it is in the ledger."""
_PREFIX = b"\0" * 128 + b"DICM"
_ELEMENT, _LONG_ELEMENT = struct.Struct("<HH2sH"), struct.Struct("<HH2sHI")
_VERSION = "1"
_TRIES = 3
_LARGEST_META = 1 << 16
_CHUNK = 1 << 20
_MOST_PIECES = 512
"""Written by one call: half of what the kernel takes (IOV_MAX)."""

Piece = bytes | memoryview


class OutOfSpaceError(Exception):
    """The spool's disk is at its reserve, or full."""


@dataclass(frozen=True)
class Origin:
    """What a C-STORE request and its association say of an instance before its data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    calling_ae: str
    called_ae: str
    received_at: datetime


@dataclass(frozen=True)
class ReceivedObject(Origin):
    """One C-STORE request: its encoded data set and who sent it to whom."""

    data_set: Piece


class Reception(NamedTuple):
    """What is known of an instance without looking at its content."""

    spool_name: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    calling_ae: str
    called_ae: str
    received_at: datetime


def file_header(origin: Origin, length: int, checksum: int) -> bytes:
    """Preamble, prefix and file meta information of an instance; its size does not depend on length and checksum.

    Parameters
    ----------
    length
        Bytes of the encoded data set.
    checksum
        Its CRC-32.
    """
    before, after = _constant_elements(
        origin.sop_class_uid, origin.transfer_syntax, origin.calling_ae, origin.called_ae
    )
    note = f"{_VERSION};{origin.received_at.isoformat()};{length:016d};{checksum:08x}"
    elements = (
        before
        + _element(0x0003, b"UI", origin.sop_instance_uid[:LONGEST_UID], b"\0")
        + after
        + _long_element(0x0102, note.encode("ascii") + b" " * (len(note) % 2))
    )
    return _PREFIX + _LONG_ELEMENT.pack(2, 0, b"UL", 4, len(elements)) + elements


@lru_cache(maxsize=256)
def _constant_elements(sop_class: str, transfer_syntax: str, calling_ae: str, called_ae: str) -> tuple[bytes, bytes]:
    """What stands before the SOP instance UID, and what after it."""
    before = _long_element(0x0001, b"\x00\x01") + _element(0x0002, b"UI", sop_class[:LONGEST_UID], b"\0")
    after = (
        _element(0x0010, b"UI", transfer_syntax, b"\0")
        + _element(0x0012, b"UI", SPOOL_CREATOR_UID, b"\0")
        + _element(0x0017, b"AE", calling_ae, b" ")
        + _element(0x0018, b"AE", called_ae, b" ")
        + _element(0x0100, b"UI", SPOOL_CREATOR_UID, b"\0")
    )
    return before, after


def _element(number: int, vr: bytes, value: str, padding: bytes) -> bytes:
    raw = value.encode("latin-1", "replace")
    raw += padding * (len(raw) % 2)
    return _ELEMENT.pack(2, number, vr, len(raw)) + raw


def _long_element(number: int, raw: bytes) -> bytes:
    return _LONG_ELEMENT.pack(2, number, b"OB", 0, len(raw)) + raw


def read_reception(path: Path, spool_name: str) -> Reception | None:
    """What the file itself says of its reception; ``None`` for a torn or altered file.

    Only the file meta information is parsed; of the data set, length and checksum are compared.

    Raises
    ------
    OSError
        The file is gone or cannot be read.
    """
    with path.open("rb") as file:
        try:
            values = _meta_elements(file)
            if values[0x0100] != SPOOL_CREATOR_UID:
                return None
            version, arrived, length, crc = values[0x0102].split(";")
            if version != _VERSION or _length_and_crc(file) != (int(length), int(crc, 16)):
                return None
            return Reception(
                spool_name=spool_name,
                sop_class_uid=values[0x0002],
                sop_instance_uid=values[0x0003],
                transfer_syntax=values[0x0010],
                calling_ae=values[0x0017],
                called_ae=values[0x0018],
                received_at=datetime.fromisoformat(arrived),
            )
        except (struct.error, KeyError, ValueError):  # torn, or not of ours
            return None


def _meta_elements(file: BinaryIO) -> dict[int, str]:
    """Values of the file meta information (PS3.10 7.1), by element number; the file stands at the data set then.

    Raises
    ------
    struct.error, ValueError
        This is no file meta information, or less than it says.
    """
    if file.read(len(_PREFIX))[-4:] != b"DICM":
        raise ValueError("no prefix")
    tag, vr, _, length = struct.unpack("<I2sHI", file.read(12))
    if tag != 0x0000_0002 or vr != b"UL" or length > _LARGEST_META:
        raise ValueError("no group length")
    meta = file.read(length)
    if len(meta) != length:
        raise ValueError("ends too soon")
    values = {}
    position = 0
    while position < length:
        group, number, vr, size = struct.unpack_from("<HH2sH", meta, position)
        position += 8
        if vr == b"OB":
            (size,) = struct.unpack_from("<I", meta, position)
            position += 4
        if group != 2 or size > length - position:
            raise ValueError("an element that does not fit")
        values[number] = meta[position : position + size].decode("latin-1").strip("\0 ")
        position += size
    return values


def _length_and_crc(file: BinaryIO) -> tuple[int, int]:
    """Of everything that follows in a file."""
    length = crc = 0
    while chunk := file.read(_CHUNK):
        length += len(chunk)
        crc = crc32(chunk, crc)
    return length, crc


class Incoming:
    """One instance on its way into the spool: written piece by piece, then committed or discarded.

    The file is created with the first piece; an instance that is committed with its only pieces is written by one
    call. Of one that comes in several, the disk begins with the first pieces while the next ones arrive. Whoever
    judges the spool's files finds it locked until it is whole and on the disk.

    Parameters
    ----------
    origin
        Whose name says nothing here: the file's name is unique per reception.
    folder
        The spool.
    new_name
        A name that no other reception has.
    make_hour
        Makes sure that the directory of an hour ("2026030405") exists; looks again where told to.
    refuse_below_reserve
        Raises :class:`OutOfSpaceError` where so many bytes more would leave too little space.
    make_durable
        Flushes a file (descriptor, name) to the disk, and its directory where the file system needs it.
    """

    def __init__(
        self,
        origin: Origin,
        folder: str,
        new_name: Callable[[], str],
        make_hour: Callable[[str, bool], None],
        refuse_below_reserve: Callable[[int], None],
        make_durable: Callable[[int, str], None],
    ) -> None:
        self._origin = origin
        self._folder = folder
        self._new_name = new_name
        self._make_hour = make_hour
        self._refuse_below_reserve = refuse_below_reserve
        self._make_durable = make_durable
        self._descriptor = -1
        self._name = ""
        self._length = 0
        self._checksum = 0
        self._data_begins = 0
        self._written_out = PAGE_BYTES

    @property
    def length(self) -> int:
        """Bytes of the data set so far."""
        return self._length

    def write(self, pieces: Sequence[Piece]) -> None:
        """Append to the data set; the pieces may be overwritten by their owner afterwards.

        Raises
        ------
        OutOfSpaceError
            Less than the reserve is free, or the disk is full. Nothing is left behind.
        """
        try:
            more = self._count(pieces)
            if self._descriptor < 0:
                self._create()
                self._data_begins = os.lseek(self._descriptor, len(self._header()), os.SEEK_SET)
            _write_all(self._descriptor, pieces, more)
            self._begin_write_out()
        except OSError as error:
            self.discard()
            raise OutOfSpaceError(f"the spool could not be written: {error.strerror}") from error
        except BaseException:
            self.discard()
            raise

    def commit(self, pieces: Sequence[Piece] = ()) -> Reception:
        """Append the last pieces, complete the header, and return once everything is on the disk.

        Raises
        ------
        OutOfSpaceError
            As in :meth:`write`.
        """
        try:
            more = self._count(pieces)
            header = self._header()
            if self._descriptor < 0:
                self._create()
                _write_all(self._descriptor, [header, *pieces], len(header) + more)
            else:
                _write_all(self._descriptor, pieces, more)
                os.pwrite(self._descriptor, header, 0)
            self._make_durable(self._descriptor, self._name)
            os.lstat(self._path())  # still there under its name
        except OSError as error:
            self.discard()
            raise OutOfSpaceError(f"the spool could not be written: {error.strerror}") from error
        except BaseException:
            self.discard()
            raise
        self._close()
        origin = self._origin
        return Reception(
            spool_name=self._name,
            sop_class_uid=origin.sop_class_uid[:LONGEST_UID],
            sop_instance_uid=origin.sop_instance_uid[:LONGEST_UID],
            transfer_syntax=origin.transfer_syntax,
            calling_ae=origin.calling_ae,
            called_ae=origin.called_ae,
            received_at=origin.received_at,
        )

    def discard(self) -> None:
        """Leave nothing behind; of no effect after :meth:`commit`."""
        if self._descriptor < 0:
            return
        try:
            Path(self._path()).unlink(missing_ok=True)
        finally:
            self._close()

    def _begin_write_out(self) -> None:
        """Of whole pages, without the first one: it gets the header, last of all."""
        end = self._data_begins + self._length
        end -= end % PAGE_BYTES
        if end > self._written_out:
            begin_write_out(self._descriptor, self._written_out, end - self._written_out)
            self._written_out = end

    def _count(self, pieces: Sequence[Piece]) -> int:
        """Add the pieces to length and checksum; their bytes."""
        more = sum(map(len, pieces))
        self._refuse_below_reserve(more)
        self._length += more
        for piece in pieces:
            self._checksum = crc32(piece, self._checksum)
        return more

    def _header(self) -> bytes:
        return file_header(self._origin, self._length, self._checksum)

    def _create(self) -> None:
        """Create the file and lock it.

        Raises
        ------
        FileNotFoundError
            Its directory vanishes, or it is set aside before it can be locked, again and again.
        """
        at = self._origin.received_at
        if at.tzinfo is not UTC:
            at = at.astimezone(UTC)
        hour = f"{at.year:04d}{at.month:02d}{at.day:02d}{at.hour:02d}"
        for attempt in range(_TRIES):
            self._make_hour(hour, attempt > 0)
            self._name = f"{hour}/{self._new_name()}.dcm"
            try:
                self._descriptor = os.open(self._path(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                os.lstat(self._path())  # from now on nobody sets it aside
                return
            except FileNotFoundError:
                self._close()
                if attempt == _TRIES - 1:
                    raise

    def _path(self) -> str:
        return f"{self._folder}/{self._name}"

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _write_all(descriptor: int, pieces: Sequence[Piece], total: int) -> None:
    """Write all pieces, of ``total`` bytes together."""
    rest = list(pieces)
    while total:
        written = os.writev(descriptor, rest[:_MOST_PIECES])
        total -= written
        if total:
            done = 0
            while written >= len(rest[done]):
                written -= len(rest[done])
                done += 1
            rest[: done + 1] = [memoryview(rest[done])[written:]]
