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
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import redis

from jobs.errors import BatchDeleted
from jobs.ledger.batches import Batches, being_deleted
from jobs.ledger.keys import BATCHES, DELETED, DELETED_SECONDS, DELETING, all_batch_keys, batch_key
from jobs.ledger.lua import Scripts
from jobs.ledger.records import BatchInfo
from jobs.ledger.redis_client import answering

Forgotten = Literal["forgotten", "active", "taken"]
_GONE = " gone"  # at the end of a mark


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
        before = self._mark(batch, lambda mark: f"{token} {time.time():.3f}{_GONE if _says_gone(mark) else ''}")
        return Begun(token, before is not None)

    def note_files_gone(self, batch: str, token: str) -> None:
        """Record that a deletion has deleted all files of the batch's jobs: a resumed deletion need not find any."""
        self._mark(batch, lambda mark: f"{mark}{_GONE}" if _is_of(mark, token) and not _says_gone(mark) else mark)

    def files_are_gone(self, batch: str) -> bool:
        """Whether a deletion that has not ended has deleted all files of the batch's jobs."""
        with answering():
            return _says_gone(cast("str | None", self.client.hget(DELETING, batch)))

    def goes_on(self, batch: str, token: str) -> bool:
        """Whether a deletion is still the latest one of its batch, and has not been ended by another command."""
        with answering():
            return _is_of(cast("str | None", self.client.hget(DELETING, batch)), token)

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

    def was_deleted(self, info: BatchInfo) -> bool:
        """Whether the batch of this registration was deleted, even if another one was submitted under its name since.

        A deletion is remembered for a week.
        """
        with answering():
            is_remembered = self.client.zscore(DELETED, info.name) is not None
        return is_remembered and self.batch(info.name) != info

    def has_keys(self, batch: str) -> bool:
        """Whether Redis has anything of a batch, registered or not."""
        with answering():
            return bool(self.client.exists(*all_batch_keys(batch)))

    def forget(self, batch: str, *, token: str = "", unfinished: bool = False) -> Forgotten:
        """Forget a batch and everything that the ledger has of it, in one step of a few milliseconds.

        `token` is that of its deletion, if one was begun; without it, a batch that another command is deleting stays
        ('taken'). A batch with jobs that have not ended stays ('active'), unless `unfinished` says to forget them too.
        Messages are not touched: take them out of the queue first.
        """
        return self._forget(batch, all_batch_keys(batch), [token, int(unfinished), DELETED_SECONDS, 0])

    def forget_remains(self) -> list[str]:
        """Forget what workers of an earlier version brought back of deleted batches; returns the batches' names.

        A command that rebuilds a batch marks it so before it registers the batch, so that mark is not counted.
        """
        with answering():
            names = cast("list[str]", self.client.zrange(DELETED, 0, -1))
            with self.client.pipeline(transaction=False) as together:
                for name in names:
                    together.exists(*_without_mark(name))
                keys = together.execute()
        remains = [name for name, number in zip(names, keys, strict=True) if number]
        arguments: list[str | int] = ["", 1, DELETED_SECONDS, 1]
        return [name for name in remains if self._forget(name, _without_mark(name), arguments) == "forgotten"]

    def why_deleted(self, batch: str) -> BatchDeleted:
        """What to raise where jobs cannot be added to a batch."""
        if self.is_being_deleted(batch):
            return being_deleted(batch)
        return BatchDeleted(
            f"batch {batch!r} was deleted while jobs were added to it; submit its CSV again, and it begins anew"
        )

    def _forget(self, batch: str, parts: Sequence[str], arguments: Sequence[str | int]) -> Forgotten:
        counts = batch_key(batch, "counts")
        keys = [BATCHES, DELETED, DELETING, counts, *(key for key in parts if key != counts)]
        return cast(Forgotten, self._scripts.run("forget", keys=keys, arguments=[batch, *arguments]))

    def _mark(self, batch: str, change: Callable[[str | None], str | None]) -> str | None:
        """Change a batch's mark in DELETING in one step, unless None comes out; returns what it was."""

        def in_one_step(together: Any) -> Any:
            before = cast("str | None", together.hget(DELETING, batch))
            after = change(before)
            together.multi()
            if after is not None:
                together.hset(DELETING, batch, after)
            return before

        with answering():
            return cast("str | None", self.client.transaction(in_one_step, DELETING, value_from_callable=True))


def _is_of(mark: str | None, token: str) -> bool:
    return mark is not None and mark.split(" ")[0] == token


def _says_gone(mark: str | None) -> bool:
    return mark is not None and mark.endswith(_GONE)


def _without_mark(batch: str) -> list[str]:
    return [key for key in all_batch_keys(batch) if key != batch_key(batch, "rebuilding")]
