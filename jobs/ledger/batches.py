"""Batches and their jobs, as the ledger has them. Nothing here moves a job; that is ledger.py."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple, cast

import redis
from pydantic import ValidationError

from jobs.errors import BatchDeleted, InvalidJob, NewerMessage
from jobs.job import RenderJob, RenderResult
from jobs.ledger.damage import LedgerDamaged, damaged, shown
from jobs.ledger.engine_sets import READ_UP_TO, engine_sets, engine_sets_of
from jobs.ledger.keys import BATCHES, DELETING, NEWEST, batch_key
from jobs.ledger.records import BatchInfo, Counts, EngineSets, JobState, PromptOptions, State, parse_state
from jobs.ledger.redis_client import SCAN_COUNT, answering, scanned

BATCHES_AT_ONCE = 100


def being_deleted(batch: str) -> BatchDeleted:
    """What to raise where jobs cannot be added to a batch whose deletion was begun."""
    return BatchDeleted(
        f"batch {batch!r} is being deleted; wait until that has ended (if it was interrupted, run the same producer "
        "delete again), or choose another name"
    )


class Overview(NamedTuple):
    """A batch at a glance."""

    counts: Counts
    engine_sets: EngineSets


class Batches:
    """The part of the ledger that reads, and that registers batches. Every method but the iterators is one round trip.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """

    client: redis.Redis

    def open_batch(self, name: str, *, output: str, source: str) -> BatchInfo:
        """Register a batch under its name. A batch that exists keeps what was first registered, which is returned.

        Raises:
            BatchDeleted: its deletion was begun and has not ended.
            InvalidJob: something else than a batch is registered under the name.
        """
        if self.is_being_deleted(name):
            raise being_deleted(name)
        info = BatchInfo(name=name, output=output, source=source, created_at=time.time())
        with answering():
            if self.client.hsetnx(BATCHES, name, info.model_dump_json()):
                return info
        known = self.batch(name)
        if known is None:  # of a newer version, perhaps, so it is not replaced
            raise InvalidJob(
                f"batch {name!r} is registered in a form that this version cannot read: choose another name, or remove "
                f"it with producer delete {name}"
            )
        return known

    def batch(self, name: str) -> BatchInfo | None:
        """What was registered under a name, or None; also None if another program wrote something else there."""
        with answering():
            text = cast("str | None", self.client.hget(BATCHES, name))
        return next(_readable([text] if text else []), None)

    def batches(self) -> list[BatchInfo]:
        """All batches, oldest first. Entries that another program wrote there are skipped."""
        with answering():
            texts = cast("list[str]", self.client.hvals(BATCHES))
        return sorted(_readable(texts), key=lambda info: info.created_at)

    def is_being_deleted(self, batch: str) -> bool:
        """Whether a deletion of a batch was begun and has not ended."""
        with answering():
            return bool(self.client.hexists(DELETING, batch))

    def prompt_options(self, batch: str, source: str) -> PromptOptions | None:
        """What a source's empty cells mean in a batch, or None where that was not kept."""
        with answering():
            text = cast("str | None", self.client.hget(batch_key(batch, "prompts"), source))
        return _prompt_options(batch, text) if text else None

    def all_prompt_options(self, batch: str) -> list[PromptOptions]:
        """What was kept of every source of a batch, in no order."""
        with answering():
            texts = cast("list[str]", self.client.hvals(batch_key(batch, "prompts")))
        return [_prompt_options(batch, text) for text in texts]

    def keep_prompt_options(self, batch: str, options: PromptOptions) -> PromptOptions:
        """Keep what a source's empty cells mean in a batch. What was kept first stays, and is returned."""
        key = batch_key(batch, "prompts")
        with answering():
            self.client.hsetnx(key, options.source, options.model_dump_json())
            return _prompt_options(batch, cast(str, self.client.hget(key, options.source)))

    def note_row_prefixes(self, info: BatchInfo) -> None:
        """Note the row prefixes of all files that were submitted to a batch, as `enqueue` notes that of its own file.

        Earlier versions did not. Without it, a row that is corrected in one file would end the job of another's.
        """
        key = batch_key(info.name, "prompts")
        with answering():
            sources = cast("list[str]", self.client.hkeys(key))
            if sources:
                self.client.sadd(batch_key(info.name, "row_prefixes"), *map(info.row_prefix, [info.source, *sources]))

    def begin_rebuilding(self, batch: str) -> None:
        """Record that storage knows more of a batch than the ledger does, until `end_rebuilding`."""
        with answering():
            self.client.set(batch_key(batch, "rebuilding"), f"{time.time():.3f}")

    def end_rebuilding(self, batch: str) -> None:
        """Record that the ledger knows all of a batch again."""
        with answering():
            self.client.delete(batch_key(batch, "rebuilding"))

    def is_rebuilding(self, batch: str) -> bool:
        """Whether a rebuild was begun and has not ended."""
        with answering():
            return bool(self.client.exists(batch_key(batch, "rebuilding")))

    def counts(self, batch: str) -> Counts:
        """Jobs by state, in O(1).

        Raises:
            LedgerDamaged: what is there are no numbers.
        """
        with answering():
            texts = cast("dict[str, str]", self.client.hgetall(batch_key(batch, "counts")))
        with damaged(batch, f"its counts are {shown(texts)}"):
            return _counts(texts)

    def counts_of(self, batches: Iterable[str]) -> Iterator[Counts | None]:
        """The same of many batches, in their order, a hundred a round trip; None where a batch's counts are damaged.

        Raises:
            LedgerUnavailable: Redis does not answer, or refuses all of them.
        """
        remaining = iter(batches)
        while chunk := list(islice(remaining, BATCHES_AT_ONCE)):
            with answering(), self.client.pipeline(transaction=False) as together:
                for name in chunk:
                    together.hgetall(batch_key(name, "counts"))
                found = together.execute(raise_on_error=False)
                if all(isinstance(answer, redis.ResponseError) for answer in found):
                    raise found[0]
            yield from map(_counts_unless_damaged, found)

    def engine_sets(self, batch: str, *, read_up_to: int | None = READ_UP_TO) -> EngineSets:
        """Which engine sets drew the done jobs, in O(1) where all of them were counted.

        Where some were not, the results are read instead, of at most `read_up_to` done jobs (None: however many); of
        more jobs, the answer is what was counted.
        """
        with answering(), self.client.pipeline() as together:  # one transaction: both are of the same moment
            together.hgetall(batch_key(batch, "engine_sets"))
            together.hget(batch_key(batch, "counts"), "done")
            counters, text = cast("tuple[dict[str, str], str | None]", together.execute())
        with damaged(batch, f"its number of done jobs is {shown(text)}"):
            done = int(text or 0)
        counted = engine_sets(counters, done=done)
        is_complete = counted is not None and counted.unknown == 0
        if not is_complete and (read_up_to is None or done <= read_up_to):
            return engine_sets_of(_readable_results(self.result_texts(batch)))
        return EngineSets(unknown=done) if counted is None else counted

    def overviews(self, batches: Iterable[str]) -> Iterator[Overview | LedgerDamaged]:
        """Counts and counted engine sets of many batches, in their order, a hundred batches a round trip.

        If the counts of one are damaged, its error stands in its place, and the others are still returned.

        No results are read: if the counters do not name the engine sets, all done jobs are `unknown`.
        """
        remaining = iter(batches)
        while chunk := list(islice(remaining, BATCHES_AT_ONCE)):
            with answering(), self.client.pipeline(transaction=False) as together:
                for name in chunk:  # the number of done jobs is read last: it is never smaller than what was counted
                    together.hgetall(batch_key(name, "engine_sets"))
                    together.hgetall(batch_key(name, "counts"))
                found = cast("list[dict[str, str]]", together.execute())
            for name, counters, numbers in zip(chunk, found[::2], found[1::2], strict=True):
                try:
                    with damaged(name, f"its counts are {shown(numbers)}"):
                        counts = _counts(numbers)
                except LedgerDamaged as error:
                    yield error
                    continue
                sets = engine_sets(counters, done=counts.done)
                yield Overview(counts, EngineSets(unknown=counts.done) if sets is None else sets)

    def state(self, batch: str, job_id: str) -> JobState | None:
        """One job's line, or None."""
        with answering():
            text = cast("str | None", self.client.hget(batch_key(batch, "states"), job_id))
        return _state(batch, job_id, text) if text else None

    def ids(self, batch: str) -> Iterator[str]:
        """The ids of all jobs, in no order, also of those whose lines are damaged."""
        return (id_ for id_, _ in scanned(self.client, batch_key(batch, "states")))

    def states(self, batch: str, *, only: tuple[State, ...] = ()) -> Iterator[JobState]:
        """Every job's line, or those in some states, in no order, without loading the batch into memory."""
        for id_, text in scanned(self.client, batch_key(batch, "states")):
            if not only or text.startswith(only):
                yield _state(batch, id_, text)

    def states_of(self, batch: str, ids: Iterable[str]) -> Iterator[JobState]:
        """The lines of the given jobs, without those that this batch does not know."""
        remaining = iter(ids)
        while chunk := list(islice(remaining, SCAN_COUNT)):
            with answering():
                texts = cast("list[str | None]", self.client.hmget(batch_key(batch, "states"), chunk))
            yield from (_state(batch, id_, text) for id_, text in zip(chunk, texts, strict=True) if text is not None)

    def unknown(self, batch: str, ids: Sequence[str]) -> set[str]:
        """The given jobs that the ledger does not know."""
        with answering():
            texts = cast("list[str | None]", self.client.hmget(batch_key(batch, "states"), list(ids))) if ids else []
        return {id_ for id_, text in zip(ids, texts, strict=True) if text is None}

    def current(self, batch: str, rows: Sequence[str]) -> list[str | None]:
        """The ids of the current versions of rows, in their order; None where the ledger does not know the row."""
        with answering():
            return cast("list[str | None]", self.client.hmget(batch_key(batch, "rows"), list(rows))) if rows else []

    def results(self, batch: str, *, superseded: bool = False) -> Iterator[RenderResult]:
        """Every terminal job's result, in no order, without loading the batch into memory.

        `superseded` gives the results of earlier versions of corrected rows instead.

        Raises:
            LedgerDamaged: one of them is not a result.
        """
        return (stored_result(batch, text) for text in self.result_texts(batch, superseded=superseded))

    def result_texts(self, batch: str, *, superseded: bool = False) -> Iterator[str]:
        """The same as JSON, for those who read a result later: to check it takes longer than to fetch it."""
        for _, text in scanned(self.client, batch_key(batch, "superseded" if superseded else "results")):
            yield text

    def newest(self, batch: str, *, failed: bool = False, limit: int = NEWEST) -> list[RenderResult]:
        """The results of the jobs that were done last, or failed last, newest first; at most NEWEST.

        They may be fewer than there are: workers of an earlier version do not note in which order jobs end, and neither
        does a rebuild. `results` has all of them.
        """
        key = batch_key(batch, "failures" if failed else "newest")
        with answering():
            ids = list(dict.fromkeys(cast("list[str]", self.client.lrange(key, 0, limit - 1))))
        wanted = "failed" if failed else "done"
        return [result for result in self.results_of(batch, ids) if result.state == wanted]

    def results_of(self, batch: str, ids: Sequence[str]) -> list[RenderResult]:
        """The results of the given jobs, in their order. Jobs without a readable result are left out."""
        with answering():
            texts = cast("list[str | None]", self.client.hmget(batch_key(batch, "results"), list(ids))) if ids else []
        found = []
        for text in filter(None, texts):
            with suppress(ValidationError):
                found.append(RenderResult.model_validate_json(text))
        return found

    def job(self, batch: str, job_id: str) -> RenderJob | None:
        """A job that is not done, or None.

        Raises:
            NewerMessage: a newer version of this program submitted it.
        """
        (text,) = self._job_texts(batch, [job_id])
        return RenderJob.from_json(text) if text else None

    def jobs(self, batch: str, ids: Sequence[str]) -> dict[str, RenderJob]:
        """The given jobs that are not done and that this version of the program can read."""
        readable = {}
        for text in filter(None, self._job_texts(batch, ids) if ids else ()):
            with suppress(NewerMessage, InvalidJob):
                job = RenderJob.from_json(text)
                readable[job.id] = job
        return readable

    def cancels(self, batch: str) -> set[str]:
        """Ids of running jobs that are to stop."""
        with answering():
            return set(cast("set[str]", self.client.smembers(batch_key(batch, "cancels"))))

    def _job_texts(self, batch: str, ids: Sequence[str]) -> list[str | None]:
        """Jobs as JSON, as their producer wrote them."""
        with answering():
            return cast("list[str | None]", self.client.hmget(batch_key(batch, "jobs"), list(ids)))


def stored_result(batch: str, text: str | bytes) -> RenderResult:
    """A result as the ledger keeps it.

    Raises:
        LedgerDamaged: the text is not a result.
    """
    with damaged(batch, f"{shown(text)} is not the result of a job"):
        return RenderResult.model_validate_json(text)


def _readable_results(texts: Iterable[str]) -> Iterator[RenderResult]:
    for text in texts:
        with suppress(ValidationError):
            yield RenderResult.model_validate_json(text)


def _state(batch: str, job_id: str, text: str) -> JobState:
    with damaged(batch, f"the line of job {shown(job_id)} is {shown(text)}"):
        return parse_state(job_id, text)


def _prompt_options(batch: str, text: str) -> PromptOptions:
    with damaged(batch, f"{shown(text)} does not say what its empty cells mean"):
        return PromptOptions.model_validate_json(text)


def _readable(texts: Iterable[str]) -> Iterator[BatchInfo]:
    for text in texts:
        with suppress(ValidationError):
            yield BatchInfo.model_validate_json(text)


def _counts(texts: dict[str, str]) -> Counts:
    """Raises ValueError where the counts are damaged."""
    numbers = {state: int(number) for state, number in texts.items()}
    if any(abs(number) >= 2**63 for number in numbers.values()):  # Redis counts no further, and floats end too
        raise ValueError("a count is larger than Redis counts")
    return Counts(**numbers)


def _counts_unless_damaged(answer: dict[str, str] | Exception) -> Counts | None:
    try:
        return None if isinstance(answer, Exception) else _counts(answer)
    except ValueError:
        return None
