"""The messages as kombu's Redis transport keeps them: those that wait in the queue, and those that consumers have.

A queue is a list. A consumer pops a message from its right end and notes it in the hash `unacked` (delivery tag ->
message) and in the sorted set `unacked_index` (delivery tag by time) until it acknowledges the message. All queues of
one Redis database share these two keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import redis

from jobs.ledger.keys import batch_key, sifted_key
from jobs.ledger.lua import Scripts
from jobs.ledger.redis_client import SCAN_COUNT, answering, scanned

UNACKED, UNACKED_INDEX = "unacked", "unacked_index"  # kombu.transport.redis.Channel's defaults
ID_LENGTH = 20
OLDEST_OF = 100  # messages at each end of the queue
_ID = re.compile(r'"correlation_id": ?"([0-9a-f]{20})"')


class QueueMoved(Exception):
    """Messages changed their places while the queue was read, so that some may have been missed."""


@dataclass(frozen=True)
class Delivered:
    """A message that a consumer has: its delivery tag, and since when.

    `since` is in seconds since the epoch by the consumer's clock, and None where kombu noted no time: the message was
    acknowledged while we read, or the time was lost.
    """

    tag: str
    since: float | None


def message_id(text: str) -> str | None:
    """The job id in a message as kombu keeps it; None if it has no id."""
    match = _ID.search(text)
    return match[1] if match else None


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

    def unacknowledged(self) -> int:
        """Messages that consumers have, of all queues."""
        with answering():
            return self._client.hlen(UNACKED)

    def oldest_queued_at(self) -> float | None:
        """When the message that waits longest, among OLDEST_OF at each end, was queued: seconds since the epoch.

        A job that is given back by its worker keeps the time; one that the ledger queues again has a new one. None
        where no message says it: the queue is empty, or an earlier version queued them.
        """
        seconds = self._scripts.run("oldest", keys=[self._queue], arguments=[OLDEST_OF])
        return None if seconds is None else float(seconds)

    def forget(self, tags: Sequence[str]) -> None:
        """Remove messages that consumers have, as if they had acknowledged them."""
        if tags:
            with answering(), self._client.pipeline() as together:
                together.zrem(UNACKED_INDEX, *tags)
                together.hdel(UNACKED, *tags)
                together.execute()

    def drop_delivered(self, tags: Sequence[str], *, batches: Iterable[str], unfinished: bool) -> int:
        """`forget` those whose jobs are in some batches and have ended; returns how many.

        With `unfinished`, the messages of these batches' other jobs as well.
        """
        keys = [UNACKED, UNACKED_INDEX, *(batch_key(batch, "states") for batch in batches)]
        return int(self._scripts.run("drop_delivered", keys=keys, arguments=[int(unfinished), *tags]))

    def queued_ids(self) -> Iterator[str]:
        """The ids of the jobs whose messages wait in the queue, tail first. Items that are not messages are skipped.

        Raises:
            QueueMoved: at the end, where messages were sifted meanwhile (sift.py).
        """
        # From the tail, against the direction in which messages move: some are seen twice, but none is missed.
        start, sifted_at_start = 0, None
        while True:
            stretch, keys = [start, start + SCAN_COUNT - 1], [self._queue, sifted_key(self._queue)]
            number, ids, sifted = self._scripts.run("queued_ids", keys=keys, arguments=stretch)
            yield from (ids[i : i + ID_LENGTH] for i in range(0, len(ids), ID_LENGTH))
            sifted_at_start = sifted if sifted_at_start is None else sifted_at_start
            if number < SCAN_COUNT:
                break
            start += SCAN_COUNT
        if sifted != sifted_at_start:
            raise QueueMoved

    def delivered(self) -> dict[str, Delivered]:
        """Job id -> the message that a consumer has taken and not acknowledged, of whatever queue; of several, the
        one that was taken last.
        """
        # The messages first, then their times. kombu writes and removes both in one step, so a message that is
        # delivered between the two reads is not seen yet, and one that is acknowledged between them has no time. The
        # other way round, a message that has just been delivered would look as if it had been so since 1970.
        tags = [(tag, id_) for tag, text in scanned(self._client, UNACKED) if (id_ := message_id(text))]
        with answering():
            times = dict(cast("list[tuple[str, float]]", self._client.zrange(UNACKED_INDEX, 0, -1, withscores=True)))
        messages: dict[str, Delivered] = {}
        for tag, id_ in tags:
            if "\ufffd" in tag:
                continue  # a tag that is not text is not ours, and cannot be named to Redis again
            since = times.get(tag)
            other = messages.get(id_)
            if other is None or (since or 0.0) > (other.since or 0.0):
                messages[id_] = Delivered(tag, since)
        return messages
