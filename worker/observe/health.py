"""/startupz, /healthz, /readyz and /metrics over HTTP, for supervisors and Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from jobs.errors import SettingsError

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Verdict:
    """Whether something holds, and a sentence that says why."""

    ok: bool
    why: str


@dataclass(frozen=True)
class Probes:
    """What the endpoints call: `started` holds once the engines are loaded, `ready` while the worker takes jobs, and
    `live` fails when only a restart helps.
    """

    started: Callable[[], Verdict]
    live: Callable[[], Verdict]
    ready: Callable[[], Verdict]


class HealthServer:
    """An HTTP server in its own threads, so that it answers while engines load and while the loop is stuck."""

    def __init__(self, host: str, port: int, *, probes: Probes, registry: CollectorRegistry) -> None:
        """Bind.

        Raises:
            SettingsError: the address is taken, or not this machine's.
        """
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise SettingsError(
                f"RENDER_METRICS_HOST and RENDER_METRICS_PORT: cannot listen on {host}:{port}: {error.strerror}"
            ) from error
        self._server.probes = probes
        self._server.registry = registry
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port that was bound, also if 0 was requested."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    probes: Probes
    registry: CollectorRegistry


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # a client that connects and sends nothing must not occupy a thread for ever
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, generate_latest(self.server.registry), CONTENT_TYPE_LATEST)
        elif path == "/startupz":
            self._answer_verdict(self.server.probes.started())
        elif path == "/healthz":
            self._answer_verdict(self.server.probes.live())
        elif path == "/readyz":
            self._answer_verdict(self.server.probes.ready())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"only /startupz, /healthz, /readyz and /metrics\n", TEXT)

    do_HEAD = do_GET

    def _answer_verdict(self, verdict: Verdict) -> None:
        status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, f"{verdict.why}\n".encode(), TEXT)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every few seconds."""
