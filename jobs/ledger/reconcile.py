"""The reconciler: a job that is neither done, nor queued, nor held by a live worker goes back to the queue.

Redis delivery can lose a message: kombu pops it (BRPOP) and records it as unacknowledged (HSET) in two steps, and a
kill between the two loses it. When a worker dies, kombu returns its messages only after the visibility timeout, one
hour. So the reconciler compares the ledger with the queue and with the workers' heartbeats. Every repair is a
compare-and-set on the job's line in the ledger: two reconcilers, or a worker that starts the job meanwhile, cannot make
a second copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.ledger.idset import IdSet
from jobs.ledger.kombu_view import Delivered
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Heartbeat, JobState, State

# The most that one pass repairs; the next one goes on. Keeps a pass over a lost queue of millions flat in memory.
MAX_REPAIRS = 50_000
ACTIVE: tuple[State, ...] = ("queued", "running")


@dataclass(frozen=True)
class Reconciled:
    """What a pass repaired: `restored` messages were with dead workers, `requeued` jobs had no message any more."""

    restored: int = 0
    requeued: int = 0


def reconcile(
    ledger: Ledger,
    *,
    batch: str | None = None,
    lease_seconds: float,
    settle_seconds: float = 1.0,
    sleep: Callable[[float], object] = time.sleep,
) -> Reconciled:
    """One pass over one batch, or over all of them.

    A job counts as orphaned

    - when its worker's heartbeat is gone, or its worker lives and says that it does not have the job,
    - when its message was delivered more than `lease_seconds` ago and no worker started it,
    - or when it has no message at all in two looks `settle_seconds` apart. (For an instant, a message on its way from
      the queue to a worker is in neither place.)

    Until Redis has been up for `lease_seconds`, a missing heartbeat does not mean that a worker is dead.

    Raises:
        LedgerUnavailable: Redis did not answer; a pass may be repeated at any time.
    """
    names = _active(ledger, batch)
    orphans = _orphans(ledger, names, lease_seconds)
    if suspects := [name for name in names if orphans[name].lost]:
        sleep(settle_seconds)
        again = _orphans(ledger, suspects, lease_seconds)
        for name in suspects:
            orphans[name].lost &= again[name].lost
    total = Reconciled()
    for name, of_batch in orphans.items():
        if of_batch.lost or of_batch.stranded:
            restored, requeued = _repair(ledger, name, of_batch, lease_seconds)
            total = Reconciled(total.restored + restored, total.requeued + requeued)
    return total


def take_back(ledger: Ledger, *, batch: str | None = None, lease_seconds: float) -> Reconciled:
    """The urgent part of a pass: restore the messages that dead workers have.

    Its cost grows with the jobs in flight, not with the batch: a whole pass over a million jobs takes half a minute.

    Raises:
        LedgerUnavailable: as in `reconcile`.
    """
    delivered = ledger.kombu.delivered()
    owners = _Owners.now(ledger, lease_seconds)
    restored = 0
    for name in _active(ledger, batch) if delivered else []:
        lines = (line for line in ledger.states_of(name, delivered) if line.state in ACTIVE)
        orphans = _orphans_of(lines, owners, delivered, IdSet([]))
        restored += _repair(ledger, name, orphans, lease_seconds)[0] if orphans.stranded else 0
    return Reconciled(restored)


def _active(ledger: Ledger, batch: str | None) -> list[str]:
    """The batch, or all of them, without those that have nothing to repair."""
    names = [batch] if batch else [info.name for info in ledger.batches()]
    return [name for name in names if (counts := ledger.counts(name)).queued + counts.running]


@dataclass
class _Orphans:
    stranded: list[tuple[JobState, str]]  # with the delivery tag of the message that a dead consumer has
    lost: set[JobState]  # with no message anywhere


def _orphans(ledger: Ledger, batches: Sequence[str], lease_seconds: float) -> dict[str, _Orphans]:
    """By batch. The queue and the workers are read once: they are the same for all batches."""
    if not batches:
        return {}
    # In the order in which a job moves on: a job that moves while we look is seen in the next place. States are
    # streamed, because there may be a million; of the queue's messages eight bytes each are kept.
    queued = IdSet(ledger.kombu.queued_ids())
    delivered = ledger.kombu.delivered()
    owners = _Owners.now(ledger, lease_seconds)
    return {name: _orphans_of(ledger.states(name, only=ACTIVE), owners, delivered, queued) for name in batches}


def _orphans_of(
    lines: Iterator[JobState], owners: _Owners, delivered: Mapping[str, Delivered], queued: IdSet
) -> _Orphans:
    now = time.time()
    orphans = _Orphans([], set())
    for line in lines:
        message = delivered.get(line.id)
        running = line.worker is not None
        if running and owners.hold(line):
            continue
        if message is not None:
            # A live worker starts at once what is delivered to it, so an old delivery without a start has no owner.
            if running or now - message.since > owners.lease_seconds:
                orphans.stranded.append((line, message.tag))
        elif running or line.id not in queued:
            orphans.lost.add(line)
        if len(orphans.lost) + len(orphans.stranded) >= MAX_REPAIRS:
            break
    return orphans


def _repair(ledger: Ledger, batch: str, orphans: _Orphans, lease_seconds: float) -> tuple[int, int]:
    """How many messages were restored, and how many jobs were requeued."""
    # Again, because workers may have started since the look.
    owners = _Owners.now(ledger, lease_seconds)
    stranded = [(line, tag) for line, tag in orphans.stranded if not (line.worker and owners.hold(line))]
    lost = [line for line in orphans.lost if not (line.worker and owners.hold(line))]
    restored = sum(ledger.restore(batch, line, tag=tag) for line, tag in stranded)
    return restored, ledger.requeue(batch, lost, to="head")


@dataclass(frozen=True)
class _Owners:
    """The live workers. `forgiving` right after a restart of Redis: heartbeats expired while it was away."""

    live: dict[str, Heartbeat]
    lease_seconds: float
    forgiving: bool

    @classmethod
    def now(cls, ledger: Ledger, lease_seconds: float) -> _Owners:
        return cls(ledger.workers(), lease_seconds, forgiving=ledger.seconds_up() < lease_seconds)

    def hold(self, line: JobState) -> bool:
        """Whether a live worker has this running job."""
        beat = self.live.get(line.worker or "")
        if beat is None:
            return self.forgiving
        # A ledger that lost its last second may say `running` of a job that its worker has ended and forgotten. Both
        # times come from the worker's own clock.
        return line.id in beat.in_flight or beat.at - (line.since or 0.0) < self.lease_seconds
