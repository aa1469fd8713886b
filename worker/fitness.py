"""Fitness: whether this worker takes jobs. It stops by itself when its own check fails, and starts again by itself.

    output     results cannot be written here: the disk is full or read-only, the keys are missing or expired
    clock      this machine's clock differs from Redis's, and from those of most workers, by more than five minutes
    refuted    another worker finished a job that this one had refused

The check of the output is in output_check.py. A refutation cannot be checked again: its pause ends by itself, and each
that follows soon is twice as long. Jobs that it refused before its last pause ended no longer count. A source that is
refused never stops a worker by itself, nor does storage that is away: then all workers wait alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, get_args

import structlog

from jobs.errors import RenderError
from jobs.job import RenderJob
from jobs.ledger.records import Refutation, WorkerFacts
from jobs.storage.access_policy import AccessPolicy
from worker.output_check import OutputCheck
from worker.output_probe import OutputProbe
from worker.result import described

log = structlog.get_logger(__name__)

Cause = Literal["output", "clock", "refuted"]

CLOCK_SECONDS = 300.0
FIRST_REFUTED_SECONDS, LONGEST_REFUTED_SECONDS = 5.0, 300.0
SOON_SECONDS = 120.0  # after a pause: a job that is refused again needs some time until another worker has rendered it
TICK_SECONDS = 0.5
START_SECONDS = 10.0  # a store that is silent must not hold up a start for longer


class Fitness:
    """One a process. Safe to use from many threads. Without a probe it only pauses for the clock and refutations."""

    CAUSES: ClassVar[tuple[Cause, ...]] = get_args(Cause)

    def __init__(
        self,
        probe: OutputProbe | None = None,
        *,
        policy: AccessPolicy | None = None,
        own: str | None = None,
        is_open: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """The arguments are those of OutputCheck."""
        self.probe = probe
        self._output: OutputCheck | None = None
        if probe is not None:
            policy = policy or AccessPolicy()
            self._output = OutputCheck(probe, policy=policy, own=own, is_open=is_open, tell=self._tell_output)
        self._facts = WorkerFacts()
        self._last_error: str | None = None
        self._reasons: dict[Cause, str] = {}
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._refuted_until, self._refuted_seconds = 0.0, 0.0
        self._seconds_ahead = 0.0  # of Redis' clock
        self._redis_clock_told = False
        self._resumed_at = 0.0  # by Redis' clock
        self._stop, self._started = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="fitness", daemon=True)

    # -- what others ask ------------------------------------------------------------------------------------------

    @property
    def paused(self) -> str | None:
        """Why this worker takes no jobs; None while it takes them."""
        with self._lock:
            return "; ".join(self._reasons.values()) or None

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The causes of the pause."""
        with self._lock:
            return tuple(self._reasons)

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

    def saw(self, error: Exception, job: RenderJob) -> None:
        """A job met an error that was not its own fault. If the error speaks of this worker, check it."""
        self._last_error = ": ".join(described(error))
        if self._output is not None and isinstance(error, RenderError) and error.fault == "worker":
            self._output.saw(error, job)

    def compare_clock(self, seconds_ahead: float, *, is_redis: bool = False) -> None:
        """How far this machine's clock is ahead of Redis's; `is_redis` where it is rather Redis's that is wrong."""
        self._seconds_ahead = seconds_ahead
        direction = "ahead of" if seconds_ahead > 0 else "behind"
        differs = f"this machine's clock is {abs(seconds_ahead):.0f} s {direction} that of Redis"
        if not is_far(seconds_ahead):
            self._redis_clock_told = False
            self._resume("clock")
        elif not is_redis:
            self._pause("clock", f"{differs}; set it")
        else:
            self._resume("clock")
            if not self._redis_clock_told:
                log.warning("redis_clock_differs", error=f"{differs}, as most workers' clocks are; set that of Redis")
            self._redis_clock_told = True

    def refute(self, refutation: Refutation) -> None:
        """Another worker finished a job that this one had refused. Refusals before it last resumed do not count."""
        now = time.monotonic()
        with self._lock:
            if refutation.refused_at is not None and refutation.refused_at < self._resumed_at:
                return
            is_soon = now < self._refuted_until + max(self._refuted_seconds, SOON_SECONDS)
            longer = 2 * self._refuted_seconds if is_soon else FIRST_REFUTED_SECONDS
            self._refuted_seconds = min(longer, LONGEST_REFUTED_SECONDS)
            self._refuted_until = now + self._refuted_seconds
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

    def _run(self) -> None:
        with _surviving():
            if self._output is not None:
                self._output.at_start()
        self._started.set()
        while not self._stop.wait(TICK_SECONDS):
            with _surviving():
                if "refuted" in self.causes and time.monotonic() >= self._refuted_until:
                    self._resume("refuted")
                if self._output is not None:
                    self._output.again()

    # -- pausing --------------------------------------------------------------------------------------------------

    def _tell_output(self, reason: str | None) -> None:
        if reason is None:
            self._resume("output")
        else:
            self._pause("output", reason)

    def _pause(self, cause: Cause, reason: str) -> None:
        with self._lock:
            began = cause not in self._reasons
            self._reasons[cause] = reason
        if began:
            log.warning(
                "worker_paused", cause=cause, reason=reason, consequence="it takes no jobs until that has passed"
            )
            self._tell()

    def _resume(self, cause: Cause) -> None:
        with self._lock:
            ended = self._reasons.pop(cause, None)
            if ended is not None:
                self._resumed_at = time.time() - self._seconds_ahead
        if ended is not None:
            log.info("worker_resumed", cause=cause, paused=self.paused)
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def is_far(seconds: float) -> bool:
    """Whether two clocks differ by more than signatures and leases bear."""
    return abs(seconds) > CLOCK_SECONDS


@contextmanager
def _surviving() -> Iterator[None]:
    """A worker whose checks ended with one odd error would stay paused for ever."""
    try:
        yield
    except Exception:
        log.exception("check_broke", consequence="it is tried again")
