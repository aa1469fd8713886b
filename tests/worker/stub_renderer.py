"""A Renderer without engines and without torch: a job's prompt says when a sample is finished, or what it breaks.

"takes 2.5 s" is finished after so many seconds, "until /a/file" once that file exists.

This is the one stub besides worker.fake. It is the real scheduler around a clock. It exists because worker processes
start without torch: importing torch takes 3 seconds of processor time, and the tests start a hundred such processes.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from jobs.errors import RenderFailed, Requeued
from jobs.job import RenderJob
from worker.render.errors import DeviceLost
from worker.render.request import ImageRequest, ImageSpec, fail_all
from worker.render.scheduler import Bucket, Scheduler
from worker.render.stats import Loads, LoopCounters, LoopStats
from worker.renderer import Renderer
from worker.shutdown import Shutdown

KILLS, BREAKS = "kills the process", "breaks the device"
TURN_SECONDS = 0.01
SIDE = 8


@dataclass(frozen=True, eq=False)
class StubSpec(ImageSpec):
    seconds: float = 0.0
    until: Path | None = None
    fault: str = ""  # KILLS, BREAKS, or the sentence of the error that the sample ends with


@dataclass(frozen=True)
class Clock:
    """A trajectory that is finished at a time, or once a file exists."""

    ends: float
    until: Path | None

    @property
    def finished(self) -> bool:
        return self.until.exists() if self.until else time.monotonic() >= self.ends


class StubLoop:
    """RenderLoop's interface. Requests wait, run, are cancelled and requeued by the real Scheduler."""

    def __init__(self, shutdown: Shutdown | None = None) -> None:
        self.shutdown = shutdown or Shutdown()
        self.submitted: list[StubSpec] = []
        self.broken: Exception | None = None  # set it, and `run` raises it
        self._scheduler = Scheduler(lambda key: 1000, self.shutdown)
        self._counters = LoopCounters()

    def expecting(self) -> AbstractContextManager[None]:
        """Nothing to gather: samples do not share steps."""
        return nullcontext()

    def submit(self, spec: StubSpec) -> Future[np.ndarray]:
        future = self._scheduler.submit(spec)
        self.submitted.append(spec)
        return future

    def cancel(self, job_id: str) -> None:
        self._scheduler.cancel(job_id)

    def wake(self) -> None:
        """`run` looks often enough."""

    def stats(self) -> LoopStats:
        waiting, active = self._scheduler.count()
        return self._counters.snapshot(waiting=waiting, active=active)

    def samples_by_set(self) -> dict[str, tuple[int, int]]:
        return self._scheduler.count_by_set()

    def loads(self) -> Loads:
        """It has nothing to load."""
        return Loads({}, {}, frozenset())

    def parked(self, *, wanted: int = 0) -> int:
        return self._scheduler.parked(wanted=wanted)

    def batch_places(self) -> int:
        """It has no batches."""
        return 0

    def lose_device(self) -> None:
        """End what runs as a lost device does, and go on."""
        for bucket in self._scheduler._buckets.values():
            fail_all(bucket.running, Requeued("the device is lost", blameless=False))

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(TURN_SECONDS):
                self._scheduler.dismiss()
                bucket = self._scheduler.next_bucket()
                if bucket is not None:
                    self._take_turn(bucket)
                if self.broken is not None:
                    self.lose_device()
                    raise self.broken
        finally:
            self.shutdown.requeue_all()
            self._scheduler.dismiss()

    def _take_turn(self, bucket: Bucket) -> None:
        for request in self._scheduler.admit(bucket):
            bucket.running.append(request)
            self._start(request)
        for request in bucket.running:
            if not request.ended and request.trajectory.finished:
                request.start_decoding()
                request.succeed(np.full((SIDE, SIDE, 3), request.spec.sample, np.uint8))
        bucket.drop_ended()

    def _start(self, request: ImageRequest) -> None:
        spec = cast(StubSpec, request.spec)
        if spec.fault == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        request.start(cast(Any, Clock(time.monotonic() + spec.seconds, spec.until)))
        if spec.fault == BREAKS:
            self.broken = DeviceLost("the device is gone")
        elif spec.fault:
            request.fail(RenderFailed(spec.fault))


def prepare(job: RenderJob, picture: bytes, control_data: bytes | None = None) -> SimpleNamespace:
    prompt = job.parameters.prompt
    match = re.search(r"([0-9.]+) s$", prompt)
    until = re.search(r"^until (.+)$", prompt)
    ids = np.zeros(77, np.int64)
    specs = [
        StubSpec(
            job_id=job.id,
            sample=sample,
            edges=np.zeros((SIDE, SIDE), np.uint8),
            cond_ids=ids,
            uncond_ids=ids,
            seed=job.seed + sample,
            steps=1,
            eta=0.0,
            scale=1.0,
            cond_control_scales=(),
            uncond_control_scales=(),
            # A sample that breaks something must not end before the loop has noticed.
            seconds=float(match.group(1)) if match else 60.0 * (prompt == BREAKS),
            until=Path(until.group(1)) if until else None,
            fault=prompt if prompt in (KILLS, BREAKS) else "",
        )
        for sample in range(job.parameters.num_samples)
    ]
    return SimpleNamespace(
        specs=specs, canny_png=b"canny of " + (control_data or picture), warnings=("stub",), width=SIDE, height=SIDE
    )


def encode(job: RenderJob, prepared: SimpleNamespace, sample: int, pixels: np.ndarray) -> bytes:
    return b"png of " + pixels.tobytes()[:3]


def stub_renderer(shutdown: Shutdown | None = None) -> Renderer:
    return Renderer(
        loop=cast(Any, StubLoop(shutdown)), prepare=cast(Any, prepare), encode=cast(Any, encode), digest="stub"
    )
