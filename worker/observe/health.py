"""/startupz, /healthz, /readyz and /metrics over HTTP, for supervisors and Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from jobs.errors import SettingsError
from jobs.http_server import HttpServer, Reply, Request, Verdict

__all__ = ["HealthServer", "Probes", "Verdict"]


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
        self._probes = probes
        self._registry = registry
        try:
            self._server = HttpServer(host, port, answer=self._answer)
        except OSError as error:
            raise SettingsError(
                f"RENDER_METRICS_HOST and RENDER_METRICS_PORT: cannot listen on {host}:{port}: {error.strerror}"
            ) from error

    @property
    def port(self) -> int:
        """The port that was bound, also if 0 was requested."""
        return self._server.port

    def start(self) -> None:
        """Start answering."""
        self._server.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.stop()

    def _answer(self, request: Request) -> Reply:
        if request.path == "/metrics":
            return Reply(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_LATEST)
        if request.path == "/startupz":
            return Reply.of(self._probes.started())
        if request.path == "/healthz":
            return Reply.of(self._probes.live())
        if request.path == "/readyz":
            return Reply.of(self._probes.ready())
        return Reply.text(HTTPStatus.NOT_FOUND, "only /startupz, /healthz, /readyz and /metrics")
