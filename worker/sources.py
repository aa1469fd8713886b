"""Sources: fetching a job's pictures. A few tries in place, then the job is put off and the thread is free for another.

A host that does not answer costs the job an attempt, as it may never answer. Storage that is away costs none where the
results go to the same kind of storage (s3:// or file://): it comes back, and all jobs wait alike. Other storage is a
host like any other. And where the same bucket or folder has answered others meanwhile, the file itself is at fault.
Results that were written to the same bucket or file system are such answers, too: the last job has no others.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from jobs.errors import RenderError, SourceUnavailable, TransientError
from jobs.job import RenderJob
from jobs.settings import Settings
from jobs.storage.limits import FetchLimits
from jobs.uri import path_of
from worker.shutdown import Shutdown

LONGEST_PAUSE_SECONDS = 20.0  # in place; if the host asks for more, the job is put off
REMEMBERED = 10_000

Read = Callable[[str, FetchLimits], bytes]


class Sources:
    """Called by the threads of jobs."""

    def __init__(self, settings: Settings, *, read: Read, limits: FetchLimits, shutdown: Shutdown) -> None:
        self._settings = settings
        self._limits = limits
        self._read = read
        self._shutdown = shutdown
        self._lock = threading.Lock()
        self._answered: OrderedDict[str, float] = OrderedDict()  # a bucket or folder, and when it last gave a file
        self._failing: OrderedDict[str, float] = OrderedDict()  # a job, and since when a file of it cannot be read

    def fetch(self, job: RenderJob, check: Callable[[], None], *, uri: str) -> bytes:
        """The bytes of one of the job's pictures. `check` raises if the job should not go on.

        Raises:
            SourceUnavailable: not now. Its fault is "store" only if the attempt should not count.
            PermanentError, Cancelled, Requeued: as their names say.
        """
        limits = replace(self._limits, check=check)
        for attempt in range(self._settings.retry_attempts):
            try:
                data = self._read(uri, limits)
            except TransientError as error:
                pause = self._pause(attempt, error)
                is_last = attempt + 1 == self._settings.retry_attempts
                waited = error.blameless and error.fault == "host"  # for its turn
                if is_last or waited or pause > LONGEST_PAUSE_SECONDS:
                    raise self._blamed(job, uri, error) from error
                self._shutdown.pause(pause)
                check()
            else:
                self._note(self._answered, _shelf(uri))
                return data
        raise AssertionError("the last try returns or raises")

    def is_failing(self, job: RenderJob) -> bool:
        """Whether a file of the job could not be read before, for a fault of storage."""
        with self._lock:
            return job.id in self._failing

    def wrote(self, folder: str) -> None:
        """A file was written just now, so the storage of this folder answers."""
        self._note(self._answered, _shelf(f"{folder}/"))
        if device := _device(f"{folder}/x"):
            self._note(self._answered, device)

    def _pause(self, attempt: int, error: TransientError) -> float:
        if error.retry_after_seconds is not None:
            return error.retry_after_seconds
        pause = self._settings.retry_base_seconds * 2.0**attempt * random.uniform(0.5, 1.5)
        return min(pause, LONGEST_PAUSE_SECONDS)

    def _blamed(self, job: RenderJob, uri: str, error: TransientError) -> TransientError:
        if error.fault != "store" or error.blameless:  # blameless: storage throttles; nothing is wrong with the file
            return error
        if uri.partition("://")[0] != job.output.partition("://")[0]:
            return SourceUnavailable(str(error), fault="host")
        places = (_shelf(uri), _device(uri))
        with self._lock:
            since = self._failing.get(job.id)
            answered = max(self._answered.get(place, 0.0) for place in places)
        if since is None:
            self._note(self._failing, job.id)
        return error if since is None or answered < since else SourceUnavailable(str(error), fault="host")

    def _note(self, times: OrderedDict[str, float], key: str) -> None:
        with self._lock:
            times[key] = time.monotonic()
            times.move_to_end(key)
            while len(times) > REMEMBERED:
                times.popitem(last=False)


def _shelf(uri: str) -> str:
    """What is away as a whole: a bucket, or a file's folder."""
    return "/".join(uri.split("/")[:3]) if uri.startswith("s3://") else uri.rpartition("/")[0]


def _device(uri: str) -> str:
    """The file system of a file's folder; nothing for other storage, or where it does not say."""
    if not uri.startswith("file://"):
        return ""
    try:
        return f"device {path_of(uri).parent.stat().st_dev}"
    except (OSError, ValueError, RenderError):
        return ""
