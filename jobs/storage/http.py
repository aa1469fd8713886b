"""http(s)://: reading URLs from strangers, without reaching private machines or reading endless streams.

The host is resolved once, an address that is not global is refused, and the connection goes to the address that was
checked. So a name that resolves to another address the second time (DNS rebinding) gains nothing. Redirects are
followed here, and each is checked in the same way. One deadline covers the whole fetch, and bytes are counted as they
arrive.

This uses the standard library's client, not urllib3, because it can be given a socket. The deadline shuts that socket
down at any point, even in the middle of a TLS handshake or between two bytes of a header, where a socket timeout would
start again with every byte.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from jobs.errors import (
    NotAnImage,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
)
from jobs.storage.addresses import Address, checked_addresses
from jobs.storage.limits import FetchLimits
from jobs.uri import redacted

__all__ = ["FetchLimits", "HttpStore"]

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
CHUNK_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
_DENIED = frozenset({401, 402, 403, 451})
_RETRY = frozenset({408, 425, 429})
# identity: a compressed reply could grow a thousandfold after its bytes were counted.
_HEADERS = {"User-Agent": "batch-renderer", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
_LEGAL = "/%:@!$&'()*+,;=~"  # in a path; '%' because what is quoted already stays as it is


class HttpStore:
    """jobs.storage.store.Source for http:// and https:// URLs."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits

    def read(self, uri: str) -> bytes:
        """The body behind a URL.

        Raises:
            SourceNotFound: 404 or 410, or a host that does not exist.
            SourceForbidden: 401, 403, an address that workers may not fetch, or a certificate that is not valid.
            SourceTooLarge: more than `limits.max_bytes`.
            SourceUnavailable: a timeout, a broken connection, 429 or 5xx: another try may help.
            NotAnImage: another status.
        """
        limits, url = self._limits, uri
        deadline = _Deadline(limits.timeout_seconds)
        for _ in range(MAX_REDIRECTS + 1):
            request = _Request.of(url)
            addresses = checked_addresses(request.host, request.port, allow_hosts=limits.allow_hosts)
            location, body = _get(request, addresses, deadline, limits.max_bytes)
            if location is None:
                return body
            url = _joined(url, location)
        raise SourceForbidden(f"{redacted(url)} was redirected more than {MAX_REDIRECTS} times")


class _Deadline:
    """The deadline of one fetch, from its first connection to its last byte."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def left(self, shown: str) -> float:
        """The seconds that are left. Raises SourceUnavailable if there are none."""
        if self.passed:
            raise SourceUnavailable(f"{shown} took longer than allowed (RENDER_FETCH_TIMEOUT_SECONDS)")
        return self._end - time.monotonic()


@dataclass(frozen=True)
class _Request:
    """A URL, taken apart; `host` is ASCII."""

    host: str
    port: int
    tls: bool
    target: str
    host_header: str
    shown: str  # the URL without its secrets

    @classmethod
    def of(cls, url: str) -> _Request:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:  # whose text repeats the URL, password and all
            raise SourceForbidden(f"not a usable URL: {redacted(url)}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SourceForbidden(f"{redacted(url)}: only http:// and https:// URLs with a host are fetched")
        try:
            host = parts.hostname.encode("idna").decode()
        except UnicodeError as error:
            raise SourceForbidden(f"{parts.hostname!r} is not a host name") from error
        tls = parts.scheme == "https"
        bracketed = f"[{host}]" if ":" in host else host
        return cls(
            host=host,
            port=port or (443 if tls else 80),
            tls=tls,
            target=_target(parts),
            host_header=f"{bracketed}:{port}" if port else bracketed,
            shown=redacted(url),
        )


def _target(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=_LEGAL)
    return f"{path}?{quote(parts.query, safe=_LEGAL + '?')}" if parts.query else path


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise SourceForbidden(f"{redacted(url)} was redirected to what is no usable URL") from error


def _get(
    request: _Request, addresses: tuple[Address, ...], deadline: _Deadline, max_bytes: int
) -> tuple[str | None, bytes]:
    """One request to one of the checked addresses: (redirect location, b'') or (None, body)."""
    try:
        with _connected(request, addresses, deadline) as connection:
            headers = {**_HEADERS, "Host": request.host_header, "Connection": "close"}
            connection.request("GET", request.target, headers=headers)
            with contextlib.closing(connection.getresponse()) as reply:
                location = reply.headers.get("Location")
                if reply.status in _REDIRECTS and location:
                    return location, b""
                _check_status(reply.status, request.shown)
                return None, _read(reply, deadline, max_bytes, request.shown)
    except ssl.SSLCertVerificationError as error:
        raise SourceForbidden(f"{request.shown}: its certificate is not valid: {error.verify_message}") from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        deadline.left(request.shown)  # a connection that the deadline shut down breaks in many ways
        raise SourceUnavailable(f"{request.shown} could not be read: {type(error).__name__}") from error


@contextmanager
def _connected(
    request: _Request, addresses: tuple[Address, ...], deadline: _Deadline
) -> Iterator[http.client.HTTPConnection]:
    """A connection, with TLS for https, that is shut down at the deadline."""
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(_connect(addresses, request, deadline))
        handle = stack.enter_context(plain.dup())  # because TLS wrapping detaches the socket from `plain`
        guard = threading.Timer(deadline.left(request.shown), _shut_down, [handle])
        guard.daemon = True
        guard.start()
        stack.callback(guard.join)  # before the handle is closed and its number is reused
        stack.callback(guard.cancel)
        sock = stack.enter_context(_tls(plain, request.host)) if request.tls else plain
        connection = http.client.HTTPConnection(request.host, request.port)
        connection.sock = sock
        connection.auto_open = 0  # never reconnect: the address would not be checked
        yield connection


def _connect(addresses: tuple[Address, ...], request: _Request, deadline: _Deadline) -> socket.socket:
    """Connect to the first address that answers."""
    problem: OSError = ConnectionError("the host has no address")
    for address in addresses:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(min(CONNECT_SECONDS, deadline.left(request.shown)))
            sock.connect(address.target)
            sock.settimeout(deadline.left(request.shown))
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem


def _shut_down(handle: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        handle.shutdown(socket.SHUT_RDWR)


def _tls(plain: socket.socket, host: str) -> ssl.SSLSocket:
    return _tls_context().wrap_socket(plain, server_hostname=host)


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Verifies certificates and names. Made once per process: reading the authorities takes about 20 ms."""
    return ssl.create_default_context()


def _check_status(status: int, shown: str) -> None:
    if status == 200:
        return
    error: type[RenderError] = NotAnImage
    if status in _GONE:
        error = SourceNotFound
    elif status in _DENIED:
        error = SourceForbidden
    elif status in _RETRY or status >= 500:
        error = SourceUnavailable
    raise error(f"{shown} answered with HTTP status {status}")


def _read(reply: http.client.HTTPResponse, deadline: _Deadline, max_bytes: int, shown: str) -> bytes:
    expected = reply.length  # None where the server does not say, or says nonsense
    if expected is not None and expected > max_bytes:
        raise SourceTooLarge(_too_large(shown, max_bytes))
    body = bytearray()  # not a list of chunks: tiny ones would take fifty times their bytes
    # read1 returns what has arrived; read() would wait for everything and ignore the limit.
    while chunk := reply.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise SourceTooLarge(_too_large(shown, max_bytes))
        deadline.left(shown)
    deadline.left(shown)  # a connection that was shut down ends like one that is complete
    if expected is not None and len(body) < expected:
        raise SourceUnavailable(f"{shown} broke off after {len(body)} of {expected} bytes")
    return bytes(body)


def _too_large(shown: str, max_bytes: int) -> str:
    return f"{shown} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)"
