"""Site: which path answers what."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from http import HTTPStatus
from importlib import resources

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from jobs.errors import LedgerUnavailable
from jobs.http_server import Reply, Request
from jobs.job import BATCH_NAME
from producer.keep.board import Board
from producer.keep.hosts import Hosts
from producer.keep.keeper import Keeper
from producer.keep.page_data import Document, PageData
from producer.keep.pictures import Busy, Pictures

JSON = "application/json; charset=utf-8"
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# A page may use only what this server sends: no inline script or style, no frame around it, no other site.
ISOLATED = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
BATCH = re.compile(rf"/api/batches/({BATCH_NAME.pattern})", re.ASCII)
PICTURE = re.compile(rf"/pictures/({BATCH_NAME.pattern})/([0-9a-f]{{20}})/([0-9]{{1,2}})", re.ASCII)
READERS = 24  # requests at once that may wait for Redis or storage: probes have the other connections

NOT_FOUND = Reply.text(HTTPStatus.NOT_FOUND, "nothing is at this path; there are /, /healthz, /readyz and /metrics")
BUSY = replace(
    Reply.text(HTTPStatus.SERVICE_UNAVAILABLE, "too much is asked for at once: ask again"), headers={"Retry-After": "1"}
)


class Site:
    """Turns requests into replies, from many threads at once."""

    def __init__(
        self, board: Board, data: PageData, pictures: Pictures, *, keeper: Keeper, registry: CollectorRegistry
    ) -> None:
        self._board = board
        self._data = data
        self._pictures = pictures
        self._keeper = keeper
        self._registry = registry
        self._readers = threading.BoundedSemaphore(READERS)

    def answering(self, hosts: Hosts) -> Callable[[Request], Reply]:
        """A function that answers requests in which the client calls this server by one of its names.

        Probes and Prometheus may use any name: no batch and no prompt is in what they get.
        """

        def answer(request: Request) -> Reply:
            if (reply := self._probed(request.path)) is not None:
                return reply
            if refusal := hosts.refusal(request.headers.get("host")):
                return Reply.text(HTTPStatus.MISDIRECTED_REQUEST, refusal)
            reply = self._page(request)
            return replace(reply, headers={**ISOLATED, **reply.headers})

        return answer

    def _probed(self, path: str) -> Reply | None:
        if path == "/metrics":
            return Reply(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_LATEST)
        if path == "/healthz":
            return Reply.of(self._keeper.live())
        if path == "/readyz":
            return Reply.of(self._keeper.ready())
        return None

    def _page(self, request: Request) -> Reply:
        path = request.path
        if path in FILES:
            name, content_type = FILES[path]
            return Reply(HTTPStatus.OK, _file(name), content_type)
        if path == "/api/overview":
            return _json(self._data.overview(), request)
        if match := BATCH.fullmatch(path):
            return self._read(partial(self._details, match[1], request))
        if match := PICTURE.fullmatch(path):
            return self._read(partial(self._picture, match[1], match[2], int(match[3])))
        return NOT_FOUND

    def _read(self, answer: Callable[[], Reply]) -> Reply:
        """The reply to a request that waits for Redis or storage."""
        redis = self._board.redis
        if not redis.is_up:
            return Reply.text(HTTPStatus.SERVICE_UNAVAILABLE, redis.why)
        if not self._readers.acquire(blocking=False):
            return BUSY
        try:
            return answer()
        except LedgerUnavailable as error:
            return Reply.text(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        finally:
            self._readers.release()

    def _details(self, batch: str, request: Request) -> Reply:
        document = self._data.details(batch)
        if document is None:
            return Reply.text(HTTPStatus.NOT_FOUND, f"there is no batch {batch!r}, or it cannot be read now")
        return _json(document, request)

    def _picture(self, batch: str, job_id: str, sample: int) -> Reply:
        try:
            copy = self._pictures.of(batch, job_id, sample)
        except Busy:
            return BUSY
        if copy.problem is not None:
            return Reply.text(HTTPStatus.NOT_FOUND, copy.problem)
        return Reply(HTTPStatus.OK, copy.data, copy.content_type)


def _json(document: Document, request: Request) -> Reply:
    tag = {"ETag": document.tag}
    if document.tag in request.headers.get("if-none-match", ""):
        return Reply(HTTPStatus.NOT_MODIFIED, headers=tag)
    return Reply(HTTPStatus.OK, document.body, JSON, headers=tag)


@cache
def _file(name: str) -> bytes:
    return (resources.files("producer.keep") / "static" / name).read_bytes()
