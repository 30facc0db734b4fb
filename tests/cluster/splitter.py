"""One address for several listeners: each connection goes to the next one that takes it, as load balancers do it."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence

BUFFER = 1 << 16


class Splitter:
    """Round robin over the ports that ``ports`` gives at the time; ``served`` counts connections by port."""

    def __init__(self, ports: Callable[[], Sequence[int]]) -> None:
        self._ports = ports
        self._next = 0
        self.served: Counter[int] = Counter()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="splitter", daemon=True)

    def __enter__(self) -> Splitter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # ends accept
        self._server.close()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            backend = self._backend()
            if backend is None:
                client.close()
                continue
            threading.Thread(target=_pump, args=(client, backend), name="splitter: connection", daemon=True).start()

    def _backend(self) -> socket.socket | None:
        ports = list(self._ports())
        for _ in ports:
            port = ports[self._next % len(ports)]
            self._next += 1
            try:
                backend = socket.create_connection(("127.0.0.1", port), timeout=2.0)
            except OSError:
                continue
            self.served[port] += 1
            return backend
        return None


def _pump(client: socket.socket, backend: socket.socket) -> None:
    """Bytes in both directions until either side ends; the other then ends, too."""
    with client, backend, selectors.DefaultSelector() as selector:
        for one, other in ((client, backend), (backend, client)):
            one.settimeout(60.0)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(one, selectors.EVENT_READ, other)
        try:
            while True:
                for key, _ in selector.select(60.0):
                    assert isinstance(key.fileobj, socket.socket)
                    if not (content := key.fileobj.recv(BUFFER)):
                        return
                    key.data.sendall(content)
        except OSError:
            return
