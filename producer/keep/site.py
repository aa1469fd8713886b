"""Site: which path answers what."""

from __future__ import annotations

from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from jobs.http_server import Reply, Request
from producer.keep.board import Board
from producer.keep.hosts import Hosts
from producer.keep.keeper import Keeper
from producer.session import Session

JSON = "application/json; charset=utf-8"
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
NOT_FOUND = "there is no such page; there are /, /healthz, /readyz and /metrics"


class Site:
    """Turns requests into replies, from many threads at once."""

    def __init__(
        self, session: Session, board: Board, *, keeper: Keeper, registry: CollectorRegistry, hosts: Hosts
    ) -> None:
        self._board = board
        self._keeper = keeper
        self._registry = registry
        self._hosts = hosts

    def answer(self, request: Request) -> Reply:
        """Answer one request. What probes and Prometheus ask for names no batch and no prompt: any name will do."""
        if request.path == "/metrics":
            return Reply(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_LATEST)
        if request.path == "/healthz":
            return Reply.of(self._keeper.live())
        if request.path == "/readyz":
            return Reply.of(self._keeper.ready())
        return Reply.text(HTTPStatus.NOT_FOUND, NOT_FOUND)
