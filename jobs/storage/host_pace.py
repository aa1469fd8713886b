"""HostPace: when one host may be asked next, and by how many at once, learned from its answers. No clock, no lock.

A host that answers 429, or 503 with Retry-After, refuses. It is not asked again before the time it names, or before
a pause of our own that doubles with each refusal in a row. After that it is asked by one at a time, and no faster than
it served before it refused. Every ten answers in a row allow one more request at once and twice the speed.

A host that answers 503 without Retry-After is overloaded, or limits its visitors as nginx does by default. It is asked
more slowly in the same way, but gets no pause: it may be one picture that it cannot serve.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

# The longest pause that a host can ask for. A host that names a later time is asked, and may refuse, once an hour.
LONGEST_PAUSE_SECONDS = 3600.0
# Pauses of our own, if a host does not name one: 1, 2, 4, ... 60 s.
FIRST_OWN_PAUSE_SECONDS, LONGEST_OWN_PAUSE_SECONDS = 1.0, 60.0
# A host that was down for minutes served few requests in a long time, which is not its pace.
LONGEST_SPACING_SECONDS = 2.0
SHORTEST_SPACING_SECONDS = 0.05
ANSWERS_UNTIL_FASTER = 10
# A host that has served nothing for so long refuses all requests, not only those that come too early.
SERVING_SECONDS = 3600.0


@dataclass
class HostPace:
    """What is known of one host. `limit` is the largest number of requests at once."""

    limit: int
    opens_at: float = 0.0
    spacing_seconds: float = 0.0  # between the starts of two requests
    served_at: float | None = None
    _growth: int = 0  # doublings of our own pause
    _period: int = 0  # from one refusal to the next; answers to requests of an earlier period teach nothing
    _at_once: int | None = None
    _last_start: float = 0.0
    _period_start: float | None = None
    _served: int = 0  # in this period

    @property
    def at_once(self) -> int:
        """How many requests may be under way now."""
        return self.limit if self._at_once is None else self._at_once

    @property
    def next_at(self) -> float:
        """When the next request may start."""
        return max(self.opens_at, self._last_start + self.spacing_seconds if self.spacing_seconds else 0.0)

    def serves(self, now: float) -> bool:
        """Whether the host answered a request of ours lately: one that it refuses now only has to wait its turn."""
        return self.served_at is not None and now - self.served_at < SERVING_SECONDS

    def started(self, now: float) -> int:
        """A request starts. Returns its period, for `served` and `refused`."""
        self._last_start = now
        if self._period_start is None:
            self._period_start = now
        return self._period

    def served(self, now: float, period: int) -> None:
        """A request was answered, with whatever status but a refusal."""
        self.served_at = now
        if period != self._period:
            return
        self._served += 1
        if self._served == 1:
            self._growth = max(0, self._growth - 2)  # not to 0: the next pause begins near the one that was enough
        if self._served % ANSWERS_UNTIL_FASTER == 0:
            self._faster()

    def _faster(self) -> None:
        self._growth = max(0, self._growth - 1)
        self._at_once = min(self.limit, self.at_once + 1)
        self.spacing_seconds /= 2
        if self.spacing_seconds < SHORTEST_SPACING_SECONDS:
            self.spacing_seconds = 0.0

    def refused(self, now: float, period: int, *, pause_seconds: float | None) -> None:
        """A request was refused. `pause_seconds` is what the host asks for, if it asks for anything."""
        pause = 0.0 if pause_seconds is None else pause_seconds
        if period == self._period:  # not one of several that were under way when the host refused the first
            pause = max(pause, min(LONGEST_OWN_PAUSE_SECONDS, FIRST_OWN_PAUSE_SECONDS * 2**self._growth))
            self._growth = min(self._growth + 1, 10)
        self.opens_at = max(self.opens_at, now + min(LONGEST_PAUSE_SECONDS, pause))
        if period == self._period:
            self._begin_period(self.opens_at)

    def overloaded(self, now: float, period: int) -> None:
        """A request failed for want of capacity (503), but the host asks for no pause."""
        if period == self._period and self._served and self._period_start is not None:
            self._begin_period(now)

    def _begin_period(self, end: float) -> None:
        if self._served and self._period_start is not None:
            spacing = (end - self._period_start) / self._served
            self.spacing_seconds = min(LONGEST_SPACING_SECONDS, spacing)
        self._period += 1
        self._at_once, self._period_start, self._served = 1, None, 0
