"""The raw limit of receiving: loopback TCP with a write, and no DICOM beyond the answers that the bench's sender needs.

``python -m tests.benchmarks.raw_receiver FOLDER BYTES`` prints its port, and ends with its standard input. It looks at
nothing that comes: every request of the bench's sender has the same number of bytes, and follows the answer to the one
before. They go from the connection into one buffer and from there into a file, as they come. Then the same answer
goes back each time.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from pathlib import Path

from tests.pdus import ASSOCIATE_AC, COMMAND, LAST, RELEASE_RP, RELEASE_RQ, command_set, p_data, pdv

GRANTED = struct.pack(">BBIHH", ASSOCIATE_AC, 0, 4, 1, 0)
"""What tells the bench's sender that it may send; a real acceptance has contexts."""
STORED = p_data(pdv(command_set(0x8001, ((0x0900, b"\0\0"),), with_data=False), COMMAND | LAST))
RELEASED = struct.pack(">BBII", RELEASE_RP, 0, 4, 0)


def main() -> None:
    """Receive until standard input ends."""
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, str(folder), size), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


def _accept(listener: socket.socket, folder: str, size: int) -> None:
    number = 0
    while True:
        client, _ = listener.accept()
        number += 1
        threading.Thread(target=_serve, args=(client, f"{folder}/{number}", size), daemon=True).start()


def _serve(client: socket.socket, prefix: str, size: int) -> None:
    """One association: whatever is asked for is granted, and stored."""
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = memoryview(bytearray(size))
        client.recv_into(buffer)
        client.sendall(GRANTED)
        number = 0
        while (got := client.recv_into(buffer)) and buffer[0] != RELEASE_RQ:
            number += 1
            descriptor = os.open(f"{prefix}-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            left = size
            while got:
                os.write(descriptor, buffer[:got])
                left -= got
                got = client.recv_into(buffer[:left]) if left else 0
            os.close(descriptor)
            if left:
                return
            client.sendall(STORED)
        client.sendall(RELEASED)


if __name__ == "__main__":
    main()
