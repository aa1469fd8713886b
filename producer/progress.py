"""Progress on stderr: a bar on a terminal, nothing or a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from producer.console import people

SHOW_AFTER_SECONDS = 0.5  # small files are through before anybody could read a bar


@contextmanager
def row_progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None] | None]:
    """A function that takes the number of rows that are through; None where no person is waiting."""
    console = people()
    if not console.is_terminal:
        yield None
        return
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
    progress = Progress(*columns, MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True)
    task = progress.add_task(what, total=total)
    begun = time.monotonic()

    def tick(rows: int) -> None:
        if not progress.live.is_started and time.monotonic() - begun > SHOW_AFTER_SECONDS:
            progress.start()
        progress.update(task, completed=rows)

    try:
        yield tick
    finally:
        if progress.live.is_started:
            progress.stop()
