"""A batch whose keys are damaged, by whoever can write to Redis, hides neither the others nor that Redis answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.job import RenderJob
from jobs.ledger.keys import BatchPart, batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Refusal, WorkerFacts
from jobs.ledger.redis_client import connected
from producer.keep import paces as paces_module
from producer.keep.details import details
from producer.keep.observation import observe
from producer.keep.paces import Paces
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_jobs, make_result
from tests.producer.keep.process import KeepProcess

LINES = ["running x y z", "running 1 w many", "running", " ", "running 1"]


def running(ledger: Ledger, batch: str) -> list[RenderJob]:
    """Three jobs that a live worker has."""
    jobs = make_jobs(3, batch=batch)
    enqueue(ledger, jobs)
    for job in jobs:
        ledger.start(job, worker=batch)
    ledger.beat(batch, in_flight=[job.id for job in jobs], lease_seconds=60)
    return jobs


def damage(ledger: Ledger, key: BatchPart) -> None:
    """Put a value of another type there."""
    ledger.client.delete(batch_key("bad", key))
    ledger.client.set(batch_key("bad", key), "x")


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_cannot_be_read(ledger: Ledger, line: str) -> None:
    bad, good = running(ledger, "bad"), running(ledger, "good")
    ledger.client.hset(batch_key("bad", "states"), bad[0].id, line)
    in_flight = observe(ledger, with_in_flight=True).in_flight
    assert {job.id: in_flight.get(job.id) for job in good} == dict.fromkeys((job.id for job in good), "good")


@pytest.mark.parametrize("key", ["states", "counts", "jobs", "results", "newest"])
def test_a_key_of_another_type(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, key: BatchPart) -> None:
    monkeypatch.setattr(paces_module, "COUNTED_SECONDS", -1.0)
    running(ledger, "bad")
    good = running(ledger, "good")
    damage(ledger, key)
    paces = Paces(ledger)
    for job in [None, *good[:2]]:
        if job is not None:
            ledger.finish(make_result(job).model_copy(update={"samples": ("a", "b")}))
        seen = observe(ledger, with_in_flight=True)
        assert seen.in_flight[good[2].id] == "good"
        paces.note(seen)
    assert paces.of("good").pictures_a_second is not None


def test_the_newest_of_a_batch_that_goes_on(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a rate, so its newest results are asked for."""
    monkeypatch.setattr(paces_module, "COUNTED_SECONDS", -1.0)
    jobs = running(ledger, "bad")
    paces = Paces(ledger)
    paces.note(observe(ledger))
    ledger.finish(make_result(jobs[0]))
    damage(ledger, "newest")
    paces.note(observe(ledger))
    assert paces.of("bad").pictures_a_second is not None


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("results", {"waits"}),
        ("newest", {"failures", "waits"}),
        ("failures", {"pictures", "waits"}),
        ("refusals", {"pictures", "failures"}),
    ],
)
def test_the_page_has_of_a_damaged_batch_what_can_be_read(ledger: Ledger, key: BatchPart, shown: set[str]) -> None:
    jobs = running(ledger, "bad")
    ledger.finish(make_result(jobs[0]).model_copy(update={"samples": ("s3://bucket/out/bad/a.png",)}))
    ledger.finish(make_result(jobs[1], "failed"))
    ledger.beat("other", in_flight=[], lease_seconds=60, facts=WorkerFacts(settings="x"))
    ledger.refuse(jobs[2], Refusal(by="bad", worker="bad", kind="k", text="t", at=1.0), facts=WorkerFacts())
    (batch,) = observe(ledger).batches
    assert details(ledger, batch)["damaged"] is None
    damage(ledger, key)
    record = details(ledger, batch)
    assert {part for part in ("pictures", "failures", "waits") if record[part]} == shown
    assert "WRONGTYPE" in str(record["damaged"])


def test_the_page_of_a_batch_with_refusals_of_a_line_that_cannot_be_read(ledger: Ledger) -> None:
    jobs = running(ledger, "bad")
    ledger.finish(make_result(jobs[0], "failed"))
    ledger.client.hset(batch_key("bad", "refusals"), jobs[1].id, "garbage")
    ledger.client.hset(batch_key("bad", "states"), jobs[1].id, "running")
    (batch,) = observe(ledger).batches
    record = details(ledger, batch)
    assert record["failures"]
    assert "damaged" in str(record["damaged"])


def test_keep_is_ready_while_somebody_looks(redis_url: str, tmp_path: Path) -> None:
    ledger = Ledger(connected(redis_url))
    jobs = running(ledger, "bad")
    ledger.client.hset(batch_key("bad", "states"), jobs[0].id, "running x y z")
    with KeepProcess(tmp_path / "keep.log", environment={"RENDER_REDIS_URL": redis_url}) as keep:
        keep.until_ready()
        looks = set()

        def seen_often() -> bool:
            text = keep.get("/api/overview").text
            assert '"up":true' in text
            looks.add(text)
            return len(looks) > 3

        eventually(seen_often)
        assert keep.get("/readyz").status == 200
        assert keep.events("turn_broke") == []
    ledger.close()
