"""A monitor as other people run one: Celery's own client with nothing but the broker's URL, as Flower is one."""

from __future__ import annotations

import json
import threading
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any

import redis
from celery import Celery
from celery.events.receiver import EventReceiver
from kombu import pools

from tests.eventually import eventually

REPLIES = "reply.celery.pidbox"


class Monitor:
    """Asks workers, and reads what they answer."""

    def __init__(self, redis_url: str) -> None:
        self.app = Celery("monitor", broker=redis_url, set_as_current=False)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.app.close()
        pools.reset()  # kombu keeps connections by URL, also those to a server that has gone

    def ask(self, command: str, *, workers: int = 1, to: list[str] | None = None, **arguments: Any) -> dict[str, Any]:
        """Node -> reply; as soon as so many workers have replied, or all that do within ten seconds."""
        replies = self.app.control.broadcast(
            command, arguments=arguments, destination=to, reply=True, limit=workers, timeout=10
        )
        return {node: reply for each in replies or [] for node, reply in each.items()}

    def ask_one(self, command: str, **arguments: Any) -> Any:
        """The reply of the only worker."""
        (reply,) = self.ask(command, **arguments).values()
        return reply

    def is_answered(self) -> bool:
        """Whether a worker answers at once."""
        return bool(self.app.control.broadcast("ping", reply=True, limit=1, timeout=1))

    def tell(self, command: str, **arguments: Any) -> None:
        """Ask, and wait for no reply."""
        self.app.control.broadcast(command, arguments=arguments)

    def watching(self) -> Watch:
        """Collects events as long as the block runs."""
        return Watch(self.app)


class Watch:
    """The events that workers send while the block runs."""

    def __init__(self, app: Celery) -> None:
        self.events: list[dict[str, Any]] = []
        self._app = app
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def of(self, job_id: str) -> list[str]:
        """The types of the events of a job, oldest first."""
        return [event["type"] for event in self.of_jobs() if event["uuid"] == job_id]

    def of_jobs(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"].startswith("task-")]

    def of_workers(self) -> list[str]:
        return [event["type"] for event in self.events if event["type"].startswith("worker-")]

    def __enter__(self) -> Watch:
        with redis.Redis.from_url(self._app.conf.broker_url) as client:
            before = client.pubsub_numpat()
            self._thread.start()
            eventually(lambda: client.pubsub_numpat() > before)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = EventReceiver(connection, app=self._app, handlers={"*": self.events.append})
            with receiver.consumer_context(wakeup=False) as (own_connection, _, _):
                while not self._stop.is_set():
                    with suppress(TimeoutError):
                        own_connection.drain_events(timeout=0.1)


def publish(client: redis.Redis, body: Any, *, exchange: str = "celery.pidbox", **message: Any) -> None:
    """Publish to the remote control of all workers without any client's help."""
    text = json.dumps(body)
    whole = {
        "body": text,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {"delivery_tag": str(uuid.uuid4()), "delivery_info": {"exchange": exchange, "routing_key": ""}},
    }
    client.publish(f"/0.{exchange}", json.dumps({**whole, **message}))
