"""What every test package may use: a real Redis and a ledger on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from hypothesis import settings

from jobs.ledger.ledger import Ledger
from tools.embedded_redis import EmbeddedRedis

# The same examples on every run and every machine; `make fuzz` (tools/fuzz.py) looks for others.
settings.register_profile("same", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile("search", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("same")


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
