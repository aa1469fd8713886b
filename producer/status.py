"""`producer status`: the counts of one batch or of the newest ones, what keeps jobs waiting, and the live workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jobs.ledger.damage import LedgerDamaged
from jobs.ledger.records import BatchInfo
from jobs.uri import redacted
from producer.batch_table import Counted, batch_list
from producer.console import count, people, place, say, write_json
from producer.engine_sets import engine_sets_record, say_engine_sets
from producer.exits import CommandFailed, Exit
from producer.name_pattern import fits, is_pattern
from producer.output import json_asked, json_wanted
from producer.session import Session, open_session
from producer.waiting import Waiting, say_waiting, waiting, waiting_record
from producer.worker_status import Heartbeats, say_workers, show_workers, workers_record

NOT_A_TERMINAL_COLUMNS = 200
SHOWN_BATCHES = 20

BatchState = Literal["queued", "running", "failed", "cancelled", "done", "unfinished", "ended"]


@dataclass(frozen=True)
class Choice:
    """Which batches are meant: those of such a name and in such a state, or all; the newest `limit` of them."""

    name: str | None = None
    state: BatchState | None = None
    limit: int | None = None
    damaged: dict[str, str] = field(default_factory=dict, compare=False)

    def infos(self, session: Session) -> list[BatchInfo]:
        """The batches of the name, newest first.

        Raises:
            CommandFailed: there are batches, but none with such a name; or the name is empty, which would fit all.
        """
        if self.name == "":
            raise CommandFailed(
                Exit.USAGE, "--name is empty; perhaps a shell variable is not set; leave it out for all batches"
            )
        known = session.ledger.batches()[::-1]
        chosen = [info for info in known if self.name is None or fits(info.name, self.name)]
        if known and not chosen:
            latest = ", ".join(info.name for info in known[:5])
            raise CommandFailed(Exit.NOT_FOUND, f"no batch's name fits {self.name!r}; latest batches: {latest}")
        return chosen

    def counted(self, session: Session) -> list[Counted]:
        """The batches of the name and the state with their counts, newest first, not limited.

        Those whose counts cannot be read are in `damaged` then, each with a sentence.
        """
        infos = self.infos(session)
        counted: list[Counted] = []
        for info, overview in zip(infos, session.ledger.overviews(info.name for info in infos), strict=True):
            if isinstance(overview, LedgerDamaged):
                self.damaged[info.name] = str(overview)
            else:
                counted.append(Counted(info, overview.counts, overview.engine_sets))
        return [each for each in counted if self.state is None or is_in(each, self.state)]

    def is_gone(self, session: Session, info: BatchInfo) -> bool:
        """Whether a batch that was there was deleted, or its counts cannot be read any more: Redis lost nothing."""
        return info.name in self.damaged or session.ledger.was_deleted(info)

    def say_damaged(self) -> None:
        """Warn of the batches that could not be shown."""
        for sentence in self.damaged.values():
            say(sentence, "warning")


def is_in(each: Counted, state: BatchState) -> bool:
    """Whether a batch is in a state: some of its jobs are, or, of `done`, all of them."""
    if state == "unfinished":
        return each.is_unfinished
    if state == "ended":
        return not each.is_unfinished
    if state == "done":
        return each.counts.done == each.counts.total
    return bool(getattr(each.counts, state))


def status(
    batch: str | None,
    *,
    name: str | None = None,
    state: BatchState | None = None,
    limit: int | None = None,
    workers: bool = False,
    watch: bool = False,
) -> Exit:
    """Print one batch, or several, or the workers. With `watch`, stay until no job of them is left.

    `batch` is a name or a pattern. The exit code says whether all jobs were rendered, if they were watched.

    Raises:
        CommandFailed: no such batch.
    """
    session = open_session()
    if workers:
        show_workers(session.ledger.workers())
        return Exit.OK
    if batch is not None and not is_pattern(batch):
        return _watch_one(session, batch) if watch else _show_one(session, batch)
    choice = Choice(name if batch is None else batch, state, limit)
    return _watch_several(session, choice) if watch else _show_several(session, choice)


def _show_one(session: Session, batch: str) -> Exit:
    info = session.batch(batch)
    counted = Counted(info, session.ledger.counts(batch), session.ledger.engine_sets(batch))
    workers, waits = session.ledger.workers(), waiting(session.ledger, batch)
    if not json_asked():
        _show([counted], hidden=[])
        say(f"from {place(info.source)} to {place(info.output)}/{info.name}")
        say_engine_sets(counted.engine_sets)
        say_waiting(waits)
        say_workers(workers)
        if session.ledger.is_being_deleted(batch):
            say(
                "Its deletion was begun and has not ended. If it was interrupted, run producer delete again",
                "warning",
            )
    write_json(record(counted, workers) | waiting_record(waits))
    return Exit.OK


def _show_several(session: Session, choice: Choice) -> Exit:
    counted, workers = choice.counted(session), session.ledger.workers()
    if not json_asked():
        limit = SHOWN_BATCHES if choice.limit is None else choice.limit or len(counted)
        _show_table(session, choice, counted[:limit], hidden=counted[limit:], workers=workers)
    choice.say_damaged()
    if json_wanted():
        for each in counted[: choice.limit or None]:
            write_json(record(each, workers))
    return Exit.OK


def _show_table(
    session: Session, choice: Choice, shown: Sequence[Counted], *, hidden: Sequence[Counted], workers: Heartbeats
) -> None:
    if not shown:
        chosen = choice.name or choice.state
        say("No batch is in that state." if chosen else "Nothing has been submitted to this Redis yet.")
        return
    _show(shown, hidden=hidden)
    for each in shown:
        say_engine_sets(each.engine_sets, batch=each.info.name if len(shown) > 1 else None)
    say_waiting(Waiting(delayed=session.ledger.delayed()))
    say_workers(workers)


def _show(shown: Sequence[Counted], *, hidden: Sequence[Counted]) -> None:
    console = people()
    if not console.is_terminal:
        console.width = NOT_A_TERMINAL_COLUMNS
    console.print(batch_list(shown, width=console.width))
    if hidden:
        unfinished = sum(each.is_unfinished for each in hidden)
        is_news = unfinished and unfinished < len(hidden)
        aside = f" ({unfinished:,} of them not finished: --state unfinished)" if is_news else ""
        say(
            f"... and {count(len(hidden), 'older batch', 'older batches')}{aside}; --limit 0 shows all", console=console
        )


def _watch_one(session: Session, batch: str) -> Exit:
    from producer.watch import watch_to_end

    info = session.batch(batch)
    end = watch_to_end(session, batch)
    counted = Counted(info, end.counts, end.engine_sets)
    write_json(record(counted, session.ledger.workers()) | {"failures": end.failures})
    return end.exit_code


def _watch_several(session: Session, choice: Choice) -> Exit:
    from producer.watch_all import watch_all

    watched = watch_all(
        session,
        lambda: choice.counted(session),
        is_gone=lambda info: choice.is_gone(session, info),
        only_unfinished=choice.name is None,
    )
    choice.say_damaged()
    workers = session.ledger.workers()
    for each in watched:
        write_json(record(each, workers))
    return Exit.JOBS_FAILED if any(each.counts.failed + each.counts.cancelled for each in watched) else Exit.OK


def record(counted: Counted, workers: Heartbeats) -> dict[str, object]:
    """One batch as JSON."""
    info, counts = counted.info, counted.counts
    return {
        "batch": info.name,
        "source": redacted(info.source),
        "output": redacted(info.output),
        "created_at": info.created_at,
        "total": counts.total,
        "counts": counts.model_dump(),
        **engine_sets_record(counted.engine_sets),
        "workers": workers_record(workers),
    }
