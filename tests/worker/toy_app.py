"""A Celery app around GpuPool with nothing to render: its jobs only wait, and write down when.

Run as `celery -A tests.worker.toy_app worker`. Configured by TOY_URL, TOY_PREFETCH, TOY_GRACE; TOY_EVENTS shows it to
monitors, and the first TOY_THREADLESS jobs find no thread. Jobs append lines to the Redis list `log`:
`begin <id> <time>`, `end <id> <time>`, `requeued <id> <time>`. While the Redis key `paused` exists, the toy is paused.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace

import redis
from celery import Celery
from celery.exceptions import Reject

from jobs.errors import Requeued
from worker.shutdown import Shutdown


class ToyFitness:
    """Paused while the key `paused` exists; looks often, in a thread of its own, as a real check would."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._paused: str | None = None
        self.looks = 0  # of the event loop, before each turn without a BRPOP, and of monitors
        self.listeners: list[Callable[[], None]] = []

    @property
    def paused(self) -> str | None:
        self.looks += 1
        return self._paused

    def on_change(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    def start(self) -> None:
        self.look()
        threading.Thread(target=self.look_again, daemon=True).start()

    def look_again(self) -> None:
        while True:
            time.sleep(0.02)
            with suppress(redis.RedisError):  # the test has stopped Redis
                self.look()

    def look(self) -> None:
        reason = "as told" if self.client.exists("paused") else None
        self.client.set("looks", self.looks)
        if reason != self._paused:
            self._paused = reason
            self.client.rpush("pauses", "paused" if reason else "resumed")
            for listener in self.listeners:
                listener()


def refuse_threads(number: int) -> None:
    """As where the process may have no more: the next `number` threads of jobs cannot be started."""
    start, left = threading.Thread.start, [None] * number

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith("job") and left:
            left.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = refused  # type: ignore[assignment,method-assign]


class ToyService:
    """Jobs wait on the Shutdown, so that its second step ends them all."""

    name = "toy"
    settings = SimpleNamespace(heartbeat_seconds=0.2)

    def __init__(self) -> None:
        self.grace_seconds = float(os.environ.get("TOY_GRACE", "5"))
        self.shutdown = Shutdown()
        self.log = redis.Redis.from_url(os.environ["TOY_URL"], decode_responses=True)
        self.fitness = ToyFitness(self.log)
        self.parked_jobs = int(os.environ.get("TOY_PARKED", "0"))

    def start(self, fatal: object) -> None:
        if code := os.environ.get("TOY_REFUSE"):
            raise SystemExit(int(code))
        refuse_threads(int(os.environ.get("TOY_THREADLESS", "0")))
        self.fitness.start()
        self.shutdown.on_step(self.note_drain)
        self.note("start", "service")

    def note_drain(self) -> None:
        if not self.shutdown.requeueing:
            self.note("drain", "service")

    def stop(self) -> None:
        self.note("stop", "service")

    def note(self, what: str, who: str) -> None:
        self.log.rpush("log", f"{what} {who} {time.time()}")


app = Celery("toy", broker=os.environ["TOY_URL"], set_as_current=False)
app.conf.update(
    worker_pool="worker.celery.pool:GpuPool",
    worker_consumer="worker.celery.transport:QuietConsumer",
    broker_transport="worker.celery.transport:TolerantTransport",
    worker_concurrency=1,
    worker_prefetch_multiplier=int(os.environ.get("TOY_PREFETCH", "4")),
    worker_enable_remote_control=False,
    worker_send_task_events="TOY_EVENTS" in os.environ,
    task_default_queue="toy",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": int(os.environ.get("TOY_VISIBILITY", "3600")),
        "priority_steps": [0],
        "sep": ":",
        "queue_order_strategy": "priority",
    },
)
app.service = ToyService()


@app.task(name="toy", bind=True)
def toy(self, seconds: float) -> None:  # type: ignore[no-untyped-def]
    service = self.app.service
    service.note("begin", self.request.id)
    try:
        service.shutdown.pause(seconds)
    except Requeued as error:
        service.note("requeued", self.request.id)
        raise Reject("requeued", requeue=True) from error
    service.note("end", self.request.id)
