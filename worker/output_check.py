"""OutputCheck: when this worker cannot write its results, whether that is its own fault, and when it can again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from jobs.errors import OutputForbidden, OutputFull, RenderError
from jobs.job import RenderJob
from jobs.redaction import without_secrets
from jobs.storage.access_policy import AccessPolicy
from worker.output_probe import OutputProbe, Place, folder_problem

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 60.0  # between two checks while it fails
CHECKED_SECONDS = 2.0  # jobs that fail together share a check


@dataclass(frozen=True)
class Failing:
    """What is checked again: where, for how many bytes, and for which batch if it is not this worker's own output."""

    place: Place
    size: int = 0
    batch: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is below this worker's RENDER_OUTPUT_URI, where every job may have its results."""
        return self.batch is None


class OutputCheck:
    """Called by the threads of jobs (`saw`) and by one other (`at_start`, `again`)."""

    def __init__(
        self,
        probe: OutputProbe,
        *,
        policy: AccessPolicy,
        own: str | None = None,
        is_open: Callable[[str], bool] = lambda _: True,
        tell: Callable[[str | None], None],
    ) -> None:
        """`own` is the URI of RENDER_OUTPUT_URI, if it was set: it is checked at the start, before any job needs it.

        `is_open` says whether a batch has jobs that have not ended. `tell` is called with the reason when the check
        fails, and with None when it passes again.
        """
        self.probe = probe
        self._policy = policy
        self._own = own
        self._is_open = is_open
        self._tell = tell
        self._lock = threading.Lock()
        self._failing: Failing | None = None
        self._pause, self._due = FIRST_PAUSE_SECONDS, 0.0
        self._checked: tuple[Place | None, float] = (None, 0.0)

    def at_start(self) -> None:
        """Nothing is written into a folder yet: a worker that only starts leaves no trace there."""
        if self._own is None:
            return
        own = Place((self._own,))
        problem = folder_problem(self._own) if self._own.startswith("file://") else self.probe.problem(own)
        if problem is not None and problem.fault == "worker":
            self._fail(Failing(own), problem)

    def saw(self, error: RenderError, job: RenderJob) -> None:
        """A job met an error that is this worker's fault. Check whether other jobs would meet it too."""
        cannot_write = isinstance(error, OutputForbidden | OutputFull) and error.scope == "machine"
        if not (cannot_write or error.unfit):
            return
        place, is_own = Place.of(job, self._policy), self._is_own(job)
        if cannot_write:
            self.probe.doubt(place)
        if error.unfit or (cannot_write and is_own):
            size = error.needed_bytes if isinstance(error, OutputFull) else 0
            self._suspect(Failing(place, size, None if is_own else job.batch))

    def again(self) -> None:
        """Check again, if it failed and it is time."""
        failing = self._failing
        if failing is None or time.monotonic() < self._due:
            return
        problem = self.probe.problem(failing.place, size=failing.size)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        self._due = time.monotonic() + self._pause
        if problem is None or (failing.batch is not None and not self._is_open(failing.batch)):
            with self._lock:  # a job that fails meanwhile is heard after this, not lost in it
                self._failing, self._pause = None, FIRST_PAUSE_SECONDS
                self._checked = None, 0.0
                self._tell(None)

    def _suspect(self, failing: Failing) -> None:
        with self._lock:
            if self._failing is not None:
                if self._failing.place == failing.place and failing.size > self._failing.size:
                    # The smallest of the pictures that met the full disk may fit in again before the others do.
                    self._failing = replace(self._failing, size=failing.size)
                return
            place, at = self._checked
            if place == failing.place and time.monotonic() < at + CHECKED_SECONDS:
                return
            problem = self.probe.problem(failing.place, size=failing.size)
            self._checked = failing.place, time.monotonic()
            if problem is None or problem.fault != "worker":
                return
            if failing.is_own or (problem.unfit and not self._works_elsewhere(failing.place)):
                self._fail(failing, problem)

    def _works_elsewhere(self, place: Place) -> bool:
        """Whether other jobs can succeed here: a batch with a wrong output must not stop a worker that others need."""
        own = [Place((self._own,))] if self._own is not None and self._own not in place.folders else []
        return any(self.probe.problem(other) is None for other in own + self.probe.others(place))

    def _fail(self, failing: Failing, problem: RenderError) -> None:
        self._failing, self._due = failing, time.monotonic() + self._pause
        self._tell(without_secrets(str(problem)))

    def _is_own(self, job: RenderJob) -> bool:
        output = self._policy.output.rstrip("/")
        return bool(output) and job.folder.startswith(output + "/")
