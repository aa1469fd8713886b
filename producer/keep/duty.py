"""Duty: work that a thread of its own repeats until it is stopped, whether the work succeeds or fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from redis import RedisError

from jobs.errors import LedgerUnavailable
from jobs.redis_errors import why_unavailable

log = structlog.get_logger(__name__)

LONGEST_BACKOFF_SECONDS = 15.0
REST = 9  # a pause is at least so many times as long as the turn kept Redis busy: a tenth of the time at most

Sleep = Callable[[float], object]


class Stopped(Exception):
    """The process is ending, so a turn that sleeps is given up."""


@dataclass(frozen=True)
class Work:
    """What a duty does. `turn` is called with the function that it must use to sleep, and may last `turn_seconds`.

    `pause_seconds` is the least time between two turns. `failed` is told why a turn failed.
    """

    name: str
    turn: Callable[[Sleep], object]
    pause_seconds: Callable[[], float]
    failed: Callable[[str], object]
    turn_seconds: float


class Duty:
    """Takes turns until it is stopped. A turn that fails is tried again, later each time: after 15 s at most."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stop = threading.Event()
        self._since: float | None = None
        self._slept = 0.0
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=work.name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more turns. The one under way ends when it sleeps next; it is not waited for."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Wait for the turn that is under way, at most so many seconds."""
        self._thread.join(seconds)

    def trouble(self) -> str | None:
        """Why only a restart helps, or None."""
        since = self._since
        if not self._thread.is_alive():
            return f"the thread {self._work.name!r} has ended"
        if since is not None and time.monotonic() - since > self._work.turn_seconds:
            return f"a turn of {self._work.name!r} has taken more than {self._work.turn_seconds:.0f} s"
        return None

    def _run(self) -> None:
        while not self._stop.is_set():
            self._since, self._slept = time.monotonic(), 0.0
            try:
                pause = self._take_turn(self._since)
            except Stopped:
                return
            self._since = None
            self._stop.wait(pause)

    def _take_turn(self, since: float) -> float:
        """Take one turn. Returns how long to pause after it, in seconds."""
        try:
            self._work.turn(self._sleep)
        except (LedgerUnavailable, RedisError) as error:
            why = str(error) if isinstance(error, LedgerUnavailable) else why_unavailable(error)
            return self._fail(why)
        except Stopped:
            raise
        except Exception as error:  # whatever it is, the next turn may do better
            log.exception("turn_broke", duty=self._work.name, consequence="it is tried again")
            return self._fail(f"a fault of this program, which its log has: {type(error).__name__}")
        self._failures = 0
        busy = time.monotonic() - since - self._slept
        return max(self._work.pause_seconds(), REST * busy)

    def _fail(self, why: str) -> float:
        self._work.failed(why)
        self._failures += 1
        backoff = self._work.pause_seconds() * 2.0 ** min(self._failures - 1, 10)
        return min(backoff, LONGEST_BACKOFF_SECONDS) * random.uniform(0.75, 1.0)

    def _sleep(self, seconds: float) -> None:
        """Never ends early: the reconciler compares two looks, and needs all of this time between them."""
        begun = time.monotonic()
        if self._stop.wait(seconds):
            raise Stopped
        self._slept += time.monotonic() - begun
