"""Paces: how fast each open batch is rendered, and how long the rest of it will take, from one look to the next."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from jobs.ledger.failures import Failures
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from producer.keep.observation import Observation
from producer.progress_times import Rate

COUNTED_SECONDS = 300.0  # for which the counted number of pictures per job is used
COUNTED_JOBS = 20


@dataclass(frozen=True)
class Pace:
    """Pictures a second, and seconds until the batch ends; None where that is not known."""

    pictures_a_second: float | None = None
    seconds_left: float | None = None


@dataclass
class _Tracked:
    done: Rate = field(default_factory=Rate)
    finished: Rate = field(default_factory=Rate)
    pictures_a_job: float = 1.0
    counted: float | None = None


class Paces:
    """Notes every look. One thread calls `note`; any thread may call `of`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._tracked: dict[str, _Tracked] = {}
        self._paces: dict[str, Pace] = {}

    def note(self, seen: Observation) -> None:
        """Note the counts of the open batches, and forget the others.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        counts = {batch.info.name: batch.counts for batch in seen.open_batches}
        self._tracked = {name: self._tracked.get(name) or _Tracked() for name in counts}
        for name, tracked in self._tracked.items():
            tracked.done.note(counts[name].done)
            tracked.finished.note(counts[name].finished)
            if tracked.done.per_second:
                self._count_pictures(name, tracked)
        self._paces = {name: _pace(tracked, counts[name]) for name, tracked in self._tracked.items()}

    def of(self, batch: str) -> Pace:
        """The pace of a batch as of the last look."""
        return self._paces.get(batch, Pace())

    def _count_pictures(self, name: str, tracked: _Tracked) -> None:
        """Most batches have the same number of samples in every row, so a few of the newest tell it.

        Where the newest cannot be read, because the batch's keys are damaged, the number stays what it was.
        """
        now = time.monotonic()
        if tracked.counted is not None and now - tracked.counted < COUNTED_SECONDS:
            return
        numbers: list[int] = []
        with Failures(only=None).of(name):
            numbers = [len(result.samples) for result in self._ledger.newest(name, limit=COUNTED_JOBS)]
        if numbers:
            tracked.pictures_a_job, tracked.counted = sum(numbers) / len(numbers), now


def _pace(tracked: _Tracked, counts: Counts) -> Pace:
    done, finished = tracked.done.per_second, tracked.finished.per_second
    return Pace(
        pictures_a_second=done * tracked.pictures_a_job if done else None,
        seconds_left=counts.unfinished / finished if finished else None,
    )
