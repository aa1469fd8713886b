"""Workers' signs of life: each live worker keeps a key in Redis that expires with its lease."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import cast, get_args

import redis
from pydantic import ValidationError

from jobs.ledger.keys import WORKER_PREFIX, exits_key
from jobs.ledger.records import Exit, Heartbeat, WorkerFacts
from jobs.ledger.redis_client import SCAN_COUNT, answering, passing_over_damage

NO_FACTS = WorkerFacts()


class Workers:
    """The part of the ledger that knows which workers live, and which jobs they have in flight.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """

    client: redis.Redis
    queue: str

    def beat(
        self, worker: str, *, in_flight: Collection[str], lease_seconds: float, facts: WorkerFacts = NO_FACTS
    ) -> None:
        """Say that a worker of this queue lives, which jobs it holds, and what else it says of itself.

        It counts as dead `lease_seconds` after its last beat.
        """
        facts = facts.model_copy(update={"queue": self.queue})
        beat = Heartbeat(worker=worker, in_flight=tuple(in_flight), at=time.time(), facts=facts)
        text = beat.model_dump_json(by_alias=True, exclude_none=True)
        with answering():
            self.client.set(WORKER_PREFIX + worker, text, px=int(lease_seconds * 1000))

    def retire(self, worker: str) -> None:
        """Say that a worker is gone, so that its jobs need not wait for its lease to end."""
        with answering():
            self.client.delete(WORKER_PREFIX + worker)

    def count_exit(self, why: Exit) -> None:
        """Count a worker that ends by itself. It is the only trace that it leaves for those who watch from outside."""
        with answering():
            self.client.hincrby(exits_key(self.queue), why, 1)

    def exits(self) -> dict[Exit, int]:
        """How many workers of this queue ended by themselves, by why, since Redis was last empty."""
        numbers: dict[str, str] = {}
        with passing_over_damage(), answering():
            numbers = cast("dict[str, str]", self.client.hgetall(exits_key(self.queue)))
        return {why: int(number) if (number := numbers.get(why, "0")).isdecimal() else 0 for why in get_args(Exit)}

    def workers(self) -> dict[str, Heartbeat]:
        """The live workers by name."""
        with answering():
            names = self._worker_keys()
            texts = cast("list[str | None]", self.client.mget(names)) if names else []
        beats = [_heartbeat(text) for text in texts if text]
        return {beat.worker: beat for beat in beats if beat is not None}

    def _worker_keys(self) -> list[str]:
        with answering():
            return list(self.client.scan_iter(match=WORKER_PREFIX + "*", count=SCAN_COUNT))

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
        return None  # another program may have written anything there
