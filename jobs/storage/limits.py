"""FetchLimits: what reading one URI may cost, and where it may lead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.settings import Settings, proxy_variables
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.host_limits import LONGEST_WAIT_SECONDS, HostLimits
from jobs.storage.proxies import Proxies

# Anything else comes last: hosts send many a picture as application/octet-stream.
ACCEPT = "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff,*/*;q=0.1"


def _go_on() -> None:
    pass


@dataclass(frozen=True)
class FetchLimits:
    """Limits for one read: seconds from start to end, bytes, hosts that may have private addresses, and the policy.

    Without a policy any folder and bucket may be read: for people on their own machine. The other fields are for
    http(s): who asks (`contact`) and for which formats (`accept`, a header), through which proxy, and what all reads of
    a process share to ask no host too often (`hosts`). A read waits for at most `wait_seconds` until it may ask, and
    calls `check` meanwhile, which raises if it should not wait on.
    """

    timeout_seconds: float = 30.0
    max_bytes: int = 64 * 2**20
    allow_hosts: tuple[str, ...] = ()
    policy: AccessPolicy | None = None
    contact: str = ""
    accept: str = ACCEPT
    proxies: Proxies = field(default_factory=Proxies)
    proxy_resolves: bool = False
    hosts: HostLimits = field(default_factory=HostLimits)
    check: Callable[[], None] = _go_on
    wait_seconds: float = LONGEST_WAIT_SECONDS

    @classmethod
    def of(cls, settings: Settings, *, policy: AccessPolicy | None = None, accept: str = ACCEPT) -> FetchLimits:
        """What a process's settings allow. Make it once: reads that share it share their limits per host."""
        return cls(
            settings.fetch_timeout_seconds,
            settings.fetch_max_bytes,
            settings.allow_hosts,
            policy,
            contact=settings.fetch_contact,
            accept=accept,
            proxies=Proxies.of(proxy_variables()),
            proxy_resolves=settings.proxy_resolves,
            hosts=HostLimits(settings.fetch_per_host),
        )


# Sidecars and pictures that we wrote ourselves. Limited all the same, because anything may be in their place.
OWN_MAX_BYTES = 2**31
OWN_LIMITS = FetchLimits(timeout_seconds=300.0, max_bytes=OWN_MAX_BYTES)
