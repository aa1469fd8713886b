"""A Redis that answers and refuses every change for a while: no disk, a replica. Workers wait and go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis

from jobs.ledger.ledger import Ledger
from jobs.ledger.reconcile import reconcile
from tests.eventually import eventually
from tests.integration.conftest import Site, StartSite
from tools.embedded_redis import EmbeddedRedis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server
        server.kill()


@pytest.fixture
def site(server: EmbeddedRedis, start_site: StartSite) -> Iterator[Site]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield start_site(server.url, Ledger(client))


@contextmanager
def no_disk(admin: redis.Redis, folder: Path) -> Iterator[None]:
    (folder / "data").mkdir()
    for name, value in (("save", "3600 1"), ("dir", str(folder / "data"))):
        admin.config_set(name, value)
    (folder / "data").rmdir()
    admin.bgsave()
    eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    (folder / "data").mkdir()
    admin.config_set("dir", str(folder / "data"))
    admin.bgsave()
    eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "ok")


@contextmanager
def replica(admin: redis.Redis, _: Path) -> Iterator[None]:
    admin.replicaof("127.0.0.1", "1")
    yield
    admin.replicaof("NO", "ONE")


def _all_done(site: Site, number: int) -> bool:
    reconcile(site.ledger, lease_seconds=5.0)
    return site.ledger.counts("b").done >= number


Fault = Callable[[redis.Redis, Path], AbstractContextManager[None]]
SENTENCES: dict[Fault, str] = {
    no_disk: "Redis cannot write its data to disk",
    replica: "RENDER_REDIS_URL names a replica",
}


@pytest.mark.parametrize("fault", SENTENCES)
def test_a_worker_waits_for_a_redis_that_refuses_and_says_what_to_do(site: Site, fault: Fault) -> None:
    jobs = site.enqueue(12, seconds=0.3)
    worker = site.start(jobs_in_flight=2)
    site.wait_until_done(2)
    with fault(site.ledger.client, site.folder):
        eventually(lambda: len(site.events("heartbeat_failed")) >= 3)
    # kombu may have popped a message whose record Redis then refused: only a reconciler finds that job.
    eventually(lambda: _all_done(site, 12), seconds=120.0)
    said = {event["error"] for name in ("heartbeat_failed", "ledger_unavailable") for event in site.events(name)}
    assert all(sentence.startswith(SENTENCES[fault]) for sentence in said), said
    assert worker.alive
    site.assert_all_done_once(jobs, after_a_fault=True)
