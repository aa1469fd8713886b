"""FetchLimits: what reading one URI may cost, and where it may lead."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.storage.access_policy import AccessPolicy


@dataclass(frozen=True)
class FetchLimits:
    """Limits for one read: seconds from start to end, bytes, hosts that may have private addresses, and the policy.

    Without a policy any folder and bucket may be read: for people on their own machine.
    """

    timeout_seconds: float = 30.0
    max_bytes: int = 64 * 2**20
    allow_hosts: tuple[str, ...] = ()
    policy: AccessPolicy | None = None


# Sidecars and pictures that we wrote ourselves. Limited all the same, because anything may be in their place.
OWN_MAX_BYTES = 2**31
OWN_LIMITS = FetchLimits(timeout_seconds=300.0, max_bytes=OWN_MAX_BYTES)
