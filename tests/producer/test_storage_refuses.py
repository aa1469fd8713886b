"""Storage whose keys may not look: what was finished may be rendered again, and every command says so, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.ledger import sidecars
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from jobs.storage import s3
from tests.jobs.rows import make_result
from tests.producer.conftest import Run
from tests.producer.odd_s3 import Bucket, odd_s3
from tests.producer.tables import write

GOOD = "image,prompt,seed\na.png,a cat,1\nb.png,a dog,2\nc.png,a bird,3\n"
RIGHTS = "the keys of this machine need s3:GetObject on the output, and s3:ListBucket on its bucket"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Bucket, dict[str, str]]]:
    """One server, and one client of boto3, for all tests: making a client takes a second."""
    with odd_s3() as (bucket, environment):
        s3.forget_client()
        yield bucket, environment
    s3.forget_client()


@pytest.fixture
def bucket(server: tuple[Bucket, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, whose keys may do everything."""
    bucket, environment = server
    vars(bucket).update(vars(Bucket()))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return bucket


@pytest.fixture
def half_done(run: Run, ledger: Ledger, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch `jobs` of three rows in a bucket, of which the first two are done, and a Redis that is empty."""
    monkeypatch.setenv("RENDER_OUTPUT_URI", "s3://pictures/out")
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.01")
    write(tmp_path, GOOD)
    assert run("submit", "jobs.csv").code == 0
    for line in list(ledger.states("jobs")):
        job = ledger.job("jobs", line.id)
        assert job is not None
        if job.row < 3:
            path = job.sidecar_uri.removeprefix("s3:/")
            bucket.objects[path] = make_result(job).model_dump_json().encode()
    ledger.client.flushall()


def test_with_all_rights_nothing_is_rendered_again_and_nothing_said(run: Run, half_done: None) -> None:
    ran = run("submit", "jobs.csv")
    assert (ran.record["recovered"], ran.record["enqueued"], "s3:ListBucket" in ran.stderr) == (2, 1, False)


def test_keys_that_may_get_and_not_list_find_what_is_done_one_by_one(
    run: Run, ledger: Ledger, bucket: Bucket, half_done: None
) -> None:
    bucket.may_list = False
    ran = run("submit", "jobs.csv")
    assert (ran.code, ran.record["recovered"], ran.record["enqueued"]) == (0, 2, 1)
    assert ran.stderr.count("s3://pictures/out/jobs may not be listed, so each job is looked for by itself") == 1
    assert ran.stderr.count("Whether 1 job of batch 'jobs' had been rendered before is not known") == 1
    assert ran.stderr.count(RIGHTS) == 1
    assert ledger.counts("jobs") == Counts(queued=1, done=2)
    assert not ledger.is_rebuilding("jobs")


def test_keys_that_may_not_get_queue_everything_and_say_so_once(run: Run, bucket: Bucket, half_done: None) -> None:
    bucket.may_list = bucket.may_get = False
    ran = run("submit", "jobs.csv")
    assert (ran.code, ran.record["recovered"], ran.record["enqueued"]) == (0, 0, 3)
    assert ran.stderr.count("Whether 3 jobs of batch 'jobs' had been rendered before is not known") == 1
    assert "finished ones among them will be rendered again" in ran.stderr
    assert ran.stderr.count(RIGHTS) == 1


def test_storage_that_refuses_every_look_is_not_asked_for_each_of_a_million_jobs(
    run: Run, bucket: Bucket, half_done: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecars, "REFUSALS", 5)
    bucket.may_list = bucket.may_get = False
    write(tmp_path, "image,prompt,seed\n" + "".join(f"a.png,a cat,{n}\n" for n in range(600)))
    ran = run("submit", "jobs.csv")
    assert (ran.record["enqueued"], "Whether 600 jobs" in ran.stderr) == (600, True)
    assert sum(request.startswith("GET /pictures/out/jobs/") for request in bucket.refused) < 300


def test_storage_that_does_not_answer_is_told_from_one_that_is_empty(
    run: Run, bucket: Bucket, half_done: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.is_away = True
    monkeypatch.setattr("jobs.submission.TRIES", 1)
    ran = run("submit", "jobs.csv")
    assert (ran.code, ran.record["enqueued"]) == (0, 3)
    assert ran.stderr.count("This Redis knows nothing of batch 'jobs', and storage cannot be asked") == 1


def test_reconcile_says_which_right_it_lacks_and_not_that_there_is_no_such_batch(
    run: Run, bucket: Bucket, half_done: None
) -> None:
    bucket.may_list = False
    for arguments in (("jobs",), ("jobs", "--from-storage")):
        ran = run("reconcile", *arguments)
        assert ran.code == 6
        assert "s3://pictures/out/jobs holds a manifest of batch 'jobs' is not known" in ran.stderr
        assert (RIGHTS in ran.stderr, "no batch" in ran.stderr) == (True, False)
    ran = run("reconcile", "--from-storage")
    assert ran.code == 6
    assert "which batches s3://pictures/out holds is not known" in ran.stderr
    assert RIGHTS in ran.stderr


def test_a_manifest_that_may_be_listed_and_not_read_is_told_too(run: Run, bucket: Bucket, half_done: None) -> None:
    bucket.may_get = False
    ran = run("reconcile", "jobs")
    assert (ran.code, RIGHTS in ran.stderr, "no batch" in ran.stderr) == (6, True, False)


def test_reconcile_queues_what_it_may_not_look_at_and_says_so(
    run: Run, ledger: Ledger, bucket: Bucket, half_done: None
) -> None:
    bucket.hidden = lambda path: "/manifest/" not in path
    ran = run("reconcile", "jobs")
    (rebuilt,) = ran.record["rebuilt"]
    assert (ran.code, rebuilt["recovered"], rebuilt["queued"], rebuilt["unknown"]) == (0, 0, 3, 3)
    assert ran.stderr.count("Whether 3 jobs of batch 'jobs' had been rendered before is not known") == 1
    assert ledger.counts("jobs") == Counts(queued=3)
