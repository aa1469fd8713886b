"""`producer delete`, against a real Redis, with files in a folder and in a bucket."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import OutputUnavailable
from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from jobs.storage.memory import MemoryStore
from jobs.storage.store import store_for
from producer import delete as command
from producer.batch_files import BatchFiles
from producer.confirm import confirm
from producer.exits import CommandFailed
from tests.jobs.rows import make_result
from tests.odd_s3_store import OddStore, Refusal
from tests.producer.conftest import Ran, Run
from tests.producer.renderer import render_batch
from tests.producer.tables import write
from tests.producer.terminal import on_terminal

ROWS = "abcd"


def submit(run: Run, folder: Path, batch: str = "jobs", rows: str = ROWS) -> None:
    text = "image,prompt,num_samples\n" + "".join(f"{name}.png,picture {name},2\n" for name in rows)
    write(folder, text, name=f"{batch}.csv")
    assert run("submit", f"{batch}.csv", "--n-prompt", "fog").code == 0


@pytest.fixture
def done(run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch `jobs` of four rows, of which one failed, in a folder that another batch shares; its folder."""
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.01")
    for batch in ("jobs", "jobs.2"):
        submit(run, tmp_path, batch)
        render_batch(ledger, batch, failing=(2,))
    return tmp_path / "renders" / "jobs"


@pytest.fixture
def done_in_bucket(
    run: Run, ledger: Ledger, tmp_path: Path, empty_store: OddStore, monkeypatch: pytest.MonkeyPatch
) -> OddStore:
    """The same in a bucket."""
    monkeypatch.setenv("RENDER_OUTPUT_URI", "s3://pictures/out")
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.01")
    for batch in ("jobs", "jobs.2"):
        submit(run, tmp_path, batch)
        for job in jobs_of(ledger, batch):
            ledger.start(job, worker="w")
            for uri in (*map(job.sample_uri, range(2)), job.canny_uri, job.sidecar_uri):
                empty_store.objects[uri.removeprefix("s3:/")] = make_result(job).model_dump_json().encode()
            ledger.finish(make_result(job))
    return empty_store


def jobs_of(ledger: Ledger, batch: str) -> list[RenderJob]:
    return [job for line in ledger.states(batch) if (job := ledger.job(batch, line.id))]


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def keys(ledger: Ledger) -> set[str]:
    return {key.split(":")[2] for key in ledger.client.scan_iter("render:batch:*")}


def test_a_batch_is_deleted_from_redis_and_its_pictures_stay(run: Run, ledger: Ledger, done: Path) -> None:
    before = below(done)
    ran = run("delete", "jobs", "--yes")
    assert (ran.code, ran.record) == (0, {"batch": "jobs", "jobs": 4, "files": None})
    assert "batch 'jobs' deleted: 4 jobs" in ran.stderr
    assert f"Its files stay in {done}; producer reconcile jobs brings it back from there." in ran.stderr
    assert (keys(ledger), below(done)) == ({"jobs.2"}, before)
    assert ledger.counts("jobs.2") == Counts(done=3, failed=1)


def test_a_deleted_batch_is_unknown_to_every_command(run: Run, done: Path) -> None:
    run("delete", "jobs", "--yes")
    for name, *options in (["status"], ["results"], ["retry"], ["cancel"], ["gallery", "--out", "page"], ["delete"]):
        ran = run(name, "jobs", *options)
        assert (ran.code, ran.stderr) == (5, "there is no batch 'jobs'; known batches: jobs.2\n")


def test_its_files_go_with_it_and_those_of_others_stay(run: Run, ledger: Ledger, done: Path) -> None:
    others = below(done.parent / "jobs.2")
    ran = run("delete", "jobs", "--results", "--yes")
    # Of each of three jobs two pictures, the edges and the sidecar; the manifest and its options.
    assert (ran.code, ran.record) == (0, {"batch": "jobs", "jobs": 4, "files": 3 * 4 + 2})
    assert "batch 'jobs' deleted: 4 jobs and 14 files" in ran.stderr
    assert "stay" not in ran.stderr
    assert not done.exists()
    assert (below(done.parent / "jobs.2"), keys(ledger)) == (others, {"jobs.2"})


def test_pictures_of_every_format_go_with_it(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt,format,num_samples\na.png,x,jpeg,2\nb.png,x,webp,2\nc.png,x,png,2\n")
    assert run("submit", "jobs.csv").code == 0
    render_batch(ledger, "jobs")
    folder = tmp_path / "renders" / "jobs"
    endings = sorted(path.rpartition("_")[2] for path in below(folder) if "_" in path)
    assert endings == sorted([*(f"{k}{end}" for k in (0, 1) for end in (".jpg", ".webp", ".png")), *["canny.png"] * 3])
    assert run("delete", "jobs", "--results", "--yes").code == 0
    assert not folder.exists()


def test_files_that_are_not_of_its_jobs_stay(run: Run, ledger: Ledger, done: Path) -> None:
    stranger = "0123456789abcdef0123"
    mine = next(iter(below(done) - below(done / "manifest"))).rpartition("/")[2][:20]
    kept = {
        "notes.txt",
        f"{stranger}_0.png",
        f"{stranger}.json",
        f"{mine}_0.jpeg",
        f"{mine.upper()}_1.png",
        f"{mine}_123.png",
        f"sub/{mine}_0.png",
        "manifest/notes.txt",
        "manifest/other.jsonl.gz",
        ".part/notes.txt",
    }
    (done / "sub").mkdir()
    for name in kept:
        (done / name).write_bytes(b'{"id": "x"}')
    for name in (f".part/1700000000-{'0' * 16}.part", f"manifest/.part/1700000000-{'0' * 16}.part"):
        (done / name).write_bytes(b"left by a kill")
    ran = run("delete", "jobs", "--results", "--yes")
    assert (ran.code, below(done)) == (0, kept)
    assert f"7 files in {done} did not come from its jobs: they stay" in ran.stderr


def test_links_are_removed_and_not_what_they_lead_to(run: Run, done: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.png"
    kept.write_bytes(b"kept")
    name = next(path for path in done.glob("*_0.png"))
    name.unlink()
    name.symlink_to(kept)
    moved = tmp_path / "elsewhere"
    done.rename(moved)
    done.symlink_to(moved)
    assert run("delete", "jobs", "--results", "--yes").code == 0
    assert (below(moved), kept.read_bytes(), done.is_symlink()) == (set(), b"kept", True)


def test_earlier_versions_of_corrected_rows_go_too(run: Run, ledger: Ledger, done: Path, tmp_path: Path) -> None:
    text = (tmp_path / "jobs.csv").read_text()
    write(tmp_path, text.replace("picture a", "another a"))
    run("submit", "jobs.csv", "--n-prompt", "fog")
    render_batch(ledger, "jobs")
    assert ledger.counts("jobs").superseded == 1
    assert run("delete", "jobs", "--results", "--yes").record["jobs"] == 5
    assert not done.exists()


@pytest.mark.parametrize("page", [1000, 5, 1])
def test_a_batch_in_a_bucket_is_deleted_there(
    run: Run, ledger: Ledger, done_in_bucket: OddStore, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("producer.batch_files.CHUNK", 1)
    others = {path for path in done_in_bucket.objects if path.startswith("/pictures/out/jobs.2/")}
    done_in_bucket.objects |= {"/pictures/out/jobs/notes.txt": b"", "/pictures/out/jobsx": b"", "/pictures/jobs/a": b""}
    done_in_bucket.page = page  # and names are left out of pages while others are deleted
    ran = run("delete", "jobs", "--results", "--yes")
    assert (ran.code, ran.record["files"]) == (0, 4 * 4 + 2)
    assert "1 file in s3://pictures/out/jobs did not come from its jobs: they stay" in ran.stderr
    kept = {"/pictures/out/jobs/notes.txt", "/pictures/out/jobsx", "/pictures/jobs/a"}
    assert set(done_in_bucket.objects) == others | kept
    assert keys(ledger) == {"jobs.2"}


def test_sidecars_go_first_and_the_manifest_last(run: Run, done_in_bucket: OddStore) -> None:
    run("delete", "jobs", "--results", "--yes")
    gone = [path.rpartition("/")[2] for method, path in done_in_bucket.requests if method == "DELETE"]
    kinds = [
        "sidecar" if len(name) == 25 else "manifest" if name.endswith(("gz", "prompts.json")) else "picture"
        for name in gone
    ]
    assert kinds == ["sidecar"] * 4 + ["picture"] * 12 + ["manifest"] * 2


def test_keys_that_may_not_delete_are_named_and_nothing_happens(
    run: Run, ledger: Ledger, done_in_bucket: OddStore
) -> None:
    before = set(done_in_bucket.objects)
    done_in_bucket.refuse = lambda method, path, key: Refusal(403, "AccessDenied") if method == "DELETE" else None
    ran = run("delete", "jobs", "--results", "--yes")
    assert (ran.code, set(done_in_bucket.objects)) == (6, before)
    assert "may not be deleted: AccessDenied; the AWS keys of this machine lack the right s3:DeleteObject" in ran.stderr
    assert ledger.counts("jobs").done == 4
    assert not ledger.is_being_deleted("jobs")
    assert run("delete", "jobs", "--yes").code == 0


@pytest.mark.parametrize("end", [".json", "_canny.png", ".gz"])
def test_a_deletion_that_broke_off_keeps_the_ledger_and_goes_on(
    run: Run, ledger: Ledger, done_in_bucket: OddStore, end: str
) -> None:
    refused = next(path for path in sorted(done_in_bucket.objects) if path.endswith(end) and "/jobs/" in path)
    done_in_bucket.refuse = lambda method, path, key: (
        Refusal(403, "AccessDenied") if (method, path) == ("DELETE", refused) else None
    )
    assert run("delete", "jobs", "--results", "--yes").code == 6
    assert ledger.is_being_deleted("jobs")
    submitted = run("submit", "jobs.csv", "--n-prompt", "fog")
    assert submitted.code == 5
    assert (
        "batch 'jobs' is being deleted; wait until that has ended (if it was interrupted, run the same"
        in submitted.stderr
    )
    assert run("retry", "jobs").code == 5
    assert "Its deletion was begun and has not ended. If it was interrupted, run" in run("status", "jobs").stderr
    done_in_bucket.refuse = lambda method, path, key: None
    assert run("delete", "jobs", "--results", "--yes").code == 0
    assert not any(path.startswith("/pictures/out/jobs/") for path in done_in_bucket.objects)
    assert run("submit", "jobs.csv", "--n-prompt", "fog").record["enqueued"] == 4


def test_a_killed_deletion_whose_files_are_all_gone_is_ended(run: Run, ledger: Ledger, done: Path) -> None:
    token, _ = ledger.begin_deletion("jobs")
    ledger.note_files_gone("jobs", token)
    shutil.rmtree(done)
    assert run("delete", "jobs", "--results", "--yes").code == 0
    assert keys(ledger) == {"jobs.2"}


def test_a_folder_that_is_not_here_does_not_cost_the_ledger(run: Run, ledger: Ledger, done: Path) -> None:
    done.rename(done.parent.parent / "not-mounted")
    ran = run("delete", "jobs", "--results", "--yes")
    assert (ran.code, ledger.counts("jobs").done, ledger.is_being_deleted("jobs")) == (6, 3, False)
    assert f"{done} holds no file of batch 'jobs', which has done jobs: is it on another machine, or not" in ran.stderr


def test_nor_does_it_where_an_earlier_deletion_was_killed(run: Run, ledger: Ledger, done: Path) -> None:
    ledger.begin_deletion("jobs")
    away = done.parent.parent / "not-mounted"
    done.rename(away)
    ran = run("delete", "jobs", "--results", "--yes")
    assert (ran.code, ledger.counts("jobs").done, ledger.is_being_deleted("jobs")) == (6, 3, True)
    assert f"{done} holds no file of batch 'jobs', which has done jobs" in ran.stderr
    away.rename(done)
    assert (run("delete", "jobs", "--results", "--yes").code, done.exists()) == (0, False)


def test_a_deletion_that_broke_off_at_the_manifest_is_ended_without_it(
    run: Run, ledger: Ledger, done_in_bucket: OddStore
) -> None:
    """All files of its jobs were gone, so that none need be there."""
    refuse = Refusal(403, "AccessDenied")
    done_in_bucket.refuse = lambda method, path, key: refuse if method == "DELETE" and "/manifest/" in path else None
    assert run("delete", "jobs", "--results", "--yes").code == 6
    for path in [path for path in done_in_bucket.objects if path.startswith("/pictures/out/jobs/")]:
        del done_in_bucket.objects[path]
    assert run("delete", "jobs", "--results", "--yes").code == 0
    assert keys(ledger) == {"jobs.2"}


def test_of_two_deletions_at_once_the_later_one_goes_on(
    run: Run, ledger: Ledger, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.batch_files.CHUNK", 2)
    ended: list[Ran] = []
    check = command._check_goes_on

    def check_after_another(*arguments: Any) -> None:
        if not ended:
            ended.append(Ran(-1, "", ""))
            ended[0] = run("delete", "jobs", "--results", "--yes")
        check(*arguments)

    monkeypatch.setattr(command, "_check_goes_on", check_after_another)
    first = run("delete", "jobs", "--results", "--yes")
    assert (first.code, ended[0].code) == (2, 0)
    assert "another producer delete has begun to delete batch 'jobs' since, and goes on with it" in first.stderr
    assert (done.exists(), keys(ledger)) == (False, {"jobs.2"})


# -- jobs that have not ended -----------------------------------------------------------------------------------------


def test_a_batch_that_has_not_ended_is_not_deleted(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    submit(run, tmp_path)
    for arguments in ([], ["--yes"], ["--results", "--yes"]):
        ran = run("delete", "jobs", *arguments)
        assert (ran.code, ledger.counts("jobs").queued, ledger.queue_length()) == (2, 4, 4)
        assert ran.stderr == (
            "4 jobs of batch 'jobs' have not ended: wait, or run producer cancel jobs first (--force cancels and "
            "deletes). Nothing was deleted.\n"
        )
    assert run("cancel", "jobs").code == 0
    assert run("delete", "jobs", "--yes").code == 0


def test_force_cancels_and_takes_the_messages_out_of_the_queue(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    submit(run, tmp_path)
    submit(run, tmp_path, "other")
    render_batch(ledger, "other")
    first, second, *_ = jobs_of(ledger, "jobs")
    ledger.start(first, worker="dead")
    ledger.start(second, worker="w")
    ledger.defer(second, worker="w", seconds=60, refund=True)
    assert run("delete", "jobs", "--force", "--results", "--yes").code == 0
    assert (keys(ledger), ledger.delayed()) == ({"other"}, 0)
    assert not set(ledger.kombu.queued_ids()) & {first.id, second.id}


def test_force_waits_for_a_live_worker_to_let_go(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the cancellation at its next heartbeat; until then it may write pictures."""
    submit(run, tmp_path, rows="a")
    (job,) = jobs_of(ledger, "jobs")
    ledger.start(job, worker="w")
    ledger.beat("w", in_flight=[job.id], lease_seconds=60)
    looks: list[Counts] = []

    def look(seconds: float) -> None:
        looks.append(ledger.counts("jobs"))
        assert ledger.cancels("jobs") == {job.id}
        if len(looks) == 3:
            ledger.finish(make_result(job, "cancelled"))

    monkeypatch.setattr("producer.delete.time.sleep", look)
    assert run("delete", "jobs", "--force", "--yes").code == 0
    assert looks == [Counts(running=1)] * 3


def test_force_waits_for_what_was_started_since_the_last_heartbeat(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(run, tmp_path, rows="a")
    (job,) = jobs_of(ledger, "jobs")
    ledger.beat("w", in_flight=[], lease_seconds=60)
    ledger.start(job, worker="w")
    looks: list[Counts] = []

    def look(seconds: float) -> None:
        looks.append(ledger.counts("jobs"))
        if len(looks) == 3:
            ledger.finish(make_result(job, "cancelled"))

    monkeypatch.setattr("producer.delete.time.sleep", look)
    ran = run("delete", "jobs", "--force", "--yes")
    assert (ran.code, looks) == (0, [Counts(running=1)] * 3)
    assert "still hold" not in ran.stderr


@pytest.mark.parametrize("part", ["states", "counts", "results", "jobs"])
def test_a_batch_one_of_whose_keys_is_no_hash_is_deleted_by_force(
    run: Run, ledger: Ledger, done: Path, part: Any
) -> None:
    client: Any = ledger.client
    client.delete(f"render:batch:jobs:{part}")
    client.set(f"render:batch:jobs:{part}", "a string")
    assert run("delete", "jobs", "--force", "--results", "--yes").code == 0
    assert (keys(ledger), done.exists()) == ({"jobs.2"}, False)


@pytest.mark.parametrize("damage", [{"version": 99}, {"version": "x"}, {"id": None}])
def test_force_also_deletes_jobs_of_a_newer_version_and_damaged_ones(
    run: Run, ledger: Ledger, tmp_path: Path, damage: dict[str, Any]
) -> None:
    """This version cannot read them, so it cannot cancel them."""
    submit(run, tmp_path)
    client: Any = ledger.client
    for id_, text in client.hgetall("render:batch:jobs:jobs").items():
        client.hset("render:batch:jobs:jobs", id_, json.dumps(json.loads(text) | damage))
    assert run("delete", "jobs", "--force", "--yes").code == 0
    assert (keys(ledger), ledger.queue_length()) == (set(), 0)


def test_a_damaged_batch_is_deleted_by_force(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    submit(run, tmp_path)
    client: Any = ledger.client
    client.hset("render:batch:jobs:counts", "queued", "many")
    assert run("delete", "jobs", "--yes").code == 2
    assert ledger.forget("jobs") == "active"
    assert run("delete", "jobs", "--force", "--yes").code == 0
    assert keys(ledger) == set()


@pytest.mark.parametrize("line", ["running", "", "running one w 1", "running 1 w soon"])
def test_a_batch_with_a_damaged_line_is_deleted_by_force(run: Run, ledger: Ledger, tmp_path: Path, line: str) -> None:
    submit(run, tmp_path)
    client: Any = ledger.client
    client.hset("render:batch:jobs:states", next(ledger.ids("jobs")), line)
    ran = run("delete", "jobs", "--force", "--yes")
    assert (ran.code, keys(ledger)) == (0, set()), ran.stderr


def test_a_batch_whose_registration_cannot_be_read_is_not_added_to_and_can_be_deleted(
    run: Run, ledger: Ledger, done: Path
) -> None:
    client: Any = ledger.client
    client.hset("render:batches", "jobs", '{"name": "jobs"}')
    assert "there is no batch 'jobs'" in run("status", "jobs").stderr
    refused = run("submit", "jobs.csv", "--n-prompt", "fog")
    assert (refused.code, "or remove it with producer delete jobs" in refused.stderr) == (2, True)
    assert client.hget("render:batches", "jobs") == '{"name": "jobs"}'
    assert not ledger.is_rebuilding("jobs")
    assert run("delete", "jobs", "--results", "--yes").record == {"batch": "jobs", "jobs": 4, "files": 14}
    assert (done.exists(), keys(ledger)) == (False, {"jobs.2"})


def test_a_person_may_stop_a_deletion(run: Run, ledger: Ledger, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.batch_files.CHUNK", 2)
    looks = iter(range(100))

    def interrupt(*_: object) -> None:
        if next(looks) in (0, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "_check_goes_on", interrupt)
    for said in ("has not begun", "goes on with the same command"):
        ran = run("delete", "jobs", "--results", "--yes")
        assert (ran.code, ran.stderr) == (130, f"Stopped. The deletion of batch 'jobs' {said}.\n")
    assert ledger.is_being_deleted("jobs")


def test_force_does_not_wait_for_ever(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.02")
    monkeypatch.setenv("RENDER_LEASE_SECONDS", "0.1")
    submit(run, tmp_path, rows="a")
    (job,) = jobs_of(ledger, "jobs")
    ledger.start(job, worker="w")
    ledger.beat("w", in_flight=[job.id], lease_seconds=60)
    ran = run("delete", "jobs", "--force", "--yes")
    assert (ran.code, keys(ledger)) == (0, set())
    assert "workers still hold jobs of batch 'jobs'; what they write now stays in the output" in ran.stderr
    assert not ledger.finish(make_result(job))
    assert keys(ledger) == set()


# -- batches that Redis lost, or that come back -----------------------------------------------------------------------


@pytest.mark.parametrize("with_manifest", [True, False], ids=["manifest", "sidecars"])
def test_a_batch_that_redis_lost_is_deleted_from_its_output(
    run: Run, ledger: Ledger, done: Path, with_manifest: bool
) -> None:
    ledger.client.flushall()
    if not with_manifest:
        shutil.rmtree(done / "manifest")
    (done / "notes.txt").touch()
    assert run("delete", "jobs", "--yes").code == 5
    ran = run("delete", "jobs", "--results", "--yes")
    assert (ran.code, ran.record["jobs"], ran.record["files"]) == (0, 0, 12 + 2 * with_manifest)
    assert below(done) == {"notes.txt"}
    assert below(done.parent / "jobs.2")
    assert run("delete", "jobs", "--results", "--yes").code == 5


def test_a_lost_batch_in_another_output_is_found_there(run: Run, ledger: Ledger, done: Path, tmp_path: Path) -> None:
    assert run("delete", "jobs", "--results", "--yes", "--output", "elsewhere").code == 2
    ledger.client.flushall()
    (tmp_path / "renders").rename(tmp_path / "elsewhere")
    assert run("delete", "jobs", "--results", "--yes").code == 5
    assert run("delete", "jobs", "--results", "--yes", "--output", "elsewhere").code == 0
    assert not (tmp_path / "elsewhere" / "jobs").exists()


def test_a_damaged_part_of_the_manifest_hides_no_file(run: Run, ledger: Ledger, done: Path) -> None:
    ledger.client.flushall()
    (part,) = (done / "manifest").glob("*.gz")
    part.write_bytes(part.read_bytes()[:100])
    ran = run("delete", "jobs", "--results", "--yes")
    assert (ran.code, done.exists()) == (0, False)
    assert f"{part} could not be read: jobs that only it names were known by their sidecars" in ran.stderr


def test_the_manifest_of_another_batch_is_not_taken_for_its_own(run: Run, done: Path) -> None:
    (other,) = (done.parent / "jobs.2" / "manifest").glob("*.gz")
    copied = done / "manifest" / other.name
    shutil.copy(other, copied)
    assert run("delete", "jobs", "--results", "--yes").code == 0
    assert below(done) == {f"manifest/{other.name}"}


def test_no_name_leads_out_of_the_output(run: Run, ledger: Ledger, done: Path) -> None:
    before = below(done.parent)
    for name in ("../renders", "..", "a/b", "/etc", "", "*", "jobs?"):
        for arguments in (["--yes"], ["--results", "--yes", "--force"]):
            assert run("delete", *arguments, "--", name).code == 5
        ledger.open_batch(name, output=done.parent.as_uri(), source="a stranger")
        assert run("delete", "--results", "--yes", "--", name).code == 2
        assert run("delete", "--yes", "--", name).code == 0
    assert below(done.parent) == before


def test_a_kept_batch_comes_back_by_name_and_not_with_all_others(run: Run, ledger: Ledger, done: Path) -> None:
    run("delete", "jobs", "--yes")
    ran = run("reconcile", "--from-storage")
    assert "batch 'jobs' was deleted and stays so; producer reconcile jobs brings it back" in ran.stderr
    assert keys(ledger) == {"jobs.2"}
    run("reconcile", "jobs")
    assert ledger.counts("jobs") == Counts(done=3, queued=1)


def test_submitting_a_kept_batch_again_renders_nothing_twice(run: Run, ledger: Ledger, done: Path) -> None:
    run("delete", "jobs", "--yes")
    record = run("submit", "jobs.csv", "--n-prompt", "fog").record
    assert (record["recovered"], record["enqueued"]) == (3, 1)


def test_a_submission_whose_batch_is_deleted_meanwhile_says_so(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.ledger.chunks.CHUNK_JOBS", 2)
    enqueue = Ledger.enqueue

    def enqueue_and_lose(self: Ledger, *arguments: Any, **options: Any) -> Any:
        added = enqueue(self, *arguments, **options)
        self.forget("jobs", unfinished=True)
        return added

    monkeypatch.setattr(Ledger, "enqueue", enqueue_and_lose)
    write(tmp_path, "image,prompt\n" + "a.png,x\n" * 4)
    ran = run("submit", "jobs.csv")
    assert (ran.code, keys(ledger)) == (5, set())
    assert "batch 'jobs' was deleted while jobs were added to it; submit its CSV again" in ran.stderr


# -- asking -----------------------------------------------------------------------------------------------------------


def test_where_nobody_can_be_asked_nothing_is_deleted(run: Run, ledger: Ledger, done: Path) -> None:
    before = below(done)
    for arguments in ([], ["--results"]):
        ran = run("delete", "jobs", *arguments, stdin="y\njobs\n")
        assert ran.code == 2
        assert "Input is not a terminal, so the command cannot ask: add --yes. Nothing was deleted." in ran.stderr
    assert (keys(ledger), below(done)) == ({"jobs", "jobs.2"}, before)


@pytest.mark.parametrize(
    ("arguments", "typed", "is_deleted"),
    [
        ([], "y\n", True),
        ([], "\x04", False),
        (["--results"], "y\njobs\n", True),
        (["--results"], "y\ny\n", False),
    ],
)
def test_a_person_is_asked_on_a_terminal(
    run: Run, ledger: Ledger, done: Path, tmp_path: Path, arguments: list[str], typed: str, is_deleted: bool
) -> None:
    shown = on_terminal(tmp_path, "delete", "jobs", *arguments, typed=typed, columns=200)
    assert shown.code == (0 if is_deleted else 2)
    assert ("jobs" in keys(ledger)) is not is_deleted
    assert ("Nothing was deleted." in shown.text) is not is_deleted
    if arguments:
        assert f"Delete batch 'jobs' (4 jobs) and its pictures in {done}? [y/N]" in shown.text
        assert done.exists() is not is_deleted
        assert ("There is no way back. Type its name (jobs) to delete:" in shown.text) is typed.startswith("y")
    else:
        assert f"Delete batch 'jobs' (4 jobs) from Redis? Its pictures in {done} stay. [y/N]" in shown.text


@pytest.mark.parametrize(
    ("typed", "word", "is_meant"),
    [
        ("y\n", None, True),
        (" YES \n", None, True),
        ("n\n", None, False),
        ("\n", None, False),
        ("", None, False),
        ("jobs\n", None, False),
        ("y\njobs\n", "jobs", True),
        ("y\njobs.2\n", "jobs", False),
        ("y\nJobs\n", "jobs", False),
        ("y\n\n", "jobs", False),
        ("y\n", "jobs", False),
        ("n\njobs\n", "jobs", False),
        ("jobs\njobs\n", "jobs", False),
    ],
)
def test_only_a_clear_yes_is_one(monkeypatch: pytest.MonkeyPatch, typed: str, word: str | None, is_meant: bool) -> None:
    monkeypatch.setattr("producer.confirm._can_ask", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    with nullcontext() if is_meant else pytest.raises(CommandFailed, match="Nothing was deleted"):
        confirm("Delete it?", word=word)


def test_no_redis_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDER_REDIS_URL", "redis://127.0.0.1:1/0")
    for arguments in (["delete", "jobs", "--yes"], ["prune", "--older-than", "30d", "--yes"]):
        assert run(*arguments).code == 4


def test_files_are_deleted_in_any_order_of_the_listing(tmp_path: Path) -> None:
    """Only sidecars know of these jobs, and they come last."""
    folder = tmp_path / "b"
    folder.mkdir()
    for number in range(30):
        id_ = f"{number:020x}"
        (folder / f"{id_}_0.png").touch()
        result = {"id": id_, "batch": "b" if number % 2 else "c", "row": 1, "state": "done"}
        result |= {"image": "a", "prompt": "x", "seed": 1}
        (folder / f"{id_}.json").write_text(json.dumps(result))
    files = BatchFiles(store_for(tmp_path.as_uri()), tmp_path.as_uri(), "b", known=())
    ticks: list[int] = []
    assert files.any()
    files.delete(ticks.append)
    assert (files.deleted, len(ticks), ticks[-1], files.foreign) == (30, 30, 30, 30)
    assert {int(path.name[:20], 16) % 2 for path in folder.iterdir()} == {0}


class LateStore(MemoryStore):
    """A store whose listings are late: `habit` makes of what a folder of pictures holds what its nth listing says."""

    def __init__(self, habit: Callable[[int, list[str]], list[str]]) -> None:
        super().__init__()
        self._habit = habit
        self._listings = 0

    def names(self, folder: str) -> Iterator[str]:
        if folder.endswith("/manifest"):
            return super().names(folder)
        self._listings += 1
        return iter(self._habit(self._listings, sorted(super().names(folder))))


PICTURES = [f"{number:020x}_0.png" for number in range(4)]


def late_files(habit: Callable[[int, list[str]], list[str]]) -> BatchFiles:
    store = LateStore(habit)
    for name in PICTURES:
        store.write(f"s3://x/out/b/{name}", b"", "image/png")
    return BatchFiles(store, "s3://x/out", "b", known=[name[:20] for name in PICTURES])


def test_a_listing_that_begins_with_what_is_gone_hides_no_other_file() -> None:
    def habit(listing: int, names: list[str]) -> list[str]:
        return sorted({PICTURES[0], *(names if listing % 2 else [])})  # every other one leaves the others out

    files = late_files(habit)
    files.delete()
    assert list(files.store.names_below("s3://x/out")) == []


def test_a_store_that_lists_for_ever_what_is_gone_ends_the_deletion_all_the_same() -> None:
    files = late_files(lambda listing, _: PICTURES if listing % 2 else PICTURES[::-1])
    files.delete()
    assert list(files.store.names_below("s3://x/out")) == []


def test_a_file_that_is_there_after_it_was_deleted_keeps_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    files = late_files(lambda _, names: names)
    monkeypatch.setattr(files.store, "delete", lambda uri: None)
    with pytest.raises(OutputUnavailable, match=f"s3://x/out/b/{PICTURES[-1]} was deleted and is still there"):
        files.delete()
