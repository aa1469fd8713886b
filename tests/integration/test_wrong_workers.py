"""One wrong worker among good ones: it renders nothing, and no job fails for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.job import RenderJob
from tests.eventually import eventually
from tests.integration.conftest import OTHER_DISK, Site
from tests.jobs.rows import enqueue, make_job

SKEWED = "tests.integration.skewed_app"


def paused(site: Site) -> list[str]:
    """The causes of the pauses so far."""
    return [event["cause"] for event in site.events("worker_paused")]


def assert_all_done_by_the_first(site: Site, jobs: list[RenderJob]) -> None:
    """No job failed, no attempt was spent, and the first worker that was started rendered all of them."""
    site.wait_until_done(len(jobs))
    counts = site.ledger.counts("b")
    assert (counts.done, counts.failed, counts.total) == (len(jobs), 0, len(jobs))
    results = list(site.ledger.results("b"))
    assert {result.attempts for result in results} == {1}
    assert {result.worker for result in results} == {site.started[0].events("worker_started")[0]["worker"]}
    eventually(lambda: site.held == 0 and site.ledger.delayed() == 0, what="nothing is left in Redis")
    assert site.ledger.queue_length() == 0


def start_both(site: Site, **wrong: Any) -> None:
    """A good worker, and one that is `wrong`; no job is queued before both live."""
    out = site.folder / "out"
    site.start(output_uri=out, metrics_port=0)
    site.start(**{"output_uri": out} | wrong)
    eventually(lambda: len(site.ledger.workers()) == 2, what="both workers live")
    # A worker says this after its first heartbeat. One that a test kills between them would never say it.
    eventually(lambda: len(site.events("worker_started")) == 2, what="both workers have started")


def test_a_worker_that_may_read_no_folder_gives_its_jobs_back_and_pauses_when_it_is_refuted(site: Site) -> None:
    start_both(site, allow_folders="")
    jobs = site.enqueue(200)
    assert_all_done_by_the_first(site, jobs)
    assert "refuted" in paused(site)
    (event, *_) = site.started[1].events("worker_paused")
    assert "RENDER_ALLOW_FOLDERS" in event["reason"]
    assert site.started[0].events("worker_paused") == []


@pytest.mark.parametrize(
    "wrong",
    [{"allow_folders": "", "output_uri": "elsewhere"}, {"fetch_max_bytes": 3}],
    ids=["output that is not on its list", "a limit that is too low"],
)
def test_other_settings_that_refuse_every_job_fail_none(site: Site, wrong: dict[str, Any]) -> None:
    start_both(site, **wrong)
    assert_all_done_by_the_first(site, site.enqueue(30))


def test_rows_that_every_worker_refuses_fail_at_once_and_stop_no_worker(site: Site) -> None:
    """Rows that name /etc/passwd, at two workers with the same settings."""
    start_both(site)
    jobs = [site.job(row, image="file:///etc/passwd") for row in range(1, 301)]
    enqueue(site.ledger, jobs)
    eventually(lambda: site.ledger.counts("b").finished == 300)
    assert site.ledger.counts("b").failed == 300
    results = list(site.ledger.results("b"))
    assert {result.error_kind for result in results} == {"source_forbidden"}
    (sentence,) = {result.error for result in results}
    assert "add its folder to RENDER_ALLOW_FOLDERS" in (sentence or "")
    assert paused(site) == []
    jobs = site.enqueue(3)  # rows 1 to 3 again, with a picture that may be read
    site.wait_until_done(3)


def test_a_job_fails_once_workers_with_different_settings_have_refused_it_with_what_each_said(site: Site) -> None:
    start_both(site, fetch_max_bytes=3, allow_folders=site.folder)
    other = site.folder.parent / f"{site.folder.name}-other.png"
    other.write_bytes(b"other")
    job = site.job(1, image=other.as_uri())
    site.started[1].kill()
    site.start(allow_folders=other.parent, output_uri=site.folder / "out", fetch_max_bytes=3)
    eventually(
        lambda: len(site.ledger.workers()) == 2 and len(site.events("worker_started")) == 3,
        what="the first and the third worker live",
    )
    enqueue(site.ledger, [job])
    # By chance the same worker may take it again and again, after 2, 4, 8, 16 and then 32 seconds.
    eventually(lambda: site.ledger.counts("b").failed == 1, seconds=240)
    (result,) = site.ledger.results("b")
    assert result.error_kind in ("source_forbidden", "source_too_large")
    assert (result.error or "").startswith("every live worker refused it: ")
    assert "RENDER_ALLOW_FOLDERS" in (result.error or "")
    assert "RENDER_FETCH_MAX_BYTES" in (result.error or "")


def test_a_batch_that_is_kept_to_another_engine_set_fails_with_a_sentence_before_anything_is_fetched(
    site: Site,
) -> None:
    job = RenderJob.create(
        make_job(image="file:///missing.png").parameters,
        batch="b",
        row=1,
        output=(site.folder / "out").as_uri(),
        engine_set="0123456789abcdef",
    )
    site.start()
    enqueue(site.ledger, [job])
    eventually(lambda: site.ledger.counts("b").failed == 1)
    (result,) = site.ledger.results("b")
    assert result.error_kind == "engine_set_not_held"
    assert "kept to engine set 0123456789abcdef, and this worker holds stub" in (result.error or "")


def test_a_worker_whose_clock_is_wrong_takes_no_job(site: Site) -> None:
    site.start()
    skewed = site.start(SKEWED)
    eventually(lambda: skewed.events("worker_paused"))
    assert "3600 s ahead of" in skewed.events("worker_paused")[0]["reason"]
    assert_all_done_by_the_first(site, site.enqueue(10))


# -- disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def can_mount(tmp_path: Path) -> None:
    """Skip where no process may have a disk of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("only root gives a process a disk of its own")
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True)
    if tried.returncode:
        pytest.skip(f"no mount here: {tried.stderr!r}")


@pytest.mark.usefixtures("can_mount")
def test_a_worker_whose_disk_is_read_only_starts_paused_takes_no_job_and_resumes_by_itself(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = site.folder / "out"
    out.mkdir()
    monkeypatch.setenv("OTHER_DISK", f"{out}=ro")
    bad = site.start(OTHER_DISK, output_uri=out)
    eventually(lambda: bad.events("worker_started"))
    (event,) = bad.events("worker_paused")
    assert "read-only" in event["reason"]
    eventually(lambda: [beat.facts.paused for beat in site.ledger.workers().values()] == [event["reason"]])
    jobs = site.enqueue(20)
    site.start(output_uri=out)
    site.wait_until_done(20)
    assert site.ledger.counts("b").failed == 0
    assert {result.worker for result in site.ledger.results("b")} != {bad.events("worker_started")[0]["worker"]}
    assert bad.events("job_refused") == []
    subprocess.run(["nsenter", "-t", str(bad.pid), "-m", "mount", "-o", "remount,rw", out], check=True)
    eventually(lambda: bad.events("worker_resumed"))
    assert len(jobs) == 20


@pytest.mark.usefixtures("can_mount")
def test_a_worker_whose_disk_is_full_gives_its_jobs_back_and_stays_paused_until_there_is_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for the probe is left on it, and none for a picture."""
    out = site.folder / "out"
    out.mkdir()
    site.picture.write_bytes(os.urandom(200_000))  # the stub writes it back as the edges
    site.start(output_uri=out)
    monkeypatch.setenv("OTHER_DISK", f"{out}=size=100k")
    bad = site.start(OTHER_DISK, output_uri=out)
    eventually(lambda: len(site.ledger.workers()) == 2)
    jobs = site.enqueue(50)
    site.wait_until_done(50)
    assert site.ledger.counts("b").failed == 0
    assert {result.worker for result in site.ledger.results("b")} == {
        site.started[0].events("worker_started")[0]["worker"]
    }
    assert len(jobs) == 50
    (event,) = [event for event in bad.events("worker_paused") if event["cause"] == "output"]
    assert "no space left" in event["reason"]
    subprocess.run(["nsenter", "-t", str(bad.pid), "-m", "mount", "-o", "remount,size=50m", out], check=True)
    eventually(lambda: bad.events("worker_resumed"))


@pytest.mark.usefixtures("can_mount")
def test_a_single_worker_whose_disk_is_read_only_fails_the_job_at_once_with_the_sentence(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own RENDER_OUTPUT_URI is elsewhere, so it learns of the disk by the job."""
    out = site.folder / "out"
    out.mkdir()
    monkeypatch.setenv("OTHER_DISK", f"{out}=ro")
    site.start(OTHER_DISK)
    site.enqueue(1)
    eventually(lambda: site.ledger.counts("b").failed == 1)
    (result,) = site.ledger.results("b")
    assert result.error_kind == "output_forbidden"
    assert "read-only" in (result.error or "").lower()


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_worker_with_a_wrong_key_gives_its_jobs_back_and_pauses(
    site: Site, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"s3://{bucket}/out"
    site.start(output_uri=output)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-wrong-key")
    bad = site.start(output_uri=output)
    eventually(lambda: len(site.ledger.workers()) == 2)
    (event,) = bad.events("worker_paused")
    assert "SignatureDoesNotMatch" in event["reason"]
    jobs = [make_job(row, output=output, image=site.picture.as_uri(), prompt="takes 0 s") for row in range(1, 21)]
    enqueue(site.ledger, jobs)
    assert_all_done_by_the_first(site, jobs)
    assert "planted" not in bad.output


def test_a_worker_that_only_starts_creates_nothing(site: Site) -> None:
    out = site.folder / "results"
    worker = site.start(output_uri=out)
    eventually(lambda: worker.events("worker_started"))
    worker.terminate()
    assert worker.exit_code() == 0
    assert not out.exists()
