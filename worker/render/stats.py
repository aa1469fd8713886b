"""LoopStats: what the loop did so far; and the counters that it is read from."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class LoopStats:
    """A snapshot, for other threads than the loop's."""

    waiting: int  # samples
    active: int  # samples
    steps: int  # engine calls
    sample_steps: int  # samples x steps
    images: int
    busy_seconds: float  # inside a turn
    busy_since: float | None  # time.monotonic() when the current turn began, None between turns
    batch_sizes: dict[int, int]  # samples in a step -> steps


class LoopCounters:
    """Counted by the loop's threads, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps = self._sample_steps = self._images = 0
        self._busy_seconds = 0.0
        self._busy_since: float | None = None
        self._batch_sizes: Counter[int] = Counter()

    def count_step(self, samples: int) -> None:
        """One engine call that advanced so many samples."""
        with self._lock:
            self._steps += 1
            self._sample_steps += samples
            self._batch_sizes[samples] += 1

    def count_images(self, number: int) -> None:
        """Pictures that were decoded."""
        with self._lock:
            self._images += number

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around each turn: the time in it counts as busy."""
        began = time.monotonic()
        self._busy_since = began
        try:
            yield
        finally:
            self._busy_since = None
            self._busy_seconds += time.monotonic() - began

    def snapshot(self, *, waiting: int, active: int) -> LoopStats:
        """What was counted so far, with how many samples are where now."""
        with self._lock:
            return LoopStats(
                waiting=waiting,
                active=active,
                steps=self._steps,
                sample_steps=self._sample_steps,
                images=self._images,
                busy_seconds=self._busy_seconds,
                busy_since=self._busy_since,
                batch_sizes=dict(self._batch_sizes),
            )
