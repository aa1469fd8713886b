"""What every test package may use: a real Redis and a ledger on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from deploy.local.embedded_redis import EmbeddedRedis
from jobs.ledger import Ledger


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """One real server for the session; use `redis_url`, which empties it first."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """An empty real Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """A ledger on an empty real Redis."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield Ledger(client)
