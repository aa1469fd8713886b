"""Jobs that wait for their time, on a real Redis: an entry stands for the message, and there is never a second one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.job import RenderJob
from jobs.ledger.keys import batch_key, batch_keys, delayed_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.reconcile import Reconciled, reconcile, take_back
from jobs.ledger.records import Counts, JobState
from jobs.settings import load_settings
from tests.jobs.rows import enqueue, make_jobs, make_result

DELAYED = delayed_key("render")


def line_of(ledger: Ledger, job: RenderJob) -> JobState:
    line = ledger.state(job.batch, job.id)
    assert line is not None
    return line


def run(ledger: Ledger) -> Reconciled:
    return reconcile(ledger, lease_seconds=60, sleep=lambda seconds: None)


@pytest.mark.parametrize(("refund", "attempts"), [(True, 0), (False, 1)])
def test_a_deferred_job_comes_back_when_its_time_has_come(
    ledger: Ledger, job: RenderJob, refund: bool, attempts: int
) -> None:
    ledger.start(job, worker="w")
    assert ledger.defer(job, worker="w", seconds=60, refund=refund)
    assert (line_of(ledger, job).text, line_of(ledger, job).delayed) == (f"queued {attempts} delayed", True)
    assert (ledger.counts("b"), ledger.feed_delayed(), ledger.queue_length()) == (Counts(queued=1), 0, 0)
    ledger.client.zadd(DELAYED, {f"b {job.id}": ledger.server_time() - 1})
    assert (ledger.feed_delayed(), ledger.feed_delayed(), ledger.queue_length(), ledger.delayed()) == (1, 0, 1, 0)
    assert line_of(ledger, job).text == f"queued {attempts}"
    assert json.loads(str(ledger.client.rpop(ledger.queue)))["headers"]["id"] == job.id


def test_a_job_that_was_not_started_can_be_deferred_too(ledger: Ledger, job: RenderJob) -> None:
    assert ledger.defer(job, worker="w", seconds=0, refund=True)
    assert line_of(ledger, job).attempts == 0
    assert ledger.defer(job, worker="other", seconds=600, refund=True)  # a second message: the first entry stays
    assert ledger.feed_delayed() == 1


def test_a_ledger_that_was_lost_takes_a_deferred_job_up_again(ledger: Ledger, job: RenderJob) -> None:
    ledger.client.flushall()
    assert ledger.defer(job, worker="w", seconds=0, refund=True)
    assert (ledger.counts("b"), ledger.feed_delayed(), ledger.job("b", job.id)) == (Counts(queued=1), 1, job)


def test_what_is_not_the_workers_cannot_be_deferred(ledger: Ledger, job: RenderJob) -> None:
    ledger.start(job, worker="w1")
    assert not ledger.defer(job, worker="w2", seconds=0, refund=True)
    ledger.finish(make_result(job))
    assert not ledger.defer(job, worker="w1", seconds=0, refund=True)
    assert (ledger.counts("b"), ledger.delayed()) == (Counts(done=1), 0)


def test_a_delayed_job_counts_as_queued_and_is_left_alone(ledger: Ledger, job: RenderJob) -> None:
    ledger.start(job, worker="w")
    ledger.defer(job, worker="w", seconds=60, refund=True)
    assert run(ledger) == Reconciled()
    assert (ledger.queue_length(), ledger.delayed()) == (0, 1)


@pytest.mark.parametrize("repair", [run, lambda ledger: take_back(ledger, lease_seconds=60)])
def test_every_pass_of_the_reconciler_queues_what_is_due(ledger: Ledger, job: RenderJob, repair: object) -> None:
    ledger.defer(job, worker="w", seconds=0, refund=True)
    assert callable(repair)
    assert repair(ledger) == Reconciled()
    assert (ledger.queue_length(), ledger.delayed()) == (1, 0)


def test_a_delayed_job_whose_entry_was_lost_is_queued_again(ledger: Ledger, job: RenderJob) -> None:
    ledger.defer(job, worker="w", seconds=60, refund=True)
    ledger.client.delete(DELAYED)
    assert run(ledger) == Reconciled(requeued=1)
    assert (ledger.queue_length(), line_of(ledger, job).text) == (1, "queued 0")


def test_an_entry_of_a_job_that_has_moved_on_means_nothing(ledger: Ledger) -> None:
    jobs = make_jobs(4)
    enqueue(ledger, jobs)
    ledger.client.delete(ledger.queue)
    ledger.start(jobs[0], worker="w")
    ledger.finish(make_result(jobs[1]))
    ledger.client.zadd(DELAYED, {f"b {job.id}": 1.0 for job in jobs[:3]} | {f"unknown {jobs[3].id}": 1.0})
    assert ledger.feed_delayed() == 0  # running, done, queued with a message, of a batch that nobody knows
    assert (ledger.queue_length(), ledger.delayed()) == (0, 0)


def test_a_reconciler_of_the_version_before_makes_no_second_message(ledger: Ledger, job: RenderJob) -> None:
    """It takes a delayed job for a lost one and queues it; then the entry stands for nothing any more."""
    ledger.defer(job, worker="w", seconds=0, refund=True)
    requeue = ledger.client.register_script(OLD_REQUEUE.read_text())
    keys = [*batch_keys("b", "states", "counts"), ledger.queue, batch_key("b", "results")]
    assert requeue(keys=keys, args=[job.id, "queued 0 delayed", "queued 0", "the message", "head"]) == 1
    assert (ledger.feed_delayed(), ledger.queue_length(), ledger.delayed()) == (0, 1, 0)


def test_garbage_among_the_entries_is_removed_and_hides_no_job(ledger: Ledger, job: RenderJob) -> None:
    ledger.defer(job, worker="w", seconds=0, refund=True)
    garbage: dict[Any, float] = {"": 0, "no job": 0, "b " + "g" * 20: 0, "../x " + "0" * 20: 0, b"\xff\xfe": 0}
    ledger.client.zadd(DELAYED, garbage)
    assert [ledger.feed_delayed(limit=5), ledger.feed_delayed(limit=5)] == [0, 1]
    assert (ledger.queue_length(), ledger.delayed()) == (1, 0)


def test_garbage_that_is_not_due_is_no_job(redis_url: str) -> None:
    tolerant = Ledger.connect(load_settings(redis_url=redis_url))
    later: dict[Any, float] = {b"\xff\xfe": 9e9, "no job": 9e9, "b " + "0" * 20: 9e9}
    tolerant.client.zadd(DELAYED, later)
    assert list(tolerant.delayed_ids()) == ["0" * 20]
    tolerant.close()


def test_jobs_are_fed_in_the_order_of_their_times_and_no_more_than_asked(ledger: Ledger) -> None:
    jobs = make_jobs(5)
    enqueue(ledger, jobs)
    ledger.client.delete(ledger.queue)
    for job in jobs:
        ledger.defer(job, worker="w", seconds=0, refund=True)
        ledger.client.zadd(DELAYED, {f"b {job.id}": 100.0 - job.row})
    assert (ledger.feed_delayed(limit=2), ledger.delayed()) == (2, 3)
    assert list(ledger.kombu.queued_ids()) == [jobs[3].id, jobs[4].id]  # tail first


OLD_REQUEUE = Path(__file__).parents[1] / "data" / "requeue_before_delays.lua"
