"""What becomes of a job, by whose fault an error is: with one live worker, and with another one beside it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from jobs.errors import (
    OutputFull,
    OutputUnavailable,
    RenderError,
    RenderFailed,
    ShapeNotBuilt,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
)
from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Refusal, WorkerFacts
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.http import FetchLimits
from jobs.storage.memory import MemoryStore
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_job
from tests.worker.bench import WORKER, Bench, queued
from worker.fitness import Fitness
from worker.outcome import Outcome
from worker.output_probe import OutputProbe
from worker.refusals import failure
from worker.shutdown import Shutdown


@pytest.fixture
def other(ledger: Ledger) -> str:
    """Another live worker, with other settings."""
    ledger.beat("other", in_flight=(), lease_seconds=60, facts=WorkerFacts(settings="other-settings"))
    return "other"


def refusals(bench: Bench, job: RenderJob) -> list[tuple[str, str, int]]:
    return [(each.by, each.kind, each.times) for each in bench.ledger.refusals(job.batch).get(job.id, ())]


FORBIDDEN = SourceForbidden("not on my list", fault="worker", scope="settings")


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize(
    ("error", "attempts"),
    [(FORBIDDEN, 0), (ShapeNotBuilt("512 only"), 0), (RenderFailed("NaN"), 1), (ZeroDivisionError("oops"), 1)],
)
def test_a_workers_fault_gives_the_job_back_at_no_attempt_unless_the_rendering_failed(
    bench: Bench, error: Exception, attempts: int
) -> None:
    job = queued(bench)
    bench.picture = error
    assert bench.run(job) is Outcome.DELAYED
    assert bench.state(job) == ("queued", attempts)
    assert bench.ledger.delayed() == 1
    kind = error.kind if isinstance(error, RenderError) else "unexpected"
    assert refusals(bench, job) == [(WORKER, kind, 1)]
    assert bench.registry.get_sample_value("render_refusals_total", {"kind": kind}) == 1
    assert bench.registry.get_sample_value("render_jobs_total", {"state": "requeued", "kind": kind}) == 1


def test_a_refusal_by_settings_is_noted_by_their_digest(bench: Bench, other: str) -> None:
    bench.runner.fitness.describe(WorkerFacts(settings="mine"))
    job = queued(bench)
    bench.picture = FORBIDDEN
    bench.run(job)
    assert refusals(bench, job) == [("mine", "source_forbidden", 1)]
    assert other in bench.ledger.workers()


def test_a_job_that_every_live_worker_refused_fails_with_what_each_said(bench: Bench, other: str) -> None:
    job = queued(bench)
    bench.ledger.start(job, worker=other)
    said = Refusal(by="other-settings", worker=other, kind="shape_not_built", text="512 only", at=1.0)
    assert not bench.ledger.refuse(job, said, facts=WorkerFacts(settings="other-settings")).final
    bench.picture = FORBIDDEN
    assert bench.run(job) is Outcome.ENDED
    result = bench.result(job)
    assert (result.state, result.error_kind) == ("failed", "shape_not_built")  # of the first
    assert result.error == (
        f"every live worker refused it: other (settings other-settings): 512 only; {WORKER}: not on my list"
    )


@pytest.mark.usefixtures("other")
def test_a_job_whose_rendering_failed_here_is_left_to_others_and_tried_again_when_the_user_asks(bench: Bench) -> None:
    job = queued(bench)
    bench.picture = RenderFailed("NaN")
    assert bench.run(job) is Outcome.DELAYED
    bench.picture = b"picture"
    assert bench.run(job) is Outcome.DELAYED
    assert (bench.fetched, bench.state(job)) == (1, ("queued", 1))  # not seen, and at no attempt
    bench.ledger.cancel(job.batch)
    bench.ledger.retry(job.batch)
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job) == ("done", 1)


@pytest.mark.usefixtures("other")
def test_a_job_that_nobody_else_takes_is_tried_again_here(bench: Bench) -> None:
    job = queued(bench)
    bench.picture = RenderFailed("NaN")
    bench.run(job)
    bench.picture = b"picture"
    for _ in range(20):
        if bench.run(job) is Outcome.ENDED:
            break
    assert bench.state(job) == ("done", 2)


@pytest.mark.usefixtures("other")
def test_a_host_that_stays_away_is_tried_by_other_workers_before_the_job_fails_but_not_for_ever(bench: Bench) -> None:
    job = queued(bench)
    bench.picture = SourceUnavailable("timed out")
    outcomes = [bench.run(job)]
    while outcomes[-1] is Outcome.DELAYED and len(outcomes) < 20:
        outcomes.append(bench.run(job))
    assert outcomes[:2] == [Outcome.DELAYED, Outcome.DELAYED]
    assert outcomes[-1] is Outcome.ENDED
    assert bench.result(job).error_kind == "source_unavailable"


def test_a_name_that_one_workers_dns_does_not_know_is_tried_by_others_but_not_by_a_hundred(bench: Bench) -> None:
    job, name = queued(bench), SourceNotFound("the host cannot be resolved", fault="worker")
    for number in range(100):
        bench.ledger.beat(f"other-{number}", in_flight=(), lease_seconds=60)
    bench.picture = name
    assert bench.run(job) is Outcome.DELAYED
    assert bench.state(job) == ("queued", 0)
    said = Refusal(by="other-1", worker="other-1", kind=name.kind, text=str(name), at=1.0)
    bench.ledger.start(job, worker="other-1")
    assert not bench.ledger.refuse(job, said, facts=WorkerFacts()).final
    assert bench.run(job) is Outcome.ENDED  # after RENDER_MAX_ATTEMPTS workers, here two
    assert (bench.result(job).error_kind, bench.result(job).error) == (name.kind, str(name))


def test_a_name_that_does_not_resolve_fails_at_once_where_no_other_worker_lives(bench: Bench) -> None:
    job = queued(bench)
    bench.picture = SourceNotFound("the host cannot be resolved", fault="worker")
    assert bench.run(job) is Outcome.ENDED
    assert bench.result(job).error_kind == "source_not_found"


def test_a_host_that_serves_others_first_costs_no_attempt(bench: Bench) -> None:
    job = queued(bench)
    busy = SourceUnavailable("allows no request for another 60 s")
    busy.retry_after_seconds, busy.blameless = 60.0, True
    bench.picture = busy
    for _ in range(5):
        assert bench.run(job) is Outcome.DELAYED
    assert (bench.state(job), bench.fetched) == (("queued", 0), 5)


def test_a_source_whose_storage_is_away_costs_no_attempt(bench: Bench) -> None:
    job = queued(bench)
    bench.picture = SourceUnavailable("stale handle", fault="store")
    for _ in range(5):
        assert bench.run(job) is Outcome.DELAYED
    assert bench.state(job) == ("queued", 0)


def test_storage_that_no_result_goes_to_is_a_host_like_any_other(bench: Bench) -> None:
    job = queued(bench, image="s3://elsewhere/a.png")
    bench.picture = SourceUnavailable("connection refused", fault="store")
    assert [bench.run(job) for _ in range(2)] == [Outcome.DELAYED, Outcome.ENDED]
    assert bench.result(job).error_kind == "source_unavailable"


def test_a_file_that_cannot_be_read_although_its_storage_answers_fails_in_the_end(bench: Bench) -> None:
    bad, good = make_job(1, image="file:///in/bad.png"), make_job(2, image="file:///in/good.png")
    enqueue(bench.ledger, [bad, good])

    def read(uri: str, limits: FetchLimits) -> bytes:
        if uri.endswith("bad.png"):
            raise SourceUnavailable("input/output error", fault="store")
        return b"picture"

    bench.runner = replace(bench.runner, read=read)
    assert bench.run(bad) is Outcome.DELAYED
    assert bench.run(good) is Outcome.ENDED
    outcomes = [bench.run(bad) for _ in range(2)]
    assert outcomes == [Outcome.DELAYED, Outcome.ENDED]
    assert bench.result(bad).error == "input/output error"


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_the_last_job_whose_file_cannot_be_read_fails_where_results_can_be_written(
    bench: Bench, tmp_path: Path, scheme: str
) -> None:
    (tmp_path / "out" / "b").mkdir(parents=True)
    base = "s3://bucket" if scheme == "s3" else tmp_path.as_uri()
    job = make_job(image=f"{base}/bad.png", output=f"{base}/out")
    enqueue(bench.ledger, [job])
    policy = AccessPolicy(output=f"{base}/out")
    probe = OutputProbe(policy, lambda _: bench.storage)
    bench.runner = replace(bench.runner, access_policy=policy, fitness=Fitness(probe, policy=policy))
    bench.picture = SourceUnavailable("InternalError", fault="store")
    assert [bench.run(job) for _ in range(3)] == [Outcome.DELAYED, Outcome.DELAYED, Outcome.ENDED]
    assert (bench.result(job).state, bench.result(job).error) == ("failed", "InternalError")


def test_a_store_that_throttles_costs_no_attempt_although_results_can_be_written(bench: Bench) -> None:
    throttled, good = (make_job(row, image=f"s3://b/{row}.png", output="s3://b/out") for row in (1, 2))
    enqueue(bench.ledger, [throttled, good])
    bench.runner = replace(bench.runner, access_policy=AccessPolicy(output="s3://b/out"))
    busy = SourceUnavailable("SlowDown", fault="store")
    busy.blameless = True
    for _ in range(3):
        bench.picture = busy
        assert bench.run(throttled) is Outcome.DELAYED
        bench.picture = b"picture"
        assert bench.run(good) is Outcome.ENDED
    assert (bench.state(throttled), bench.fetched) == (("queued", 0), 7)  # and it is tried in place


def test_an_upload_waits_for_storage_longer_than_any_number_of_tries_and_costs_no_attempt(bench: Bench) -> None:
    job = queued(bench)
    away = threading.Event()
    away.set()
    tries = []
    write = bench.storage.write

    def flaky(uri: str, data: bytes, content_type: str) -> None:
        if away.is_set():
            tries.append(uri)
            raise OutputUnavailable("503") if len(tries) % 2 else OutputFull("over its quota", fault="store")
        write(uri, data, content_type)

    bench.storage.write = flaky  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(bench.run, job)
        eventually(lambda: len(tries) > 5)
        assert bench.registry.get_sample_value("render_storage_waits") == 1
        assert "over its quota" in (bench.runner.fitness.facts.last_error or "") or "503" in (
            bench.runner.fitness.facts.last_error or ""
        )
        away.clear()
        assert ending.result(30) is Outcome.ENDED
    assert bench.state(job) == ("done", 1)
    assert len(bench.loop.submitted) == 1
    assert bench.registry.get_sample_value("render_storage_waits") == 0


@pytest.mark.parametrize("error", [OutputUnavailable("no route"), OutputFull("over its quota", fault="store")])
def test_a_job_without_pictures_waits_for_storage_for_a_while_and_then_goes_to_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: RenderError
) -> None:
    monkeypatch.setattr("worker.uploads.NOT_RENDERED_SECONDS", 0.2)
    jobs = [queued(bench, row=row) for row in range(1, 5)]
    tries = []

    class Away(MemoryStore):
        def write(self, uri: str, data: bytes, content_type: str) -> None:
            tries.append(uri)
            raise error

    policy = bench.runner.access_policy
    bench.runner = replace(bench.runner, fitness=Fitness(OutputProbe(policy, lambda _: Away()), policy=policy))
    with ThreadPoolExecutor(len(jobs)) as threads:
        assert set(threads.map(bench.run, jobs)) == {Outcome.DELAYED}
    assert len(tries) > 2
    assert {bench.state(job) for job in jobs} == {("queued", 0)}
    assert (bench.fetched, bench.ledger.delayed()) == (0, 4)
    assert bench.runner.fitness.paused is None


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_an_upload_that_waits_ends_when_the_worker_stops_or_the_user_cancels(bench: Bench, how: str) -> None:
    job = queued(bench)

    def away(uri: str, data: bytes, content_type: str) -> None:
        raise OutputUnavailable("503")

    bench.storage.write = away  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(bench.run, job)
        eventually(lambda: bench.registry.get_sample_value("render_storage_waits") == 1)
        if how == "stop":
            bench.runner.shutdown.drain()  # alone it does not end the wait: the grace period is for uploads
            assert not ending.done()
            bench.runner.shutdown.requeue_all()
        else:
            bench.runner.in_flight.cancel(job.batch, [job.id])
        assert ending.result(30) is (Outcome.DELAYED if how == "stop" else Outcome.ENDED)
    assert bench.state(job) == (("queued", 0) if how == "stop" else ("cancelled", 1))


def test_keys_that_may_not_tell_whether_an_object_exists_render_the_job_again(bench: Bench) -> None:
    job = queued(bench)
    bench.ledger.start(job, worker="dead")
    bench.storage.exists = lambda uri: None  # type: ignore[assignment,method-assign,return-value]
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job) == ("done", 2)


def test_a_job_that_is_kept_to_an_engine_set_is_rendered_by_whoever_holds_it(bench: Bench) -> None:
    digest = "0123456789abcdef" * 4
    job = RenderJob.create(make_job().parameters, batch="b", row=1, output="file:///out", engine_set=digest[:10])
    enqueue(bench.ledger, [job])
    held = replace(bench.runner, renderer=replace(bench.runner.renderer, digest=digest))
    assert held.run(job.model_dump_json()) is Outcome.ENDED
    assert bench.state(job)[0] == "done"
    other = RenderJob.create(make_job().parameters, batch="b", row=2, output="file:///out", engine_set=digest[:10])
    enqueue(bench.ledger, [other])
    assert bench.run(other) is Outcome.ENDED
    assert (bench.result(other).error_kind, bench.fetched) == ("engine_set_not_held", 1)


@pytest.mark.parametrize("how", ["paused", "refused", "put off", "stopped"])
def test_a_job_that_the_ledger_lost_and_a_worker_gave_back_is_still_looked_for_in_storage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    job = queued(bench)
    assert bench.run(job) is Outcome.ENDED
    bench.ledger.client.flushall()
    bench.ledger.beat("other", in_flight=(), lease_seconds=60)
    good = bench.runner

    def away(uri: str) -> bool:
        raise OutputUnavailable("503")

    with monkeypatch.context() as patch:
        patch.setattr("worker.uploads.NOT_RENDERED_SECONDS", 0.0)
        patch.setattr(bench.storage, "exists", away)
        if how == "paused":
            bench.runner = replace(good, fitness=Fitness())
            bench.runner.fitness.compare_clock(3600)
        elif how == "refused":
            bench.runner = replace(good, access_policy=AccessPolicy(output="file:///elsewhere"))
        elif how == "stopped":
            bench.runner = replace(good, shutdown=Shutdown())
            bench.runner.shutdown.drain()
        assert bench.run(job) is Outcome.DELAYED
    assert bench.state(job) == ("queued", 1)
    bench.runner = good
    assert bench.run(job) is Outcome.ENDED
    assert (bench.state(job)[0], bench.fetched) == ("done", 1)


def test_a_paused_worker_gives_its_jobs_back(bench: Bench) -> None:
    job = queued(bench)
    bench.runner.fitness.compare_clock(3600)
    assert bench.run(job) is Outcome.DELAYED
    assert (bench.state(job), bench.fetched, bench.ledger.delayed()) == (("queued", 0), 0, 1)
    bench.ledger.start(job, worker="dead")
    assert bench.run(job) is Outcome.DELAYED  # neither does it take over what a dead worker has
    assert bench.state(job) == ("queued", 1)
    bench.runner.fitness.compare_clock(1)
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job) == ("done", 2)


@pytest.mark.usefixtures("other")
def test_a_batch_that_wants_another_engine_set_is_told_once(bench: Bench) -> None:
    parameters = make_job().parameters
    jobs = [
        RenderJob.create(parameters, batch="b", row=row, output="file:///out", engine_set="0123456789")
        for row in range(1, 4)
    ]
    enqueue(bench.ledger, jobs)
    with capture_logs() as lines:
        assert {bench.run(job) for job in jobs} == {Outcome.DELAYED}
    assert [line["event"] for line in lines].count("job_refused") == 1


def test_a_job_fails_with_the_kind_that_most_workers_gave() -> None:
    said = [("wrong", "source_forbidden"), ("good", "source_not_found"), ("better", "source_not_found")]
    refusals = [
        Refusal(by=name, worker=name, kind=kind, text=f"{kind} here", at=float(number))
        for number, (name, kind) in enumerate(said)
    ]
    found = failure(refusals)
    assert found.kind == "source_not_found"
    assert "wrong: source_forbidden here" in found.text
