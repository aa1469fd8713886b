"""The heartbeat's thread: it goes on, whatever happens in one beat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from jobs.ledger.ledger import Ledger
from jobs.settings import load_settings
from tests.eventually import eventually
from tests.jobs.rows import make_job
from worker.fitness import Fitness
from worker.heartbeat import Heartbeat
from worker.in_flight import InFlightJobs
from worker.observe.metrics import JobMetrics

WORKER = "w-1-abc"


@pytest.fixture
def fitness() -> Fitness:
    return Fitness()


@pytest.fixture
def heartbeat(ledger: Ledger, fitness: Fitness) -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(
        ledger,
        load_settings(heartbeat_seconds=0.05),
        worker=WORKER,
        in_flight=InFlightJobs(),
        fitness=fitness,
        metrics=JobMetrics(CollectorRegistry()),
    )
    yield heartbeat
    heartbeat.stop()


def test_an_error_that_nobody_expected_ends_no_heartbeat(
    ledger: Ledger, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [ValueError("odd"), KeyError("odder")]
    feed = ledger.feed_delayed

    def broken(**arguments: Any) -> int:
        if odd:
            raise odd.pop()
        return feed(**arguments)

    monkeypatch.setattr(ledger, "feed_delayed", broken)
    heartbeat.start(lambda _: None)
    eventually(lambda: not odd and WORKER in ledger.workers())
    first = ledger.workers()[WORKER].at
    eventually(lambda: ledger.workers()[WORKER].at > first)


def test_an_error_that_is_no_text_can_be_told_in_a_heartbeat(
    ledger: Ledger, heartbeat: Heartbeat, fitness: Fitness
) -> None:
    fitness.saw(ValueError("caf\udce9.png"), make_job())
    heartbeat.start(lambda _: None)
    eventually(lambda: WORKER in ledger.workers())
    assert "caf?.png" in (ledger.workers()[WORKER].facts.last_error or "")


@pytest.mark.parametrize(
    ("others", "paused"), [((), False), ((0.0,), True), ((3600.0,), False), ((3600.0, 0.0, 0.0), True)]
)
def test_where_most_workers_differ_from_redis_alike_its_clock_is_wrong_and_not_theirs(
    ledger: Ledger,
    heartbeat: Heartbeat,
    fitness: Fitness,
    monkeypatch: pytest.MonkeyPatch,
    others: tuple[float, ...],
    paused: bool,
) -> None:
    redis_time = time.time() - 3600.0
    monkeypatch.setattr(ledger, "server_time", lambda: redis_time)
    for number, ahead in enumerate(others):
        beat = {"worker": f"other-{number}", "held": [], "at": redis_time + ahead}
        ledger.client.set(f"render:worker:other-{number}", json.dumps(beat))
    heartbeat._compare_clock()
    assert (fitness.paused is not None) == paused
