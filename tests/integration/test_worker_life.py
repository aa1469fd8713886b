"""A worker from start to stop, without faults."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests.eventually import eventually
from tests.integration.conftest import REAL, Site
from tests.jobs.rows import enqueue


def test_jobs_are_rendered_recorded_and_acknowledged_and_sigterm_ends_with_0(site: Site) -> None:
    jobs = site.enqueue(20, seconds=0.05)
    site.afresh = True
    worker = site.start(metrics_port=0)
    site.wait_until_done(20)
    site.assert_all_done_once(jobs)
    assert site.get("/healthz") == "alive\n"
    assert site.get("/readyz") == "alive\n"
    # The ledger knows a job's end before the worker has counted it.
    for line in ('render_jobs_total{kind="",state="done"} 20.0', "render_jobs_in_flight 0.0"):
        eventually(partial(metric_is, site, line), what=line)
    worker.terminate()
    assert worker.exit_code() == 0
    assert site.ledger.workers() == {}


def metric_is(site: Site, line: str) -> bool:
    return line in site.get("/metrics")


def test_as_many_jobs_render_at_once_as_may_be_in_flight(site: Site) -> None:
    site.enqueue(6, seconds=600)
    site.start(jobs_in_flight=4)
    eventually(lambda: site.ledger.counts("b").running == 4)
    eventually(lambda: [len(beat.in_flight) for beat in site.ledger.workers().values()] == [4])
    assert site.ledger.queue_length() == 2


def test_a_cancelled_running_job_ends_at_the_next_heartbeat(site: Site) -> None:
    site.enqueue(2, seconds=600)
    site.start(jobs_in_flight=1)
    eventually(lambda: site.ledger.counts("b").running == 1)
    site.ledger.cancel("b")
    eventually(lambda: site.ledger.counts("b").cancelled == 2)
    eventually(lambda: site.held == 0 and site.ledger.queue_length() == 0)


def test_a_cancelled_queued_job_is_not_rendered(site: Site) -> None:
    jobs = site.enqueue(2)
    site.ledger.cancel("b", jobs[0].id)
    site.start()
    site.wait_until_done(1)
    eventually(lambda: site.held == 0 and site.ledger.queue_length() == 0)
    assert [event["decision"] for event in site.events("not_rendered")] == ["cancelled"]
    assert site.ledger.counts("b").cancelled == 1


def test_jobs_of_two_workers_do_not_overlap(site: Site) -> None:
    site.start()
    site.start()
    # On a busy machine one worker could end all jobs before the other has started.
    eventually(lambda: site.workers_waiting == 2, what="both workers wait at the queue")
    jobs = site.enqueue(30, seconds=0.5)
    site.wait_until_done(30)
    site.assert_all_done_once(jobs)
    assert len(site.events("job_done")) == 30
    assert {result.worker for result in site.ledger.results("b")} == {
        event["worker"] for event in site.events("worker_started")
    }


def test_a_missing_engine_set_ends_the_process_with_its_own_code_and_a_sentence(site: Site) -> None:
    jobs = site.enqueue(1)
    worker = site.start(REAL, engine_dir=site.folder / "nowhere")
    assert worker.exit_code(seconds=60) == 4
    (event,) = site.events("engine_set_refused")
    assert "nowhere" in event["error"]
    assert "Traceback" not in worker.output
    assert site.ledger.queue_length() == len(jobs)


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("jobs_in_flight", "many", "RENDER_JOBS_IN_FLIGHT"),
        ("lease_seconds", "0.1", "RENDER_LEASE_SECONDS"),
    ],
)
def test_a_bad_setting_ends_the_process_with_its_own_code_and_its_name(
    site: Site, variable: str, value: str, named: str
) -> None:
    worker = site.start(REAL, **{variable: value})
    assert worker.exit_code() == 3
    assert named in worker.output
    assert "Traceback" not in worker.output


def test_a_taken_metrics_port_is_a_bad_setting(site: Site) -> None:
    site.start(metrics_port=0)
    eventually(lambda: site.events("health_listens"))
    port = site.events("health_listens")[0]["port"]
    second = site.start(metrics_port=port)
    assert second.exit_code() == 3
    assert "RENDER_METRICS_PORT" in second.output


def test_a_job_whose_picture_is_missing_fails_and_the_others_are_rendered(site: Site) -> None:
    jobs = [site.job(1), site.job(2, image=(site.folder / "no.png").as_uri()), site.job(3)]
    enqueue(site.ledger, jobs)
    site.start()
    site.wait_until_done(2)
    eventually(lambda: site.ledger.counts("b").failed == 1)
    (failed,) = [result for result in site.ledger.results("b") if result.state == "failed"]
    assert (failed.id, failed.error_kind) == (jobs[1].id, "source_not_found")


def test_the_worker_as_it_is_deployed_renders_with_fake_engines(site: Site) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(site.picture)
    jobs = [site.job(row, image_resolution=64, ddim_steps=2 + row % 3, num_samples=1) for row in range(1, 9)]
    enqueue(site.ledger, jobs)
    worker = site.start(REAL, engine_dir="fake:step_ms=5,max_batch=4")
    site.wait_until_done(8, seconds=60)
    site.assert_all_done_once(jobs)
    assert site.events("fake_engines")
    with Image.open(site.folder / "out" / "b" / f"{jobs[0].id}_0.png") as png:
        assert png.size == (64, 64)
        assert "Steps: 3" in png.info["parameters"]
    worker.terminate()
    assert worker.exit_code() == 0
