"""Sends prepared C-STORE requests from memory, over one or several associations, each in a process of its own.

Instances have UIDs of their own and share their pixels; nothing is encoded while the clock runs.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from itertools import count as counting

import numpy as np
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

from tests.dicom import ct_slice
from tests.pdus import COMMAND, LAST, RawSender, data_pdus, p_data, pdv, store_command

PDU_BYTES = 131072
_PLACE = "9876543210123"
_numbers = counting(10**12)

Request = tuple[bytes, bytes]
"""Command and header of an instance; its pixels, which are those of all others."""


@lru_cache
def _template(size: int) -> Request:
    pixels = np.random.default_rng(0).integers(0, 4096, (size, size), dtype=np.uint16).tobytes()
    data_set = ct_slice(0, generate_uid()[:60], generate_uid())
    data_set.Rows = data_set.Columns = size
    del data_set.PixelData
    instance = f"1.2.826.0.1.3680043.8.498.{_PLACE}"
    data_set.SOPInstanceUID = instance
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, data_set)
    header = buffer.getvalue() + b"\xe0\x7f\x10\x00OW\0\0" + len(pixels).to_bytes(4, "little")
    command = p_data(pdv(store_command(instance), COMMAND | LAST))
    return command + p_data(pdv(header, 0)), data_pdus(pixels, PDU_BYTES)


def requests(count: int, size: int) -> list[Request]:
    """C-STORE requests of ``size`` x ``size`` x 16 bit, of UIDs never used before."""
    head, pixels = _template(size)
    place = _PLACE.encode("ascii")
    return [(head.replace(place, str(next(_numbers)).encode("ascii")), pixels) for _ in range(count)]


def seconds_to_send(port: int, prepared: list[Request], associations: int = 1) -> float:
    """Seconds from the first request to the last answer; the associations are open before.

    Raises
    ------
    RuntimeError
        Something was not stored.
    """
    ready, said = os.pipe()
    start, go = os.pipe()
    children = []
    for number in range(associations):
        child = os.fork()
        if child == 0:
            failed = 1
            try:
                os.close(ready)
                _send(port, prepared[number::associations], start, said)
                failed = 0
            finally:
                os._exit(failed)
        children.append(child)
    os.close(said)
    try:
        _read(ready, associations)
        begun = time.perf_counter()
        os.write(go, b"g" * associations)
        _read(ready, associations)
        return time.perf_counter() - begun
    finally:
        for descriptor in (ready, start, go):
            os.close(descriptor)
        for child in children:
            os.waitpid(child, 0)


def _send(port: int, prepared: list[Request], go: int, ready: int) -> None:
    """One association: say that it is open, wait for the start, send everything, say that it is done."""
    with RawSender(port, timeout_s=300.0) as sender:
        sender.associate()
        sender.socket.settimeout(None)
        os.write(ready, b"r")
        os.read(go, 1)
        for head, pixels in prepared:
            sent = sender.socket.sendmsg([head, pixels])
            if sent < len(head) + len(pixels):
                sender.socket.sendall((head + pixels)[sent:])
            status = sender.status()
            if status != 0:
                raise RuntimeError(f"answered 0x{status:04X}")
        os.write(ready, b"d")
        sender.release()


def _read(pipe: int, count: int) -> None:
    while count:
        read = os.read(pipe, count)
        if not read:
            raise RuntimeError("a sender failed")
        count -= len(read)
