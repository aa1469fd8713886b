"""Deleting batches beside real workers, on a real Redis and a real S3 server, and deletions that are killed."""

from __future__ import annotations

import io
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from jobs.storage.store import store_for
from tests import forked
from tests.eventually import eventually
from tests.integration.conftest import Site
from tests.jobs.rows import make_result
from tests.odd_s3_store import odd_store


def producer(folder: Path, redis_url: str, *arguments: str, **variables: str) -> forked.ForkedProcess:
    environment = {"RENDER_REDIS_URL": redis_url, "RENDER_HEARTBEAT_SECONDS": "0.2"} | variables
    return forked.start("producer", *arguments, environment=environment, folder=folder)


def run(folder: Path, redis_url: str, *arguments: str, **variables: str) -> tuple[int | None, str]:
    with producer(folder, redis_url, *arguments, **variables) as process:
        _, said = process.communicate(timeout=120)
    return process.returncode, said


def nothing_is_left(ledger: Ledger) -> bool:
    keys = list(ledger.client.scan_iter("render:batch:*"))
    return not keys and ledger.queue_length() == ledger.delayed() == ledger.client.hlen("unacked") == 0


def test_workers_outlive_a_batch_that_was_deleted_under_their_hands(site: Site, ledger: Ledger) -> None:
    """They end what they have and are given what is left in the queue. Neither comes back."""
    site.enqueue(30, seconds=0.5)
    worker = site.start()
    eventually(lambda: ledger.counts("b").running >= 4, what="the worker is at work")
    assert ledger.forget("b", unfinished=True) == "forgotten"
    eventually(lambda: nothing_is_left(ledger), what="all messages are acknowledged")
    assert worker.alive
    assert not site.events("job_broke") + site.events("loop_broke") + site.events("outcome_not_reported")
    jobs = site.enqueue(2)  # the same batch, submitted again
    site.wait_until_done(2)
    assert ledger.counts("b") == Counts(done=len(jobs))


def test_a_forced_deletion_stops_the_workers_jobs_and_leaves_no_file(
    site: Site, redis_url: str, ledger: Ledger
) -> None:
    site.enqueue(12, seconds=0.3)
    worker = site.start()
    eventually(lambda: ledger.counts("b").done >= 2, what="some are done")
    code, said = run(site.folder, redis_url, "delete", "b", "--results", "--force", "--yes")
    assert code == 0, said
    eventually(lambda: nothing_is_left(ledger), what="nothing is left in Redis")
    eventually(lambda: not ledger.jobs_in_flight(), what="the worker has let go")
    assert not (site.folder / "out" / "b").exists()
    assert worker.alive


def test_a_deletion_that_is_killed_is_ended_by_the_same_command(
    redis_url: str, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with odd_store() as store:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": store.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "RENDER_OUTPUT_URI": "s3://pictures/out",
        }.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "jobs.csv").write_text("image,prompt\n" + "".join(f"{row}.png,x\n" for row in range(50)))
        assert run(tmp_path, redis_url, "submit", "jobs.csv")[0] == 0
        for line in list(ledger.states("jobs")):
            job = ledger.job("jobs", line.id)
            assert job is not None
            for uri in (job.sample_uri(0), job.canny_uri, job.sidecar_uri):
                store.objects[uri.removeprefix("s3:/")] = b"{}"
            ledger.finish(make_result(job))
        process = producer(tmp_path, redis_url, "delete", "jobs", "--results", "--yes")
        deleted, lock = iter(range(40)), threading.Lock()

        def kill_in_the_middle(method: str, path: str, key: str) -> None:
            with lock:
                if method == "DELETE" and next(deleted, None) is None and process.poll() is None:
                    process.send_signal(signal.SIGKILL)

        store.refuse = kill_in_the_middle
        with process:
            process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        store.refuse = lambda method, path, key: None
        assert 50 < len(store.objects) < 151
        assert ledger.counts("jobs") == Counts(done=50)
        assert run(tmp_path, redis_url, "submit", "jobs.csv")[0] == 5
        code, said = run(tmp_path, redis_url, "delete", "jobs", "--results", "--yes")
        assert (code, store.objects) == (0, {}), said
        assert nothing_is_left(ledger)


def test_a_csv_and_its_results_in_a_real_bucket(
    redis_url: str, ledger: Ledger, tmp_path: Path, bucket: str, server: Any
) -> None:
    csv, output = f"s3://{bucket}/in/ü 1/jobs.csv", f"s3://{bucket}/out"
    server.put_object(Bucket=bucket, Key="in/ü 1/jobs.csv", Body=b"image,prompt\na b#?.png,x\n../c.png,y\nd.png,\n")
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    server.put_object(Bucket=bucket, Key="in/ü 1/a b#?.png", Body=picture.getvalue())
    code, said = run(tmp_path, redis_url, "submit", csv, "--skip-invalid", RENDER_OUTPUT_URI=output)
    assert code == 0, said
    assert f"{csv}:4: prompt: the cell is empty" in said
    rejected = server.get_object(Bucket=bucket, Key="in/ü 1/jobs.rejected.csv")["Body"].read().decode()
    assert rejected.splitlines()[1].endswith(",d.png,")
    store, images = store_for(output), set()
    for line in list(ledger.states("jobs")):
        job = ledger.job("jobs", line.id)
        assert job is not None
        images.add(job.parameters.image)
        for uri in (job.sample_uri(0), job.canny_uri, job.sidecar_uri, f"{job.folder}/kept-{job.row}.txt"):
            store.write(uri, b"{}", "text/plain")
        ledger.finish(make_result(job))
    assert images == {f"s3://{bucket}/in/ü 1/a b#?.png", f"s3://{bucket}/in/c.png"}
    first = next(image for image in images if "#" in image)
    assert store.read(first) == picture.getvalue()
    code, said = run(tmp_path, redis_url, "delete", "jobs", "--results", "--yes", RENDER_OUTPUT_URI=output)
    assert code == 0, said
    assert f"2 files in {output}/jobs did not come from its jobs: they stay" in said
    assert set(store.names_below(output)) == {"jobs/kept-1.txt", "jobs/kept-2.txt"}
    assert nothing_is_left(ledger)
