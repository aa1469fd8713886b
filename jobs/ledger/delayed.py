"""Delayed jobs: queued in the ledger, but without a message until their time has come."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import cast

import redis

from jobs.errors import LedgerUnavailable
from jobs.job import BATCH_NAME, RenderJob
from jobs.ledger.batches import Batches
from jobs.ledger.chunks import chunks
from jobs.ledger.keys import BATCHES, DELETED, WORKER_PREFIX, batch_key, batch_keys, delayed_key, unheld_key
from jobs.ledger.lua import Scripts
from jobs.ledger.message import message_for
from jobs.ledger.records import refusals_in
from jobs.ledger.redis_client import SCAN_COUNT, answering, is_away, passing_over_damage

LOOKED_AT = 200  # of the jobs that wait for a worker with their set, drawn by lot, at each beat of one with free places

Holds = Callable[[RenderJob], bool]  # whether a worker has the engine set that a job wants

_ENTRY = re.compile(rf"({BATCH_NAME.pattern}) ([0-9a-f]{{20}})", re.ASCII)


def ids_by_batch(entries: Iterable[str]) -> dict[str, list[str]]:
    """The job ids of entries of the delayed jobs, by batch."""
    by_batch: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        batch, _, id_ = entry.partition(" ")
        by_batch[batch].append(id_)
    return by_batch


class Delayed(Batches):
    """The part of the ledger that gives jobs back after a while. All times are by Redis' own clock.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """

    client: redis.Redis
    queue: str
    _scripts: Scripts
    _max_attempts: int

    def defer(self, job: RenderJob, *, worker: str, seconds: float, refund: bool, orphans: bool = False) -> bool:
        """Give a job back for `seconds`, whether this worker has started it or not; with `orphans`, a dead one's too.

        True where the job is delayed now, False where it ended or is with another worker. In both cases the caller
        acknowledges the message. `refund` where the attempt was not the job's fault. A job that the ledger did not know
        counts one attempt all the same: only then does its next start look for a result in storage.
        """
        keys = [*batch_keys(job.batch, "states", "counts", "jobs", "cancels"), delayed_key(self.queue)]
        keys += [BATCHES, DELETED]
        arguments = [job.id, job.model_dump_json(), worker, max(0.0, seconds), int(refund)]
        arguments += [self._max_attempts, WORKER_PREFIX if orphans else ""]
        return bool(self._scripts.run("defer", keys=keys, arguments=arguments))

    def feed_delayed(
        self, *, limit: int = 1000, places: int = 0, holds: Holds | None = None, names: Collection[str] = ()
    ) -> int:
        """Queue the messages of at most `limit` delayed jobs whose time has come; returns how many were queued.

        A worker with free places also gets messages of up to so many jobs that others refused for want of an engine
        set that it `holds`. If all of them came back after the same time, the others would take most of them away
        again, and it would have nothing to do until the next time. Not those that it has refused itself, for another
        reason and under one of its `names` (Refusal.by): they wait for other workers.

        Every heartbeat and every pass of the reconciler calls it; any number of callers may do so at once.
        """
        looked_at = LOOKED_AT if holds is not None and places > 0 else 0
        keys = [delayed_key(self.queue), unheld_key(self.queue)]
        due, unheld = self._scripts.run("due", keys=keys, arguments=[limit, looked_at])
        if holds is not None and unheld:
            due = [*due, *self._bring_forward(unheld, places=places, holds=holds, names=names)]
        fed, refusal = 0, None
        for batch, ids in ids_by_batch(due).items():
            try:
                fed += sum(self._feed(batch, chunk) for chunk in chunks(ids))
            except LedgerUnavailable as error:
                if is_away(error):
                    raise
                refusal = error  # of this batch: a damaged key must not keep the others waiting
        if refusal is not None:
            raise refusal
        return fed

    def _bring_forward(self, entries: Sequence[str], *, places: int, holds: Holds, names: Collection[str]) -> list[str]:
        """Those of the entries whose time has come now, since a worker that has a place holds their sets."""
        wanted: list[str] = []
        for batch, ids in ids_by_batch(entries).items():
            with passing_over_damage():  # its jobs come back in their time, and feeding them says what is wrong
                held = [id_ for id_, job in self.jobs(batch, ids).items() if holds(job)]
                wanted += [f"{batch} {id_}" for id_ in self._not_refused(batch, held, names)]
        wanted = wanted[:places]
        if wanted:
            with answering():
                self.client.zadd(delayed_key(self.queue), dict.fromkeys(wanted, 0.0), xx=True)
        return wanted

    def _not_refused(self, batch: str, ids: Sequence[str], names: Collection[str]) -> list[str]:
        """Those of the jobs that nobody of these names has refused."""
        if not ids or not names:
            return list(ids)
        with answering():
            texts = cast("list[str | None]", self.client.hmget(batch_key(batch, "refusals"), list(ids)))
        said = zip(ids, texts, strict=True)
        return [id_ for id_, text in said if not any(each.by in names for each in refusals_in(text or ""))]

    def drop_delayed(self, batch: str, ids: Sequence[str], *, unfinished: bool) -> int:
        """Remove the entries of a batch's jobs that have ended, or are not known; with `unfinished`, of all jobs."""
        keys = [delayed_key(self.queue), batch_key(batch, "states")]
        return int(self._scripts.run("drop_delayed", keys=keys, arguments=[int(unfinished), *ids]))

    def delayed(self) -> int:
        """How many jobs of this queue wait for their time."""
        with answering():
            return self.client.zcard(delayed_key(self.queue))

    def delayed_ids(self) -> Iterator[str]:
        """The ids of these jobs, in no order. One that is there all the time is not missed; some may come twice."""
        with answering():
            for member, _ in self.client.zscan_iter(delayed_key(self.queue), count=SCAN_COUNT):
                if match := _ENTRY.fullmatch(member):
                    yield match[2]

    def server_time(self) -> float:
        """Seconds since the epoch, by Redis' clock."""
        with answering():
            seconds, microseconds = self.client.time()
        return seconds + microseconds / 1e6

    def _feed(self, batch: str, ids: Sequence[str]) -> int:
        keys = [*batch_keys(batch, "states", "counts"), delayed_key(self.queue), self.queue, unheld_key(self.queue)]
        arguments = [
            (id_, message_for(id_, text, queue=self.queue) if text else "")
            for id_, text in zip(ids, self._job_texts(batch, ids), strict=True)
        ]
        return sum(map(int, self._scripts.run_each("feed", keys=keys, arguments=arguments)))
