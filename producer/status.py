"""`producer status`: the counts of one batch or of all, and the live workers."""

from __future__ import annotations

import time

from rich.table import Table

from jobs.ledger.records import BatchInfo, Counts, Heartbeat
from jobs.uri import redacted
from producer.console import STATES, count, people, place, say, write_json
from producer.exits import Exit
from producer.session import open_session

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
    counted = [(info, session.ledger.counts(info.name)) for info in infos]
    if as_json:
        for info, counts in counted:
            write_json(record(info, counts, workers))
    else:
        _print(counted, workers)
    return Exit.OK


def watch_status(batch: str, *, as_json: bool) -> Exit:
    """Watch one batch until all of its jobs have ended; the exit code says whether all were rendered."""
    from producer.watch import watch_to_end

    session = open_session()
    info = session.batch(batch)
    end = watch_to_end(session, batch)
    if as_json:
        write_json(record(info, end.counts, session.ledger.workers()) | {"failures": end.failures})
    return end.exit_code


def record(info: BatchInfo, counts: Counts, workers: dict[str, Heartbeat]) -> dict[str, object]:
    """One batch as JSON."""
    return {
        "batch": info.name,
        "source": redacted(info.source),
        "output": redacted(info.output),
        "created_at": info.created_at,
        "total": counts.total,
        "counts": counts.model_dump(),
        "workers": {beat.worker: len(beat.in_flight) for beat in workers.values()},
    }


def _print(counted: list[tuple[BatchInfo, Counts]], workers: dict[str, Heartbeat]) -> None:
    console = people()
    if not counted:
        say("Nothing has been submitted to this Redis yet.", console=console)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("batch", overflow="fold", min_width=6)
    states = (*STATES, "superseded") if any(counts.superseded for _, counts in counted) else STATES
    for name in ("total", *states):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("begun", justify="right", no_wrap=True)
    for info, counts in counted:
        numbers = [_number(state, getattr(counts, state)) for state in states]
        ago = _ago(time.time() - info.created_at)
        table.add_row(info.name, f"{counts.total:,}", *numbers, ago)
    if not console.is_terminal:
        console.width = NOT_A_TERMINAL_COLUMNS
    console.print(table)
    if len(counted) == 1:
        info = counted[0][0]
        say(f"from {place(info.source)} to {place(info.output)}/{info.name}", console=console)
    in_flight = sum(len(beat.in_flight) for beat in workers.values())
    at_work = f"{count(len(workers), 'worker')} at work, holding {count(in_flight, 'job')}"
    say(at_work if workers else "No worker is at work.", "note" if workers else "warning", console)


def _number(state: str, number: int) -> str:
    style = STYLES.get(state) if number else "dim"
    return f"[{style}]{number:,}[/]" if style else f"{number:,}"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"
