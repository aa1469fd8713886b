"""Times of a progress bar that say what they are, and the rate of what is counted."""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta

from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text

WINDOW_SECONDS = 60.0  # over which a rate is measured


class _Whole(ProgressColumn):
    """A column that stays whole on a narrow terminal, where a bar becomes shorter."""

    max_refresh = 0.5

    def get_table_column(self) -> Column:
        return Column(no_wrap=True)


class Elapsed(_Whole):
    """`elapsed 0:01:20`."""

    def render(self, task: Task) -> Text:
        """The time since the task began."""
        return Text(f"elapsed {clock(task.finished_time if task.finished else task.elapsed)}", style="progress.elapsed")


class Left(_Whole):
    """`left 0:03:00`, or nothing where that is not known."""

    def render(self, task: Task) -> Text:
        """The time that the rest will take."""
        known = task.time_remaining is not None and not task.finished
        return Text(f"left {clock(task.time_remaining)}" if known else "", style="progress.remaining")


class Rate:
    """How many things a second were done lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, done: int) -> None:
        """Note how many are done now. A smaller number than before starts anew."""
        now = time.monotonic()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """None where nothing was done yet."""
        if len(self._seen) < 2:
            return None
        (begun, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - begun) if done > before and now > begun else None


def clock(seconds: float | None) -> str:
    """`0:01:20`, `2 days, 3:04:05`."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=max(0, round(seconds))))
