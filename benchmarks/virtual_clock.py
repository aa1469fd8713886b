"""A clock that jumps from one event to the next, for simulations of hours in seconds."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class VirtualClock:
    """Calls what was planned in the order of its time; `now` is in seconds since the start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()  # events of one time happen in the order in which they were planned

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Plan an event. One in the past happens next."""
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), event))

    def every(self, seconds: float, event: Callable[[], None], *, until: float) -> None:
        """Plan an event again and again, the first time one period from now."""

        def happen() -> None:
            event()
            if self.now + seconds <= until:
                self.at(self.now + seconds, happen)

        self.at(self.now + seconds, happen)

    def run(self, until: float) -> None:
        """Let everything happen that is planned up to then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until
