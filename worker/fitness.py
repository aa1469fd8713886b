"""Fitness: whether this worker takes jobs. It stops by itself when its own check fails, and starts again by itself.

    output     results cannot be written here: the disk is full or read-only, the keys are missing or expired
    clock      this machine's clock differs from Redis's by more than five minutes
    refuted    another worker finished a job that this one had refused

The check of the output is the probe (output_probe.py), repeated every 5 to 60 s. A refutation cannot be checked: the
pause ends by itself, and each that follows soon is twice as long. A refused source never stops a worker by itself, nor
does storage that is away: then all workers wait alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from jobs.errors import OutputForbidden, OutputFull, RenderError
from jobs.job import RenderJob
from jobs.ledger.records import Refutation, WorkerFacts
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.store import read_keys_again
from worker.observe.logs import without_secrets
from worker.output_probe import OutputProbe, Place, folder_problem

log = structlog.get_logger(__name__)

Cause = Literal["output", "clock", "refuted"]

CLOCK_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 5.0
LONGEST_CHECK_SECONDS = 60.0  # between two checks of the output
LONGEST_REFUTED_SECONDS = 300.0
CHECKED_SECONDS = 2.0  # jobs that fail together share a check
TICK_SECONDS = 0.5
START_SECONDS = 10.0  # a store that is silent must not hold up a start


@dataclass(frozen=True)
class _Failing:
    """What is checked again: where, for how many bytes, and for which batch if it is not this worker's own output."""

    place: Place
    size: int = 0
    batch: str | None = None

    @property
    def is_own(self) -> bool:
        return self.batch is None

    @classmethod
    def of(cls, error: RenderError, job: RenderJob, policy: AccessPolicy, *, is_own: bool) -> _Failing:
        needed = error.needed_bytes if isinstance(error, OutputFull) else 0
        return cls(Place.of(job, policy), needed, None if is_own else job.batch)


class Fitness:
    """One a process. Safe to use from many threads. Without a probe it only pauses for the clock and refutations."""

    def __init__(
        self,
        probe: OutputProbe | None = None,
        *,
        policy: AccessPolicy | None = None,
        own: str | None = None,
        is_open: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`own` is the URI of RENDER_OUTPUT_URI, if it was set: it is checked at the start, before any job needs it.

        `is_open` says whether a batch has jobs that have not ended.
        """
        self.probe = probe
        self._policy = policy or AccessPolicy()
        self._own = own
        self._is_open = is_open
        self._facts = WorkerFacts()
        self._last_error: str | None = None
        self._reasons: dict[Cause, str] = {}
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.RLock()
        self._checking = threading.Lock()
        self._checked: dict[Place, float] = {}
        self._failing: _Failing | None = None
        self._check_due, self._check_pause = 0.0, FIRST_PAUSE_SECONDS
        self._refuted_until, self._refuted_pause = 0.0, 0.0
        self._stop, self._started = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="fitness", daemon=True)

    # -- what others ask ------------------------------------------------------------------------------------------

    @property
    def paused(self) -> str | None:
        """Why this worker takes no jobs; None while it takes them."""
        with self._lock:
            return "; ".join(self._reasons.values()) or None

    @property
    def causes(self) -> list[Cause]:
        """The causes of the pause."""
        with self._lock:
            return list(self._reasons)

    @property
    def facts(self) -> WorkerFacts:
        """What the worker says of itself in heartbeats and refusals."""
        return self._facts.model_copy(update={"paused": self.paused, "last_error": self._last_error})

    def describe(self, facts: WorkerFacts) -> None:
        """Say which worker this is, once its engines are loaded."""
        self._facts = facts

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a pause begins or ends, in whatever thread that happens. It must not block."""
        self._listeners.append(listener)

    # -- what happens to the worker -------------------------------------------------------------------------------

    def saw(self, error: RenderError, job: RenderJob) -> None:
        """A job met an error that was not its own fault. If the error speaks of this worker, check it."""
        self._last_error = f"{error.kind}: {without_secrets(str(error))}"
        if self.probe is None or error.fault != "worker":
            return
        if error.unfit and "s3://" in (job.output[:5], job.parameters.image[:5]):
            read_keys_again()
        if isinstance(error, OutputForbidden | OutputFull) and error.scope == "machine":
            self.probe.doubt(Place.of(job, self._policy))
            suspicious = error.unfit or self._is_own(job)
        else:
            suspicious = error.unfit
        if suspicious:
            self._suspect(_Failing.of(error, job, self._policy, is_own=self._is_own(job)))

    def done(self) -> None:
        """A job was rendered and uploaded."""
        if "refuted" not in self.causes and time.monotonic() > self._refuted_until + self._refuted_pause:
            self._refuted_pause = 0.0

    def compare_clock(self, seconds_ahead: float) -> None:
        """How far this machine's clock is ahead of Redis's."""
        if abs(seconds_ahead) <= CLOCK_SECONDS:
            self._resume("clock")
            return
        direction = "ahead of" if seconds_ahead > 0 else "behind"
        self._pause("clock", f"this machine's clock is {abs(seconds_ahead):.0f} s {direction} that of Redis; set it")

    def refute(self, refutation: Refutation) -> None:
        """Another worker finished a job that this one had refused."""
        with self._lock:
            self._refuted_pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._refuted_pause), LONGEST_REFUTED_SECONDS)
            self._refuted_until = time.monotonic() + self._refuted_pause
        row = "" if refutation.row is None else f", row {refutation.row}"
        self._pause(
            "refuted",
            f"{refutation.by_worker} finished a job that this worker had refused (batch {refutation.batch}{row}: "
            f"{refutation.text})",
        )

    # -- the thread that checks again -----------------------------------------------------------------------------

    def start(self) -> None:
        """Check once, and start the thread that checks again while the worker is paused."""
        self._thread.start()
        self._started.wait(START_SECONDS)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(TICK_SECONDS + 1.0)

    def tick(self) -> None:
        """End a pause that is over, and check the output again if it is time."""
        now = time.monotonic()
        if "refuted" in self.causes and now >= self._refuted_until:
            self._resume("refuted")
        if "output" in self.causes and now >= self._check_due:
            self._check_again()

    def _run(self) -> None:
        self._check_own()
        self._started.set()
        while not self._stop.wait(TICK_SECONDS):
            self.tick()

    def _check_own(self) -> None:
        """Before the first job. Nothing is written into a folder yet: a worker that only starts leaves no trace."""
        if self.probe is None or self._own is None:
            return
        is_folder = self._own.startswith("file://")
        own = Place((self._own,))
        problem = folder_problem(self._own) if is_folder else self.probe.problem(own)
        if problem is not None and problem.fault == "worker":
            self._fails(_Failing(own), problem)

    def _check_again(self) -> None:
        assert self.probe is not None
        assert self._failing is not None
        self._check_pause = min(2 * self._check_pause, LONGEST_CHECK_SECONDS)
        if self._failing.place.folders[0].startswith("s3://"):
            read_keys_again()
        problem = self.probe.problem(self._failing.place, size=self._failing.size)
        self._check_due = time.monotonic() + self._check_pause
        batch = self._failing.batch
        if problem is None or (batch is not None and not self._is_open(batch)):
            self._failing, self._check_pause = None, FIRST_PAUSE_SECONDS
            self._resume("output")

    def _suspect(self, failing: _Failing) -> None:
        """Check a place where a job could not write."""
        assert self.probe is not None
        place = failing.place
        with self._checking:  # the threads of jobs that fail together
            if "output" in self.causes or time.monotonic() < self._checked.get(place, 0.0) + CHECKED_SECONDS:
                return
            problem = self.probe.problem(place, size=failing.size)
            if problem is not None and problem.fault == "worker" and (failing.is_own or self._is_unfit(problem, place)):
                self._fails(failing, problem)
            self._checked = {place: time.monotonic()}

    def _is_unfit(self, problem: RenderError, place: Place) -> bool:
        """Whether no job can succeed here: a batch with a wrong output must not stop a worker that others need."""
        assert self.probe is not None
        own = [Place((self._own,))] if self._own is not None and self._own not in place.folders else []
        return problem.unfit and not any(self.probe.problem(other) is None for other in own + self.probe.others(place))

    def _fails(self, failing: _Failing, problem: RenderError) -> None:
        self._failing, self._check_due = failing, time.monotonic() + self._check_pause
        self._pause("output", without_secrets(str(problem)))

    def _is_own(self, job: RenderJob) -> bool:
        output = self._policy.output.rstrip("/")
        return bool(output) and job.folder.startswith(output + "/")

    # -- pausing --------------------------------------------------------------------------------------------------

    def _pause(self, cause: Cause, reason: str) -> None:
        with self._lock:
            began = cause not in self._reasons
            self._reasons[cause] = reason
        if began:
            log.warning("worker_paused", cause=cause, reason=reason, consequence="it takes no jobs until this has passed")
            self._tell()

    def _resume(self, cause: Cause) -> None:
        with self._lock:
            ended = self._reasons.pop(cause, None)
        if ended is not None:
            log.info("worker_resumed", cause=cause, paused=self.paused)
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
