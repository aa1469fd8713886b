"""Watching a batch until all of its jobs have ended: counts, a reconciler beside them, and the failures at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, Protocol

from rich.console import Console

from jobs.errors import LedgerUnavailable, RenderError
from jobs.ledger.reconcile import Reconciled, reconcile, take_back
from jobs.ledger.records import BatchInfo, Counts, EngineSets, Heartbeat
from producer.console import count, people, place, say
from producer.display import Display, display_for, sentence
from producer.engine_sets import say_engine_sets
from producer.exits import CommandFailed, Exit
from producer.repair import rebuild
from producer.row_defaults import SAME_OPTIONS
from producer.session import Session

REFRESH_SECONDS = 0.5
NO_WORKER_SECONDS = 10.0  # without a worker before a warning
LOOK_SECONDS = 2.0  # between two checks for workers
REDIS_PATIENCE_SECONDS = 60.0  # Redis may restart while a batch runs
SHOWN_FAILURES = 20
LOOKED_AT_JOBS = 200  # for how many pictures a job has
SUBMIT_AGAIN = f"Submit the CSV to the same batch again{SAME_OPTIONS}: what is done is not redone."


class End(NamedTuple):
    """How a batch ended: its last counts, the engine sets that drew it, and the first failures as records for JSON."""

    counts: Counts
    engine_sets: EngineSets
    failures: list[dict[str, object]]

    @property
    def exit_code(self) -> Exit:
        """Whether every job was rendered."""
        return Exit.JOBS_FAILED if self.counts.failed + self.counts.cancelled else Exit.OK


def watch_to_end(session: Session, batch: str) -> End:
    """Watch a batch and report how it ended. Raises as `watch` does."""
    counts = watch(session, batch)
    failures = report_failures(session, batch, counts)
    report_end(session, batch, counts)
    engine_sets = session.ledger.engine_sets(batch)
    say_engine_sets(engine_sets)
    return End(counts, engine_sets, failures)


def watch(session: Session, batch: str) -> Counts:
    """Wait until no job of the batch is queued or running. Returns the last counts.

    Raises:
        LedgerUnavailable: Redis did not answer for a minute; the batch goes on.
        CommandFailed: Redis lost the batch, and storage does not bring it back.
        KeyboardInterrupt: after a sentence that says how to go on watching.
    """
    console = people()
    try:
        with (
            Repairs(quick_pass(session, batch), session, console) as quick,
            Repairs(whole_pass(session, batch), session, console) as whole,
            display_for(console, batch, _pictures_a_job(session, batch)) as display,
        ):
            alarm = WorkerAlarm(session, console)
            return follow(_Counting(session, batch), display, [quick.tick, whole.tick, alarm.tick])
    except KeyboardInterrupt:
        say(f"Stopped watching. The batch goes on; watch it again with: producer status {batch} --watch", "warning")
        raise


def _pictures_a_job(session: Session, batch: str) -> float:
    """The mean over a few jobs that wait: most batches have the same number in every row."""
    waiting = [line.id for line in islice(session.ledger.states(batch, only=("queued", "running")), LOOKED_AT_JOBS)]
    numbers = [job.parameters.num_samples for job in session.ledger.jobs(batch, waiting).values()]
    return sum(numbers) / len(numbers) if numbers else 1.0


class Counting(Protocol):
    """What is watched."""

    def counts(self) -> Counts:
        """Ask for the newest counts."""


def follow(counting: Counting, display: Display, ticks: list[Callable[[Counts], None]]) -> Counts:
    """Show the counts as they change, until no job is queued or running; do the ticks' duties meanwhile.

    Raises:
        LedgerUnavailable: Redis did not answer for a minute.
    """
    answered = time.monotonic()
    while True:
        try:
            counts = counting.counts()
            answered = time.monotonic()
            display.show(counts)
            if not counts.unfinished:
                return counts
            for tick in ticks:
                tick(counts)
        except LedgerUnavailable:
            if time.monotonic() - answered > REDIS_PATIENCE_SECONDS:
                raise
        time.sleep(REFRESH_SECONDS)


@dataclass
class _Counting:
    """The counts of a batch, which is rebuilt from storage when Redis restarts and knows less of it than before."""

    session: Session
    batch: str
    _most: int = 0
    _info: BatchInfo | None = None

    def counts(self) -> Counts:
        """Ask for the newest counts.

        Raises:
            LedgerUnavailable: Redis does not answer.
            CommandFailed: Redis lost the batch, and storage does not bring it back; or the batch was deleted.
        """
        if self._info is None:
            self._info = self.session.ledger.batch(self.batch)
        counts = self.session.ledger.counts(self.batch)
        if counts.known < self._most:
            if self._is_deleted():
                raise CommandFailed(Exit.NOT_FOUND, f"batch {self.batch!r} was deleted")
            self._rebuild()
            counts = self.session.ledger.counts(self.batch)
            self._most = 0
        self._most = max(self._most, counts.known)
        return counts

    def _is_deleted(self) -> bool:
        """Even where another batch was submitted under its name already."""
        ledger = self.session.ledger
        return ledger.deleted_at(self.batch) is not None if self._info is None else ledger.was_deleted(self._info)

    def _rebuild(self) -> None:
        say(f"Redis came back with less of batch {self.batch!r} than it had", "warning")
        try:
            rebuilt = rebuild(self.session, self.batch, self._info.output) if self._info else None
        except LedgerUnavailable:
            raise
        except RenderError as error:
            raise CommandFailed(Exit.STORAGE, f"{error}\n{SUBMIT_AGAIN}") from error
        if rebuilt is None:
            raise CommandFailed(Exit.NO_REDIS, f"Nothing in storage says what the batch held. {SUBMIT_AGAIN}")
        self._info = None  # it was registered anew


Pass = Callable[[Callable[[float], object]], Reconciled]  # takes the function to sleep with


def quick_pass(session: Session, batch: str | None) -> Pass:
    """Takes back what dead workers hold, of one batch or of all."""
    return lambda sleep: take_back(
        session.ledger, batch=batch, lease_seconds=session.settings.lease_seconds, sleep=sleep
    )


def whole_pass(session: Session, batch: str | None) -> Pass:
    """Reconciles one batch, or all."""
    return lambda sleep: reconcile(
        session.ledger, batch=batch, lease_seconds=session.settings.lease_seconds, sleep=sleep
    )


@dataclass
class Repairs:
    """Runs one kind of reconciling pass in its own thread, at most a tenth of the time: some read the whole batch."""

    repair: Pass
    session: Session
    console: Console
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reconcile"))
    _pass: Future[tuple[Reconciled, float]] | None = None
    _next: float = field(default_factory=time.monotonic)
    _said: dict[str, str] = field(default_factory=dict)  # batch -> why it is not reconciled

    def tick(self, counts: Counts) -> None:  # noqa: ARG002 (only the clock matters)
        """Start a pass when it is due; report one that has ended."""
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
        """Run a pass. Returns what it repaired, and for how many seconds it kept Redis busy."""
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
        for name, why in repaired.failures.items():
            if self._said.get(name) != why:
                say(f"Batch {name!r} is not reconciled: {why}", "warning", self.console)
        self._said = dict(repaired.failures)

    def __enter__(self) -> Repairs:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class WorkerAlarm:
    """Warns, once, when no worker is running or none takes jobs; and says when one does again."""

    session: Session
    console: Console
    _seen: float = field(default_factory=time.monotonic)
    _looked: float = 0.0
    _warned: bool = False

    def tick(self, counts: Counts) -> None:  # noqa: ARG002 (it is called only while jobs wait)
        """Check for workers every few seconds."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        workers = self.session.ledger.workers()
        able = [beat for beat in workers.values() if beat.facts.paused is None]
        if able:
            self._seen = now
            if self._warned:
                say(f"{count(len(able), 'worker')} at work now", "good", self.console)
            self._warned = False
        elif not self._warned and now - self._seen >= NO_WORKER_SECONDS:
            self._warned = True
            say(self._why(list(workers.values())), "warning", self.console)

    def _why(self, paused: list[Heartbeat]) -> str:
        if paused:
            example = f"{paused[0].worker}: {paused[0].facts.paused}"
            return f"None of {count(len(paused), 'worker')} takes jobs ({example}); see producer status --workers"
        queue = self.session.settings.queue
        return (
            f"No worker is at work on the queue {queue!r}: jobs wait until one starts "
            "(celery -A worker worker --concurrency 1)"
        )


def report_end(session: Session, batch: str, counts: Counts) -> None:
    """Say how the batch ended, and where the pictures are."""
    if not counts.total:
        return
    info = session.ledger.batch(batch)
    where = f"; pictures are in {place(info.output)}/{batch}" if info and counts.done else ""
    say(f"{sentence(counts)}{where}", "warning" if counts.failed + counts.cancelled else "good")


def report_failures(session: Session, batch: str, counts: Counts) -> list[dict[str, object]]:
    """Print the first failures with their reasons. Returns them as records for JSON."""
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
