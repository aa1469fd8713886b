"""JobRunner: one job from its message to its record, in a thread of GpuPool's.

    decide     the ledger says whether this process renders the job
    render     fetch, prepare, submit to the loop, encode, upload; the sidecar last
    record     the ledger gets the result; or the job is queued again

What can happen to a job, and what becomes of its message:

    rendered, failed for good, cancelled, quarantined    the ledger gets the result; acknowledged
    finished before, or in flight in another worker      acknowledged
    the worker stops, or an error that may pass          queued in the ledger, then requeued
    a message of a newer version                         requeued, for a newer worker
    a message that holds no job                          logged; acknowledged
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import structlog

from jobs.errors import (
    Cancelled,
    InvalidJob,
    NewerMessage,
    PermanentError,
    Quarantined,
    RenderError,
    Requeued,
    TransientError,
)
from jobs.job import RenderJob, RenderResult
from jobs.ledger.records import Start
from jobs.settings import Settings
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.http import FetchLimits
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store, read_bytes, store_for
from worker.in_flight import InFlightJobs
from worker.ledger_client import LedgerClient
from worker.observe.metrics import JobMetrics, StageTimer
from worker.outcome import Outcome
from worker.renderer import Renderer
from worker.result import ResultWriter, sidecar
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

PNG, JSON = "image/png", "application/json"
# Between taking a message of a newer version and putting it back: a queue full of them must not become a busy loop.
NEWER_MESSAGE_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class JobRunner:
    """What all jobs of a process share. `run` is called by many threads at once."""

    settings: Settings
    renderer: Renderer
    ledger: LedgerClient
    in_flight: InFlightJobs
    shutdown: Shutdown
    metrics: JobMetrics
    read: Callable[[str, FetchLimits], bytes] = read_bytes
    open_store: Callable[[str], Store] = store_for
    access_policy: AccessPolicy = field(default_factory=AccessPolicy)
    last_start: threading.Lock = field(default_factory=threading.Lock)

    def run(self, text: str) -> Outcome:
        """Render the job in a message. Raises nothing: whatever happens is an outcome."""
        try:
            job = RenderJob.from_json(text)
        except NewerMessage as error:
            return self._requeue_newer(error)
        except InvalidJob as error:
            log.error("bad_message", error=str(error))
            return self.ledger.count("invalid", error.kind, Outcome.INVALID)
        with structlog.contextvars.bound_contextvars(job=job.id, batch=job.batch):
            other_delivery = self.in_flight.take(job)
            if other_delivery is not None:
                log.info("delivered_twice")
                return other_delivery.result()
            outcome = Outcome.REQUEUED
            try:
                outcome = self._process(job)
            finally:
                self.in_flight.release(job.id, outcome)
            return outcome

    def _requeue_newer(self, error: NewerMessage) -> Outcome:
        log.warning("message_is_newer", error=str(error), consequence="it goes back to the queue, for a newer worker")
        self.shutdown.wait(NEWER_MESSAGE_PAUSE_SECONDS)
        return self.ledger.count("requeued", error.kind, Outcome.REQUEUED)

    def _process(self, job: RenderJob) -> Outcome:
        """What happens to a job: decide, render, record."""
        try:
            with self._decide(job) as start:
                if start.decision not in ("run", "quarantined", "cancel"):
                    log.info("not_rendered", decision=start.decision)
                    return Outcome.ENDED
                try:
                    result = self._render(job, start)
                except Exception as error:  # noqa: BLE001 (the one place where any error becomes a record)
                    return self._record(job, start, error)
                return self.ledger.finish(result)
        except Requeued:
            # The worker had to stop before Redis answered. The job's lease ends, and other workers take it over.
            return self.ledger.count("requeued", Requeued.kind, Outcome.REQUEUED)

    # -- decide ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _decide(self, job: RenderJob) -> Iterator[Start]:
        """Start the job in the ledger. Its last allowed start happens alone, within the block.

        A job that kills its worker also kills the jobs beside it, and all of them come back together. If they also
        started for the last time together, its innocent neighbours would be quarantined with it. So one such job runs
        at a time in this process; the others wait without having started, which costs them no attempt if it dies.
        """
        start = self.ledger.start(job, unless_last=True)
        if start.decision != "last":
            yield start
            return
        while not self.last_start.acquire(timeout=1.0):
            self.shutdown.check()
        try:
            yield self.ledger.start(job)
        finally:
            self.last_start.release()

    # -- render ---------------------------------------------------------------------------------------------------

    def _render(self, job: RenderJob, start: Start) -> RenderResult:
        """The job's result, whose files are in storage. Raises whatever prevents it."""
        if start.decision == "quarantined":
            raise _quarantined(start.attempts)
        if start.decision == "cancel":
            raise Cancelled("cancelled by the user")
        store = self._store(job)  # first: what may not be written need not be rendered
        return self._earlier_result(job, start, store) or self._draw_and_upload(job, start, store)

    def _draw_and_upload(self, job: RenderJob, start: Start, store: Store) -> RenderResult:
        timer = StageTimer(self.metrics)
        with self.renderer.loop.expecting():
            with timer.measure("fetch"):
                picture = self._fetch(job)
            with timer.measure("prepare"):
                self._check(job)
                prepared = self.renderer.prepare(job, picture)
                del picture  # up to RENDER_FETCH_MAX_BYTES, which would else stay until the job has ended
            self._check(job)
            futures = [self.renderer.loop.submit(spec) for spec in prepared.specs]
        with timer.measure("render"):
            samples = self._wait_for_samples(job, futures)
        with timer.measure("encode"):
            pictures = [self.renderer.encode(job, prepared, k, sample) for k, sample in enumerate(samples)]
        with timer.measure("upload"):
            for k, png in enumerate(pictures):
                self._write(store, job.sample_uri(k), png, PNG)
            self._write(store, job.canny_uri, prepared.canny_png, PNG)
        result = self._results.done(job, start, prepared, samples=len(pictures), seconds=timer.seconds)
        # Last: whoever sees the sidecar sees the whole result.
        self._write(store, job.sidecar_uri, sidecar(job, result), JSON)
        return result

    def _fetch(self, job: RenderJob) -> bytes:
        settings = self.settings
        limits = FetchLimits(
            settings.fetch_timeout_seconds, settings.fetch_max_bytes, settings.allow_hosts, policy=self.access_policy
        )
        return self._with_retries(lambda: self.read(job.parameters.image, limits))

    def _wait_for_samples(self, job: RenderJob, futures: Sequence[Future[np.ndarray]]) -> list[np.ndarray]:
        """uint8 pictures [H, W, 3], one per sample. An error in one ends all: a job is done whole or not at all."""
        done, unfinished = wait(futures, return_when=FIRST_EXCEPTION)
        if unfinished:
            self.renderer.loop.cancel(job.id)
        for future in done:
            future.result()  # raises the first error, rather than the Cancelled that it caused in the others
        return [future.result() for future in futures]

    def _store(self, job: RenderJob) -> Store:
        """For the job's folder. A message may come from a stranger, who may name any folder or bucket."""
        self.access_policy.check_output(job.folder)
        return self.open_store(job.folder)

    def _write(self, store: Store, uri: str, data: bytes, content_type: str) -> None:
        self._with_retries(lambda: store.write(uri, data, content_type))

    def _earlier_result(self, job: RenderJob, start: Start, store: Store) -> RenderResult | None:
        """The result in storage of an attempt that died between its sidecar and the ledger, or that the ledger lost."""
        if start.attempts == 1 and not start.adopted:
            return None
        if not self._with_retries(lambda: store.exists(job.sidecar_uri)):
            return None
        try:
            result = RenderResult.model_validate_json(self._with_retries(lambda: store.read(job.sidecar_uri)))
        except (ValueError, PermanentError) as error:
            log.warning("sidecar_ignored", error=str(error))
            return None
        return result if (result.id, result.state) == (job.id, "done") else None

    def _check(self, job: RenderJob) -> None:
        """Raise Cancelled or Requeued if the job should not go on."""
        self.in_flight.check(job.id)
        self.shutdown.check()

    def _with_retries(self, call: Callable[[], Value]) -> Value:
        """Back off in this thread, but not while the worker has to stop."""
        settings = self.settings
        return with_backoff(
            call, attempts=settings.retry_attempts, base_seconds=settings.retry_base_seconds, sleep=self.shutdown.pause
        )

    # -- record ---------------------------------------------------------------------------------------------------

    def _record(self, job: RenderJob, start: Start, error: Exception) -> Outcome:
        """Queue the job again if another attempt may succeed; else record that it ended."""
        if isinstance(error, Requeued):
            return self.ledger.nack(job, error, refund=error.blameless)
        if isinstance(error, TransientError) and start.attempts < self.settings.max_attempts:
            log.warning("tried_again_later", error=str(error), kind=error.kind, attempts=start.attempts)
            return self.ledger.nack(job, error, refund=False)
        if not isinstance(error, RenderError):
            log.error("job_broke", exc_info=error)
        return self.ledger.finish(self._results.ended(job, start, error))

    @cached_property
    def _results(self) -> ResultWriter:
        renderer = self.renderer
        return ResultWriter(self.ledger.worker, engine_set=renderer.digest, model_name=renderer.model_name)


def _quarantined(attempts: int) -> Quarantined:
    return Quarantined(
        f"quarantined: {attempts} workers started this job and none ended it; it may have taken them down "
        "(producer retry starts it again)"
    )
