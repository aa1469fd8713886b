"""Making a ledger again that was lost: the manifest says what was submitted, the sidecars what of it is done.

A job without a sidecar is queued, unless a live worker says that it holds it. What is not in storage is lost with the
ledger: failures and cancellations (such jobs are queued once more) and attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from jobs.errors import InvalidJob, SourceNotFound
from jobs.job import RenderJob, RenderResult
from jobs.ledger.ledger import BatchInfo, Ledger
from jobs.ledger.message import celery_message
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store
from jobs.submission import Part, jobs_of, part_uris, read_head

CHUNK_JOBS = 250
LOOKS_AT_ONCE = 32  # one look at a store takes some 10 ms, nearly all of it waiting
TRIES = 4


class Finished:
    """Looks in storage for what jobs have become. Use as a context manager."""

    def __init__(self, writer: Store) -> None:
        self._writer = writer
        self._pool = ThreadPoolExecutor(LOOKS_AT_ONCE, "sidecars")

    def of(self, jobs: Sequence[RenderJob]) -> dict[str, RenderResult]:
        """The results of those jobs whose sidecars are there, by id.

        Raises:
            RenderError: storage does not answer.
        """
        found = self._pool.map(self._look, jobs)
        return {result.id: result for result in found if result is not None}

    def _look(self, job: RenderJob) -> RenderResult | None:
        try:
            data = with_backoff(lambda: self._writer.read(job.sidecar_uri), attempts=TRIES, base_seconds=0.5)
            result = RenderResult.model_validate_json(data)
        except (SourceNotFound, ValueError):
            return None  # none, or one that is no sidecar: whoever renders the job writes it again
        return result if (result.id, result.state) == (job.id, "done") else None

    def __enter__(self) -> Finished:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclass
class Rebuilt:
    """What became of the jobs of a manifest.

    `withheld` had a secret in their URL, are not done, and so need their CSV; `damaged` are sentences about parts that
    could not be read.
    """

    jobs: int = 0
    recovered: int = 0
    queued: int = 0
    held: int = 0
    withheld: int = 0
    damaged: list[str] = field(default_factory=list)


def rebuild(
    ledger: Ledger,
    batch: str,
    *,
    output: str,
    writer: Store,
    settle_seconds: float,
    sleep: Callable[[float], object] = time.sleep,
) -> Rebuilt | None:
    """Tell the ledger what storage knows of a batch; None where storage knows nothing.

    What the ledger knows stays as it is, so this is safe at any time. `settle_seconds` is how long live workers may
    take to say what they hold: a heartbeat. Memory stays flat.

    Raises:
        RenderError: storage or Redis does not answer; the same call goes on from there.
    """
    rebuilt = Rebuilt()
    parts = _parts(writer, output, batch, rebuilt)
    if not parts:
        return rebuilt if rebuilt.damaged else None
    ledger.begin_rebuilding(batch)
    info = ledger.open_batch(batch, output=output, source=parts[0].head.source)
    sleep(settle_seconds)
    with Finished(writer) as finished:
        rebuilding = _Rebuilding(ledger, info, finished, rebuilt)
        for part in parts:
            try:
                for chunk in _chunks(jobs_of(writer, part, output=output)):
                    rebuilding.enter(chunk, source=part.head.source)
            except InvalidJob as error:
                rebuilt.damaged.append(str(error))
    if not rebuilt.damaged and not rebuilt.withheld:
        ledger.end_rebuilding(batch)
    return rebuilt


def held_by_workers(ledger: Ledger) -> dict[str, str]:
    """Job id -> the live worker that holds it."""
    return {id_: name for name, beat in ledger.workers().items() for id_ in beat.held}


def _parts(writer: Store, output: str, batch: str, rebuilt: Rebuilt) -> list[Part]:
    """Oldest first: a later part may correct rows of an earlier one."""
    parts = []
    for uri in part_uris(writer, output, batch):
        try:
            parts.append(read_head(writer, uri))
        except InvalidJob as error:
            rebuilt.damaged.append(str(error))
    return sorted((part for part in parts if part.head.batch == batch), key=lambda part: part.head.submitted_at)


@dataclass(frozen=True)
class _Rebuilding:
    ledger: Ledger
    info: BatchInfo
    finished: Finished
    rebuilt: Rebuilt

    def enter(self, chunk: Sequence[tuple[RenderJob, bool]], *, source: str) -> None:
        """Enter some jobs of one part, each with whether the manifest withholds a secret of it."""
        ledger, to = self.ledger, self.rebuilt
        unknown = ledger.unknown(self.info.name, [job.id for job, _ in chunk])
        held = held_by_workers(ledger)
        results = self.finished.of([job for job, _ in chunk if job.id in unknown])
        whole = [job for job, secret in chunk if not secret or job.id in results]
        done = ledger.enqueue(
            whole,
            [celery_message(job, queue=ledger.queue) for job in whole],
            source=self.info.row_prefix(source),
            finished=results,
            held=held,
        )
        to.jobs += len(chunk)
        to.recovered += done.recovered
        to.queued += done.added
        to.held += sum(job.id in held and job.id in unknown and job.id not in results for job in whole)
        to.withheld += sum(secret and job.id in unknown - results.keys() - held.keys() for job, secret in chunk)


def _chunks(jobs: Iterator[tuple[RenderJob, bool]]) -> Iterator[list[tuple[RenderJob, bool]]]:
    while chunk := list(islice(jobs, CHUNK_JOBS)):
        yield chunk
