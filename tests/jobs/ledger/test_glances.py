"""What the ledger says in a few commands whatever the size, and passes in which one batch is damaged."""

from __future__ import annotations

import json
import re
import time

import pytest
import redis

from jobs.errors import InvalidJob, LedgerUnavailable
from jobs.job import RenderJob
from jobs.ledger.failures import DELAYED_JOBS
from jobs.ledger.keys import BATCHES, batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.message import celery_message
from jobs.ledger.reconcile import Reconciled, reconcile, take_back
from jobs.ledger.records import Counts
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result


def queued_at(message: str, seconds: int) -> str:
    """The message, as if it had been queued then."""
    return re.sub(r'"delivery_tag": "[0-9a-f]{8}-', f'"delivery_tag": "{seconds:08x}-', message)


def test_a_message_says_when_it_was_queued(ledger: Ledger) -> None:
    before = int(time.time())
    enqueue(ledger, make_jobs(1))
    at = ledger.kombu.oldest_queued_at()
    assert at is not None
    assert before <= at <= time.time()


def test_the_oldest_message_is_found_at_both_ends_of_the_queue(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(300))
    old, older = (
        queued_at(celery_message(make_job(row), queue="render"), at) for row, at in ((901, 2000), (902, 1000))
    )
    ledger.client.rpush(ledger.queue, old)
    assert ledger.kombu.oldest_queued_at() == 2000
    ledger.client.lpush(ledger.queue, older)
    assert ledger.kombu.oldest_queued_at() == 1000


def test_messages_of_earlier_versions_and_garbage_say_nothing(ledger: Ledger) -> None:
    assert ledger.kombu.oldest_queued_at() is None
    earlier = json.loads(celery_message(make_job(1), queue="render"))
    earlier["properties"]["delivery_tag"] = "0123456789abcdef0123456789abcdef"
    ledger.client.lpush(ledger.queue, json.dumps(earlier), "", "garbage", '"delivery_tag": 5', '"delivery_tag": "1234')
    assert ledger.kombu.oldest_queued_at() is None
    celerys = earlier | {"properties": earlier["properties"] | {"delivery_tag": "00000001-89ab-4def-8123-456789abcdef"}}
    ledger.client.lpush(ledger.queue, json.dumps(celerys))
    assert ledger.kombu.oldest_queued_at() is None


def test_a_prompt_cannot_say_when_its_message_was_queued(ledger: Ledger) -> None:
    prompt = '"delivery_tag": "00000001-'
    enqueue(ledger, [make_job(1, prompt=prompt), make_job(2, prompt=prompt * 100)])
    assert (ledger.kombu.oldest_queued_at() or 0) > 1e9


def test_kombus_way_to_write_json_is_read_too(ledger: Ledger) -> None:
    message = json.loads(queued_at(celery_message(make_job(1), queue="render"), 1000))
    ledger.client.lpush(ledger.queue, json.dumps(message, separators=(",", ":")))
    assert ledger.kombu.oldest_queued_at() == 1000


def test_counts_of_many_batches_and_of_damaged_ones(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(2, batch="good"))
    ledger.client.set(batch_key("text", "counts"), "text")
    ledger.client.hset(batch_key("words", "counts"), "queued", "many")
    ledger.client.hset(batch_key("endless", "counts"), "done", "9" * 400)
    ledger.client.hset(batch_key("largest", "counts"), "done", str(2**63 - 1))
    names = ["good", "text", "words", "endless", "largest", "none", *(f"none-{i}" for i in range(250))]
    counts = list(ledger.counts_of(names))
    assert counts[:6] == [Counts(queued=2), None, None, None, Counts(done=2**63 - 1), Counts()]
    assert len(counts) == len(names)


def test_counts_that_redis_refuses_altogether_are_its_fault(ledger: Ledger) -> None:
    ledger.client.set(batch_key("text", "counts"), "text")
    with pytest.raises(LedgerUnavailable, match="another program uses the same"):
        list(ledger.counts_of(["text"]))


def test_what_is_no_batch_is_passed_over(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1))
    ledger.client.hset(BATCHES, mapping={"x": "garbage", "y": "{}"})
    assert [info.name for info in ledger.batches()] == ["b"]
    assert ledger.batch("x") is ledger.batch("y") is None


def test_what_else_is_registered_under_a_name_is_not_replaced(ledger: Ledger) -> None:
    ledger.client.hset(BATCHES, "x", "garbage")
    with pytest.raises(InvalidJob, match="registered in a form that this version cannot read"):
        ledger.open_batch("x", output="file:///out", source="jobs.csv")
    assert ledger.client.hget(BATCHES, "x") == "garbage"


def test_what_ended_last_comes_first(ledger: Ledger) -> None:
    jobs = make_jobs(6)
    enqueue(ledger, jobs)
    for job in jobs[:5]:
        ledger.start(job, worker="w")
        ledger.finish(make_result(job, "failed" if job.row % 2 else "done"))
    assert [result.row for result in ledger.newest("b")] == [4, 2]
    assert [result.row for result in ledger.newest("b", failed=True)] == [5, 3, 1]
    assert [result.row for result in ledger.newest("b", failed=True, limit=2)] == [5, 3]


def test_a_retried_job_is_no_failure_any_more(ledger: Ledger) -> None:
    (job,) = make_jobs(1)
    enqueue(ledger, [job])
    for state in ("failed", "failed", "done"):
        ledger.start(job, worker="w")
        ledger.finish(make_result(job, state))
        assert len(ledger.newest("b", failed=True)) == (state == "failed")
        ledger.retry("b")
    assert [result.id for result in ledger.newest("b")] == [job.id]


def test_the_lists_stay_short(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.ledger.ledger.NEWEST", 5)
    jobs = make_jobs(40)
    enqueue(ledger, jobs)
    for job in jobs:
        ledger.start(job, worker="w")
        ledger.finish(make_result(job))
    assert ledger.client.llen(batch_key("b", "newest")) <= 10
    assert [result.row for result in ledger.newest("b", limit=5)] == [40, 39, 38, 37, 36]


def delivered(ledger: Ledger, job: RenderJob, *, at: float = 1.0) -> str:
    """A message of a job that a consumer has had since then, on a Redis that has been up for long."""
    message = json.loads(celery_message(job, queue="render"))
    tag = str(message["properties"]["delivery_tag"])
    ledger.client.hset("unacked", tag, json.dumps([message, "", "render"]))
    ledger.client.zadd("unacked_index", {tag: at})
    ledger.seconds_up = lambda: 1e6  # type: ignore[method-assign]  # the test's server has just been started
    return tag


# -- messages that a dead worker has of jobs that it had ended ---------------------------------------------------------


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_the_message_of_an_ended_job_is_forgotten(ledger: Ledger, state: str) -> None:
    for name in ("other", "b"):
        enqueue(ledger, make_jobs(1, batch=name))
    (job,) = make_jobs(1)
    ledger.start(job, worker="dead")
    ledger.finish(make_result(job, state))
    delivered(ledger, job)
    assert take_back(ledger, lease_seconds=1, sleep=lambda _: None) == Reconciled()
    assert ledger.client.hlen("unacked") == ledger.client.zcard("unacked_index") == 0


def test_that_of_a_job_that_a_worker_has_or_got_just_now_is_not(ledger: Ledger) -> None:
    jobs = make_jobs(2)
    enqueue(ledger, jobs)
    for job in jobs:
        ledger.start(job, worker="w")
        ledger.finish(make_result(job))
    delivered(ledger, jobs[0])
    delivered(ledger, jobs[1], at=time.time())
    ledger.beat("w", in_flight=[jobs[0].id], lease_seconds=60)
    take_back(ledger, lease_seconds=60, sleep=lambda _: None)
    assert ledger.client.hlen("unacked") == 2


def test_that_of_a_job_which_no_batch_knows_is_not(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1))
    delivered(ledger, make_job(99))
    take_back(ledger, lease_seconds=1, sleep=lambda _: None)
    assert ledger.client.hlen("unacked") == 1


# -- a damaged batch among good ones ---------------------------------------------------------------------------------


@pytest.fixture
def damaged(ledger: Ledger) -> dict[str, str]:
    """Batches whose keys are spoilt in different ways; the value is what is said of them."""
    for name in ("line", "type", "counts"):
        enqueue(ledger, make_jobs(1, batch=name))
    ledger.client.hset(batch_key("line", "states"), make_jobs(1, batch="line")[0].id, "queued many")
    ledger.client.delete(batch_key("type", "states"))
    ledger.client.set(batch_key("type", "states"), "text")
    ledger.client.hset(batch_key("counts", "counts"), "queued", "many")
    return {"line": "damaged", "type": "another program", "counts": "damaged"}


def test_a_damaged_batch_keeps_no_other_waiting(ledger: Ledger, damaged: dict[str, str]) -> None:
    enqueue(ledger, make_jobs(3))
    ledger.client.ltrim(ledger.queue, 1, 0)  # all messages are lost
    repaired = reconcile(ledger, lease_seconds=60, sleep=lambda _: None)
    assert repaired.requeued == 3
    assert set(repaired.failures) == set(damaged)
    for name, words in damaged.items():
        assert words in repaired.failures[name]


def test_the_same_of_what_dead_workers_hold(ledger: Ledger, damaged: dict[str, str]) -> None:
    (job,) = make_jobs(1)
    enqueue(ledger, [job])
    ledger.start(job, worker="dead")
    ledger.client.delete(ledger.queue)
    delivered(ledger, job)
    assert take_back(ledger, lease_seconds=1, sleep=lambda _: None).restored == 1


def test_a_pass_over_one_batch_says_what_is_wrong_with_it(ledger: Ledger, damaged: dict[str, str]) -> None:
    with pytest.raises(LedgerUnavailable):
        reconcile(ledger, batch="type", lease_seconds=60, sleep=lambda _: None)
    with pytest.raises(ValueError, match="many"):
        reconcile(ledger, batch="line", lease_seconds=60, sleep=lambda _: None)


def test_delayed_jobs_of_a_damaged_batch_keep_no_other_waiting(ledger: Ledger) -> None:
    bad, good = make_jobs(1, batch="a-bad")[0], make_jobs(1)[0]
    for job in (bad, good):
        enqueue(ledger, [job])
        ledger.start(job, worker="w")
        ledger.defer(job, worker="w", seconds=0, refund=True)
    ledger.client.delete(ledger.queue, batch_key("a-bad", "jobs"))
    ledger.client.set(batch_key("a-bad", "jobs"), "text")
    with pytest.raises(LedgerUnavailable, match="another program"):
        ledger.feed_delayed()
    assert ledger.queue_length() == 1
    repaired = reconcile(ledger, lease_seconds=60, sleep=lambda _: None)
    assert set(repaired.failures) == {DELAYED_JOBS}


def test_a_redis_that_is_away_is_no_fault_of_a_batch(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue(ledger, make_jobs(1))

    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(ledger.client, "hscan", away)
    with pytest.raises(LedgerUnavailable, match="does not answer"):
        reconcile(ledger, lease_seconds=60, sleep=lambda _: None)
    assert reconcile(ledger, batch="none", lease_seconds=60) == Reconciled()
