"""A small HTTP proxy for tests: absolute URLs and CONNECT. It knows names that nobody else resolves."""

from __future__ import annotations

import http.client
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class ProxyServer:
    """What the proxy was asked for, and how it behaves."""

    names: dict[str, tuple[str, int]] = field(default_factory=dict)  # host -> where it is
    password: str | None = None  # the Proxy-Authorization that it wants
    refuse: int | None = None  # the status with which it refuses everything
    port: int = 0
    asked: list[str] = field(default_factory=list)  # request lines
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def find(self, host: str, port: int) -> tuple[str, int]:
        return self.names.get(host, (host, port))

    def status_for(self, handler: BaseHTTPRequestHandler) -> int | None:
        """Notes a request; returns the status with which it is refused."""
        self.asked.append(handler.requestline)
        self.headers.append(dict(handler.headers))
        if self.password is not None and handler.headers["Proxy-Authorization"] != self.password:
            return 407
        return self.refuse


@contextmanager
def proxy_server(
    names: dict[str, tuple[str, int]] | None = None, *, password: str | None = None, refuse: int | None = None
) -> Iterator[ProxyServer]:
    """Run a proxy on a free port."""
    proxy = ProxyServer(names or {}, password, refuse)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(proxy: ProxyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._unless_refused(self._forward)

        def do_CONNECT(self) -> None:
            self._unless_refused(self._tunnel)

        def _unless_refused(self, serve: Callable[[], None]) -> None:
            status = proxy.status_for(self)
            if status is None:
                serve()
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _forward(self) -> None:
            parts = urlsplit(self.path)
            connection = http.client.HTTPConnection(*proxy.find(parts.hostname or "", parts.port or 80), timeout=10)
            sent = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
            connection.request("GET", self.path[self.path.index(parts.netloc) + len(parts.netloc) :], headers=sent)
            answer = connection.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            connection.close()

        def _tunnel(self) -> None:
            host, _, port = self.path.rpartition(":")
            with socket.create_connection(proxy.find(host, int(port)), timeout=10) as far:
                self.send_response(200, "Connected")
                self.end_headers()
                _pass_on(self.connection, far)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _pass_on(near: socket.socket, far: socket.socket) -> None:
    """Bytes in both directions, until one side ends."""
    with suppress(OSError):
        while True:
            for ready in select.select([near, far], [], [], 10)[0]:
                data = ready.recv(65536)
                if not data:
                    return
                (far if ready is near else near).sendall(data)
