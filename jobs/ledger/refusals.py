"""Refusals: jobs that a worker cannot render for a fault of its own, and what other workers make of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, cast

import redis
from pydantic import ValidationError

from jobs.errors import EngineSetNotHeld
from jobs.job import RenderJob
from jobs.ledger.delayed import Delayed
from jobs.ledger.keys import (
    BATCHES,
    DELETED,
    REFUTED_PREFIX,
    WORKER_PREFIX,
    batch_key,
    batch_keys,
    delayed_key,
    unheld_key,
)
from jobs.ledger.lua import Scripts
from jobs.ledger.records import TERMINAL, Refusal, Refused, Refutation, WorkerFacts, refusals_in
from jobs.ledger.redis_client import SCAN_COUNT, answering, scanned
from jobs.ledger.workers import Workers

FIRST_DELAY_SECONDS = 2.0  # of a refused job; doubles each time that the same worker or settings refuse it
# The same where another engine set is wanted: such a refusal is certain, and the holders of the set may be few.
FIRST_SET_DELAY_SECONDS = 10.0
LONGEST_DELAY_SECONDS = 30.0
LONGEST_TEXT = 1000  # characters of what a worker says: a thousand jobs may be refused for the same reason


class Refusals(Delayed, Workers):
    """The part of the ledger that decides about refused jobs.

    A job fails only once every live worker of its queue has refused it, whether by its name or by the digest of its
    settings. A worker of an earlier version says nothing of itself, so it counts as one that has not refused; after
    20 refusals by one worker (about nine minutes, or less: docs/lifecycle.md), neither such a worker nor a paused one
    is waited for. Only the refusals of live workers count.

    A worker without a heartbeat may still be alive. After a restart of Redis (a batch is older than the server
    process), no worker counts as dead until a lease has passed. If another worker finished a job that this one had
    refused within the last hour, the job waits for that worker, even if it has gone: this worker may be wrong again.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """

    client: redis.Redis
    queue: str
    _scripts: Scripts
    _max_attempts: int
    _lease_seconds: float

    def refuse(self, job: RenderJob, refusal: Refusal, *, facts: WorkerFacts, refund: bool = True) -> Refused:
        """Give back a job that this worker started, or learn that no other worker is left to render it.

        `facts` are the caller's own: its heartbeat may not have reached Redis.
        Without `refund` the attempt counts, and the answer is final when it was the last one. The caller acknowledges
        the message of a job that is not final, because an entry among the delayed jobs stands for it from then on.
        """
        keys = [*batch_keys(job.batch, "states", "counts", "jobs", "cancels", "refusals"), delayed_key(self.queue)]
        keys += [BATCHES, DELETED, unheld_key(self.queue)]
        said = refusal.model_copy(update={"text": _short(refusal.text)}).model_dump_json()
        arguments = [job.id, job.model_dump_json(), refusal.worker, facts.settings or "", said, int(refund)]
        first = FIRST_SET_DELAY_SECONDS if refusal.kind == EngineSetNotHeld.kind else FIRST_DELAY_SECONDS
        arguments += [self._max_attempts, first, LONGEST_DELAY_SECONDS]
        workers = self._worker_keys()  # first, so that a restart between the two shows in the uptime
        arguments += [self.queue, WORKER_PREFIX, REFUTED_PREFIX, self._restart(), *workers]
        verdict, seconds, texts = self._scripts.run("refuse", keys=keys, arguments=arguments)
        refusals = () if verdict == "gone" else refusals_in(texts)
        return Refused(final=verdict == "final", refusals=refusals, delay_seconds=float(seconds))

    def refusals(self, batch: str) -> dict[str, tuple[Refusal, ...]]:
        """Job id -> who refused it, oldest first, of the jobs that have not ended."""
        said: dict[str, tuple[Refusal, ...]] = {}
        pairs = scanned(self.client, batch_key(batch, "refusals"))
        while some := dict(islice(pairs, SCAN_COUNT)):
            active = (line.id for line in self.states_of(batch, some) if line.state not in TERMINAL)
            said |= {id_: refusals for id_ in active if (refusals := refusals_in(some[id_]))}
        return said

    def refused_jobs(self, batch: str) -> int:
        """How many jobs have refusals, in O(1)."""
        with answering():
            return self.client.hlen(batch_key(batch, "refusals"))

    def _restart(self) -> Literal["", "start", "restart"]:
        """What Redis did less than a lease ago, so that live workers may have no heartbeat: a start, or a restart.

        It is a restart where a batch is older than the server's process. On a server that has only just been set up,
        every worker that there is has sent its heartbeat before it took a job.
        """
        seconds_up = self.seconds_up()  # in whole seconds
        if seconds_up >= self._lease_seconds:
            return ""
        started_at = self.server_time() - seconds_up - 1.0
        return "restart" if any(info.created_at < started_at for info in self.batches()) else "start"

    def refuted(self, *names: str, since: float) -> Refutation | None:
        """The latest job that one of these refused (Refusal.by) and another worker finished after `since`.

        `since` is in seconds since the epoch by Redis' clock (`server_time`). Only refusals that say what a worker may
        read or write are refuted in this way. None where there is no such job, or none in the last hour.
        """
        if not names:
            return None
        with answering():
            texts = cast("list[str | None]", self.client.mget([REFUTED_PREFIX + name for name in names]))
        found = [refutation for refutation in _refutations(texts) if refutation.at > since]
        return max(found, key=lambda refutation: refutation.at, default=None)


def _short(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # a file name may hold what is not text
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."


def _refutations(texts: Iterable[str | None]) -> Iterator[Refutation]:
    for text in texts:
        try:
            if text:
                yield Refutation.model_validate_json(text)
        except ValidationError:
            continue
