"""Redis restarted empty in mid-batch: everything in it is lost, and no finished picture is rendered again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from jobs.ledger.ledger import Ledger
from jobs.ledger.rebuild import Rebuilt, rebuild
from jobs.ledger.records import Counts
from jobs.storage.store import store_for
from jobs.submission import SubmissionHead, SubmissionWriter
from tests import forked
from tests.integration.conftest import Site, StartSite
from tests.jobs.rows import make_job, make_result
from tools.embedded_redis import EmbeddedRedis

ROWS = 40


@pytest.fixture
def forgetful(start_site: StartSite) -> Iterator[tuple[EmbeddedRedis, Site]]:
    """A Redis that loses its data when it is killed, and a site on it with a CSV of ROWS rows."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        site = start_site(server.url, Ledger(client))
        rows = "".join("picture.png,takes 0.1 s\n" for _ in range(ROWS))
        (site.folder / "b.csv").write_text("image,prompt\n" + rows)
        yield server, site


def begin(site: Site, *arguments: str) -> forked.ForkedProcess:
    """Start a `producer` command."""
    variables = {
        "RENDER_REDIS_URL": site.redis_url,
        "RENDER_OUTPUT_URI": str(site.folder / "out"),
        "RENDER_HEARTBEAT_SECONDS": "0.5",
        "RENDER_LEASE_SECONDS": "1",
    }
    return forked.start("producer", *arguments, environment=variables)


def end(command: forked.ForkedProcess) -> dict[str, Any]:
    with command:
        stdout, stderr = command.communicate(timeout=60)
    assert command.returncode == 0, stderr
    record: dict[str, Any] = json.loads(stdout)
    return record


def submit(site: Site) -> dict[str, Any]:
    return end(begin(site, "submit", str(site.folder / "b.csv")))


def lose_everything(server: EmbeddedRedis) -> None:
    server.kill()
    server.start()


def pictures(folder: Path) -> dict[str, int]:
    """The finished pictures, and when they were written."""
    done = {path.stem for path in folder.glob("*.json")}
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*_0.png") if path.name[:20] in done}


def assert_each_rendered_once(site: Site, before: dict[str, int]) -> None:
    """The pictures of `before`, finished when Redis lost its data, have not been written again."""
    after = pictures(site.folder / "out" / "b")
    assert len(after) == ROWS
    assert {name: after[name] for name in before} == before
    assert site.ledger.counts("b") == Counts(done=ROWS)
    assert len(list(site.ledger.results("b"))) == ROWS
    rendered = Counter(event["job"] for event in site.events("job_done"))
    assert set(rendered.values()) == {1}


@pytest.mark.parametrize("command", ["reconcile", "submit"])
def test_after_one_command_the_batch_completes_and_nothing_is_rendered_twice(
    forgetful: tuple[EmbeddedRedis, Site], command: str
) -> None:
    server, site = forgetful
    submit(site)
    for _ in range(2):
        site.start(jobs_in_flight=2)
    site.wait_until_done(10)
    lose_everything(server)
    before = pictures(site.folder / "out" / "b")
    again: Callable[[], dict[str, Any]] = {
        "reconcile": lambda: end(begin(site, "reconcile", "b")),
        "submit": lambda: submit(site),
    }[command]
    recovered = again()
    assert len(before) >= 10
    if command == "submit":  # it found them in storage, unless their worker told the new Redis sooner
        assert recovered["recovered"] + recovered["already"]["done"] >= len(before)
    site.wait_until_done(ROWS)
    assert_each_rendered_once(site, before)


def test_a_submit_that_waits_for_the_batch_rebuilds_it(forgetful: tuple[EmbeddedRedis, Site]) -> None:
    server, site = forgetful
    waiting = begin(site, "submit", str(site.folder / "b.csv"), "--wait")
    for _ in range(2):
        site.start(jobs_in_flight=2)
    site.wait_until_done(10)
    lose_everything(server)
    before = pictures(site.folder / "out" / "b")
    assert end(waiting)["counts"]["done"] == ROWS
    assert_each_rendered_once(site, before)


def test_with_no_worker_left_the_next_one_finishes_the_rest(forgetful: tuple[EmbeddedRedis, Site]) -> None:
    server, site = forgetful
    submit(site)
    worker = site.start(jobs_in_flight=2)
    site.wait_until_done(5)
    worker.kill()
    lose_everything(server)
    before = pictures(site.folder / "out" / "b")
    (rebuilt,) = end(begin(site, "reconcile", "b"))["rebuilt"]
    assert (rebuilt["recovered"], rebuilt["held"]) == (len(before), 0)
    assert rebuilt["recovered"] + rebuilt["queued"] == ROWS
    site.start(jobs_in_flight=4)
    site.wait_until_done(ROWS)
    after = pictures(site.folder / "out" / "b")
    assert {name: after[name] for name in before} == before


def test_a_message_that_outlived_the_ledger_finds_the_finished_picture(site: Site) -> None:
    """kombu requeues the messages of a stopping worker, even in a Redis that has lost their jobs."""
    (job,) = site.enqueue(1)
    message = str(site.ledger.client.lindex("render", 0))
    site.start()
    site.wait_until_done(1)
    before = pictures(site.folder / "out" / "b")
    site.ledger.client.flushall()
    site.ledger.client.lpush("render", message)
    site.wait_until_done(1)
    assert pictures(site.folder / "out" / "b") == before
    assert [result.id for result in site.ledger.results("b")] == [job.id]


def test_a_batch_in_a_bucket_is_rebuilt(ledger: Ledger, bucket: str) -> None:
    output = f"s3://{bucket}/renders"
    jobs = [make_job(row, output=output) for row in range(1, 6)]
    writer = store_for(output)
    manifest = SubmissionWriter(writer, output, SubmissionHead(batch="b", source="jobs.csv", submitted_at=1.0))
    manifest.add(jobs)
    manifest.close()
    writer.write(jobs[2].sidecar_uri, make_result(jobs[2]).model_dump_json().encode(), "application/json")
    assert set(writer.names(f"{output}/b")) == {"manifest/", f"{jobs[2].id}.json"}
    assert list(writer.names(f"{output}/nothing")) == []
    assert rebuild(ledger, "b", output=output, store=writer, settle_seconds=0) == Rebuilt(jobs=5, recovered=1, queued=4)
    assert ledger.counts("b") == Counts(queued=4, done=1)
