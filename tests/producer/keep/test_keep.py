"""`producer keep` as a process: HTTP, Redis going away and coming back, and its end."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.ledger.keys import BATCHES, batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.redis_client import connected
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_jobs, make_result
from tests.producer.conftest import Run
from tests.producer.keep.process import KeepProcess
from tools.embedded_redis import EmbeddedRedis


@pytest.fixture
def keep(redis_url: str, tmp_path: Path) -> Iterator[KeepProcess]:
    with KeepProcess(tmp_path / "keep.log", environment={"RENDER_REDIS_URL": redis_url}) as keep:
        yield keep.until_ready()


def test_probes_metrics_and_page(keep: KeepProcess) -> None:
    assert keep.get("/healthz")[:2] == (200, "alive\n")
    assert keep.get("/readyz").status == 200
    assert keep.metrics()["render_redis_up"] == 1
    page = keep.get("/")
    assert page.text.startswith("<!doctype html>")
    for name in ("page.css", "page.js", "icon.svg"):
        assert name in page.text
        assert keep.get(f"/{name}").status == 200
    assert keep.get("/api/overview").headers["content-type"].startswith("application/json")


def test_the_page_is_isolated_from_all_other_sites(keep: KeepProcess) -> None:
    for path in ("/", "/page.js", "/api/overview", "/api/batches/none", "/nothing"):
        headers = keep.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_a_name_that_another_site_may_own_reads_nothing(keep: KeepProcess) -> None:
    evil = {"Host": f"evil.example:{keep.port}"}
    for path in ("/", "/api/overview", "/api/batches/b", f"/pictures/b/{'0' * 20}/0"):
        assert keep.get(path, headers=evil).status == 421
    for path in ("/healthz", "/readyz", "/metrics"):
        assert keep.get(path, headers=evil).status == 200


NOWHERE = (
    "/page.html",
    "/static/page.js",
    "/../keep/site.py",
    "/..%2f..%2fetc/passwd",
    "//etc/passwd",
    "/api/batches/",
    "/api/batches/..",
    "/api/batches/a/b",
    "/api/batches/%2e%2e",
    "/api/batches/none",
    "/pictures/b/x/0",
    f"/pictures/b/{'0' * 20}/0",
    f"/pictures/b/{'0' * 20}/-1",
    f"/pictures/b/{'0' * 20}/999",
    f"/pictures/b/{'0' * 20}/0?uri=file:///etc/passwd",
    "/api",
)


def test_other_paths_lead_nowhere(keep: KeepProcess) -> None:
    assert {path: keep.get(path).status for path in NOWHERE} == dict.fromkeys(NOWHERE, 404)


def test_what_has_not_changed_is_not_sent_again(keep: KeepProcess, redis_url: str) -> None:
    ledger = Ledger(connected(redis_url))
    enqueue(ledger, make_jobs(1))
    eventually(lambda: keep.get("/api/batches/b").status == 200)
    answer = keep.get("/api/batches/b")
    again = keep.get("/api/batches/b", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.text) == (304, "")
    ledger.close()


def test_it_reconciles_for_ever_and_a_damaged_batch_stops_nothing(keep: KeepProcess, redis_url: str) -> None:
    ledger = Ledger(connected(redis_url))
    enqueue(ledger, make_jobs(1, batch="damaged"))
    ledger.client.hset(batch_key("damaged", "states"), make_jobs(1, batch="damaged")[0].id, "queued many")
    enqueue(ledger, make_jobs(3))
    for _ in range(2):
        ledger.client.delete(ledger.queue)
        eventually(lambda: ledger.queue_length() == 3, what="three lost messages queued again")
    assert keep.metrics()["render_reconcile_requeued_total"] == 6
    assert keep.metrics()["render_reconcile_failures_total"] >= 1
    (event,) = keep.events("batch_not_reconciled")  # once, however many passes there were
    assert event["batch"] == "damaged"
    assert keep.get("/healthz").status == keep.get("/readyz").status == 200
    ledger.close()


def test_delayed_jobs_are_fed(keep: KeepProcess, redis_url: str) -> None:
    ledger = Ledger(connected(redis_url))
    (job,) = make_jobs(1)
    enqueue(ledger, [job])
    ledger.start(job, worker="w")
    ledger.client.delete(ledger.queue)
    ledger.defer(job, worker="w", seconds=0.5, refund=True)
    eventually(lambda: ledger.queue_length() == 1 and ledger.delayed() == 0)
    ledger.close()


def test_redis_away_and_back(tmp_path: Path) -> None:
    with EmbeddedRedis() as server:
        environment = {"RENDER_REDIS_URL": server.url}
        with KeepProcess(tmp_path / "keep.log", environment=environment) as keep:
            keep.until_ready()
            server.kill()
            eventually(lambda: keep.get("/readyz").status == 503)
            assert "Redis does not answer" in keep.get("/readyz").text
            assert keep.get("/healthz").status == 200
            metrics = keep.metrics()
            assert metrics["render_redis_up"] == 0
            assert "render_queue_messages" not in metrics
            assert keep.get("/api/batches/b").status == 503
            assert '"up":false' in keep.get("/api/overview").text
            server.start()
            keep.until_ready()
            assert keep.metrics()["render_queue_messages"] == 0
            assert len(keep.events("redis_away")) == 1
            assert keep.end() == 0


def test_it_starts_without_redis(tmp_path: Path) -> None:
    with EmbeddedRedis() as server:
        pass
    with KeepProcess(tmp_path / "keep.log", environment={"RENDER_REDIS_URL": server.url}) as keep:
        eventually(lambda: keep.events("redis_away"))
        assert keep.get("/healthz").status == 200
        assert keep.get("/readyz").status == 503
        with server:
            keep.until_ready()
        assert keep.end() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it(keep: KeepProcess, number: signal.Signals, code: int) -> None:
    assert keep.end(number) == code
    assert "Traceback" not in keep.log.read_text()
    assert keep.events("keep_stopped")


def test_a_signal_ends_it_while_redis_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with KeepProcess(tmp_path / "keep.log", environment={"RENDER_REDIS_URL": url}) as keep:
            assert keep.end() == 0


def test_a_taken_port_is_said_in_a_sentence(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run("keep", "--port", port)
    assert ran.code == 2
    assert f"RENDER_KEEP_PORT: cannot listen on 127.0.0.1 port {port}: Address already in use" in ran.stderr


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "nonsense host", "[::", "", "[]"])
def test_an_address_that_is_not_this_machines(run: Run, host: str) -> None:
    ran = run("keep", "--port", 0, "--host", host)
    assert ran.code == 2
    assert "RENDER_KEEP_HOST" in ran.stderr


def test_a_bad_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDER_KEEP_PORT", "99999")
    ran = run("keep")
    assert ran.code == 2
    assert "RENDER_KEEP_PORT" in ran.stderr


def test_old_batches_leave_where_the_setting_says_so(redis_url: str, tmp_path: Path) -> None:
    ledger = Ledger(connected(redis_url))
    for name in ("old", "running"):
        enqueue(ledger, make_jobs(2, batch=name))
    for job in make_jobs(2, batch="old"):
        ledger.finish(make_result(job).model_copy(update={"finished_at": time.time() - 3 * 86400}))
    begun = ledger.batch("old")
    assert begun is not None
    ledger.client.hset(BATCHES, "old", begun.model_copy(update={"created_at": 0.0}).model_dump_json())
    environment = {"RENDER_REDIS_URL": redis_url, "RENDER_KEEP_DAYS": "2.5"}
    with KeepProcess(tmp_path / "keep.log", environment=environment) as keep:
        keep.until_ready()
        eventually(lambda: [info.name for info in ledger.batches()] == ["running"])
        eventually(lambda: "batches_pruned" in (tmp_path / "keep.log").read_text())
