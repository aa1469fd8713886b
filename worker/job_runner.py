"""One job, start to end: decide, fetch, prepare, render, upload, finish. Runs in a thread of GpuPool's.

What can happen to a job, and what becomes of its message:

    rendered, failed for good, cancelled, quarantined    the ledger gets the result; acknowledged
    finished before, or held by another worker           acknowledged
    the worker stops, or an error that may pass           queued in the ledger, then put back
    no job at all                                         logged; acknowledged
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import structlog
from celery.exceptions import Reject

from jobs.errors import Cancelled as JobCancelled
from jobs.errors import InvalidJob, PermanentError, Quarantined, RenderError, Requeued, TransientError
from jobs.job import RenderJob, RenderResult
from jobs.ledger.ledger import Start
from jobs.settings import Settings
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.http import FetchLimits
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store, read_bytes, store_for
from jobs.uri import redacted
from worker.in_flight import Ending, InFlightJobs
from worker.ledger_client import LedgerClient
from worker.observe.logs import without_secrets
from worker.observe.metrics import JobMetrics
from worker.renderer import Renderer
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

PNG, JSON = "image/png", "application/json"


def render(task: Any, text: str) -> str:
    """The Celery task. `task` is bound to the app, whose service runs the job; `text` is a RenderJob as JSON."""
    ending: Ending = task.app.service.run_job(text)
    if ending is Ending.HANDED_BACK:
        # Request.on_failure turns this into QoS.reject(requeue=True): the message goes to the queue's tail.
        raise Reject("handed back", requeue=True)
    return str(ending.value)


@dataclass(frozen=True)
class JobRunner:
    """What all jobs of a process share. `run` is called by many threads at once."""

    settings: Settings
    renderer: Renderer
    books: LedgerClient
    held: InFlightJobs
    stopping: Shutdown
    metrics: JobMetrics
    read: Callable[[str, FetchLimits], bytes] = read_bytes
    writer: Callable[[str], Store] = store_for
    places: AccessPolicy = field(default_factory=AccessPolicy)
    last_start: threading.Lock = field(default_factory=threading.Lock)

    def run(self, text: str) -> Ending:
        """Render the job in a message. Raises nothing: whatever happens is an ending."""
        try:
            job = RenderJob.from_json(text)
        except InvalidJob as error:
            log.error("bad_message", error=str(error))
            return self.books.count("invalid", error.kind, Ending.INVALID)
        with structlog.contextvars.bound_contextvars(job=job.id, batch=job.batch):
            first = self.held.take(job)
            if first is not None:
                log.info("delivered_twice")
                return first.result()
            ending = Ending.HANDED_BACK
            try:
                ending = self._run(job)
            finally:
                self.held.release(job.id, ending)
            return ending

    def _run(self, job: RenderJob) -> Ending:
        """From the ledger's decision to the ledger's record."""
        try:
            start = self.books.start(job, unless_last=True)
            return self._run_alone(job) if start.decision == "last" else self._run_started(job, start)
        except Requeued:
            # The ledger could not be told before the worker had to stop: its lease ends, and others take over.
            return self.books.count("handed_back", Requeued.kind, Ending.HANDED_BACK)

    def _run_alone(self, job: RenderJob) -> Ending:
        """The last start of a job whose earlier ones came to nothing: one such job at a time in this process.

        A job that takes its worker down takes down what runs beside it, and all of them come back together. If they
        also started together for the last time, its innocent neighbours would be quarantined with it. So waiting is no
        start, and costs no attempt whenever the worker dies.
        """
        while not self.last_start.acquire(timeout=1.0):
            self.stopping.check()
        try:
            return self._run_started(job, self.books.start(job))
        finally:
            self.last_start.release()

    def _run_started(self, job: RenderJob, start: Start) -> Ending:
        if start.decision == "quarantined":
            return self.books.finish(self._failed(job, start, _quarantined(start.attempts)))
        if start.decision == "cancel":
            return self.books.finish(self._cancelled(job, start, JobCancelled("cancelled by the user")))
        if start.decision != "run":
            log.info("not_rendered", decision=start.decision)
            return Ending.ENDED
        return self._render_or_explain(job, start)

    def _render_or_explain(self, job: RenderJob, start: Start) -> Ending:
        """The one place where any error becomes a result (or a second chance)."""
        try:
            result = self._finished_before(job, start) or self._render(job, start)
        except Requeued as error:
            return self.books.nack(job, error, refund=error.blameless)
        except TransientError as error:
            if start.attempts < self.settings.max_attempts:
                log.warning("tried_again_later", error=str(error), kind=error.kind, attempts=start.attempts)
                return self.books.nack(job, error, refund=False)
            result = self._failed(job, start, error)
        except JobCancelled as error:
            result = self._cancelled(job, start, error)
        except RenderError as error:
            result = self._failed(job, start, error)
        except Exception as error:  # (STYLE: the broad except that turns anything into a result)
            log.exception("job_broke")
            result = self._failed(job, start, error)
        return self.books.finish(result)

    # -- the stages -----------------------------------------------------------------------------------------------

    def _render(self, job: RenderJob, start: Start) -> RenderResult:
        stages = _Stages(self.metrics)
        writer = self._writer(job)  # first: what may not be written need not be rendered
        with self.renderer.loop.expecting():
            with stages.measure("fetch"):
                picture = self._fetch(job)
            with stages.measure("prepare"):
                self._check(job)
                prepared = self.renderer.prepare(job, picture)
            self._check(job)
            futures = [self.renderer.loop.submit(request) for request in prepared.requests]
        with stages.measure("render"):
            samples = self._drawn(job, futures)
        with stages.measure("encode"):
            pictures = [self.renderer.encode(job, prepared, k, sample) for k, sample in enumerate(samples)]
        with stages.measure("upload"):
            for k, png in enumerate(pictures):
                self._write(writer, job.sample_uri(k), png, PNG)
            self._write(writer, job.canny_uri, prepared.canny_png, PNG)
        result = self._result(
            job,
            start,
            state="done",
            samples=tuple(job.sample_uri(k) for k in range(len(pictures))),
            canny=job.canny_uri,
            width=prepared.width,
            height=prepared.height,
            warnings=prepared.warnings,
            seconds=stages.seconds,
        )
        # Last: whoever sees it sees the whole result.
        self._write(writer, job.sidecar_uri, _sidecar(job, result), JSON)
        return result

    def _fetch(self, job: RenderJob) -> bytes:
        settings = self.settings
        limits = FetchLimits(
            settings.fetch_timeout_seconds, settings.fetch_max_bytes, settings.allow_hosts, policy=self.places
        )
        return self._retrying(lambda: self.read(job.parameters.image, limits))

    def _drawn(self, job: RenderJob, futures: Sequence[Future[np.ndarray]]) -> list[np.ndarray]:
        """uint8 pictures [H, W, 3], one a sample. An error in one ends all: a job is done whole or not at all."""
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        if waiting:
            self.renderer.loop.cancel(job.id)
        for future in done:
            future.result()  # the first error, ahead of the Cancelled that it caused in the others
        return [future.result() for future in futures]

    def _writer(self, job: RenderJob) -> Store:
        """For the job's folder. Its message may come from a stranger, and so may name any folder or bucket."""
        self.places.check_output(job.folder)
        return self.writer(job.folder)

    def _write(self, writer: Store, uri: str, data: bytes, content_type: str) -> None:
        self._retrying(lambda: writer.write(uri, data, content_type))

    def _finished_before(self, job: RenderJob, start: Start) -> RenderResult | None:
        """The result in storage of an attempt that died between its sidecar and the ledger, or lost its ledger."""
        if start.attempts == 1 and not start.adopted:
            return None
        writer = self._writer(job)
        if not self._retrying(lambda: writer.exists(job.sidecar_uri)):
            return None
        try:
            found = RenderResult.model_validate_json(self._retrying(lambda: writer.read(job.sidecar_uri)))
        except (ValueError, PermanentError) as error:
            log.warning("sidecar_ignored", error=str(error))
            return None
        return found if (found.id, found.state) == (job.id, "done") else None

    def _check(self, job: RenderJob) -> None:
        self.held.check(job.id)
        self.stopping.check()

    # -- the record ----------------------------------------------------------------------------------------------------

    def _failed(self, job: RenderJob, start: Start, error: Exception) -> RenderResult:
        kind = error.kind if isinstance(error, RenderError) else "unexpected"
        text = str(error) if isinstance(error, RenderError) else f"unexpected {type(error).__name__}: {error}"
        return self._result(job, start, state="failed", error_kind=kind, error=without_secrets(text))

    def _cancelled(self, job: RenderJob, start: Start, error: JobCancelled) -> RenderResult:
        return self._result(job, start, state="cancelled", error_kind=error.kind, error=str(error))

    def _result(self, job: RenderJob, start: Start, **outcome: Any) -> RenderResult:
        return RenderResult(
            id=job.id,
            batch=job.batch,
            row=job.row,
            image=redacted(job.parameters.image),
            prompt=job.parameters.prompt,
            seed=job.seed,
            attempts=start.attempts,
            worker=self.books.worker,
            engine_set=self.renderer.digest,
            finished_at=time.time(),
            **outcome,
        )

    # -- trying again ---------------------------------------------------------------------------------------------

    def _retrying(self, call: Callable[[], Value]) -> Value:
        """Backoff in this thread; a worker that has to stop does not wait it out."""
        settings = self.settings
        return with_backoff(
            call, attempts=settings.retry_attempts, base_seconds=settings.retry_base_seconds, sleep=self.stopping.pause
        )


def _sidecar(job: RenderJob, result: RenderResult) -> bytes:
    parameters = job.parameters.model_copy(update={"image": result.image})  # redacted: a signed URL is a secret
    return result.model_copy(update={"parameters": parameters}).model_dump_json(indent=2, exclude_none=True).encode()


@dataclass
class _Stages:
    """Seconds by stage of one job."""

    metrics: JobMetrics
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - began, 4)
        self.metrics.stage_seconds.labels(stage=stage).observe(self.seconds[stage])


def _quarantined(attempts: int) -> Quarantined:
    return Quarantined(
        f"quarantined: {attempts} workers started this job and none ended it; it may have taken them down "
        "(producer retry starts it again)"
    )
