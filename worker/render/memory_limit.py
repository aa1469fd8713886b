"""MemoryLimit: how much may be on the device at once, and what it learns when memory runs short.

It counts what engine sets cost together (residency.py), or the samples in a step of one bucket (scheduler.py).

What a failure taught is not kept for ever, since it may have been one large picture, or another process's memory:

- A lowered limit is raised again step by step, each time after WAIT_SECONDS without a failure. If memory fails again
  soon after that, the next wait is twice as long, up to MAX_WAIT_SECONDS. So a limit that is right costs one
  failure in that time, and no failure lasts until the worker is restarted.
- If a picture does not fit even when its set is alone, the other sets left for nothing, and the limit is what it was
  before. For the next IN_VAIN_SECONDS no set leaves for such a picture: it fails at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

WAIT_SECONDS = 60.0
MAX_WAIT_SECONDS = 3600.0
IN_VAIN_SECONDS = 600.0


class MemoryLimit:
    """For one thread at a time. A `cause` is what memory was short for: failures with the same cause are one story."""

    def __init__(self, limit: int | None, *, now: Callable[[], float] = time.monotonic) -> None:
        """`limit` in the unit of what is counted; None: everything fits. `now` gives seconds."""
        self._value = limit
        self._now = now
        self._before: list[int | None] = []  # the limits to go back to, last first
        self._wait_seconds = WAIT_SECONDS
        self._changed_at = -MAX_WAIT_SECONDS  # when memory last failed or the limit was last raised
        self._raised_at: float | None = None
        self._story: tuple[Hashable, int] | None = None  # the cause, and how many limits there were before it
        self._in_vain: dict[Hashable, float] = {}  # cause -> when it failed alone

    @property
    def value(self) -> int | None:
        """How much may be there at once now; None: everything fits."""
        return self._value

    def recover(self) -> None:
        """Between two turns: raise a lowered limit by one step, if memory has not failed for long enough."""
        if self._before and self._now() - self._changed_at >= self._wait_seconds:
            self._value = self._before.pop()
            self._changed_at = self._raised_at = self._now()
            self._story = None

    def lower(self, fitting: int, *, cause: Hashable) -> None:
        """Memory was short, and only `fitting` stays on the device."""
        if self._story is None or self._story[0] != cause:
            self._story = cause, len(self._before)
            self._wait_longer()
        self._changed_at = self._now()
        if self._value is None or fitting < self._value:
            self._before.append(self._value)
            self._value = fitting

    def _wait_longer(self) -> None:
        """Twice as long, if the limit was raised too early; but from the start, if what was raised has held."""
        if self._raised_at is not None:
            early = self._now() - self._raised_at < self._wait_seconds
            self._wait_seconds = min(2 * self._wait_seconds, MAX_WAIT_SECONDS) if early else WAIT_SECONDS
            self._raised_at = None

    def fail_alone(self, cause: Hashable) -> None:
        """Memory is short although nothing else is on the device: what was lowered for this cause was for nothing."""
        if self._story is not None and self._story[0] == cause:
            while len(self._before) > self._story[1]:
                self._value = self._before.pop()
        self._story = None
        self._in_vain = {one: at for one, at in self._in_vain.items() if self.is_in_vain(one)}
        self._in_vain[cause] = self._now()

    def is_in_vain(self, cause: Hashable) -> bool:
        """Whether making room for this cause was of no use a short while ago."""
        return cause in self._in_vain and self._now() - self._in_vain[cause] < IN_VAIN_SECONDS

    def restore(self) -> None:
        """Much memory was freed: the limit is what it was at first."""
        if self._before:
            self._value = self._before[0]
            self._before.clear()
            self._changed_at = self._raised_at = self._now()
        self._story = None

    def end_story(self) -> None:
        """A set has arrived: the next failure is another story."""
        self._story = None
