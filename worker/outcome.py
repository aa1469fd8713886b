"""Outcome: how this process's turn with a message ended, which decides what happens to the message."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """JobRunner returns it; the Celery task acts on it."""

    ENDED = "ended"  # acknowledge: the job is in a terminal state, or another worker has it
    REQUEUED = "requeued"  # requeue the message: this version cannot read it, or Redis is away while the worker stops
    INVALID = "invalid"  # acknowledge: the message holds no job, and would otherwise come back for ever
    DELAYED = "delayed"  # acknowledge: the job is queued in the ledger, which sends a new message when its time comes
