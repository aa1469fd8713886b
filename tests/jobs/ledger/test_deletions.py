"""Whole batches leave the ledger, and neither late workers nor late producers bring half of one back."""

from __future__ import annotations

import json
import threading
from typing import Any, get_args

import pytest

from jobs.errors import BatchDeleted
from jobs.job import RenderJob
from jobs.ledger import deletions
from jobs.ledger.keys import BatchPart, all_batch_keys, batch_key
from jobs.ledger.kombu_view import UNACKED, UNACKED_INDEX
from jobs.ledger.ledger import Ledger
from jobs.ledger.message import celery_message
from jobs.ledger.messages_of_batches import take_messages
from jobs.ledger.reconcile import Reconciled, reconcile
from jobs.ledger.records import Counts, PromptOptions, Refusal, WorkerFacts
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result

JOBS = 20_000
MARGIN_BYTES = 500_000  # of 40 MB: what Redis keeps for itself, and the scripts


def keys_of(ledger: Ledger, batch: str) -> list[str]:
    return list(ledger.client.scan_iter(f"*{batch}*", count=1000))


def used_memory(ledger: Ledger) -> int:
    return int(ledger.client.info("memory")["used_memory"])


def test_the_memory_of_a_large_batch_is_back(ledger: Ledger) -> None:
    other = make_jobs(3, batch="other")
    enqueue(ledger, other)
    enqueue(ledger, make_jobs(1, batch="first"))  # Redis has the scripts, and keys that all batches share, from here on
    ledger.cancel("first")
    take_messages(ledger, ["first"])
    ledger.forget("first")
    client = ledger.client
    before, keys = used_memory(ledger), client.dbsize()
    jobs = make_jobs(JOBS, batch="large")
    ledger.open_batch("large", output="file:///out", source="large.csv")
    for begin in range(0, JOBS, 250):
        ledger.enqueue(jobs[begin : begin + 250])
    for job in jobs[::100]:
        ledger.start(job, worker="w")
        ledger.finish(make_result(job))
    ledger.cancel("large")
    assert used_memory(ledger) - before > 20_000_000
    assert take_messages(ledger, ["large"]) == JOBS
    assert ledger.forget("large") == "forgotten"
    assert (ledger.queue_length(), keys_of(ledger, "large"), client.dbsize() - keys) == (3, [], 0)
    eventually(lambda: used_memory(ledger) - before < MARGIN_BYTES, what="the memory is back")
    assert ledger.counts("other") == Counts(queued=3)


def test_every_key_that_a_batch_can_have_goes(ledger: Ledger) -> None:
    done, failed, refused, running, corrected = jobs = make_jobs(5)
    enqueue(ledger, jobs)
    ledger.keep_prompt_options("b", PromptOptions(source="jobs.csv", prompts={"n_prompt": ""}))
    ledger.begin_rebuilding("b")
    ledger.start(done, worker="w")
    ledger.finish(make_result(done).model_copy(update={"engine_set": "0" * 64}))
    ledger.finish(make_result(corrected))
    ledger.enqueue([make_job(5, prompt="another")])
    ledger.finish(make_result(failed, "failed"))
    for job in (refused, running):
        ledger.start(job, worker="w")
    refusal = Refusal(by="w", worker="w", kind="source_forbidden", text="no", at=0)
    ledger.beat("other", in_flight=[], lease_seconds=30)
    ledger.refuse(refused, refusal, facts=WorkerFacts())
    ledger.cancel("b", running.id)
    ledger.client.sadd(batch_key("b", "replaced"), running.id)
    assert {key.rpartition(":")[2] for key in keys_of(ledger, "batch:b:")} == set(get_args(BatchPart))
    assert ledger.forget("b") == "active"
    assert len(keys_of(ledger, "batch:b:")) == len(get_args(BatchPart))
    assert ledger.forget("b", unfinished=True) == "forgotten"
    assert (keys_of(ledger, "batch:b:"), ledger.batch("b"), ledger.batches()) == ([], None, [])
    assert ledger.deleted_at("b") == pytest.approx(ledger.server_time(), abs=60)


@pytest.fixture
def late(ledger: Ledger) -> RenderJob:
    """A job that a worker has in flight, of a batch that was deleted meanwhile."""
    job = make_job()
    enqueue(ledger, [job])
    ledger.client.delete(ledger.queue)
    ledger.start(job, worker="w")
    assert ledger.forget("b", unfinished=True) == "forgotten"
    return job


def nothing_is_left(ledger: Ledger) -> bool:
    return not keys_of(ledger, "batch:b:") and ledger.queue_length() == ledger.delayed() == 0


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_worker_that_ends_a_job_of_a_deleted_batch_leaves_no_trace(
    ledger: Ledger, late: RenderJob, state: str
) -> None:
    assert not ledger.finish(make_result(late, state))
    assert nothing_is_left(ledger)


def test_a_worker_that_gives_a_job_of_a_deleted_batch_back_leaves_no_trace(ledger: Ledger, late: RenderJob) -> None:
    assert not ledger.defer(late, worker="w", seconds=0, refund=True)
    assert not ledger.nack(late, worker="w")
    refusal = Refusal(by="w", worker="w", kind="source_forbidden", text="no", at=0)
    refused = ledger.refuse(late, refusal, facts=WorkerFacts())
    assert (refused.final, refused.refusals) == (False, ())
    assert ledger.feed_delayed() == 0
    assert nothing_is_left(ledger)


def test_a_message_of_a_deleted_batch_is_not_rendered(ledger: Ledger, late: RenderJob) -> None:
    for _ in range(2):
        start = ledger.start(late, worker="another", unless_last=True)
        assert (start.decision, start.attempts, start.adopted) == ("cancelled", 0, False)
    assert nothing_is_left(ledger)


def test_a_ledger_that_was_lost_takes_jobs_up_as_before(ledger: Ledger, late: RenderJob) -> None:
    """A deletion is forgotten with the rest of Redis: then nobody knows whether the batch was deleted."""
    ledger.client.flushall()
    start = ledger.start(late, worker="w")
    assert (start.decision, start.adopted) == ("run", True)


def test_a_deletion_is_remembered_for_some_days(
    ledger: Ledger, late: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions, "DELETED_SECONDS", 0)
    enqueue(ledger, make_jobs(1, batch="other"))
    ledger.forget("other", unfinished=True)
    assert (ledger.deleted_at("b"), ledger.deleted_at("other") is None) == (None, False)
    assert ledger.start(late, worker="w").decision == "run"


def test_the_same_batch_is_submitted_again_and_is_new(ledger: Ledger, late: RenderJob) -> None:
    assert enqueue(ledger, [late]).added == 1
    assert ledger.deleted_at("b") is None
    assert ledger.start(late, worker="another").decision == "run"
    assert ledger.finish(make_result(late))  # by the worker that had the old job: it is the same one
    assert ledger.counts("b") == Counts(done=1)


def test_a_job_that_the_new_batch_does_not_know_is_taken_up_where_its_ledger_lost_it(
    ledger: Ledger, late: RenderJob
) -> None:
    ledger.open_batch("b", output="file:///out", source="jobs.csv")
    assert ledger.start(late, worker="w").adopted


def test_jobs_that_come_after_a_deletion_are_refused(ledger: Ledger) -> None:
    """A submission goes on in chunks; without this, its last ones would be half a batch."""
    first, second = make_jobs(2)
    enqueue(ledger, [first])
    ledger.forget("b", unfinished=True)
    with pytest.raises(BatchDeleted, match="batch 'b' was deleted while jobs were added to it; submit its CSV again"):
        ledger.enqueue([second])
    assert keys_of(ledger, "batch:b:") == []


def test_nothing_is_added_to_a_batch_while_it_is_deleted(ledger: Ledger) -> None:
    first, second = make_jobs(2)
    enqueue(ledger, [first])
    ledger.cancel("b")
    token, _ = ledger.begin_deletion("b")
    for call in (lambda: ledger.enqueue([second]), lambda: enqueue(ledger, [second]), lambda: ledger.retry("b")):
        with pytest.raises(BatchDeleted, match="batch 'b' is being deleted; wait until that has ended"):
            call()
    assert ledger.counts("b") == Counts(cancelled=1)
    assert (ledger.forget("b"), ledger.forget("b", token=token)) == ("taken", "forgotten")
    assert enqueue(ledger, [first, second]).added == 2


def test_a_retry_that_looked_before_the_deletion_was_begun_queues_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(ledger, make_jobs(2))
    ledger.cancel("b")
    ledger.client.delete(ledger.queue)
    states = ledger.states

    def begin_meanwhile(*arguments: Any, **options: Any) -> Any:
        lines = list(states(*arguments, **options))
        ledger.begin_deletion("b")
        return iter(lines)

    monkeypatch.setattr(ledger, "states", begin_meanwhile)
    with pytest.raises(BatchDeleted, match="batch 'b' is being deleted; wait until that has ended"):
        ledger.retry("b")
    assert (ledger.counts("b"), ledger.queue_length()) == (Counts(cancelled=2), 0)


def test_that_the_files_are_gone_is_known_to_whoever_resumes(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1))
    first, _ = ledger.begin_deletion("b")
    assert not ledger.files_are_gone("b")
    second, _ = ledger.begin_deletion("b")
    ledger.note_files_gone("b", first)  # another one goes on with it
    assert not ledger.files_are_gone("b")
    for _ in range(2):
        ledger.note_files_gone("b", second)
    assert ledger.files_are_gone("b")
    token, resumes = ledger.begin_deletion("b")
    assert (resumes, ledger.files_are_gone("b"), ledger.goes_on("b", token)) == (True, True, True)
    assert ledger.forget("b", token=token, unfinished=True) == "forgotten"
    assert not ledger.files_are_gone("b")
    ledger.note_files_gone("b", token)
    assert not ledger.is_being_deleted("b")


def test_a_batch_of_the_same_name_is_another_one(ledger: Ledger) -> None:
    jobs = make_jobs(1)
    enqueue(ledger, jobs)
    info = ledger.batch("b")
    assert info is not None
    assert not ledger.was_deleted(info)
    ledger.forget("b", unfinished=True)
    assert ledger.was_deleted(info)
    enqueue(ledger, jobs)
    new = ledger.batch("b")
    assert new is not None
    assert (ledger.was_deleted(info), ledger.was_deleted(new), ledger.deleted_at("b")) == (True, False, None)


def test_a_deletion_that_has_done_nothing_is_given_up(ledger: Ledger) -> None:
    jobs = make_jobs(1)
    enqueue(ledger, jobs)
    token, resumes = ledger.begin_deletion("b")
    ledger.give_up_deletion("b", token)
    assert not resumes
    assert not ledger.is_being_deleted("b")
    assert ledger.enqueue(jobs).queued == 1


def test_of_two_deletions_the_later_one_takes_over(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1))
    first, second = ledger.begin_deletion("b"), ledger.begin_deletion("b")
    assert (first.resumes, second.resumes) == (False, True)
    assert (ledger.goes_on("b", first.token), ledger.goes_on("b", second.token)) == (False, True)
    ledger.give_up_deletion("b", first.token)
    assert ledger.forget("b", token=first.token, unfinished=True) == "taken"
    assert ledger.forget("b", token=second.token, unfinished=True) == "forgotten"
    assert ledger.forget("b", token=second.token, unfinished=True) == "taken"  # that deletion has ended
    assert not ledger.goes_on("b", second.token)


def test_two_forget_a_batch_at_once(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(10))
    verdicts: list[str] = []
    threads = [threading.Thread(target=lambda: verdicts.append(ledger.forget("b", unfinished=True))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == ["forgotten"] * 4
    assert keys_of(ledger, "batch:b:") == []


def test_a_reconciler_does_not_bring_a_deleted_batch_back(ledger: Ledger) -> None:
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    ledger.client.delete(ledger.queue)  # all messages are lost
    looks: list[float] = []

    def between_two_looks(seconds: float) -> None:
        looks.append(seconds)
        ledger.forget("b", unfinished=True)

    eventually(lambda: ledger.seconds_up() >= 1)
    assert reconcile(ledger, lease_seconds=0.5, sleep=between_two_looks) == Reconciled()
    assert len(looks) == 1
    assert nothing_is_left(ledger)


def test_what_an_older_worker_brings_back_of_a_deleted_batch_is_forgotten_again(
    ledger: Ledger, late: RenderJob
) -> None:
    client: Any = ledger.client
    client.hset(batch_key("b", "states"), late.id, "done 1")
    client.hset(batch_key("b", "counts"), "done", 1)
    enqueue(ledger, make_jobs(1, batch="other"))
    assert ledger.has_keys("b")
    assert ledger.forget_remains() == ["b"]
    assert (ledger.forget_remains(), ledger.has_keys("b"), ledger.has_keys("other")) == ([], False, True)


def test_what_came_of_the_same_name_since_is_not_forgotten(ledger: Ledger, late: RenderJob) -> None:
    enqueue(ledger, [late])
    assert ledger.forget_remains() == []
    assert ledger.counts("b").queued == 1


def test_a_batch_that_is_submitted_again_meanwhile_is_none_of_the_remains(
    ledger: Ledger, late: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = ledger.client
    client.hset(batch_key("b", "states"), late.id, "done 1")
    run = ledger._scripts.run

    def run_after_a_submission(name: Any, **options: Any) -> Any:
        if name == "forget":
            ledger.open_batch("b", output="file:///out", source="jobs.csv")
        return run(name, **options)

    monkeypatch.setattr(ledger._scripts, "run", run_after_a_submission)
    assert ledger.forget_remains() == []
    assert (ledger.has_keys("b"), ledger.batch("b") is None) == (True, False)


def test_the_mark_of_a_rebuild_is_none_of_the_remains(ledger: Ledger, late: RenderJob) -> None:
    """It is set before the batch is registered."""
    ledger.begin_rebuilding("b")
    assert ledger.forget_remains() == []
    ledger.client.hset(batch_key("b", "states"), late.id, "done 1")
    assert ledger.forget_remains() == ["b"]
    assert (ledger.is_rebuilding("b"), keys_of(ledger, "batch:b:")) == (True, [batch_key("b", "rebuilding")])


def test_messages_leave_every_place_where_they_are(ledger: Ledger) -> None:
    jobs, others = make_jobs(6), make_jobs(6, batch="other")
    third = make_jobs(2, batch="b.b")
    for some in (jobs, others, third):
        enqueue(ledger, some)
    client: Any = ledger.client
    for job in (jobs[0], others[0]):  # delivered to a worker that died
        client.hset(
            UNACKED, f"tag-{job.id}", json.dumps([json.loads(celery_message(job, queue="render")), "", "render"])
        )
        client.zadd(UNACKED_INDEX, {f"tag-{job.id}": 1.0})
    for job in (jobs[1], others[1]):
        ledger.start(job, worker="w")
        ledger.defer(job, worker="w", seconds=60, refund=True)
    client.hset(UNACKED, "garbage", "{}")
    ledger.cancel("b")
    client.zadd("render:delayed:render", {f"b {jobs[2].id}": 9e9})  # left over
    assert take_messages(ledger, ["b"]) == 6
    assert sorted(ledger.kombu.queued_ids()) == sorted(job.id for job in others + third)
    assert (set(client.hkeys(UNACKED)), client.zrange(UNACKED_INDEX, 0, -1)) == (
        {f"tag-{others[0].id}", "garbage"},
        [f"tag-{others[0].id}"],
    )
    assert set(ledger.delayed_ids()) == {others[1].id}
    assert take_messages(ledger, ["b"]) == 0


@pytest.fixture
def live(ledger: Ledger) -> dict[str, RenderJob]:
    """A batch of three jobs that have not ended: one waits in the queue, a worker has one, and one is delayed."""
    jobs = dict(zip(("queued", "delivered", "delayed"), make_jobs(3), strict=True))
    enqueue(ledger, list(jobs.values()))
    client: Any = ledger.client
    client.delete(ledger.queue)
    client.lpush(ledger.queue, celery_message(jobs["queued"], queue="render"))
    delivered(ledger, jobs["delivered"])
    for name in ("delivered", "delayed"):
        ledger.start(jobs[name], worker="w")
    ledger.defer(jobs["delayed"], worker="w", seconds=60, refund=True)
    return jobs


def delivered(ledger: Ledger, job: RenderJob) -> None:
    client: Any = ledger.client
    text = json.dumps([json.loads(celery_message(job, queue="render")), "", "render"])
    client.hset(UNACKED, f"tag-{job.id}", text)
    client.zadd(UNACKED_INDEX, {f"tag-{job.id}": 1.0})


def messages(ledger: Ledger) -> list[int]:
    """How many are in the queue, with consumers, and delayed."""
    return [ledger.queue_length(), ledger.kombu.unacknowledged(), ledger.delayed()]


def test_messages_of_jobs_that_have_not_ended_stay_where_they_are(ledger: Ledger, live: dict[str, RenderJob]) -> None:
    ledger.client.zadd("render:delayed:render", {f"b {'0' * 20}": 9e9})  # of a job that nobody knows
    assert take_messages(ledger, ["b"]) == 0
    assert messages(ledger) == [1, 1, 1]
    assert set(ledger.delayed_ids()) == {live["delayed"].id}
    assert take_messages(ledger, ["b"], unfinished=True) == 1
    assert messages(ledger) == [0, 0, 0]


def test_a_job_that_was_retried_after_the_look_keeps_its_message(
    ledger: Ledger, live: dict[str, RenderJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a job has ended is asked in the same step in which its message is removed."""
    ledger.cancel("b")
    ledger.finish(make_result(live["delivered"], "cancelled"))
    drop = ledger.kombu.drop_delivered

    def drop_after_a_retry(*arguments: Any, **options: Any) -> int:
        assert ledger.retry("b") == 3
        return drop(*arguments, **options)

    monkeypatch.setattr(ledger.kombu, "drop_delivered", drop_after_a_retry)
    take_messages(ledger, ["b"])
    assert (ledger.kombu.unacknowledged(), ledger.counts("b")) == (1, Counts(queued=3))


@pytest.mark.parametrize("few", [0, 500], ids=["moved-around", "one-by-one"])
def test_a_batch_whose_keys_are_damaged_keeps_no_other_from_leaving(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("jobs.ledger.sift.ONE_BY_ONE", few)
    client: Any = ledger.client
    for name in ("bad", "good"):
        jobs = make_jobs(3, batch=name)
        enqueue(ledger, jobs)
        ledger.cancel(name)
        delivered(ledger, jobs[0])
        client.zadd("render:delayed:render", {f"{name} {jobs[1].id}": 9e9})
    for part in ("states", "counts", "results", "rows"):
        client.delete(batch_key("bad", part))
        client.set(batch_key("bad", part), "not a hash")
    assert take_messages(ledger, ["bad", "good"]) == 3
    assert messages(ledger) == [3, 1, 0]
    assert (ledger.forget("bad"), ledger.forget("good")) == ("active", "forgotten")
    assert ledger.forget("bad", unfinished=True) == "forgotten"
    assert keys_of(ledger, "batch:bad:") == []


def test_messages_of_many_batches_leave_together(ledger: Ledger) -> None:
    names = [f"old-{number}" for number in range(45)]
    for name in names:
        enqueue(ledger, make_jobs(2, batch=name))
        enqueue(ledger, make_jobs(1, batch=f"{name}-new"))
        ledger.cancel(name)
    assert take_messages(ledger, names) == 90
    assert ledger.queue_length() == 45
    assert take_messages(ledger, []) == 0


def test_names_of_all_keys_are_those_of_the_parts() -> None:
    assert all_batch_keys("b") == [f"render:batch:b:{part}" for part in get_args(BatchPart)]
