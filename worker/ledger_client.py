"""LedgerClient: what this process tells the ledger about its jobs, repeated until Redis answers or the worker stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import redis
import structlog

from jobs.errors import LedgerUnavailable, RenderError
from jobs.job import RenderJob, RenderResult
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Refusal, Refused, Start, WorkerFacts
from worker.observe.metrics import JobMetrics
from worker.outcome import Ending, Outcome, ending
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

PAUSE_SECONDS = 2.0
FED_AT_ONCE = 200  # delayed jobs: a beat, or a job that is given back, must not be late because thousands are due


@dataclass(frozen=True)
class LedgerClient:
    """Called by many threads at once. Raises Requeued if the worker had to stop before Redis answered.

    Giving up earlier would do harm: a job left `running` under a live worker that has forgotten it would be stuck,
    since no reconciler takes a job from a live worker. And waiting costs nothing: without Redis there is no other work.
    """

    ledger: Ledger
    worker: str  # this process's name in the ledger, never used by another
    shutdown: Shutdown
    metrics: JobMetrics

    def start(self, job: RenderJob, *, unless_last: bool = False) -> Start:
        """The ledger's decision. Only one thread of this process may ask for a job at a time (InFlightJobs)."""

        def ask() -> Start:
            return self._insist(lambda: self.ledger.start(job, worker=self.worker, unless_last=unless_last))

        start = ask()
        if start.decision == "in_flight" and self._is_ours(job):
            # The answer to an earlier start was lost. Take that start back: it was not an attempt.
            self._insist(lambda: self.ledger.nack(job, worker=self.worker))
            start = ask()
        log.info("job_started", decision=start.decision, attempts=start.attempts)
        return start

    def give_back(self, job: RenderJob, error: RenderError, *, refund: bool) -> Outcome:
        """Queue the job again, at once and with a new message.

        Its old message may not be this process's any more: where a job takes longer than the visibility timeout, kombu
        delivers the message to another worker, which acknowledges it, since the job is in flight here. A reject would
        then put nothing back.
        """
        self.defer(job, seconds=0.0, refund=refund)
        try:
            self.ledger.feed_delayed(limit=FED_AT_ONCE)
        except (LedgerUnavailable, redis.RedisError) as failure:
            log.warning("not_fed", error=str(failure), consequence="the next heartbeat of any worker sends the message")
        return self.count("requeued", error.kind, Outcome.DELAYED)

    def refuse(
        self, job: RenderJob, refusal: Refusal, *, facts: WorkerFacts, refund: bool, loud: bool = True
    ) -> Refused:
        """Note why this worker cannot render the job. If the answer is not final, the job waits for another one.

        Without `loud`, only a final answer is worth a line in the log.
        """
        refused = self._insist(lambda: self.ledger.refuse(job, refusal, facts=facts, refund=refund))
        if loud or refused.final:
            log.warning("job_refused", kind=refusal.kind, error=refusal.text, final=refused.final)
        self.metrics.refusals.labels(kind=refusal.kind).inc()
        return refused

    def defer(self, job: RenderJob, *, seconds: float, refund: bool, orphans: bool = False) -> bool:
        """Queue the job again once `seconds` have passed; False if it is not this worker's to give back."""
        return self._insist(
            lambda: self.ledger.defer(job, worker=self.worker, seconds=seconds, refund=refund, orphans=orphans)
        )

    def finish(self, result: RenderResult) -> Outcome:
        """Record how the job ended. A failure that the ledger does not take is neither counted nor logged as one."""
        first = self._insist(lambda: self.ledger.finish(result))
        if result.state == "done":
            log.info("job_done", attempts=result.attempts, seconds=result.seconds, first=first)
        elif not first:  # it ended before, another live worker renders it, or its batch was deleted
            log.info("end_not_recorded", state=result.state, kind=result.error_kind, error=result.error)
            return Outcome.ENDED
        else:
            log.warning(f"job_{result.state}", kind=result.error_kind, error=result.error, first=first)
        return self.count(result.state, result.error_kind or "", Outcome.ENDED)

    def count(self, state: str, kind: str, outcome: Outcome) -> Outcome:
        """Count an outcome, note it for monitors, and pass it on."""
        self.metrics.jobs.labels(state=state, kind=kind).inc()
        ending.set(Ending(state, kind))
        return outcome

    def _is_ours(self, job: RenderJob) -> bool:
        line = self._insist(lambda: self.ledger.state(job.batch, job.id))
        return line is not None and line.worker == self.worker

    def _insist(self, call: Callable[[], Value]) -> Value:
        while True:
            try:
                return call()
            except (LedgerUnavailable, redis.RedisError) as error:
                self.metrics.ledger_retries.inc()
                log.warning("ledger_unavailable", error=str(error))
                self.shutdown.pause(PAUSE_SECONDS)
