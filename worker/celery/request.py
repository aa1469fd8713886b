"""RenderRequest: a job's message as Celery holds it, which shows monitors the job's id, batch and row, and no more.

The message holds prompts and signed URLs. Its sender may have written them into `argsrepr` too, which Celery shows.
"""

from __future__ import annotations

import json
from typing import Any

from celery.worker.request import Request

from jobs.job import BATCH_NAME
from worker.outcome import Ending

# Celery's events for a job that ended, by the state in which it left this worker.
_EVENTS = {"failed": "task-failed", "invalid": "task-failed", "requeued": "task-retried", "cancelled": "task-revoked"}


class RenderRequest(Request):  # type: ignore[misc]
    """`Request` of the task. Without events it only hides the arguments, which costs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.name = self._type  # not what the sender calls it
        shown = {} if self._eventer is None else _batch_and_row(self._args)
        self._argsrepr, self._kwargsrepr = f"({self.id},)" if shown else "()", repr(shown)

    def send_event(self, type: str, **fields: Any) -> None:
        """Called at each step of a job.

        Celery knows whether the task returned, and reports that as success. The ledger knows how the job ended, and
        jobs end in ways that no exception tells.
        """
        if self._eventer is None or type == "task-cancelled":  # a cold shutdown cancels all, and requeues them
            return
        if type == "task-succeeded":
            type, fields = _as_it_ended(Ending.parse(str(fields["result"]).strip("'")), fields)
        elif type == "task-rejected":
            type, fields = "task-retried", {"exception": "requeued", "traceback": None}
        elif type == "task-failed":  # a fault of ours; its text and its traceback may hold the message
            fields = {"exception": "the job's task broke; the worker's log says why", "traceback": None}
        super().send_event(type, **fields)


def _as_it_ended(ending: Ending, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    type = _EVENTS.get(ending.state, "task-succeeded")
    if type == "task-succeeded":
        return type, {"result": ending.state, "runtime": fields["runtime"]}
    if type == "task-revoked":
        return type, {"terminated": False, "signum": None, "expired": False}
    return type, {"exception": str(ending), "traceback": None}


def _batch_and_row(args: Any) -> dict[str, Any]:
    """The batch and row of the job in a task's arguments; empty if they hold no job."""
    try:
        job = json.loads(args[0])
        batch, row = job["batch"], int(job["row"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return {}
    return {"batch": batch, "row": row} if isinstance(batch, str) and BATCH_NAME.fullmatch(batch) else {}
