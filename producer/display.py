"""The counts of a watched batch on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.ledger.records import Counts
from producer.console import count, printable, say
from producer.progress_times import Rate, clock

LINE_SECONDS = 10.0  # between two lines where there is no terminal
REFRESHES_A_SECOND = 4


class Display(Protocol):
    """Shows counts as they change."""

    def show(self, counts: Counts) -> None:
        """Show the newest counts."""


def display_for(console: Console, batch: str, pictures_a_job: float = 1.0) -> AbstractContextManager[Display]:
    """The display that suits a console. `pictures_a_job` turns the rate of jobs into that of pictures."""
    pace = Pace(pictures_a_job)
    return _Bar(console, batch, pace) if console.is_terminal else nullcontext(_Lines(console, batch, pace))


class Pace:
    """How fast a batch is rendered, how long it has been watched, and how long the rest will take."""

    def __init__(self, pictures_a_job: float = 1.0) -> None:
        self._pictures_a_job = pictures_a_job
        self._begun = time.monotonic()
        self._done, self._finished = Rate(), Rate()

    def note(self, counts: Counts) -> None:
        """Note the newest counts."""
        self._done.note(counts.done)
        self._finished.note(counts.finished)

    def said(self, counts: Counts) -> list[str]:
        """`1.5 pictures/s`, `elapsed 0:01:20` and `left 0:03:00`, as far as they are known."""
        parts = [f"elapsed {clock(time.monotonic() - self._begun)}"]
        if self._done.per_second:
            parts.insert(0, f"{_rate(self._done.per_second * self._pictures_a_job)} pictures/s")
        remaining = counts.unfinished
        if self._finished.per_second and remaining:
            parts.append(f"left {clock(remaining / self._finished.per_second)}")
        return parts


class _Bar:
    """Three lines on a terminal: the name, a bar, and the counts with the times."""

    def __init__(self, console: Console, batch: str, pace: Pace) -> None:
        self._batch = batch
        self._pace = pace
        self._counts = Counts()
        self._live = Live(console=console, refresh_per_second=REFRESHES_A_SECOND, get_renderable=self._drawn)

    def show(self, counts: Counts) -> None:
        """Move the bar."""
        self._pace.note(counts)
        self._counts = counts

    def __enter__(self) -> _Bar:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _drawn(self) -> Table:
        counts = self._counts
        bar = ProgressBar(total=max(1, counts.total), completed=counts.finished, width=None)
        numbers = f"{counts.finished:,}/{counts.total:,}"
        states = [f"{number:,} {state}" for state, number in _states(counts) if number]
        below = " · ".join([", ".join([numbers, *states]), *self._pace.said(counts)])
        lines = Table.grid(expand=True)
        lines.add_column(overflow="fold")
        for line in (Text(printable(self._batch), style="bold"), bar, Text(below)):
            lines.add_row(line)
        return lines


class _Lines:
    """A line every few seconds, for logs."""

    def __init__(self, console: Console, batch: str, pace: Pace) -> None:
        self._console = console
        self._batch = batch
        self._pace = pace
        self._shown: Counts | None = None
        self._at = 0.0

    def show(self, counts: Counts) -> None:
        """Print changed counts, at most every few seconds; the last counts always."""
        self._pace.note(counts)
        has_ended = not counts.unfinished
        if counts == self._shown or not (has_ended or time.monotonic() - self._at >= LINE_SECONDS):
            return
        self._shown, self._at = counts, time.monotonic()
        pace = "" if has_ended else f"; {', '.join(self._pace.said(counts))}"
        say(f"{self._batch}: {sentence(counts)}{pace}", console=self._console)


def _rate(a_second: float) -> str:
    digits = 0 if a_second >= 10 else 1 if a_second >= 1 else 2
    return f"{a_second:,.{digits}f}"


def _states(counts: Counts) -> list[tuple[str, int]]:
    return [(state, getattr(counts, state)) for state in ("running", "queued", "failed", "cancelled")]


def sentence(counts: Counts) -> str:
    """`12 of 20 jobs finished (1 failed), 3 running, 5 queued`."""
    aside = [f"{number:,} {state}" for state, number in (("failed", counts.failed), ("cancelled", counts.cancelled))]
    ended = ", ".join(text for text in aside if not text.startswith("0 "))
    waiting = f", {counts.running:,} running, {counts.queued:,} queued" if counts.unfinished else ""
    return f"{counts.finished:,} of {count(counts.total, 'job')} finished{f' ({ended})' if ended else ''}{waiting}"
