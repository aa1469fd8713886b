"""Watching a batch: what is said, and when."""

from __future__ import annotations

import io
import re
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from jobs.errors import LedgerUnavailable
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from jobs.settings import Settings
from producer import watch as watch_module
from producer.display import display_for, sentence
from producer.exits import CommandFailed
from producer.session import Session
from producer.watch import watch
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result
from tests.producer.renderer import render_batch


@pytest.fixture
def session(ledger: Ledger) -> Session:
    return Session(Settings(), ledger)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between looks, and patience measured in looks."""
    monkeypatch.setattr(watch_module, "REFRESH_SECONDS", 0.001)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (Counts(done=1), "1 of 1 job finished"),
        (Counts(done=11, failed=1, running=3, queued=5), "12 of 20 jobs finished (1 failed), 3 running, 5 queued"),
        (Counts(failed=1, cancelled=2), "3 of 3 jobs finished (1 failed, 2 cancelled)"),
        (Counts(done=10_000), "10,000 of 10,000 jobs finished"),
    ],
)
def test_counts_are_said_in_a_sentence(counts: Counts, said: str) -> None:
    assert sentence(counts) == said


def test_the_absence_of_workers_is_said_once(
    session: Session, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch_module, "NO_WORKER_SECONDS", 0.0)
    monkeypatch.setattr(watch_module, "LOOK_SECONDS", 0.0)
    enqueue(session.ledger, make_jobs(2))
    looks = end_after(session, monkeypatch, looks=30)
    assert watch(session, "b").cancelled == 2
    said = capsys.readouterr().err
    assert len(looks) >= 30
    assert said.count("No worker is at work on the queue 'render'") == 1


def test_workers_that_come_back_are_said(
    session: Session, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch_module, "NO_WORKER_SECONDS", 0.0)
    monkeypatch.setattr(watch_module, "LOOK_SECONDS", 0.0)
    enqueue(session.ledger, make_jobs(1))

    def on_look(look: int) -> None:
        if look == 10:
            session.ledger.beat("gpu@1", in_flight=[], lease_seconds=60)

    end_after(session, monkeypatch, looks=20, on_look=on_look)
    watch(session, "b")
    assert "1 worker at work now" in capsys.readouterr().err


def test_lost_messages_are_queued_again_while_watching(
    ledger: Ledger, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Session(Settings(reconcile_seconds=0.01), ledger)
    enqueue(ledger, make_jobs(2))
    ledger.client.rpop(ledger.queue)
    real_counts = ledger.counts

    def counts(batch: str) -> Counts:
        if ledger.client.llen(ledger.queue) == 2:
            ledger.cancel(batch)
        return real_counts(batch)

    monkeypatch.setattr(ledger, "counts", counts)
    watch(session, "b")
    assert ledger.client.llen(ledger.queue) == 2


def test_a_redis_that_comes_back_is_waited_for(session: Session, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue(session.ledger, make_jobs(1))
    looks = end_after(session, monkeypatch, looks=5, away={2, 3})
    assert watch(session, "b").cancelled == 1
    assert len(looks) >= 5


def test_a_redis_that_stays_away_ends_the_watch(session: Session, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "REDIS_PATIENCE_SECONDS", 0.01)
    end_after(session, monkeypatch, looks=10_000, away=set(range(10_000)))
    with pytest.raises(LedgerUnavailable):
        watch(session, "b")


def test_ctrl_c_says_that_the_batch_goes_on(
    session: Session, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enqueue(session.ledger, make_jobs(1))

    def interrupt(look: int) -> None:
        raise KeyboardInterrupt

    end_after(session, monkeypatch, looks=10, on_look=interrupt)
    with pytest.raises(KeyboardInterrupt):
        watch(session, "b")
    assert "The batch goes on; watch it again with: producer status b --watch" in capsys.readouterr().err


def test_a_batch_that_is_lost_for_good_asks_for_the_csv_with_its_options(
    session: Session, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    enqueue(session.ledger, [job.model_copy(update={"output": tmp_path.as_uri()}) for job in make_jobs(1)])

    def lose(look: int) -> None:
        if look == 1:
            session.ledger.client.flushall()

    end_after(session, monkeypatch, looks=10, on_look=lose)
    with pytest.raises(
        CommandFailed,
        match="again \\(with the same options, if it had any\\): what",
    ):
        watch(session, "b")


def test_a_terminal_gets_a_bar(session: Session, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(watch_module, "people", lambda: screen)
    jobs = [job.model_copy(update={"output": tmp_path.as_uri()}) for job in make_jobs(2)]
    enqueue(session.ledger, jobs)
    render_batch(session.ledger, "b", failing={2})
    watch(session, "b")
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "2/2" in shown
    assert "1 failed" in shown


def end_after(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    *,
    looks: int,
    away: set[int] | frozenset[int] = frozenset(),
    on_look: object = None,
) -> list[int]:
    """Cancel the batch at the given look at its counts; Redis is away at the looks in `away`."""
    seen: list[int] = []
    real_counts = session.ledger.counts
    watching = threading.current_thread()

    def counts(batch: str) -> Counts:
        if threading.current_thread() is not watching:  # a reconciler beside it looks too
            return real_counts(batch)
        seen.append(len(seen))
        if callable(on_look):
            on_look(seen[-1])
        if seen[-1] in away:
            raise LedgerUnavailable("away")
        if len(seen) == looks:
            session.ledger.cancel(batch)
        return real_counts(batch)

    monkeypatch.setattr(session.ledger, "counts", counts)
    return seen


def test_a_narrow_terminal_gets_the_whole_name_and_labelled_times(tmp_path: Path) -> None:
    name = "nightly-of-a-name-that-is-longer-than-the-terminal-is-wide"
    screen = Console(file=io.StringIO(), force_terminal=True, width=40)
    with display_for(screen, name, 2.0) as display:
        display.show(Counts(queued=20))
        time.sleep(0.05)
        display.show(Counts(queued=12, running=3, done=4, failed=1))
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue())  # type: ignore[attr-defined]
    shown = re.sub(r"\s+", "", last)
    assert name in shown
    assert "5/20,3running,12queued,1failed" in shown
    assert re.search(r"failed·[\d.,]+pictures/s·elapsed0:00:00·left0:00:0", shown)


def test_a_watched_batch_that_is_deleted_is_not_brought_back(
    session: Session, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(session.ledger, make_jobs(2))
    rebuilt: list[str] = []
    monkeypatch.setattr(watch_module, "rebuild", lambda session, batch, output: rebuilt.append(batch))

    def on_look(look: int) -> None:
        if look == 3:
            session.ledger.forget("b", unfinished=True)

    looks = end_after(session, monkeypatch, looks=1000, on_look=on_look)
    with pytest.raises(CommandFailed, match="batch 'b' was deleted"):
        watch(session, "b")
    assert (len(looks), rebuilt) == (4, [])


def test_nor_is_one_that_was_submitted_again_before_anybody_looked(
    session: Session, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are not those of the batch that took its name."""
    first, second = make_jobs(2)
    enqueue(session.ledger, [first, second])
    rebuilt: list[str] = []
    monkeypatch.setattr(watch_module, "rebuild", lambda session, batch, output: rebuilt.append(batch))

    def on_look(look: int) -> None:
        if look == 3:
            session.ledger.forget("b", unfinished=True)
            enqueue(session.ledger, [second])

    looks = end_after(session, monkeypatch, looks=1000, on_look=on_look)
    with pytest.raises(CommandFailed, match="batch 'b' was deleted"):
        watch(session, "b")
    assert (len(looks), rebuilt, session.ledger.counts("b")) == (4, [], Counts(queued=1))


def test_a_row_that_is_corrected_while_it_runs_is_no_loss(
    session: Session, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both versions count until the earlier one has ended; then there is one job fewer."""
    ledger = session.ledger
    earlier, later = make_job(1), make_job(1, prompt="another")
    enqueue(ledger, [earlier])
    ledger.start(earlier, worker="gpu@1")
    ledger.enqueue([later])
    assert ledger.counts("b").total == 2

    def on_look(look: int) -> None:
        if look == 5:
            ledger.finish(make_result(earlier))

    end_after(session, monkeypatch, looks=10, on_look=on_look)
    assert watch(session, "b") == Counts(cancelled=1, superseded=1)
    assert "Redis came back" not in capsys.readouterr().err
