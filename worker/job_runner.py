"""JobRunner: one job from its message to its record, in a thread of GpuPool's.

    decide     the ledger says whether this process renders the job
    render     fetch, prepare, submit to the loop, encode, upload; the sidecar last
    record     the ledger gets the result, or the job is queued again, now or later

What can happen to a job, and what becomes of its message:

    rendered, failed for good, cancelled, quarantined    the ledger gets the result; acknowledged
    finished before, or in flight in another worker      acknowledged
    failed here, and in flight in another live worker    left to that one; acknowledged
    the worker stops                                     queued in the ledger, with a new message; acknowledged
    the worker stops while Redis is away                 requeued; its lease in the ledger ends
    the fault is this worker's, a host's or storage's    queued in the ledger for later, which sends a new message;
                                                         acknowledged
    a message of a newer version                         requeued, for a newer worker
    a message that holds no job                          logged; acknowledged
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar

import structlog

from jobs.errors import (
    Cancelled,
    EngineSetNotHeld,
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
from jobs.storage.store import Store, read_bytes, store_for
from worker.fitness import Fitness
from worker.in_flight import InFlightJobs
from worker.ledger_client import LedgerClient
from worker.observe.metrics import JobMetrics, StageTimer
from worker.outcome import Outcome
from worker.output_probe import Place
from worker.pictures import Pictures
from worker.refusals import Refusals, RefusedBefore
from worker.renderer import Renderer
from worker.result import ResultWriter, described, sidecar
from worker.shutdown import Shutdown
from worker.sources import Sources
from worker.uploads import Uploads

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

PNG, JSON = "image/png", "application/json"
SAMPLE_TYPES = {"png": PNG, "jpeg": "image/jpeg", "webp": "image/webp"}
# Between taking a message of a newer version and putting it back: a queue full of them must not become a busy loop.
NEWER_MESSAGE_PAUSE_SECONDS = 5.0
PAUSED_SECONDS = 2.0  # until a job that came to a paused worker comes back
LAST_START_SECONDS = 5.0  # until a job comes back whose last start waits for that of another one
# Until a job comes back that waits for storage, and for a host (times its attempts so far): in first pauses between two
# tries (RENDER_RETRY_BASE_SECONDS), so 10 s and 5 s by default.
STORE_PAUSES, HOST_PAUSES = 20.0, 10.0
LONGEST_SECONDS = 900.0  # however much a host asks for


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
    fitness: Fitness = field(default_factory=Fitness)
    fetch_limits: FetchLimits = field(default_factory=FetchLimits)
    last_start: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        _ = self._sources, self._pictures, self._uploads, self._refusals  # made now, because threads share them

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
            while (other_delivery := self.in_flight.take(job)) is not None:
                log.info("delivered_twice")
                if (outcome := other_delivery.result()) is not Outcome.DELAYED:
                    return outcome
                # The other thread gave the job back, and this message may be the one that was sent for it since.
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
            if self.fitness.paused and self.ledger.defer(job, seconds=PAUSED_SECONDS, refund=True, orphans=True):
                return self.ledger.count("requeued", "paused", Outcome.DELAYED)
            with self._decide(job) as start:
                if start is None:
                    self.ledger.defer(job, seconds=LAST_START_SECONDS, refund=True)
                    return self.ledger.count("requeued", "last_start", Outcome.DELAYED)
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
    def _decide(self, job: RenderJob) -> Iterator[Start | None]:
        """Start the job in the ledger. A last allowed start runs alone, in the block; None while another job's runs.

        A job that kills its worker also kills the jobs beside it, and all of them come back together. If they also
        started for the last time together, its innocent neighbours would be quarantined with it. So one such job runs
        at a time in this process; the others go back without having started, which costs them no attempt if it dies.
        They do not wait here: such a job may hang for long, and there may be jobs that can be rendered beside it.
        """
        start = self.ledger.start(job, unless_last=True)
        if start.decision != "last":
            yield start
        elif self.last_start.acquire(blocking=False):
            try:
                yield self.ledger.start(job)
            finally:
                self.last_start.release()
        else:
            yield None

    # -- render ---------------------------------------------------------------------------------------------------

    def _render(self, job: RenderJob, start: Start) -> RenderResult:
        """The job's result, whose files are in storage. Raises whatever prevents it."""
        if start.decision == "quarantined":
            raise _quarantined(start.attempts)
        if start.decision == "cancel":
            raise Cancelled("cancelled by the user")
        self._refusals.check(job, start)
        store = self._store(job)  # first: what may not be written need not be rendered
        return self._earlier_result(job, start, store) or self._draw_and_upload(job, start, store)

    def _store(self, job: RenderJob) -> Store:
        """For the job's folder. A message may come from a stranger, who may name any folder or bucket."""
        self.renderer.for_job(job)
        self.access_policy.check_output(job.folder)
        return self.open_store(job.folder)

    def _earlier_result(self, job: RenderJob, start: Start, store: Store) -> RenderResult | None:
        """The result in storage of an attempt that died between its sidecar and the ledger, or that the ledger lost."""
        if start.attempts == 1 and not start.adopted:
            return None
        if not self._insist(job, lambda: store.exists(job.sidecar_uri)):
            return None  # or it is not known: keys that may not list cannot tell
        try:
            result = RenderResult.model_validate_json(self._insist(job, lambda: store.read(job.sidecar_uri)))
        except (ValueError, PermanentError) as error:
            log.warning("sidecar_ignored", error=str(error))
            return None
        return result if (result.id, result.state) == (job.id, "done") else None

    def _draw_and_upload(self, job: RenderJob, start: Start, store: Store) -> RenderResult:
        self._probe(job)
        timer = StageTimer(self.metrics)
        # From here on only the files are in memory, for as long as storage takes.
        prepared, pictures = self._pictures.draw(job, timer, check=partial(self._check, job))
        with timer.measure("upload"):
            for k, data in enumerate(pictures):
                self._uploads.write(job, store, job.sample_uri(k), data, SAMPLE_TYPES[job.parameters.format])
            self._uploads.write(job, store, job.canny_uri, prepared.canny_png, PNG)
        stored = sum(map(len, pictures)) + len(prepared.canny_png)
        self.metrics.image_bytes.labels(direction="out").inc(stored)
        result = self._results(job).done(job, start, prepared, samples=len(pictures), seconds=timer.seconds)
        # Last: if the sidecar exists, the result is complete.
        self._uploads.write(job, store, job.sidecar_uri, sidecar(job, result), JSON)
        self._sources.wrote(job.folder)
        return result

    def _probe(self, job: RenderJob) -> None:
        """Write to the batch's output if this process has not yet, or if only a write tells whether storage is away."""
        probe, asks_storage = self.fitness.probe, self._sources.is_failing(job)
        if probe is None:
            return
        if asks_storage:
            probe.doubt(Place.of(job, self.access_policy))
        probe.once(job, insist=partial(self._insist, job), check=partial(self._check, job))
        if asks_storage:
            self._sources.wrote(job.folder)

    def _check(self, job: RenderJob) -> None:
        """Raise Cancelled or Requeued if the job should not go on."""
        self.in_flight.check(job.id)
        self.shutdown.check()

    def _insist(self, job: RenderJob, call: Callable[[], Value]) -> Value:
        """Wait while storage is away, before the job is rendered; not for long, as another worker may reach it."""
        return self._uploads.insist(call, job, rendered=False)

    # -- record ---------------------------------------------------------------------------------------------------

    def _record(self, job: RenderJob, start: Start, error: Exception) -> Outcome:
        """Record that the job ended; or give it back, if another attempt or another worker may do better."""
        if isinstance(error, Requeued):
            return self.ledger.give_back(job, error, refund=self._may_refund(start) and error.blameless)
        if not isinstance(error, RenderError):
            log.error("job_broke", exc_info=error)
        elif error.fault == "job":
            return self.ledger.finish(self._results(job).ended(job, start, error))
        if not isinstance(error, RefusedBefore):
            self.fitness.saw(error, job)
        may_try_again = isinstance(error, TransientError) and start.attempts < self.settings.max_attempts
        if isinstance(error, RenderError) and (is_free(error) or may_try_again):
            return self._put_off(job, start, error)
        refund = self._may_refund(start)
        failure = self._refusals.refuse(job, start, error, facts=self.fitness.facts, may_refund=refund)
        if failure is None:
            return self.ledger.count("requeued", described(error)[0], Outcome.DELAYED)
        return self.ledger.finish(self._results(job).failed(job, start, failure.kind, failure.text))

    def _put_off(self, job: RenderJob, start: Start, error: RenderError) -> Outcome:
        """The host or storage may answer later."""
        asked = (error.retry_after_seconds if isinstance(error, TransientError) else None) or 0.0
        pauses = STORE_PAUSES if error.fault == "store" else HOST_PAUSES * start.attempts
        seconds = min(max(pauses * self.settings.retry_base_seconds, asked), LONGEST_SECONDS)
        log.warning(
            "tried_again_later", error=str(error), kind=error.kind, attempts=start.attempts, seconds=round(seconds, 1)
        )
        self.ledger.defer(job, seconds=seconds, refund=self._may_refund(start) and is_free(error))
        return self.ledger.count("requeued", error.kind, Outcome.DELAYED)

    def _may_refund(self, start: Start) -> bool:
        """Whether an attempt that failed through no fault of the job may be taken back.

        Not where the ledger did not know the job, if there is another attempt: only the second one of a job that the
        ledger knows looks in storage, where the result may be.
        """
        return not start.adopted or self.settings.max_attempts == 1

    def _results(self, job: RenderJob) -> ResultWriter:
        """In the name of the set that draws the job; without one where this worker holds several, and not that one."""
        try:
            renderer = self.renderer.for_job(job)
        except EngineSetNotHeld:
            if len(self.renderer.sets) > 1:
                return ResultWriter(self.ledger.worker, engine_set=None)
            renderer = self.renderer
        return ResultWriter(
            self.ledger.worker,
            engine_set=renderer.digest,
            model_name=renderer.model_name,
            built_with=renderer.built_with,
        )

    @cached_property
    def _pictures(self) -> Pictures:
        return Pictures(self.renderer, self._sources)

    @cached_property
    def _sources(self) -> Sources:
        limits = replace(self.fetch_limits, policy=self.access_policy)
        return Sources(self.settings, read=self.read, limits=limits, shutdown=self.shutdown)

    @cached_property
    def _uploads(self) -> Uploads:
        base_seconds = self.settings.retry_base_seconds
        return Uploads(base_seconds, self.fitness, self.in_flight, self.shutdown, self.metrics)

    @cached_property
    def _refusals(self) -> Refusals:
        return Refusals(self.ledger, max_attempts=self.settings.max_attempts)


def is_free(error: RenderError) -> bool:
    """Whether the job's attempt does not count: storage is away or full, or a busy host serves other jobs first."""
    return error.fault == "store" or (isinstance(error, TransientError) and error.blameless)


def _quarantined(attempts: int) -> Quarantined:
    return Quarantined(
        f"quarantined: {attempts} workers started this job and none ended it; it may have taken them down "
        "(producer retry starts it again)"
    )
