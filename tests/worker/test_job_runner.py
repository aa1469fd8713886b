"""One job, start to end, with a real ledger, storage in memory and a stub in place of engines."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from structlog.testing import capture_logs

from jobs.errors import OutputUnavailable, RenderFailed, SourceNotFound, SourceUnavailable
from jobs.job import RenderResult
from jobs.ledger.reconcile import Reconciled, take_back
from jobs.ledger.records import Counts, EngineSetJobs
from jobs.storage.limits import FetchLimits
from jobs.storage.store import read_bytes
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_job, make_result
from tests.worker.bench import WORKER, Bench, queued
from tests.worker.stub_renderer import StubSpec
from worker.outcome import Outcome


def test_a_job_is_rendered_uploaded_and_recorded_with_the_sidecar_last(bench: Bench) -> None:
    job = queued(bench, num_samples=2)
    assert bench.run(job) is Outcome.ENDED
    assert bench.storage.order == [job.sample_uri(0), job.sample_uri(1), job.canny_uri, job.sidecar_uri]
    result = bench.result(job)
    assert (result.state, result.seed, result.attempts, result.worker) == ("done", job.seed, 1, WORKER)
    assert (result.samples, result.canny, result.width) == ((job.sample_uri(0), job.sample_uri(1)), job.canny_uri, 8)
    assert set(result.seconds) == {"fetch", "prepare", "render", "encode", "upload"}
    sidecar = RenderResult.model_validate_json(bench.storage.objects[job.sidecar_uri])
    assert sidecar.samples == result.samples
    assert sidecar.parameters == job.parameters


def test_bytes_of_pictures_are_counted_as_fetched_and_as_stored(bench: Bench) -> None:
    job = queued(bench, num_samples=2)
    bench.run(job)
    value = bench.registry.get_sample_value
    stored = sum(len(bench.storage.objects[uri]) for uri in (job.sample_uri(0), job.sample_uri(1), job.canny_uri))
    assert value("render_image_bytes_total", {"direction": "in"}) == len(b"picture")
    assert value("render_image_bytes_total", {"direction": "out"}) == stored > 0


@pytest.mark.parametrize(
    ("format_", "ending", "content_type"),
    [("png", ".png", "image/png"), ("jpeg", ".jpg", "image/jpeg"), ("webp", ".webp", "image/webp")],
)
def test_samples_have_the_ending_and_the_type_of_their_format(
    bench: Bench, format_: str, ending: str, content_type: str
) -> None:
    job = queued(bench, format=format_)
    bench.run(job)
    assert bench.result(job).samples == (f"file:///out/b/{job.id}_0{ending}",)
    assert bench.storage.content_types[job.sample_uri(0)] == content_type
    assert bench.storage.content_types[job.canny_uri] == "image/png"


def test_a_control_image_is_fetched_beside_the_image(bench: Bench) -> None:
    job = queued(bench, control_image="file:///pose.png")
    bench.pictures["file:///pose.png"] = b"a pose"
    bench.run(job)
    assert bench.storage.objects[job.canny_uri] == b"canny of a pose"
    bytes_in = bench.registry.get_sample_value("render_image_bytes_total", {"direction": "in"})
    assert (bench.fetched, bytes_in) == (2, len(b"picture") + len(b"a pose"))


def test_a_control_image_that_cannot_be_fetched_fails_the_job_and_is_named(bench: Bench) -> None:
    job = queued(bench, control_image="file:///pose.png?sig=x")
    bench.pictures["file:///pose.png?sig=x"] = SourceNotFound("/pose.png does not exist")
    assert bench.run(job) is Outcome.ENDED
    result = bench.result(job)
    assert (result.error_kind, result.error) == ("source_not_found", "control_image: /pose.png does not exist")


def test_a_control_image_is_read_by_the_rules_of_images(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x")
    job = queued(bench, control_image=(tmp_path / "passwd").as_uri())

    def read(uri: str, limits: FetchLimits) -> bytes:
        return b"picture" if uri == job.parameters.image else read_bytes(uri, limits)

    assert replace(bench.runner, read=read).run(job.model_dump_json()) is Outcome.ENDED
    result = bench.result(job)
    assert result.error_kind == "source_forbidden"
    assert (result.error or "").startswith("control_image: ")
    assert "RENDER_ALLOW_FOLDERS" in (result.error or "")


def test_a_control_image_is_tried_again_like_the_image(bench: Bench) -> None:
    job = queued(bench, control_image="https://example.org/pose.png")
    bench.pictures["https://example.org/pose.png"] = SourceUnavailable("timed out")
    assert bench.run(job) is Outcome.DELAYED
    assert bench.fetched == 1 + 2
    assert bench.run(job) is Outcome.ENDED
    assert bench.result(job).error == "control_image: timed out"


def test_neither_picture_s_secrets_are_in_the_sidecar(bench: Bench) -> None:
    uris = {name: f"https://me:hunter2@example.org/{name}.png?sig=hunter2" for name in ("image", "control_image")}
    job = queued(bench, **uris)
    bench.run(job)
    sidecar = bench.storage.objects[job.sidecar_uri].decode()
    assert "hunter2" not in sidecar
    parameters = RenderResult.model_validate_json(sidecar).parameters
    assert parameters is not None
    assert parameters.control_image == "https://…@example.org/control_image.png?sig=…"


def test_a_permanent_error_fails_the_job_at_once_with_its_sentence(bench: Bench) -> None:
    job = queued(bench)
    bench.picture = SourceNotFound("/a.png does not exist")
    assert bench.run(job) is Outcome.ENDED
    result = bench.result(job)
    assert (result.state, result.error_kind, result.error) == ("failed", "source_not_found", "/a.png does not exist")
    assert bench.fetched == 1
    assert bench.storage.order == []


def test_a_transient_error_is_tried_again_in_place_then_later_then_fails(bench: Bench) -> None:
    job = queued(bench)
    bench.picture = SourceUnavailable("timed out")
    assert bench.run(job) is Outcome.DELAYED
    assert bench.fetched == 2
    assert bench.state(job) == ("queued", 1)
    assert bench.ledger.delayed() == 1
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job) == ("failed", 2)
    assert bench.result(job).error_kind == "source_unavailable"


def test_an_upload_that_works_the_second_time_is_a_success(bench: Bench) -> None:
    job = queued(bench)
    broken = [OutputUnavailable("503")]
    write = bench.storage.write

    def flaky(uri: str, data: bytes, content_type: str) -> None:
        if broken:
            raise broken.pop()
        write(uri, data, content_type)

    bench.storage.write = flaky  # type: ignore[method-assign]
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job)[0] == "done"


@pytest.mark.parametrize("error", [RenderFailed("NaN"), ZeroDivisionError("redis://:hunter2@h")])
def test_whatever_is_raised_becomes_a_result_without_secrets(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job = queued(bench)

    def submit(request: object) -> None:
        raise error

    monkeypatch.setattr(bench.loop, "submit", submit)
    assert bench.run(job) is Outcome.ENDED
    result = bench.result(job)
    assert result.state == "failed"
    assert result.error_kind == ("render_failed" if isinstance(error, RenderFailed) else "unexpected")
    assert "hunter2" not in (result.error or "")


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"version": 1}', "5", 5, None, {"a": 1}])
def test_a_bad_message_is_acknowledged_and_touches_nothing(bench: Bench, text: str) -> None:
    assert bench.runner.run(text) is Outcome.INVALID
    assert bench.runner.in_flight.ids() == []


def test_a_message_of_a_newer_version_is_put_back_and_touches_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.job_runner.NEWER_MESSAGE_PAUSE_SECONDS", 0.0)
    assert bench.runner.run('{"version": 99, "of": "which nothing else is known"}') is Outcome.REQUEUED
    assert bench.runner.in_flight.ids() == []
    assert list(bench.ledger.client.scan_iter("render:batch:*")) == []
    requeued = {"state": "requeued", "kind": "newer_message"}
    assert bench.registry.get_sample_value("render_jobs_total", requeued) == 1


def test_a_worker_that_drains_puts_a_newer_message_back_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.job_runner.NEWER_MESSAGE_PAUSE_SECONDS", 600.0)
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(bench.runner.run, '{"version": 99}')
        bench.runner.shutdown.drain()
        assert ending.result(10) is Outcome.REQUEUED


def test_a_finished_job_is_not_rendered_again(bench: Bench) -> None:
    job = queued(bench)
    bench.run(job)
    assert bench.run(job) is Outcome.ENDED
    assert len(bench.loop.submitted) == 1


def test_a_job_that_another_live_worker_holds_is_left_to_it(bench: Bench) -> None:
    job = queued(bench)
    bench.ledger.beat("other", in_flight=[job.id], lease_seconds=60)
    bench.ledger.start(job, worker="other")
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job) == ("running", 1)
    assert bench.loop.submitted == []


def test_a_failure_here_of_a_job_that_another_live_worker_renders_is_no_failure(bench: Bench) -> None:
    job = queued(bench)

    def read(uri: str, limits: FetchLimits) -> bytes:
        """While this worker stalls, its job is given to another one; then the URL has expired."""
        bench.ledger.retire(WORKER)
        bench.ledger.beat("other", in_flight=[job.id], lease_seconds=60)
        assert bench.ledger.start(job, worker="other").decision == "run"
        raise SourceNotFound("the URL has expired")

    with capture_logs() as lines:
        outcome = replace(bench.runner, read=read).run(job.model_dump_json())
    assert outcome is Outcome.ENDED, lines
    line = bench.ledger.state(job.batch, job.id)
    assert line is not None
    assert (line.state, line.worker, list(bench.ledger.results("b"))) == ("running", "other", [])
    events = [line["event"] for line in lines]
    assert ("end_not_recorded" in events, "job_failed" in events) == (True, False)
    failed = {"state": "failed", "kind": "source_not_found"}
    assert bench.registry.get_sample_value("render_jobs_total", failed) in (None, 0.0)
    assert bench.ledger.finish(make_result(job))
    assert bench.state(job)[0] == "done"


@pytest.mark.parametrize("delete", [False, True])
def test_a_job_that_fails_after_it_has_left_the_ledger_ends(bench: Bench, delete: bool) -> None:
    job = queued(bench)

    def read(uri: str, limits: FetchLimits) -> bytes:
        if delete:
            assert bench.ledger.forget(job.batch, unfinished=True) == "forgotten"
        else:
            bench.ledger.client.flushall()
        raise SourceNotFound("the URL has expired")

    assert replace(bench.runner, read=read).run(job.model_dump_json()) is Outcome.ENDED
    assert bench.ledger.counts(job.batch) == (Counts() if delete else Counts(failed=1))


def test_a_failure_whose_answer_was_lost_is_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = queued(bench)
    bench.picture = SourceNotFound("the URL has expired")
    monkeypatch.setattr("worker.ledger_client.PAUSE_SECONDS", 0.01)
    finish = bench.ledger._scripts.registered["finish"]
    lost = [redis.TimeoutError("slow")]

    def answers_once_more(**call: object) -> object:
        answer = finish(**call)
        if lost:
            raise lost.pop()
        return answer

    monkeypatch.setitem(bench.ledger._scripts.registered, "finish", answers_once_more)
    assert bench.run(job) is Outcome.ENDED
    failed = {"state": "failed", "kind": "source_not_found"}
    assert bench.registry.get_sample_value("render_jobs_total", failed) == 1


def test_a_start_whose_answer_was_lost_is_no_obstacle(bench: Bench) -> None:
    job = queued(bench)
    bench.ledger.start(job, worker=WORKER)  # as if the reply had never come
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job) == ("done", 1)


def test_a_job_that_took_its_workers_down_is_quarantined(bench: Bench) -> None:
    job = queued(bench)
    for dead in ("dead-1", "dead-2", "dead-3"):
        bench.ledger.start(job, worker=dead)
    assert bench.run(job) is Outcome.ENDED
    result = bench.result(job)
    assert (result.state, result.error_kind) == ("failed", "quarantined")
    assert bench.loop.submitted == []


def test_jobs_on_their_last_start_run_one_at_a_time_and_waiting_costs_no_attempt(bench: Bench) -> None:
    hangs, waits = jobs = queued(bench, prompt="takes 60 s"), queued(bench, row=2)
    for job in jobs:
        bench.ledger.start(job, worker="dead-1")
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(bench.run, hangs)
        eventually(lambda: bench.loop.submitted)
        assert bench.run(waits) is Outcome.DELAYED  # its thread is free for others
        assert [bench.state(job) for job in jobs] == [("running", 2), ("queued", 1)]
        assert bench.ledger.delayed() == 1
        bench.runner.in_flight.cancel("b", [hangs.id])
        bench.loop.cancel(hangs.id)
        assert ending.result(30) is Outcome.ENDED
    assert bench.run(waits) is Outcome.ENDED
    assert bench.state(waits) == ("done", 2)


def test_a_sidecar_of_an_attempt_that_died_before_the_ledger_knew_is_taken_over(bench: Bench) -> None:
    job = queued(bench)
    bench.run(job)
    line = bench.ledger.state(job.batch, job.id)
    assert line is not None
    bench.ledger.client.hset(f"render:batch:{job.batch}:states", job.id, "running 1 dead 1.0")
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job)[0] == "done"
    assert len(bench.loop.submitted) == 1


def test_results_name_the_engine_set_and_its_model_and_the_ledger_counts_them(bench: Bench) -> None:
    bench.runner = replace(bench.runner, renderer=replace(bench.runner.renderer, model_name="some-model"))
    job = queued(bench)
    bench.run(job)
    sidecar = RenderResult.model_validate_json(bench.storage.objects[job.sidecar_uri])
    for result in (bench.result(job), sidecar):
        assert (result.engine_set, result.model_name) == ("stub", "some-model")
    expected = EngineSetJobs(engine_set="stub", model="some-model", jobs=1)
    assert bench.ledger.engine_sets(job.batch, read_up_to=0).sets == (expected,)


def test_a_picture_that_was_found_in_storage_counts_for_the_set_that_drew_it(bench: Bench) -> None:
    job = queued(bench)
    bench.run(job)
    sidecar = RenderResult.model_validate_json(bench.storage.objects[job.sidecar_uri])
    bench.ledger.client.flushall()
    enqueue(bench.ledger, [job])
    bench.ledger.start(job, worker="dead")
    other = sidecar.model_copy(update={"engine_set": "another", "model_name": "another-model"})
    bench.storage.write(job.sidecar_uri, other.model_dump_json().encode(), "application/json")
    assert bench.run(job) is Outcome.ENDED
    expected = EngineSetJobs(engine_set="another", model="another-model", jobs=1)
    assert bench.ledger.engine_sets(job.batch, read_up_to=0).sets == (expected,)


def test_two_deliveries_of_one_job_in_one_process_render_once_and_share_the_outcome(bench: Bench) -> None:
    job = queued(bench, prompt="takes 0.3 s")
    with ThreadPoolExecutor(2) as threads:
        endings = list(threads.map(bench.run, [job, job]))
    assert endings == [Outcome.ENDED, Outcome.ENDED]
    assert len(bench.loop.submitted) == 1


def test_the_new_message_of_a_delayed_job_that_meets_its_old_thread_is_not_lost(bench: Bench) -> None:
    job = queued(bench)
    assert bench.runner.in_flight.take(job) is None  # the old thread, which has not learnt yet that it was delayed
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(bench.run, job)
        bench.runner.in_flight.release(job.id, Outcome.DELAYED)
        assert ending.result(30) is Outcome.ENDED
    assert bench.state(job) == ("done", 1)


def test_stopping_requeues_what_is_not_in_the_loop_and_costs_no_attempt(bench: Bench) -> None:
    job = queued(bench)
    bench.runner.shutdown.drain()
    assert bench.run(job) is Outcome.DELAYED
    assert bench.state(job) == ("queued", 0)


def test_a_worker_that_stops_sends_a_new_message_because_its_old_one_may_be_gone(bench: Bench) -> None:
    job = queued(bench)
    bench.ledger.client.delete("render")  # delivered; redelivered after the visibility timeout, and acknowledged there
    bench.runner.shutdown.drain()
    assert bench.run(job) is Outcome.DELAYED
    assert (list(bench.ledger.kombu.queued_ids()), bench.ledger.delayed()) == ([job.id], 0)
    assert take_back(bench.ledger, lease_seconds=10.0) == Reconciled()


def test_stopping_at_once_requeues_what_is_in_the_loop(bench: Bench) -> None:
    job = queued(bench, prompt="takes 60 s")
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(bench.run, job)
        eventually(lambda: bench.loop.submitted)
        bench.runner.shutdown.requeue_all()
        assert ending.result(30) is Outcome.DELAYED
    assert bench.state(job) == ("queued", 0)


def test_a_lost_device_counts_against_the_jobs_that_it_was_lost_under(bench: Bench) -> None:
    job = queued(bench, prompt="takes 60 s")
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(bench.run, job)
        eventually(lambda: bench.loop.stats().active == 1)
        bench.loop.lose_device()
        assert ending.result(30) is Outcome.DELAYED
    assert bench.state(job) == ("queued", 1)


def test_a_cancelled_job_ends_as_cancelled_before_it_is_fetched_or_in_the_loop(bench: Bench) -> None:
    job = queued(bench, prompt="takes 60 s", num_samples=3)
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(bench.run, job)
        eventually(lambda: len(bench.loop.submitted) == 3)
        assert bench.runner.in_flight.cancel("b", ["nobody", job.id]) == [job.id]
        bench.loop.cancel(job.id)
        assert ending.result(30) is Outcome.ENDED
    assert bench.state(job)[0] == "cancelled"
    assert bench.result(job).error_kind == "cancelled"


def test_a_cancellation_that_the_last_worker_did_not_see_is_recorded_by_the_next(bench: Bench) -> None:
    job = queued(bench)
    bench.ledger.start(job, worker="dead")
    bench.ledger.cancel(job.batch, job.id)
    assert bench.run(job) is Outcome.ENDED
    assert (bench.result(job).state, bench.result(job).error_kind, bench.fetched) == ("cancelled", "cancelled", 0)


def test_a_job_whose_row_was_corrected_meanwhile_is_not_rendered(bench: Bench) -> None:
    job = queued(bench)
    queued(bench, prompt="a better house")
    assert bench.run(job) is Outcome.ENDED
    assert (bench.state(job)[0], bench.fetched) == ("superseded", 0)


def test_a_job_that_the_ledger_lost_is_looked_for_in_storage_first(bench: Bench) -> None:
    job = queued(bench)
    bench.run(job)
    bench.ledger.client.flushall()
    assert bench.run(job) is Outcome.ENDED
    assert (bench.fetched, bench.result(job).state) == (1, "done")


def test_one_failed_sample_ends_the_others_and_the_job_fails_with_its_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queued(bench, prompt="takes 60 s", num_samples=2)
    submit = bench.loop.submit

    def second_fails(spec: StubSpec) -> Future[np.ndarray]:
        return submit(replace(spec, fault="NaN in sample 1") if spec.sample == 1 else spec)

    monkeypatch.setattr(bench.loop, "submit", second_fails)
    assert bench.run(job) is Outcome.ENDED
    assert bench.result(job).error == "NaN in sample 1"


def test_moves_in_the_ledger_wait_for_redis_and_give_up_when_the_worker_stops(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queued(bench)
    monkeypatch.setattr("worker.ledger_client.PAUSE_SECONDS", 0.01)
    failures = [redis.ResponseError("READONLY"), redis.ConnectionError("gone"), redis.TimeoutError("slow")]
    finish = bench.ledger._scripts.registered["finish"]

    def flaky(**call: object) -> object:
        if failures:
            raise failures.pop()
        return finish(**call)

    monkeypatch.setitem(bench.ledger._scripts.registered, "finish", flaky)
    assert bench.run(job) is Outcome.ENDED
    assert bench.state(job)[0] == "done"
    assert bench.registry.get_sample_value("render_ledger_retries_total") == 3

    def dead(**call: object) -> object:
        bench.runner.shutdown.requeue_all()
        raise redis.ConnectionError("gone")

    monkeypatch.setitem(bench.ledger._scripts.registered, "start", dead)
    assert bench.run(make_job(2)) is Outcome.REQUEUED


def test_outcomes_are_counted_by_state_and_kind(bench: Bench) -> None:
    bench.run(queued(bench))
    bench.runner.run("garbage")
    bench.runner.shutdown.drain()
    assert bench.run(queued(bench, row=2)) is Outcome.DELAYED
    value = bench.registry.get_sample_value
    assert value("render_jobs_total", {"state": "done", "kind": ""}) == 1
    assert value("render_jobs_total", {"state": "invalid", "kind": "invalid_job"}) == 1
    assert value("render_stage_seconds_count", {"stage": "upload"}) == 1
    assert value("render_jobs_total", {"state": "requeued", "kind": "requeued"}) == 1
