"""What the ledger says: of a batch, of a job, of a worker."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict

State = Literal["queued", "running", "done", "failed", "cancelled", "superseded"]
TERMINAL: frozenset[str] = frozenset({"done", "failed", "cancelled", "superseded"})


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class BatchInfo(_Record):
    """What was submitted under a batch's name, and when (seconds since the epoch)."""

    name: str
    output: str
    source: str
    created_at: float

    def row_prefix(self, source: str) -> str:
        """What stands before a row's number: rows of another file are rows of their own."""
        return "" if source == self.source else hashlib.sha256(source.encode()).hexdigest()[:8] + ":"


class Counts(_Record):
    """Jobs of one batch by state. `superseded` are earlier versions of rows that were corrected; no total has them."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    superseded: int = 0

    @property
    def total(self) -> int:
        """All jobs of the batch that count: one a row."""
        return self.queued + self.running + self.finished

    @property
    def finished(self) -> int:
        """Jobs in a terminal state."""
        return self.done + self.failed + self.cancelled


class Enqueued(_Record):
    """What `enqueue` did: `added` are queued now, `recovered` have their result in storage, the states were there.

    `replaced` counts the earlier versions of corrected rows, which the new ones supersede.
    """

    added: int = 0
    recovered: int = 0
    replaced: int = 0
    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0

    def __add__(self, other: Enqueued) -> Enqueued:
        return Enqueued(**{name: getattr(self, name) + getattr(other, name) for name in Enqueued.model_fields})


class Start(_Record):
    """Whether a worker that got a message shall render it; `attempts` counts this start too.

    `cancelled` is so in the ledger, `cancel` is for this worker to record. `last` was no start: ask again to make it.
    `adopted`: the ledger did not know the job, so it may be done already: only storage can tell.
    """

    decision: Literal["run", "finished", "held", "cancelled", "cancel", "quarantined", "last"]
    attempts: int
    adopted: bool = False


@dataclass(frozen=True, slots=True)  # no pydantic: a batch may have a million, and Redis is ours
class JobState:
    """One job's line in the ledger; `text` is the line as stored, for compare-and-set."""

    id: str
    state: State
    attempts: int
    worker: str | None
    since: float | None
    text: str


class Heartbeat(_Record):
    """A worker's sign of life: the ids that it holds, and when (seconds since the epoch)."""

    worker: str
    held: tuple[str, ...]
    at: float


def parse_state(id_: str, text: str) -> JobState:
    """Read one line of the `states` hash."""
    parts = text.split()
    running = len(parts) == 4
    return JobState(
        id=id_,
        state=cast(State, parts[0]),
        attempts=int(parts[1]),
        worker=parts[2] if running else None,
        since=float(parts[3]) if running else None,
        text=text,
    )
