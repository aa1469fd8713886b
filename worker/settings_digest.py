"""A digest of the settings by which a worker refuses jobs: workers of one digest refuse the same ones.

The ledger notes refusals by it, so a farm of a hundred equal workers refuses a job once. It leaves out what
differs between equal workers: names, ports, threads, session tokens.
"""

from __future__ import annotations

import hashlib
import json

from jobs.settings import AwsIdentity, Settings, proxy_variables
from jobs.storage.access_policy import AccessPolicy

DIGITS = 16


def settings_digest(
    settings: Settings, *, policy: AccessPolicy, engine_set: str, identity: AwsIdentity | None = None
) -> str:
    """16 hex digits of SHA-256 over what decides which jobs are refused. `engine_set` names the sets that are held.

    `identity` defaults to that of the environment. Only the id of the keys counts, which is not a secret, and it
    leaves this function as part of the digest only.
    """
    aws = AwsIdentity() if identity is None else identity
    parts = {
        "folders": sorted(set(policy.folders)),
        "buckets": sorted(set(policy.buckets)),
        "output": policy.output,
        "hosts": sorted(set(settings.allow_hosts)),
        "proxies": proxy_variables(),
        "proxy_resolves": settings.proxy_resolves,
        "fetch_max_bytes": settings.fetch_max_bytes,
        "max_pixels": settings.max_pixels,
        "engine_set": engine_set,
        "aws": aws.model_dump(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]
