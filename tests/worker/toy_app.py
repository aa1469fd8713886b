"""A Celery app around GpuPool with nothing to render: its jobs only wait, and write down when.

Run as `celery -A tests.worker.toy_app worker`. Configured by TOY_URL, TOY_PREFETCH, TOY_GRACE; jobs append lines to the
Redis list `log`: `begin <id> <time>`, `end <id> <time>`, `requeued <id> <time>`.
"""

from __future__ import annotations

import os
import time

import redis
from celery import Celery
from celery.exceptions import Reject

from jobs.errors import Requeued
from worker.shutdown import Shutdown


class ToyService:
    """Jobs wait on the Shutdown, so that its second step ends them all."""

    def __init__(self) -> None:
        self.grace_seconds = float(os.environ.get("TOY_GRACE", "5"))
        self.shutdown = Shutdown()
        self.log = redis.Redis.from_url(os.environ["TOY_URL"], decode_responses=True)

    def start(self, fatal: object) -> None:
        if code := os.environ.get("TOY_REFUSE"):
            raise SystemExit(int(code))
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
