"""Workers' signs of life: each live worker keeps a key in Redis that expires with its lease."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import cast

import redis
from pydantic import ValidationError

from jobs.ledger.keys import WORKER_PREFIX
from jobs.ledger.records import Heartbeat
from jobs.ledger.redis_client import SCAN_COUNT, answering


class Workers:
    """The part of the ledger that knows which workers live, and which jobs they have in flight.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """

    client: redis.Redis

    def beat(self, worker: str, *, in_flight: Collection[str], lease_seconds: float) -> None:
        """Say that a worker lives, and which jobs it holds. It counts as dead `lease_seconds` after its last beat."""
        beat = Heartbeat(worker=worker, in_flight=tuple(in_flight), at=time.time())
        with answering():
            self.client.set(WORKER_PREFIX + worker, beat.model_dump_json(by_alias=True), px=int(lease_seconds * 1000))

    def retire(self, worker: str) -> None:
        """Say that a worker is gone, so that nobody waits for its lease to end."""
        with answering():
            self.client.delete(WORKER_PREFIX + worker)

    def workers(self) -> dict[str, Heartbeat]:
        """The live workers by name."""
        with answering():
            names = list(self.client.scan_iter(match=WORKER_PREFIX + "*", count=SCAN_COUNT))
            texts = cast("list[str | None]", self.client.mget(names)) if names else []
        beats = [_heartbeat(text) for text in texts if text]
        return {beat.worker: beat for beat in beats if beat is not None}

    def jobs_in_flight(self) -> dict[str, str]:
        """Job id -> the live worker that holds it."""
        return {id_: name for name, beat in self.workers().items() for id_ in beat.in_flight}

    def seconds_up(self) -> float:
        """How long Redis has been running. Right after a restart, live workers have not sent their next beat yet."""
        with answering():
            return float(self.client.info("server")["uptime_in_seconds"])


def _heartbeat(text: str) -> Heartbeat | None:
    try:
        return Heartbeat.model_validate_json(text)
    except ValidationError:
        return None  # whoever can write to Redis can put anything there
