"""Entries in Redis that somebody else wrote, and standard output that is full: sentences, no tracebacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.ledger.keys import batch_key
from jobs.ledger.ledger import Ledger
from producer.status import Choice
from producer.watch_all import _Watched
from tests.producer.conftest import Run
from tests.producer.renderer import render_batch
from tests.producer.tables import write

ADVICE = "producer delete jobs --force forgets the batch"


@pytest.fixture
def done(run: Run, ledger: Ledger, tmp_path: Path) -> str:
    """A batch of two done jobs; its name."""
    write(tmp_path, "image,prompt\n" + "photo.png,a cat\n" * 2)
    assert run("submit", "jobs.csv").code == 0
    render_batch(ledger, "jobs")
    return "jobs"


@pytest.mark.parametrize("number", ["many", "", "1.5", "9" * 30])
def test_a_count_that_is_no_number_is_a_sentence(run: Run, ledger: Ledger, done: str, number: str) -> None:
    ledger.client.hset(batch_key(done, "counts"), "done", number)
    for arguments in (("status", "jobs"), ("results", "jobs"), ("gallery", "jobs", "--out", "page")):
        ran = run(*arguments)
        assert ran.code == 4, arguments
        assert "what Redis has of batch 'jobs' is damaged: its " in ran.stderr
        assert ADVICE in ran.stderr


def test_one_damaged_batch_does_not_hide_the_others(run: Run, ledger: Ledger, done: str, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\nphoto.png,a dog\n", name="other.csv")
    run("submit", "other.csv")
    ledger.client.hset(batch_key(done, "counts"), "done", "many")
    for arguments in (("status",), ("status", "--state", "unfinished")):
        ran = run(*arguments)
        assert ran.code == 0
        assert ran.record["batch"] == "other"
        assert "what Redis has of batch 'jobs' is damaged: its counts are {" in ran.stderr
    assert run("delete", "jobs", "--force", "--yes").code == 0
    assert "damaged" not in run("status").stderr


def test_a_batch_that_is_damaged_while_all_are_watched_is_not_said_to_be_lost(
    run: Run, ledger: Ledger, done: str, tmp_path: Path
) -> None:
    write(tmp_path, "image,prompt\nphoto.png,a dog\n", name="other.csv")
    run("submit", "other.csv")
    choice, session = Choice(), cast(Any, SimpleNamespace(ledger=ledger))
    watched = _Watched(
        lambda: choice.counted(session), lambda info: choice.is_gone(session, info), only_unfinished=False
    )
    assert watched.counts().total == 3
    ledger.client.hset(batch_key(done, "counts"), "done", "many")
    assert watched.counts().total == 1


@pytest.mark.parametrize("counter", ["many", "", "1e3"])
def test_counters_of_engine_sets_that_are_no_numbers_mean_nothing(
    run: Run, ledger: Ledger, done: str, counter: str
) -> None:
    ledger.client.hset(batch_key(done, "engine_sets"), "abc model", counter)
    assert run("status", "jobs", "--json").record["engine_sets"][0]["jobs"] == 2  # read from the results
    assert run("status", "--json").record["engine_sets_unknown"] == 2


@pytest.mark.parametrize("text", ["no json", "[]", "null", '{"row": "x"}', '{"row": 1, "state": "done"}'])
def test_a_result_that_is_none_is_a_sentence(run: Run, ledger: Ledger, done: str, text: str) -> None:
    (id_, *_) = ledger.ids(done)
    ledger.client.hset(batch_key(done, "results"), id_, text)
    for arguments in (("results", done), ("gallery", done, "--out", "page")):
        ran = run(*arguments)
        assert ran.code == 4, arguments
        assert "is not the result of a job. Perhaps another program uses the same database" in ran.stderr
        assert ADVICE in ran.stderr


def test_status_does_without_a_result_that_is_none(run: Run, ledger: Ledger, done: str) -> None:
    (id_, *_) = ledger.ids(done)
    ledger.client.hset(batch_key(done, "results"), id_, "no json")
    ledger.client.delete(batch_key(done, "engine_sets"))
    ran = run("status", "jobs", "--json")
    assert (ran.code, ran.record["engine_sets"][0]["jobs"]) == (0, 1)


@pytest.mark.parametrize("line", ["", " ", "running", "queued x", "running 1 w never"])
def test_a_job_s_line_that_is_none_is_a_sentence(run: Run, ledger: Ledger, done: str, line: str) -> None:
    (id_, *_) = ledger.ids(done)
    ledger.client.hset(batch_key(done, "states"), id_, line)
    for arguments in (("status", "jobs", "--watch"), ("retry", "jobs"), ("reconcile", "jobs")):
        ran = run(*arguments)
        assert ran.code in (0, 4), arguments
        assert ran.code == 0 or "is damaged" in ran.stderr


def test_what_is_kept_of_options_and_cannot_be_read_is_a_sentence(
    run: Run, ledger: Ledger, done: str, tmp_path: Path
) -> None:
    ledger.client.hset(batch_key(done, "prompts"), (tmp_path / "jobs.csv").as_uri(), "no json")
    ran = run("submit", "jobs.csv", "--n-prompt", "x")
    assert ran.code == 4
    assert "'no json' does not say what its empty cells mean" in ran.stderr


def test_help_that_cannot_be_written_is_a_sentence() -> None:
    script = "exec > /dev/full; {python} -m producer {arguments}; echo $? >&2"
    for arguments in ("--help", "submit --help"):
        command = script.format(python=sys.executable, arguments=arguments)
        ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert ended.stderr == "standard output: No space left on device\n6\n"
