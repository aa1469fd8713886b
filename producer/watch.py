"""Follow a batch to its end: O(1) counts for the bar, a reconciler beside it, and the failures when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.errors import LedgerUnavailable, RenderError
from jobs.ledger.ledger import Counts
from jobs.ledger.reconcile import Reconciled, reconcile, take_back
from producer.console import count, people, place, say
from producer.exits import CommandFailed, Exit
from producer.rebuilding import make_again
from producer.session import Session

REFRESH_SECONDS = 0.5
LINE_SECONDS = 10.0  # between two lines where there is no terminal
NO_WORKER_SECONDS = 10.0  # of silence before somebody is told
LOOK_SECONDS = 2.0  # between two looks for workers
REDIS_PATIENCE_SECONDS = 60.0  # Redis may restart while a batch runs
SHOWN_FAILURES = 20
SUBMIT_AGAIN = "Submit the CSV to the same batch again: what is done is not redone."


class Display(Protocol):
    """Shows counts as they change."""

    def show(self, counts: Counts) -> None:
        """The newest counts."""


def watch(session: Session, batch: str) -> Counts:
    """Wait until no job of the batch is queued or running. Returns the last counts.

    Raises:
        LedgerUnavailable: Redis stayed away for a minute; the batch goes on without us.
        CommandFailed: Redis lost the batch, and storage does not bring it back.
        KeyboardInterrupt: after a sentence that says how to go on watching.
    """
    console = people()
    try:
        with (
            _Repairs(_quick_pass(session, batch), session, console) as quick,
            _Repairs(_whole_pass(session, batch), session, console) as whole,
            _display(console, batch) as display,
        ):
            alarm = _WorkerAlarm(session, console)
            return _follow(_Counting(session, batch), display, [quick.tick, whole.tick, alarm.tick])
    except KeyboardInterrupt:
        say(f"Stopped watching. The batch goes on; watch it again with: producer status {batch} --watch", "warning")
        raise


def _follow(counting: _Counting, display: Display, ticks: list[Callable[[Counts], None]]) -> Counts:
    answered = time.monotonic()
    while True:
        try:
            counts = counting.counts()
            answered = time.monotonic()
            display.show(counts)
            if not counts.queued + counts.running:
                return counts
            for tick in ticks:
                tick(counts)
        except LedgerUnavailable:
            if time.monotonic() - answered > REDIS_PATIENCE_SECONDS:
                raise
        time.sleep(REFRESH_SECONDS)


@dataclass
class _Counting:
    """The counts of a batch, which is made again from storage when Redis comes back with less than it had."""

    session: Session
    batch: str
    _most: int = 0
    _output: str | None = None

    def counts(self) -> Counts:
        """The newest.

        Raises:
            LedgerUnavailable: Redis does not answer.
            CommandFailed: Redis lost the batch, and storage does not bring it back.
        """
        if self._output is None:
            info = self.session.ledger.batch(self.batch)
            self._output = info.output if info else None
        counts = self.session.ledger.counts(self.batch)
        if counts.total < self._most:
            self._make_again()
            counts = self.session.ledger.counts(self.batch)
            self._most = 0
        self._most = max(self._most, counts.total)
        return counts

    def _make_again(self) -> None:
        say(f"Redis came back with less of batch {self.batch!r} than it had", "warning")
        try:
            rebuilt = make_again(self.session, self.batch, self._output) if self._output else None
        except LedgerUnavailable:
            raise
        except RenderError as error:
            raise CommandFailed(Exit.STORAGE, f"{error}\n{SUBMIT_AGAIN}") from error
        if rebuilt is None:
            raise CommandFailed(Exit.NO_REDIS, f"Nothing in storage says what the batch held. {SUBMIT_AGAIN}")


Pass = Callable[[Callable[[float], object]], Reconciled]  # told how to sleep


def _quick_pass(session: Session, batch: str) -> Pass:
    return lambda _: take_back(session.ledger, batch=batch, lease_seconds=session.settings.lease_seconds)


def _whole_pass(session: Session, batch: str) -> Pass:
    return lambda sleep: reconcile(
        session.ledger, batch=batch, lease_seconds=session.settings.lease_seconds, sleep=sleep
    )


@dataclass
class _Repairs:
    """Runs one kind of pass in a thread of its own, at most a tenth of the time: some read the whole batch."""

    repair: Pass
    session: Session
    console: Console
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reconcile"))
    _pass: Future[tuple[Reconciled, float]] | None = None
    _next: float = field(default_factory=time.monotonic)

    def tick(self, counts: Counts) -> None:  # noqa: ARG002 (the clock alone decides)
        """Start a pass when it is time; report and clear one that has ended."""
        if self._pass is None:
            if time.monotonic() >= self._next:
                self._pass = self._pool.submit(self._reconcile)
        elif self._pass.done():
            ended, self._pass = self._pass, None
            pause = self.session.settings.reconcile_seconds
            try:
                repaired, seconds = ended.result()
            except LedgerUnavailable:
                self._next = time.monotonic() + pause
                return
            self._next = time.monotonic() + max(pause, 9 * seconds)
            self._report(repaired)

    def _reconcile(self) -> tuple[Reconciled, float]:
        """What a pass repaired, and how many seconds it kept Redis busy."""
        begun, slept = time.monotonic(), []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            time.sleep(seconds)

        repaired = self.repair(sleep)
        return repaired, time.monotonic() - begun - sum(slept)

    def _report(self, repaired: Reconciled) -> None:
        if repaired.restored:
            say(f"{count(repaired.restored, 'job')} taken back from workers that died", "warning", self.console)
        if repaired.requeued:
            say(f"{count(repaired.requeued, 'lost message')} queued again", "warning", self.console)

    def __enter__(self) -> _Repairs:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _WorkerAlarm:
    """Says, once, that nobody is rendering; and when somebody is again."""

    session: Session
    console: Console
    _seen: float = field(default_factory=time.monotonic)
    _looked: float = 0.0
    _told: bool = False

    def tick(self, counts: Counts) -> None:  # noqa: ARG002 (a waiting batch is all that it needs to know)
        """Look for workers every few seconds."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        workers = self.session.ledger.workers()
        if workers:
            self._seen = now
            if self._told:
                say(f"{count(len(workers), 'worker')} at work now", "good", self.console)
            self._told = False
        elif not self._told and now - self._seen >= NO_WORKER_SECONDS:
            self._told = True
            queue = self.session.settings.queue
            say(
                f"No worker is at work on the queue {queue!r}: jobs wait until one starts "
                "(celery -A worker worker --concurrency 1)",
                "warning",
                self.console,
            )


def _display(console: Console, batch: str) -> AbstractContextManager[Display]:
    return _Bar(console, batch) if console.is_terminal else nullcontext(_Lines(console, batch))


class _Bar:
    """A progress bar for a terminal."""

    def __init__(self, console: Console, batch: str) -> None:
        counts = "{task.fields[running]:,} running  [red]{task.fields[failed]}[/]"
        columns = [TextColumn("[bold]{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn(counts)]
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, expand=True)
        self._task = self._progress.add_task(batch, total=None, running=0, failed="")

    def show(self, counts: Counts) -> None:
        """Move the bar."""
        ended = [f"{counts.failed:,} failed"] * bool(counts.failed)
        ended += [f"{counts.cancelled:,} cancelled"] * bool(counts.cancelled)
        self._progress.update(
            self._task, total=counts.total, completed=counts.finished, running=counts.running, failed="  ".join(ended)
        )

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines:
    """A line now and then, for logs."""

    def __init__(self, console: Console, batch: str) -> None:
        self._console = console
        self._batch = batch
        self._shown: Counts | None = None
        self._at = 0.0

    def show(self, counts: Counts) -> None:
        """Print what changed, not more often than every few seconds, and always the end."""
        over = not counts.queued + counts.running
        if counts == self._shown or not (over or time.monotonic() - self._at >= LINE_SECONDS):
            return
        self._shown, self._at = counts, time.monotonic()
        say(f"{self._batch}: {sentence(counts)}", console=self._console)


def sentence(counts: Counts) -> str:
    """`12 of 20 jobs finished (1 failed), 3 running, 5 queued`."""
    aside = [f"{number:,} {state}" for state, number in (("failed", counts.failed), ("cancelled", counts.cancelled))]
    ended = ", ".join(text for text in aside if not text.startswith("0 "))
    waiting = f", {counts.running:,} running, {counts.queued:,} queued" if counts.queued + counts.running else ""
    return f"{counts.finished:,} of {count(counts.total, 'job')} finished{f' ({ended})' if ended else ''}{waiting}"


def report_end(session: Session, batch: str, counts: Counts) -> None:
    """Say how it ended, and where the pictures are."""
    if not counts.total:
        return
    info = session.ledger.batch(batch)
    where = f"; pictures are in {place(info.output)}/{batch}" if info and counts.done else ""
    say(f"{sentence(counts)}{where}", "warning" if counts.failed + counts.cancelled else "good")


def report_failures(session: Session, batch: str, counts: Counts) -> list[dict[str, object]]:
    """Print the first failures with their reasons; the same as records."""
    if not counts.failed:
        return []
    failed = []
    for result in session.ledger.results(batch):
        if result.state == "failed":
            failed.append(result)
        if len(failed) == SHOWN_FAILURES:
            break
    failed.sort(key=lambda result: result.row)
    console = people()
    for result in failed:
        say(f"row {result.row} failed ({result.error_kind}): {result.error}", "error", console)
    if counts.failed > len(failed):
        say(f"... and {counts.failed - len(failed):,} more: producer results {batch} --state failed", "error", console)
    say(f"When the cause is gone, render them again with: producer retry {batch}", console=console)
    return [{"row": r.row, "id": r.id, "error_kind": r.error_kind, "error": r.error} for r in failed]
