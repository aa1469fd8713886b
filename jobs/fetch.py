"""Reading what strangers name over http(s), without being led to private machines or endless streams.

The host is resolved once, every address that is not global is refused, and the connection goes to the address that was
checked, so a name that resolves differently the second time (DNS rebinding) gains nothing. Redirects are followed by
hand, each checked the same way. One deadline covers all of it, and bytes are counted while they arrive.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError

from jobs.errors import (
    NotAnImage,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
)
from jobs.places import Places
from jobs.uri import redacted

MAX_REDIRECTS = 5
CHUNK_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
_DENIED = frozenset({401, 402, 403, 451})
_RETRY = frozenset({408, 425, 429})
# identity: a compressed reply could grow a thousandfold behind the byte cap.
_HEADERS = {"User-Agent": "batch-renderer", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class FetchLimits:
    """What reading one input may cost, which hosts may have private addresses, and which folders and buckets count."""

    timeout_seconds: float = 30.0
    max_bytes: int = 64 * 2**20
    allow_hosts: tuple[str, ...] = ()
    places: Places | None = None  # None: any folder and bucket, for people on their own machine


def fetch(url: str, limits: FetchLimits) -> bytes:
    """The body behind an http(s) URL.

    Raises:
        SourceNotFound: 404 or 410, or a host that does not exist.
        SourceForbidden: 401, 403, or an address that workers may not fetch.
        SourceTooLarge: more than `limits.max_bytes`.
        SourceUnavailable: a timeout, a broken connection, 429 or 5xx: worth another try.
        NotAnImage: another status, or an address that is no URL.
    """
    deadline = time.monotonic() + limits.timeout_seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked_parts(url)
        address = _checked_address(parts, limits.allow_hosts)
        location, body = _get(parts, address, deadline, limits.max_bytes)
        if location is None:
            return body
        url = urljoin(url, location)
    raise SourceForbidden(f"{redacted(url)} was redirected more than {MAX_REDIRECTS} times")


def _checked_parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SourceForbidden(f"not a usable URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceForbidden(f"{redacted(url)}: only http:// and https:// URLs with a host are fetched")
    return parts


def _checked_address(parts: SplitResult, allow_hosts: Collection[str]) -> str:
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        # EAI_AGAIN is a resolver that is away for now; the others say that there is no such name.
        kind = SourceUnavailable if error.errno == socket.EAI_AGAIN else SourceNotFound
        raise kind(f"the host {host} cannot be resolved ({error.strerror})") from error
    except UnicodeError as error:
        raise SourceForbidden(f"{host!r} is not a host name") from error
    addresses = [str(info[4][0]) for info in found]
    if host not in allow_hosts:
        for address in addresses:
            if not is_global(address):
                raise SourceForbidden(
                    f"the host {host} has the private address {address}; if that is meant, add it to RENDER_ALLOW_HOSTS"
                )
    return addresses[0]


def is_global(address: str) -> bool:
    """Whether an address is one of the public internet's; IPv4 inside IPv6 is judged as IPv4."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_global(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _get(parts: SplitResult, address: str, deadline: float, max_bytes: int) -> tuple[str | None, bytes]:
    """One request to the checked address: (redirect location, b'') or (None, body)."""
    shown = redacted(parts.geturl())
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    pool = _pool(parts, address, _left(deadline, shown))
    try:
        reply = pool.urlopen(
            "GET",
            target,
            headers={**_HEADERS, "Host": parts.netloc.rpartition("@")[2]},
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            assert_same_host=False,
        )
        try:
            location = reply.headers.get("Location")
            if reply.status in _REDIRECTS and location:
                return location, b""
            _check_status(reply.status, shown)
            return None, _read(reply, deadline, max_bytes, shown)
        finally:
            reply.close()
    except (HTTPError, LocationParseError, OSError) as error:
        raise SourceUnavailable(f"{shown} could not be read: {type(error).__name__}") from error
    finally:
        pool.close()


def _pool(parts: SplitResult, address: str, seconds: float) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(connect=min(10.0, seconds), read=seconds)
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(address, parts.port or 80, timeout=timeout)
    # Connect to the address, but prove and ask for the name.
    return urllib3.HTTPSConnectionPool(
        address, parts.port or 443, timeout=timeout, server_hostname=parts.hostname, assert_hostname=parts.hostname
    )


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


def _read(reply: urllib3.BaseHTTPResponse, deadline: float, max_bytes: int, shown: str) -> bytes:
    announced = reply.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise SourceTooLarge(_too_large(shown, max_bytes))
    parts: list[bytes] = []
    size = 0
    # read1 returns what has arrived: with read() a server that drips a byte a second would reset the socket's own
    # timeout for ever and the deadline would not be looked at.
    while chunk := reply.read1(CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise SourceTooLarge(_too_large(shown, max_bytes))
        parts.append(chunk)
        _left(deadline, shown)
    if announced.isdigit() and size < int(announced):
        raise SourceUnavailable(f"{shown} broke off after {size} of {announced} bytes")
    return b"".join(parts)


def _too_large(shown: str, max_bytes: int) -> str:
    return f"{shown} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)"


def _left(deadline: float, shown: str) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise SourceUnavailable(f"{shown} took longer than allowed (RENDER_FETCH_TIMEOUT_SECONDS)")
    return seconds
