"""A Renderer with no engines: a sample takes as long as its job's prompt says, or does the harm that it names."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from jobs.errors import Cancelled, Requeued
from jobs.job import RenderJob
from worker.renderer import Renderer


@dataclass(frozen=True)
class StubRequest:
    job_id: str
    sample: int
    seconds: float
    fault: str = ""


class StubDeviceLost(Exception):
    """As worker.render.denoiser.DeviceLost, which cannot be imported without torch."""


class StubLoop:
    """The RenderLoop's outside, without its inside."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # reentrant
        self._running: dict[Future[np.ndarray], tuple[StubRequest, float]] = {}
        self._draining = False
        self.submitted: list[StubRequest] = []
        self.broken: Exception | None = None

    def expecting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def submit(self, request: StubRequest) -> Future[np.ndarray]:
        future: Future[np.ndarray] = Future()
        with self._condition:
            if request.fault == "kills the process":
                os.kill(os.getpid(), signal.SIGKILL)
            if request.fault == "breaks the device":
                self.broken = StubDeviceLost("the device is gone")
            self.submitted.append(request)
            if self._draining:
                future.set_exception(Requeued("the worker is stopping"))
            else:
                self._running[future] = (request, time.monotonic() + request.seconds)
                self._condition.notify_all()
        return future

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._condition:
                self._condition.wait(0.01)
                if self.broken is not None:
                    self.lose_device()
                    raise self.broken
                now = time.monotonic()
                for future in [future for future, (_, end) in self._running.items() if end <= now]:
                    request, _ = self._running.pop(future)
                    future.set_result(np.full((8, 8, 3), request.sample, np.uint8))

    def cancel(self, job_id: str) -> None:
        self._end(Cancelled("cancelled by the user"), job_id)

    def drain(self) -> None:
        self._draining = True

    def requeue_all(self) -> None:
        self._draining = True
        self._end(Requeued("the worker is stopping"), None)

    def lose_device(self) -> None:
        self._end(Requeued("the device is lost", blameless=False), None)

    def wake(self) -> None:
        """`run` looks often enough."""

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(
            waiting=0,
            active=len(self._running),
            steps=0,
            sample_steps=0,
            images=0,
            busy_seconds=0.0,
            busy_since=None,
            batch_sizes={1: 2},
        )

    def _end(self, error: Exception, job_id: str | None) -> None:
        with self._condition:
            for future in [f for f, (request, _) in self._running.items() if job_id in (None, request.job_id)]:
                del self._running[future]
                future.set_exception(error)


def prepare(job: RenderJob, picture: bytes) -> SimpleNamespace:
    match = re.search(r"([0-9.]+) s$", job.parameters.prompt)
    seconds = float(match.group(1)) if match else 0.0
    requests = [StubRequest(job.id, k, seconds, job.parameters.prompt) for k in range(job.parameters.num_samples)]
    return SimpleNamespace(requests=requests, canny_png=b"canny of " + picture, warnings=("stub",), width=8, height=8)


def encode(job: RenderJob, prepared: SimpleNamespace, sample: int, pixels: np.ndarray) -> bytes:
    return b"png of " + pixels.tobytes()[:3]


def stub_renderer() -> Renderer:
    return Renderer(loop=StubLoop(), prepare=prepare, encode=encode, digest="stub", device_errors=(StubDeviceLost,))
