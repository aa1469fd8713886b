"""The process's S3 client. Its endpoint, region and keys come from the standard AWS_* variables and files."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.configprovider import ChainProvider, ConstantProvider
from botocore.exceptions import BotoCoreError, ClientError

CONNECT_SECONDS = 5
SILENT_SECONDS = 30  # the longest that the server may send nothing
RENEW_SECONDS = 1.0  # keys that stay wrong are read again no sooner: making a client takes 0.1 s of CPU time

# Checksums that boto3 1.36 and later add on their own. Over TLS they wrap the body (aws-chunked, with a trailer), and
# stores that do not know this keep the wrapping as the object, or refuse the request.
CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
WHEN_REQUIRED = "when_required"

_LOCK = threading.Lock()
_REFUSALS = (BotoCoreError, ClientError, OSError, ValueError, RuntimeError)


class ClientRefused(Exception):
    """boto3 makes no client of the AWS_* variables and files here. The cause is what it raised."""


@dataclass(eq=False)
class Made:
    """A client, when it took the place of one whose keys were refused, and the buckets that have accepted its keys."""

    client: Any
    renewed_at: float = -math.inf
    accepted: set[str] = field(default_factory=set)


def current() -> Made:
    """The process's one S3 client. Threads may share a boto3 client, but only one at a time may create one.

    Raises:
        ClientRefused: the AWS_* variables and files do not give one.
    """
    with _LOCK:
        return _present()


def client() -> Any:
    """The boto3 client of `current`."""
    return current().client


def forget_client() -> None:
    """Make the next call read the AWS_* variables and files again."""
    with _LOCK:
        _made.cache_clear()


def renewed(failed: Made, bucket: str) -> Made | None:
    """Another client than `failed`, whose keys the bucket refused; None where there cannot be a better one yet.

    The first thread that asks makes it from the variables and files of now, and all that used the old one share it.
    Only a renewed client that this bucket never accepted must grow RENEW_SECONDS old first: its keys may be wrong for
    good.

    Raises:
        ClientRefused: the AWS_* variables and files do not give one.
    """
    with _LOCK:
        if _made.cache_info().currsize and _made() is failed:
            if bucket not in failed.accepted and time.monotonic() - failed.renewed_at < RENEW_SECONDS:
                return None
            _made.cache_clear()
            _present().renewed_at = time.monotonic()
        return _present()


def adds_checksums(s3: Any) -> bool:
    """Whether the user asked boto3 to add its own checksums to uploads (AWS_REQUEST_CHECKSUM_CALCULATION)."""
    return getattr(s3.meta.config, CHECKSUMS[0], None) == "when_supported"


def _present() -> Made:
    try:
        return _made()
    except _REFUSALS as error:
        raise ClientRefused from error


@cache
def _made() -> Made:
    # boto3 retries once, within a second; longer retries are the caller's (retry.py).
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=SILENT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 2},
        max_pool_connections=64,
    )
    # A session of our own, because the default one keeps the first credentials that it reads.
    session = botocore.session.get_session()
    _default_to_no_checksums(session)
    return Made(boto3.session.Session(botocore_session=session).client("s3", config=config))


def _default_to_no_checksums(session: Any) -> None:
    """Change only the default, so that the user's variables and configuration files still decide."""
    settings = session.get_component("config_store")
    for name in CHECKSUMS:
        provider = settings.get_config_provider(name)
        if isinstance(provider, ChainProvider):  # before 1.36, boto3 neither has these settings nor needs them
            provider.set_default_provider(ConstantProvider(WHEN_REQUIRED))
