"""What the worker's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of an empty real Redis that decodes to str."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
