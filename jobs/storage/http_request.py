"""Request: a URL taken apart, and the headers that go with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urljoin, urlsplit

import jobs
from jobs.errors import SourceForbidden
from jobs.storage.proxies import Proxy, basic
from jobs.uri import redacted

PORTS = {"http": 80, "https": 443}
_LEGAL = "/%:@!$&'()*+,;=~"  # in a path; '%' because what is quoted already stays as it is
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")  # a name, or IPv6 with its zone
SHORTEST_SECRET = 4  # shorter values of a query, such as a width, would black out words that happen to hold them


@dataclass(frozen=True)
class Origin:
    """Where a password may be sent: the host, by one scheme and port."""

    scheme: str
    host: str
    port: int

    def trusts(self, other: Origin) -> bool:
        """Whether what may be sent here may be sent there: to the same origin, or to the same host's https."""
        upgraded = Origin("https", self.host, PORTS["https"])
        return other == self or (other == upgraded and self.scheme == "http" and self.port == PORTS["http"])


@dataclass(frozen=True)
class Request:
    """A URL, taken apart; `origin.host` is ASCII."""

    url: str
    origin: Origin
    target: str
    host_header: str
    authorization: str | None
    shown: str  # the URL without its secrets
    secrets: frozenset[str]  # what an answer must not repeat to people

    @classmethod
    def of(cls, url: str) -> Request:
        """Take a URL apart.

        Raises:
            SourceForbidden: it is not a usable http(s) URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:  # whose text repeats the URL, password and all
            raise SourceForbidden(f"not a usable URL: {redacted(url)}") from error
        if parts.scheme not in PORTS or not parts.hostname:
            raise SourceForbidden(f"{redacted(url)}: only http:// and https:// URLs with a host are fetched")
        host = _ascii_host(parts.hostname)
        bracketed = f"[{host}]" if ":" in host else host
        try:
            authorization, target = basic(parts), _target(parts)
        except UnicodeError as error:
            raise SourceForbidden(f"{redacted(url)!r} holds half a character (a lone surrogate)") from error
        return cls(
            url=url,
            origin=Origin(parts.scheme, host, port or PORTS[parts.scheme]),
            target=target,
            host_header=f"{bracketed}:{port}" if port else bracketed,
            authorization=authorization,
            shown=redacted(url),
            secrets=_secrets(parts, authorization),
        )

    def redirected(self, location: str) -> Request:
        """The request for a Location header. A password goes along only where it may be sent.

        Raises:
            SourceForbidden: it is not a usable http(s) URL.
        """
        try:
            url = urljoin(self.url, location)
        except ValueError as error:
            raise SourceForbidden(f"{self.shown} was redirected to a URL that cannot be used") from error
        return Request.of(url)

    @property
    def tls(self) -> bool:
        """Whether the URL begins with https://."""
        return self.origin.scheme == "https"

    @property
    def host_name(self) -> str:
        """The host and its port, by which requests are limited."""
        return f"{self.origin.host.rstrip('.')}:{self.origin.port}"

    @property
    def authority(self) -> str:
        """Host and port, as CONNECT names them."""
        host = self.origin.host
        return f"{f'[{host}]' if ':' in host else host}:{self.origin.port}"

    def target_for(self, proxy: Proxy | None) -> str:
        """What stands in the request line: a proxy that is asked for http:// gets the whole URL."""
        return self.target if proxy is None or self.tls else f"http://{self.host_header}{self.target}"


def user_agent(contact: str) -> str:
    """Name and version, and where the host's owner can complain."""
    name = f"batch-renderer/{jobs.__version__}"
    return f"{name} (+{contact})" if contact else name


def _ascii_host(name: str) -> str:
    try:
        host = name.encode("idna").decode()
    except UnicodeError as error:
        raise SourceForbidden(f"{name!r} is not a host name") from error
    if not _HOST.fullmatch(host):  # some proxies would decode what stands behind '%', or begin a new word at a space
        raise SourceForbidden(f"{name!r} is not a host name")
    return host


def _target(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=_LEGAL)
    return f"{path}?{quote(parts.query, safe=_LEGAL + '?')}" if parts.query else path


def _secrets(parts: SplitResult, authorization: str | None) -> frozenset[str]:
    userinfo, _, _ = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    values = [value for _, value in parse_qsl(parts.query, keep_blank_values=True)]
    written = [parts.query, *(part.partition("=")[2] or part for part in parts.query.split("&")), user, password]
    texts = [*values, *written, *map(unquote, written), (authorization or "").removeprefix("Basic ")]
    return frozenset(text for text in texts if len(text) >= SHORTEST_SECRET)
