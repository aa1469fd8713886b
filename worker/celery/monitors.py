"""Monitors: what `celery inspect`, `celery events` and Flower see of this worker, where RENDER_CELERY_EVENTS is true.

Celery has the same in four parts (Events, Heart, Control and Mingle). They would obey shutdown, revoke and pool_shrink,
show prompts and signed URLs, and stand still while Redis is away. So they are off, and this step of the consumer stands
in their place:

- requests come by PUBLISH to a channel of their own, not that of jobs: a paused worker answers;
- inspection.py answers them, a list of what is allowed;
- events and replies go through the Outbox, so the event loop never waits for a monitor.
"""

from __future__ import annotations

import os
from typing import Any

import structlog
from celery import bootsteps
from celery.events.event import Event, group_from
from celery.utils.time import utcoffset
from celery.worker.consumer.tasks import Tasks
from kombu import Consumer
from kombu.common import ignore_errors

from worker.celery.inspection import Inspection
from worker.celery.outbox import Letter, Outbox
from worker.celery.remote_request import NotUnderstood, RemoteRequest

log = structlog.get_logger(__name__)

STOP_SECONDS = 2.0  # for the last events, while the process ends


class EventDispatcher:
    """The part of celery.events.EventDispatcher that a worker uses, which sends through the outbox."""

    connection = None  # asked for by loops.asynloop
    enabled = True

    def __init__(self, outbox: Outbox, *, hostname: str, clock: Any) -> None:
        self.outbox = outbox
        self.groups = {"worker", "task"}  # what is sent; enable_events and disable_events change it
        self._hostname = hostname
        self._clock = clock

    def send(self, type: str, **fields: Any) -> None:
        """Send an event to all monitors."""
        if group_from(type) not in self.groups:
            return
        event = Event(
            type, hostname=self._hostname, utcoffset=utcoffset(), pid=os.getpid(), clock=self._clock.forward(), **fields
        )
        self.outbox.put(Letter(event, headers={"hostname": self._hostname}))

    def flush(self) -> None:
        """Called by Consumer._flush_events: there is nothing to flush."""


def event_dispatcher(consumer: Any) -> EventDispatcher:
    """The dispatcher of a consumer, with an outbox that is not started yet."""
    app = consumer.app
    return EventDispatcher(Outbox(app.connection_for_write), hostname=consumer.hostname, clock=app.clock)


class Monitors(bootsteps.StartStopStep):  # type: ignore[misc]
    """The step of the consumer. Celery starts it with every connection, and stops it before the next one.

    In a shutdown it goes on through the drain, so that monitors see which jobs the worker still waits for.
    """

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self._mailbox: Any = None  # kombu's Consumer, which has no types
        self._timer: Any = None
        super().__init__(consumer, **kwargs)

    def include_if(self, consumer: Any) -> bool:
        """Whether there is such a step at all."""
        return bool(consumer.app.conf.worker_send_task_events)

    def start(self, consumer: Any) -> None:
        """Listen, and say that the worker is there."""
        consumer.event_dispatcher.outbox.start()
        inspection = Inspection(consumer)
        self._listen(consumer, inspection)
        inspection.beat("worker-online")
        self._timer = consumer.timer.call_repeatedly(inspection.beat_seconds, inspection.beat)

    def stop(self, consumer: Any) -> None:
        """Called before each reconnect, and in a shutdown before the pool drains."""
        if consumer.controller.blueprint.state == bootsteps.RUN:
            self._close(consumer)

    def shutdown(self, consumer: Any) -> None:
        """Called when the pool has drained."""
        self._close(consumer)
        Inspection(consumer).beat("worker-offline")
        consumer.event_dispatcher.outbox.stop(STOP_SECONDS)

    def terminate(self, consumer: Any) -> None:
        """A cold shutdown drains too."""
        self.stop(consumer)

    def _listen(self, consumer: Any, inspection: Inspection) -> None:
        channel = consumer.connection.channel()
        self._mailbox = Consumer(  # type: ignore[no-untyped-call]
            channel,
            [consumer.app.control.mailbox.get_queue(consumer.hostname)],
            no_ack=True,
            accept=["json"],
            callbacks=[lambda body, _: answer(body, inspection)],
            on_decode_error=not_json,
        )
        self._mailbox.consume()

    def _close(self, consumer: Any) -> None:
        if self._timer is not None:
            consumer.timer.cancel(self._timer)
            self._timer = None
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            ignore_errors(consumer, mailbox.cancel)  # type: ignore[no-untyped-call]
            ignore_errors(consumer, mailbox.channel.close)  # type: ignore[no-untyped-call]


def not_json(_: Any, error: Exception) -> None:
    """Called for a message whose body is not the JSON that its header promises, or is said to be something else."""
    log.warning("monitor_not_understood", error=type(error).__name__)


def answer(body: Any, inspection: Inspection) -> None:
    """Do what a monitor asks for, if it may and if it is meant for this worker. Raises nothing for a bad request."""
    try:
        request = RemoteRequest.parse(body)
    except NotUnderstood as error:
        log.warning("monitor_not_understood", error=str(error))
        return
    if not request.is_for(inspection.hostname):
        return
    reply = inspection.answer(request.method, request.arguments)
    if request.reply_queue is not None:
        headers = {"ticket": request.ticket, "clock": inspection.forward_clock()}
        inspection.outbox.put(Letter({inspection.hostname: reply}, headers=headers, queue=request.reply_queue))
