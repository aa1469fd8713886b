"""The counts of a watched batch on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.ledger.records import Counts
from producer.console import count, say

LINE_SECONDS = 10.0  # between two lines where there is no terminal


class Display(Protocol):
    """Shows counts as they change."""

    def show(self, counts: Counts) -> None:
        """Show the newest counts."""


def display_for(console: Console, batch: str) -> AbstractContextManager[Display]:
    """The display that suits a console."""
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
    """A line every few seconds, for logs."""

    def __init__(self, console: Console, batch: str) -> None:
        self._console = console
        self._batch = batch
        self._shown: Counts | None = None
        self._at = 0.0

    def show(self, counts: Counts) -> None:
        """Print changed counts, at most every few seconds; the last counts always."""
        has_ended = not counts.queued + counts.running
        if counts == self._shown or not (has_ended or time.monotonic() - self._at >= LINE_SECONDS):
            return
        self._shown, self._at = counts, time.monotonic()
        say(f"{self._batch}: {sentence(counts)}", console=self._console)


def sentence(counts: Counts) -> str:
    """`12 of 20 jobs finished (1 failed), 3 running, 5 queued`."""
    aside = [f"{number:,} {state}" for state, number in (("failed", counts.failed), ("cancelled", counts.cancelled))]
    ended = ", ".join(text for text in aside if not text.startswith("0 "))
    waiting = f", {counts.running:,} running, {counts.queued:,} queued" if counts.queued + counts.running else ""
    return f"{counts.finished:,} of {count(counts.total, 'job')} finished{f' ({ended})' if ended else ''}{waiting}"
