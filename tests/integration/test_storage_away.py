"""Storage that is away is a pause: pictures wait in memory, no attempt is spent, and nothing is rendered twice."""

from __future__ import annotations

import pytest

from jobs.job import RenderJob
from tests.eventually import eventually
from tests.integration.conftest import Site
from tests.jobs.rows import enqueue, make_job
from tests.tcp_proxy import TcpProxy


def take_away(proxy: TcpProxy) -> None:
    proxy.faults.cut_where = lambda _: True


def bring_back(proxy: TcpProxy) -> None:
    proxy.faults.cut_where = lambda _: False


def jobs_for(site: Site, bucket: str, number: int) -> list[RenderJob]:
    """Rows whose samples are finished when the test says so, with `site.finish()`."""
    jobs = [
        make_job(row, output=f"s3://{bucket}/out", image=site.picture.as_uri(), prompt=site.until_finished)
        for row in range(1, number + 1)
    ]
    enqueue(site.ledger, jobs)
    return jobs


def wait_until_uploads_wait(site: Site, number: int) -> None:
    eventually(lambda: f"render_storage_waits {number}.0" in site.get("/metrics"), what=f"{number} uploads wait")


def test_finished_pictures_wait_in_memory_until_storage_answers(site: Site, bucket: str, proxy: TcpProxy) -> None:
    jobs_for(site, bucket, 8)
    site.start(jobs_in_flight=4, metrics_port=0)
    site.wait_until_in_the_loop(4)  # the probe was written before
    take_away(proxy)
    site.finish()
    wait_until_uploads_wait(site, 4)
    tried = proxy.cut
    eventually(lambda: proxy.cut > tried + 12, what="each upload was tried again and again")
    assert len(site.events("job_started")) == 4  # jobs in flight are the bound: rendering pauses by itself
    bring_back(proxy)
    site.wait_until_done(8)
    assert len(site.events("job_started")) == 8  # none was rendered twice
    assert {result.attempts for result in site.ledger.results("b")} == {1}
    assert site.events("worker_paused") == []


def test_nothing_is_rendered_before_storage_has_answered_once(site: Site, bucket: str, proxy: TcpProxy) -> None:
    take_away(proxy)
    jobs_for(site, bucket, 4)
    site.start(jobs_in_flight=4, metrics_port=0)
    eventually(lambda: len(site.events("job_started")) == 4 and site.events("storage_away"))
    tried = proxy.cut
    eventually(lambda: proxy.cut > tried + 4)
    assert 'stage="fetch"' not in site.get("/metrics")
    site.ledger.cancel("b")
    eventually(lambda: site.ledger.counts("b").cancelled == 4, what="a wait ends when the user cancels")


@pytest.mark.parametrize("is_killed", [False, True], ids=["sigterm", "sigkill"])
def test_a_worker_that_ends_while_storage_is_away_loses_nothing(
    site: Site, bucket: str, proxy: TcpProxy, is_killed: bool
) -> None:
    jobs = jobs_for(site, bucket, 4)
    worker = site.start(jobs_in_flight=4, metrics_port=0, grace_seconds=0.5)
    site.wait_until_in_the_loop(4)
    take_away(proxy)
    site.finish()
    wait_until_uploads_wait(site, 4)
    if is_killed:
        worker.kill()
    else:
        worker.terminate()
        assert worker.exit_code() == 0
        assert (site.ledger.counts("b").queued, site.held, site.ledger.queue_length()) == (4, 0, 4)
        assert {line.attempts for line in site.ledger.states("b")} == {0}
    bring_back(proxy)
    site.start(jobs_in_flight=4)

    site.reconcile_until_done(4)
    assert site.ledger.counts("b").total == len(jobs)
