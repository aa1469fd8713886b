"""A small HTTP server for probes, metrics and a page: read only, with bounded threads, bytes and times.

It answers GET and HEAD, one request per connection. At most `connections` are open at once. If one more comes, the
server closes the connection that has been sending its request for longest, so clients that send slowly, or nothing,
keep no probe out.
"""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog

log = structlog.get_logger(__name__)

TEXT = "text/plain; charset=utf-8"
CONNECTIONS = 64
REQUEST_SECONDS = 10.0  # from the connection to the end of the request
REPLY_SECONDS = 60.0  # for the whole connection
HEADER_BYTES = 32 * 2**10  # of all header lines of a request together
POLL_SECONDS = 0.1
# Nothing here is for other sites, and nothing is worth caching. A reply may add headers.
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Verdict:
    """Whether something holds, and a sentence that says why."""

    ok: bool
    why: str


@dataclass(frozen=True)
class Request:
    """What a client asked: the path as it was sent, without its query, and the headers by their names in lower case."""

    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """The answer to a request."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, verdict: Verdict) -> Reply:
        """200 if the verdict is good, or else 503, with its sentence."""
        return cls.text(HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE, verdict.why)

    @classmethod
    def text(cls, status: HTTPStatus, sentence: str) -> Reply:
        """A reply of one sentence, as plain text."""
        return cls(status, f"{sentence}\n".encode("utf-8", "replace"))


class HttpServer:
    """Serves in threads of its own. `answer` turns a request into a reply; it is called from many threads at once."""

    def __init__(
        self, host: str, port: int, *, answer: Callable[[Request], Reply], connections: int = CONNECTIONS
    ) -> None:
        """Bind; port 0 takes a free one.

        Raises:
            OSError: the address is taken, or not this machine's.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = _Server((host, port), family=family, answer=answer, connections=connections)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="http", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that was bound, also if 0 was requested."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port. This does not wait for requests under way."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


@dataclass
class _Connection:
    socket: socket.socket
    since: float = field(default_factory=time.monotonic)
    is_sending: bool = True  # its request has not arrived whole

    def is_late(self, now: float) -> bool:
        return now - self.since > (REQUEST_SECONDS if self.is_sending else REPLY_SECONDS)

    def close(self) -> None:
        """End it from another thread: the thread that serves it gets an error and ends."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        *,
        family: socket.AddressFamily,
        answer: Callable[[Request], Reply],
        connections: int,
    ) -> None:
        self.address_family = family
        self.answer = answer
        self._most = connections
        self._open: dict[int, _Connection] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name, which may wait for a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def service_actions(self) -> None:
        """Called every POLL_SECONDS: close what takes too long."""
        now = time.monotonic()
        with self._lock:
            for connection in self._open.values():
                if connection.is_late(now):
                    connection.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= self._most and not self._make_room():
                self.shutdown_request(request)
                return
            self._open[id(request)] = _Connection(request)
        super().process_request(request, client_address)

    def _make_room(self) -> bool:
        """Close the connection that has been sending its request for longest. False if no connection is sending."""
        sending = [connection for connection in self._open.values() if connection.is_sending]
        if not sending:
            return False
        oldest = min(sending, key=lambda connection: connection.since)
        oldest.is_sending = False
        oldest.close()
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(id(request), None)

    def note_request(self, request: Any) -> None:
        """The whole request of a connection has arrived."""
        with self._lock:
            if connection := self._open.get(id(request)):
                connection.is_sending = False

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (the base class's)
        """Called in an `except` block. Clients that go away are nothing to report."""
        log.debug("connection_broke", exc_info=True)


class _Headers(io.BufferedIOBase):
    """The header lines of a request: HEADER_BYTES at most, and the line that goes beyond them."""

    def __init__(self, lines: io.BufferedIOBase) -> None:
        self._lines = lines
        self._left = HEADER_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = self._lines.readline(-1 if size is None else size)
        self._left -= len(line)
        if self._left < 0:
            raise LineTooLong("headers")  # the base class answers 431
        return line

    def close(self) -> None:
        self._lines.close()
        super().close()


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS  # of one read or write; the server bounds the whole
    server: _Server

    def parse_request(self) -> bool:
        """Called after the first line. The base class would read 100 more of 64 KiB each, and copy each of them."""
        self.rfile = _Headers(self.rfile)
        return super().parse_request()

    def do_GET(self) -> None:
        self.server.note_request(self.connection)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            reply = self.server.answer(Request(self.path.partition("?")[0], headers))
        except Exception:
            log.exception("answer_broke", path=self.path)
            reply = Reply.text(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of this program: its log says more")
        self._send(reply)

    do_HEAD = do_GET

    def _refuse(self) -> None:
        refusal = Reply.text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD: nothing can be changed here")
        self._send(replace(refusal, headers={"Allow": "GET, HEAD"}))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {**SAFE, **reply.headers}.items():
            self.send_header(name, value)
        if reply.status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """The base class calls this for a request that it cannot read. A line of text goes out instead of a page."""
        self.close_connection = True
        self.request_version = "HTTP/1.0"  # the base class may not have read it; before 1.0, replies had no status
        self._send(Reply.text(HTTPStatus(code), HTTPStatus(code).phrase.lower()))

    def version_string(self) -> str:
        """Without the version of Python."""
        return "batch-renderer"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every few seconds."""
