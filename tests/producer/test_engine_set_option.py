"""`producer submit --engine-set`: a batch that is kept to one engine set, wherever its jobs come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts, HeldSet, PromptOptions, WorkerFacts
from producer.engine_sets import say_who_holds
from tests.producer.conftest import Run
from tests.producer.renderer import render_batch
from tests.producer.tables import write

ROWS = "image,prompt,seed\na.png,a cat,1\nb.png,a dog,2\n"
SET, OTHER = "5ccee6ac" * 8, "5ccee6ad" * 8


@pytest.fixture(autouse=True)
def csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.01")
    write(tmp_path, ROWS)


def jobs_of(ledger: Ledger, batch: str = "jobs") -> list[RenderJob]:
    jobs = [ledger.job(batch, line.id) for line in ledger.states(batch)]
    return sorted((job for job in jobs if job is not None), key=lambda job: job.row)


@pytest.mark.parametrize("given", [SET, SET[:8], SET[:12].upper(), f" {SET[:20]} "])
def test_every_job_is_kept_to_the_set_and_says_so_in_a_newer_message(run: Run, ledger: Ledger, given: str) -> None:
    assert run("submit", "jobs.csv", "--engine-set", given).record["enqueued"] == 2
    assert {(job.version, job.engine_set) for job in jobs_of(ledger)} == {(2, given.strip().lower())}
    (body, *_) = json.loads(json.loads(str(ledger.client.rpop(ledger.queue)))["body"])
    assert RenderJob.from_json(body[0]) == jobs_of(ledger)[0]


def test_a_batch_that_uses_no_set_is_as_it_was(run: Run, ledger: Ledger) -> None:
    run("submit", "jobs.csv")
    texts = ledger.client.hvals("render:batch:jobs:jobs")
    assert all('"version":1' in text and "engine_set" not in text for text in texts)


@pytest.mark.parametrize(
    "given", ["", "5ccee6a", "5ccee6ag", SET + "0", "dreamshaper_8", "5ccee6ac...", "五五五五五五五五"]
)
def test_what_is_no_digest_is_refused_before_anything_is_enqueued(run: Run, ledger: Ledger, given: str) -> None:
    ran = run("submit", "jobs.csv", "--engine-set", given)
    assert (ran.code, ledger.batches()) == (2, [])
    assert ran.stderr.startswith(f"--engine-set {given!r}: name an engine set by its digest, or by the first 8 or more")


def test_the_file_joins_its_batch_again_with_the_same_set_only(run: Run, ledger: Ledger) -> None:
    run("submit", "jobs.csv", "--engine-set", SET[:12])
    for same in (SET[:12], SET[:8], SET):  # fewer digits or more: the first spelling stays
        assert run("submit", "jobs.csv", "--engine-set", same).record["already"]["queued"] == 2
    for other in ((), ("--engine-set", OTHER), ("--engine-set", SET, "--n-prompt", "")):
        ran = run("submit", "jobs.csv", *other)
        assert (ran.code, "that were submitted with --engine-set 5ccee6ac5cce" in ran.stderr) == (2, True)
    assert "With other options, all of its rows would be rendered again" in run("submit", "jobs.csv").stderr
    assert ledger.counts("jobs") == Counts(queued=2)
    assert {job.engine_set for job in jobs_of(ledger)} == {SET[:12]}


def test_a_batch_that_was_begun_without_a_set_is_not_continued_with_one(run: Run) -> None:
    run("submit", "jobs.csv")
    ran = run("submit", "jobs.csv", "--engine-set", SET)
    assert (ran.code, "submitted without --engine-set" in ran.stderr) == (2, True)
    assert run("submit", "jobs.csv", "--engine-set", SET, "--batch", "other").record["enqueued"] == 2


def test_another_file_joins_the_batch_with_the_same_set_only(run: Run, tmp_path: Path) -> None:
    run("submit", "jobs.csv", "--engine-set", SET)
    write(tmp_path, ROWS, name="more.csv")
    for other in ((), ("--engine-set", OTHER)):
        ran = run("submit", "more.csv", "--batch", "jobs", *other)
        assert (ran.code, f"batch 'jobs' is kept to the engine set {SET}" in ran.stderr) == (2, True)
    assert run("submit", "more.csv", "--batch", "jobs", "--engine-set", SET[:8]).record["enqueued"] == 2
    run("submit", "jobs.csv", "--batch", "free")
    ran = run("submit", "more.csv", "--batch", "free", "--engine-set", SET)
    assert (ran.code, "batch 'free' is kept to no engine set" in ran.stderr) == (2, True)


def test_a_producer_of_the_version_before_refuses_to_join_without_the_set(run: Run, ledger: Ledger) -> None:
    """It compares what was kept of a file's options with what it was given, and knows no other names."""
    run("submit", "jobs.csv", "--engine-set", SET)
    (kept,) = ledger.all_prompt_options("jobs")
    assert kept == PromptOptions(source=kept.source, prompts={"engine_set": SET})


def test_a_batch_that_is_made_again_keeps_its_set(run: Run, ledger: Ledger) -> None:
    run("submit", "jobs.csv", "--engine-set", SET)
    before = jobs_of(ledger)
    ledger.client.flushall()
    assert run("reconcile", "jobs").code == 0
    assert jobs_of(ledger) == before
    ledger.client.flushall()
    assert run("submit", "jobs.csv").code == 2  # storage keeps the option, too
    assert run("submit", "jobs.csv", "--engine-set", SET).record["enqueued"] == 2
    assert jobs_of(ledger) == before


def test_what_is_done_is_found_again_with_the_set(run: Run, ledger: Ledger) -> None:
    run("submit", "jobs.csv", "--engine-set", SET)
    render_batch(ledger, "jobs")
    ledger.client.flushall()
    assert run("reconcile", "--from-storage").record["rebuilt"][0]["recovered"] == 2
    ledger.client.flushall()
    assert run("submit", "jobs.csv", "--engine-set", SET).record["recovered"] == 2


def test_a_retry_and_a_correction_keep_the_set(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    run("submit", "jobs.csv", "--engine-set", SET)
    run("cancel", "jobs")
    run("retry", "jobs")
    write(tmp_path, ROWS.replace("a dog", "a big dog"))
    assert run("submit", "jobs.csv", "--engine-set", SET).record["replaced"] == 1
    assert [(job.engine_set, job.parameters.prompt) for job in jobs_of(ledger)] == [(SET, "a cat"), (SET, "a big dog")]


# -- who holds it -----------------------------------------------------------------------------------------------------


def live(ledger: Ledger, worker: str, engine_set: str | None) -> None:
    ledger.beat(worker, in_flight=[], lease_seconds=60, facts=WorkerFacts(engine_set=engine_set, model="dreamshaper_8"))


def test_submit_names_the_live_workers_that_hold_the_set(run: Run, ledger: Ledger) -> None:
    live(ledger, "gpu-1", SET)
    live(ledger, "gpu-2", OTHER)
    live(ledger, "gpu-3", SET)
    said = run("submit", "jobs.csv", "--engine-set", SET[:12]).stderr
    assert "engine set 5ccee6ac5cce (dreamshaper_8) is held by 2 live workers of 3: gpu-1, gpu-3\n" in said


def test_submit_warns_where_nobody_holds_the_set(run: Run, ledger: Ledger) -> None:
    live(ledger, "gpu-2", OTHER)
    ledger.client.set("render:worker:old", '{"worker": "old", "held": [], "at": 1.0}', px=60_000)
    said = run("submit", "jobs.csv", "--engine-set", SET).stderr
    assert "no live worker holds an engine set that begins with 5ccee6ac5cce; 1 worker of an earlier version" in said


def test_digits_that_fit_several_sets_are_told(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    live(ledger, "gpu-1", SET)
    live(ledger, "gpu-2", SET[:40] + "f" * 24)
    say_who_holds(ledger.workers().values(), SET[:12])
    assert "fits several sets of live workers" in capsys.readouterr().err


def test_a_set_among_others_is_found(run: Run, ledger: Ledger) -> None:
    several = (HeldSet(name="anime", engine_set=OTHER), HeldSet(name="ink", engine_set=SET, model="ink_3"))
    ledger.beat("gpu-1", in_flight=[], lease_seconds=60, facts=WorkerFacts(engine_set=OTHER, sets=several))
    live(ledger, "gpu-2", OTHER)
    said = run("submit", "jobs.csv", "--engine-set", SET).stderr
    assert "engine set 5ccee6ac5cce (ink_3) is held by 1 live worker of 2: gpu-1\n" in said


def test_who_holds_the_model_of_all_rows_is_said(run: Run, ledger: Ledger) -> None:
    several = (HeldSet(name="anime", engine_set=OTHER), HeldSet(name="ink", engine_set=SET))
    ledger.beat("gpu-1", in_flight=[], lease_seconds=60, facts=WorkerFacts(engine_set=OTHER, sets=several))
    live(ledger, "gpu-2", OTHER)
    assert "model ink is held by 1 live worker of 2: gpu-1\n" in run("submit", "jobs.csv", "--model", "ink").stderr
    said = run("submit", "jobs.csv", "--batch", "other", "--model", "photo").stderr
    assert "no live worker holds a model called photo; they hold anime, ink. Jobs wait for a worker" in said


def test_without_the_option_nothing_is_said_of_sets(run: Run, ledger: Ledger) -> None:
    live(ledger, "gpu-1", SET)
    assert "engine set" not in run("submit", "jobs.csv").stderr
