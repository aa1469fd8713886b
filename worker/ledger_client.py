"""LedgerClient: this process's moves in the ledger, each tried until it is made or the worker has to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import redis
import structlog

from jobs.errors import LedgerUnavailable, RenderError
from jobs.job import RenderJob, RenderResult
from jobs.ledger.ledger import Ledger, Start
from worker.in_flight import Ending
from worker.observe.metrics import JobMetrics
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class LedgerClient:
    """Called by many threads at once. Raises Requeued where the worker had to stop before Redis answered.

    A job that is left `running` under a live worker which has forgotten it would be nobody's: no reconciler takes it
    away while the worker lives. And nothing is lost by waiting: without Redis there is no other work either.
    """

    ledger: Ledger
    worker: str  # this process's name in the ledger, never used by another
    stopping: Shutdown
    metrics: JobMetrics

    def start(self, job: RenderJob, *, unless_last: bool = False) -> Start:
        """The ledger's decision. Only one thread of this process may ask for a job at a time (InFlightJobs)."""

        def ask() -> Start:
            return self._insist(lambda: self.ledger.start(job, worker=self.worker, unless_last=unless_last))

        start = ask()
        if start.decision == "held" and self._is_ours(job):
            # A start whose answer was lost: take it back, it was no attempt.
            self._insist(lambda: self.ledger.nack(job, worker=self.worker))
            start = ask()
        log.info("job_started", decision=start.decision, attempts=start.attempts)
        return start

    def nack(self, job: RenderJob, error: RenderError, *, refund: bool) -> Ending:
        """Queue the job again. Before its message goes back: whoever gets that must find the job queued."""
        self._insist(lambda: self.ledger.nack(job, worker=self.worker, refund=refund))
        return self.count("handed_back", error.kind, Ending.HANDED_BACK)

    def finish(self, result: RenderResult) -> Ending:
        """Record how the job ended."""
        first = self._insist(lambda: self.ledger.finish(result))
        if result.state == "done":
            log.info("job_done", attempts=result.attempts, seconds=result.seconds, first=first)
        else:
            log.warning(f"job_{result.state}", kind=result.error_kind, error=result.error, first=first)
        return self.count(result.state, result.error_kind or "", Ending.ENDED)

    def count(self, state: str, kind: str, ending: Ending) -> Ending:
        """Count an ending, and pass it on."""
        self.metrics.jobs.labels(state=state, kind=kind).inc()
        return ending

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
                self.stopping.pause(PAUSE_SECONDS)
