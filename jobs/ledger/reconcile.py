"""The reconciler: what is neither done, nor queued, nor held by a live worker goes back to the queue.

Redis delivery can lose a message: kombu pops it (BRPOP) and notes it as unacknowledged (HSET) in two steps, and a kill
between them loses it. A worker that dies holds its messages until the visibility timeout, which is an hour. So the
ledger is compared with the queue and with the workers' heartbeats, and every repair is a compare-and-set on the line
that was seen: two reconcilers, or a worker that starts the job meanwhile, cannot make a second copy.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jobs.ledger.idset import IdSet
from jobs.ledger.ledger import Heartbeat, JobState, Ledger, State
from jobs.ledger.message import message_for

# What one pass repairs at most; the next one goes on. Keeps a pass over a lost queue of millions flat in memory.
MAX_REPAIRS = 50_000
ACTIVE: tuple[State, ...] = ("queued", "running")
_ID = re.compile(r'"correlation_id": ?"([0-9a-f]{20})"')


@dataclass(frozen=True)
class Reconciled:
    """What a pass repaired: `restored` were held by dead workers, `requeued` had no message any more."""

    restored: int = 0
    requeued: int = 0


@dataclass(frozen=True)
class _Delivered:
    """A message that some consumer holds: its delivery tag, and since when (seconds since the epoch)."""

    tag: str
    since: float


def reconcile(
    ledger: Ledger,
    *,
    batch: str | None = None,
    lease_seconds: float,
    settle_seconds: float = 1.0,
    sleep: Callable[[float], object] = time.sleep,
) -> Reconciled:
    """One pass over one batch, or over all of them.

    A job counts as orphaned when its worker's heartbeat is gone, when its worker lives and says that it does not hold
    it, when its message was delivered `lease_seconds` ago and no worker started it, or when it has no message at all in
    two looks `settle_seconds` apart (a message on its way from the queue to a worker is for an instant in neither
    place). Until Redis has been up for `lease_seconds` nobody counts as dead for his silence.

    Raises:
        LedgerUnavailable: Redis did not answer; a pass may be repeated at any time.
    """
    names = _active(ledger, batch)
    found = _orphans(ledger, names, lease_seconds)
    if suspects := [name for name in names if found[name].lost]:
        sleep(settle_seconds)
        again = _orphans(ledger, suspects, lease_seconds)
        for name in suspects:
            found[name].lost &= again[name].lost
    total = Reconciled()
    for name, orphans in found.items():
        if orphans.lost or orphans.stranded:
            restored, requeued = _repair(ledger, name, orphans, lease_seconds)
            total = Reconciled(total.restored + restored, total.requeued + requeued)
    return total


def take_back(ledger: Ledger, *, batch: str | None = None, lease_seconds: float) -> Reconciled:
    """The part of a pass that must not wait: what dead workers hold messages of.

    It costs what workers hold, not what the batch holds: in a batch of a million a whole pass takes half a minute.

    Raises:
        LedgerUnavailable: as in `reconcile`.
    """
    delivered = _delivered(ledger)
    owners = _Owners.now(ledger, lease_seconds)
    restored = 0
    for name in _active(ledger, batch) if delivered else []:
        lines = (line for line in ledger.states_of(name, delivered) if line.state in ACTIVE)
        orphans = _orphans_of(lines, owners, delivered, IdSet([]))
        restored += _repair(ledger, name, orphans, lease_seconds)[0] if orphans.stranded else 0
    return Reconciled(restored)


def _active(ledger: Ledger, batch: str | None) -> list[str]:
    """The batch, or all of them, as far as there is anything to repair."""
    names = [batch] if batch else [info.name for info in ledger.batches()]
    return [name for name in names if (counts := ledger.counts(name)).queued + counts.running]


@dataclass
class _Orphans:
    stranded: list[tuple[JobState, str]]  # with the delivery tag of the message that a dead consumer holds
    lost: set[JobState]  # with no message anywhere


def _orphans(ledger: Ledger, batches: Sequence[str], lease_seconds: float) -> dict[str, _Orphans]:
    """By batch. Queue and workers are looked at once: they are the same for all batches."""
    if not batches:
        return {}
    # In the order in which a job moves on: what is passed over in one place shows up in the next. States are streamed,
    # for there may be a million of them; of the queue's messages eight bytes each are kept.
    queued = IdSet(ledger.queued_ids())
    delivered = _delivered(ledger)
    owners = _Owners.now(ledger, lease_seconds)
    return {name: _orphans_of(ledger.states(name, only=ACTIVE), owners, delivered, queued) for name in batches}


def _orphans_of(
    lines: Iterator[JobState], owners: _Owners, delivered: dict[str, _Delivered], queued: IdSet
) -> _Orphans:
    now = time.time()
    orphans = _Orphans([], set())
    for line in lines:
        held = delivered.get(line.id)
        running = line.worker is not None
        if running and owners.hold(line):
            continue
        if held is not None:
            # A live worker starts what it is handed at once, so an old delivery without a start has no owner.
            if running or now - held.since > owners.lease_seconds:
                orphans.stranded.append((line, held.tag))
        elif running or line.id not in queued:
            orphans.lost.add(line)
        if len(orphans.lost) + len(orphans.stranded) >= MAX_REPAIRS:
            break
    return orphans


def _repair(ledger: Ledger, batch: str, orphans: _Orphans, lease_seconds: float) -> tuple[int, int]:
    """How many were taken back, and how many queued again."""
    # Workers that began after the look were not among the live ones then.
    owners = _Owners.now(ledger, lease_seconds)
    stranded = [(line, tag) for line, tag in orphans.stranded if not (line.worker and owners.hold(line))]
    lost = [line for line in orphans.lost if not (line.worker and owners.hold(line))]
    restored = sum(_restore(ledger, batch, line, tag) for line, tag in stranded)
    return restored, ledger.requeue(batch, lost, to="head")


@dataclass(frozen=True)
class _Owners:
    """The live workers. `forgiving` right after a restart of Redis: signs of life expired while it was away."""

    live: dict[str, Heartbeat]
    lease_seconds: float
    forgiving: bool

    @classmethod
    def now(cls, ledger: Ledger, lease_seconds: float) -> _Owners:
        """Those of this moment."""
        return cls(ledger.workers(), lease_seconds, forgiving=ledger.seconds_up() < lease_seconds)

    def hold(self, line: JobState) -> bool:
        """Whether a running job is in good hands."""
        beat = self.live.get(line.worker or "")
        if beat is None:
            return self.forgiving
        # A ledger that lost its last second can say `running` of a job that its worker has ended and forgotten. Both
        # times are of the worker's own clock.
        return line.id in beat.held or beat.at - (line.since or 0.0) < self.lease_seconds


def _delivered(ledger: Ledger) -> dict[str, _Delivered]:
    """Job id -> the message that a consumer has taken and not acknowledged (kombu's `unacked` hash and its index)."""
    since = dict(ledger.delivery_times())
    found: dict[str, _Delivered] = {}
    for tag, text in ledger.delivered_messages():
        match = _ID.search(text)
        if match and "\ufffd" not in tag:  # a tag that is no text is a stranger's, and cannot be named again
            found[match.group(1)] = _Delivered(tag, since.get(tag, 0.0))
    return found


def _restore(ledger: Ledger, batch: str, line: JobState, tag: str) -> bool:
    job = ledger.job(batch, line.id)
    if job is None:
        return False
    return ledger.restore(batch, line, tag=tag, message=message_for(job.id, job.model_dump_json(), queue=ledger.queue))
