"""A Redis client before whose nth command somebody else does something: every interleaving can be forced."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import redis

from jobs.job import RenderJob
from jobs.ledger.kombu_view import UNACKED, UNACKED_INDEX
from jobs.ledger.ledger import Ledger


class InterruptedClient(redis.Redis):
    """Calls `interrupt` once, before the command number `at` (from 0) that it sends."""

    def interrupt_at(self, at: int, interrupt: Callable[[], object]) -> None:
        """Arm it, and count from 0 again."""
        self.sent, self._at, self._interrupt = 0, at, interrupt

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if getattr(self, "sent", None) is not None:
            if self.sent == self._at:
                self._interrupt()
            self.sent += 1
        return super().execute_command(*args, **options)


class Consumer:
    """What kombu and a worker do in Redis, step by step, with a clock that may be `skew` seconds fast."""

    def __init__(self, ledger: Ledger, name: str, *, skew: float = 0.0) -> None:
        self.ledger, self.name, self.skew = ledger, name, skew
        self._popped = ""

    def beat(self, *in_flight: str) -> None:
        self.ledger.beat(self.name, in_flight=in_flight, lease_seconds=60)

    def pop(self) -> None:
        """The first step of a delivery."""
        self._popped = str(self.ledger.client.rpop(self.ledger.queue))

    def note(self, *, seconds_ago: float = 0.0) -> str:
        """The second step of a delivery. Returns the delivery tag."""
        message = json.loads(self._popped)
        tag = str(message["properties"]["delivery_tag"])
        with self.ledger.client.pipeline() as together:
            together.zadd(UNACKED_INDEX, {tag: time.time() + self.skew - seconds_ago})
            together.hset(UNACKED, tag, json.dumps([message, "", self.ledger.queue]))
            together.execute()
        return tag

    def deliver(self, *, seconds_ago: float = 0.0) -> str:
        self.pop()
        return self.note(seconds_ago=seconds_ago)

    def acknowledge(self, tag: str) -> None:
        with self.ledger.client.pipeline() as together:
            together.zrem(UNACKED_INDEX, tag)
            together.hdel(UNACKED, tag)
            together.execute()

    def put_back(self, tag: str) -> None:
        """What kombu does with a message that is rejected: it goes to the queue's tail."""
        (message, _, queue) = json.loads(str(self.ledger.client.hget(UNACKED, tag)))
        with self.ledger.client.pipeline() as together:
            together.zrem(UNACKED_INDEX, tag)
            together.hdel(UNACKED, tag)
            together.lpush(queue, json.dumps(message))
            together.execute()


def messages_of(ledger: Ledger, job: RenderJob) -> int:
    """How many messages a job has: in the queue, with consumers, and among the delayed ones."""
    texts = [*ledger.client.lrange(ledger.queue, 0, -1), *ledger.client.hvals(UNACKED)]
    return sum(f'"correlation_id": "{job.id}"' in str(text) for text in texts) + list(ledger.delayed_ids()).count(
        job.id
    )
