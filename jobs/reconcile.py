"""The reconciler: what is neither done, nor queued, nor held by a live worker goes back to the queue.

Redis delivery can lose a message: kombu pops it (BRPOP) and notes it as unacknowledged (HSET) in two steps, and a kill
between them loses it. A worker that dies holds its messages until the visibility timeout, which is an hour. So the
ledger is compared with the queue and with the workers' heartbeats, and every repair is a compare-and-set on the line
that was seen: two reconcilers, or a worker that starts the job meanwhile, cannot make a second copy.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.ledger import Heartbeat, JobState, Ledger
from jobs.message import message_for

# Longer queues are not read whole on every pass: a message lost among so many is found when the queue gets shorter.
MAX_QUEUE_SCAN = 20_000
# What one pass repairs at most; the next one goes on. Keeps a pass over a lost queue of millions flat in memory.
MAX_REPAIRS = 50_000
_CHUNK = 1000
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
    total = Reconciled()
    for name in [batch] if batch else [info.name for info in ledger.batches()]:
        counts = ledger.counts(name)
        if counts.queued + counts.running == 0:
            continue
        orphans = _orphans(ledger, name, lease_seconds)
        if orphans.lost:
            sleep(settle_seconds)
            again = _orphans(ledger, name, lease_seconds)
            orphans.lost &= again.lost
        restored = sum(_restore(ledger, name, line, tag) for line, tag in orphans.stranded)
        requeued = ledger.requeue(name, orphans.lost, to="head")
        total = Reconciled(total.restored + restored, total.requeued + requeued)
    return total


@dataclass
class _Orphans:
    stranded: list[tuple[JobState, str]]  # with the delivery tag of the message that a dead consumer holds
    lost: set[JobState]  # with no message anywhere


def _orphans(ledger: Ledger, batch: str, lease_seconds: float) -> _Orphans:
    # Messages first, states last: whoever moves on meanwhile shows a new state. States are streamed, for there may be
    # a million of them; the others are as many as workers hold, and a bounded part of the queue.
    owners = _Owners(ledger.workers(), lease_seconds, forgiving=ledger.seconds_up() < lease_seconds)
    delivered = _delivered(ledger)
    queued = _queued_ids(ledger)
    now = time.time()
    orphans = _Orphans([], set())
    for line in ledger.states(batch, only=("queued", "running")):
        held = delivered.get(line.id)
        running = line.worker is not None
        if running and owners.hold(line):
            continue
        if held is not None:
            # A live worker starts what it is handed at once, so an old delivery without a start has no owner.
            if running or now - held.since > lease_seconds:
                orphans.stranded.append((line, held.tag))
        elif running or (queued is not None and line.id not in queued):
            orphans.lost.add(line)
        if len(orphans.lost) + len(orphans.stranded) >= MAX_REPAIRS:
            break
    return orphans


@dataclass(frozen=True)
class _Owners:
    """The live workers. `forgiving` right after a restart of Redis: signs of life expired while it was away."""

    live: dict[str, Heartbeat]
    lease_seconds: float
    forgiving: bool

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


def _queued_ids(ledger: Ledger) -> set[str] | None:
    """Ids in the queue, or None where it is too long to read now."""
    if ledger.queue_length() > MAX_QUEUE_SCAN:
        return None
    return {match.group(1) for text in ledger.queued_messages(_CHUNK) if (match := _ID.search(text))}


def _restore(ledger: Ledger, batch: str, line: JobState, tag: str) -> bool:
    job = ledger.job(batch, line.id)
    if job is None:
        return False
    return ledger.restore(batch, line, tag=tag, message=message_for(job.id, job.model_dump_json(), queue=ledger.queue))
