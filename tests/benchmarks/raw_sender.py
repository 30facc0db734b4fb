"""Sends prepared C-STORE requests from memory, over one or several associations, each in a process of its own.

``python -m tests.benchmarks.raw_sender PORT COUNT SIZE ASSOCIATIONS`` prints the seconds from the first request to the
last answer; associations are open before the clock starts. Instances have UIDs of their own and share their pixels.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

from tests.dicom import ct_slice
from tests.pdus import COMMAND, LAST, RawSender, data_pdus, p_data, pdv, store_command

PDU_BYTES = 131072


def requests(count: int, size: int) -> list[tuple[bytes, bytes]]:
    """C-STORE requests of ``size`` x ``size`` x 16 bit in two parts: command and header, and the pixels they share."""
    pixels = np.random.default_rng(0).integers(0, 4096, (size, size), dtype=np.uint16).tobytes()
    shared = data_pdus(pixels, PDU_BYTES)
    study, series = generate_uid(), generate_uid()
    data_set = ct_slice(0, study, series)
    data_set.Rows = data_set.Columns = size
    del data_set.PixelData
    prepared = []
    for number in range(count):
        instance = f"{series[:50]}.{number}"
        data_set.SOPInstanceUID = instance
        data_set.InstanceNumber = number + 1
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, data_set)
        header = buffer.getvalue() + b"\xe0\x7f\x10\x00OW\0\0" + len(pixels).to_bytes(4, "little")
        command = p_data(pdv(store_command(instance), COMMAND | LAST))
        prepared.append((command + p_data(pdv(header, 0)), shared))
    return prepared


def send(port: int, prepared: list[tuple[bytes, bytes]], go: int, ready: int) -> None:
    """One association: say that it is open, wait for the start, send everything."""
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


def main(port: int, count: int, size: int, associations: int) -> float:
    """Seconds for all instances together."""
    prepared = requests(count, size)
    ready, said = os.pipe()
    start, go = os.pipe()
    children = []
    for number in range(associations):
        child = os.fork()
        if child == 0:
            failed = 1
            try:
                send(port, prepared[number::associations], start, said)
                failed = 0
            finally:
                os._exit(failed)
        children.append(child)
    os.close(said)
    _read(ready, associations)
    begun = time.perf_counter()
    os.write(go, b"g" * associations)
    _read(ready, associations)
    seconds = time.perf_counter() - begun
    for child in children:
        os.waitpid(child, 0)
    return seconds


def _read(pipe: int, count: int) -> None:
    while count:
        read = os.read(pipe, count)
        if not read:
            raise RuntimeError("a sender failed")
        count -= len(read)


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:5])))
