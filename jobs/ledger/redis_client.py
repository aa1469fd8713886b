"""The ledger's Redis client: how it connects, and what its callers see when Redis does not answer, or refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from jobs.errors import LedgerUnavailable
from jobs.redis_errors import why_unavailable

SCAN_COUNT = 1000  # items that one request reads of a long hash, list or key space
DAMAGED = (ValueError, LookupError)  # what reading a line or a number raises if another program wrote it


def connected(url: str) -> redis.Redis:
    """A client for the ledger. It connects at its first call."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # garbage in the queue must not stop those who look through it
        socket_timeout=20,
        socket_connect_timeout=5,
        health_check_interval=30,
    )


@contextmanager
def answering() -> Iterator[None]:
    """Turn what redis-py raises into LedgerUnavailable, without the URL's password.

    That includes what a server says that is there and refuses: its disk or memory is full, it is a replica, a
    permission is missing. A worker waits until that is mended, as it does for a server that is away.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError) as error:
        raise LedgerUnavailable(why_unavailable(error)) from error


def is_away(error: LedgerUnavailable) -> bool:
    """Whether Redis does not answer at all. Otherwise it refused this command, and may answer others."""
    return isinstance(error.__cause__, (redis.ConnectionError, redis.TimeoutError))


@contextmanager
def passing_over_damage() -> Iterator[None]:
    """End the block without an error if another program changed or replaced the keys that it reads.

    One damaged batch must not stop what is done for the others, and must not keep itself from being deleted.
    """
    try:
        yield
    except DAMAGED:
        pass
    except LedgerUnavailable as error:
        if "WRONGTYPE" not in str(error.__cause__):
            raise


def scanned(client: redis.Redis, key: str) -> Iterator[tuple[str, str]]:
    """The fields and values of a hash, in no order, without loading all of it into memory."""
    with answering():
        yield from client.hscan_iter(key, count=SCAN_COUNT)
