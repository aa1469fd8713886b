"""The reconciler: a job that is neither done, nor queued, nor in flight on a live worker goes back to the queue.

Redis delivery can lose a message: kombu pops it (BRPOP) and records it as unacknowledged (HSET) in two steps, and a
kill between the two loses it. When a worker dies, kombu returns its messages only after the visibility timeout, one
hour. So the reconciler compares the ledger with the queue and with the workers' heartbeats. Every repair is a
compare-and-set on the job's line in the ledger: two reconcilers, or a worker that starts the job meanwhile, cannot make
a second copy.

A pass reads several keys one after the other, while jobs move. So it acts at once only on what cannot be a job that
moved: a job that runs on a dead worker whose message is still there. All else must be seen in two looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.ledger.failures import DELAYED_JOBS, Failures
from jobs.ledger.idset import IdSet
from jobs.ledger.kombu_view import Delivered, QueueMoved
from jobs.ledger.ledger import Ledger
from jobs.ledger.left_behind import forget_left_behind
from jobs.ledger.owners import Owners
from jobs.ledger.records import JobState, State

# The most that one pass repairs; the next one goes on. Keeps a pass over a lost queue of millions flat in memory.
MAX_REPAIRS = 50_000
SETTLE_SECONDS = 1.0
ACTIVE: tuple[State, ...] = ("queued", "running")

Sleep = Callable[[float], object]


@dataclass(frozen=True)
class Reconciled:
    """What a pass repaired: `restored` messages were with dead workers, `requeued` jobs had no message any more.

    `failures` has why a batch could not be reconciled, by its name, where a pass was over all batches: damaged keys of
    one batch do not keep the others waiting. One of them may be named DELAYED_JOBS.
    """

    restored: int = 0
    requeued: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)


def reconcile(
    ledger: Ledger,
    *,
    batch: str | None = None,
    lease_seconds: float,
    settle_seconds: float = SETTLE_SECONDS,
    sleep: Sleep = time.sleep,
) -> Reconciled:
    """One pass over one batch, or over all of them. It also queues the delayed jobs whose time has come.

    A job counts as orphaned

    - when its worker's heartbeat is gone, or its worker lives and says that it does not have the job,
    - when its message was delivered more than `lease_seconds` ago, and no worker started it or says that it has it, in
      two looks a heartbeat and a second apart. (The time of a delivery comes from a worker's clock, which may be wrong:
      the worker may live and have it. A heartbeat comes at least twice a lease.)
    - or when it has no message at all in two looks `settle_seconds` apart. (For an instant, a message on its way from
      the queue to a worker is in neither place.)

    Until Redis has been up for `lease_seconds`, a missing heartbeat does not mean that a worker is dead.

    Raises:
        LedgerUnavailable: Redis did not answer; a pass may be repeated at any time.
    """
    failures = Failures(only=batch)
    with failures.of(DELAYED_JOBS):
        ledger.feed_delayed()
    names = _active(ledger, batch, failures)
    orphans = _orphans(ledger, names, lease_seconds, failures)
    if suspects := [name for name in orphans if orphans[name].suspected]:
        sleep(_settling(orphans, settle_seconds, lease_seconds))
        again = _orphans(ledger, suspects, lease_seconds, failures)
        for name in suspects:
            orphans[name].keep_what_is_in(again.get(name, _Orphans()))
    return _repaired(ledger, orphans, lease_seconds, failures)


def take_back(
    ledger: Ledger,
    *,
    batch: str | None = None,
    lease_seconds: float,
    settle_seconds: float = SETTLE_SECONDS,
    sleep: Sleep = time.sleep,
) -> Reconciled:
    """The urgent part of a pass: restore the messages that dead workers have, and queue the delayed jobs that are due.

    Its cost grows with the jobs in flight, not with the batch: a whole pass over a million jobs takes half a minute.

    Raises:
        LedgerUnavailable: as in `reconcile`.
    """
    failures = Failures(only=batch)
    with failures.of(DELAYED_JOBS):
        ledger.feed_delayed()
    stranded = _stranded(ledger, batch, lease_seconds, failures)
    if any(orphans.suspected for orphans in stranded.values()):
        sleep(_settling(stranded, settle_seconds, lease_seconds))
        again = _stranded(ledger, batch, lease_seconds, failures)
        for name, orphans in stranded.items():
            orphans.keep_what_is_in(again.get(name, _Orphans()))
    return _repaired(ledger, stranded, lease_seconds, failures)


def _active(ledger: Ledger, batch: str | None, failures: Failures) -> list[str]:
    """The batch, or all of them, without those that have nothing to repair."""
    if batch is not None:
        counts = ledger.counts(batch)
        return [batch] if counts.unfinished else []
    names = [info.name for info in ledger.batches()]
    active = []
    for name, of_batch in zip(names, ledger.counts_of(names), strict=True):
        if of_batch is None:
            failures[name] = "what Redis has of it is damaged: its counts are not numbers"
        elif of_batch.unfinished:
            active.append(name)
    return active


@dataclass
class _Orphans:
    """Jobs of one batch. Those of the first kind are certain; the others must be seen in two looks."""

    # With the delivery tag of the message that a dead consumer has.
    abandoned: set[tuple[JobState, str]] = field(default_factory=set)  # started
    untouched: set[tuple[JobState, str]] = field(default_factory=set)  # not started
    lost: set[JobState] = field(default_factory=set)  # with no message anywhere

    @property
    def suspected(self) -> bool:
        return bool(self.untouched or self.lost)

    def __len__(self) -> int:
        return len(self.abandoned) + len(self.untouched) + len(self.lost)

    def keep_what_is_in(self, again: _Orphans) -> None:
        """Drop what a second look has not found in exactly the same state."""
        self.untouched &= again.untouched
        self.lost &= again.lost


def _settling(orphans: Mapping[str, _Orphans], settle_seconds: float, lease_seconds: float) -> float:
    """Seconds between two looks: enough for a live worker to say what it has, if that is in doubt."""
    if not any(of_batch.untouched for of_batch in orphans.values()):
        return settle_seconds
    return max(settle_seconds, lease_seconds / 2 + 1.0)


@dataclass(frozen=True)
class _Messages:
    """Where the jobs' messages are. None of `queued` and `delayed`: that is not known."""

    delivered: Mapping[str, Delivered]
    elsewhere: Mapping[str, Delivered]  # were delivered a moment ago, and have moved since
    queued: IdSet | None
    delayed: IdSet | None

    @classmethod
    def all(cls, ledger: Ledger) -> _Messages:
        """In the order in which a job moves on: a job that moves while we look is seen in the next place.

        A worker that gives a job back moves its message the other way, from the delivered ones to the queue, so those
        are read on both sides of the queue. Eight bytes are kept of each message in the queue.
        """
        before = ledger.kombu.delivered()
        try:
            queued = IdSet(ledger.kombu.queued_ids())
        except QueueMoved:  # jobs are being cancelled: the next pass will know
            queued = None
        delivered = ledger.kombu.delivered()
        elsewhere = {id_: message for id_, message in before.items() if id_ not in delivered}
        return cls(delivered, elsewhere, queued, IdSet(ledger.delayed_ids()))

    def lack(self, line: JobState) -> bool:
        """Whether a job that has not been delivered has no message."""
        if line.delayed:
            return self.delayed is not None and line.id not in self.delayed
        if self.queued is None or line.id in self.elsewhere:
            return False
        return line.worker is not None or line.id not in self.queued


def _orphans(ledger: Ledger, batches: Sequence[str], lease_seconds: float, failures: Failures) -> dict[str, _Orphans]:
    """By batch. The queue and the workers are read once: they are the same for all batches."""
    if not batches:
        return {}
    messages = _Messages.all(ledger)
    owners = Owners.of(ledger, lease_seconds)
    found = {}
    for name in batches:
        with failures.of(name):
            found[name] = _orphans_of(ledger.states(name, only=ACTIVE), owners, messages)
    return found


def _stranded(ledger: Ledger, batch: str | None, lease_seconds: float, failures: Failures) -> dict[str, _Orphans]:
    """The same, only of the jobs that have been delivered."""
    delivered = ledger.kombu.delivered()
    if not delivered:
        return {}
    messages = _Messages(delivered, {}, None, None)
    owners = Owners.of(ledger, lease_seconds)
    found = {}
    for name in _active(ledger, batch, failures):
        with failures.of(name):
            lines = (line for line in ledger.states_of(name, delivered) if line.state in ACTIVE)
            found[name] = _orphans_of(lines, owners, messages)
    if batch is None:
        forget_left_behind(ledger, delivered, owners, failures)
    return found


def _orphans_of(lines: Iterator[JobState], owners: Owners, messages: _Messages) -> _Orphans:
    orphans = _Orphans()
    for line in lines:
        message = messages.delivered.get(line.id)
        if line.worker is not None and owners.hold(line):
            continue
        if message is None or line.delayed:
            if messages.lack(line):
                orphans.lost.add(line)
        elif line.worker is not None:
            orphans.abandoned.add((line, message.tag))
        elif owners.ignore(line.id, message):
            orphans.untouched.add((line, message.tag))
        if len(orphans) >= MAX_REPAIRS:
            break
    return orphans


def _repaired(ledger: Ledger, orphans: Mapping[str, _Orphans], lease_seconds: float, failures: Failures) -> Reconciled:
    restored, requeued = 0, 0
    for name, of_batch in orphans.items():
        with failures.of(name):
            back, again = _repair(ledger, name, of_batch, lease_seconds)
            restored, requeued = restored + back, requeued + again
    return Reconciled(restored, requeued, dict(failures))


def _repair(ledger: Ledger, batch: str, orphans: _Orphans, lease_seconds: float) -> tuple[int, int]:
    """How many messages were restored, and how many jobs were requeued."""
    if not orphans:
        return 0, 0
    # Again, because workers may have started since the look.
    owners = Owners.of(ledger, lease_seconds)
    stranded = [(line, tag) for line, tag in orphans.abandoned | orphans.untouched if not owners.have(line)]
    lost = [line for line in orphans.lost if not owners.have(line)]
    restored = sum(ledger.restore(batch, line, tag=tag) for line, tag in stranded)
    return restored, ledger.requeue(batch, lost, to="head")
