"""Outcome: how this process's turn with a message ended, which decides what happens to the message."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """JobRunner returns it; the Celery task acts on it."""

    ENDED = "ended"  # acknowledge: the job is in a terminal state, or another worker has it
    REQUEUED = "requeued"  # requeue the message: this version cannot read it, or Redis is away while the worker stops
    INVALID = "invalid"  # acknowledge: the message holds no job, and would otherwise come back for ever
    DELAYED = "delayed"  # acknowledge: the job is queued in the ledger, which sends a new message when its time comes


@dataclass(frozen=True)
class Ending:
    """The outcome for monitors: the state in which the job left this process, and the kind of its error."""

    state: str  # done, failed, cancelled, requeued or invalid; ended: it was over before, or another worker has it
    kind: str = ""

    @classmethod
    def parse(cls, text: str) -> Ending:
        """Read what `str` wrote."""
        state, _, kind = text.partition(": ")
        return cls(state, kind)

    def __str__(self) -> str:
        return f"{self.state}: {self.kind}" if self.kind else self.state


# How this thread's job ended. LedgerClient sets it, and the Celery task, which runs the job, reads it.
ending: ContextVar[Ending | None] = ContextVar("ending", default=None)
