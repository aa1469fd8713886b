"""The ledger: what became of every job, in Redis. The ledger, not the queue, is the truth.

Keys, all under `render:`

    batches                 hash   batch -> BatchInfo as JSON
    batch:<name>:states     hash   job id -> '<state> <attempts> [<worker> <since>]' or 'superseded <attempts> <state>'
    batch:<name>:counts     hash   state -> number of jobs
    batch:<name>:jobs       hash   job id -> RenderJob as JSON, until done
    batch:<name>:results    hash   job id -> RenderResult as JSON, once terminal
    batch:<name>:rows       hash   row -> id of the job that the row stands for now
    batch:<name>:superseded hash   job id -> RenderResult as JSON, of earlier versions of corrected rows that had ended
    batch:<name>:replaced   set    ids of earlier versions that were running when their row was corrected
    batch:<name>:cancels    set    ids of running jobs that shall stop
    batch:<name>:rebuilding string set while the ledger is made again from storage
    worker:<name>           string Heartbeat as JSON; expires with the worker's lease
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, cast

import redis
from pydantic import ValidationError

from jobs.errors import LedgerUnavailable
from jobs.job import RenderJob, RenderResult
from jobs.ledger import scripts
from jobs.ledger.message import message_for
from jobs.ledger.records import (
    TERMINAL,
    BatchInfo,
    Counts,
    Enqueued,
    Heartbeat,
    JobState,
    Start,
    State,
    parse_state,
)
from jobs.ledger.redis_url import why_unavailable
from jobs.settings import Settings
from jobs.uri import redacted

__all__ = ["BatchInfo", "Counts", "Enqueued", "Heartbeat", "JobState", "Ledger", "Start", "State", "parse_state"]

WORKER_PREFIX = "render:worker:"
BATCHES = "render:batches"
SCAN_COUNT = 1000
ID_LENGTH = 20
CHUNK = 250  # jobs that are moved at once: Redis answers nobody else for the few milliseconds that it takes
NOTHING: Mapping[str, Any] = MappingProxyType({})
UNACKED, UNACKED_INDEX = "unacked", "unacked_index"  # kombu.transport.redis.Channel's defaults


class Ledger:
    """Moves and counts jobs. Every method is one round trip and safe from many threads and processes at once.

    Raises:
        LedgerUnavailable: Redis did not answer; the move may or may not have happened, and may be repeated.
    """

    def __init__(self, client: redis.Redis, *, queue: str = "render", max_attempts: int = 3) -> None:
        self.client = client  # must decode responses to str
        self.queue = queue
        self._max_attempts = max_attempts
        self._scripts = {
            name: client.register_script(getattr(scripts, name))
            for name in ("ENQUEUE", "START", "NACK", "FINISH", "REQUEUE", "RESTORE", "CANCEL", "QUEUED_IDS")
        }

    @classmethod
    def connect(cls, settings: Settings) -> Ledger:
        """Connect lazily: the first call meets the network."""
        client = redis.Redis.from_url(
            settings.redis_url,
            decode_responses=True,
            encoding_errors="replace",  # garbage in the queue must not stop who looks through it
            socket_timeout=20,
            socket_connect_timeout=5,
            health_check_interval=30,
        )
        return cls(client, queue=settings.queue, max_attempts=settings.max_attempts)

    # -- batches ------------------------------------------------------------------------------------------------

    def open_batch(self, name: str, *, output: str, source: str) -> BatchInfo:
        """Note a batch under its name; one that exists stays as it was first noted."""
        info = BatchInfo(name=name, output=output, source=source, created_at=time.time())
        with _answering():
            self.client.hsetnx(BATCHES, name, info.model_dump_json())
            return BatchInfo.model_validate_json(cast(str, self.client.hget(BATCHES, name)))

    def batch(self, name: str) -> BatchInfo | None:
        """What is known of a batch, or None."""
        with _answering():
            text = cast("str | None", self.client.hget(BATCHES, name))
        return BatchInfo.model_validate_json(text) if text else None

    def batches(self) -> list[BatchInfo]:
        """All batches, oldest first."""
        with _answering():
            texts = cast("list[str]", self.client.hvals(BATCHES))
        return sorted((BatchInfo.model_validate_json(text) for text in texts), key=lambda info: info.created_at)

    def counts(self, batch: str) -> Counts:
        """Jobs by state, in O(1)."""
        with _answering():
            found = cast("dict[str, str]", self.client.hgetall(_key(batch, "counts")))
        return Counts(**{state: int(number) for state, number in found.items()})

    def states(self, batch: str, *, only: tuple[State, ...] = ()) -> Iterator[JobState]:
        """Every job's line, or those in some states, in no order, without loading the batch into memory."""
        for id_, text in self._scan(_key(batch, "states")):
            if not only or text.startswith(only):
                yield parse_state(id_, text)

    def states_of(self, batch: str, ids: Iterable[str]) -> Iterator[JobState]:
        """The lines of those of some jobs that are of this batch."""
        waiting = iter(ids)
        while chunk := list(islice(waiting, SCAN_COUNT)):
            with _answering():
                texts = cast("list[str | None]", self.client.hmget(_key(batch, "states"), chunk))
            yield from (parse_state(id_, text) for id_, text in zip(chunk, texts, strict=True) if text is not None)

    def results(self, batch: str, *, superseded: bool = False) -> Iterator[RenderResult]:
        """Every terminal job's result, in no order, without loading the batch into memory.

        With `superseded` those of earlier versions of corrected rows instead.
        """
        for _, text in self._scan(_key(batch, "superseded" if superseded else "results")):
            yield RenderResult.model_validate_json(text)

    def job(self, batch: str, job_id: str) -> RenderJob | None:
        """A job that is not done, or None."""
        with _answering():
            text = cast("str | None", self.client.hget(_key(batch, "jobs"), job_id))
        return RenderJob.from_json(text) if text else None

    def _jobs(self, batch: str, ids: Sequence[str]) -> list[RenderJob | None]:
        with _answering():
            texts = cast("list[str | None]", self.client.hmget(_key(batch, "jobs"), list(ids)))
        return [RenderJob.from_json(text) if text else None for text in texts]

    def state(self, batch: str, job_id: str) -> JobState | None:
        """One job's line, or None."""
        with _answering():
            text = cast("str | None", self.client.hget(_key(batch, "states"), job_id))
        return parse_state(job_id, text) if text else None

    # -- the producer's moves -----------------------------------------------------------------------------------

    def enqueue(
        self,
        jobs: Sequence[RenderJob],
        *,
        row_prefix: str = "",
        finished: Mapping[str, RenderResult] = NOTHING,
        held: Mapping[str, str] = NOTHING,
    ) -> Enqueued:
        """Queue the jobs that the ledger does not know, message and ledger entry in one atomic step.

        All jobs must belong to one batch. Known jobs stay as they are, whatever their state. A job whose row (with the
        same `row_prefix`) was submitted before with other parameters supersedes the earlier version. When a lost ledger
        is rebuilt, `finished` holds results found in storage by job id, and `held` maps job ids to the live worker that
        has the job: neither kind is queued. jobs/ledger/enqueue.py finds both.
        """
        if not jobs:
            return Enqueued()
        now = f"{time.time():.3f}"
        arguments: list[str] = []
        for job in jobs:
            found = finished.get(job.id)
            result = _record(found) if found else ""
            line = f"running 1 {held[job.id]} {now}" if job.id in held else ""
            text = _dump(job)
            message = message_for(job.id, text, queue=self.queue)
            arguments += (job.id, f"{row_prefix}{job.row}", text, message, result, line)
        keys = ("states", "counts", "jobs", "results", "rows", "superseded", "replaced", "cancels")
        flat = self._run("ENQUEUE", [*_keys(jobs[0].batch, *keys), self.queue], arguments)
        return Enqueued(**{flat[i]: int(flat[i + 1]) for i in range(0, len(flat), 2)})

    def unknown(self, batch: str, ids: Sequence[str]) -> set[str]:
        """Those of some jobs that the ledger does not know."""
        with _answering():
            found = cast("list[str | None]", self.client.hmget(_key(batch, "states"), list(ids))) if ids else []
        return {id_ for id_, text in zip(ids, found, strict=True) if text is None}

    def begin_rebuilding(self, batch: str) -> None:
        """Note that the ledger knows less of a batch than storage does, until `end_rebuilding`."""
        with _answering():
            self.client.set(_key(batch, "rebuilding"), f"{time.time():.3f}")

    def end_rebuilding(self, batch: str) -> None:
        """Note that the ledger knows all of a batch again."""
        with _answering():
            self.client.delete(_key(batch, "rebuilding"))

    def is_rebuilding(self, batch: str) -> bool:
        """Whether a rebuilding was begun and not ended."""
        with _answering():
            return bool(self.client.exists(_key(batch, "rebuilding")))

    def retry(self, batch: str, *, states: Collection[str] = ("failed", "cancelled")) -> int:
        """Queue failed or cancelled jobs again, with no attempts counted. Returns how many."""
        if not set(states) <= {"failed", "cancelled"}:
            raise ValueError(f"only failed and cancelled jobs can be retried, not {sorted(states)}")
        lines = (line for line in self.states(batch) if line.state in states)
        return self.requeue(batch, lines, attempts=0, to="tail")

    def cancel(self, batch: str, job_id: str | None = None) -> Counts:
        """End queued jobs at once and mark running ones; counts by the state in which each was found."""
        ids = iter([job_id]) if job_id else (line.id for line in self.states(batch) if line.state not in TERMINAL)
        found = Counter[str]()
        while chunk := list(islice(ids, CHUNK)):
            results = [cancelled_result(job) for job in self._jobs(batch, chunk) if job is not None]
            arguments = [part for result in results for part in (result.id, _record(result))]
            flat = self._run("CANCEL", _keys(batch, "states", "counts", "results", "cancels"), arguments)
            found.update({flat[i]: int(flat[i + 1]) for i in range(0, len(flat), 2)})
        return Counts(**found)

    def requeue(
        self, batch: str, lines: Iterable[JobState], *, attempts: int | None = None, to: Literal["head", "tail"]
    ) -> int:
        """Queue those jobs again that are still exactly as `lines` saw them; returns how many that were.

        `attempts` is what they count from then on; None: as before.
        """
        keys = [*_keys(batch, "states", "counts"), self.queue, _key(batch, "results")]
        waiting, moved = iter(lines), 0
        while chunk := list(islice(waiting, CHUNK)):
            with _answering(), self.client.pipeline(transaction=False) as pipe:
                for line, job in zip(chunk, self._jobs(batch, [line.id for line in chunk]), strict=True):
                    if job is not None:
                        message = message_for(job.id, _dump(job), queue=self.queue)
                        new = f"queued {line.attempts if attempts is None else attempts}"
                        self._scripts["REQUEUE"](keys=keys, args=[line.id, line.text, new, message, to], client=pipe)
                moved += sum(map(int, pipe.execute()))
        return moved

    def restore(self, batch: str, line: JobState, *, tag: str, message: str) -> bool:
        """Take a delivered message back from a consumer that died, if the job is still exactly as `line` saw it."""
        keys = [*_keys(batch, "states", "counts"), self.queue, UNACKED, UNACKED_INDEX]
        return bool(self._run("RESTORE", keys, [line.id, line.text, f"queued {line.attempts}", tag, message]))

    # -- the queue, as kombu keeps it -----------------------------------------------------------------------------

    def queue_length(self) -> int:
        """Messages waiting in the queue."""
        with _answering():
            return self.client.llen(self.queue)

    def queued_ids(self) -> Iterator[str]:
        """The ids of the jobs whose messages wait, tail first; what is no message is passed over."""
        # From the tail, against the direction in which messages move: nothing is passed over, some are seen twice.
        start = 0
        while True:
            number, ids = self._run("QUEUED_IDS", [self.queue], [start, start + SCAN_COUNT - 1])
            yield from (ids[i : i + ID_LENGTH] for i in range(0, len(ids), ID_LENGTH))
            if number < SCAN_COUNT:
                return
            start += SCAN_COUNT

    def delivered_messages(self) -> Iterator[tuple[str, str]]:
        """(delivery tag, JSON text) of every message that a consumer holds, of whatever queue."""
        yield from self._scan(UNACKED)

    def seconds_up(self) -> float:
        """How long Redis has been running: right after a restart nobody's sign of life is there yet."""
        with _answering():
            return float(self.client.info("server")["uptime_in_seconds"])

    def delivery_times(self) -> list[tuple[str, float]]:
        """(delivery tag, seconds since the epoch) of every message that a consumer holds."""
        with _answering():
            return cast("list[tuple[str, float]]", self.client.zrange(UNACKED_INDEX, 0, -1, withscores=True))

    # -- the worker's moves -------------------------------------------------------------------------------------

    def start(self, job: RenderJob, *, worker: str, unless_last: bool = False) -> Start:
        """Decide whether this worker renders the job, and note that it does.

        `unless_last`: a start after which the job would be quarantined is told (`last`) and not made: the job stays
        queued and is charged nothing, so that its worker may let other such jobs go first.
        """
        keys = _keys(job.batch, "states", "counts", "jobs", "replaced", "cancels")
        announced = max(2, self._max_attempts) if unless_last else 0
        arguments = [job.id, _dump(job), worker, f"{time.time():.3f}", self._max_attempts, WORKER_PREFIX, announced]
        decision, attempts, adopted = self._run("START", keys, arguments)
        return Start(decision=decision, attempts=int(attempts), adopted=bool(adopted))

    def nack(self, job: RenderJob, *, worker: str, refund: bool = True) -> bool:
        """Running -> queued; `refund` where the attempt was not the job's fault. The broker returns the message."""
        keys = _keys(job.batch, "states", "counts")
        return bool(self._run("NACK", keys, [job.id, worker, int(refund)]))

    def finish(self, result: RenderResult) -> bool:
        """Enter a terminal state. True the first time; a terminal state never changes."""
        keys = _keys(result.batch, "states", "counts", "jobs", "results", "cancels", "superseded", "replaced")
        return bool(self._run("FINISH", keys, [result.id, result.state, _record(result)]))

    def cancels(self, batch: str) -> set[str]:
        """Ids of running jobs that shall stop."""
        with _answering():
            return set(cast("set[str]", self.client.smembers(_key(batch, "cancels"))))

    # -- signs of life ------------------------------------------------------------------------------------------

    def beat(self, worker: str, *, held: Collection[str], lease_seconds: float) -> None:
        """Say that a worker lives and what it holds; it counts as dead `lease_seconds` after its last beat."""
        beat = Heartbeat(worker=worker, held=tuple(held), at=time.time())
        with _answering():
            self.client.set(WORKER_PREFIX + worker, beat.model_dump_json(), px=int(lease_seconds * 1000))

    def retire(self, worker: str) -> None:
        """Say that a worker is gone, so that nobody waits for its lease to end."""
        with _answering():
            self.client.delete(WORKER_PREFIX + worker)

    def workers(self) -> dict[str, Heartbeat]:
        """The live workers by name."""
        with _answering():
            names = list(self.client.scan_iter(match=WORKER_PREFIX + "*", count=SCAN_COUNT))
            texts = cast("list[str | None]", self.client.mget(names)) if names else []
        beats = [_heartbeat(text) for text in texts if text]
        return {beat.worker: beat for beat in beats if beat is not None}

    def held_jobs(self) -> dict[str, str]:
        """Job id -> the live worker that holds it."""
        return {id_: name for name, beat in self.workers().items() for id_ in beat.held}

    def _scan(self, key: str) -> Iterator[tuple[str, str]]:
        with _answering():
            yield from self.client.hscan_iter(key, count=SCAN_COUNT)

    def _run(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        script: Callable[..., Any] = self._scripts[name]
        with _answering():
            return script(keys=keys, args=arguments)


def _heartbeat(text: str) -> Heartbeat | None:
    try:
        return Heartbeat.model_validate_json(text)
    except ValidationError:
        return None  # whoever can write to Redis can put anything there


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
        error_kind="cancelled",
        error="cancelled by the user",
        finished_at=time.time(),
    )


def _record(result: RenderResult) -> str:
    return result.model_dump_json(exclude={"parameters"}, exclude_none=True)


def _dump(job: RenderJob) -> str:
    return job.model_dump_json()


def _key(batch: str, what: str) -> str:
    return f"render:batch:{batch}:{what}"


def _keys(batch: str, *whats: str) -> list[str]:
    return [_key(batch, what) for what in whats]


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what redis-py raises when the server is away into our own error, without the URL's password."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise LedgerUnavailable(why_unavailable(error)) from error
