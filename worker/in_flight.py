"""InFlightJobs: the jobs that are in this process, one thread each, identified by id."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import Future

from jobs.errors import Cancelled
from jobs.job import RenderJob
from worker.outcome import Outcome


class InFlightJobs:
    """Which jobs are in this process. Safe to use from many threads.

    A message can come twice: after a lost connection to Redis, kombu delivers messages again that the worker is still
    busy with. The second thread then waits for the first and shares its outcome. So there is still a message to put
    back where the first one is gone. Only DELAYED is not shared: the second message may be the job's new one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[str, Future[Outcome]] = {}
        self._jobs: dict[str, RenderJob] = {}
        self._cancelled: set[str] = set()

    def take(self, job: RenderJob) -> Future[Outcome] | None:
        """None: the caller has the job now, and must `release` it. A future: another thread has it; its outcome."""
        with self._lock:
            if job.id in self._outcomes:
                return self._outcomes[job.id]
            self._outcomes[job.id] = Future()
            self._jobs[job.id] = job
            return None

    def release(self, job_id: str, outcome: Outcome) -> None:
        """The job has left this process."""
        with self._lock:
            future = self._outcomes.pop(job_id)
            del self._jobs[job_id]
            self._cancelled.discard(job_id)
        future.set_result(outcome)

    def ids(self) -> list[str]:
        """The ids of the jobs in flight."""
        with self._lock:
            return list(self._jobs)

    def batches(self) -> set[str]:
        """The batches of the jobs in flight."""
        with self._lock:
            return {job.batch for job in self._jobs.values()}

    def cancel(self, batch: str, ids: Collection[str]) -> list[str]:
        """Mark jobs as cancelled by the user; returns those of them that are in flight."""
        with self._lock:
            cancelled = [id_ for id_ in ids if id_ in self._jobs and self._jobs[id_].batch == batch]
            self._cancelled.update(cancelled)
        return cancelled

    def check(self, job_id: str) -> None:
        """Raise Cancelled if the user has cancelled the job."""
        if job_id in self._cancelled:
            raise Cancelled("cancelled by the user")
