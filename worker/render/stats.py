"""LoopStats: what the loop did so far; and the counters that it is read from."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from worker.render.request import BucketKey

# Upper bounds, in seconds, of the buckets for step times: from a small model on a large GPU to SD1.5 on two CPU cores.
STEP_BOUNDS = (
    *(0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.03, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0),
)


# Why a graph was captured: a step needed it, or the device was idle.
Cause = Literal["step", "idle"]


@dataclass(frozen=True)
class Captures:
    """Graphs that were captured for one cause, and the seconds that this took, warm-up calls included."""

    number: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class StepSeconds:
    """How long engine calls for a step took, as a histogram."""

    counts: tuple[int, ...]  # calls by STEP_BOUNDS, and last those that took longer; not cumulative
    total: float  # seconds of all calls


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
    step_seconds: StepSeconds
    images_by_set: dict[str, int]  # pictures by the digest of the engine set that drew them
    sample_steps_by_set: dict[str, int]
    padded_sample_steps: int  # samples x steps that padding added
    captures: dict[Cause, Captures]


@dataclass(frozen=True)
class Loads:
    """How often engine sets were loaded, and the seconds that took, by digest; and which of them are on the device.

    `loading`: whether one is being loaded.
    """

    counts: dict[str, int]
    seconds: dict[str, float]
    loaded: frozenset[str]
    loading: bool = False


class LoopCounters:
    """Counted by the loop's threads, read by any.

    Only the GPU's thread counts steps and turns, so it takes no lock for them: a thread that is interrupted while it
    holds one would make the GPU wait. A reader may see a step in one number and not yet in the next.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for pictures, which are counted by two threads
        self._steps = self._sample_steps = self._images = 0
        self._busy_seconds = 0.0
        self._busy_since: float | None = None
        self._batch_sizes: Counter[int] = Counter()
        self._step_counts = [0] * (len(STEP_BOUNDS) + 1)
        self._step_seconds = 0.0
        self._images_by_set: Counter[str] = Counter()
        self._sample_steps_by_set: Counter[str] = Counter()
        self._padded = 0
        self._captures: dict[Cause, Captures] = {"step": Captures(), "idle": Captures()}
        self._sizes: Counter[tuple[BucketKey, int]] = Counter()

    def count_step(self, samples: int, seconds: float, *, engine_set: str = "") -> None:
        """One engine call that advanced so many samples, and how long the GPU's thread waited for it."""
        self._steps += 1
        self._sample_steps += samples
        self._batch_sizes[samples] += 1
        self._step_counts[bisect_left(STEP_BOUNDS, seconds)] += 1
        self._step_seconds += seconds
        self._sample_steps_by_set[engine_set] += samples

    def count_size(self, key: BucketKey, size: int, *, samples: int) -> None:
        """A step of so many samples in a graph of this batch size."""
        self._sizes[key, size] += samples
        self._padded += size - samples

    def count_capture(self, seconds: float, *, cause: Cause) -> None:
        """One graph, and how long its capture took."""
        before = self._captures[cause]
        self._captures[cause] = Captures(before.number + 1, before.seconds + seconds)

    @property
    def sizes(self) -> dict[tuple[BucketKey, int], int]:
        """Sample-steps by bucket and by the batch size of the graph that took them."""
        return dict(self._sizes)

    def count_images(self, number: int, *, engine_set: str = "") -> None:
        """Pictures that were decoded."""
        with self._lock:
            self._images += number
            self._images_by_set[engine_set] += number

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
        return LoopStats(
            waiting=waiting,
            active=active,
            steps=self._steps,
            sample_steps=self._sample_steps,
            images=self._images,
            busy_seconds=self._busy_seconds,
            busy_since=self._busy_since,
            batch_sizes=dict(self._batch_sizes),  # copied without running Python code, so never while it changes
            step_seconds=StepSeconds(tuple(self._step_counts), self._step_seconds),
            images_by_set=dict(self._images_by_set),
            sample_steps_by_set=dict(self._sample_steps_by_set),
            padded_sample_steps=self._padded,
            captures=dict(self._captures),
        )
