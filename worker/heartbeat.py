"""Heartbeat: tells the ledger that this worker lives and which jobs it has, and learns what the ledger knows of them.

That is: which jobs were cancelled, and whether another worker finished one that this one had refused. Each beat also
queues the delayed jobs whose time has come, or that wait for this worker's engine sets, and compares this machine's
clock with that of Redis.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import redis
import structlog

from jobs.errors import LedgerUnavailable
from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from worker.fitness import Fitness, is_far
from worker.in_flight import InFlightJobs
from worker.ledger_client import FED_AT_ONCE
from worker.observe.metrics import JobMetrics

log = structlog.get_logger(__name__)

BEATS = (0.8, 1.0)  # of RENDER_HEARTBEAT_SECONDS, from one beat to the next
STOP_SECONDS = 5.0  # for a beat that is under way


class Heartbeat:
    """A thread that beats every RENDER_HEARTBEAT_SECONDS, or a little sooner."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        *,
        worker: str,
        in_flight: InFlightJobs,
        fitness: Fitness,
        metrics: JobMetrics,
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._worker = worker
        self._in_flight = in_flight
        self._fitness = fitness
        self._metrics = metrics
        self._refuted_at: float | None = None  # by Redis' clock: the latest refutation, or the start
        self._cancel: Callable[[str], None] = lambda _: None
        self._holds: Callable[[RenderJob], bool] = lambda _: False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self, cancel: Callable[[str], None], *, holds: Callable[[RenderJob], bool] = lambda _: False) -> None:
        """Begin. `cancel(job_id)` ends a job's samples in the loop; it is called from the heartbeat's thread.

        `holds(job)`: whether this worker has the job's engine set, and takes jobs.
        """
        self._cancel = cancel
        self._holds = holds
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
            # Out of step with the workers that wait for messages: the one that waits longest gets the next message,
            # which would always be the same one, perhaps one that only gives the job back.
            if self._stop.wait(self._settings.heartbeat_seconds * random.uniform(*BEATS)):
                return

    def _beat(self) -> None:
        try:
            in_flight, facts = self._in_flight.ids(), self._fitness.facts
            self._ledger.beat(
                self._worker, in_flight=in_flight, lease_seconds=self._settings.lease_seconds, facts=facts
            )
            for batch in self._in_flight.batches():
                # Repeated at every beat: a job that was being fetched at the last one may be in the loop now.
                for job_id in self._in_flight.cancel(batch, self._ledger.cancels(batch)):
                    self._cancel(job_id)
            self._feed_delayed(len(in_flight))
            self._compare_clock()
            self._ask_for_refutations()
        except (LedgerUnavailable, redis.RedisError) as error:
            self._metrics.heartbeat_failures.inc()
            log.warning("heartbeat_failed", error=str(error))
        except Exception:  # without heartbeats, its jobs would be rendered a second time
            self._metrics.heartbeat_failures.inc()
            log.exception("heartbeat_broke", consequence="the next one follows")

    def _feed_delayed(self, in_flight: int) -> None:
        places = self._places(in_flight)
        self._ledger.feed_delayed(limit=FED_AT_ONCE, places=places, holds=self._holds, names=self._names())

    def _names(self) -> list[str]:
        """What refusals of this worker are noted by."""
        return [name for name in (self._fitness.facts.settings, self._worker) if name]

    def _places(self, in_flight: int) -> int:
        """For how many jobs that want an engine set this worker has a place; twice, as others take some of them."""
        return 0 if self._fitness.paused else 2 * max(0, self._settings.jobs_in_flight - in_flight)

    def _compare_clock(self) -> None:
        before = time.time()
        there = self._ledger.server_time()
        ahead = (before + time.time()) / 2 - there
        self._fitness.compare_clock(ahead, is_redis=is_far(ahead) and self._others_agree(ahead, there))
        if self._refuted_at is None:
            self._refuted_at = there  # what happened before this process began says nothing of it

    def _others_agree(self, ahead: float, there: float) -> bool:
        """Whether most live workers differ from Redis' clock as this one does, so that it is Redis' that is wrong."""
        others = [beat.at - there for name, beat in self._ledger.workers().items() if name != self._worker]
        agreeing = 1 + sum(not is_far(other - ahead) for other in others)
        return agreeing > (1 + len(others)) / 2

    def _ask_for_refutations(self) -> None:
        if self._refuted_at is None:
            return
        refutation = self._ledger.refuted(*self._names(), since=self._refuted_at)
        if refutation is not None:
            self._refuted_at = refutation.at
            self._fitness.refute(refutation)
