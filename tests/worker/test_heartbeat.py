"""The heartbeat's thread: it goes on, whatever happens in one beat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Refusal, WorkerFacts
from jobs.settings import load_settings
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_job
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


def test_a_worker_that_takes_jobs_asks_for_those_of_its_engine_sets(
    ledger: Ledger, heartbeat: Heartbeat, fitness: Fitness
) -> None:
    held, other, refused = make_job(1, model="ink"), make_job(2, model="photo"), make_job(3, model="ink")
    for worker in (WORKER, "patient"):
        ledger.beat(worker, in_flight=[], lease_seconds=60)
    for job in (held, other, refused):
        enqueue(ledger, [job])
        if job is refused:
            ledger.start(job, worker=WORKER)
            refusal = Refusal(by=WORKER, worker=WORKER, kind="shape_not_built", text="not built", at=1.0)
            ledger.refuse(job, refusal, facts=WorkerFacts())
        ledger.start(job, worker="wrong")
        refusal = Refusal(by="wrong", worker="wrong", kind="engine_set_not_held", text="not held", at=1.0)
        assert not ledger.refuse(job, refusal, facts=WorkerFacts()).final
    ledger.client.delete("render")  # the messages that the other worker took
    fitness.compare_clock(1e6)  # paused
    assert heartbeat._places(0) == 0
    fitness.compare_clock(0)
    assert [heartbeat._places(number) for number in (0, 15, 40)] == [32, 2, 0]
    heartbeat.start(lambda _: None, holds=lambda job: job.parameters.model == "ink")
    eventually(lambda: ledger.queue_length() == 1)
    assert set(ledger.delayed_ids()) == {other.id, refused.id}


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
