"""The ledger on a real Redis: moves are atomic and only go forward."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import pytest
import redis

from jobs.errors import InvalidJob, LedgerUnavailable, NewerMessage, RenderError
from jobs.job import MESSAGE_VERSION, RenderJob, RenderResult
from jobs.ledger import lua
from jobs.ledger.keys import batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts, Enqueued, PromptOptions
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result


def test_new_jobs_are_queued_and_counted_with_one_message_each(ledger: Ledger) -> None:
    assert enqueue(ledger, make_jobs(3)).added == 3
    assert ledger.counts("b") == Counts(queued=3)
    assert ledger.queue_length() == 3


def test_submitting_again_queues_nothing_twice(ledger: Ledger) -> None:
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    ledger.start(jobs[0], worker="w")
    ledger.finish(make_result(jobs[1]))
    again = enqueue(ledger, jobs)
    assert (again.added, again.queued, again.running, again.done) == (0, 1, 1, 1)
    assert ledger.queue_length() == 3


def test_the_oldest_message_is_at_the_end_where_workers_pop(ledger: Ledger) -> None:
    jobs = make_jobs(2)
    enqueue(ledger, jobs)
    popped = json.loads(str(ledger.client.rpop(ledger.queue)))
    assert popped["headers"]["id"] == jobs[0].id


def test_a_start_is_noted_with_its_worker_and_counted(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    start = ledger.start(job, worker="w1")
    assert (start.decision, start.attempts) == ("run", 1)
    line = ledger.state("b", job.id)
    assert line is not None
    assert (line.state, line.worker) == ("running", "w1")
    assert ledger.counts("b") == Counts(running=1)


def test_a_job_that_a_live_worker_holds_is_not_started_again(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.beat("w1", in_flight=[job.id], lease_seconds=10)
    ledger.start(job, worker="w1")
    assert ledger.start(job, worker="w2").decision == "in_flight"
    assert ledger.start(job, worker="w1").decision == "in_flight"


def test_a_job_of_a_dead_worker_is_taken_over(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.start(job, worker="dead")
    start = ledger.start(job, worker="w2")
    assert (start.decision, start.attempts) == ("run", 2)
    assert ledger.counts("b") == Counts(running=1)


def test_a_last_start_is_reported_before_it_happens_and_costs_nothing(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    for attempt in range(2):
        assert ledger.start(job, worker=f"dead{attempt}", unless_last=True).decision == "run"
    for _ in range(3):
        start = ledger.start(job, worker="w", unless_last=True)
        assert (start.decision, start.attempts) == ("last", 2)
        assert ledger.counts("b") == Counts(queued=1)
    start = ledger.start(job, worker="w")
    assert (start.decision, start.attempts) == ("run", 3)
    assert ledger.start(job, worker="w2", unless_last=True).decision == "quarantined"


def test_a_job_that_took_down_its_workers_is_quarantined(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    for attempt in range(3):
        assert ledger.start(job, worker=f"dead{attempt}").decision == "run"
    assert ledger.start(job, worker="w").decision == "quarantined"


def test_a_job_put_back_is_queued_and_its_attempt_refunded(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.start(job, worker="w1")
    assert ledger.nack(job, worker="w1")
    assert ledger.counts("b") == Counts(queued=1)
    assert ledger.start(job, worker="w2").attempts == 1


def test_only_the_holder_can_put_back(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.start(job, worker="w1")
    assert not ledger.nack(job, worker="w2")
    ledger.finish(make_result(job))
    assert not ledger.nack(job, worker="w1")


def test_a_terminal_state_is_entered_once_and_never_left(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.start(job, worker="w1")
    assert ledger.finish(make_result(job))
    assert not ledger.finish(make_result(job, "failed"))
    assert ledger.start(job, worker="w1").decision == "finished"
    assert ledger.counts("b") == Counts(done=1)
    assert [result.state for result in ledger.results("b")] == ["done"]


def test_only_one_of_many_threads_that_start_a_job_runs_it(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    names = [f"w{n}" for n in range(8)]
    for name in names:
        ledger.beat(name, in_flight=[], lease_seconds=10)
    with ThreadPoolExecutor(8) as pool:
        decisions = list(pool.map(lambda name: ledger.start(job, worker=name).decision, names))
    assert sorted(decisions) == ["in_flight"] * 7 + ["run"]


def test_a_message_that_outlived_the_ledger_is_taken_up(ledger: Ledger) -> None:
    job = make_job()
    assert ledger.start(job, worker="w").decision == "run"
    assert ledger.counts("b") == Counts(running=1)
    assert ledger.finish(make_result(job))


def test_failed_jobs_can_be_retried_and_done_ones_cannot(ledger: Ledger) -> None:
    jobs = make_jobs(2)
    enqueue(ledger, jobs)
    ledger.client.delete(ledger.queue)
    ledger.finish(make_result(jobs[0], "failed"))
    ledger.finish(make_result(jobs[1], "done"))
    assert ledger.retry("b") == 1
    assert ledger.counts("b") == Counts(queued=1, done=1)
    assert ledger.queue_length() == 1
    assert [result.id for result in ledger.results("b")] == [jobs[1].id]


def test_cancelling_ends_queued_jobs_at_once_and_marks_running_ones(ledger: Ledger) -> None:
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    ledger.start(jobs[0], worker="w")
    ledger.finish(make_result(jobs[1]))
    assert ledger.cancel("b") == Counts(queued=1, running=1)
    assert ledger.counts("b") == Counts(running=1, done=1, cancelled=1)
    assert ledger.cancels("b") == {jobs[0].id}
    assert ledger.start(jobs[2], worker="w").decision == "cancelled"
    ledger.finish(make_result(jobs[0], "cancelled"))
    assert ledger.cancels("b") == set()


@pytest.mark.parametrize(
    ("text", "error"), [('{"version": 99}', NewerMessage), ("garbage", InvalidJob), ("{}", InvalidJob)]
)
def test_a_job_that_cannot_be_read_keeps_no_other_from_being_cancelled(
    ledger: Ledger, text: str, error: type[RenderError]
) -> None:
    jobs = make_jobs(600)  # more than one chunk
    enqueue(ledger, jobs)
    ledger.start(jobs[1], worker="w")
    ledger.client.hset(batch_key("b", "jobs"), jobs[0].id, text)
    with pytest.raises(error):
        ledger.cancel("b")
    assert ledger.counts("b") == Counts(queued=1, running=1, cancelled=598)
    assert ledger.cancels("b") == {jobs[1].id}


def test_a_cancellation_outlives_the_worker_that_should_have_seen_it(ledger: Ledger) -> None:
    (job,) = jobs = make_jobs(1)
    enqueue(ledger, jobs)
    ledger.start(job, worker="w1")
    ledger.cancel("b", job.id)
    ledger.nack(job, worker="w1")
    assert ledger.start(job, worker="w2").decision == "cancel"
    assert ledger.finish(make_result(job, "cancelled"))
    assert (ledger.counts("b"), ledger.cancels("b")) == (Counts(cancelled=1), set())
    assert ledger.retry("b") == 1
    assert ledger.start(job, worker="w2").decision == "run"


def _corrected_while_it_ran(ledger: Ledger, row: int = 1) -> tuple[RenderJob, RenderJob]:
    """Two versions of a row: the first one ran when the second one came, and is queued again."""
    job, corrected = make_job(row), make_job(row, prompt="corrected")
    enqueue(ledger, [job])
    ledger.start(job, worker="w1")
    assert enqueue(ledger, [corrected]).replaced == 1
    ledger.nack(job, worker="w1")
    return job, corrected


def test_cancelling_counts_a_row_once_whose_earlier_version_is_queued_again(ledger: Ledger) -> None:
    job, corrected = _corrected_while_it_ran(ledger)
    assert ledger.cancel("b") == Counts(queued=1, superseded=1)
    counts = ledger.counts("b")
    assert (counts, counts.total) == (Counts(cancelled=1, superseded=1), 1)
    assert [line.text for line in ledger.states_of("b", [job.id])] == ["superseded 0 queued"]
    assert [result.id for result in ledger.results("b")] == [corrected.id]
    assert (list(ledger.results("b", superseded=True)), ledger.cancels("b")) == ([], set())
    assert ledger.client.hkeys(batch_key("b", "jobs")) == [corrected.id]
    assert ledger.client.scard(batch_key("b", "replaced")) == 0
    assert ledger.retry("b") == 1
    assert ledger.counts("b") == Counts(queued=1, superseded=1)


def test_an_earlier_version_that_was_cancelled_comes_back_when_the_correction_is_undone(ledger: Ledger) -> None:
    job, _ = _corrected_while_it_ran(ledger)
    ledger.cancel("b")
    assert enqueue(ledger, [job]).added == 1
    assert ledger.counts("b") == Counts(queued=1, superseded=1)
    assert ledger.start(job, worker="w2").decision == "run"


def _one_job_for_rows_of_two_files(ledger: Ledger) -> RenderJob:
    """Jobs have no file in their ids: rows of equal number and parameters share one."""
    job = make_job(7)
    enqueue(ledger, [job])
    ledger.enqueue([job], row_prefix="0a1b2c3d:")
    return job


@pytest.mark.parametrize("corrected_in", ["", "0a1b2c3d:"])
@pytest.mark.parametrize("state", ["queued", "running", "done", "failed"])
def test_a_job_goes_on_while_a_row_of_another_file_stands_for_it(
    ledger: Ledger, corrected_in: str, state: Literal["queued", "running", "done", "failed"]
) -> None:
    job = _one_job_for_rows_of_two_files(ledger)
    if state != "queued":
        ledger.start(job, worker="w")
    if state in {"done", "failed"}:
        ledger.finish(make_result(job, state))
    before = ledger.counts("b")
    assert ledger.enqueue([make_job(7, prompt="corrected")], row_prefix=corrected_in) == Enqueued(added=1)
    assert ledger.counts("b") == before.model_copy(update={"queued": before.queued + 1})
    assert (ledger.cancels("b"), ledger.client.exists(batch_key("b", "replaced"))) == (set(), 0)


def test_rows_that_an_earlier_version_submitted_share_their_job_too(ledger: Ledger) -> None:
    info = ledger.open_batch("b", output="file:///out", source="jobs.csv")
    for source in ("jobs.csv", "more.csv"):
        ledger.keep_prompt_options("b", PromptOptions(source=source, prompts={}))
        ledger.enqueue([make_job(7)], row_prefix=info.row_prefix(source))
    ledger.client.delete(batch_key("b", "row_prefixes"))  # which earlier versions do not know
    ledger.note_row_prefixes(info)
    assert ledger.enqueue([make_job(7, prompt="corrected")]) == Enqueued(added=1)


def test_a_job_ends_with_the_last_row_that_stands_for_it(ledger: Ledger) -> None:
    job = _one_job_for_rows_of_two_files(ledger)
    corrected = make_job(7, prompt="corrected")
    assert ledger.enqueue([corrected], row_prefix="0a1b2c3d:") == Enqueued(added=1)
    assert ledger.enqueue([corrected]) == Enqueued(queued=1, replaced=1)
    assert ledger.counts("b") == Counts(queued=1, superseded=1)
    assert ledger.start(job, worker="w").decision == "cancelled"
    assert ledger.enqueue([job]) == Enqueued(added=1)  # taken back in one file; the other keeps the correction
    assert ledger.counts("b") == Counts(queued=2)


def test_a_cancellation_ends_with_the_version_of_the_row_that_it_was_meant_for(ledger: Ledger) -> None:
    job, corrected = make_job(), make_job(prompt="corrected")
    enqueue(ledger, [job])
    ledger.start(job, worker="w1")
    ledger.cancel("b")
    ledger.nack(job, worker="w1")
    enqueue(ledger, [corrected])
    assert ledger.cancels("b") == set()
    assert enqueue(ledger, [job]).added == 1
    assert ledger.start(job, worker="w2").decision == "run"


def test_a_cancellation_that_an_earlier_version_of_the_producer_left_does_not_end_a_new_job(ledger: Ledger) -> None:
    job, corrected = make_job(), make_job(prompt="corrected")
    enqueue(ledger, [job])
    enqueue(ledger, [corrected])
    ledger.client.sadd(batch_key("b", "cancels"), job.id)
    assert enqueue(ledger, [job]).added == 1
    assert ledger.start(job, worker="w").decision == "run"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_worker_that_lost_its_lease_does_not_end_what_another_live_one_renders(ledger: Ledger, state: str) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.start(job, worker="a")
    ledger.beat("b", in_flight=[job.id], lease_seconds=10)
    assert ledger.start(job, worker="b").decision == "run"
    ledger.cancel("b", job.id)
    before = ledger.state("b", job.id)
    assert not ledger.finish(_by(make_result(job, state), "a"))
    assert (ledger.state("b", job.id), ledger.counts("b")) == (before, Counts(running=1))
    assert (list(ledger.results("b")), ledger.cancels("b")) == ([], {job.id})
    assert ledger.finish(_by(make_result(job), "b"))
    assert ledger.counts("b") == Counts(done=1)


def test_a_worker_that_lost_its_lease_may_be_the_first_to_be_done(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.beat("b", in_flight=[job.id], lease_seconds=10)
    ledger.start(job, worker="b")
    assert ledger.finish(_by(make_result(job), "a"))
    assert ledger.counts("b") == Counts(done=1)


@pytest.mark.parametrize("holder", ["a", "dead"])
def test_a_failure_is_recorded_where_no_other_live_worker_renders_the_job(ledger: Ledger, holder: str) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.beat("a", in_flight=[job.id], lease_seconds=10)
    ledger.start(job, worker=holder)
    assert ledger.finish(_by(make_result(job, "failed"), "a"))
    assert ledger.counts("b") == Counts(failed=1)


def test_a_failure_of_a_job_that_the_ledger_lost_is_recorded(ledger: Ledger) -> None:
    assert ledger.finish(_by(make_result(make_job(), "failed"), "a"))
    assert ledger.counts("b") == Counts(failed=1)


@pytest.mark.parametrize("is_corrected", [False, True])
def test_a_failure_whose_answer_was_lost_counts_as_recorded(ledger: Ledger, is_corrected: bool) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.start(job, worker="a")
    if is_corrected:
        enqueue(ledger, [make_job(prompt="corrected")])
    failure = _by(make_result(job, "failed"), "a")
    assert [ledger.finish(failure), ledger.finish(failure)] == [True, True]
    assert not ledger.finish(_by(make_result(job, "failed"), "b"))
    counts = ledger.counts("b")
    assert (counts.failed, counts.superseded, counts.total) == (int(not is_corrected), int(is_corrected), 1)


def _by(result: RenderResult, worker: str) -> RenderResult:
    return result.model_copy(update={"worker": worker})


def test_thousands_of_jobs_are_cancelled_and_retried_each_once(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1100))
    assert ledger.cancel("b").queued == 1100
    assert ledger.counts("b") == Counts(cancelled=1100)
    ledger.client.delete(ledger.queue)
    assert ledger.retry("b", states=("cancelled",)) == 1100
    assert (ledger.counts("b"), ledger.queue_length()) == (Counts(queued=1100), 1100)
    assert list(ledger.results("b")) == []


def test_a_worker_that_stops_beating_is_gone_after_its_lease(ledger: Ledger) -> None:
    ledger.beat("w1", in_flight=["a", "b"], lease_seconds=10)
    assert ledger.workers()["w1"].in_flight == ("a", "b")
    ledger.retire("w1")
    assert ledger.workers() == {}


def test_fields_that_a_newer_worker_adds_to_its_heartbeat_or_its_line_are_ignored(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.client.set("render:worker:new", '{"worker":"new","held":["a"],"at":1.5,"engine_sets":["x"]}')
    assert ledger.workers()["new"].in_flight == ("a",)
    ledger.client.hset("render:batch:b:states", job.id, "running 2 new 17.5 warm")
    line = ledger.state("b", job.id)
    assert line is not None
    assert (line.state, line.attempts, line.worker, line.since) == ("running", 2, "new", 17.5)


def test_jobs_of_a_newer_version_are_queued_again_as_they_were_written(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    newer = job.model_dump_json().replace('"version":1', f'"version":{MESSAGE_VERSION + 1},"model":"anime"')
    ledger.client.hset("render:batch:b:jobs", job.id, newer)
    ledger.client.delete(ledger.queue)
    ledger.finish(make_result(job, "failed"))
    assert ledger.retry("b") == 1
    body = json.loads(json.loads(str(ledger.client.rpop(ledger.queue)))["body"])
    assert body[0] == [newer]
    with pytest.raises(NewerMessage):
        ledger.job("b", job.id)


def test_all_lua_files_are_scripts_that_redis_takes(ledger: Ledger) -> None:
    files = {path.stem for path in (Path(lua.__file__).parent / "scripts").glob("*.lua")}
    assert files - {"prelude"} == set(get_args(lua.ScriptName))
    for name in get_args(lua.ScriptName):
        assert ledger.client.script_load(lua.source(name))


def test_batches_are_listed_and_keep_what_was_first_noted(ledger: Ledger) -> None:
    ledger.open_batch("one", output="file:///a", source="one.csv")
    ledger.open_batch("two", output="file:///b", source="two.csv")
    assert ledger.open_batch("one", output="file:///other", source="other.csv").output == "file:///a"
    assert [info.name for info in ledger.batches()] == ["one", "two"]
    assert ledger.batch("three") is None


def test_redis_that_does_not_answer_is_named_without_its_password() -> None:
    client = redis.Redis.from_url("redis://:secret@127.0.0.1:1/0", decode_responses=True)
    with pytest.raises(LedgerUnavailable, match="RENDER_REDIS_URL") as caught:
        Ledger(client).counts("b")
    assert "secret" not in str(caught.value)
