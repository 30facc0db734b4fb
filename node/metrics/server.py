"""Answers monitors by HTTP: ``/metrics``, ``/healthz`` (alive), ``/readyz`` (takes images), ``/status`` (for people).

It is for a monitor beside the node or in a network of its own: there is no password and no TLS, and nothing but GET.
Connections are few, each has a few seconds, and whoever is one too many is hung up on.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, cast

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from node import __version__
from node.metrics.collector import Moment, NodeCollector, Role, look_at_roles, spool_space
from node.metrics.figures import LedgerWatch
from node.metrics.tally import LISTENERS
from node.probe import Check
from node.settings import ConfigurationError, Settings

log = structlog.get_logger(__name__)

MOST_CONNECTIONS = 16
REQUEST_PATIENCE_S = 5.0
SHORTEST_REUSE_S = 1.0
"""Scrapes that come faster share an answer."""
PULSE_PATIENCE_S = 10.0
"""The supervisor makes a round several times a second."""


class Monitor:
    """The supervisor's answers to monitors.

    Parameters
    ----------
    roles
        The processes of the node, asked for anew at each look.
    """

    def __init__(self, settings: Settings, dsn: str, roles: Callable[[], Iterable[Role]]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._settings = settings
        self._roles = roles
        self._started_at = time.time()
        self._pulse_at = time.monotonic()
        self._registry = CollectorRegistry()
        self._ledger = LedgerWatch(dsn, settings.metrics.ledger_period_s, self._registry)
        self._registry.register(NodeCollector(self.look))
        self._lock = threading.Lock()
        self._latest: tuple[float, Moment] | None = None
        self._server = _bind(settings, self)
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens (of interest where 0 was configured)."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._ledger.start()
        self._thread.start()
        log.info("monitors are answered", address=self._settings.metrics.address, port=self.port)

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._ledger.stop()

    def pulse(self) -> None:
        """The supervisor has made a round."""
        self._pulse_at = time.monotonic()

    def follow(self, settings: Settings) -> None:
        """The configuration was reloaded."""
        self._settings = settings

    def look(self) -> Moment:
        """Ask everybody, or give what was asked a moment ago."""
        with self._lock:
            if self._latest is None or time.monotonic() - self._latest[0] > SHORTEST_REUSE_S:
                roles, ledger = look_at_roles(self._roles()), self._ledger.figures()
                self._latest = time.monotonic(), Moment(self._settings, roles, ledger, self._started_at)
            return self._latest[1]

    def metrics(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self.look()  # first: the ledger's answers go into histograms
        return generate_latest(self._registry)

    def alive(self) -> Check:
        """Whether the supervisor goes about its work: what restarting the node may mend."""
        silent_s = time.monotonic() - self._pulse_at
        return Check("supervisor", silent_s < PULSE_PATIENCE_S, f"last round {silent_s:.0f} s ago")

    def ready(self) -> list[Check]:
        """Whether everything goes on; without a ledger images are taken, and not answered."""
        moment = self.look()
        listening = moment.gauge(LISTENERS.name) or 0
        entrances = len(moment.settings.receive.entrances) if "receive" in moment.settings.roles else 0
        checks = [
            self.alive(),
            Check("listener", listening == entrances, f"{listening:.0f} of {entrances} addresses are listened on"),
            _disk(moment.settings),
            Check("ledger", moment.ledger is not None, "answers" if moment.ledger else "does not answer: see the log"),
        ]
        for role, figures in moment.roles.items():
            answers = figures.counts is not None
            checks.append(Check(f"process {role}", answers, "runs" if answers else "does not run, or does not answer"))
        return checks

    def status(self) -> dict[str, Any]:
        """One place to see what happened: checks, what waits, what is parked, events of a day by kind."""
        ledger = self.look().ledger
        return {
            "software_version": __version__,
            "site": self._settings.site,
            "up_s": round(time.time() - self._started_at),
            "checks": [vars(check) for check in self.ready()],
            "queues": ledger.jobs if ledger else None,
            "deliveries": ledger.deliveries if ledger else None,
            "studies_parked": ledger.studies_parked if ledger else None,
            "events_of_a_day": ledger.events_of_a_day if ledger else None,
            "more": "spine-node jobs list | jobs show STUDY_UID | jobs events | probe; reasons: deploy/OPERATIONS.md",
        }


def _disk(settings: Settings) -> Check:
    try:
        free, _ = spool_space(settings)
    except OSError as error:
        return Check("disk", False, f"cannot be looked at: {error.strerror}")
    free_mb, reserve_mb = free // 2**20, settings.receive.free_space_reserve_mb
    return Check("disk", free_mb >= reserve_mb, f"{free_mb} MB free, reserve {reserve_mb}")


class _Server(ThreadingHTTPServer):
    """A few connections at a time."""

    daemon_threads = True
    request_queue_size = 64
    monitor: Monitor

    def __init__(self, address: tuple[str, int]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without asking the name service who we are, as `HTTPServer` does: that may take long."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, where there is a place."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Give the place back in any case."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asks may hang up as he likes."""
        log.info("a monitor's request failed")


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_PATIENCE_S
    server_version = "spine-node"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of four questions."""
        monitor = cast(_Server, self.server).monitor
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, monitor.metrics())
        elif path == "/healthz":
            self._answer_checks([monitor.alive()])
        elif path == "/readyz":
            self._answer_checks(monitor.ready())
        elif path == "/status":
            self._answer_json(HTTPStatus.OK, monitor.status())
        else:
            self._answer_json(HTTPStatus.NOT_FOUND, {"known": ["/metrics", "/healthz", "/readyz", "/status"]})

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def _answer_checks(self, checks: list[Check]) -> None:
        ok = all(check.ok for check in checks)
        told = {"ok": ok, "checks": [{"name": c.name, "ok": c.ok, "sentence": c.sentence} for c in checks]}
        self._answer_json(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, told)

    def _answer_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._answer(status, "application/json", (json.dumps(content, indent=2, default=str) + "\n").encode())

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is asked is chosen by whoever asks."""


def _bind(settings: Settings, monitor: Monitor) -> _Server:
    address, port = settings.metrics.address, settings.metrics.port or 0
    try:
        server = _Server((address, port))
    except OSError as error:
        raise ConfigurationError(f"metrics: {address}:{port} cannot be listened on: {error.strerror}") from error
    server.monitor = monitor
    return server
