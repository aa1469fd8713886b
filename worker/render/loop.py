"""RenderLoop: admit, advance, retire. Continuous batching, by the one thread that owns the GPU.

Each turn belongs to one bucket: one engine set, one shape, one prompt length. Its waiting requests fill the batch's
free places, all running requests advance by one DDIM step in one engine call, and those that have taken their last step
are decoded and leave. Requests at different steps, with different step counts, scales and seeds, share the call. A set
that is not on the device is brought in first, in place of others where they do not all fit (residency.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

import numpy as np
import structlog
import torch

from jobs.errors import OutOfMemory, RenderFailed, Requeued
from worker.render import ddim
from worker.render.arrivals import Arrivals
from worker.render.batch import RequestBatch
from worker.render.decoding import Decoding, Deliveries
from worker.render.denoiser import Denoiser
from worker.render.denoisers import Denoisers
from worker.render.encodings import Encodings
from worker.render.errors import DeviceLost, DeviceOutOfMemory
from worker.render.graphs import Graphs
from worker.render.on_error import OnError
from worker.render.request import BucketKey, ImageRequest, ImageSpec, fail_all
from worker.render.residency import Residency
from worker.render.scheduler import Bucket, Scheduler
from worker.render.stats import Loads, LoopCounters, LoopStats
from worker.render.trajectory import Conditioning, Trajectory
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

Item = TypeVar("Item")

TOO_LARGE = (
    "one sample alone does not fit in the device's memory ({doing}); lower image_resolution, or set "
    "RENDER_LOW_VRAM=1 ({error})"
)
PERHAPS_TOO_LARGE = (
    "{doing} failed for one sample alone: {error}; cuDNN says so of a call that it does not support, and also where "
    "memory is short: then lower image_resolution, or set RENDER_LOW_VRAM=1"
)
NOT_NUMBERS = "the engines gave values that are not numbers; `engines verify` tells which engine does"


class RenderLoop:
    """Give it samples from any thread; run it in one.

    Every future ends exactly once: with RGB uint8 [H, W, 3], or with RenderFailed, OutOfMemory, Cancelled or Requeued.
    """

    def __init__(
        self,
        denoisers: Denoiser | Denoisers,
        shutdown: Shutdown | None = None,
        *,
        residency: Residency | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """The denoisers of all sets, or that of the only one; `residency` says which sets fit together: all without it.

        `shutdown` is the process's; without one the loop has its own. `now` is the loop's clock, in seconds.
        """
        self.shutdown = Shutdown() if shutdown is None else shutdown
        self._denoisers = denoisers if isinstance(denoisers, Denoisers) else Denoisers.of_one(denoisers)
        self._scheduler = Scheduler(self._max_batch, self.shutdown, residency, now=now)
        self._arrivals = Arrivals(self._denoisers, self._scheduler)
        self._encodings = Encodings(self._denoisers)
        self._batches: dict[BucketKey, RequestBatch] = {}  # stacked tensors, while membership stays
        self._deliveries = Deliveries(self._deliver)
        self._counters = LoopCounters()
        self._graphs = Graphs(self._denoisers, self._scheduler, counters=self._counters, now=now)
        self._lost: DeviceLost | None = None  # discovered while pictures were on their way

    # -- any thread -----------------------------------------------------------------------------------------------

    def submit(self, spec: ImageSpec) -> Future[np.ndarray]:
        """Queue one sample. Its future cannot be cancelled; its job can."""
        return self._scheduler.submit(spec)

    def expecting(self) -> AbstractContextManager[None]:
        """Around the work of a job that will submit within the block: an idle loop waits a little for it."""
        return self._scheduler.expecting()

    def cancel(self, job_id: str) -> None:
        """End a job's samples with Cancelled before their next step."""
        self._scheduler.cancel(job_id)

    def wake(self) -> None:
        """Let `run` look at its stop event now."""
        self._scheduler.wake()

    def stats(self) -> LoopStats:
        """What the loop did so far."""
        waiting, active = self._scheduler.count()
        return self._counters.snapshot(waiting=waiting, active=active)

    def samples_by_set(self) -> dict[str, tuple[int, int]]:
        """How many samples wait and how many are active, for each engine set that has any."""
        return self._scheduler.count_by_set()

    def loads(self) -> Loads:
        """How often each engine set was loaded, how long that took, and which are on the device."""
        return self._denoisers.loads

    def sizes_in_use(self) -> dict[tuple[BucketKey, int], int]:
        """Sample-steps so far by bucket and batch size; nothing where a new size costs nothing."""
        return self._counters.sizes

    def warm_up(self, sizes: Sequence[tuple[BucketKey, int]]) -> None:
        """Prepare the device for these while nothing is to be done, the first ones first."""
        self._graphs.ask(sizes)
        self._scheduler.rouse()

    def parked(self, *, wanted: int = 0) -> int:
        """How many jobs wait for their set's turn, or are of further sets than the one with the most: or `wanted`."""
        return self._scheduler.parked(wanted=wanted)

    def batch_places(self) -> int:
        """How many samples full batches of all picture sizes would take; 0 on a CPU, and if there is only one size."""
        return self._scheduler.batch_places

    # -- the GPU's thread -----------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Take turns until `stop` is set; call `wake` after setting it. Samples that are left end with Requeued.

        Raises:
            DeviceLost: after every sample has ended with Requeued.
        """
        try:
            idle = True
            while not stop.is_set():
                if idle and not self.warm():
                    self._scheduler.wait(stop)
                idle = not self.step()
        finally:
            self.shutdown.requeue_all()
            self._dismiss()
            self._deliveries.close()

    def warm(self) -> bool:
        """Capture one graph that steps will need, if there is nothing else to do. False if there is none, or no time.

        Raises:
            DeviceLost: the device failed meanwhile.
        """
        return self._lost is None and self._graphs.warm()

    def step(self) -> bool:
        """Take one turn. False if there was nothing to do.

        Raises:
            DeviceLost: in this turn, or since the last one.
        """
        if self._lost is not None:
            raise self._lost
        self._dismiss()
        bucket = self._scheduler.next_bucket()
        if bucket is None:
            self._graphs.interrupted()
            return False
        with self._counters.turn():  # by itself: that a set was slow to load says nothing of the calls after it
            is_here = self._arrivals.bring_in(bucket.key.engine_set)
        if is_here:
            with self._counters.turn():
                self._graphs.plan(bucket)
                self._admit(bucket)
                self._advance(bucket)
                self._retire(bucket)
        return True

    def _max_batch(self, key: BucketKey) -> int:
        return self._denoisers.of(key.engine_set).max_batch(key.height, key.width)

    def _dismiss(self) -> None:
        """Let go of the requests that were cancelled or are requeued, and of their tensors."""
        self._scheduler.dismiss()
        self._batches = {key: batch for key, batch in self._batches.items() if not batch.stale}

    def _admit(self, bucket: Bucket) -> None:
        """Start the waiting requests for which there is a place."""
        requests = self._scheduler.admit(bucket)
        if requests:
            self._graphs.interrupted()
            _by_halves(requests, lambda part: self._start(bucket, part))

    def _start(self, bucket: Bucket, requests: Sequence[ImageRequest]) -> None:
        with self._failing(requests, doing="encoding prompt and edges"):
            conditionings = self._encodings.encode([request.spec for request in requests])
            trajectories = [
                self._trajectory(request.spec, conditioning)
                for request, conditioning in zip(requests, conditionings, strict=True)
            ]
            for request, trajectory in zip(requests, trajectories, strict=True):
                request.start(trajectory)
            bucket.running += requests

    def _trajectory(self, spec: ImageSpec, conditioning: Conditioning) -> Trajectory:
        schedule = ddim.schedule(self._denoisers.of(spec.engine_set).noise_schedule, spec.steps, spec.eta)
        return Trajectory(conditioning, schedule, seed=spec.seed, eta=spec.eta)

    def _advance(self, bucket: Bucket) -> None:
        """Take one DDIM step with the oldest requests, all of them unless memory has run short."""
        requests = bucket.due
        if not requests:
            return
        try:
            with self._failing(requests, doing="denoising"):
                batch = self._batch(bucket, requests)
                began = time.monotonic()
                latents = self._graphs.step(bucket, batch)
                if latents is not None:
                    seconds = time.monotonic() - began
                    self._counters.count_step(len(requests), seconds, engine_set=bucket.key.engine_set)
                    batch.advance(latents)
        except DeviceOutOfMemory as error:
            # The requests keep their latents and go on where they were.
            if len(requests) > 1:
                bucket.halve(len(requests))
                log.warning("batch_halved", samples=bucket.limit, shape=bucket.shape, reason=str(error)[:200])
            else:  # graphs were dropped, or another engine set has left, so more may fit than before
                bucket.memory.restore()
        self._drop_ended(bucket)

    def _batch(self, bucket: Bucket, requests: Sequence[ImageRequest]) -> RequestBatch:
        """The stacked tensors of these requests: those of the last step unless membership or padding has changed."""
        batch, size = self._batches.get(bucket.key), self._graphs.batch_size(bucket, len(requests))
        if batch is None or not batch.holds(requests) or batch.size != size:
            batch = self._batches[bucket.key] = RequestBatch(requests, batch_size=size)
        return batch

    def _retire(self, bucket: Bucket) -> None:
        """Decode the requests that have taken their last step; their pictures are delivered during the next steps."""
        finished = [request for request in bucket.running if request.trajectory.finished]
        if finished:
            self._graphs.interrupted()
            for request in finished:
                request.start_decoding()
            try:
                _by_halves(finished, self._decode)
            finally:  # also when the device is lost: those whose pictures are on their way still belong to deliveries
                bucket.running = [request for request in bucket.running if not request.trajectory.finished]
            self._drop_ended(bucket)

    def _decode(self, requests: Sequence[ImageRequest]) -> None:
        with self._failing(requests, doing="decoding"):
            latents = torch.stack([request.trajectory.latents for request in requests])
            denoiser = self._denoisers.of(requests[0].spec.engine_set)
            self._deliveries.add(requests, denoiser.decode(latents))
            self._graphs.fitted(requests[0].spec.bucket_key)

    def _drop_ended(self, bucket: Bucket) -> None:
        """Free the places of requests that have ended, and the stacked tensors of a batch that has changed."""
        bucket.drop_ended()
        batch = self._batches.get(bucket.key)
        if batch is not None and not batch.holds(bucket.due):
            del self._batches[bucket.key]

    # -- deliveries, in a thread of their own where pictures take their time --------------------------------------

    def _deliver(self, requests: Sequence[ImageRequest], decoding: Decoding) -> None:
        """End decoded requests. Raises nothing."""
        try:
            self._end_with_pictures(requests, decoding)
        except DeviceOutOfMemory as error:
            fail_all(requests, _too_large(error, doing="decoding"))
        except DeviceLost as error:
            self._lost = error
            self._scheduler.interrupt()

    def _end_with_pictures(self, requests: Sequence[ImageRequest], decoding: Decoding) -> None:
        with self._failing(requests, doing="decoding", makes_room=False):
            pictures = decoding.pictures()
            # Before the futures end: a picture that a job has is already counted.
            drawn = sum(picture is not None for picture in pictures)
            self._counters.count_images(drawn, engine_set=requests[0].spec.engine_set)
            for request, picture in zip(requests, pictures, strict=True):
                if picture is None:
                    request.fail(RenderFailed(NOT_NUMBERS))
                else:
                    request.succeed(picture)

    # -- errors ---------------------------------------------------------------------------------------------------

    def _failing(self, requests: Sequence[ImageRequest], *, doing: str, makes_room: bool = True) -> OnError:
        """Around everything that engines do: an error ends these requests and no others.

        Raises:
            DeviceOutOfMemory: with more than one request, where fewer may fit; or with one, after graphs or
                another engine set have made room for it. None has ended then.
            DeviceLost: after these requests were requeued.
        """
        return OnError(partial(self._ended_by, requests=requests, doing=doing, makes_room=makes_room))

    def _ended_by(self, error: Exception, requests: Sequence[ImageRequest], *, doing: str, makes_room: bool) -> bool:
        """Whether these requests have ended with the error, so that it goes no further."""
        if isinstance(error, DeviceLost):
            fail_all(requests, Requeued("the device is lost", blameless=False))
            return False
        if isinstance(error, DeviceOutOfMemory):
            if len(requests) > 1 or (makes_room and self._made_room_for(requests)):
                return False
            fail_all(requests, _too_large(error, doing=doing))
            return True
        log.error("batch_failed", doing=doing, samples=len(requests), exc_info=error)
        fail_all(requests, RenderFailed(f"{doing} failed: {type(error).__name__}: {error}"))
        return True

    def _made_room_for(self, requests: Sequence[ImageRequest]) -> bool:
        """Whether graphs were dropped, or another engine set has left.

        No other thread holds requests that wait for a place or for their picture.

        Raises:
            DeviceLost: while it left; these requests were requeued.
        """
        try:
            spec = requests[0].spec
            key = spec.bucket_key
            return self._graphs.make_room(key) or self._arrivals.make_room(spec.engine_set, bucket=key)
        except DeviceLost:
            fail_all(requests, Requeued("the device is lost", blameless=False))
            raise


def _too_large(error: DeviceOutOfMemory, *, doing: str) -> OutOfMemory | RenderFailed:
    """What a sample ends with that has failed alone."""
    if error.certain:
        return OutOfMemory(TOO_LARGE.format(doing=doing, error=error))
    return RenderFailed(PERHAPS_TOO_LARGE.format(doing=doing, error=error))


def _by_halves(items: Sequence[Item], do: Callable[[Sequence[Item]], None]) -> None:
    """Do all at once, or, where memory does not suffice for that, each half by itself; one that has got room, again."""
    try:
        do(items)
    except DeviceOutOfMemory:
        pass  # until this block ends, the error's frames keep the tensors of the call, and no half would have room
    else:
        return
    if len(items) == 1:
        _by_halves(items, do)
        return
    half = len(items) // 2
    try:
        _by_halves(items[:half], do)
    finally:  # also when the device is lost: nothing else ends the second half's futures
        _by_halves(items[half:], do)
