"""Uploads: calls to storage that are repeated without limit while storage is away.

The job's thread waits with the pictures in memory, and its message stays unacknowledged. RENDER_JOBS_IN_FLIGHT bounds
how many jobs can wait, so rendering pauses by itself. No attempt is spent. The wait ends when storage answers, the user
cancels the job, or the worker stops; then the job goes back to the queue. A job that is not rendered yet waits for half
a minute only: where the fault is this worker's after all (a wrong endpoint, a route that is gone), others may have it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from jobs.errors import OutputForbidden, OutputFull, RenderError
from jobs.job import RenderJob
from jobs.storage.store import Store
from worker.fitness import Fitness
from worker.in_flight import InFlightJobs
from worker.observe.metrics import JobMetrics
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

# Finished pictures are kept so long where this worker cannot write them: a folder may be gone, or full, for a moment.
KEPT_SECONDS, KEPT_PAUSE_SECONDS = 5.0, 0.5
NOT_RENDERED_SECONDS = 30.0  # until a job that has no pictures yet is put off
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 10.0
LOOK_SECONDS = 1.0  # between two looks whether the job was cancelled


@dataclass(frozen=True)
class Uploads:
    """Called by the threads of jobs. Raises Cancelled or Requeued instead of waiting on."""

    base_seconds: float  # the first pause; it doubles each time, with jitter, up to 10 s
    fitness: Fitness
    in_flight: InFlightJobs
    shutdown: Shutdown
    metrics: JobMetrics

    def write(self, job: RenderJob, store: Store, uri: str, data: bytes, content_type: str) -> None:
        """Store one file of a job that is rendered. It is tried until the grace period of a stop is over.

        Raises:
            OutputForbidden, OutputFull: this worker cannot write it, and could not for some seconds.
        """
        deadline = time.monotonic() + KEPT_SECONDS
        while True:
            try:
                return self.insist(lambda: store.write(uri, data, content_type), job)
            except (OutputForbidden, OutputFull) as error:
                if isinstance(error, OutputFull):
                    error.needed_bytes = len(data)
                if error.scope == "settings" or time.monotonic() > deadline:
                    raise
                self.fitness.saw(error, job)
            self._wait(job, KEPT_PAUSE_SECONDS, rendered=True)

    def insist(self, call: Callable[[], Value], job: RenderJob, *, rendered: bool = True) -> Value:
        """Call until the fault is not storage's. A job that is not `rendered` yet ends as soon as the worker drains.

        Raises:
            RenderError: whatever `call` raised that is not storage's fault; or that is, if the job is not `rendered`
                and it lasted for half a minute.
        """
        try:
            return call()
        except RenderError as error:
            if error.fault != "store":
                raise
            first = error
        log.warning("storage_away", error=str(first), consequence="the job waits for it")
        self.metrics.storage_waits.inc()
        try:
            value = self._repeat(call, job, first, rendered=rendered)
        finally:
            self.metrics.storage_waits.dec()
        log.info("storage_answers")
        return value

    def _repeat(self, call: Callable[[], Value], job: RenderJob, error: RenderError, *, rendered: bool) -> Value:
        pause, deadline = self.base_seconds, time.monotonic() + NOT_RENDERED_SECONDS
        while True:
            self.fitness.saw(error, job)
            self._wait(job, pause * random.uniform(0.5, 1.5), rendered=rendered)
            pause = min(max(2 * pause, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS / 1.5)
            try:
                return call()
            except RenderError as again:
                if again.fault != "store" or (not rendered and time.monotonic() > deadline):
                    raise
                error = again

    def _wait(self, job: RenderJob, seconds: float, *, rendered: bool) -> None:
        left = seconds
        while True:
            self.in_flight.check(job.id)
            if not rendered:
                self.shutdown.check()
            self.shutdown.pause(min(left, LOOK_SECONDS))
            left -= LOOK_SECONDS
            if left <= 0:
                return
