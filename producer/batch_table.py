"""Batches and their counts for people: a table where it fits, and otherwise two lines a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.ledger.records import BatchInfo, Counts, EngineSets
from producer.console import STATES, count, printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

WIDER_THAN_ALL = 10_000
LINES_OF_A_BATCH = 3  # at most, with a name that is folded once
STYLES = {"failed": "red", "done": "green", "cancelled": "yellow"}


@dataclass(frozen=True)
class Counted:
    """A batch with its counts."""

    info: BatchInfo
    counts: Counts
    engine_sets: EngineSets

    @property
    def is_unfinished(self) -> bool:
        """Whether a job of it is queued or running."""
        return bool(self.counts.unfinished)


def batch_list(counted: Sequence[Counted], *, width: int, height: int | None = None) -> Table | Group:
    """A table, or lines where a table of this width would break the names.

    Of more batches than fit into `height` lines, the first ones are shown, and the others counted.
    """
    from rich.console import Console, Group
    from rich.measure import Measurement

    wide = Console(width=WIDER_THAN_ALL)
    table = _table(counted)
    is_table = Measurement.get(wide, wide.options, table).maximum <= width
    fit = len(counted) if height is None else max(1, height - 2 if is_table else (height - 1) // LINES_OF_A_BATCH)
    hidden = len(counted) - fit
    if hidden <= 0:
        return table if is_table else _lines(counted)
    shown = counted[:fit]
    return Group(_table(shown) if is_table else _lines(shown), f"... and {count(hidden, 'more batch', 'more batches')}")


def _table(counted: Sequence[Counted]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("batch", overflow="fold", min_width=6)
    states = (*STATES, "superseded") if any(each.counts.superseded for each in counted) else STATES
    for name in ("total", *states):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("begun", justify="right", no_wrap=True)
    for each in counted:
        numbers = [_number(state, getattr(each.counts, state)) for state in states]
        table.add_row(each.info.name, f"{each.counts.total:,}", *numbers, ago(time.time() - each.info.created_at))
    return table


def _lines(counted: Sequence[Counted]) -> Group:
    """The name whole, folded where it must be, and below it the states that there are."""
    from rich.console import Group
    from rich.text import Text

    lines = []
    for each in counted:
        states = [state for state in (*STATES, "superseded") if getattr(each.counts, state)]
        begun = ago(time.time() - each.info.created_at)
        below = Text(f"  {count(each.counts.total, 'job')}: ", overflow="fold")
        for state in states:
            below.append(f"{getattr(each.counts, state):,} {state}", style=STYLES.get(state, ""))
            below.append(", ")
        lines += [Text(printable(each.info.name), style="bold", overflow="fold"), below.append(f"begun {begun}")]
    return Group(*lines)


def _number(state: str, number: int) -> str:
    style = STYLES.get(state) if number else "dim"
    return f"[{style}]{number:,}[/]" if style else f"{number:,}"


def ago(seconds: float) -> str:
    """`3 h ago`."""
    return f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """`3 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
