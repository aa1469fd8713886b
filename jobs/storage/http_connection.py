"""Connections: to an address that was checked, or through a proxy, and shut down at the deadline in any case.

This uses the standard library's client, not urllib3, because it can be given a socket. The deadline shuts that socket
down at any point, even in the middle of a TLS handshake or between two bytes of a header, where a socket timeout would
start again with every byte.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from jobs.errors import RenderError, SourceForbidden, SourceUnavailable
from jobs.storage.addresses import Address
from jobs.storage.http_request import Request
from jobs.storage.proxies import Proxy

CONNECT_SECONDS = 10.0
_TRY_AGAIN = frozenset({408, 425, 429})
_OUT_OF_SOCKETS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class Deadline:
    """The deadline of one fetch, from its first connection to its last byte. Waiting for a turn does not count."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def postpone(self, seconds: float) -> None:
        """Do not count these seconds."""
        self._end += seconds

    def left(self, shown: str) -> float:
        """The seconds that are left. Raises SourceUnavailable if none are left."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise SourceUnavailable(f"{shown} took longer than allowed (RENDER_FETCH_TIMEOUT_SECONDS)")
        return left


@dataclass(frozen=True)
class Route:
    """Where to connect for a request: to the host's checked addresses, or to a proxy's."""

    addresses: tuple[Address, ...]
    proxy: Proxy | None = None

    @property
    def through(self) -> str:
        """For sentences: the proxy, if there is one."""
        return f" through {self.proxy.shown}" if self.proxy else ""


@contextmanager
def connected(
    request: Request, route: Route, deadline: Deadline, *, agent: str
) -> Iterator[http.client.HTTPConnection]:
    """A connection, with TLS for https, that is shut down at the deadline. `agent` is the User-Agent.

    Raises:
        SourceUnavailable: the host, or the proxy, does not answer.
        SourceForbidden: the proxy refuses.
    """
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(_connect(request, route, deadline))
        handle = stack.enter_context(plain.dup())  # because TLS wrapping detaches the socket from `plain`
        guard = threading.Timer(deadline.left(request.shown), _shut_down, [handle])
        guard.daemon = True
        guard.start()
        stack.callback(guard.join)  # before the handle is closed and its number is reused
        stack.callback(guard.cancel)
        if route.proxy is not None and request.tls:
            _open_tunnel(plain, request, route.proxy, agent)
        sock = stack.enter_context(_tls(plain, request.origin.host)) if request.tls else plain
        connection = http.client.HTTPConnection(request.origin.host, request.origin.port)
        connection.sock = sock
        connection.auto_open = 0  # never reconnect: the address would not be checked
        yield connection


def _connect(request: Request, route: Route, deadline: Deadline) -> socket.socket:
    """Connect to the first address that answers."""
    problem: OSError = ConnectionError("the host has no address")
    for address in route.addresses:
        try:
            return _connect_to(address, request, deadline)
        except OSError as error:
            problem = error
    if problem.errno in _OUT_OF_SOCKETS:
        raise SourceUnavailable(
            f"{request.shown} could not be read: this machine opens no more connections ({problem.strerror})",
            fault="worker",
        ) from problem
    if route.proxy is not None:
        deadline.left(request.shown)
        raise SourceUnavailable(
            f"{request.shown} could not be read: {route.proxy.shown} does not answer ({_reason(problem)})",
            fault="worker",
        ) from problem
    raise problem


def _connect_to(address: Address, request: Request, deadline: Deadline) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.settimeout(min(CONNECT_SECONDS, deadline.left(request.shown)))
        sock.connect(address.target)
        sock.settimeout(deadline.left(request.shown))
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _shut_down(handle: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        handle.shutdown(socket.SHUT_RDWR)


def _open_tunnel(plain: socket.socket, request: Request, proxy: Proxy, agent: str) -> None:
    """Ask a proxy to connect to the host. The host's name goes to it, and its certificate is checked for that name."""
    lines = [f"CONNECT {request.authority} HTTP/1.1", f"Host: {request.authority}", f"User-Agent: {agent}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    plain.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    with contextlib.closing(http.client.HTTPResponse(plain, method="CONNECT")) as reply:
        reply.begin()
        if not 200 <= reply.status < 300:
            raise refused_by_proxy(reply.status, request, proxy)


def refused_by_proxy(status: int, request: Request, proxy: Proxy) -> RenderError:
    """The error for a proxy's own answer."""
    if status == 407:
        text = f"{proxy.shown} wants another user and password; write them as http://user:password@host:port"
        return SourceForbidden(f"{request.shown} could not be read: {text}", fault="worker")
    text = f"{request.shown} could not be read: {proxy.shown} answered with HTTP status {status}"
    if status in _TRY_AGAIN or status >= 500:  # it does not reach the host
        return SourceUnavailable(text)
    return SourceForbidden(f"{text} when asked for {request.authority}", fault="worker")


def _tls(plain: socket.socket, host: str) -> ssl.SSLSocket:
    return tls_context().wrap_socket(plain, server_hostname=host)


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """Verifies certificates and names. Made once per process: reading the authorities takes about 20 ms."""
    return ssl.create_default_context()
