"""Shutdown: whether this process is stopping. One object, read by the pool, the service, the jobs and the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

from jobs.errors import Requeued


class Shutdown:
    """Two steps, taken in order and never taken back. Safe to use from many threads.

    1. drain:       nothing new is admitted; samples that are running finish and their jobs are uploaded
    2. requeue_all: every job that is not about to end goes back to the queue now

    Apart from the steps, `insist` notes that the operator wants the second step without the grace period.
    """

    def __init__(self) -> None:
        self._draining = threading.Event()
        self._requeueing = threading.Event()
        self._insisted = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def draining(self) -> bool:
        """The first step was taken. Also true after the second."""
        return self._draining.is_set()

    @property
    def requeueing(self) -> bool:
        """The second step was taken."""
        return self._requeueing.is_set()

    @property
    def insisted(self) -> bool:
        """The grace period is cut short; the pool, which drains, takes the second step at once."""
        return self._insisted

    def on_step(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each step, in the thread that took it. It wakes what waits, and must not block."""
        self._listeners.append(listener)

    def insist(self) -> None:
        """Cut the grace period short. Only sets a flag: a signal handler may call it, since it takes no lock."""
        self._insisted = True

    def drain(self) -> None:
        """Take the first step."""
        if not self._draining.is_set():
            self._draining.set()
            self._tell()

    def requeue_all(self) -> None:
        """Take the second step, and the first if need be."""
        if not self._requeueing.is_set():
            self._draining.set()  # first, so that a thread that sees `requeueing` also sees `draining`
            self._requeueing.set()
            self._tell()

    def check(self) -> None:
        """Raise Requeued once the worker is draining: for jobs whose samples are not in the loop yet."""
        if self.draining:
            raise stopping()

    def pause(self, seconds: float) -> None:
        """Sleep; raise Requeued as soon as the second step is taken."""
        if self._requeueing.wait(seconds):
            raise stopping()

    def wait(self, seconds: float) -> bool:
        """Sleep, at most until the first step is taken; return whether it was."""
        return self._draining.wait(seconds)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def stopping() -> Requeued:
    """The error that ends a job, or a sample of it, when the worker stops before it is rendered."""
    return Requeued("the worker is stopping")
