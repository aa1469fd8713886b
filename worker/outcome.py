"""Outcome: how this process's turn with a message ended, which decides what happens to the message."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """Told by JobRunner, acted upon by the Celery task."""

    ENDED = "ended"  # acknowledge: the job is in a terminal state, or another worker has it
    REQUEUED = "requeued"  # put the message back: the job is queued in the ledger, or this version cannot read it
    INVALID = "invalid"  # acknowledge: the message holds no job, and would otherwise come back for ever
