"""Real workers and the web: hosts that limit their visitors, passwords in URLs, and proxies."""

from __future__ import annotations

import base64
from http.server import BaseHTTPRequestHandler

import pytest

from tests.eventually import eventually
from tests.integration.conftest import Site
from tests.jobs.proxy_server import proxy_server
from tests.jobs.rate_limited import RateLimited
from tests.jobs.rows import enqueue
from tests.jobs.web_server import reply, serving


def test_a_host_that_allows_ten_at_a_time_fails_no_row_and_refuses_few(site: Site) -> None:
    host = RateLimited(b"picture", allowed=10, seconds=1.0)
    with serving({}, otherwise=host) as url:
        jobs = [site.job(row, image=f"{url}/{row}.png") for row in range(1, 61)]
        enqueue(site.ledger, jobs)
        site.start(jobs_in_flight=16, allow_hosts="127.0.0.1")
        site.wait_until_done(60)
    site.assert_all_done_once(jobs)
    assert {result.attempts for result in site.ledger.results("b")} == {1}
    assert host.refused <= 30
    assert host.most_refused <= 8


def test_jobs_that_wait_for_a_host_are_given_back_when_the_worker_stops(site: Site) -> None:
    host = RateLimited(b"picture", allowed=1, seconds=40)  # shorter than what a read waits for
    with serving({}, otherwise=host) as url:
        enqueue(site.ledger, [site.job(row, image=f"{url}/{row}.png") for row in range(1, 5)])
        worker = site.start(allow_hosts="127.0.0.1")
        eventually(lambda: host.refused >= 1 and site.ledger.counts("b").done == 1, what="the host refuses")
        worker.terminate()
        assert worker.exit_code() == 0
    counts = site.ledger.counts("b")
    assert (counts.done, counts.queued) == (1, 3)
    assert host.refused <= 3


def test_a_proxy_and_a_password_reach_a_host_that_only_the_proxy_knows(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Authorization"])
        reply(200, b"picture")(handler)

    with serving({}, otherwise=answer) as url, proxy_server() as proxy:
        proxy.names["pictures.test"] = ("127.0.0.1", int(url.rpartition(":")[2]))
        monkeypatch.setenv("http_proxy", proxy.url)
        jobs = [
            site.job(1, image="http://user:p%40ss@pictures.test/a.png"),
            site.job(2, image="http://inside.invalid/a.png"),
        ]
        enqueue(site.ledger, jobs)
        site.start(allow_hosts="pictures.test")
        eventually(lambda: site.ledger.counts("b").finished == 2, what="both jobs finished")
    done, failed = sorted(site.ledger.results("b"), key=lambda result: result.row or 0)
    assert done.state == "done"
    assert (failed.state, failed.error_kind) == ("failed", "source_forbidden")
    assert "RENDER_PROXY_RESOLVES" in (failed.error or "")
    assert seen == ["Basic " + base64.b64encode(b"user:p@ss").decode()]
    assert [line.split()[1] for line in proxy.asked] == ["http://pictures.test/a.png"]
