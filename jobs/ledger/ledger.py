"""The ledger: the state of every job, in Redis. The ledger, not the queue, is the truth.

    queued -> running -> done | failed | cancelled          `superseded`: the row was submitted again, corrected

Producers enqueue, cancel, retry and requeue; workers start, nack, refuse, defer and finish. Each move is one Lua script
(scripts/), so it is atomic, and it writes the job's queue message in the same step. keys.py lists the keys in Redis,
batches.py reads them, workers.py keeps the workers' signs of life, kombu_view.py reads the messages, refusals.py has
the jobs that a worker could not render for a fault of its own, delayed.py those that wait for their time, and
deletions.py forgets whole batches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import redis

from jobs.errors import InvalidJob, NewerMessage
from jobs.job import RenderJob, RenderResult
from jobs.ledger.chunks import chunks
from jobs.ledger.deletions import Deletions
from jobs.ledger.keys import (
    BATCHES,
    DELETED,
    DELETING,
    NEWEST,
    REFUTED_PREFIX,
    REFUTED_SECONDS,
    WORKER_PREFIX,
    batch_key,
    batch_keys,
    delayed_key,
)
from jobs.ledger.kombu_view import UNACKED, UNACKED_INDEX, KombuView
from jobs.ledger.lua import Scripts
from jobs.ledger.message import message_for
from jobs.ledger.records import (
    TERMINAL,
    Counts,
    Enqueued,
    JobState,
    Start,
)
from jobs.ledger.redis_client import connected
from jobs.ledger.refusals import Refusals
from jobs.ledger.sift import Sifter
from jobs.ledger.sizes import Sizes
from jobs.settings import Settings
from jobs.uri import redacted

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Ledger(Refusals, Deletions, Sizes):
    """Moves and counts jobs. Safe to use from many threads and processes at once.

    Raises:
        LedgerUnavailable: Redis did not answer; the move may or may not have happened, and may be repeated.
    """

    def __init__(
        self, client: redis.Redis, *, queue: str = "render", max_attempts: int = 3, lease_seconds: float = 10.0
    ) -> None:
        self.client = client  # must decode responses to str
        self.queue = queue
        self._max_attempts = max_attempts
        self._lease_seconds = lease_seconds
        self._scripts = Scripts(client)
        self.kombu = KombuView(client, self._scripts, queue)

    @classmethod
    def connect(cls, settings: Settings) -> Ledger:
        """A ledger on the Redis that the settings name. It connects at its first call."""
        return cls(
            connected(settings.redis_url),
            queue=settings.queue,
            max_attempts=settings.max_attempts,
            lease_seconds=settings.lease_seconds,
        )

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self.client.close()

    def queue_length(self) -> int:
        """Messages waiting in the queue."""
        return self.kombu.queue_length()

    # -- the producer's moves -----------------------------------------------------------------------------------

    def enqueue(
        self,
        jobs: Sequence[RenderJob],
        *,
        row_prefix: str = "",
        finished: Mapping[str, RenderResult] = NOTHING,
        in_flight: Mapping[str, str] = NOTHING,
        replaces: Mapping[str, str] | None = None,
    ) -> Enqueued:
        """Queue the jobs that the ledger does not know, message and ledger entry in one atomic step.

        All jobs must belong to one batch. Known jobs stay as they are, whatever their state. A job whose row (with the
        same `row_prefix`) was submitted before with other parameters supersedes the earlier version, unless a row of
        another file stands for that too. When a lost ledger is rebuilt, `finished` holds the results that storage has
        by job id, and `in_flight` maps job ids to the live worker that has the job: neither kind is queued.
        jobs/ledger/enqueue.py looks both up. A rebuild also passes `replaces`: a row's current version gives way only
        to a job that has the version's id there. Other jobs of such a row are entered as earlier versions of it.

        Raises:
            BatchDeleted: the batch was deleted since it was opened, or its deletion has begun. No job is queued then.
        """
        if not jobs:
            return Enqueued()
        now = f"{time.time():.3f}"
        arguments: list[str] = []
        for job in jobs:
            text = job.model_dump_json()
            result = _record(finished[job.id]) if job.id in finished else ""
            line = f"running 1 {in_flight[job.id]} {now}" if job.id in in_flight else ""
            message = message_for(job.id, text, queue=self.queue)
            may_replace = "*" if replaces is None else replaces.get(job.id, "")
            arguments += (job.id, f"{row_prefix}{job.row}", text, message, result, line, may_replace)
        keys = batch_keys(
            *(jobs[0].batch, "states", "counts", "jobs", "results", "rows", "superseded", "replaced", "cancels"),
            *("engine_sets", "refusals", "row_prefixes"),
        )
        keys += [delayed_key(self.queue), self.queue, BATCHES, DELETED, DELETING]
        if "deleted" in (tally := _tally(self._scripts.run("enqueue", keys=keys, arguments=arguments))):
            raise self.why_deleted(jobs[0].batch)
        return Enqueued(**tally)

    def retry(self, batch: str, *, states: Collection[str] = ("failed", "cancelled")) -> int:
        """Queue failed or cancelled jobs again, with no attempts counted. Returns how many.

        Raises:
            BatchDeleted: the deletion of the batch has begun.
        """
        if self.is_being_deleted(batch):
            raise self.why_deleted(batch)
        if not set(states) <= {"failed", "cancelled"}:
            raise ValueError(f"only failed and cancelled jobs can be retried, not {sorted(states)}")
        lines = (line for line in self.states(batch) if line.state in states)
        moved = self.requeue(batch, lines, attempts=0, to="tail")
        if self.is_being_deleted(batch):  # since then, so that none or some were queued
            raise self.why_deleted(batch)
        return moved

    def cancel(self, batch: str, job_id: str | None = None) -> Counts:
        """End queued jobs at once and mark running ones; counts by the state in which each job was.

        Queued earlier versions of corrected rows end too, and count as `superseded`: their rows have newer jobs.

        Raises:
            NewerMessage: a newer version of this program submitted one of the jobs.
            InvalidJob: one of the jobs is damaged. In both cases, the others are cancelled.
        """
        ids = iter([job_id]) if job_id else (line.id for line in self.states(batch) if line.state not in TERMINAL)
        keys = batch_keys(batch, "states", "counts", "jobs", "results", "cancels", "replaced", "refusals")
        keys.append(delayed_key(self.queue))
        total = Counter[str]()
        unreadable: NewerMessage | InvalidJob | None = None
        for chunk in chunks(ids):
            arguments: list[str] = []
            for text in filter(None, self._job_texts(batch, chunk)):
                try:
                    job = RenderJob.from_json(text)
                    arguments += (job.id, _record(cancelled_result(job)))
                except (NewerMessage, InvalidJob) as error:
                    unreadable = error
            total.update(_tally(self._scripts.run("cancel", keys=keys, arguments=arguments)))
        if unreadable is not None:
            raise unreadable
        return Counts(**total)

    def sift(self, *batches: str, unfinished: bool = False) -> int:
        """Remove the messages of some batches' ended jobs from the queue; returns how many there were.

        With `unfinished`, those of their other jobs as well: for batches that are about to be deleted. Ended are also
        the earlier versions of corrected rows. Safe at any time, beside workers and producers.
        """
        return Sifter(self._scripts, self.queue, batches, unfinished=unfinished).sift(self.queue_length())

    def requeue(
        self, batch: str, lines: Iterable[JobState], *, attempts: int | None = None, to: Literal["head", "tail"]
    ) -> int:
        """Queue those jobs again that are still exactly as `lines` saw them; returns how many that were.

        The jobs count `attempts` from then on; None keeps what they have. The job's JSON goes into the message as its
        producer wrote it, so jobs of a newer version are requeued too. Nothing moves in a batch that is being deleted.
        """
        keys = [*batch_keys(batch, "states", "counts"), self.queue, *batch_keys(batch, "results", "refusals")]
        keys += [delayed_key(self.queue), DELETING]
        moved = 0
        for chunk in chunks(lines):
            arguments = [
                (line.id, line.text, _queued(line, attempts), message_for(line.id, text, queue=self.queue), to)
                for line, text in zip(chunk, self._job_texts(batch, [line.id for line in chunk]), strict=True)
                if text
            ]
            moved += sum(map(int, self._scripts.run_each("requeue", keys=keys, arguments=arguments)))
        return moved

    def restore(self, batch: str, line: JobState, *, tag: str) -> bool:
        """Queue a job whose message a dead consumer has, if the job is still exactly as `line` saw it.

        `tag` is the message's delivery tag; the message leaves kombu's list of unacknowledged ones in the same step.
        """
        (text,) = self._job_texts(batch, [line.id])
        if not text:
            return False
        message = message_for(line.id, text, queue=self.queue)
        keys = [*batch_keys(batch, "states", "counts"), self.queue, UNACKED, UNACKED_INDEX]
        keys.append(delayed_key(self.queue))
        arguments = [line.id, line.text, _queued(line, None), tag, message]
        return bool(self._scripts.run("restore", keys=keys, arguments=arguments))

    # -- the worker's moves -------------------------------------------------------------------------------------

    def start(self, job: RenderJob, *, worker: str, unless_last: bool = False) -> Start:
        """Decide whether this worker renders the job, and record that it does.

        With `unless_last`, a start after which the job would be quarantined is only reported (`last`) and not made: the
        job stays queued and no attempt is counted, so that its worker may let other such jobs go first.
        """
        keys = [*batch_keys(job.batch, "states", "counts", "jobs", "replaced", "cancels"), delayed_key(self.queue)]
        keys += [BATCHES, DELETED, batch_key(job.batch, "refusals")]
        last = max(2, self._max_attempts) if unless_last else 0
        now = f"{time.time():.3f}"
        arguments = [job.id, job.model_dump_json(), worker, now, self._max_attempts, WORKER_PREFIX, last]
        decision, attempts, adopted = self._scripts.run("start", keys=keys, arguments=arguments)
        return Start(decision=decision, attempts=int(attempts), adopted=bool(adopted))

    def nack(self, job: RenderJob, *, worker: str, refund: bool = True) -> bool:
        """Running -> queued; `refund` where the attempt was not the job's fault. The broker returns the message."""
        keys = batch_keys(job.batch, "states", "counts")
        return bool(self._scripts.run("nack", keys=keys, arguments=[job.id, worker, int(refund)]))

    def finish(self, result: RenderResult) -> bool:
        """Enter a terminal state. True the first time; a terminal state never changes. False for a deleted batch.

        A job that another live worker runs can only become done: a failure or a cancellation by another process changes
        nothing. If such an end was recorded, the same call says True again, since its first answer may be lost.
        """
        keys = batch_keys(
            *(result.batch, "states", "counts", "jobs", "results", "cancels", "superseded", "replaced"),
            *("engine_sets", "refusals"),
        )
        arguments = [result.id, result.state, _record(result), result.row, result.worker or ""]
        arguments += [WORKER_PREFIX, REFUTED_PREFIX, REFUTED_SECONDS, NEWEST]
        keys += [delayed_key(self.queue), BATCHES, DELETED, *batch_keys(result.batch, "newest", "failures")]
        return bool(self._scripts.run("finish", keys=keys, arguments=arguments))


def cancelled_result(job: RenderJob) -> RenderResult:
    """The terminal record of a job that was cancelled before it was rendered."""
    return RenderResult(
        id=job.id,
        batch=job.batch,
        row=job.row,
        state="cancelled",
        image=redacted(job.parameters.image),
        prompt=job.parameters.prompt,
        seed=job.seed,
        model=job.parameters.model,
        error_kind="cancelled",
        error="cancelled by the user",
        finished_at=time.time(),
    )


def _queued(line: JobState, attempts: int | None) -> str:
    return f"queued {line.attempts if attempts is None else attempts}"


def _record(result: RenderResult) -> str:
    return result.model_dump_json(exclude={"parameters", "built_with"}, exclude_none=True)


def _tally(flat: Sequence[Any]) -> dict[str, int]:
    return {flat[i]: int(flat[i + 1]) for i in range(0, len(flat), 2)}
