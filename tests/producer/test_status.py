"""`producer status` of many batches: which are shown, how they are watched, and what is said of workers and waits."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from jobs.job import RenderJob, RenderParameters
from jobs.ledger.batches import Overview
from jobs.ledger.damage import LedgerDamaged
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import HeldSet, Refusal, WorkerFacts
from producer import watch as watch_module
from producer import watch_all as watch_all_module
from tests.producer.conftest import Run
from tests.producer.renderer import render_batch
from tests.producer.terminal import on_terminal

LONG = "nightly-of-a-name-that-is-much-longer-than-a-narrow-terminal-is-wide-0123456789"

BeforeLooks = Callable[[Mapping[int, Callable[[], object]]], list[object]]


def enter(ledger: Ledger, tmp_path: Path, batch: str, *, jobs: int = 2, done: bool = False, failing: int = 0) -> None:
    """A batch in the ledger, done or queued."""
    output = (tmp_path / "renders").as_uri()
    ledger.open_batch(batch, output=output, source=(tmp_path / "jobs.csv").as_uri())
    parameters = RenderParameters(image=(tmp_path / "a.png").as_uri(), prompt="a cat")
    ledger.enqueue([RenderJob.create(parameters, batch=batch, row=row, output=output) for row in range(1, jobs + 1)])
    if done:
        render_batch(ledger, batch, failing=range(1, failing + 1))


def jobs_of(ledger: Ledger, batch: str) -> list[RenderJob]:
    jobs = [ledger.job(batch, line.id) for line in ledger.states(batch)]
    return sorted((job for job in jobs if job is not None), key=lambda job: job.row)


@pytest.fixture
def batches(ledger: Ledger, tmp_path: Path) -> None:
    """Twenty-five batches: every fifth is queued, the last one has a failure, the others are done."""
    for number in range(25):
        enter(ledger, tmp_path, f"batch-{number:02d}", done=bool(number % 5), failing=int(number == 24))


def names(text: str) -> list[str]:
    return re.findall(r"^(batch-\d\d)\b", text, re.MULTILINE)


def test_the_newest_twenty_are_shown_and_the_others_counted(run: Run, batches: None) -> None:
    ran = run("status")
    assert names(ran.stderr) == [f"batch-{number:02d}" for number in range(24, 4, -1)]
    assert "... and 5 older batches (1 of them not finished: --state unfinished); --limit 0 shows all" in ran.stderr


def test_the_limit_can_be_set_and_lifted(run: Run, batches: None) -> None:
    assert names(run("status", "--limit", "3").stderr) == ["batch-24", "batch-23", "batch-22"]
    assert len(names(run("status", "--limit", "0").stderr)) == 25
    assert run("status", "--limit", "-1").code == 2


def test_json_lists_all_batches_unless_limited(run: Run, batches: None) -> None:
    assert [record["batch"] for record in run("status", "--json").records] == [
        f"batch-{n:02d}" for n in range(24, -1, -1)
    ]
    assert [record["batch"] for record in run("status", "--json", "--limit", "2").records] == ["batch-24", "batch-23"]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["batch-0*"], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (["*-?4"], [24, 14, 4]),
        (["--name", "h-2"], [24, 23, 22, 21, 20]),
        (["--name", "*-20"], [20]),
        (["--state", "queued"], [20, 15, 10, 5, 0]),
        (["--state", "unfinished"], [20, 15, 10, 5, 0]),
        (["--state", "failed"], [24]),
        (["--state", "running"], []),
        (["*-2?", "--state", "done"], [23, 22, 21]),
        (["--state", "ended", "--limit", "2"], [24, 23]),
    ],
)
def test_batches_are_chosen_by_name_and_state(run: Run, batches: None, arguments: list[str], shown: list[int]) -> None:
    ran = run("status", *arguments)
    assert ran.code == 0
    assert names(ran.stderr) == [f"batch-{number:02d}" for number in shown]


def test_a_pattern_that_fits_no_batch_is_an_error_that_names_some(run: Run, batches: None) -> None:
    ran = run("status", "nope*")
    assert ran.code == 5
    assert "no batch's name fits 'nope*'; latest batches: batch-24, batch-23" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["batch-01", "--state", "done"],
        ["batch-01", "--limit", "1"],
        ["a*", "--name", "b"],
        ["--workers", "--watch"],
        ["--workers", "batch-01"],
        ["--watch", "--state", "failed"],
        ["--watch", "--limit", "5"],
    ],
)
def test_options_that_do_not_go_together_are_refused(run: Run, batches: None, arguments: list[str]) -> None:
    assert run("status", *arguments).code == 2


@pytest.mark.parametrize("columns", [30, 60, 100])
def test_names_are_whole_on_narrow_terminals(run: Run, ledger: Ledger, tmp_path: Path, columns: int) -> None:
    enter(ledger, tmp_path, LONG, done=True)
    shown = on_terminal(tmp_path, "status", columns=columns)
    assert shown.code == 0
    assert LONG in shown.text.replace("\n", "")
    assert "2 done" in shown.text


@pytest.fixture
def before_looks(monkeypatch: pytest.MonkeyPatch) -> BeforeLooks:
    """`before_looks({3: act})`: call `act` before a watch looks at its batches a third time; returns the looks."""
    monkeypatch.setattr(watch_module, "REFRESH_SECONDS", 0.01)
    looks: list[object] = []
    real = Ledger.overviews

    def before_looks(acts: Mapping[int, Callable[[], object]]) -> list[object]:
        def overviews(self: Ledger, wanted: Iterable[str]) -> Iterator[Overview | LedgerDamaged]:
            looks.append(wanted)
            acts.get(len(looks), lambda: None)()
            return real(self, wanted)

        monkeypatch.setattr(Ledger, "overviews", overviews)
        return looks

    return before_looks


def test_watching_several_ends_when_nothing_is_left(
    run: Run, ledger: Ledger, tmp_path: Path, before_looks: BeforeLooks
) -> None:
    enter(ledger, tmp_path, "old", done=True, failing=2)
    enter(ledger, tmp_path, "one")
    enter(ledger, tmp_path, "two")
    before_looks({3: lambda: render_batch(ledger, "one"), 5: lambda: render_batch(ledger, "two")})
    ran = run("status", "--watch")
    assert ran.code == 0  # what failed before counts for nothing
    assert {record["batch"]: record["counts"]["done"] for record in ran.records} == {"one": 2, "two": 2}
    assert "one: 2 of 2 jobs finished\n" in ran.stderr


def test_watching_several_ends_with_one_where_jobs_failed(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, tmp_path, "nightly-1", done=True, failing=1)
    enter(ledger, tmp_path, "nightly-2", done=True)
    ran = run("status", "nightly*", "--watch")
    assert ran.code == 1
    assert "nightly-1: 2 of 2 jobs finished (1 failed): producer results nightly-1 --state failed" in ran.stderr


def test_watching_nothing_ends_at_once(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, tmp_path, "old", done=True, failing=1)
    ran = run("status", "--watch")
    assert (ran.code, ran.stdout, ran.stderr.strip()) == (0, "", "Nothing is queued or running.")


def test_jobs_that_redis_lost_end_the_watch(
    run: Run, ledger: Ledger, tmp_path: Path, before_looks: BeforeLooks
) -> None:
    enter(ledger, tmp_path, "one")
    before_looks({2: ledger.client.flushall})
    ran = run("status", "--watch")
    assert (ran.code, "producer reconcile --from-storage" in ran.stderr) == (4, True)


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "and-submitted-again"])
def test_batches_that_are_deleted_meanwhile_are_watched_no_more(
    run: Run, ledger: Ledger, tmp_path: Path, before_looks: BeforeLooks, again: bool
) -> None:
    enter(ledger, tmp_path, "one", jobs=5)
    enter(ledger, tmp_path, "two")

    def delete() -> None:
        ledger.forget("one", unfinished=True)
        if again:  # with fewer jobs; that batch is watched
            enter(ledger, tmp_path, "one")

    def cancel() -> None:
        ledger.cancel("two")
        ledger.cancel("one")

    looks = before_looks({2: delete, 4: cancel})
    ran = run("status", "--watch")
    watched = {record["batch"]: record["counts"]["cancelled"] for record in ran.records}
    assert (ran.code, watched) == (1, {"two": 2} | ({"one": 2} if again else {}))
    assert len(looks) >= 4


def test_a_terminal_gets_a_live_table(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(watch_all_module, "people", lambda: screen)
    enter(ledger, tmp_path, "one", done=True)
    assert run("status", "one*", "--watch").code == 0
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "2 of 2 jobs finished · elapsed 0:00:0" in shown


def test_workers_are_shown_with_all_that_they_say(run: Run, ledger: Ledger) -> None:
    now = time.time()
    paused = WorkerFacts(
        settings="ab" * 32, engine_set="cd" * 32, model="some-model", host="host-b", started_at=now - 7200,
        paused="no space left on /data", last_error="/data may not be written",
    )  # fmt: skip
    ledger.beat("gpu-1@host-a", in_flight=["x", "y"], lease_seconds=60)
    ledger.beat("gpu-2@host-b", in_flight=[], lease_seconds=60, facts=paused)
    ran = run("status", "--workers")
    assert ran.code == 0
    assert "gpu-1@host-a: holds 2 jobs\n" in ran.stderr
    assert "gpu-2@host-b: takes no jobs: no space left on /data; holds 0 jobs\n" in ran.stderr
    assert "  host host-b, started 2 h ago, queue render, last heartbeat 0 s ago\n" in ran.stderr
    assert "  engine set cdcdcdcdcdcd (some-model)\n  last error: /data may not be written\n" in ran.stderr
    assert [(record["worker"], record["jobs"], record["paused"]) for record in ran.records] == [
        ("gpu-1@host-a", ["x", "y"], None),
        ("gpu-2@host-b", [], "no space left on /data"),
    ]


def test_a_worker_that_holds_several_sets_is_shown_with_their_names(run: Run, ledger: Ledger) -> None:
    several = (
        HeldSet(name="anime", engine_set="ab" * 32, model="anime-v2"), HeldSet(name="default", engine_set="cd" * 32)
    )  # fmt: skip
    facts = WorkerFacts(engine_set="cd" * 32, sets=several)
    ledger.beat("gpu-1", in_flight=[], lease_seconds=60, facts=facts)
    ran = run("status", "--workers")
    assert "  anime: engine set abababababab (anime-v2)\n  default: engine set cdcdcdcdcdcd\n" in ran.stderr
    (record,) = ran.records
    assert record["engine_set"] == "cd" * 32  # for programs that know one set a worker
    assert [held["name"] for held in record["sets"]] == ["anime", "default"]


def test_no_worker_is_said(run: Run, ledger: Ledger) -> None:
    ran = run("status", "--workers")
    assert (ran.code, ran.stdout, ran.stderr.strip()) == (0, "", "No worker is at work.")


def test_a_paused_worker_is_mentioned_beside_the_batches(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, tmp_path, "one")
    ledger.beat("gpu-1", in_flight=[], lease_seconds=60)
    ledger.beat("gpu-2", in_flight=[], lease_seconds=60, facts=WorkerFacts(paused="its keys expired"))
    for arguments in ([], ["one"]):
        said = run("status", *arguments).stderr
        assert "1 of 2 takes no jobs: gpu-2: its keys expired (producer status --workers)" in said


def test_a_batch_says_who_refused_its_jobs_and_that_they_wait(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, tmp_path, "one", jobs=3)
    ledger.beat("gpu-1", in_flight=[], lease_seconds=60, facts=WorkerFacts(settings="ab" * 32))
    ledger.beat("gpu-2", in_flight=[], lease_seconds=60, facts=WorkerFacts(settings="cd" * 32))
    for job in jobs_of(ledger, "one")[:2]:
        ledger.start(job, worker="gpu-1")
        refusal = Refusal(
            by="ab" * 32, worker="gpu-1", kind="source_forbidden", text="/photos may not be read", at=time.time()
        )
        ledger.refuse(job, refusal, facts=WorkerFacts(settings="ab" * 32))
    ran = run("status", "one")
    assert "2 jobs of this batch refused by workers, for faults of their own:" in ran.stderr
    said = "2 jobs by gpu-1 and others with its settings (abababababab) (source_forbidden): /photos may not be read"
    assert said in ran.stderr
    assert "2 jobs of this queue wait a while before the next try" in ran.stderr
    assert (ran.record["delayed_in_queue"], ran.record["refused"]) == (2, 2)
    assert [(reason["jobs"], reason["kind"]) for reason in ran.record["refusals"]] == [(2, "source_forbidden")]
    assert "2 jobs of this queue wait" in run("status").stderr


def test_an_alarm_says_that_all_workers_are_paused(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_WORKER_SECONDS", "LOOK_SECONDS", "REFRESH_SECONDS"):
        monkeypatch.setattr(watch_module, name, 0.0)
    enter(ledger, tmp_path, "one")
    ledger.beat("gpu-2", in_flight=[], lease_seconds=60, facts=WorkerFacts(paused="its keys expired"))
    looks = []
    real = type(ledger).counts

    def counts(self: Ledger, batch: str) -> object:
        looks.append(batch)
        if len(looks) == 20:
            ledger.cancel(batch)
        return real(self, batch)

    monkeypatch.setattr(type(ledger), "counts", counts)
    said = run("status", "one", "--watch").stderr
    assert said.count("None of 1 worker takes jobs (gpu-2: its keys expired); see producer status --workers") == 1
