"""Reading what strangers name over http(s), without being led to private machines or endless streams.

The host is resolved once, every address that is not global is refused, and the connection goes to the address that was
checked, so a name that resolves differently the second time (DNS rebinding) gains nothing. Redirects are followed by
hand, each checked the same way. One deadline covers all of it, and bytes are counted while they arrive.

The standard library's client, not urllib3: it speaks on a socket that is handed to it, and so the deadline can hang up
whatever the server is at, also in mid-handshake and between two bytes of a header, where a timeout of the socket would
begin anew with every byte.
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
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.addresses import Address, checked_addresses
from jobs.uri import redacted

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
CHUNK_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
_DENIED = frozenset({401, 402, 403, 451})
_RETRY = frozenset({408, 425, 429})
# identity: a compressed reply could grow a thousandfold behind the byte cap.
_HEADERS = {"User-Agent": "batch-renderer", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
_LEGAL = "/%:@!$&'()*+,;=~"  # in a path; '%' because what is quoted stays as it is


@dataclass(frozen=True)
class FetchLimits:
    """What reading one input may cost, which hosts may have private addresses, and which folders and buckets count."""

    timeout_seconds: float = 30.0
    max_bytes: int = 64 * 2**20
    allow_hosts: tuple[str, ...] = ()
    places: AccessPolicy | None = None  # None: any folder and bucket, for people on their own machine


def fetch(url: str, limits: FetchLimits) -> bytes:
    """The body behind an http(s) URL.

    Raises:
        SourceNotFound: 404 or 410, or a host that does not exist.
        SourceForbidden: 401, 403, an address that workers may not fetch, or a certificate that proves nothing.
        SourceTooLarge: more than `limits.max_bytes`.
        SourceUnavailable: a timeout, a broken connection, 429 or 5xx: worth another try.
        NotAnImage: another status, or an address that is no URL.
    """
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
    """One for a fetch, from its first connection to its last byte."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def left(self, shown: str) -> float:
        """Seconds. Raises SourceUnavailable where there are none."""
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
    shown: str  # without what may be secret

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
        deadline.left(request.shown)  # a connection that was hung up breaks in many ways
        raise SourceUnavailable(f"{request.shown} could not be read: {type(error).__name__}") from error


@contextmanager
def _connected(
    request: _Request, addresses: tuple[Address, ...], deadline: _Deadline
) -> Iterator[http.client.HTTPConnection]:
    """A connection, by TLS where the URL says so, that is hung up at the deadline."""
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(_connect(addresses, request, deadline))
        handle = stack.enter_context(plain.dup())  # wrapping takes the socket away from `plain`
        guard = threading.Timer(deadline.left(request.shown), _hang_up, [handle])
        guard.daemon = True
        guard.start()
        stack.callback(guard.join)  # before the handle is closed, and its number is somebody else's
        stack.callback(guard.cancel)
        sock = stack.enter_context(_tls(plain, request.host)) if request.tls else plain
        connection = http.client.HTTPConnection(request.host, request.port)
        connection.sock = sock
        connection.auto_open = 0  # never again, and to nowhere else
        yield connection


def _connect(addresses: tuple[Address, ...], request: _Request, deadline: _Deadline) -> socket.socket:
    """The first address that answers."""
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


def _hang_up(handle: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        handle.shutdown(socket.SHUT_RDWR)


def _tls(plain: socket.socket, host: str) -> ssl.SSLSocket:
    return _tls_context().wrap_socket(plain, server_hostname=host)


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Certificates and names are verified. Once a process: reading the authorities takes some 20 ms."""
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
    announced = reply.length  # None where the server does not say, or says nonsense
    if announced is not None and announced > max_bytes:
        raise SourceTooLarge(_too_large(shown, max_bytes))
    body = bytearray()  # one piece: a list of many tiny ones would take fifty times their bytes
    # read1 returns what has arrived; read() would wait until all has, deaf to the cap.
    while chunk := reply.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise SourceTooLarge(_too_large(shown, max_bytes))
        deadline.left(shown)
    deadline.left(shown)  # a connection that was hung up ends like one that is complete
    if announced is not None and len(body) < announced:
        raise SourceUnavailable(f"{shown} broke off after {len(body)} of {announced} bytes")
    return bytes(body)


def _too_large(shown: str, max_bytes: int) -> str:
    return f"{shown} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)"
