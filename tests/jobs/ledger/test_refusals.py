"""Jobs that workers refuse for a fault of their own, on a real Redis: whoever lives decides."""

from __future__ import annotations

import json

import pytest

from jobs.job import RenderJob
from jobs.ledger.keys import batch_key, delayed_key, unheld_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts, HeldSet, Refusal, Refused, WorkerFacts
from jobs.ledger.refusals import LONGEST_DELAY_SECONDS, LONGEST_TEXT
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result

REFUSALS, UNHELD = batch_key("b", "refusals"), unheld_key("render")


def live(ledger: Ledger, *workers: str, settings: str | None = None) -> None:
    for worker in workers:
        ledger.beat(worker, in_flight=[], lease_seconds=60, facts=WorkerFacts(settings=settings))


def live_as_before(ledger: Ledger, worker: str) -> None:
    """The heartbeat of a worker of the version before this one, which says nothing of itself."""
    ledger.client.set(f"render:worker:{worker}", json.dumps({"worker": worker, "held": [], "at": 1.0}), px=60_000)


def refuse(
    ledger: Ledger,
    job: RenderJob,
    worker: str,
    *,
    by: str | None = None,
    kind: str = "source_forbidden",
    refund: bool = True,
) -> Refused:
    """Start a job as a worker, and refuse it: by its name, or by the digest of its settings."""
    assert ledger.start(job, worker=worker).decision == "run"
    refusal = Refusal(by=by or worker, worker=worker, kind=kind, text=f"{worker} may not", at=1.0)
    return ledger.refuse(job, refusal, facts=WorkerFacts(settings=by), refund=refund)


def test_a_refused_job_waits_without_a_message_and_costs_no_attempt(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "good")
    refused = refuse(ledger, job, "wrong")
    assert (refused.final, refused.delay_seconds) == (False, 2.0)
    assert [(said.by, said.kind, said.text, said.times) for said in refused.refusals] == [
        ("wrong", "source_forbidden", "wrong may not", 1)
    ]
    assert (ledger.counts("b"), ledger.queue_length(), ledger.delayed()) == (Counts(queued=1), 0, 1)
    assert ledger.refusals("b") == {job.id: refused.refusals}
    assert ledger.start(job, worker="good").attempts == 1
    assert ledger.delayed() == 0


def test_the_job_of_the_only_live_worker_fails_at_once(ledger: Ledger, job: RenderJob) -> None:
    refused = refuse(ledger, job, "wrong")  # its own heartbeat is missing, too
    assert (refused.final, len(refused.refusals)) == (True, 1)
    assert ledger.counts("b") == Counts(running=1)
    assert ledger.finish(make_result(job, "failed"))
    assert ledger.refusals("b") == {}


def test_a_job_fails_once_every_live_worker_has_refused_it(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "w1", "w2", "w3")
    assert not refuse(ledger, job, "w1").final
    assert not refuse(ledger, job, "w2").final
    refused = refuse(ledger, job, "w3")
    assert refused.final
    assert [said.worker for said in refused.refusals] == ["w1", "w2", "w3"]


def test_workers_with_the_settings_that_refused_need_not_refuse_again(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "w1", "w2", settings="same")
    live(ledger, "w3", settings="other")
    assert not refuse(ledger, job, "w1", by="same").final
    assert refuse(ledger, job, "w3", by="other").final


def test_a_machines_refusal_is_its_own_whatever_its_settings(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "w1", "w2", settings="same")
    assert not refuse(ledger, job, "w1", kind="output_full").final
    assert refuse(ledger, job, "w2", kind="output_full").final


def test_a_worker_of_an_earlier_version_has_not_refused(ledger: Ledger, job: RenderJob) -> None:
    live_as_before(ledger, "old")
    assert not refuse(ledger, job, "wrong").final
    ledger.retire("old")
    assert refuse(ledger, job, "wrong").final


def test_workers_that_died_decide_nothing(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "good", "dead")
    assert not refuse(ledger, job, "dead").final
    ledger.retire("dead")
    assert not refuse(ledger, job, "wrong").final
    live(ledger, "late")
    assert not refuse(ledger, job, "good").final
    ledger.retire("late")  # the rest has refused; one of them notices
    refused = refuse(ledger, job, "good")
    assert (refused.final, {said.worker for said in refused.refusals}) == (True, {"dead", "wrong", "good"})


def test_workers_of_other_queues_are_not_waited_for(ledger: Ledger, job: RenderJob) -> None:
    Ledger(ledger.client, queue="nightly").beat("elsewhere", in_flight=[], lease_seconds=60)
    assert refuse(ledger, job, "wrong").final


def restarted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, seconds_ago: float) -> None:
    """Redis started so long ago, and the batch is older."""
    info = ledger.batch("b")
    assert info is not None
    older = info.model_copy(update={"created_at": info.created_at - 3600})
    ledger.client.hset("render:batches", "b", older.model_dump_json())
    monkeypatch.setattr(ledger, "seconds_up", lambda: seconds_ago)


def test_after_a_restart_of_redis_nobody_counts_as_dead_for_a_lease(
    ledger: Ledger, job: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted(ledger, monkeypatch, seconds_ago=9.0)
    assert not refuse(ledger, job, "wrong").final
    restarted(ledger, monkeypatch, seconds_ago=10.0)
    assert refuse(ledger, job, "wrong").final


def test_on_a_redis_that_was_set_up_a_moment_ago_the_only_workers_job_fails_at_once(
    ledger: Ledger, job: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "seconds_up", lambda: 0.0)
    assert refuse(ledger, job, "wrong").final


def test_a_ledger_that_was_lost_in_a_restart_fails_no_job_before_the_other_workers_are_heard(
    ledger: Ledger, job: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "seconds_up", lambda: 1.0)
    ledger.client.flushall()
    refusal = Refusal(by="wrong", worker="wrong", kind="output_full", text="full", at=1.0)
    assert not ledger.refuse(job, refusal, facts=WorkerFacts()).final


def test_whoever_proved_a_worker_wrong_is_waited_for_unless_it_has_refused_the_job_too(ledger: Ledger) -> None:
    live(ledger, "good")
    first, second, third = jobs = make_jobs(3)
    enqueue(ledger, jobs)
    refuse(ledger, first, "wrong")
    done_by(ledger, first, "good")
    ledger.retire("good")
    assert not refuse(ledger, second, "wrong").final
    assert refuse(ledger, second, "wrong", kind="shape_not_built").final  # of which the proof says nothing
    live(ledger, "wrong")
    assert not refuse(ledger, third, "good").final
    assert refuse(ledger, third, "wrong").final


@pytest.mark.parametrize("other", ["paused", "of before", "good"])
def test_who_may_never_take_the_job_is_not_waited_for_for_ever(ledger: Ledger, job: RenderJob, other: str) -> None:
    if other == "of before":
        live_as_before(ledger, other)
    else:
        paused = "the disk is full" if other == "paused" else None
        ledger.beat(other, in_flight=[], lease_seconds=60, facts=WorkerFacts(settings="other", paused=paused))
    assert not any(refuse(ledger, job, "wrong").final for _ in range(20))
    assert refuse(ledger, job, "wrong").final == (other != "good")


def test_a_worker_that_cannot_read_the_message_is_not_waited_for_for_ever(ledger: Ledger) -> None:
    """While a farm is updated: version 3 came with workers that say which sets they hold."""
    old, new = jobs = [make_job(1), make_job(2, model="ink")]
    enqueue(ledger, jobs)
    live(ledger, "of version 2", settings="other")
    held = (HeldSet(name="ink", engine_set="ab" * 32),)
    ledger.beat("good", in_flight=[], lease_seconds=60, facts=WorkerFacts(settings="third", sets=held))
    assert not any(refuse(ledger, one, "wrong").final for one in (old, new) for _ in range(21))
    ledger.retire("good")
    assert [refuse(ledger, one, "wrong").final for one in (old, new)] == [False, True]


def test_the_delay_doubles_with_each_refusal_of_the_same_worker_and_has_a_limit(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "good")
    delays = [refuse(ledger, job, "wrong").delay_seconds for _ in range(7)]
    assert delays == [2.0, 4.0, 8.0, 16.0, LONGEST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, LONGEST_DELAY_SECONDS]
    (said,) = ledger.refusals("b")[job.id]
    assert said.times == 7
    assert refuse(ledger, job, "other").delay_seconds == 2.0


def test_a_job_that_wants_another_engine_set_comes_back_less_often(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "holder")
    delays = [refuse(ledger, job, "wrong", kind="engine_set_not_held").delay_seconds for _ in range(3)]
    assert delays == [10.0, 20.0, LONGEST_DELAY_SECONDS]


def test_a_worker_with_free_places_gets_jobs_of_its_set_before_their_time(ledger: Ledger) -> None:
    """Otherwise a worker beside it, which refuses them at once, keeps them from it for most of the time."""
    jobs = make_jobs(5)
    enqueue(ledger, jobs)
    ledger.client.delete("render")  # the messages that the other worker took
    live(ledger, "holder")
    for job in jobs:
        refuse(ledger, job, "wrong", kind="engine_set_not_held")
    assert ledger.feed_delayed() == 0
    assert ledger.feed_delayed(places=3, holds=lambda _: False) == 0
    assert ledger.feed_delayed(places=0, holds=lambda _: True) == 0
    assert ledger.feed_delayed(places=3, holds=lambda job: job in jobs[1:]) == 3
    assert (ledger.queue_length(), ledger.delayed(), ledger.client.scard(UNHELD)) == (3, 2, 2)
    assert ledger.feed_delayed(places=3, holds=lambda job: job in jobs[1:]) == 1
    assert ledger.counts("b") == Counts(queued=5)


def test_a_worker_does_not_ask_for_jobs_of_its_set_that_it_has_refused_itself(ledger: Ledger) -> None:
    """Otherwise a worker beside it refuses them 20 times within a minute, and they wait no longer for a paused one."""
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    ledger.client.delete("render")
    live(ledger, "patient")
    for job, by in zip(jobs, ("holder", "its settings", "another"), strict=True):
        refuse(ledger, job, "holder", by=by, kind="shape_not_built")
        refuse(ledger, job, "wrong", kind="engine_set_not_held")
    assert ledger.feed_delayed(places=5, holds=lambda _: True, names=["its settings", "holder"]) == 1
    assert sorted(ledger.delayed_ids()) == sorted(job.id for job in jobs[:2])


def test_what_was_put_off_since_for_another_reason_comes_in_its_time(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "holder")
    refuse(ledger, job, "wrong", kind="engine_set_not_held")
    assert ledger.feed_delayed(places=1, holds=lambda _: True) == 1
    ledger.start(job, worker="holder")
    ledger.defer(job, worker="holder", seconds=900, refund=True)
    assert ledger.feed_delayed(places=1, holds=lambda _: True) == 0
    assert ledger.client.exists(UNHELD) == 0


def test_a_damaged_record_of_wanted_sets_keeps_no_job_from_coming_in_its_time(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "holder")
    ledger.client.set(UNHELD, "garbage")
    assert not refuse(ledger, job, "wrong", kind="engine_set_not_held").final
    assert ledger.feed_delayed(places=1, holds=lambda _: True) == 0
    ledger.client.zadd(delayed_key("render"), {f"b {job.id}": 0.0}, xx=True)
    assert ledger.feed_delayed(places=1, holds=lambda _: True) == 1


def test_other_refusals_are_not_brought_forward_nor_what_has_ended(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "holder")
    refuse(ledger, job, "wrong")
    assert ledger.feed_delayed(places=1, holds=lambda _: True) == 0
    ledger.client.sadd(UNHELD, "b " + "0" * 20, "garbage")
    assert ledger.feed_delayed(places=1, holds=lambda _: True) == 0
    assert ledger.client.exists(UNHELD) == 0


def test_an_attempt_that_counts_is_the_last_one_at_some_time(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "good")
    ends = [refuse(ledger, job, worker, kind="render_failed", refund=False).final for worker in ("a", "b", "c")]
    assert ends == [False, False, True]  # max_attempts is 3


def test_only_the_worker_that_runs_a_job_can_refuse_it(ledger: Ledger, job: RenderJob) -> None:
    ledger.start(job, worker="w1")
    refusal = Refusal(by="w2", worker="w2", kind="output_full", text="full", at=1.0)
    assert ledger.refuse(job, refusal, facts=WorkerFacts()) == Refused(final=False)
    assert ledger.counts("b") == Counts(running=1)
    assert ledger.refusals("b") == {}
    ledger.finish(make_result(job))
    refusal = refusal.model_copy(update={"by": "w1", "worker": "w1"})
    assert ledger.refuse(job, refusal, facts=WorkerFacts()) == Refused(final=False)  # its answer was lost: asked twice
    assert ledger.counts("b") == Counts(done=1)


def test_a_ledger_that_was_lost_takes_a_refused_job_up_again(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "good")
    ledger.start(job, worker="wrong")
    ledger.client.flushall()
    live(ledger, "good")
    refusal = Refusal(by="wrong", worker="wrong", kind="output_full", text="full", at=1.0)
    assert not ledger.refuse(job, refusal, facts=WorkerFacts()).final
    assert (ledger.counts("b"), ledger.delayed(), ledger.job("b", job.id)) == (Counts(queued=1), 1, job)
    line = ledger.state("b", job.id)
    assert line is not None
    assert line.attempts == 1  # so that its next start looks for a result in storage


def test_a_retry_starts_afresh(ledger: Ledger, job: RenderJob) -> None:
    refused = refuse(ledger, job, "wrong")
    assert refused.final
    ledger.finish(make_result(job, "failed"))
    ledger.client.hset(
        REFUSALS, job.id, json.dumps([said.model_dump() for said in refused.refusals])
    )  # of an old worker
    assert ledger.retry("b") == 1
    assert ledger.refusals("b") == {}
    live(ledger, "good")
    assert refuse(ledger, job, "wrong").delay_seconds == 2.0


def test_what_was_cancelled_or_corrected_leaves_no_refusal_and_no_entry(ledger: Ledger) -> None:
    live(ledger, "good")
    jobs = make_jobs(2)
    enqueue(ledger, jobs)
    for job in jobs:
        refuse(ledger, job, "wrong")
    ledger.cancel("b", jobs[0].id)
    ledger.enqueue([make_job(2, prompt="corrected")])
    assert (ledger.client.hlen(REFUSALS), ledger.delayed()) == (0, 0)
    assert ledger.counts("b") == Counts(queued=1, cancelled=1, superseded=1)


@pytest.mark.parametrize("end", ["start", "cancel"])
def test_a_job_that_was_refused_after_its_row_was_corrected_leaves_no_refusal(
    ledger: Ledger, job: RenderJob, end: str
) -> None:
    live(ledger, "good")
    ledger.start(job, worker="wrong")
    ledger.enqueue([make_job(prompt="corrected")])
    refusal = Refusal(by="wrong", worker="wrong", kind="output_full", text="full", at=1.0)
    assert not ledger.refuse(job, refusal, facts=WorkerFacts()).final
    if end == "start":
        assert ledger.start(job, worker="good").decision == "cancelled"
    else:
        ledger.cancel("b", job.id)
    assert (ledger.refused_jobs("b"), ledger.delayed()) == (0, 0)
    assert ledger.counts("b") == Counts(queued=1, superseded=1)


def test_a_job_that_was_cancelled_while_it_ran_does_not_wait(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "good")
    ledger.start(job, worker="wrong")
    ledger.cancel("b")
    refusal = Refusal(by="wrong", worker="wrong", kind="output_full", text="full", at=1.0)
    assert ledger.refuse(job, refusal, facts=WorkerFacts()).delay_seconds == 0.0
    assert ledger.feed_delayed() == 1
    assert ledger.start(job, worker="good").decision == "cancel"


def test_texts_have_a_limit_and_need_not_be_unicode(ledger: Ledger, job: RenderJob) -> None:
    ledger.start(job, worker="w")
    refusal = Refusal.model_construct(by="w", worker="w", kind="k", text="caf\udce9 猫" + "x" * 5000, at=1.0, times=1)
    (said,) = ledger.refuse(job, refusal, facts=WorkerFacts()).refusals
    assert said.text.startswith("caf? 猫xx")
    assert len(said.text) == LONGEST_TEXT


def test_what_workers_of_long_ago_said_is_dropped_and_what_live_ones_said_is_not(
    ledger: Ledger, job: RenderJob
) -> None:
    live(ledger, "first", "good")
    refuse(ledger, job, "first")
    for number in range(30):
        refused = refuse(ledger, job, f"gone-{number}")
    said = [refusal.by for refusal in refused.refusals]
    assert (said[0], said[-1], len(said)) == ("first", "gone-29", 22)


@pytest.mark.parametrize("garbage", ["", "no json", "5", '"text"', '[1, null, {"by": 5}]', '{"by": "x"}'])
def test_garbage_among_the_refusals_and_the_workers_is_passed_over(
    ledger: Ledger, job: RenderJob, garbage: str
) -> None:
    ledger.client.hset(REFUSALS, job.id, garbage)
    assert ledger.refusals("b") == {}
    ledger.client.set("render:worker:stranger", garbage)
    ledger.client.set("render:worker:odd", '{"facts": {"settings": null, "queue": 5}}')
    live(ledger, "good")
    assert not refuse(ledger, job, "wrong").final
    ledger.client.hset(REFUSALS, job.id, garbage)
    ledger.start(job, worker="good")
    assert ledger.finish(make_result(job).model_copy(update={"worker": "good"}))


# -- refutations ------------------------------------------------------------------------------------------------------


def done_by(ledger: Ledger, job: RenderJob, worker: str) -> None:
    ledger.start(job, worker=worker)
    ledger.finish(make_result(job).model_copy(update={"worker": worker}))


def test_a_job_that_another_worker_finished_refutes_who_refused_it(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "good", settings="right")
    before = ledger.server_time()
    refuse(ledger, job, "wrong", by="empty list")
    assert ledger.refuted("wrong", "empty list", since=before) is None
    done_by(ledger, job, "good")
    refuted = ledger.refuted("wrong", "empty list", since=before)
    assert refuted is not None
    assert (refuted.job, refuted.row, refuted.batch, refuted.by_worker) == (job.id, 1, "b", "good")
    assert (refuted.kind, refuted.text) == ("source_forbidden", "wrong may not")
    assert before - 0.001 <= (refuted.refused_at or 0.0) <= refuted.at  # by Redis' clock, whatever the worker's says
    assert ledger.refuted("wrong", "empty list", since=ledger.server_time() + 1) is None
    assert ledger.refuted("good", "right", since=0) is None
    assert ledger.refuted(since=0) is None
    assert 0 < int(str(ledger.client.ttl("render:refuted:empty list"))) <= 3600


def test_what_a_worker_could_not_do_for_want_of_a_set_or_memory_is_refuted_by_nobody(ledger: Ledger) -> None:
    live(ledger, "good")
    kinds = ("engine_set_not_held", "shape_not_built", "steps_not_trained", "out_of_memory", "render_failed")
    jobs = make_jobs(len(kinds))
    enqueue(ledger, jobs)
    for job, kind in zip(jobs, kinds, strict=True):
        refuse(ledger, job, "wrong", kind=kind)
        done_by(ledger, job, "good")
    assert ledger.refuted("wrong", since=0) is None


def test_a_worker_does_not_refute_itself_or_its_own_settings(ledger: Ledger) -> None:
    live(ledger, "w1", "w2", settings="same")
    live(ledger, "w3", settings="other")
    jobs = make_jobs(2)
    enqueue(ledger, jobs)
    refuse(ledger, jobs[0], "w1", by="same")
    done_by(ledger, jobs[0], "w2")
    refuse(ledger, jobs[1], "w1")
    done_by(ledger, jobs[1], "w1")
    assert ledger.refuted("w1", "same", since=0) is None


def test_a_failed_job_refutes_nothing(ledger: Ledger, job: RenderJob) -> None:
    live(ledger, "good")
    refuse(ledger, job, "wrong")
    ledger.start(job, worker="good")
    ledger.finish(make_result(job, "failed").model_copy(update={"worker": "good"}))
    assert ledger.refuted("wrong", since=0) is None
    assert ledger.refusals("b") == {}


@pytest.mark.parametrize("garbage", ["", "no json", "[]", '{"batch": 5}'])
def test_a_refutation_that_is_none_is_passed_over(ledger: Ledger, garbage: str) -> None:
    ledger.client.set("render:refuted:w", garbage)
    assert ledger.refuted("w", since=0) is None
