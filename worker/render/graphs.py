"""Graphs: steps at batch sizes for which the device is ready, and graphs of more sizes while it is idle.

graph_sizes.py decides; here its decisions meet the denoisers, the scheduler and the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
import torch

from worker.render.batch import RequestBatch
from worker.render.denoisers import Denoisers
from worker.render.device import translated_errors
from worker.render.errors import DeviceLost, DeviceOutOfMemory
from worker.render.graph_sizes import GraphSizes
from worker.render.memory_limit import IN_VAIN_SECONDS
from worker.render.request import BucketKey
from worker.render.scheduler import Bucket, Scheduler
from worker.render.stats import Cause, LoopCounters

log = structlog.get_logger(__name__)

Asked = Sequence[tuple[BucketKey, int]]


class Graphs:
    """Decides which graphs to capture, and when. For the loop's thread, except `ask`, which any thread may call."""

    def __init__(
        self, denoisers: Denoisers, scheduler: Scheduler, *, counters: LoopCounters, now: Callable[[], float]
    ) -> None:
        self._denoisers = denoisers
        self._scheduler = scheduler
        self._counters = counters
        self._now = now
        self._sizes = GraphSizes(now)
        self._asked: Asked = ()
        self._news: Asked | None = None  # asked for since the last turn
        self._last: tuple[BucketKey, int, float] | None = None  # the latest step: bucket, size, when it returned
        self._has_room_at = now()  # for more graphs than steps need
        self._dropped: dict[BucketKey, float] = {}  # when graphs made room for a sample that has not been drawn since

    def ask(self, sizes: Asked) -> None:
        """Capture these while the device is idle, in this order; they are also what buckets capture first."""
        self._news = tuple(sizes)

    def plan(self, bucket: Bucket) -> None:
        """Decide how many requests the bucket's next step takes, before any are admitted to it."""
        self._take_note()
        denoiser = self._denoisers.of(bucket.key.engine_set)
        sizes = denoiser.graph_sizes(bucket.key)
        if not sizes:
            bucket.places = None
            return
        largest = denoiser.batch_size(bucket.limit, bucket.key.height, bucket.key.width)
        bucket.places = self._sizes.choose(
            bucket.key,
            demand=self._scheduler.demand(bucket),
            allowed=[size for size in sizes if size <= largest],
            graphs=denoiser.graphs(bucket.key),
            crowd=self._scheduler.crowd(),
        )

    def batch_size(self, bucket: Bucket, samples: int) -> int:
        """What a step of so many requests is padded to."""
        if bucket.places is not None:
            return bucket.places
        key = bucket.key
        return self._denoisers.of(key.engine_set).batch_size(samples, key.height, key.width)

    def step(self, bucket: Bucket, batch: RequestBatch) -> torch.Tensor | None:
        """The next latents, float32 [N, 4, h, w]; None where the padding does not fit in memory: plan again.

        Raises:
            DeviceOutOfMemory: the requests themselves do not fit.
        """
        denoiser, key, size = self._denoisers.of(bucket.key.engine_set), bucket.key, batch.size
        if bucket.places is None:
            return denoiser.step(batch.next_step())
        is_new, began = size not in denoiser.graphs(key), self._now()
        try:
            latents = denoiser.step(batch.next_step())
        except DeviceOutOfMemory as error:
            self.interrupted()
            if size == len(batch.requests):
                raise
            self._too_large(key, size, error)
            return None
        self._note(key, size, began, is_new=is_new)
        self._counters.count_size(key, size, samples=len(batch.requests))
        return latents

    def interrupted(self) -> None:
        """The device does something else, or nothing: the time until the next step is not that of the last one."""
        self._last = None

    def make_room(self, key: BucketKey) -> bool:
        """A sample does not fit in memory even alone: drop the graphs of all sets.

        False if there are none, or if they were dropped for this bucket a short while ago and that was in vain.
        """
        if self._now() - self._dropped.get(key, -IN_VAIN_SECONDS) < IN_VAIN_SECONDS:
            return False
        self.interrupted()
        dropped = self._denoisers.drop_graphs()
        if dropped:
            self._dropped[key] = self._now()
            log.warning("graphs_dropped", engine_set=key.engine_set, reason="a sample does not fit beside them")
        return dropped

    def fitted(self, key: BucketKey) -> None:
        """A sample of this bucket was drawn: if graphs were dropped for it, that has helped."""
        self._dropped.pop(key, None)

    def warm(self) -> bool:
        """Capture one graph that was asked for, or that later steps may need; False if there is none, or no time.

        Raises:
            DeviceLost: the device failed meanwhile.
        """
        self._take_note()
        if self._now() < self._has_room_at or not self._scheduler.is_quiet:
            return False
        chosen = self._next()
        if chosen is None:
            return False
        with self._counters.turn():
            self._warm(*chosen)
        return True

    def _warm(self, key: BucketKey, size: int) -> None:
        self.interrupted()
        denoiser, began = self._denoisers.of(key.engine_set), self._now()
        try:
            with translated_errors():
                denoiser.warm(key, size)
        except DeviceOutOfMemory as error:
            if size in denoiser.graphs(key):  # so many pictures at once do not fit beside it, but jobs' come in halves
                self._captured(key, size, self._now() - began, cause="idle")
            else:
                self._too_large(key, size, error)
            self._has_room_at = self._now() + IN_VAIN_SECONDS  # what is left belongs to jobs
        except DeviceLost as error:
            error.prepared_for = key.engine_set
            raise
        except Exception:
            log.exception("graph_not_captured", **_named(key, size), consequence="a job of this size will show why")
            self._sizes.too_large(key, size)
        else:
            self._captured(key, size, self._now() - began, cause="idle")
            if size not in denoiser.graphs(key):  # an idle worker would do the same again and again
                self._sizes.too_large(key, size)

    def _next(self) -> tuple[BucketKey, int] | None:
        for key, size in self._asked:
            if self._can_capture(key, size):
                return key, size
        for key in self._sizes.buckets():
            if self._denoisers.is_loaded(key.engine_set):
                denoiser = self._denoisers.of(key.engine_set)
                largest = max(denoiser.graph_sizes(key), default=0)
                worth = self._sizes.worth_capturing(key, graphs=denoiser.graphs(key), largest=largest)
                if worth is not None and self._can_capture(key, worth):
                    return key, worth
        return None

    def _can_capture(self, key: BucketKey, size: int) -> bool:
        if not self._denoisers.is_loaded(key.engine_set) or not self._sizes.fits(key, size):
            return False
        denoiser = self._denoisers.of(key.engine_set)
        return size in denoiser.graph_sizes(key) and size not in denoiser.graphs(key)

    def _take_note(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            self._asked = news
            for key, size in reversed(news):  # the first one of a bucket wins
                self._sizes.prefer(key, size)

    def _note(self, key: BucketKey, size: int, began: float, *, is_new: bool) -> None:
        """Time the step before this one: the host is one step ahead, so this call returned when that one had ended."""
        returned = self._now()
        if is_new:
            self._captured(key, size, returned - began, cause="step")
        elif self._last is not None:
            last_key, last_size, last_returned = self._last
            self._sizes.took(last_key, last_size, returned - last_returned)
        self._last = (key, size, returned)

    def _captured(self, key: BucketKey, size: int, seconds: float, *, cause: Cause) -> None:
        self._sizes.captured(key, size, seconds)
        self._counters.count_capture(seconds, cause=cause)
        log.info("graph_captured", **_named(key, size), seconds=round(seconds, 3), cause=cause)

    def _too_large(self, key: BucketKey, size: int, error: DeviceOutOfMemory) -> None:
        self._sizes.too_large(key, size)
        log.warning("graph_too_large", **_named(key, size), reason=str(error)[:200])


def _named(key: BucketKey, size: int) -> dict[str, object]:
    return {"engine_set": key.engine_set, "shape": (key.height, key.width), "tokens": key.tokens, "batch": size}
