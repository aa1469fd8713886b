"""HostLimits: requests to one host, of all threads of a process: how many at once, and none before the host allows it.

Threads form one line per host. The place in it goes by when a read began, so a read that the host refuses comes first
when the host may be asked again. After two refusals it goes to the end: a URL that the host always refuses would
otherwise hold up all others. A read holds a turn at one host at a time, so two reads never wait for each other.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count

from jobs.errors import SourceUnavailable
from jobs.storage.host_pace import HostPace

AT_ONCE = 8  # as browsers (6) and Scrapy (8) do
# A read waits so long in all. After that its job goes back to the queue, where it takes no thread of the worker's.
LONGEST_WAIT_SECONDS = 60.0
CHECK_SECONDS = 0.25  # between two looks whether the waiting job was cancelled or the worker stops
MAX_HOSTS = 4096  # remembered; the ones asked longest ago are forgotten first
# After so many refusals of one URL others are asked for before it: it may be the only one that the host refuses.
REFUSALS_IN_FRONT = 2
REFUSALS_OF_ONE_URL = 5  # after so many it is


@dataclass(eq=False)
class _Host:
    pace: HostPace
    line: set[int] = field(default_factory=set)  # the numbers of the reads that wait
    active: int = 0

    def seconds_until_turn(self, number: int, now: float) -> float:
        """0 or less: it is this read's turn. Infinite: another read goes first."""
        if self.active >= self.pace.at_once or min(self.line) != number:
            return math.inf
        return self.pace.next_at - now

    def give_up(self, seconds_left: float, shown: str) -> None:
        """Raise SourceUnavailable if a read that may wait for so long has nothing to gain by it."""
        now = time.monotonic()
        closed = self.pace.opens_at - now
        if closed > seconds_left:
            error = SourceUnavailable(f"{shown} allows no request for another {closed:.0f} s")
            error.retry_after_seconds = closed
        elif seconds_left <= 0:
            error = SourceUnavailable(
                f"{shown} has {self.active} requests under way and {len(self.line)} waiting (RENDER_FETCH_PER_HOST)"
            )
        else:
            return
        error.blameless = self.pace.serves(now)
        raise error


class HostLimits:
    """Shared by all reads of a process. Safe to use from many threads."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._changed = threading.Condition()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._refusals: OrderedDict[int, int] = OrderedDict()  # of a URL, by its hash, since it was last served
        self._numbers = count()

    def visit(self, url: str, check: Callable[[], None], wait_seconds: float = LONGEST_WAIT_SECONDS) -> Visit:
        """A read begins. `check` is called while it waits; it raises to end the wait, and must not block."""
        return Visit(self, hash(url), check, wait_seconds)

    def place(self) -> int:
        """A new place at the end of every line."""
        return next(self._numbers)

    @contextmanager
    def turn(self, name: str, visit: Visit, shown: str) -> Iterator[Turn]:
        """See Visit.turn."""
        with self._changed:
            host = self._host(name)
            period = self._wait(host, visit, f"{shown} was not asked for yet: {name}")
        try:
            yield Turn(self, host, visit, period)
        finally:
            with self._changed:
                host.active -= 1
                self._changed.notify_all()

    def served(self, turn: Turn) -> None:
        """See Turn.served."""
        with self._changed:
            turn.host.pace.served(time.monotonic(), turn.period)
            self._refusals.pop(turn.visit.url, None)

    def overloaded(self, turn: Turn) -> None:
        """See Turn.overloaded."""
        with self._changed:
            turn.host.pace.overloaded(time.monotonic(), turn.period)

    def refused(self, turn: Turn, pause_seconds: float | None) -> tuple[float, bool]:
        """See Turn.refused."""
        # A little more than it asks for: many workers would otherwise come back at the same moment.
        asked = None if pause_seconds is None else pause_seconds * random.uniform(1.0, 1.1)
        with self._changed:
            now, pace, url = time.monotonic(), turn.host.pace, turn.visit.url
            pace.refused(now, turn.period, pause_seconds=asked)
            self._refusals[url] = times = self._refusals.get(url, 0) + 1
            self._refusals.move_to_end(url)
            if len(self._refusals) > MAX_HOSTS:
                self._refusals.popitem(last=False)
            if times % REFUSALS_IN_FRONT == 0:
                turn.visit.number = self.place()
            return pace.opens_at - now, pace.serves(now) and times < REFUSALS_OF_ONE_URL

    def _wait(self, host: _Host, visit: Visit, shown: str) -> int:
        """Wait for a place among the requests to a host, and take it. Returns the pace's period."""
        host.line.add(visit.number)
        began = now = time.monotonic()
        try:
            while (seconds := host.seconds_until_turn(visit.number, now)) > 0:
                host.give_up(visit.wait_seconds - (now - began), shown)
                self._changed.wait(min(seconds, CHECK_SECONDS))
                visit.check()
                now = time.monotonic()
            host.active += 1
            return host.pace.started(now)
        finally:
            host.line.discard(visit.number)
            visit.wait_seconds -= time.monotonic() - began
            self._changed.notify_all()

    def _host(self, name: str) -> _Host:
        host = self._hosts.setdefault(name, _Host(HostPace(self._at_once)))
        self._hosts.move_to_end(name)
        if len(self._hosts) > MAX_HOSTS:
            idle = (other for other, each in self._hosts.items() if not each.active and not each.line)
            oldest = next(idle, None)
            if oldest is not None and oldest != name:
                del self._hosts[oldest]
        return host


class Visit:
    """One read. `wait_seconds` is how long it may still wait, for all hosts together."""

    def __init__(self, limits: HostLimits, url: int, check: Callable[[], None], wait_seconds: float) -> None:
        self.url = url
        self.check = check
        self.wait_seconds = wait_seconds
        self.number = limits.place()
        self._limits = limits

    def turn(self, name: str, shown: str) -> AbstractContextManager[Turn]:
        """Wait until the host may be asked, then have one of its places within the block. `shown` is for errors.

        Raises:
            SourceUnavailable: that would take longer than `wait_seconds`. What `check` raises.
        """
        return self._limits.turn(name, self, shown)


@dataclass(frozen=True)
class Turn:
    """A place among the requests that are under way to a host."""

    limits: HostLimits
    host: _Host
    visit: Visit
    period: int

    def served(self) -> None:
        """The host answered, with whatever but a refusal."""
        self.limits.served(self)

    def overloaded(self) -> None:
        """The host could not answer, and asked for no pause: it is asked more slowly."""
        self.limits.overloaded(self)

    def refused(self, pause_seconds: float | None) -> tuple[float, bool]:
        """The host asks for a pause: (seconds until it may be asked again, whether only others were before this one).

        The latter is False for a URL that was refused again and again while the host served others.
        """
        return self.limits.refused(self, pause_seconds)
