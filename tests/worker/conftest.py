"""What the worker's tests share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from jobs.ledger.ledger import Ledger
from tests.worker.bench import WORKER, Bench


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of an empty real Redis that decodes to str."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def bench(ledger: Ledger) -> Iterator[Bench]:
    bench = Bench(ledger)
    ledger.beat(WORKER, in_flight=(), lease_seconds=60)
    thread = threading.Thread(target=bench.loop.run, args=(bench.stop,))
    thread.start()
    yield bench
    bench.stop.set()
    thread.join()
