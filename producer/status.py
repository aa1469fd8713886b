"""`producer status`: the counts of one batch or of all, and the live workers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.table import Table

from jobs.ledger.records import BatchInfo, Counts, EngineSets, Heartbeat
from jobs.uri import redacted
from producer.console import STATES, count, people, place, say, write_json
from producer.engine_sets import engine_sets_record, say_engine_sets
from producer.exits import Exit
from producer.session import Session, open_session

NOT_A_TERMINAL_COLUMNS = 200
STYLES = {"failed": "red", "done": "green", "cancelled": "yellow"}


def status(batch: str | None, *, as_json: bool) -> Exit:
    """Print one batch, or all of them.

    Raises:
        CommandFailed: no such batch.
    """
    session = open_session()
    infos = [session.batch(batch)] if batch else session.ledger.batches()
    workers = session.ledger.workers()
    counted = [_counted(session, info, alone=batch is not None) for info in infos]
    if as_json:
        for each in counted:
            write_json(record(each, workers))
    else:
        _print(counted, workers)
    return Exit.OK


@dataclass(frozen=True)
class Counted:
    """A batch with its counts."""

    info: BatchInfo
    counts: Counts
    engine_sets: EngineSets


def _counted(session: Session, info: BatchInfo, *, alone: bool) -> Counted:
    """Among others, no batch is counted from its results: there may be hundreds."""
    ledger = session.ledger
    sets = ledger.engine_sets(info.name) if alone else ledger.engine_sets(info.name, read_up_to=0)
    return Counted(info, ledger.counts(info.name), sets)


def watch_status(batch: str, *, as_json: bool) -> Exit:
    """Watch one batch until all of its jobs have ended; the exit code says whether all were rendered."""
    from producer.watch import watch_to_end

    session = open_session()
    info = session.batch(batch)
    end = watch_to_end(session, batch)
    if as_json:
        counted = Counted(info, end.counts, end.engine_sets)
        write_json(record(counted, session.ledger.workers()) | {"failures": end.failures})
    return end.exit_code


def record(counted: Counted, workers: dict[str, Heartbeat]) -> dict[str, object]:
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
        "workers": {beat.worker: len(beat.in_flight) for beat in workers.values()},
    }


def _print(counted: list[Counted], workers: dict[str, Heartbeat]) -> None:
    console = people()
    if not counted:
        say("Nothing has been submitted to this Redis yet.", console=console)
        return
    if not console.is_terminal:
        console.width = NOT_A_TERMINAL_COLUMNS
    console.print(_table(counted))
    if len(counted) == 1:
        info = counted[0].info
        say(f"from {place(info.source)} to {place(info.output)}/{info.name}", console=console)
    for each in counted:
        say_engine_sets(each.engine_sets, batch=each.info.name if len(counted) > 1 else None, console=console)
    in_flight = sum(len(beat.in_flight) for beat in workers.values())
    at_work = f"{count(len(workers), 'worker')} at work, holding {count(in_flight, 'job')}"
    say(at_work if workers else "No worker is at work.", "note" if workers else "warning", console)


def _table(counted: list[Counted]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("batch", overflow="fold", min_width=6)
    states = (*STATES, "superseded") if any(each.counts.superseded for each in counted) else STATES
    for name in ("total", *states):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("begun", justify="right", no_wrap=True)
    for each in counted:
        numbers = [_number(state, getattr(each.counts, state)) for state in states]
        ago = _ago(time.time() - each.info.created_at)
        table.add_row(each.info.name, f"{each.counts.total:,}", *numbers, ago)
    return table


def _number(state: str, number: int) -> str:
    style = STYLES.get(state) if number else "dim"
    return f"[{style}]{number:,}[/]" if style else f"{number:,}"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"
