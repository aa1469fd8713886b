"""Whether this process stops: first gently, then at once."""

from __future__ import annotations

import threading

from jobs.errors import Requeued


class Shutdown:
    """Two steps forward, never back. Safe from many threads.

    Draining: what is in the loop may end and be uploaded, what is not goes back. At once: everything goes back.
    """

    def __init__(self) -> None:
        self._draining = threading.Event()
        self._at_once = threading.Event()

    @property
    def draining(self) -> bool:
        """The first step was taken."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Take the first step."""
        self._draining.set()

    def requeue_all(self) -> None:
        """Take the second step."""
        self._draining.set()
        self._at_once.set()

    def check(self) -> None:
        """Raises Requeued from the first step on: for jobs that are not in the loop yet."""
        if self._draining.is_set():
            raise Requeued("the worker is stopping")

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Requeued from the second step on, also in mid-sleep."""
        if self._at_once.wait(seconds):
            raise Requeued("the worker is stopping")
