"""Addresses: a host's name is resolved once, and its addresses are checked before a connection is made."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jobs.errors import RenderError, SourceForbidden, SourceNotFound, SourceUnavailable

# Some Python versions' `ipaddress` calls these global, but they are not addresses of the public internet.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "64:ff9b:1::/48",  # translation inside a network
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local, deprecated
    )
)
_NO_SUCH_NAME = frozenset(
    number
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")  # some systems lack the last two
    if (number := getattr(socket, name, None)) is not None
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Address:
    """Where to connect, as `socket.connect` takes it, so that no name is resolved a second time."""

    family: socket.AddressFamily
    target: Any

    @property
    def text(self) -> str:
        """The address alone, without port."""
        return str(self.target[0])


def checked_addresses(host: str, port: int, *, allow_hosts: Collection[str]) -> tuple[Address, ...]:
    """All addresses of a host. All must belong to the public internet, unless the host is in `allow_hosts`.

    Numbers are resolved like names: the resolver reads 2130706433, 0x7f.1 and 127.1 as the kernel would.

    Raises:
        SourceForbidden: one address is not public (the worker's fault: others may allow it), or the name is invalid.
        SourceNotFound: this machine's resolver knows no such host (the worker's fault: another may know the name).
        SourceUnavailable: the resolver does not answer.
    """
    try:
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise _unresolved(host, error) from error
    except (UnicodeError, ValueError, OverflowError) as error:  # too long, empty between dots, a NUL, a port of 10**10
        raise SourceForbidden(f"{host!r} is not a host name") from error
    addresses = tuple(Address(family, target) for family, _, _, _, target in resolved)
    if host not in allow_hosts:
        for address in addresses:
            if not is_global(address.text):
                raise SourceForbidden(
                    f"the host {host} has the private address {address.text}; "
                    "if that is meant, add it to RENDER_ALLOW_HOSTS",
                    fault="worker",
                    scope="settings",
                )
    return addresses


def _unresolved(host: str, error: socket.gaierror) -> RenderError:
    if error.errno in _NO_SUCH_NAME:
        # One machine whose DNS is broken, or knows fewer names, must not fail every row with a URL.
        return SourceNotFound(
            f"the host {host} cannot be resolved ({error.strerror}): the name is wrong, or the DNS of the worker that "
            "was asked to fetch from it is",
            fault="worker",
        )
    # The others, EAI_AGAIN above all, are failures of the resolver, which do not mean that the name does not exist.
    return SourceUnavailable(f"the host {host} cannot be resolved ({error.strerror})")


def is_global(address: str) -> bool:
    """Whether an address belongs to the public internet. IPv4 inside IPv6 is checked as IPv4."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_global(str(inner))
    if any(ip in network for network in _NOT_PUBLIC if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
