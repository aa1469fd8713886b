"""`producer submit` as people run it, against a real Redis."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import LedgerUnavailable
from jobs.job import RenderJob, RenderParameters
from jobs.ledger import chunks as chunks_module
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts, Enqueued
from producer import submit as submit_module
from producer.submission import Request, batch_name
from producer.submit import jobs_of
from tests.producer.conftest import Run
from tests.producer.renderer import render_batch
from tests.producer.tables import write

GOOD = "image,prompt,seed\na.png,a cat,1\nb.png,a dog,2\nc.png,a bird,3\n"
MIXED = "image,prompt,seed\na.png,a cat,1\nb.png,a dog,two\nc.png,a bird,3\n"


def queued(ledger: Ledger) -> int:
    return int(ledger.client.llen(ledger.queue))


def test_a_good_file_is_enqueued(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    ran = run("submit", "jobs.csv")
    assert ran.code == 0
    assert (ran.record["batch"], ran.record["rows"], ran.record["enqueued"]) == ("jobs", 3, 3)
    assert (queued(ledger), ledger.counts("jobs").queued) == (3, 3)
    assert "3 jobs enqueued in batch 'jobs'" in ran.stderr
    assert "producer status jobs --watch" in ran.stderr


def test_a_job_carries_its_row_its_paths_and_its_output(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    jobs = sorted(
        (ledger.job("jobs", line.id) for line in ledger.states("jobs")), key=lambda job: job.row if job else 0
    )
    assert [job.row for job in jobs if job] == [1, 2, 3]
    first = jobs[0]
    assert first is not None
    assert (first.parameters.image, first.seed) == ((tmp_path / "a.png").as_uri(), 1)
    assert first.folder == (tmp_path / "renders" / "jobs").as_uri()


def test_the_same_file_again_enqueues_nothing(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    ran = run("submit", "jobs.csv")
    assert (ran.record["enqueued"], ran.record["already"]["queued"], queued(ledger)) == (0, 3, 3)


def test_the_same_file_again_leaves_what_is_done(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    render_batch(ledger, "jobs", failing={2})
    ran = run("submit", "jobs.csv")
    assert ran.record["already"] == {"queued": 0, "running": 0, "done": 2, "failed": 1, "cancelled": 0}
    assert "producer retry jobs" in ran.stderr


def test_a_corrected_row_and_a_new_one_are_the_only_new_jobs(run: Run, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    write(tmp_path, GOOD.replace("a dog", "a big dog") + "\nd.png,a fish,4\n")
    ran = run("submit", "jobs.csv")
    assert (ran.record["enqueued"], ran.record["already"]["queued"]) == (2, 2)


def test_identical_rows_are_jobs_of_their_own(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\n" + "a.png,a cat\n" * 3)
    assert run("submit", "jobs.csv").record["enqueued"] == 3


def test_one_bad_row_keeps_everything_back(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, MIXED)
    ran = run("submit", "jobs.csv")
    assert (ran.code, queued(ledger), ledger.batches()) == (3, 0, [])
    assert "jobs.csv:3: seed: 'two' is not a whole number; allowed: a whole number from -1 to 4294967295" in ran.stderr
    assert "1 problem in 1 row of 3; nothing was enqueued" in ran.stderr
    assert "--skip-invalid" in ran.stderr
    assert ran.record["problems"][0]["line"] == 3


def test_many_bad_rows_are_counted_but_not_all_shown(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt,seed\n" + "a.png,x,no\n" * 1234)
    ran = run("submit", "jobs.csv")
    assert ran.stderr.count("is not a whole number") == 20
    assert "... and 1,214 more problems" in ran.stderr
    assert (ran.record["problem_count"], len(ran.record["problems"])) == (1234, 20)


def test_skip_invalid_enqueues_the_rest_and_writes_the_reasons(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, MIXED + "d.png,a, fish,4\n")
    ran = run("submit", "jobs.csv", "--skip-invalid")
    assert (ran.code, ran.record["enqueued"], ran.record["rejected"]) == (0, 2, 2)
    with (tmp_path / "jobs.rejected.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["line", "reason", "image", "prompt", "seed"]
    assert rows[1][0] == "3"
    assert rows[1][1].startswith("seed: 'two' is not a whole number; allowed:")
    assert rows[1][2:] == ["b.png", "a dog", "two"]
    assert rows[2][0] == "5"
    assert rows[2][2:] == ["d.png", "a", " fish", "4"]


def test_the_file_of_rejected_rows_is_not_one_to_submit(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt,seed\na.png,x,-5\n")
    assert run("submit", "jobs.csv", "--skip-invalid").code == 0
    ran = run("submit", "jobs.rejected.csv")
    assert ran.code == 3
    assert ran.stderr.count("correct those of the file that was submitted") == 2
    assert "did you mean" not in ran.stderr


def test_correcting_a_skipped_row_adds_only_that_row(run: Run, tmp_path: Path) -> None:
    write(tmp_path, MIXED)
    run("submit", "jobs.csv", "--skip-invalid")
    write(tmp_path, MIXED.replace("two", "2"))
    assert run("submit", "jobs.csv").record["enqueued"] == 1


def test_skip_invalid_without_bad_rows_writes_no_file(run: Run, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert run("submit", "jobs.csv", "--skip-invalid").record["rejected_file"] is None
    assert [path.name for path in tmp_path.glob("*.csv")] == ["jobs.csv"]


def test_skip_invalid_cannot_save_a_file_whose_quotes_are_open(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, MIXED + 'd.png,"a fish,4\n')
    ran = run("submit", "jobs.csv", "--skip-invalid")
    assert (ran.code, queued(ledger)) == (3, 0)
    assert "Nothing was enqueued." in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs.csv"]


def test_dry_run_enqueues_nothing(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    ran = run("submit", "jobs.csv", "--dry-run")
    assert (ran.code, queued(ledger), ledger.batches()) == (0, 0, [])
    assert "3 jobs would go to batch 'jobs'" in ran.stderr


def test_a_prompt_is_shown_as_it_is_written(run: Run, tmp_path: Path) -> None:
    """rich makes a picture of `:x:`."""
    write(tmp_path, "image,prompt\na.png,a cat <lora:x:0.8>\n")
    ran = run("submit", "jobs.csv", "--dry-run")
    assert "such as '<lora:x:0.8>', which are not loaded" in ran.stderr


def test_a_relative_path_of_windows_that_is_not_here_is_told_how_to_be_written(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\nphotos\\a.png,x\n")
    assert "will fail. If \\ stands between folders there, write /" in run("submit", "jobs.csv", "--dry-run").stderr
    write(tmp_path, "image,prompt\nphotos/a.png,x\n")
    assert "write /" not in run("submit", "jobs.csv", "--dry-run").stderr


def test_dry_run_needs_no_redis(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDER_REDIS_URL", "redis://127.0.0.1:1/0")
    write(tmp_path, GOOD)
    assert run("submit", "jobs.csv", "--dry-run").code == 0


def test_a_header_without_rows_is_no_error(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\n")
    ran = run("submit", "jobs.csv", "--wait")
    assert (ran.code, ran.record["rows"], ledger.batches()) == (0, 0, [])
    assert "jobs.csv has a header and no rows: there is nothing to do" in ran.stderr


def test_detected_semicolons_are_said(run: Run, tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace(",", ";"))
    ran = run("submit", "jobs.csv")
    assert (ran.record["enqueued"], "jobs.csv: its columns are separated by semicolons" in ran.stderr) == (3, True)


def test_standard_input_is_read_with_a_batch_name(run: Run, tmp_path: Path, ledger: Ledger) -> None:
    ran = run("submit", "-", "--batch", "nightly", stdin=GOOD)
    assert (ran.record["enqueued"], ran.record["source"]) == (3, "stdin")
    job = ledger.job("nightly", next(ledger.states("nightly")).id)
    assert job is not None
    assert job.parameters.image.startswith(tmp_path.as_uri())


def test_standard_input_needs_a_batch_name(run: Run) -> None:
    ran = run("submit", "-", stdin=GOOD)
    assert ran.code == 2
    assert "name the batch with --batch" in ran.stderr


def test_a_missing_file_has_its_own_exit_code(run: Run) -> None:
    ran = run("submit", "away.csv")
    assert (ran.code, ran.stderr.strip()) == (5, "away.csv: No such file or directory")


def test_an_empty_name_is_not_the_current_folder(run: Run, tmp_path: Path) -> None:
    """`producer submit "$FOLDER"` of a shell where FOLDER is not set."""
    write(tmp_path, "x", name="photo.png")
    for command in (("submit", "", "--prompt", "a cat"), ("submit", "", "--again"), ("sizes", "")):
        ran = run(*command)
        assert (ran.code, ran.stdout) == (2, "")
        assert "the name of the source is empty" in ran.stderr
    write(tmp_path, "image,prompt\nphoto.png,x\n")
    run("submit", "jobs.csv")
    assert run("gallery", "jobs", "--out", "").code == 2
    assert not (tmp_path / "index.html").exists()


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells expand it in `--out ~/page`, not in `--out=~/page`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path, "image,prompt\nphoto.png,x\n")
    run("submit", "jobs.csv")
    assert run("gallery", "jobs", "--out=~/page").code == 0
    assert (tmp_path / "home" / "page" / "index.html").exists()
    assert not (tmp_path / "~").exists()
    assert "no such user" in run("gallery", "jobs", "--out=~nobody-of-this-name/page").stderr


def test_a_folder_in_place_of_a_file_is_an_error_without_a_traceback(run: Run, tmp_path: Path) -> None:
    ran = run("submit", tmp_path, "--batch", "b")
    assert ran.code == 2
    assert "is a folder: give its pictures a prompt" in ran.stderr
    assert "--again; or name a CSV" in ran.stderr


def test_a_full_temporary_folder_is_named(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\n" + "a.png,a cat\n" * 2_000)
    limited = f"ulimit -f 8; exec {sys.executable} -m producer submit jobs.csv"  # blocks of 1,024 bytes in any file
    ended = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ledger.batches()) == (6, [])
    assert ended.stderr.strip() == f"{tempfile.gettempdir()}: File too large"


def test_redis_away_has_its_own_exit_code(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDER_REDIS_URL", "redis://me:secret@127.0.0.1:1/0")
    write(tmp_path, GOOD)
    ran = run("submit", "jobs.csv")
    assert ran.code == 4
    assert "Redis does not answer" in ran.stderr
    assert "secret" not in ran.stderr


@pytest.mark.parametrize("url", ["http://example.org", "nonsense", "redis://host:port/0"])
def test_a_redis_url_that_is_none_is_a_wrong_setting(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("RENDER_REDIS_URL", url)
    write(tmp_path, GOOD)
    ran = run("submit", "jobs.csv")
    assert ran.code == 2
    assert "RENDER_REDIS_URL" in ran.stderr


def test_a_bad_batch_name_is_refused_with_a_better_one(run: Run, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    ran = run("submit", "jobs.csv", "--batch", "my jobs!")
    assert (ran.code, "'my-jobs' would do" in ran.stderr) == (2, True)


@pytest.mark.parametrize(
    ("stem", "name"),
    [("jobs", "jobs"), ("my jobs (2)", "my-jobs-2"), (".hidden", "hidden"), ("a" * 200, "a" * 100), ("ñandú", "and")],
)
def test_a_files_stem_becomes_a_batch_name(stem: str, name: str) -> None:
    assert batch_name(stem) == name


def test_stems_without_a_usable_letter_stay_apart() -> None:
    names = {batch_name("写真"), batch_name("猫")}
    assert len(names) == 2
    assert all(name.startswith("batch-") for name in names)


@pytest.mark.parametrize("output", ["http://example.org/x", "ftp://example.org/x"])
def test_an_output_that_cannot_be_written_is_refused_before_anything(
    run: Run, ledger: Ledger, tmp_path: Path, output: str
) -> None:
    write(tmp_path, GOOD)
    ran = run("submit", "jobs.csv", "--output", output)
    assert (ran.code, queued(ledger)) == (2, 0)
    assert "example.org" in ran.stderr


def test_a_batch_keeps_its_output(run: Run, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    run("submit", "jobs.csv")
    ran = run("submit", "jobs.csv", "--output", "elsewhere")
    assert ran.code == 2
    assert f"batch 'jobs' writes to {tmp_path}/renders, not to {tmp_path}/elsewhere" in ran.stderr


def test_another_file_that_joins_a_batch_is_said(run: Run, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD, "more.csv")
    run("submit", "jobs.csv")
    ran = run("submit", "more.csv", "--batch", "jobs")
    assert f"batch 'jobs' was begun from {tmp_path}/jobs.csv; the rows of this file join it" in ran.stderr


def test_a_file_that_changes_between_the_passes_is_noticed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, GOOD)

    def changing(rows: Iterable[tuple[int, RenderParameters]], request: Request) -> Iterator[RenderJob]:
        write(tmp_path, MIXED)
        return jobs_of(rows, request)

    monkeypatch.setattr(submit_module, "jobs_of", changing)
    ran = run("submit", "jobs.csv")
    assert ran.code == 3
    assert "jobs.csv changed while it was being read; submit it again" in ran.stderr


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (LedgerUnavailable("Redis is away"), 4)])
def test_enqueueing_that_was_cut_short_says_how_to_go_on(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    write(tmp_path, GOOD)
    monkeypatch.setattr(chunks_module, "CHUNK_JOBS", 1)
    through = Ledger.enqueue

    def cut_short(self: Ledger, jobs: Sequence[RenderJob], **rest: Any) -> Enqueued:
        if jobs[0].row == 3:
            raise error
        return through(self, jobs, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "enqueue", cut_short)
        ran = run("submit", "jobs.csv")
    assert (ran.code, queued(ledger)) == (code, 2)
    assert "submit the same file to the same batch again" in ran.stderr
    assert run("submit", "jobs.csv").record["enqueued"] == 1


def test_wait_ends_with_the_batch_and_reports_counts(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with rendering(ledger, "jobs"):
        ran = run("submit", "jobs.csv", "--wait")
    assert ran.code == 0
    assert ran.record["counts"] == Counts(done=3).model_dump()
    assert "jobs: 3 of 3 jobs finished" in ran.stderr
    assert f"pictures are in {tmp_path}/renders/jobs" in ran.stderr


def test_wait_reports_failures_and_says_so_by_its_exit_code(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with rendering(ledger, "jobs", failing={2}):
        ran = run("submit", "jobs.csv", "--wait")
    assert ran.code == 1
    assert "row 2 failed (source_not_found): no such picture" in ran.stderr
    assert "producer retry jobs" in ran.stderr
    assert [failure["row"] for failure in ran.record["failures"]] == [2]


class rendering:
    """A thread that renders a batch once all of it is queued."""

    def __init__(self, ledger: Ledger, batch: str, failing: frozenset[int] | set[int] = frozenset()) -> None:
        self._thread = threading.Thread(target=self._render, args=(ledger, batch, failing))

    def _render(self, ledger: Ledger, batch: str, failing: set[int]) -> None:
        deadline = time.monotonic() + 20
        while ledger.counts(batch).queued < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        render_batch(ledger, batch, failing=failing)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
