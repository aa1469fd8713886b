"""Scheduler: which requests wait, which run, whose turn it is, and which leave. It calls no engine and needs no torch.

Requests of one engine set, one shape and one prompt length share a bucket, since only those can share an engine call.
Buckets take turns by age: the one whose last turn is longest ago is next, so none starves. With several
sets, each offers its next bucket, and one that fills its batch is preferred, for at most PATIENCE turns of each bucket.
If not all sets fit on the device, only the buckets of those that are there take turns, and residency.py says when
another set arrives.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from jobs.errors import Cancelled, RenderError
from worker.render.graph_sizes import Crowd, Demand
from worker.render.memory_limit import MemoryLimit
from worker.render.request import BucketKey, ImageRequest, ImageSpec, Shape, fail_all
from worker.render.residency import EndOfTurn, Residency, Work
from worker.shutdown import Shutdown, stopping

# How long an idle loop waits at most for jobs that are about to submit, so that their samples begin together. Samples
# that begin one by one also end one by one, and encoding and decoding each by itself costs 2% of the throughput.
GATHER_SECONDS = 0.2
# A bucket of one of several sets may be passed over until each bucket has had so many turns on average: meanwhile its
# batch fills up. More patience gains less than 1% (three sets, 24 jobs in flight).
PATIENCE = 2
# `wait` looks at its stop event this often: the code that sets the event may not call `wake` after it.
LOOK_SECONDS = 1.0
# The same while requests wait for another set's turn to end, which nothing announces.
TURN_LOOK_SECONDS = 0.02


@dataclass(eq=False)
class Bucket:
    """Requests that can share an engine call: waiting in order of arrival, running in order of admission.

    `waiting` is guarded by the scheduler's lock; `running` is changed by the loop's thread alone.
    """

    key: BucketKey
    most: int  # requests in a step that the engines take
    memory: MemoryLimit  # requests in a step for which memory suffices
    last_turn: int
    places: int | None = None  # for requests in the next step; None: `limit`
    owed: int = 0  # of those that waited when the turn of their set began, those that still wait
    waiting: deque[ImageRequest] = field(default_factory=deque)
    running: list[ImageRequest] = field(default_factory=list)

    @property
    def shape(self) -> Shape:
        """Height and width in pixels."""
        return self.key.height, self.key.width

    @property
    def limit(self) -> int:
        """How many requests fit in a step."""
        return self.most if self.memory.value is None else self.memory.value

    @property
    def step_limit(self) -> int:
        """How many requests the next step takes: fewer than fit where a smaller batch pays (graph_sizes.py)."""
        return self.limit if self.places is None else min(self.limit, self.places)

    @property
    def idle(self) -> bool:
        """Whether the bucket holds no request."""
        return not self.waiting and not self.running

    @property
    def due(self) -> list[ImageRequest]:
        """The requests of the next step: the oldest that run, which are all of them unless it takes fewer."""
        return self.running[: self.step_limit]

    def fullness(self, *, closing: bool) -> float:
        """The share of a batch that its next step fills, 0 to 1. One that admits no more will not be any fuller: 1."""
        return 1.0 if closing else min(1.0, (len(self.running) + len(self.waiting)) / self.limit)

    def halve(self, samples: int) -> None:
        """Allow half as many requests in a step for a while, after memory did not suffice for so many."""
        self.memory.lower(samples // 2, cause=self.key)

    def drop_ended(self) -> None:
        """Give the places of requests that have ended to others."""
        self.running = [request for request in self.running if not request.ended]


class Scheduler:
    """Holds every request from `submit` until it ends or is decoded.

    Any thread may call `submit`, `expecting`, `cancel`, `wake`, `interrupt`, `count`, `count_by_set`, `parked`
    and `batch_places`;
    everything else belongs to the loop's thread.
    """

    def __init__(
        self,
        max_batch: Callable[[BucketKey], int],
        shutdown: Shutdown,
        residency: Residency | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_batch` gives the samples that one step of a bucket takes. Without `residency` all sets fit.

        `now` gives seconds.
        """
        self._now = now
        self._max_batch = max_batch
        self._shutdown = shutdown
        self._residency = Residency() if residency is None else residency
        self._changed = threading.Condition()  # guards everything below, except `running` of the buckets
        self._buckets: dict[BucketKey, Bucket] = {}
        self._cancelled: set[str] = set()
        self._expected = 0  # jobs that are about to submit
        self._interrupted = False
        self._roused = False
        self._places = 0  # as of the last `crowd`
        self._turn = 0
        self._has_several = self._residency.is_limited  # engine sets, as far as was seen
        shutdown.on_step(self._give_back_waiting)

    # -- any thread -----------------------------------------------------------------------------------------------

    def submit(self, spec: ImageSpec) -> Future[np.ndarray]:
        """Queue one sample. Once the worker is stopping its future ends at once, with Requeued."""
        request = ImageRequest(spec)
        with self._changed:
            if self._shutdown.draining:
                request.fail(stopping())
            else:
                self._bucket(spec.bucket_key).waiting.append(request)
                self._changed.notify()
        return request.future

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Around the work of a job that will submit within the block: an idle loop waits a little for it."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._roused = self._roused or not self._expected
                self._changed.notify()

    def cancel(self, job_id: str) -> None:
        """End a job's requests with Cancelled before their next step."""
        with self._changed:
            self._cancelled.add(job_id)
            self._changed.notify()

    def wake(self) -> None:
        """Make `wait` look at its stop event and at the shutdown now."""
        with self._changed:
            self._changed.notify()

    def rouse(self) -> None:
        """Make `wait` return once although there is no work: an idle loop may have something else to do."""
        with self._changed:
            self._roused = True
            self._changed.notify()

    def interrupt(self) -> None:
        """Make `wait` return, now and from now on: the loop has to end."""
        with self._changed:
            self._interrupted = True
            self._changed.notify()

    def count(self) -> tuple[int, int]:
        """How many requests wait, and how many are active, which means running or being decoded."""
        with self._changed:
            buckets = list(self._buckets.values())
            return sum(len(bucket.waiting) for bucket in buckets), sum(len(bucket.running) for bucket in buckets)

    def count_by_set(self) -> dict[str, tuple[int, int]]:
        """The same for each engine set that has requests."""
        counts: dict[str, tuple[int, int]] = {}
        with self._changed:
            for key, bucket in self._buckets.items():
                waiting, active = counts.get(key.engine_set, (0, 0))
                counts[key.engine_set] = waiting + len(bucket.waiting), active + len(bucket.running)
        return counts

    def parked(self, *, wanted: int = 0) -> int:
        """How many jobs more than usual this worker may take, because of the sets that those it has are for.

        Jobs that wait for their set's turn need nothing of this worker until it begins. And of the sets on the device,
        each may have as many jobs as if it were alone, or else their batches would stay small: only the jobs of the set
        with the most count. `wanted` are jobs that fill the batches of these sets: the same jobs, so they are not added
        to those of further sets. If they were, each job that comes would make room for the next one.
        """
        if not self._has_several:  # asked without the lock, for which the loop would have to wait
            return wanted
        with self._changed:
            away: set[str] = set()
            here: dict[str, set[str]] = {}
            for key, bucket in self._buckets.items():
                is_here = self._residency.holds(key.engine_set)
                jobs = here.setdefault(key.engine_set, set()) if is_here else away
                jobs.update(request.spec.job_id for request in (*bucket.waiting, *(bucket.running if is_here else ())))
            most = max(map(len, here.values()), default=0)
            return len(away) + max(wanted, sum(map(len, here.values())) - most)

    @property
    def batch_places(self) -> int:
        """The places in full batches of all buckets, if there are several and each batch size costs something."""
        return self._places  # asked without the lock, for which the loop would have to wait

    def _is_away(self, bucket: Bucket) -> bool:
        return self._residency.is_limited and not self._residency.holds(bucket.key.engine_set)

    # -- an idle loop ---------------------------------------------------------------------------------------------

    def wait(self, stop: threading.Event) -> None:
        """Return when there is work and the expected requests have come or take too long; or when `stop` is set."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._is_woken(stop), timeout=self._look_seconds()):
                pass
            roused, self._roused = self._roused, False
            if roused and not self.has_work():
                return
            self._changed.wait_for(lambda: stop.is_set() or self.gathered(), timeout=GATHER_SECONDS)

    def _is_woken(self, stop: threading.Event) -> bool:
        return stop.is_set() or self._roused or self.has_work()

    def has_work(self) -> bool:
        """Whether the loop's next turn has something to do."""
        with self._changed:
            return self._has_to_look() or self._has_to_dismiss() or self._next() is not None

    @property
    def is_quiet(self) -> bool:
        """Nothing waits, runs or is about to be submitted, and the worker is not stopping."""
        with self._changed:
            busy = self._expected or any(not bucket.idle for bucket in self._buckets.values())
            return not (busy or self._has_to_look() or self._shutdown.draining)

    def gathered(self) -> bool:
        """Whether an idle loop should begin: a batch is full, no job is about to submit, or something is urgent."""
        with self._changed:
            full = any(len(bucket.waiting) >= bucket.limit for bucket in self._buckets.values())
            return full or not self._expected or self._shutdown.draining or self._has_to_look()

    def _look_seconds(self) -> float:
        return LOOK_SECONDS if all(bucket.idle for bucket in self._buckets.values()) else TURN_LOOK_SECONDS

    def _has_to_dismiss(self) -> bool:
        """Whether a stopping worker gives back requests that run, perhaps of a set whose turn has not come again."""
        return self._shutdown.requeueing and any(bucket.running for bucket in self._buckets.values())

    def _give_back_waiting(self) -> None:
        """End what waits, once the worker is stopping. The loop is not asked: it may load a set for minutes."""
        with self._changed:
            for bucket in self._buckets.values():
                fail_all(bucket.waiting, stopping())
                bucket.waiting.clear()
                bucket.owed = 0
            self._changed.notify()

    def _has_to_look(self) -> bool:
        return self._interrupted or bool(self._cancelled)

    # -- a turn ---------------------------------------------------------------------------------------------------

    def dismiss(self) -> None:
        """Between two turns: end the requests that were cancelled, and those that a stopping worker interrupts."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            for bucket in self._buckets.values():
                if self._shutdown.requeueing:
                    fail_all(bucket.running, stopping())
                if cancelled:
                    requests = [one for one in (*bucket.waiting, *bucket.running) if one.spec.job_id in cancelled]
                    fail_all(requests, Cancelled("cancelled by the user"))
                    bucket.waiting = deque(request for request in bucket.waiting if not request.ended)
                    bucket.owed = min(bucket.owed, len(bucket.waiting))
                bucket.drop_ended()

    def next_bucket(self) -> Bucket | None:
        """The bucket whose turn it is, of the sets that may step; None if none has a request.

        Its set may not be on the device yet: the caller then brings it in (`leaving`, `arrived`).
        """
        with self._changed:
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if not bucket.idle}
            bucket = self._next()
            if bucket is None:
                self._places = 0
            else:
                self._turn += 1
                bucket.last_turn = self._turn
                bucket.memory.recover()
                self._residency.used(bucket.key.engine_set)
            return bucket

    def _next(self) -> Bucket | None:
        sets = self._residency.may_step(self._work())
        closing = self._residency.leaving
        ready = [
            bucket
            for key, bucket in self._buckets.items()
            if key.engine_set in sets and (bucket.running or (bucket.waiting and key.engine_set not in closing))
        ]
        ready.sort(key=lambda bucket: bucket.last_turn)
        if not ready or self._turn - ready[0].last_turn >= PATIENCE * len(ready):
            return next(iter(ready), None)
        oldest: dict[str, Bucket] = {}  # of each set, in order of age
        for bucket in ready:
            oldest.setdefault(bucket.key.engine_set, bucket)
        return max(oldest.values(), key=lambda one: one.fullness(closing=one.key.engine_set in closing))

    def _work(self) -> dict[str, Work]:
        work: dict[str, Work] = {}
        for key, bucket in self._buckets.items():
            if not bucket.idle:
                so_far = work.get(key.engine_set, Work())
                runs, owes = so_far.runs or bool(bucket.running), so_far.owes or bool(bucket.owed)
                work[key.engine_set] = Work(runs, owes)
        return work

    def demand(self, bucket: Bucket) -> Demand:
        """What the bucket's requests have before them."""
        with self._changed:
            closing = bucket.key.engine_set in self._residency.leaving
            waiting = [] if closing else [request.spec.steps for request in bucket.waiting]
        ahead = [request.spec.steps - request.trajectory.index for request in bucket.running]
        return Demand(max(1, min(bucket.limit, len(ahead) + len(waiting))), sum(ahead) + sum(waiting))

    def crowd(self) -> Crowd:
        """How many requests there are in how many buckets; a job that is being prepared counts as one request."""
        with self._changed:
            active = [bucket for bucket in self._buckets.values() if not bucket.idle]
            # Those of sets that are away are parked jobs.
            here = [bucket for bucket in active if not self._is_away(bucket)]
            self._places = sum(bucket.limit for bucket in here) if len(here) > 1 else 0
            requests = sum(len(bucket.waiting) + len(bucket.running) for bucket in active)
            return Crowd(requests + self._expected, len(active))

    # -- engine sets that arrive and leave ------------------------------------------------------------------------

    def leaving(self) -> tuple[str, ...]:
        """The sets that leave the device so that the one which `next_bucket` chose fits."""
        with self._changed:
            return self._residency.leaving

    def end_of_turn(self, engine_set: str) -> EndOfTurn:
        """Why a set leaves, until it has left."""
        with self._changed:
            return self._residency.end_of_turn(engine_set)

    def left(self, engine_set: str) -> float:
        """The set is not on the device any more; the seconds that its turn lasted."""
        with self._changed:
            return self._residency.left(engine_set)

    def arrived(self, engine_set: str) -> None:
        """The set is on the device: its turn begins, for all requests that wait for it."""
        with self._changed:
            self._residency.arrived(engine_set)
            for bucket in self._of_set(engine_set):
                bucket.owed = len(bucket.waiting)

    def shrink(self, engine_set: str, *, bucket: BucketKey | None = None) -> str | None:
        """The set, or a sample of this bucket, does not fit beside the others: the set that should leave, or None."""
        with self._changed:
            return self._residency.shrink(engine_set, cause=bucket)

    def fail_set(self, engine_set: str, error: RenderError) -> None:
        """End all requests of a set that cannot be loaded."""
        with self._changed:
            for bucket in self._of_set(engine_set):
                fail_all((*bucket.waiting, *bucket.running), error)
                bucket.waiting.clear()
                bucket.owed = 0
                bucket.drop_ended()

    def _of_set(self, engine_set: str) -> list[Bucket]:
        return [bucket for key, bucket in self._buckets.items() if key.engine_set == engine_set]

    # -- a turn's requests ----------------------------------------------------------------------------------------

    def admit(self, bucket: Bucket) -> list[ImageRequest]:
        """Take as many waiting requests as the batch has room for, first come, first served.

        They belong to the caller now, who adds to `running` those that could be started.
        """
        with self._changed:
            if bucket.key.engine_set in self._residency.leaving:
                return []
            free = max(0, bucket.step_limit - len(bucket.running))
            admitted = [bucket.waiting.popleft() for _ in range(min(free, len(bucket.waiting)))]
            bucket.owed = max(0, bucket.owed - len(admitted))
            return admitted

    def _bucket(self, key: BucketKey) -> Bucket:
        if key not in self._buckets:
            self._has_several |= any(other.engine_set != key.engine_set for other in self._buckets)
            self._buckets[key] = Bucket(
                key, most=self._max_batch(key), memory=MemoryLimit(None, now=self._now), last_turn=self._turn
            )
        return self._buckets[key]
