"""RenderLoop: admit, step, retire. Continuous batching by the one thread that owns the GPU.

Each turn belongs to one shape. Its waiting samples are admitted into free slots, all its slots advance by one DDIM step
in one engine call, and those that are finished are decoded and leave. Samples at different steps, with different step
counts, scales and seeds, share the call; only the shape must agree.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import structlog
import torch

from jobs.errors import Cancelled, OutOfMemory, RenderError, RenderFailed, Requeued
from worker.render.decoding import Decoding, Deliveries
from worker.render.denoiser import Denoiser
from worker.render.device import DeviceLost, DeviceOutOfMemory
from worker.render.encodings import Encodings
from worker.render.request import ImageRequest, ImageSpec, RequestBatch

log = structlog.get_logger(__name__)

Shape = tuple[int, int]

Item = TypeVar("Item")

TOO_LARGE = (
    "one sample alone does not fit in the device's memory ({doing}); lower image_resolution, or set "
    "RENDER_LOW_VRAM=1 ({error})"
)
# How long an idle device waits at most for samples that are being prepared, so that they begin together. Samples that
# begin one by one also end one by one, and a text encoding and a decoding for each cost a 50th of the throughput.
GATHER_SECONDS = 0.2
NOT_NUMBERS = "the engines gave values that are not numbers; `engines verify` tells which engine does"


@dataclass(frozen=True)
class LoopStats:
    """What the loop did so far; read by other threads."""

    waiting: int  # samples
    active: int  # samples
    steps: int  # engine calls
    sample_steps: int  # samples x steps
    images: int
    busy_seconds: float  # inside a turn
    busy_since: float | None  # time.monotonic() of the turn that is under way, or None
    batch_sizes: dict[int, int]  # samples in a step -> steps


@dataclass(eq=False)
class _Bucket:
    """One shape's samples: waiting in order of arrival, and active in order of admission."""

    limit: int  # samples a step
    waiting: deque[tuple[ImageSpec, Future[np.ndarray]]] = field(default_factory=deque)
    slots: list[ImageRequest] = field(default_factory=list)
    group: RequestBatch | None = None  # the slots' stacked tensors, while membership does not change
    last_turn: int = 0

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.slots


class RenderLoop:
    """Give it samples from any thread; run it in one.

    Every future ends: with RGB uint8 [H, W, 3], or with RenderFailed, OutOfMemory, Cancelled or Requeued.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._encodings = Encodings(denoiser)
        self._deliveries = Deliveries(self._deliver)
        self._lost: DeviceLost | None = None  # found out while pictures were on their way
        self._changed = threading.Condition()  # guards what other threads touch: all below but slots and groups
        self._lanes: dict[Shape, _Bucket] = {}
        self._cancelled: set[str] = set()
        self._expected = 0  # jobs
        self._draining = False
        self._handing_back = False
        self._turn = 0
        self._steps = self._sample_steps = self._images = 0
        self._busy_seconds = 0.0
        self._busy_since: float | None = None
        self._batch_sizes: Counter[int] = Counter()

    # -- any thread -----------------------------------------------------------------------------------------------

    def submit(self, request: ImageSpec) -> Future[np.ndarray]:
        """Queue one sample. Its future cannot be cancelled; its job can."""
        future: Future[np.ndarray] = Future()
        future.set_running_or_notify_cancel()
        with self._changed:
            if self._draining:
                future.set_exception(Requeued("the worker is stopping"))
                return future
            if request.shape not in self._lanes:
                self._lanes[request.shape] = _Bucket(self._denoiser.max_batch(*request.shape), last_turn=self._turn)
            self._lanes[request.shape].waiting.append((request, future))
            self._changed.notify()
        return future

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """For a job that submits its samples within the block: an idle loop waits for it a little."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify()

    def cancel(self, job_id: str) -> None:
        """End a job's samples with Cancelled before their next step."""
        with self._changed:
            self._cancelled.add(job_id)
            self._changed.notify()

    def drain(self) -> None:
        """Admit nothing more: waiting samples end with Requeued, active ones are finished."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def requeue_all(self) -> None:
        """End all samples with Requeued before their next step."""
        with self._changed:
            self._draining = self._handing_back = True
            self._changed.notify()

    def stats(self) -> LoopStats:
        """What the loop did so far."""
        with self._changed:
            return LoopStats(
                waiting=sum(len(lane.waiting) for lane in self._lanes.values()),
                active=sum(len(lane.slots) for lane in self._lanes.values()),
                steps=self._steps,
                sample_steps=self._sample_steps,
                images=self._images,
                busy_seconds=self._busy_seconds,
                busy_since=self._busy_since,
                batch_sizes=dict(self._batch_sizes),
            )

    # -- the GPU's thread -----------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Take turns until `stop` is set; call `wake` after setting it. What is left then ends with Requeued.

        Raises:
            DeviceLost: after every sample has ended with Requeued.
        """
        try:
            idle = True
            while not stop.is_set():
                if idle:
                    self._await_samples(stop)
                idle = not self.step()
        finally:
            self.requeue_all()
            self._leave()
            self._deliveries.close()

    def _await_samples(self, stop: threading.Event) -> None:
        """Return when there is something to do, and samples that are announced have come or taken too long."""
        with self._changed:
            # Look every second: `stop` may be set by somebody who does not know `wake`.
            while not self._changed.wait_for(lambda: stop.is_set() or self._has_news(), timeout=1.0):
                pass
            self._changed.wait_for(lambda: stop.is_set() or self._gathered(), timeout=GATHER_SECONDS)

    def wake(self) -> None:
        """Let `run` look at its stop event now."""
        with self._changed:
            self._changed.notify()

    def step(self) -> bool:
        """One turn. False if there was nothing to do.

        Raises:
            DeviceLost: now, or since the last turn.
        """
        if self._lost is not None:
            raise self._lost
        self._leave()
        lane = self._next_lane()
        if lane is None:
            return False
        with self._timed():
            self._admit(lane)
            self._advance(lane)
            self._retire(lane)
        return True

    def _leave(self) -> None:
        """Let go of what was cancelled or is handed back, between two turns."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            for lane in self._lanes.values():
                if self._draining:
                    _end([future for _, future in lane.waiting], Requeued("the worker is stopping"))
                    lane.waiting.clear()
                if self._handing_back:
                    _end([slot.future for slot in lane.slots], Requeued("the worker is stopping"))
                if cancelled:
                    self._leave_cancelled(lane, cancelled)
                self._drop_ended(lane)

    def _leave_cancelled(self, lane: _Bucket, cancelled: set[str]) -> None:
        error = Cancelled("cancelled by the user")
        _end([future for request, future in lane.waiting if request.job_id in cancelled], error)
        lane.waiting = deque(pair for pair in lane.waiting if pair[0].job_id not in cancelled)
        _end([slot.future for slot in lane.slots if slot.request.job_id in cancelled], error)

    def _next_lane(self) -> _Bucket | None:
        """The shape whose last turn is longest ago, so that none starves."""
        with self._changed:
            for shape in [shape for shape, lane in self._lanes.items() if lane.idle]:
                del self._lanes[shape]
            lane = min(self._lanes.values(), key=lambda lane: lane.last_turn, default=None)
            if lane is not None:
                self._turn += 1
                lane.last_turn = self._turn
            return lane

    def _admit(self, lane: _Bucket) -> None:
        """Waiting samples take the free slots, first come, first served."""
        with self._changed:
            free = max(0, lane.limit - len(lane.slots))
            pairs = [lane.waiting.popleft() for _ in range(min(free, len(lane.waiting)))]
        if pairs:
            _by_halves(pairs, lambda part: self._begin(lane, part))

    def _begin(self, lane: _Bucket, pairs: Sequence[tuple[ImageSpec, Future[np.ndarray]]]) -> None:
        with self._failing([future for _, future in pairs], doing="encoding prompt and edges"):
            conditionings = self._encodings.encode([request for request, _ in pairs])
            lane.slots += [
                ImageRequest(request, future, conditioning=conditioning)
                for (request, future), conditioning in zip(pairs, conditionings, strict=True)
            ]

    def _advance(self, lane: _Bucket) -> None:
        """One DDIM step of the oldest slots, all of them unless memory has run short."""
        slots = lane.slots[: lane.limit]
        if not slots:
            return
        try:
            with self._failing([slot.future for slot in slots], doing="denoising"):
                if lane.group is None or not lane.group.holds(slots):
                    lane.group = self._group(slots)
                lane.group.advance(self._denoiser.step(lane.group.batch()))
                self._count_step(len(slots))
        except DeviceOutOfMemory as error:
            # The slots keep their latents and go on where they were.
            lane.limit = len(slots) // 2
            log.warning("batch_halved", samples=lane.limit, shape=slots[0].request.shape, reason=str(error)[:200])
        self._drop_ended(lane)

    def _group(self, slots: Sequence[ImageRequest]) -> RequestBatch:
        return RequestBatch(slots, batch_size=self._denoiser.batch_size(len(slots), *slots[0].request.shape))

    def _retire(self, lane: _Bucket) -> None:
        """Finished slots are decoded and leave; their pictures are delivered while the next steps run."""
        finished = [slot for slot in lane.slots if slot.finished]
        if finished:
            _by_halves(finished, self._decode)
            lane.slots = [slot for slot in lane.slots if not slot.finished]
            self._drop_ended(lane)

    def _decode(self, slots: Sequence[ImageRequest]) -> None:
        with self._failing([slot.future for slot in slots], doing="decoding"):
            self._deliveries.add(slots, self._denoiser.decode(torch.stack([slot.latents for slot in slots])))

    def _deliver(self, slots: Sequence[ImageRequest], decoding: Decoding) -> None:
        """End the futures of decoded slots. Runs in the deliveries' thread where pictures take their time."""
        try:
            self._end_with(slots, decoding)
        except DeviceOutOfMemory as error:
            _end([slot.future for slot in slots], OutOfMemory(TOO_LARGE.format(doing="decoding", error=error)))
        except DeviceLost as error:
            self._lost = error
            self.wake()

    def _end_with(self, slots: Sequence[ImageRequest], decoding: Decoding) -> None:
        with self._failing([slot.future for slot in slots], doing="decoding"):
            pictures = decoding.pictures()
            with self._changed:  # before the futures end: who has the pictures finds them counted
                self._images += sum(picture is not None for picture in pictures)
            for slot, picture in zip(slots, pictures, strict=True):
                if picture is None:
                    slot.future.set_exception(RenderFailed(NOT_NUMBERS))
                else:
                    slot.future.set_result(picture)

    def _drop_ended(self, lane: _Bucket) -> None:
        """Slots whose future has ended are free, and the group lets go of their tensors."""
        lane.slots = [slot for slot in lane.slots if not slot.future.done()]
        if lane.group is not None and not lane.group.holds(lane.slots[: lane.limit]):
            lane.group = None

    @contextmanager
    def _failing(self, futures: Sequence[Future[np.ndarray]], *, doing: str) -> Iterator[None]:
        """Around everything that engines do: an error ends these samples and no others.

        Raises:
            DeviceOutOfMemory: from more than one sample, where fewer may fit; nothing has ended then.
            DeviceLost: after these samples were handed back.
        """
        try:
            yield
        except DeviceOutOfMemory as error:
            if len(futures) > 1:
                raise
            _end(futures, OutOfMemory(TOO_LARGE.format(doing=doing, error=error)))
        except DeviceLost:
            _end(futures, Requeued("the device is lost", blameless=False))
            raise
        except Exception as error:
            log.exception("batch_failed", doing=doing, samples=len(futures))
            _end(futures, RenderFailed(f"{doing} failed: {type(error).__name__}: {error}"))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        self._busy_since = began
        try:
            yield
        finally:
            self._busy_since = None
            self._busy_seconds += time.monotonic() - began

    def _count_step(self, size: int) -> None:
        with self._changed:
            self._steps += 1
            self._sample_steps += size
            self._batch_sizes[size] += 1

    def _gathered(self) -> bool:
        """Whether an idle loop has nothing to wait for: a batch is full, or nobody is about to submit."""
        full = any(len(lane.waiting) >= lane.limit for lane in self._lanes.values())
        return full or not self._expected or self._draining or self._is_interrupted()

    def _has_news(self) -> bool:
        return self._is_interrupted() or any(not lane.idle for lane in self._lanes.values())

    def _is_interrupted(self) -> bool:
        return self._lost is not None or bool(self._cancelled)


def _end(futures: Sequence[Future[np.ndarray]], error: RenderError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _by_halves(items: Sequence[Item], do: Callable[[Sequence[Item]], None]) -> None:
    """Do all at once, or, where memory does not suffice for that, each half by itself."""
    try:
        do(items)
    except DeviceOutOfMemory:
        half = len(items) // 2
        try:
            _by_halves(items[:half], do)
        finally:  # also when the device is lost: nobody else ends the second half's futures
            _by_halves(items[half:], do)
