"""Heartbeat: tells the ledger that this worker lives and which jobs it has, and learns which of them are cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis
import structlog

from jobs.errors import LedgerUnavailable
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from worker.in_flight import InFlightJobs
from worker.observe.metrics import JobMetrics

log = structlog.get_logger(__name__)

STOP_SECONDS = 5.0  # for a beat that is under way


class Heartbeat:
    """A thread that beats every RENDER_HEARTBEAT_SECONDS."""

    def __init__(
        self, ledger: Ledger, settings: Settings, *, worker: str, in_flight: InFlightJobs, metrics: JobMetrics
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._worker = worker
        self._in_flight = in_flight
        self._metrics = metrics
        self._cancel: Callable[[str], None] = lambda _: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self, cancel: Callable[[str], None]) -> None:
        """Begin. `cancel(job_id)` ends a job's samples in the loop; it is called from the heartbeat's thread."""
        self._cancel = cancel
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and retire from the ledger: jobs that this worker still has are free at once."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():  # inside a beat, which would bring the worker back after its retirement
            log.warning("not_retired", error="the last beat has not returned", consequence="its lease ends by itself")
            return
        try:
            self._ledger.retire(self._worker)
        except (LedgerUnavailable, redis.RedisError) as error:
            log.warning("not_retired", error=str(error), consequence="its lease ends by itself")

    def _run(self) -> None:
        while True:
            self._beat()
            if self._stop.wait(self._settings.heartbeat_seconds):
                return

    def _beat(self) -> None:
        try:
            lease_seconds = self._settings.lease_seconds
            self._ledger.beat(self._worker, in_flight=self._in_flight.ids(), lease_seconds=lease_seconds)
            for batch in self._in_flight.batches():
                # Repeated at every beat: a job that was being fetched at the last one may be in the loop now.
                for job_id in self._in_flight.cancel(batch, self._ledger.cancels(batch)):
                    self._cancel(job_id)
        except (LedgerUnavailable, redis.RedisError) as error:
            self._metrics.heartbeat_failures.inc()
            log.warning("heartbeat_failed", error=str(error))
