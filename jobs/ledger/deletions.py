"""Deletions: whole batches leave the ledger.

A batch's messages are taken out of Redis first (messages_of_batches.py), slice by slice; then one short script forgets
the batch, and Redis frees its memory in a thread of its own. What is deleted is remembered for a week: a worker or a
message that outlived its batch must not bring half of it back, as it does for a ledger that was lost.

Where files are deleted too, that comes first and may take long, so the deletion is marked as begun: nothing may be
added to the batch until it has ended. A deletion that was killed is begun again and goes on; of two at once the later
one takes over, and the other stops.
"""

from __future__ import annotations

import secrets
import time
from typing import Literal, NamedTuple, cast

import redis

from jobs.errors import BatchDeleted
from jobs.ledger.batches import Batches, being_deleted
from jobs.ledger.keys import BATCHES, DELETED, DELETED_SECONDS, DELETING, all_batch_keys, batch_key
from jobs.ledger.lua import Scripts
from jobs.ledger.redis_client import answering

Forgotten = Literal["forgotten", "active", "taken"]


class Begun(NamedTuple):
    """A deletion that was begun: its token, and whether it continues an earlier one that did not end."""

    token: str
    resumes: bool


class Deletions(Batches):
    """The part of the ledger that forgets batches.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """

    client: redis.Redis
    _scripts: Scripts

    def begin_deletion(self, batch: str) -> Begun:
        """Mark a batch as being deleted. A deletion of it that is under way stops when it looks for its token."""
        token = secrets.token_hex(8)
        with answering(), self.client.pipeline() as together:
            together.hexists(DELETING, batch)
            together.hset(DELETING, batch, f"{token} {time.time():.3f}")
            resumes, _ = together.execute()
        return Begun(token, bool(resumes))

    def goes_on(self, batch: str, token: str) -> bool:
        """Whether a deletion is still the latest one of its batch, and nobody else has ended it."""
        with answering():
            text = cast("str | None", self.client.hget(DELETING, batch))
        return text is not None and text.split(" ")[0] == token

    def give_up_deletion(self, batch: str, token: str) -> None:
        """End a deletion that has deleted nothing: the batch may be used again."""
        if self.goes_on(batch, token):
            with answering():
                self.client.hdel(DELETING, batch)

    def deleted_at(self, batch: str) -> float | None:
        """When a batch was deleted, in seconds since the epoch by Redis' clock.

        None where it was not, where it was submitted again since, and a week later.
        """
        with answering(), self.client.pipeline() as together:
            together.zscore(DELETED, batch)
            together.hexists(BATCHES, batch)
            at, is_known = cast("tuple[float | None, int]", tuple(together.execute()))
        return None if is_known else at

    def has_keys(self, batch: str) -> bool:
        """Whether Redis has anything of a batch, registered or not."""
        with answering():
            return bool(self.client.exists(*all_batch_keys(batch)))

    def forget(self, batch: str, *, token: str = "", unfinished: bool = False) -> Forgotten:
        """Forget a batch and everything that the ledger has of it, in one step of a few milliseconds.

        `token` is that of its deletion, where one was begun; without one, a batch that somebody else is deleting stays
        ('taken'). A batch with jobs that have not ended stays ('active'), unless `unfinished` says to forget them too.
        Messages are not touched: take them out of the queue first.
        """
        parts = [key for key in all_batch_keys(batch) if key != batch_key(batch, "counts")]
        keys = [BATCHES, DELETED, DELETING, batch_key(batch, "counts"), *parts]
        arguments = [batch, token, int(unfinished), DELETED_SECONDS]
        return cast(Forgotten, self._scripts.run("forget", keys=keys, arguments=arguments))

    def forget_remains(self) -> list[str]:
        """Forget what workers of an earlier version brought back of deleted batches; returns the batches' names."""
        with answering():
            names = cast("list[str]", self.client.zrange(DELETED, 0, -1))
            with self.client.pipeline(transaction=False) as together:
                for name in names:
                    together.exists(*all_batch_keys(name))
                keys = together.execute()
        remains = [name for name, number in zip(names, keys, strict=True) if number and self.deleted_at(name)]
        return [name for name in remains if self.forget(name, unfinished=True) == "forgotten"]

    def why_deleted(self, batch: str) -> BatchDeleted:
        """What to raise where jobs cannot be added to a batch."""
        if self.is_being_deleted(batch):
            return being_deleted(batch)
        return BatchDeleted(
            f"batch {batch!r} was deleted while jobs were added to it; submit its CSV again, and it begins anew"
        )
