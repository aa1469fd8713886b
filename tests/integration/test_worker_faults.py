"""Workers that are killed, stopped or cut off: no job is lost, and none is recorded twice."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import redis

from jobs.ledger.ledger import Ledger
from jobs.ledger.message import celery_message
from jobs.ledger.reconcile import reconcile
from tests.eventually import eventually
from tests.integration.conftest import REAL, Site, StartSite
from tests.jobs.rows import enqueue
from tools.embedded_redis import EmbeddedRedis


def test_after_kill_9_mid_render_a_new_worker_finishes_every_job_within_seconds(site: Site) -> None:
    jobs = site.enqueue(8, seconds=0.5)
    worker = site.start(jobs_in_flight=4)
    site.wait_until_done(4)  # the first four end together, so the others have just begun
    eventually(lambda: site.ledger.counts("b").running)
    worker.kill()
    assert site.held > 0
    eventually(lambda: not site.ledger.workers(), what="the dead worker's lease has ended")
    reconcile(site.ledger, lease_seconds=1.0, settle_seconds=0.1)
    assert site.ledger.counts("b").running == 0  # one pass suffices: nothing waits for the visibility timeout
    site.start(jobs_in_flight=4)
    site.reconcile_until_done(8)
    site.assert_all_done_once(jobs, after_a_fault=True)
    assert max(result.attempts for result in site.ledger.results("b")) == 2


def test_without_a_reconciler_the_visibility_timeout_brings_a_killed_workers_jobs_back(site: Site) -> None:
    jobs = site.enqueue(3, seconds=600)
    worker = site.start(visibility_timeout_seconds=5)
    eventually(lambda: len(site.events("job_started")) == 3)
    worker.kill()
    client = site.ledger.client
    for tag in client.zrange("unacked_index", 0, -1):
        client.zincrby("unacked_index", -10, str(tag))  # as if the messages had been delivered ten seconds earlier
    eventually(lambda: not site.ledger.workers())
    site.start(visibility_timeout_seconds=5)
    eventually(lambda: site.ledger.counts("b").running == 3 and site.ledger.queue_length() == 0)
    eventually(lambda: len(site.events("job_started")) == 6)
    assert [event["attempts"] for event in site.events("job_started")[3:]] == [2, 2, 2]
    assert len(jobs) == 3


def test_a_job_that_takes_its_workers_down_is_quarantined_and_the_others_are_rendered(site: Site) -> None:
    jobs = [site.job(1, prompt="kills the process"), *(site.job(row) for row in range(2, 6))]
    site.ledger.open_batch("b", output=jobs[0].output, source="jobs.csv")
    site.ledger.enqueue(jobs)

    def failed() -> bool:
        if not site.started or not site.started[-1].alive:
            site.start(jobs_in_flight=2)
        reconcile(site.ledger, lease_seconds=1.0, settle_seconds=0.1)
        return site.ledger.counts("b").finished == 5

    eventually(failed)
    (bad,) = [result for result in site.ledger.results("b") if result.state == "failed"]
    assert (bad.id, bad.error_kind) == (jobs[0].id, "quarantined")
    assert site.ledger.counts("b").done == 4
    assert len(site.started) == 4


@pytest.mark.parametrize(
    ("signals", "grace"),
    [([signal.SIGTERM], 0.3), ([signal.SIGTERM, signal.SIGTERM], 300), ([signal.SIGQUIT], 300)],
    ids=["grace-period-ends", "second-sigterm", "sigquit"],
)
def test_stopping_hands_back_what_it_does_not_finish(site: Site, signals: list[signal.Signals], grace: float) -> None:
    site.enqueue(6, seconds=600)
    worker = site.start(jobs_in_flight=4, grace_seconds=grace)
    eventually(lambda: site.ledger.counts("b").running == 4)
    for number in signals:
        worker.signal(number)
        if number != signal.SIGQUIT:
            eventually(lambda: site.events("draining"))
    assert worker.exit_code() == 0  # the jobs would take ten minutes, a second SIGTERM would wait five
    assert (site.ledger.counts("b").queued, site.held, site.ledger.queue_length()) == (6, 0, 6)
    assert {line.attempts for line in site.ledger.states("b")} == {0}
    assert site.ledger.workers() == {}


def test_a_supervisor_that_asks_again_and_again_reads_no_crash_in_the_exit_code(site: Site) -> None:
    worker = site.start()
    eventually(lambda: site.events("worker_started"))
    worker.terminate()
    eventually(lambda: site.events("worker_stopped"))
    while worker.alive:  # while Python ends
        worker.terminate()
        time.sleep(0.002)
    assert worker.exit_code() == 0


def test_sigterm_finishes_what_runs_within_the_grace_period(site: Site) -> None:
    enqueue(site.ledger, [site.job(row, prompt=site.until_finished) for row in range(1, 9)])
    worker = site.start(jobs_in_flight=4, grace_seconds=300, metrics_port=0)
    site.wait_until_in_the_loop(4)
    worker.terminate()
    eventually(lambda: site.events("draining"))
    site.finish()
    assert worker.exit_code() == 0
    assert (site.ledger.counts("b").done, site.ledger.counts("b").queued) == (4, 4)
    assert (site.held, site.ledger.queue_length()) == (0, 4)


def test_a_lost_device_ends_the_process_with_its_own_code_after_handing_its_jobs_back(site: Site) -> None:
    renders, breaks = site.job(1, seconds=600), site.job(2, prompt="breaks the device")
    site.ledger.open_batch("b", output=renders.output, source="jobs.csv")
    site.ledger.enqueue([renders])
    worker = site.start(metrics_port=0)
    site.wait_until_in_the_loop(1)
    site.ledger.enqueue([breaks])
    assert worker.exit_code() == 5
    assert (site.ledger.counts("b").queued, site.held, site.ledger.queue_length()) == (2, 0, 2)
    assert {line.attempts for line in site.ledger.states("b")} == {1}
    (event,) = site.events("device_lost")
    assert "the device is gone" in event["error"]


def test_a_job_delivered_twice_renders_once(site: Site) -> None:
    jobs = site.enqueue(3, seconds=0.3)
    for job in jobs:
        for _ in range(2):
            site.ledger.client.lpush("render", celery_message(job, queue="render"))
    site.start(jobs_in_flight=8)
    site.wait_until_done(3)
    eventually(lambda: site.held == 0 and site.ledger.queue_length() == 0)
    site.assert_all_done_once(jobs)
    assert len(site.events("job_done")) == 3


def test_a_message_lost_between_redis_and_the_worker_is_found_by_the_reconciler(site: Site) -> None:
    jobs = site.enqueue(4)
    site.ledger.client.rpop("render")
    site.start()
    site.reconcile_until_done(4)
    site.assert_all_done_once(jobs)


def test_connections_cut_by_redis_are_made_again_and_no_job_renders_twice(site: Site) -> None:
    jobs = site.enqueue(6, seconds=1.0)
    site.start(jobs_in_flight=8)  # room for more jobs, so that the worker is waiting in a BRPOP
    eventually(lambda: site.ledger.counts("b").running == 6)
    site.ledger.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    site.wait_until_done(6)
    site.assert_all_done_once(jobs)
    assert len(site.events("job_done")) == 6
    assert site.events("delivered_twice")


def test_redis_away_for_seconds_is_survived_and_every_job_is_recorded_once(
    start_site: StartSite, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "redis", options=("--appendfsync", "always")) as server:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            site = start_site(server.url, Ledger(client))
            jobs = [site.job(row, seconds=0.3 if row <= 2 else 1.5) for row in range(1, 9)]
            enqueue(site.ledger, jobs)
            worker = site.start(jobs_in_flight=4)
            site.wait_until_done(2)
            server.kill()
            # Jobs end meanwhile, and the worker cannot record it yet.
            eventually(lambda: site.events("ledger_unavailable"))
            server.start()
            site.reconcile_until_done(8)
            assert worker.alive
            site.assert_all_done_once(jobs, after_a_fault=True)


def test_a_worker_started_before_redis_waits_for_it(start_site: StartSite) -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        server.stop()
        site = start_site(server.url, Ledger(client))
        worker = site.start()
        eventually(lambda: site.events("heartbeat_failed"))
        server.start()
        jobs = site.enqueue(2)
        site.wait_until_done(2)
        site.assert_all_done_once(jobs)
        assert worker.alive


def test_sigterm_while_engines_load_ends_the_worker_without_taking_a_job(site: Site) -> None:
    site.enqueue(3)
    worker = site.start(REAL, engine_dir="fake:", metrics_port=0)
    eventually(lambda: site.events("health_listens"))  # the engines load from now on; importing torch takes a while
    worker.terminate()
    assert worker.exit_code(seconds=60) == 0
    assert (site.ledger.queue_length(), site.held, site.ledger.counts("b").queued) == (3, 0, 3)


def test_sigterm_while_redis_is_away_ends_the_worker(start_site: StartSite) -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        server.stop()
        site = start_site(server.url, Ledger(client))
        worker = site.start()
        eventually(lambda: site.events("heartbeat_failed"))
        worker.terminate()
        assert worker.exit_code() == 0
