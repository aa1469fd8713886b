"""http(s)://: reading URLs from strangers, without reaching private machines or reading endless streams.

The host is resolved once, an address that is not global is refused, and the connection goes to the address that was
checked. So a name that resolves to another address the second time (DNS rebinding) gains nothing. Redirects are
followed here, and each is checked in the same way. One deadline covers the whole fetch, and bytes are counted as they
arrive.

A proxy resolves the host itself, so the check is made here before the proxy is asked. A name that does not resolve here
is refused, unless the worker's settings say that the proxy refuses private addresses. The name goes to the proxy: an
https host is then held to its certificate, but for http:// the proxy has to be one that refuses private addresses, if
names of strangers can lead it to any.

Each request waits for its turn at its host (host_limits.py). A host that asks for a pause gets it from all threads.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import time

from jobs.errors import RenderError, SourceForbidden, SourceNotFound, SourceUnavailable
from jobs.storage.addresses import checked_addresses
from jobs.storage.host_limits import Turn, Visit
from jobs.storage.http_connection import Deadline, Route, connected, refused_by_proxy
from jobs.storage.http_part import STATUSES, Span
from jobs.storage.http_reply import LOOKED_AT_SECONDS, OK, Refused, check_status, read_body
from jobs.storage.http_request import Request, user_agent
from jobs.storage.limits import FetchLimits
from jobs.storage.part import Part
from jobs.storage.proxies import Proxy

__all__ = ["FetchLimits", "HttpStore"]

MAX_REDIRECTS = 5
PROXY_AUTHENTICATION = 407
OVERLOADED = 503
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# What some programs read as an address, though the resolver here does not: '127.0.0.1.', '1.2.3.0x4'.
_NUMBER_AT_THE_END = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)\.?$", re.IGNORECASE)


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
            SourceUnavailable: a timeout, a broken connection, 429 or 5xx: another try may help, after
                `retry_after_seconds` where it has them.
            NotAnImage: another status, or a compression that is not read.
            What `limits.check` raises while the host makes this read wait.
        """
        return _Fetch(self._limits, Request.of(uri)).read()

    def read_part(self, uri: str, *, start: int, size: int) -> Part:
        """A part of the body. A host that knows no ranges is listened to up to the part's end.

        Raises:
            As `read`; NotAnImage also for another part than was asked for.
        """
        fetch = _Fetch(self._limits, Request.of(uri), Span(start, size))
        return Part(fetch.read(), fetch.total)


class _Fetch:
    """One read, with its redirects. `total` are the bytes of the file, where a part of it was read."""

    def __init__(self, limits: FetchLimits, first: Request, span: Span | None = None) -> None:
        self._limits = limits
        self._span = span
        self.total: int | None = None
        self._requests = [first]
        self._deadline = Deadline(limits.timeout_seconds)
        self._visit = limits.hosts.visit(first.url, limits.check, limits.wait_seconds)

    def read(self) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            request = self._requests[-1]
            location, body = self._answer(request)
            if location is None:
                return body
            self._requests.append(request.redirected(location))
        raise SourceForbidden(f"{self._requests[-1].shown} was redirected more than {MAX_REDIRECTS} times")

    def _answer(self, request: Request) -> tuple[str | None, bytes]:
        """(redirect location, b'') or (None, body), after as many pauses as the host asks for."""
        while True:
            began = time.monotonic()
            with self._visit.turn(request.host_name, request.shown) as turn:
                self._deadline.postpone(time.monotonic() - began)
                try:
                    return self._ask(request, turn)
                except Refused as refused:
                    _wait_or_raise(refused, turn, self._visit)

    def _ask(self, request: Request, turn: Turn) -> tuple[str | None, bytes]:
        """One request, to one of the checked addresses or through a proxy."""
        deadline, route = self._deadline, self._route(request)
        try:
            with connected(request, route, deadline, agent=self._agent) as connection:
                connection.request("GET", request.target_for(route.proxy), headers=self._headers(request, route.proxy))
                sock = connection.sock  # which the connection lets go once it has the reply
                with contextlib.closing(connection.getresponse()) as reply:
                    location = reply.headers.get("Location")
                    if reply.status in _REDIRECTS and location:
                        turn.served()
                        return location, b""
                    if not self._is_ok(reply.status):
                        sock.settimeout(min(LOOKED_AT_SECONDS, deadline.left(request.shown)))
                    self._check_status(reply, request, route, turn)
                    return None, self._body(reply, request.shown)
        except ssl.SSLCertVerificationError as error:
            raise SourceForbidden(f"{request.shown}: its certificate is not valid: {error.verify_message}") from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            deadline.left(request.shown)  # a connection that the deadline shut down breaks in many ways
            text = f"{request.shown} could not be read{route.through}: {type(error).__name__}"
            raise SourceUnavailable(text) from error

    def _is_ok(self, status: int) -> bool:
        return status in OK or (self._span is not None and status in STATUSES)

    def _body(self, reply: http.client.HTTPResponse, shown: str) -> bytes:
        max_bytes = self._limits.max_bytes
        if self._span is None:
            return read_body(reply, self._deadline, max_bytes, shown)
        data, self.total = self._span.read(reply, self._deadline, max_bytes=max_bytes, shown=shown)
        return data

    def _check_status(self, reply: http.client.HTTPResponse, request: Request, route: Route, turn: Turn) -> None:
        if route.proxy is not None and reply.status == PROXY_AUTHENTICATION:
            raise refused_by_proxy(reply.status, request, route.proxy)
        try:
            if not self._is_ok(reply.status):
                check_status(reply, request, frozenset().union(*(each.secrets for each in self._requests)))
        except SourceUnavailable as error:
            if reply.status == OVERLOADED and not isinstance(error, Refused):
                turn.overloaded()
            raise
        except RenderError:
            turn.served()
            raise
        turn.served()

    # -- where to connect -----------------------------------------------------------------------------------------

    def _route(self, request: Request) -> Route:
        limits, origin = self._limits, request.origin
        proxy = limits.proxies.proxy_for(origin.scheme, origin.host, origin.port)
        if proxy is None:
            return Route(checked_addresses(origin.host, origin.port, allow_hosts=limits.allow_hosts))
        if origin.host not in limits.allow_hosts:
            self._check_behind(proxy, request)
        return Route(proxy.addresses(), proxy)

    def _check_behind(self, proxy: Proxy, request: Request) -> None:
        """Raise SourceForbidden unless the host is known to be on the public internet, as far as can be told here."""
        host, limits = request.origin.host, self._limits
        try:
            checked_addresses(host, request.origin.port, allow_hosts=())
        except (SourceNotFound, SourceUnavailable) as error:
            if limits.proxy_resolves and not _NUMBER_AT_THE_END.search(host):
                return
            raise SourceForbidden(
                f"the host {host} cannot be resolved by the worker itself, so it cannot check where {proxy.shown} "
                "would connect; if that proxy refuses private addresses, set RENDER_PROXY_RESOLVES=true, or add the "
                "host to RENDER_ALLOW_HOSTS",
                fault="worker",
                scope="settings",
            ) from error

    # -- headers --------------------------------------------------------------------------------------------------

    @property
    def _agent(self) -> str:
        return user_agent(self._limits.contact)

    def _headers(self, request: Request, proxy: Proxy | None) -> dict[str, str]:
        headers = {
            "Host": request.host_header,
            "User-Agent": self._agent,
            "Accept": self._limits.accept,
            "Accept-Encoding": "identity",  # a compressed reply could grow a thousandfold
            "Connection": "close",
        }
        if self._span is not None:
            headers["Range"] = self._span.header
        if authorization := self._authorization(request):
            headers["Authorization"] = authorization
        if proxy is not None and proxy.authorization and not request.tls:
            headers["Proxy-Authorization"] = proxy.authorization
        return headers

    def _authorization(self, request: Request) -> str | None:
        """The user and password of the URL, or of an earlier one that led here, if they are for this host."""
        for earlier in reversed(self._requests):
            if earlier.authorization and earlier.origin.trusts(request.origin):
                return earlier.authorization
        return None


def _wait_or_raise(refused: Refused, turn: Turn, visit: Visit) -> None:
    """Tell all threads of the host's pause. Raise unless it is worth waiting for in this one."""
    seconds, serves = turn.refused(refused.retry_after_seconds)
    if seconds <= visit.wait_seconds and (serves or refused.retry_after_seconds is not None):
        return
    refused.retry_after_seconds = seconds
    refused.blameless = serves
    raise refused
