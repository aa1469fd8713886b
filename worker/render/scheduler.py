"""Scheduler: which requests wait, which run, whose turn it is, and which leave. It calls no engine and needs no torch.

Requests of one shape share a bucket, since only requests of one shape can share an engine call. Buckets take turns by
age: the one whose last turn is longest ago is next, so no shape starves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from jobs.errors import Cancelled
from worker.render.request import ImageRequest, ImageSpec, Shape, fail_all
from worker.shutdown import Shutdown, stopping

# How long an idle loop waits at most for jobs that are about to submit, so that their samples begin together. Samples
# that begin one by one also end one by one, and encoding and decoding each by itself costs 2% of the throughput.
GATHER_SECONDS = 0.2
# `wait` looks at its stop event this often: whoever sets the event may not know that `wake` should follow.
LOOK_SECONDS = 1.0


@dataclass(eq=False)
class Bucket:
    """The requests of one shape: waiting in order of arrival, running in order of admission.

    `waiting` is guarded by the scheduler's lock; `running` is changed by the loop's thread alone.
    """

    shape: Shape
    limit: int  # requests in a step
    last_turn: int
    waiting: deque[ImageRequest] = field(default_factory=deque)
    running: list[ImageRequest] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Holds no request."""
        return not self.waiting and not self.running

    @property
    def due(self) -> list[ImageRequest]:
        """The requests of the next step: the oldest that run, which are all of them unless memory has run short."""
        return self.running[: self.limit]

    def halve(self, samples: int) -> None:
        """Allow half as many requests in a step, after memory did not suffice for so many."""
        self.limit = samples // 2

    def drop_ended(self) -> None:
        """Give the places of requests that have ended to others."""
        self.running = [request for request in self.running if not request.ended]


class Scheduler:
    """Holds every request from `submit` until it ends or is decoded.

    Any thread may call `submit`, `expecting`, `cancel`, `wake`, `interrupt` and `count`; everything else belongs to the
    loop's thread.
    """

    def __init__(self, max_batch: Callable[[int, int], int], shutdown: Shutdown) -> None:
        """`max_batch` gives the samples that one step takes at a height and width in pixels."""
        self._max_batch = max_batch
        self._shutdown = shutdown
        self._changed = threading.Condition()  # guards everything below, except `running` of the buckets
        self._buckets: dict[Shape, Bucket] = {}
        self._cancelled: set[str] = set()
        self._expected = 0  # jobs that are about to submit
        self._interrupted = False
        self._turn = 0
        shutdown.on_step(self.wake)

    # -- any thread -----------------------------------------------------------------------------------------------

    def submit(self, spec: ImageSpec) -> Future[np.ndarray]:
        """Queue one sample. Once the worker is stopping its future ends at once, with Requeued."""
        request = ImageRequest(spec)
        with self._changed:
            if self._shutdown.draining:
                request.fail(stopping())
            else:
                self._bucket(spec.shape).waiting.append(request)
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

    # -- an idle loop ---------------------------------------------------------------------------------------------

    def wait(self, stop: threading.Event) -> None:
        """Return when there is work and the expected requests have come or take too long; or when `stop` is set."""
        with self._changed:
            while not self._changed.wait_for(lambda: stop.is_set() or self.has_work(), timeout=LOOK_SECONDS):
                pass
            self._changed.wait_for(lambda: stop.is_set() or self.gathered(), timeout=GATHER_SECONDS)

    def has_work(self) -> bool:
        """Whether the loop's next turn has something to do."""
        with self._changed:
            return self._has_to_look() or any(not bucket.idle for bucket in self._buckets.values())

    def gathered(self) -> bool:
        """Whether an idle loop should begin: a batch is full, no job is about to submit, or something is urgent."""
        with self._changed:
            full = any(len(bucket.waiting) >= bucket.limit for bucket in self._buckets.values())
            return full or not self._expected or self._shutdown.draining or self._has_to_look()

    def _has_to_look(self) -> bool:
        return self._interrupted or bool(self._cancelled)

    # -- a turn ---------------------------------------------------------------------------------------------------

    def dismiss(self) -> None:
        """Between two turns: end the requests that were cancelled, and those that a stopping worker gives back."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            requeueing = self._shutdown.requeueing  # before `draining`: if this is true, that is true as well
            draining = self._shutdown.draining
            for bucket in self._buckets.values():
                if draining:
                    fail_all(bucket.waiting, stopping())
                if requeueing:
                    fail_all(bucket.running, stopping())
                if cancelled:
                    requests = [one for one in (*bucket.waiting, *bucket.running) if one.spec.job_id in cancelled]
                    fail_all(requests, Cancelled("cancelled by the user"))
                if draining or cancelled:
                    bucket.waiting = deque(request for request in bucket.waiting if not request.ended)
                bucket.drop_ended()

    def next_bucket(self) -> Bucket | None:
        """The bucket whose last turn is longest ago; None if no request is left."""
        with self._changed:
            self._buckets = {shape: bucket for shape, bucket in self._buckets.items() if not bucket.idle}
            bucket = min(self._buckets.values(), key=lambda bucket: bucket.last_turn, default=None)
            if bucket is not None:
                self._turn += 1
                bucket.last_turn = self._turn
            return bucket

    def admit(self, bucket: Bucket) -> list[ImageRequest]:
        """Take as many waiting requests as the batch has room for, first come, first served.

        They belong to the caller now, who adds to `running` those that could be started.
        """
        with self._changed:
            free = max(0, bucket.limit - len(bucket.running))
            return [bucket.waiting.popleft() for _ in range(min(free, len(bucket.waiting)))]

    def _bucket(self, shape: Shape) -> Bucket:
        if shape not in self._buckets:
            self._buckets[shape] = Bucket(shape, limit=self._max_batch(*shape), last_turn=self._turn)
        return self._buckets[shape]
