"""Board: what the duties found last. HTTP requests read it without waiting for Redis."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace

from jobs.ledger.reconcile import Reconciled
from producer.keep.observation import Observation

VIEWED_SECONDS = 10.0  # since a browser last asked for the page's data
ANSWER_SECONDS = 10.0  # a look that takes longer counts as unanswered, long before its connection gives up


@dataclass(frozen=True)
class Totals:
    """What the reconciler did since the start. `failures` counts passes that failed, as a whole or for one batch."""

    requeued: int = 0
    failures: int = 0


@dataclass(frozen=True)
class Redis:
    """Whether Redis answered when it was asked last, and why it did not."""

    is_up: bool
    why: str


@dataclass
class Board:
    """Written by the duties, and read by many threads."""

    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _observation: Observation | None = None
    _redis: Redis = field(default_factory=lambda: Redis(False, "Redis has not been asked yet"))
    _totals: Totals = field(default_factory=Totals)
    _passed: float | None = None
    _pass_seconds: float = 0.0
    _viewed: float | None = None
    _looking: float | None = None

    @property
    def observation(self) -> Observation | None:
        """The last one, however old it is; `redis` says whether it is current."""
        return self._observation

    @property
    def redis(self) -> Redis:
        """As of the last look, or of the one under way if that has waited longer than ANSWER_SECONDS."""
        since = self._looking
        if since is not None and time.monotonic() - since > ANSWER_SECONDS:
            return Redis(False, f"Redis has not answered for more than {ANSWER_SECONDS:.0f} s")
        return self._redis

    @property
    def totals(self) -> Totals:
        """What the reconciler did since the start."""
        return self._totals

    @property
    def reconcile_age_seconds(self) -> float:
        """The seconds since a whole pass last ended, or since the start if none has."""
        return time.monotonic() - (self.started if self._passed is None else self._passed)

    @property
    def reconcile_pass_seconds(self) -> float:
        """How long the last whole pass took; 0 if none has ended."""
        return self._pass_seconds

    @property
    def is_viewed(self) -> bool:
        """Whether a browser shows the page."""
        return self._viewed is not None and time.monotonic() - self._viewed < VIEWED_SECONDS

    def note_view(self) -> None:
        """Note that a browser asked for the page's data."""
        self._viewed = time.monotonic()

    def note_look(self) -> None:
        """Redis is being asked."""
        self._looking = time.monotonic()

    def note(self, observation: Observation) -> None:
        """Redis answered."""
        self._looking = None
        self._observation, self._redis = observation, Redis(True, "Redis answers, and jobs are kept")

    def note_away(self, why: str) -> bool:
        """Redis did not answer. True if that is news: at the look before, it answered or gave another reason."""
        before, self._looking, self._redis = self._redis, None, Redis(False, why)
        return before != self._redis

    def note_pass(self, repaired: Reconciled, *, whole: bool, seconds: float = 0.0) -> None:
        """A pass over all batches ended. `seconds` is what a whole one took."""
        with self._lock:
            self._totals = Totals(
                self._totals.requeued + repaired.restored + repaired.requeued,
                self._totals.failures + len(repaired.failures),
            )
            if whole:
                self._passed, self._pass_seconds = time.monotonic(), seconds

    def note_failure(self) -> None:
        """A pass ended with an error."""
        with self._lock:
            self._totals = replace(self._totals, failures=self._totals.failures + 1)
