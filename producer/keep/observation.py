"""One look at Redis: the queue, the workers and the counts of all batches. Metrics and page are made from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from jobs.ledger.failures import Failures
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo, Counts, Exit, Heartbeat

MOST_IN_FLIGHT = 1_000  # jobs whose batch is looked up
MOST_RENDERED = 10  # batches in which it is looked up


@dataclass(frozen=True)
class BatchCounts:
    """A batch and its counts."""

    info: BatchInfo
    counts: Counts

    @property
    def is_open(self) -> bool:
        """Whether a job of it is queued or running."""
        return bool(self.counts.unfinished)


@dataclass(frozen=True, eq=False)
class Observation:
    """What was seen at one time (`at`, seconds since the epoch by Redis' clock).

    `oldest_seconds` is how long the oldest message has waited: 0 if none waits, None if that is not known (see
    KombuView.oldest_queued_at). `batches` are all batches, newest first, without those in `damaged`, whose
    counts are not numbers. `exits` counts the workers that ended by themselves, by reason. `in_flight` has the batch of
    each job that workers have, if the caller asked for it; in large installations, of some of these jobs only.
    """

    at: float
    waiting: int
    unacknowledged: int
    delayed: int
    oldest_seconds: float | None
    workers: Mapping[str, Heartbeat]
    batches: Sequence[BatchCounts]
    damaged: Sequence[str] = ()
    exits: Mapping[Exit, int] = field(default_factory=dict)
    in_flight: Mapping[str, str] = field(default_factory=dict)
    seen: float = field(default_factory=time.monotonic)

    @property
    def open_batches(self) -> list[BatchCounts]:
        """The batches with a job that is queued or running, newest first."""
        return [batch for batch in self.batches if batch.is_open]


def observe(ledger: Ledger, *, with_in_flight: bool = False) -> Observation:
    """Look. This takes a dozen commands, one more for each batch, and a SCAN of all keys of the database.

    `with_in_flight` asks for the batches of the jobs that workers have, one command for each batch that is being
    rendered.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """
    at, waiting = ledger.server_time(), ledger.queue_length()
    oldest = ledger.kombu.oldest_queued_at() if waiting else at
    infos = list({info.name: info for info in ledger.batches()[::-1]}.values())
    counted = list(zip(infos, ledger.counts_of(info.name for info in infos), strict=True))
    batches = [BatchCounts(info, counts) for info, counts in counted if counts is not None]
    workers = ledger.workers()
    return Observation(
        at=at,
        waiting=waiting,
        unacknowledged=ledger.kombu.unacknowledged(),
        delayed=ledger.delayed(),
        oldest_seconds=None if oldest is None else max(0.0, at - oldest),
        workers=workers,
        batches=batches,
        damaged=[info.name for info, counts in counted if counts is None],
        exits=ledger.exits(),
        in_flight=_in_flight(ledger, workers, batches) if with_in_flight else {},
    )


def _in_flight(ledger: Ledger, workers: Mapping[str, Heartbeat], batches: Sequence[BatchCounts]) -> dict[str, str]:
    """Job id -> batch, which heartbeats do not name. Jobs of a batch whose lines are damaged are left out."""
    ids = list(islice((id_ for beat in workers.values() for id_ in beat.in_flight), MOST_IN_FLIGHT))
    rendered = [batch.info.name for batch in batches if batch.counts.running][:MOST_RENDERED]
    in_flight: dict[str, str] = {}
    failures = Failures(only=None)
    for name in rendered if ids else ():
        with failures.of(name):
            in_flight |= {line.id: name for line in ledger.states_of(name, ids)}
    return in_flight
