"""GraphSizes: at which batch size a bucket steps, and when a graph of one more size pays. It calls no engine.

A step replays a CUDA graph that was captured for one picture size and one batch size. The capture of a new pair takes
about a second in a new process, so a worker with many picture sizes must not capture every batch size that it meets. A
graph of any batch size serves any number of requests: with fewer the batch is padded, with more the oldest step and the
others wait for a place. Both cost something, and so this is the problem of renting or buying skis: a graph of one more
size is captured once what it would have saved up to now, and what it will save for the requests that wait, is as much
time as its capture takes. So at most about twice the captures' time is lost, whatever arrives.

The first graph of a picture size is the important one, since most workers need no other. It is for as many requests as
are to be expected of that size, however few have come so far: where several sizes share a worker, it takes more jobs
until there is a full batch of each (Scheduler.batch_places), so that is more than its share of those that are there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.render.memory_limit import MAX_WAIT_SECONDS, WAIT_SECONDS
from worker.render.request import BucketKey

# Before any capture was timed: on an H200 it takes 0.9 to 1.4 s in a new process, and 0.2 s in one that has run.
CAPTURE_SECONDS = 1.0
# The first graph's size over a bucket's share of the requests that are there, where several buckets share the worker.
# 200 to 400 jobs of 5 and 9 sizes, 16 and 32 in flight, took 3% longer with 0.65 and 7% with 1.0 on a simulated device.
FIRST_SHARE = 1.5
# What earlier workers stepped at is captured first, unless the requests that are there ask for a graph more than so
# many times as large: those workers may have drawn lone samples. Half the size costs each request little.
TRUSTED = 2
# The part of a step's time that does not grow with the batch, in samples, as long as only one batch size was timed. On
# an H200 it is 0.5 at 512x512 and 2 at 256x384. Far too small a part, and larger graphs seem to save next to nothing.
FIXED_SAMPLES = 1.0
# While the device is idle, a graph costs nothing, except for one capture that a job may have to wait for.
IDLE_SHARE = 0.1


class Demand(NamedTuple):
    """What a bucket has to do."""

    requests: int  # that could take its next step, as many as fit
    sample_steps: int = 0  # that its requests have before them, those that wait for a place included


class Crowd(NamedTuple):
    """Who shares the worker at the moment: requests, those of jobs being prepared included, and buckets."""

    requests: int
    buckets: int


@dataclass
class _Known:
    """What is known of one bucket's steps. All dictionaries are by batch size."""

    seconds: dict[int, float] = field(default_factory=dict)  # of a step, timed
    captures: dict[int, float] = field(default_factory=dict)  # seconds
    saved: dict[int, float] = field(default_factory=dict)  # seconds that one more graph would have saved by now
    steps: Counter[int] = field(default_factory=Counter)  # by how many requests could have taken them
    graphs: frozenset[int] = frozenset()  # beside which `saved` counts
    largest: int | None = None  # that fits in memory, until `retry_at`: it may have been another process's memory
    retry_at: float = 0.0
    retry_seconds: float = WAIT_SECONDS / 2  # how long the latest failure counted; the next one counts twice as long
    first: int | None = None  # what workers before this one stepped at


class GraphSizes:
    """Decides which batch sizes get a graph. Used by the loop's thread only."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is a clock in seconds."""
        self._now = now
        self._known: dict[BucketKey, _Known] = {}
        self._capture_seconds: float | None = None  # of the captures so far: a moving mean

    def choose(
        self, key: BucketKey, *, demand: Demand, allowed: Sequence[int], graphs: Collection[int], crowd: Crowd
    ) -> int:
        """The batch size of the next step.

        `allowed` are the sizes that graphs can have, ascending, and `graphs` those that there are: another answer means
        that one is to be captured. The answer may be smaller than the number of requests that could take the step.
        """
        known = self._of(key)
        fitting = self._fitting(key, allowed)
        usable = [size for size in graphs if size in fitting]
        if not usable:
            return self._first(known, demand.requests, fitting, crowd)
        wanted = min(demand.requests, fitting[-1])
        known.steps[wanted] += 1
        if wanted in usable:  # nothing serves them better: the larger a full batch, the less each request takes
            return wanted
        if known.graphs != frozenset(usable):
            _count_anew(known, frozenset(usable), fitting)
        elif known.seconds:
            _count_savings(known, wanted, 1, fitting)
        gains = _with_what_is_ahead(known, wanted, demand.sample_steps, fitting)
        worth = max(gains, key=lambda size: (gains[size], -size), default=None)
        if worth is not None and gains[worth] >= self._cost(known, worth):
            return worth
        return _best(known, wanted)

    def captured(self, key: BucketKey, size: int, seconds: float) -> None:
        """A graph was captured, in so many seconds."""
        known = self._of(key)
        known.captures[size] = seconds
        if known.graphs:
            _count_anew(known, known.graphs | {size}, sorted({*known.saved, *known.graphs, size}))
        before = self._capture_seconds
        self._capture_seconds = seconds if before is None else (3 * before + seconds) / 4

    def took(self, key: BucketKey, size: int, seconds: float) -> None:
        """A step took so many seconds on the device."""
        known = self._of(key)
        before = known.seconds.get(size)
        known.seconds[size] = seconds if before is None else (3 * before + seconds) / 4

    def too_large(self, key: BucketKey, size: int) -> None:
        """Memory does not suffice for a graph of this size: for a while, smaller ones are used.

        That is WAIT_SECONDS after the first time, and twice as long after each further one, up to MAX_WAIT_SECONDS.
        """
        known = self._of(key)
        if known.largest is None:
            known.retry_seconds = min(2 * known.retry_seconds, MAX_WAIT_SECONDS)
        known.retry_at = self._now() + known.retry_seconds
        known.largest = size - 1 if known.largest is None else min(known.largest, size - 1)
        known.saved = {one: saved for one, saved in known.saved.items() if one < size}

    def prefer(self, key: BucketKey, size: int) -> None:
        """Capture this size first: other workers, or this one before its restart, stepped at it."""
        self._of(key).first = size

    def fits(self, key: BucketKey, size: int) -> bool:
        """Whether nothing is known against a graph of this size."""
        known = self._of(key)
        if known.largest is not None and self._now() >= known.retry_at:
            known.largest = None
        return known.largest is None or size <= known.largest

    def worth_capturing(self, key: BucketKey, *, graphs: Collection[int], largest: int) -> int | None:
        """The size whose graph an idle worker should capture for this bucket; None if no graph would save enough.

        For a bucket that has stepped, that may also be `largest`, a full batch: more jobs may follow the first.
        """
        known = self._of(key)
        size = _worth_most(known) if known.graphs == frozenset(graphs) else None
        if size is not None and known.saved[size] >= IDLE_SHARE * self._cost(known, size):
            return size
        return largest if known.steps and graphs and largest not in graphs else None

    def buckets(self) -> list[BucketKey]:
        """The buckets that have stepped."""
        return list(self._known)

    def _of(self, key: BucketKey) -> _Known:
        return self._known.setdefault(key, _Known())

    def _fitting(self, key: BucketKey, allowed: Sequence[int]) -> list[int]:
        return [size for size in allowed if self.fits(key, size)] or list(allowed[:1])

    def _first(self, known: _Known, wanted: int, fitting: Sequence[int], crowd: Crowd) -> int:
        """The size of a bucket's first graph: that of its part of the crowd, however few of it have come so far."""
        part = crowd.requests / max(1, crowd.buckets)
        expected = max(wanted, part) if crowd.buckets <= 1 else FIRST_SHARE * part
        guess = min((size for size in fitting if size >= round(expected)), default=fitting[-1])
        if known.first is not None and known.first in fitting and guess <= TRUSTED * known.first:
            return known.first
        return guess

    def _cost(self, known: _Known, size: int) -> float:
        usual = CAPTURE_SECONDS if self._capture_seconds is None else self._capture_seconds
        return known.captures.get(size, usual)


def _best(known: _Known, wanted: int) -> int:
    """The graph that serves so many requests best."""
    return min(known.graphs, key=lambda size: (_seconds_per_request(known, size, wanted), size))


def _worth_most(known: _Known) -> int | None:
    return max(known.saved, key=lambda size: (known.saved[size], -size), default=None)


def _with_what_is_ahead(known: _Known, wanted: int, sample_steps: int, sizes: Sequence[int]) -> dict[int, float]:
    """By size: the seconds that one more graph would have saved, and those that it will save for sure."""
    if not known.seconds:
        return {}
    rate = _seconds_per_request(known, _best(known, wanted), wanted)
    return {
        size: known.saved.get(size, 0.0) + sample_steps * max(0.0, rate - _seconds_per_request(known, size, wanted))
        for size in sizes
        if size not in known.graphs
    }


def _count_anew(known: _Known, graphs: frozenset[int], sizes: Sequence[int]) -> None:
    """There are other graphs: what one more beside them would have saved in all steps so far."""
    known.graphs, known.saved = graphs, {}
    if known.seconds:
        for wanted, steps in known.steps.items():
            _count_savings(known, wanted, steps, sizes)


def _count_savings(known: _Known, wanted: int, steps: int, sizes: Sequence[int]) -> None:
    """For each size without a graph: how much sooner the requests of these steps would have had them with it."""
    best = _best(known, wanted)
    rate, served = _seconds_per_request(known, best, wanted), min(best, wanted)
    for size in sizes:
        saves = steps * served * (rate - _seconds_per_request(known, size, wanted))
        if saves > 0 and size not in known.graphs:
            known.saved[size] = known.saved.get(size, 0.0) + saves


def _seconds_per_request(known: _Known, size: int, wanted: int) -> float:
    """The time of a step in a graph of this size, per request in it. In any unit until a step was timed."""
    return _step_seconds(known.seconds, size) / min(size, wanted)


def _step_seconds(timed: Mapping[int, float], size: int) -> float:
    """As timed, or on the line through the smallest and the largest batch that were timed."""
    if size in timed:
        return timed[size]
    low, high = min(timed, default=1), max(timed, default=1)
    if low == high:
        return timed.get(high, 1.0) * (FIXED_SAMPLES + size) / (FIXED_SAMPLES + high)
    slope = max(0.0, (timed[high] - timed[low]) / (high - low))
    fixed = max(0.0, timed[low] - slope * low)
    return fixed + slope * size
