"""The reconciler on a real Redis: orphans go back, nothing held is touched."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from jobs.job import RenderJob
from jobs.ledger.kombu_view import UNACKED, UNACKED_INDEX
from jobs.ledger.ledger import Ledger
from jobs.ledger.reconcile import Reconciled, reconcile, take_back
from jobs.ledger.records import Counts
from jobs.ledger.redis_client import SCAN_COUNT
from jobs.settings import load_settings
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result

LEASE_SECONDS = 2.0


@pytest.fixture(autouse=True)
def redis_is_not_new(ledger: Ledger) -> None:
    """Silence right after a start of Redis means nothing."""
    eventually(lambda: ledger.seconds_up() >= LEASE_SECONDS)


def run(ledger: Ledger) -> Reconciled:
    return reconcile(ledger, batch="b", lease_seconds=LEASE_SECONDS, sleep=lambda seconds: None)


def deliver(ledger: Ledger, *, seconds_ago: float = 0.0) -> str:
    """Do what kombu does when it hands a message to a consumer; returns the job's id."""
    text = str(ledger.client.rpop(ledger.queue))
    message = json.loads(text)
    tag = message["properties"]["delivery_tag"]
    ledger.client.hset(UNACKED, tag, json.dumps([message, "", ledger.queue]))
    ledger.client.zadd(UNACKED_INDEX, {tag: time.time() - seconds_ago})
    return str(message["headers"]["id"])


def unacked(ledger: Ledger) -> int:
    return int(str(ledger.client.hlen(UNACKED)))


def started(ledger: Ledger, job: RenderJob, *, worker: str) -> None:
    enqueue(ledger, [job])
    assert deliver(ledger) == job.id
    ledger.start(job, worker=worker)


def test_a_batch_in_order_is_left_alone(ledger: Ledger) -> None:
    jobs = make_jobs(4)
    enqueue(ledger, jobs)
    ledger.beat("w", in_flight=[jobs[0].id], lease_seconds=10)
    deliver(ledger)
    ledger.start(jobs[0], worker="w")
    deliver(ledger)  # on its way to a worker
    assert run(ledger) == Reconciled()
    assert ledger.counts("b") == Counts(queued=3, running=1)


def test_a_dead_workers_job_goes_back_to_the_head_of_the_queue(ledger: Ledger) -> None:
    job = make_job()
    started(ledger, job, worker="dead")
    enqueue(ledger, [make_job(2)])
    assert run(ledger) == Reconciled(restored=1)
    assert unacked(ledger) == 0
    assert deliver(ledger) == job.id
    assert ledger.start(job, worker="w2").attempts == 2


def test_a_message_lost_between_queue_and_worker_is_sent_again(ledger: Ledger) -> None:
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    ledger.client.rpop(ledger.queue)
    assert run(ledger) == Reconciled(requeued=1)
    assert ledger.queue_length() == 3
    assert deliver(ledger) == jobs[0].id


def test_a_message_that_was_delivered_and_never_started_is_taken_back_after_the_lease(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1))
    deliver(ledger, seconds_ago=60)
    assert run(ledger) == Reconciled(restored=1)
    assert (ledger.queue_length(), unacked(ledger)) == (1, 0)


def test_a_running_job_without_worker_and_message_is_sent_again(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.client.delete(ledger.queue)
    ledger.start(job, worker="dead")
    assert run(ledger) == Reconciled(requeued=1)
    assert ledger.counts("b") == Counts(queued=1)


def test_a_job_that_arrives_between_the_two_looks_is_not_sent_again(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    text = str(ledger.client.rpop(ledger.queue))
    arrived = reconcile(
        ledger, batch="b", lease_seconds=LEASE_SECONDS, sleep=lambda s: ledger.client.lpush(ledger.queue, text)
    )
    assert arrived == Reconciled()
    assert ledger.queue_length() == 1


def test_finished_jobs_are_never_sent_again(ledger: Ledger) -> None:
    job = make_job()
    started(ledger, job, worker="dead")
    ledger.finish(make_result(job))
    assert run(ledger) == Reconciled()


def test_garbage_in_the_queue_does_not_hide_a_lost_job(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1))
    ledger.client.rpop(ledger.queue)
    ledger.client.lpush(ledger.queue, "not json", '{"headers": {}}')
    assert run(ledger) == Reconciled(requeued=1)


def test_a_lost_message_is_found_in_a_queue_of_any_length(ledger: Ledger) -> None:
    jobs = make_jobs(3 * SCAN_COUNT)
    enqueue(ledger, jobs)
    lost = jobs[SCAN_COUNT + 7]
    (text,) = (text for text in ledger.client.lrange(ledger.queue, 0, -1) if f'"{lost.id}"' in text)
    ledger.client.lrem(ledger.queue, 1, str(text))
    assert run(ledger) == Reconciled(requeued=1)
    assert deliver(ledger) == lost.id
    assert run(ledger) == Reconciled()


def test_a_prompt_that_looks_like_an_id_hides_nothing(ledger: Ledger) -> None:
    lost, liar = make_job(1), make_job(2)
    prompt = f'"correlation_id": "{lost.id}" ' + "x" * 700
    liar = liar.model_copy(update={"parameters": liar.parameters.model_copy(update={"prompt": prompt})})
    enqueue(ledger, [lost, liar])
    ledger.client.rpop(ledger.queue)
    assert run(ledger) == Reconciled(requeued=1)
    assert sorted(ledger.kombu.queued_ids()) == sorted([lost.id, liar.id])


def test_messages_as_others_write_them_are_found_too(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    message = json.loads(str(ledger.client.rpop(ledger.queue)))
    message = {"properties": message["properties"], **message}  # the id far from the end, and no spaces
    ledger.client.lpush(ledger.queue, json.dumps(message, separators=(",", ":")))
    assert run(ledger) == Reconciled()


def test_a_worker_that_began_during_the_look_keeps_its_job(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    started(ledger, make_job(), worker="new")
    ledger.beat("new", in_flight=[], lease_seconds=60)
    looks = iter([dict, ledger.workers])  # none there yet, and then one
    monkeypatch.setattr(ledger, "workers", lambda: next(looks)())
    assert run(ledger) == Reconciled()
    assert next(looks, None) is None


def test_what_a_dead_worker_holds_is_taken_back_without_reading_the_batch(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, alive, other = make_job(1), make_job(2), make_job(3, batch="c")
    for job, worker in ((dead, "dead"), (alive, "alive"), (other, "dead")):
        started(ledger, job, worker=worker)
    ledger.beat("alive", in_flight=[alive.id], lease_seconds=60)
    monkeypatch.setattr(ledger, "states", None)
    monkeypatch.setattr(ledger.kombu, "queued_ids", None)
    assert take_back(ledger, batch="b", lease_seconds=LEASE_SECONDS) == Reconciled(restored=1)
    assert ledger.counts("b") == Counts(queued=1, running=1)
    assert take_back(ledger, lease_seconds=LEASE_SECONDS) == Reconciled(restored=1)
    assert ledger.counts("c") == Counts(queued=1)
    assert unacked(ledger) == 1


@pytest.mark.parametrize("look", [reconcile, take_back])
def test_a_delivery_that_only_looks_old_is_left_to_the_live_worker_whose_next_heartbeat_names_it(
    ledger: Ledger, look: Callable[..., Reconciled]
) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.beat("skewed", in_flight=[], lease_seconds=60)
    deliver(ledger, seconds_ago=3600)
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        ledger.beat("skewed", in_flight=[job.id], lease_seconds=60)

    assert look(ledger, lease_seconds=10.0, sleep=sleep) == Reconciled()
    assert pauses == [6.0]  # the longest interval between heartbeats, and a second


def test_a_finished_jobs_message_that_was_left_behind_is_not_taken_back(ledger: Ledger) -> None:
    job, waiting = make_job(1), make_job(2)
    started(ledger, job, worker="dead")
    ledger.finish(make_result(job))
    enqueue(ledger, [waiting])
    assert take_back(ledger, lease_seconds=LEASE_SECONDS) == Reconciled()
    assert ledger.queue_length() == 1


def test_all_batches_are_looked_at_when_none_is_named(ledger: Ledger) -> None:
    for batch in ("b", "c"):
        enqueue(ledger, make_jobs(1, batch=batch))
    ledger.client.delete(ledger.queue)
    assert reconcile(ledger, lease_seconds=10, sleep=lambda seconds: None) == Reconciled(requeued=2)


def test_a_job_that_its_live_worker_has_forgotten_is_sent_again(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.client.delete(ledger.queue)
    ledger.start(job, worker="w")
    ledger.beat("w", in_flight=[], lease_seconds=60)
    assert run(ledger) == Reconciled()  # it may have been started after the beat was made up
    line = ledger.state("b", job.id)
    assert line is not None
    assert line.since is not None
    ledger.client.hset("render:batch:b:states", job.id, f"running 1 w {line.since - 60:.3f}")
    assert run(ledger) == Reconciled(requeued=1)


def test_right_after_a_restart_of_redis_nobody_counts_as_dead(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    started(ledger, make_job(), worker="w")
    monkeypatch.setattr(ledger, "seconds_up", lambda: 1.0)
    assert run(ledger) == Reconciled()
    monkeypatch.setattr(ledger, "seconds_up", lambda: 2.0)
    assert run(ledger) == Reconciled(restored=1)


def test_garbage_among_the_delivered_messages_and_the_workers_is_passed_over(ledger: Ledger, redis_url: str) -> None:
    job = make_job()
    started(ledger, job, worker="dead")
    client = ledger.client
    client.hset(UNACKED, mapping={b"\xff\xfe": b"\xff", "tag": "not json", "other": f'"correlation_id": "{"0" * 20}"'})
    client.hset(UNACKED, b"\xfd", f'"correlation_id": "{job.id}"')
    times: dict[Any, float] = {b"\xff\xfe": 1.0, "nobody": 2.0}
    client.zadd(UNACKED_INDEX, times)
    client.lpush(ledger.queue, b"\xff\x00\xfe")
    client.set("render:worker:stranger", b"\xff not json")
    tolerant = Ledger.connect(load_settings(redis_url=redis_url))
    assert run(tolerant) == Reconciled(restored=1)
    assert tolerant.workers() == {}
    tolerant.client.close()
