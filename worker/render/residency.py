"""Residency: which engine sets are on the device, and when one leaves for another. It loads nothing and needs no torch.

Where all sets fit, each is loaded when it is first needed, and stays. Where only some fit, sets take turns:

- A set that is not on the device asks once it has a request. Sets arrive in the order in which they asked.
- A turn lasts from the end of a set's loading until it has to leave. That is at least TURN_RELOADS times as long as
  loading took, and until every request that waited for the turn has been admitted. It ends before only if no set on the
  device has had a request for as long as loading took: the device would be idle.
- When a turn is over and another set waits, no more requests of the set are admitted; those that run are finished.
- The least recently used set leaves first; of those that are in use, the one whose turn began first.

So while its set is away, a request waits for as many other sets to arrive as there are sets that do not fit, at most;
and once its set is there, it is drawn in that turn.

Where memory turns out to be shorter than the limit says, the limit is lowered for a while (memory_limit.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

from worker.render.memory_limit import MemoryLimit

TURN_RELOADS = 20.0

# Why a turn ended: it had lasted as long as it has to, the device would have been idle, or memory was short.
EndOfTurn = Literal["lasted", "idle", "memory"]


@dataclass(frozen=True)
class Work:
    """What a set has to do: whether requests of it run, and whether some that waited for its turn still wait."""

    runs: bool = False
    owes: bool = False


@dataclass
class _Turn:
    """A set on the device: since when, and when it was last used (seconds of the clock)."""

    began: float
    used: float


class Residency:
    """Decides which engine sets are on the device. Not thread-safe: the scheduler's lock guards it."""

    def __init__(
        self,
        costs: Mapping[str, int] | None = None,
        *,
        limit: int | None = None,
        reload_seconds: Callable[[str], float] = lambda _: 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`costs` of the sets, by digest: those on the device cost at most `limit` together; None: all sets fit.

        A set that costs more than the limit is alone on the device. `reload_seconds` is how long loading a set takes.
        """
        self._costs = costs or {}
        self._limit = MemoryLimit(limit, now=now)
        self._reload_seconds = reload_seconds
        self._now = now
        self._turns: dict[str, _Turn] = {}
        self._asking: dict[str, None] = {}  # in order
        self._leaving: tuple[str, ...] = ()
        self._ends: dict[str, EndOfTurn] = {}  # of those that leave

    def holds(self, engine_set: str) -> bool:
        """Whether the set is on the device."""
        return engine_set in self._turns

    @property
    def leaving(self) -> tuple[str, ...]:
        """As of the last `may_step`: the sets that leave for another one; until then they finish what runs."""
        return self._leaving

    def end_of_turn(self, engine_set: str) -> EndOfTurn:
        """Why the set's turn ends, as of the last `may_step`; if it has not ended by a rule, memory is short."""
        return self._ends.get(engine_set, "memory")

    @property
    def is_limited(self) -> bool:
        """Whether sets may have to take turns."""
        return self._limit.value is not None

    def may_step(self, work: Mapping[str, Work]) -> frozenset[str]:
        """The sets that may take the next step, of those that have work.

        If it is a set that is not on the device, the caller brings it in, after those that are `leaving`.
        """
        self._limit.recover()
        if not self.is_limited:
            self._leaving, self._ends = (), {}
            return frozenset(work)
        asking = [engine_set for engine_set in work if engine_set not in self._turns]
        self._asking = {one: None for one in self._asking if one in asking} | dict.fromkeys(asking)
        self._leaving, self._ends = (), {}
        if self._asking:
            arriving = next(iter(self._asking))
            leaving = self._those_in_the_way_of(arriving, work)
            ends = {one: end for one in leaving if (end := self._end(one, work)) is not None}
            if len(ends) == len(leaving):
                self._leaving, self._ends = leaving, ends
                if not any(one in work and work[one].runs for one in leaving):
                    return frozenset({arriving})
        return frozenset(work.keys() & self._turns.keys())

    def _those_in_the_way_of(self, arriving: str, work: Mapping[str, Work]) -> tuple[str, ...]:
        assert self._limit.value is not None
        missing = self._cost(arriving) + sum(map(self._cost, self._turns)) - self._limit.value
        chosen: list[str] = []
        for engine_set in sorted(self._turns, key=lambda one: self._order(one, work)):
            if missing <= 0:
                break
            chosen.append(engine_set)
            missing -= self._cost(engine_set)
        return tuple(chosen)

    def arrived(self, engine_set: str) -> None:
        """The set has been loaded: its turn begins."""
        now = self._now()
        self._turns[engine_set] = _Turn(began=now, used=now)
        self._asking.pop(engine_set, None)
        self._limit.end_story()

    def left(self, engine_set: str) -> float:
        """The set is not on the device any more; the seconds that its turn lasted."""
        turn = self._turns.pop(engine_set, None)
        return 0.0 if turn is None else self._now() - turn.began

    def used(self, engine_set: str) -> None:
        """The set takes a step."""
        if engine_set in self._turns:
            self._turns[engine_set].used = self._now()

    def shrink(self, arriving: str, *, cause: Hashable = None) -> str | None:
        """Memory does not suffice for this one beside the others: the one that has to leave, None if none should.

        `cause` says what memory was short for, if that is not the set itself. For a while so much fits as fitted
        without the one that leaves. If it is of no use, because memory is short for the same cause when the set is
        alone, the limit is as before, and for a while no set leaves for this cause.
        """
        cause = arriving if cause is None else cause
        others = [one for one in self._turns if one != arriving]
        if not others:
            self._limit.fail_alone(cause)
            return None
        if self._limit.is_in_vain(cause):
            return None
        first = min(others, key=lambda one: self._turns[one].used)
        self._limit.lower(self._cost(arriving) + sum(self._cost(one) for one in others if one != first), cause=cause)
        return first

    def _cost(self, engine_set: str) -> int:
        return self._costs.get(engine_set, 1)

    def _order(self, engine_set: str, work: Mapping[str, Work]) -> tuple[bool, bool, float]:
        """Those whose turns are over come first, then those without work; the least recently used before the others."""
        turn, busy = self._turns[engine_set], engine_set in work
        return self._end(engine_set, work) is None, busy, turn.began if busy else turn.used

    def _end(self, engine_set: str, work: Mapping[str, Work]) -> EndOfTurn | None:
        """Why the set's turn is over; None if it is not."""
        turn, now, seconds = self._turns[engine_set], self._now(), self._reload_seconds(engine_set)
        if engine_set in work and work[engine_set].owes:
            return None
        if now - turn.began >= TURN_RELOADS * seconds:
            return "lasted"
        is_idle = not (work.keys() & self._turns.keys()) and now - turn.used >= seconds
        return "idle" if is_idle else None
