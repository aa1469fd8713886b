"""Proxies: the standard variables http_proxy, https_proxy, all_proxy and no_proxy, and what they mean for one host.

A proxy is named by the operator, so its own address may be private. The URLs that it is asked for are checked as
always: see jobs.storage.http.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from jobs.errors import SourceForbidden, SourceUnavailable
from jobs.storage.addresses import Address

DEFAULT_PORT = 80
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Proxy:
    """A proxy that is spoken to in plain HTTP."""

    host: str
    port: int
    authorization: str | None  # for Proxy-Authorization
    variable: str

    @property
    def shown(self) -> str:
        """For people: without user and password, with the variable that names it."""
        return f"the proxy {self.host}:{self.port} ({self.variable})"

    def addresses(self) -> tuple[Address, ...]:
        """Where to connect. Not checked: the operator named it.

        Raises:
            SourceUnavailable: the proxy's name cannot be resolved, which is this machine's fault.
        """
        try:
            resolved = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError, ValueError, OverflowError) as error:
            raise SourceUnavailable(f"{self.shown} cannot be resolved", fault="worker") from error
        return tuple(Address(family, target) for family, _, _, _, target in resolved)


@dataclass(frozen=True)
class Proxies:
    """The values of the variables; '' where one is not set."""

    http: str = ""
    https: str = ""
    all: str = ""
    no: str = ""

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Proxies:
        """From `jobs.settings.proxy_variables`."""
        return cls(**{name: variables.get(name, "").strip() for name in ("http", "https", "all", "no")})

    def proxy_for(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a URL's scheme ('http' or 'https') and host, if any.

        Raises:
            SourceForbidden: the variable names a proxy that cannot be used. Other workers may have another one.
        """
        name = scheme if getattr(self, scheme) else "all"
        value = getattr(self, name)
        if not value or self._without(host, port):
            return None
        return _proxy(value, f"{name}_proxy")

    def _without(self, host: str, port: int) -> bool:
        return any(_covers(entry, host.rstrip("."), port) for entry in re.split(r"[,\s]+", self.no.lower()) if entry)


def basic(parts: SplitResult) -> str | None:
    """The value of an Authorization header for the user and password in a URL, percent-decoded; None without them."""
    userinfo, _, _ = parts.netloc.rpartition("@")
    if not userinfo:
        return None
    user, _, password = userinfo.partition(":")
    return "Basic " + base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()


def _proxy(value: str, variable: str) -> Proxy:
    url = value if _SCHEME.match(value) else f"http://{value}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # whose text repeats the URL, password and all
        raise _unusable(variable, "is not a usable URL; special characters in a password are written as %XX") from error
    if parts.scheme != "http":
        raise _unusable(variable, f"begins with {parts.scheme}://; workers use proxies that begin with http://")
    if not parts.hostname:
        raise _unusable(variable, "names no host")
    return Proxy(parts.hostname, port or DEFAULT_PORT, basic(parts), variable)


def _unusable(variable: str, why: str) -> SourceForbidden:
    return SourceForbidden(f"the proxy in the worker's {variable} {why}", fault="worker", scope="settings")


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of no_proxy means a host: `*`, a name and all below it, an address or a network (10.0.0.0/8)."""
    if entry == "*":
        return True
    name, entry_port = _split_port(entry)
    if entry_port is not None and entry_port != port:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, int | None]:
    """'host:80' -> ('host', 80). An IPv6 address has a port only behind brackets."""
    match = re.fullmatch(r"\[(?P<six>[^\]]*)\](?::(?P<port6>\d{1,5}))?|(?P<name>[^:]*):(?P<port>\d{1,5})", entry)
    if match is None:
        return entry, None
    port = match["port6"] or match["port"]
    return match["six"] or match["name"] or "", int(port) if port else None
