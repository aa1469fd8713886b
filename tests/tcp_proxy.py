"""A proxy between a client and a real server, for tests: it cuts, stalls and slows connections, and speaks TLS."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

LOOK_SECONDS = 0.05
PIECE_BYTES = 16 * 1024


@dataclass
class Faults:
    """What the proxy does to connections; may be changed at any time."""

    cut_after_bytes: int | None = None  # of what a client sends in one connection
    cut_after_reply_bytes: int | None = None  # of what the server sends in one connection
    cut_connections: int | None = None  # cut only so many; None: all
    cut_where: Callable[[bytes], bool] = lambda _: False  # asked for every piece that a client sends
    stall_replies: bool = False  # keep the server's replies back
    reply_bytes_per_second: int | None = None


class TcpProxy:
    """Listens on a free loopback port. `faults` say what it does to connections; `cut` counts those that it ended."""

    def __init__(self, target: tuple[str, int], *, tls: ssl.SSLContext | None = None) -> None:
        self.faults = Faults()
        self.cut = 0
        self._target = target
        self._tls = tls
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def port(self) -> int:
        """The port where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> TcpProxy:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            if select.select([self._listener], [], [], LOOK_SECONDS)[0]:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=[client])
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        # Either side may be gone at any time; that is what the tests are about.
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(client)
            client.settimeout(10)
            if self._tls is not None:
                client = stack.enter_context(self._tls.wrap_socket(client, server_side=True))
            server = stack.enter_context(socket.create_connection(self._target, timeout=10))
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        sent, replied = 0, 0
        while not self._stop.is_set():
            for source in _ready(client, server):
                data = source.recv(PIECE_BYTES)
                if not data:
                    return
                if source is client:
                    sent += len(data)
                    if self._is_cut(data, sent):
                        return
                    server.sendall(data)
                else:
                    replied += len(data)
                    if self._is_cut_in_reply(replied) or not self._reply(client, data):
                        return

    def _is_cut(self, data: bytes, sent: int) -> bool:
        limit = self.faults.cut_after_bytes
        return self._counted((limit is not None and sent > limit) or self.faults.cut_where(data))

    def _is_cut_in_reply(self, replied: int) -> bool:
        limit = self.faults.cut_after_reply_bytes
        return self._counted(limit is not None and replied > limit)

    def _counted(self, wanted: bool) -> bool:
        most = self.faults.cut_connections
        if not wanted or (most is not None and self.cut >= most):
            return False
        self.cut += 1
        return True

    def _reply(self, client: socket.socket, data: bytes) -> bool:
        while self.faults.stall_replies:
            if self._stop.wait(LOOK_SECONDS):
                return False
        rate = self.faults.reply_bytes_per_second
        step = len(data) if rate is None else max(1, int(rate * LOOK_SECONDS))
        for begin in range(0, len(data), step):
            client.sendall(data[begin : begin + step])
            if rate is not None and self._stop.wait(LOOK_SECONDS):
                return False
        return True


def _ready(client: socket.socket, server: socket.socket) -> list[socket.socket]:
    if isinstance(client, ssl.SSLSocket) and client.pending():
        return [client]  # decrypted already, so that select would not see it
    return select.select([client, server], [], [], LOOK_SECONDS)[0]
