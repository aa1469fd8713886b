"""The jobs that this process holds: one thread each, told apart by id."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import Future
from enum import Enum

from jobs.errors import Cancelled
from jobs.job import RenderJob


class Ending(Enum):
    """How this process's turn with a message ended, and so what becomes of the message."""

    ENDED = "ended"  # the job is in a terminal state, or another worker holds it: acknowledge
    HANDED_BACK = "handed_back"  # the job is queued again: put the message back
    INVALID = "invalid"  # no job: acknowledge, or it would come back for ever


class InFlightJobs:
    """Which jobs are in this process. Safe from many threads.

    A message can come twice: after a lost connection to Redis, kombu delivers again what the worker is still busy with.
    The second thread then waits for the first and shares its ending, so that there is a message to put back where the
    first one's is gone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._endings: dict[str, Future[Ending]] = {}
        self._jobs: dict[str, RenderJob] = {}
        self._cancelled: set[str] = set()

    def take(self, job: RenderJob) -> Future[Ending] | None:
        """None: the job is yours, and you must `release` it. A future: another thread has it, and ends like this."""
        with self._lock:
            if job.id in self._endings:
                return self._endings[job.id]
            self._endings[job.id] = Future()
            self._jobs[job.id] = job
            return None

    def release(self, job_id: str, ending: Ending) -> None:
        """The job has left this process."""
        with self._lock:
            future = self._endings.pop(job_id)
            del self._jobs[job_id]
            self._cancelled.discard(job_id)
        future.set_result(ending)

    def ids(self) -> list[str]:
        """Ids of the jobs held."""
        with self._lock:
            return list(self._jobs)

    def batches(self) -> set[str]:
        """The batches that the jobs held belong to."""
        with self._lock:
            return {job.batch for job in self._jobs.values()}

    def cancel(self, batch: str, ids: Collection[str]) -> list[str]:
        """Mark jobs as cancelled by the user; returns those of them that are held."""
        with self._lock:
            found = [id_ for id_ in ids if id_ in self._jobs and self._jobs[id_].batch == batch]
            self._cancelled.update(found)
        return found

    def check(self, job_id: str) -> None:
        """Raises Cancelled where the user has cancelled the job."""
        if job_id in self._cancelled:
            raise Cancelled("cancelled by the user")
