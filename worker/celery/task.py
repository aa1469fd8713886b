"""The Celery task: hands a message to the service, and turns the outcome into an acknowledgement or a requeue."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Reject

from worker.outcome import Outcome, ending


def render(task: Any, text: str) -> str:
    """`task` is bound to the app, whose service runs the job; `text` is a RenderJob as JSON.

    Celery acknowledges the message of a task that returns. What it returns is for monitors (request.py).
    """
    ending.set(None)
    outcome: Outcome = task.app.service.run_job(text)
    if outcome is Outcome.REQUEUED:
        # Request.on_failure turns this into QoS.reject(requeue=True): the message goes to the queue's tail.
        raise Reject("requeued", requeue=True)
    return str(ending.get() or outcome.value)
