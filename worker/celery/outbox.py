"""Outbox: what a worker says to monitors, published by a thread of its own.

Celery publishes from the event loop, and repeats a heartbeat until Redis answers. While Redis is away, such a worker
neither acknowledges nor hears SIGTERM, and the events of the outage pile up in its memory. Here the worker never
waits for a monitor: the oldest of too many events are dropped, and so is what cannot be sent.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import structlog
from celery.events.event import get_exchange
from kombu import Connection, Producer

from jobs.redis_errors import why_unavailable

log = structlog.get_logger(__name__)

LIMIT = 1000  # events and replies that wait; those of 50 jobs a second and 10 seconds without Redis
TOGETHER = 50  # events of jobs in one message
PAUSE_SECONDS = 2.0  # after a failure


class Letter(NamedTuple):
    """A reply to one monitor, whose queue is named, or an event for all of them."""

    body: dict[str, Any]
    headers: dict[str, Any]
    queue: str | None = None


class Outbox:
    """`put` may be called by any thread, and never waits."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        """`connect` makes a connection that only the thread uses."""
        self._connect = connect
        self._producer: Any = None  # kombu's, which has no types
        self._letters: deque[Letter] = deque(maxlen=LIMIT)
        self._changed = threading.Condition()
        self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin; once more does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def put(self, letter: Letter) -> None:
        """Send it when its turn comes, or drop it."""
        with self._changed:
            self._letters.append(letter)
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Send what is there, but do not take longer than `seconds`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while letters := self._take():
            try:
                for message in _together(letters):
                    self._publish(*message)
                self._failing = False
            except Exception as error:  # noqa: BLE001 (no monitor may end this thread, and with it all that follows)
                self._give_up(error)
        self._disconnect()

    def _take(self) -> list[Letter]:
        with self._changed:
            self._changed.wait_for(lambda: self._letters or self._stopping)
            letters = list(self._letters)
            self._letters.clear()
        return letters

    def _publish(self, body: Any, headers: dict[str, Any], queue: str | None) -> None:
        if self._producer is None:
            connection: Any = self._connect()
            connection.connect()  # once; `default_channel` would try until Redis answers
            channel = connection.channel()
            self._producer = Producer(channel, serializer="json", auto_declare=False)  # type: ignore[no-untyped-call]
        if queue is not None:
            self._producer.publish(body, exchange="", routing_key=queue, headers=headers, delivery_mode=1)
            return
        exchange = get_exchange(self._producer.connection)
        key = "task.multi" if isinstance(body, list) else body["type"].replace("-", ".")
        self._producer.publish(
            body, exchange=exchange.name, routing_key=key, headers=headers, declare=[exchange], delivery_mode=1
        )

    def _give_up(self, error: Exception) -> None:
        if not self._failing:  # one line for an outage
            log.warning("monitors_not_told", error=why_unavailable(error), consequence="they miss some events")
        self._failing = True
        self._disconnect()
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, PAUSE_SECONDS)
            if self._stopping:
                self._letters.clear()

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.connection.close()
        except Exception as error:  # noqa: BLE001 (the connection is broken: that is why it is closed)
            log.debug("outbox_not_closed", error=repr(error))


def _together(letters: Sequence[Letter]) -> Iterator[tuple[Any, dict[str, Any], str | None]]:
    """Events of jobs go several in one message, as Celery sends them too; all else as it is."""
    tasks: list[Letter] = []
    others: list[Letter] = []
    for letter in letters:
        is_task = letter.queue is None and letter.body["type"].startswith("task-")
        (tasks if is_task else others).append(letter)
    for begin in range(0, len(tasks), TOGETHER):
        some = tasks[begin : begin + TOGETHER]
        yield [letter.body for letter in some], some[0].headers, None
    yield from ((letter.body, letter.headers, letter.queue) for letter in others)
