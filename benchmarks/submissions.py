"""A day of submissions: many in office hours, few at night, most of them small and some of them large."""

from __future__ import annotations

import random
from dataclasses import dataclass

DAY_SECONDS = 86_400.0
# How likely a submission is in each hour of the day.
BY_HOUR = (1, 1, 1, 1, 1, 1, 2, 4, 9, 14, 16, 12, 8, 12, 16, 15, 12, 8, 5, 4, 3, 2, 2, 1)
SPREAD = 1.3  # of the logarithm of their sizes: the largest of forty is some thirty times the median


@dataclass(frozen=True)
class Submission:
    """A batch: when it was submitted, in seconds since midnight, and its jobs."""

    at: float
    jobs: int


def day(jobs: int, submissions: int, *, seed: int) -> list[Submission]:
    """So many jobs in so many submissions, by time; the same for the same seed."""
    chance = random.Random(seed)
    hours = chance.choices(range(24), weights=BY_HOUR, k=submissions)
    times = sorted(3600.0 * (hour + chance.random()) for hour in hours)
    weights = [chance.lognormvariate(0.0, SPREAD) for _ in times]
    return [Submission(at, size) for at, size in zip(times, _shared_out(jobs, weights), strict=True)]


def _shared_out(jobs: int, weights: list[float]) -> list[int]:
    """Whole numbers in proportion to the weights, at least one each, whose sum is `jobs`."""
    total = sum(weights)
    sizes = [max(1, int(jobs * weight / total)) for weight in weights]
    largest = sizes.index(max(sizes))
    sizes[largest] = max(1, sizes[largest] + jobs - sum(sizes))
    return sizes
