"""A loopback HTTP server for tests, built from a function: path -> what to do with the connection."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int, body: bytes = b"", *, headers: dict[str, str] | None = None) -> Answer:
    """An answer with a status, a body and headers; Content-Length is set unless given."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


NOT_FOUND = reply(404)


@contextmanager
def serving(
    routes: dict[str, Answer], *, otherwise: Answer = NOT_FOUND, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve `routes` on a free port; yields http://127.0.0.1:PORT, or https:// with a context for `tls`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                routes.get(self.path, otherwise)(self)
            except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
                self.close_connection = True  # the client has seen enough

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that refuse the certificate, or have seen enough

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        # The handshake belongs into the connection's thread: here it would stop the accepting one.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
