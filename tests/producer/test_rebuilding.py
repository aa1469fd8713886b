"""Redis that lost its data, and rows that are corrected: the commands, on a real Redis and real files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from jobs.storage.file import FileStore
from tests.producer.conftest import Run
from tests.producer.renderer import render_batch
from tests.producer.tables import write

GOOD = "image,prompt,seed\na.png,a cat,1\nb.png,a dog,2\nc.png,a bird,3\n"


@pytest.fixture(autouse=True)
def quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a rebuilding waits for workers to say what they hold."""
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.01")


@pytest.fixture
def half_done(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    """A batch `jobs` of three rows, of which the first two are done, and a Redis that is empty."""
    write(tmp_path, GOOD.replace("c.png,a bird,3\n", ""))
    run("submit", "jobs.csv")
    render_batch(ledger, "jobs")
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    assert ledger.counts("jobs") == Counts(done=2, queued=1)
    ledger.client.flushall()


def test_reconcile_makes_a_lost_batch_again(run: Run, ledger: Ledger, half_done: None) -> None:
    ran = run("reconcile", "jobs")
    assert ran.code == 0
    (rebuilt,) = ran.record["rebuilt"]
    assert (rebuilt["batch"], rebuilt["recovered"], rebuilt["queued"]) == ("jobs", 2, 1)
    assert ledger.counts("jobs") == Counts(done=2, queued=1)
    assert "5 jobs, of which 2 found done, 0 with a worker, 1 queued" in ran.stderr  # two submissions
    assert len(run("results", "jobs").records) == 2


def test_all_lost_batches_of_the_output_are_made_again(run: Run, ledger: Ledger, half_done: None) -> None:
    assert "producer reconcile --from-storage" in run("reconcile").stderr
    assert ledger.batches() == []
    (rebuilt,) = run("reconcile", "--from-storage").record["rebuilt"]
    assert (rebuilt["batch"], rebuilt["queued"]) == ("jobs", 1)


def test_an_output_without_batches_is_said(run: Run, tmp_path: Path) -> None:
    ran = run("reconcile", "--from-storage", "--output", "not-mounted")
    assert ran.code == 0
    assert "not-mounted holds no batch to rebuild; is that where the results are, and mounted?" in ran.stderr


def test_a_batch_that_cannot_be_made_again_does_not_keep_the_others_back(
    run: Run, ledger: Ledger, half_done: None, tmp_path: Path
) -> None:
    for name in ("away", "deleting"):
        ledger.open_batch(name, output=(tmp_path / "renders").as_uri(), source="jobs.csv")
    (tmp_path / "renders" / "away").mkdir()
    (tmp_path / "renders" / "away" / "manifest").symlink_to("manifest")  # it leads nowhere, so it cannot be listed
    ledger.begin_deletion("deleting")
    ran = run("reconcile", "--from-storage")
    assert ran.code == 6
    assert "batch 'away' was not rebuilt: " in ran.stderr
    assert "batch 'deleting' is being deleted, so it is not rebuilt" in ran.stderr
    assert [rebuilt["batch"] for rebuilt in ran.record["rebuilt"]] == ["jobs"]
    assert ledger.counts("jobs") == Counts(done=2, queued=1)
    assert "lost messages queued again" in ran.stderr  # the pass that follows


def test_an_output_that_would_not_be_looked_at_is_refused(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    ran = run("reconcile", "--output", "renders")
    assert (ran.code, "add --from-storage" in ran.stderr) == (2, True)
    for options in ([], ["--from-storage"]):
        ran = run("reconcile", "jobs", "--output", "elsewhere", *options)
        assert (ran.code, "leave --output out" in ran.stderr) == (2, True)
    assert run("reconcile", "jobs", "--output", "renders").code == 0


def test_a_batch_that_was_written_elsewhere_is_found_there(
    run: Run, ledger: Ledger, half_done: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENDER_OUTPUT_URI", "elsewhere")
    assert run("reconcile", "jobs").code == 5
    assert run("reconcile", "jobs", "--output", "renders").code == 0
    assert ledger.counts("jobs").done == 2


def test_submitting_again_records_what_is_done_and_queues_the_rest(run: Run, ledger: Ledger, half_done: None) -> None:
    record = run("submit", "jobs.csv").record
    assert (record["enqueued"], record["recovered"]) == (1, 2)
    assert ledger.counts("jobs") == Counts(done=2, queued=1)
    assert not ledger.is_rebuilding("jobs")


def test_submitting_again_without_a_manifest_finds_the_sidecars(
    run: Run, ledger: Ledger, half_done: None, tmp_path: Path
) -> None:
    for part in (tmp_path / "renders" / "jobs" / "manifest").iterdir():
        if part.is_file():
            part.unlink()
    assert run("submit", "jobs.csv").record["recovered"] == 2


def test_a_submission_that_was_stopped_while_storage_hung_looks_again_the_next_time(
    run: Run, ledger: Ledger, half_done: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(store: FileStore, folder: str) -> Iterator[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "names", hang)
        ran = run("submit", "jobs.csv")
    assert "Stopped." in ran.stderr
    assert (ledger.batch("jobs") is None, ledger.counts("jobs").total) == (False, 0)
    assert ledger.is_rebuilding("jobs")
    ran = run("submit", "jobs.csv")
    assert (ran.record["enqueued"], ran.record["recovered"]) == (1, 2)
    assert "has files that this Redis knows nothing of" in ran.stderr
    assert not ledger.is_rebuilding("jobs")


def test_a_submission_that_was_stopped_in_the_listing_looks_for_no_job_where_storage_has_nothing(
    run: Run, ledger: Ledger, tmp_path: Path
) -> None:
    write(tmp_path, GOOD)
    ledger.begin_rebuilding("jobs")
    ledger.open_batch("jobs", output=(tmp_path / "renders").as_uri(), source="jobs.csv")
    ran = run("submit", "jobs.csv")
    assert (ran.record["enqueued"], ran.record["recovered"], "not known" in ran.stderr) == (3, 0, False)
    assert not ledger.is_rebuilding("jobs")


def test_signed_urls_are_brought_back_by_their_csv(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\n" + "".join(f"https://example.org/{n}.png?signature={n},x\n" for n in range(3)))
    run("submit", "jobs.csv")
    assert not any(b"signature=" in path.read_bytes() for path in tmp_path.glob("renders/jobs/manifest/*.gz"))
    ledger.client.flushall()
    ran = run("reconcile", "jobs")
    assert (ran.code, ran.record["rebuilt"][0]["withheld"]) == (6, 3)
    assert "Submit the CSV again (with the same options, if it had any)" in ran.stderr
    assert run("submit", "jobs.csv").record["enqueued"] == 3
    assert not ledger.is_rebuilding("jobs")


WITHOUT_SECRETS = [
    "s3://inputs/plain.png",
    "s3://inputs/photo #1.png",
    "s3://inputs/what?.png",
    "s3://inputs/100% %20.png",
    "http://Localhost:7480/ok",
    "http://127.0.0.1:7480/ok#frag",
    "http://[::1]:7480/ok",
    "HTTP://127.0.0.1:7480/OK?w=512&fit=crop",
    "http://reader@h/a.png?v=3f2a9c",
    "file:///a%20%231%3F.png",
    "photo #1?.png",
]


def test_jobs_without_a_secret_are_brought_back_whole(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\n" + "".join(f"{image},x\n" for image in WITHOUT_SECRETS))
    run("submit", "jobs.csv")
    before = {line.id: ledger.job("jobs", line.id) for line in ledger.states("jobs")}
    ledger.client.flushall()
    ran = run("reconcile", "jobs")
    (rebuilt,) = ran.record["rebuilt"]
    assert (ran.code, rebuilt["queued"], rebuilt["withheld"]) == (0, len(WITHOUT_SECRETS), 0)
    assert {line.id: ledger.job("jobs", line.id) for line in ledger.states("jobs")} == before


def test_what_is_recorded_is_what_was_rendered(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    secret = "https://me:hunter2@h/a.png?w=512&sig=hunter2"
    write(tmp_path, "image,prompt\n" + "".join(f"{image},x\n" for image in [*WITHOUT_SECRETS, secret]))
    run("submit", "jobs.csv")
    jobs = (ledger.job("jobs", line.id) for line in ledger.states("jobs"))
    images = {job.row: job.parameters.image for job in jobs if job is not None}
    images[len(images)] = "https://…@h/a.png?w=512&sig=…"
    run("cancel", "jobs")
    assert {record["row"]: record["image"] for record in run("results", "jobs").records} == images


def test_a_damaged_manifest_is_said_and_has_its_exit_code(
    run: Run, ledger: Ledger, half_done: None, tmp_path: Path
) -> None:
    (tmp_path / "renders" / "jobs" / "manifest" / "x.jsonl.gz").write_bytes(b"garbage")
    ran = run("reconcile", "jobs")
    assert ran.code == 6
    assert "x.jsonl.gz is damaged" in ran.stderr
    assert ledger.counts("jobs").total == 3


def test_an_output_that_cannot_be_written_costs_the_manifest_and_nothing_else(
    run: Run, ledger: Ledger, tmp_path: Path
) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "renders").write_bytes(b"in the way")
    ran = run("submit", "jobs.csv")
    assert (ran.code, ran.record["enqueued"], ran.record["manifest_files"]) == (0, 3, None)
    assert "The manifest could not be written" in ran.stderr


def test_a_corrected_row_supersedes_the_one_that_waited(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    write(tmp_path, GOOD.replace("a dog", "a big dog"))
    ran = run("submit", "jobs.csv")
    assert (ran.record["enqueued"], ran.record["replaced"], ran.record["already"]["queued"]) == (1, 1, 2)
    assert "1 earlier version of corrected rows superseded" in ran.stderr
    assert ledger.counts("jobs") == Counts(queued=3, superseded=1)
    render_batch(ledger, "jobs")
    assert [record["prompt"] for record in run("results", "jobs").records] == ["a cat", "a big dog", "a bird"]
    assert run("status", "jobs", "--watch").code == 0


def test_a_corrected_row_that_failed_is_no_failure_any_more(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    render_batch(ledger, "jobs", failing={2})
    write(tmp_path, GOOD.replace("b.png", "bb.png"))
    run("submit", "jobs.csv")
    render_batch(ledger, "jobs")
    assert ledger.counts("jobs") == Counts(done=3, superseded=1)
    assert [record["error"] for record in run("results", "jobs", "--state", "superseded").records] == [
        "no such picture"
    ]
    ran = run("results", "jobs")
    assert (len(ran.records), "--state superseded" in ran.stderr) == (3, True)
    assert "superseded" in run("status", "jobs").stderr
    assert run("retry", "jobs").record["queued"] == 0


def test_taking_a_correction_back_renders_nothing_twice(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    render_batch(ledger, "jobs")
    write(tmp_path, GOOD.replace("a dog", "a big dog"))
    run("submit", "jobs.csv")
    write(tmp_path, GOOD)
    record = run("submit", "jobs.csv").record
    assert (record["enqueued"], record["replaced"], record["already"]["done"]) == (0, 1, 3)
    assert ledger.counts("jobs") == Counts(done=3, superseded=1)
    assert [record["prompt"] for record in run("results", "jobs").records] == ["a cat", "a dog", "a bird"]


def test_rows_of_another_file_supersede_nothing(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD.replace("cat", "horse"), "more.csv")
    run("submit", "jobs.csv")
    run("submit", "more.csv", "--batch", "jobs")
    assert ledger.counts("jobs") == Counts(queued=4)
    write(tmp_path, GOOD.replace("cat", "cow"), "more.csv")
    assert run("submit", "more.csv", "--batch", "jobs").record["replaced"] == 1


def test_a_running_version_that_is_superseded_ends_and_is_not_counted(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    job = next(job for line in ledger.states("jobs") if (job := ledger.job("jobs", line.id)) and job.row == 2)
    ledger.beat("w", in_flight=[job.id], lease_seconds=60)
    ledger.start(job, worker="w")
    write(tmp_path, GOOD.replace("a dog", "a big dog"))
    assert run("submit", "jobs.csv").record["replaced"] == 1
    assert ledger.cancels("jobs") == {job.id}
    ledger.nack(job, worker="w")
    assert ledger.start(job, worker="w").decision == "cancelled"
    assert ledger.counts("jobs") == Counts(queued=3, superseded=1)
    assert ledger.cancels("jobs") == set()
