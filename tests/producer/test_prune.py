"""`producer prune`, and the function that `producer keep` calls: old batches leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import SettingsError
from jobs.job import RenderResult
from jobs.ledger import ages
from jobs.ledger.keys import BATCHES, batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.messages_of_batches import take_messages
from jobs.ledger.records import BatchInfo, Counts
from jobs.settings import load_settings
from jobs.storage.store import store_for
from producer.exits import CommandFailed
from producer.prune import age_seconds, prune
from tests.jobs.rows import make_job, make_jobs, make_result
from tests.producer.conftest import Run
from tests.producer.renderer import render_batch
from tests.producer.tables import write
from tests.producer.terminal import on_terminal

DAY = 86_400.0

Make = Callable[..., None]


@pytest.fixture
def make(ledger: Ledger) -> Make:
    """`make("old", ended=[40, 31])`: a batch with one job that ended so many days ago, each; None has not ended."""

    def make(name: str, *, begun: float = 50.0, ended: list[float | None], state: str = "done") -> None:
        now = ledger.server_time()
        info = BatchInfo(name=name, output="file:///out", source="jobs.csv", created_at=now - begun * DAY)
        ledger.client.hset(BATCHES, name, info.model_dump_json())
        jobs = make_jobs(len(ended), batch=name)
        ledger.enqueue(jobs)
        for job, days in zip(jobs, ended, strict=True):
            if days is not None:
                finish(ledger, make_result(job, state), days=days)

    return make


def finish(ledger: Ledger, result: RenderResult, *, days: float) -> None:
    ledger.finish(result.model_copy(update={"finished_at": ledger.server_time() - days * DAY}))


def names(ledger: Ledger) -> list[str]:
    return sorted(info.name for info in ledger.batches())


def test_batches_leave_whose_last_job_ended_so_long_ago(ledger: Ledger, make: Make) -> None:
    make("old", ended=[40, 31, 35])
    make("a-job-ended-late", ended=[40, 29, 40])
    make("not-ended", ended=[40, None])
    make("begun-late", begun=20, ended=[40])  # its results were found in storage, when it was brought back
    make("empty", ended=[])
    make("failed", ended=[31], state="failed")
    make("cancelled", ended=[31], state="cancelled")
    assert sorted(prune(ledger, older_than_days=30)) == ["cancelled", "empty", "failed", "old"]
    assert names(ledger) == ["a-job-ended-late", "begun-late", "not-ended"]
    assert prune(ledger, older_than_days=30) == []
    assert prune(ledger, older_than_days=28.5) == ["a-job-ended-late"]
    assert not any(ledger.has_keys(name) for name in ("old", "failed", "cancelled", "empty"))


def test_messages_of_pruned_batches_leave_the_queue(ledger: Ledger, make: Make) -> None:
    make("old", ended=[40, 40], state="failed")
    make("new", ended=[None])
    assert ledger.queue_length() == 3  # nobody acknowledged those of the failed jobs
    prune(ledger, older_than_days=30)
    assert ledger.queue_length() == 1


def test_a_batch_without_times_counts_from_its_beginning(ledger: Ledger, make: Make) -> None:
    make("timeless", ended=[])
    make("garbage", ended=[])
    make("recent", begun=1, ended=[])
    for name in ("timeless", "recent"):
        job = make_job(1, batch=name)
        ledger.enqueue([job])
        ledger.finish(make_result(job))
    client: Any = ledger.client
    client.hset(batch_key("garbage", "results"), mapping={"a": "no json", "b": '{"finished_at": "soon"}', "c": "[]"})
    client.hset(batch_key("garbage", "results"), mapping={"d": f'{{"finished_at": {10**400}}}', "e": "[" * 100_000})
    assert sorted(prune(ledger, older_than_days=30)) == ["garbage", "timeless"]


def test_a_damaged_batch_keeps_no_other_from_leaving(ledger: Ledger, make: Make) -> None:
    for name in ("states", "counts", "results", "old"):
        make(name, ended=[40])
    client: Any = ledger.client
    client.delete(batch_key("states", "states"))
    client.set(batch_key("states", "states"), "a string")
    client.hset(batch_key("counts", "counts"), "queued", "many")
    client.delete(batch_key("results", "results"))
    client.set(batch_key("results", "results"), "a string")
    assert sorted(prune(ledger, older_than_days=30)) == [
        "old",
        "states",
    ]  # what is damaged there says nothing of its age
    assert names(ledger) == ["counts", "results"]


def test_a_job_that_is_retried_meanwhile_keeps_its_batch(
    ledger: Ledger, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("old", ended=[40, 40], state="failed")
    last_end = ages._last_end

    def retry_after_the_look(*arguments: Any) -> float | None:
        end = last_end(*arguments)
        ledger.retry("old")
        return end

    monkeypatch.setattr(ages, "_last_end", retry_after_the_look)
    assert prune(ledger, older_than_days=30) == []
    assert ledger.counts("old") == Counts(queued=2)


def test_a_job_that_ends_anew_while_others_are_deleted_keeps_its_batch(
    ledger: Ledger, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("corrected", "retried", "again", "old"):
        make(name, ended=[40], state="failed")

    def meanwhile(*arguments: Any, **options: Any) -> int:
        corrected, (again,) = make_job(1, batch="corrected", prompt="another"), make_jobs(1, batch="again")
        ledger.enqueue([corrected])
        finish(ledger, make_result(corrected), days=0)
        ledger.retry("retried")
        finish(ledger, make_result(make_job(1, batch="retried"), "failed"), days=0)
        ledger.forget("again")
        ledger.open_batch("again", output="file:///elsewhere", source="jobs.csv")
        ledger.enqueue([again])
        finish(ledger, make_result(again), days=40)
        return take_messages(*arguments, **options)

    monkeypatch.setattr("producer.prune.take_messages", meanwhile)
    assert prune(ledger, older_than_days=30) == ["old"]
    assert names(ledger) == ["again", "corrected", "retried"]


def test_a_batch_that_producer_delete_is_deleting_is_left_to_it(ledger: Ledger, make: Make) -> None:
    make("old", ended=[40])
    ledger.begin_deletion("old")
    assert (prune(ledger, older_than_days=30), names(ledger)) == ([], ["old"])


def test_pruning_also_removes_what_older_workers_brought_back(ledger: Ledger, make: Make) -> None:
    make("old", ended=[40])
    prune(ledger, older_than_days=30)
    client: Any = ledger.client
    client.hset(batch_key("old", "states"), "0" * 20, "done 1")
    prune(ledger, older_than_days=30)
    assert not ledger.has_keys("old")


def test_only_the_results_of_batches_that_may_be_old_are_read(
    ledger: Ledger, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("new", begun=2, ended=[1])
    make("not-ended", ended=[None, 40])
    monkeypatch.setattr(ages, "_last_end", lambda *_: pytest.fail("it was read"))
    assert prune(ledger, older_than_days=30) == []


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_go(run: Run, ledger: Ledger, make: Make) -> None:
    make("old", ended=[40, 31])
    make("new", ended=[1])
    ran = run("prune", "--older-than", "30d", "--dry-run")
    ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(ran.record["ended_at"]))
    assert (ran.code, ran.record["batch"], ran.record["deleted"], ran.record["counts"]["done"]) == (0, "old", False, 2)
    assert ran.stderr == f"old: 2 done, last ended {ended}\n1 batch older than 30d; nothing was deleted\n"
    assert names(ledger) == ["new", "old"]


def test_old_batches_are_deleted(run: Run, ledger: Ledger, make: Make) -> None:
    make("old", ended=[15])
    make("older", ended=[40])
    make("new", ended=[13])
    ran = run("prune", "--older-than", "2w", "--yes")
    assert [(record["batch"], record["deleted"]) for record in ran.records] == [("old", True), ("older", True)]
    assert "batch 'old' deleted" in ran.stderr
    assert (ran.code, names(ledger)) == (0, ["new"])
    again = run("prune", "--older-than", "2w", "--yes")
    assert (again.code, again.records, again.stderr) == (0, [], "0 batches older than 2w; nothing was deleted\n")


def test_names_and_states_choose_among_them(run: Run, ledger: Ledger, make: Make) -> None:
    make("nightly-1", ended=[40])
    make("nightly-2", ended=[40], state="failed")
    make("weekly", ended=[40])
    assert run("prune", "--older-than", "30d", "--name", "nightly-*", "--state", "done", "--yes").code == 0
    assert names(ledger) == ["nightly-2", "weekly"]
    assert run("prune", "--older-than", "30d", "--state", "failed", "--yes").code == 0
    assert names(ledger) == ["weekly"]
    assert run("prune", "--older-than", "30d", "--name", "nightly", "--yes").code == 5


def test_an_empty_name_chooses_nothing(run: Run, ledger: Ledger, make: Make) -> None:
    """`--name "$NAME"` of a shell where NAME is not set: as a part of a name it would fit every batch."""
    make("weekly", ended=[40])
    for command in (("prune", "--older-than", "30d", "--yes"), ("status",), ("status", "--watch")):
        ran = run(*command, "--name", "")
        assert (ran.code, ran.records) == (2, [])
        assert "--name is empty" in ran.stderr
    assert names(ledger) == ["weekly"]


@pytest.fixture
def rendered(run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two batches with files that ended a moment ago, `one` and `two`; their output."""
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.01")
    for name in ("one", "two"):
        write(tmp_path, "image,prompt\na.png,x\n", name=f"{name}.csv")
        assert run("submit", f"{name}.csv").code == 0
        render_batch(ledger, name)
    return tmp_path / "renders"


def test_files_go_with_them_where_asked(run: Run, ledger: Ledger, rendered: Path) -> None:
    assert run("prune", "--older-than", "0h", "--name", "one", "--yes").record["deleted"]
    assert (rendered / "one").exists()
    ran = run("prune", "--older-than", "0h", "--results", "--yes")
    assert (ran.code, ran.record["batch"], ran.record["files"]) == (0, "two", 4)
    assert "two: 1 done, last ended" in ran.stderr
    assert f", with its files in {rendered}/two\n" in ran.stderr
    assert not (rendered / "two").exists()


@pytest.mark.parametrize("results", [[], ["--results"]])
def test_a_batch_that_is_rendered_anew_while_a_person_is_asked_stays(
    run: Run, ledger: Ledger, rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: list[str]
) -> None:
    def render_meanwhile(question: str, **_: Any) -> None:
        write(tmp_path, "image,prompt\na.png,x\nb.png,fresh\n", name="one.csv")
        assert run("submit", "one.csv").record["enqueued"] == 1
        (line,) = ledger.states("one", only=("queued",))
        job = ledger.job("one", line.id)
        assert job is not None
        store_for(job.output).write(job.sample_uri(0), b"fresh", "image/png")
        finish(ledger, make_result(job), days=0)

    monkeypatch.setattr("producer.prune.confirm", render_meanwhile)
    ran = run("prune", "--older-than", "0h", *results)
    assert (ran.code, names(ledger), ledger.is_being_deleted("one")) == (0, ["one"], False)
    assert {record["batch"]: record["deleted"] for record in ran.records} == {"one": False, "two": True}
    assert "batch 'one' stays: a job of it has been queued or has ended meanwhile" in ran.stderr
    assert len(list((rendered / "one").glob("*.png"))) == 3
    assert (rendered / "two").exists() is not bool(results)


def test_one_batch_that_cannot_be_deleted_keeps_no_other_from_it(run: Run, ledger: Ledger, rendered: Path) -> None:
    (rendered / "one").rename(rendered / "gone")
    ran = run("prune", "--older-than", "0h", "--results", "--yes")
    assert (ran.code, names(ledger)) == (6, ["one"])
    assert {record["batch"]: record["deleted"] for record in ran.records} == {"one": False, "two": True}
    assert "holds no file of batch 'one', which has done jobs" in ran.stderr


def test_where_nobody_can_be_asked_nothing_is_pruned(run: Run, ledger: Ledger, make: Make) -> None:
    make("old", ended=[40])
    ran = run("prune", "--older-than", "30d", stdin="y\n")
    assert (ran.code, names(ledger)) == (2, ["old"])
    assert "Delete 1 batch from Redis? Their pictures stay. Input is not a terminal" in ran.stderr


def test_a_person_is_asked_twice_about_pictures(run: Run, ledger: Ledger, rendered: Path, tmp_path: Path) -> None:
    arguments = ["prune", "--older-than", "0h", "--results"]
    assert on_terminal(tmp_path, *arguments, typed="y\ny\n").code == 2
    shown = on_terminal(tmp_path, *arguments, typed="y\n2\n")
    assert "Delete 2 batches and their pictures? [y/N]" in shown.text
    assert "Type the number of batches (2) to delete:" in shown.text
    assert (shown.code, names(ledger)) == (0, [])


@pytest.mark.parametrize(
    ("text", "hours"), [("30d", 720), ("12h", 12), ("2w", 336), ("1.5d", 36), (" 0h ", 0), ("1 D", 24)]
)
def test_ages(text: str, hours: float) -> None:
    assert age_seconds(text) == hours * 3600


@pytest.mark.parametrize("text", ["30", "d", "-1d", "30m", "1d12h", "", "١d", "1e9d", "infd"])
def test_what_is_no_age_is_a_sentence(text: str) -> None:
    with pytest.raises(CommandFailed, match="write a number and h, d or w for hours, days or weeks, as in 30d"):
        age_seconds(text)


def test_the_age_must_be_given(run: Run) -> None:
    ran = run("prune", "--yes")
    assert ran.code == 2
    assert "--older-than" in ran.stderr


def test_keep_days_are_none_by_default_and_more_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().keep_days is None
    monkeypatch.setenv("RENDER_KEEP_DAYS", "0.5")
    assert load_settings().keep_days == 0.5
    for value in ("0", "-1", "30d", ""):
        monkeypatch.setenv("RENDER_KEEP_DAYS", value)
        with pytest.raises(SettingsError, match="RENDER_KEEP_DAYS"):
            load_settings()
