"""The messages as kombu's Redis transport keeps them: those that wait in the queue, and those that consumers have.

A queue is a list. A consumer pops a message from its right end and notes it in the hash `unacked` (delivery tag ->
message) and in the sorted set `unacked_index` (delivery tag by time) until it acknowledges the message. All queues of
one Redis database share these two keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import redis

from jobs.ledger.lua import Scripts
from jobs.ledger.redis_client import SCAN_COUNT, answering, scanned

UNACKED, UNACKED_INDEX = "unacked", "unacked_index"  # kombu.transport.redis.Channel's defaults
ID_LENGTH = 20
_ID = re.compile(r'"correlation_id": ?"([0-9a-f]{20})"')


@dataclass(frozen=True)
class Delivered:
    """A message that a consumer has: its delivery tag, and since when (seconds since the epoch)."""

    tag: str
    since: float


class KombuView:
    """Reads one queue, and what consumers have. Every method raises LedgerUnavailable when Redis does not answer."""

    def __init__(self, client: redis.Redis, scripts: Scripts, queue: str) -> None:
        self._client = client
        self._scripts = scripts
        self._queue = queue

    def queue_length(self) -> int:
        """Messages waiting in the queue."""
        with answering():
            return self._client.llen(self._queue)

    def queued_ids(self) -> Iterator[str]:
        """The ids of the jobs whose messages wait in the queue, tail first. Items that are not messages are skipped."""
        # From the tail, against the direction in which messages move: some are seen twice, but none is missed.
        start = 0
        while True:
            stretch = [start, start + SCAN_COUNT - 1]
            number, ids = self._scripts.run("queued_ids", keys=[self._queue], arguments=stretch)
            yield from (ids[i : i + ID_LENGTH] for i in range(0, len(ids), ID_LENGTH))
            if number < SCAN_COUNT:
                return
            start += SCAN_COUNT

    def delivered(self) -> dict[str, Delivered]:
        """Job id -> the message that a consumer has taken and not acknowledged, of whatever queue."""
        with answering():
            times = cast("list[tuple[str, float]]", self._client.zrange(UNACKED_INDEX, 0, -1, withscores=True))
        since = dict(times)
        messages: dict[str, Delivered] = {}
        for tag, text in scanned(self._client, UNACKED):
            match = _ID.search(text)
            if match and "\ufffd" not in tag:  # a tag that is not text is not ours, and cannot be named to Redis again
                messages[match.group(1)] = Delivered(tag, since.get(tag, 0.0))
        return messages
