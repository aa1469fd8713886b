"""Hosts: by which names a browser may call this server.

A page of another site can make its own name mean this machine's address (DNS rebinding), and then read what is here as
if it were its own. Such a request carries that name in its Host header. So this server refuses names that anyone on
the internet may own. It allows addresses, names without a dot, and names that only local networks know: no such page
has one of them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from jobs.settings import Settings

# These ends cannot be registered on the internet (RFC 6761, RFC 6762, ICANN on .internal; `svc` is Kubernetes' own).
LOCAL_ENDS = ("localhost", "local", "internal", "home.arpa", "test", "svc")

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]*))(?::[0-9]*)?")


@dataclass(frozen=True)
class Hosts:
    """The names that are allowed besides local ones."""

    names: frozenset[str]

    @classmethod
    def of(cls, settings: Settings, listening_on: str) -> Hosts:
        """This machine's name, what it listens on, and RENDER_KEEP_NAMES."""
        names = (*settings.keep_names, listening_on, socket.gethostname())
        return cls(frozenset(map(_plain, names)))

    def refusal(self, header: str | None) -> str | None:
        """Why a request with this Host header is refused, or None. Browsers always send the header."""
        if header is None:
            return None
        match = _HOST.fullmatch(header.strip())
        name = _plain(match["v6"] or match["name"]) if match else ""
        if name and (_is_address(name) or self._is_ours(name)):
            return None
        return (
            "this server does not know the name by which it was called. Call it by its address, or name it in "
            "RENDER_KEEP_NAMES (pages of other sites could read it otherwise)"
        )

    def _is_ours(self, name: str) -> bool:
        return "." not in name or name in self.names or name.endswith(tuple(f".{end}" for end in LOCAL_ENDS))


def _plain(name: str) -> str:
    """In lower case, and without the dot that may end a full name."""
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
