"""For all tests: a real Redis, a ledger on it, and the marker of tests that depend on processes or timing."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from functools import cache

import pytest
import redis
from botocore.loaders import create_loader
from hypothesis import settings

from jobs.ledger.ledger import Ledger
from tests.marking import depends_on_timing, runs_models
from tests.order import long_ones_first
from tools.embedded_redis import EmbeddedRedis

# Tests use the same examples on every run and every machine; `make fuzz` (tools/fuzz.py) looks for new ones.
settings.register_profile("same", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile("search", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("same")

S3_SECONDS = 2000  # the first test that needs it starts tools/s3server, which waits 300 s for each of its parts, twice


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that a busy machine may upset, and those that take long; see tests/marking.py.

    pytest counts the start of a server against the first test that uses it: such tests get more time.
    """
    for item in items:
        if isinstance(item, pytest.Function):
            if depends_on_timing(item.module.__name__, item.fixturenames):
                item.add_marker("processes")
            if runs_models(item.module.__name__):
                item.add_marker("models")
            if "s3_environment" in item.fixturenames and item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(S3_SECONDS))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what there is by now: the tests, and the libraries that they import.

    These are 700,000 objects that stay. To look at them took a third of a second, in all a twelfth of the suite's time.
    """
    gc.freeze()


@pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
def long_tests_begin_first(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share what is selected; see tests/order.py."""
    share = getattr(config, "workerinput", None)
    if share is not None:
        items[:] = long_ones_first(items, processes=share["workercount"])


@pytest.fixture(autouse=True, scope="session")
def no_proxy_variables() -> Iterator[None]:
    """Without the machine's own proxy, which tests' servers on this machine are not behind."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="session")
def descriptions_of_amazon_read_once() -> Iterator[None]:
    """All clients of botocore share one loader: reading how Amazon's services are used is most of making a client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", cache(create_loader))
        yield


@pytest.fixture(autouse=True)
def logs_go_to_the_stderr_of_their_own_test() -> Iterator[None]:
    """Take away handlers that keep the stderr of the test that made them, which is closed for those that follow.

    The model libraries make one when they are first imported, and `jobs.logs.configure` makes one in this process where
    a command runs in it. With CI set, transformers hands its lines to the root logger, too.
    """
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).handlers.clear()  # logging.lastResort takes their place
    yield
    root = logging.getLogger()  # this fixture ends after pytest's own `capsys`
    root.handlers = [each for each in root.handlers if not getattr(getattr(each, "stream", None), "closed", False)]


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
