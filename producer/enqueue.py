"""The second pass: turn the checked rows into jobs and hand them to the ledger, a chunk at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from jobs.errors import InvalidCsv
from jobs.job import RenderJob
from jobs.ledger.enqueue import CHUNK_JOBS
from jobs.ledger.enqueue import enqueue as enter
from jobs.ledger.ledger import Enqueued, Ledger
from jobs.ledger.sidecars import Sidecars
from producer.table.check import Source
from producer.table.problems import CsvMistakes
from producer.table.reader import open_table
from producer.table.rows import RowChecker

BATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Target:
    """The batch that the rows become, and the folder or bucket URI above it."""

    batch: str
    output: str
    skip_invalid: bool = False


@dataclass(frozen=True)
class Destination:
    """Where jobs go. `row_prefix` keeps the rows of several files apart (BatchInfo.row_prefix).

    `finished` is given where storage may know more than the ledger: what is done already is recorded, not queued.
    """

    ledger: Ledger
    row_prefix: str = ""
    finished: Sidecars | None = None
    note: Callable[[Sequence[RenderJob]], object] = lambda _: None  # hears of every job: the manifest

    def send(self, jobs: Sequence[RenderJob]) -> Enqueued:
        """Queue those that the ledger does not know."""
        enqueued = enter(self.ledger, jobs, row_prefix=self.row_prefix, sidecars=self.finished).enqueued
        self.note(jobs)
        return enqueued


def enqueue(
    source: Source, target: Target, to: Destination, *, tick: Callable[[int], object] | None = None
) -> Enqueued:
    """Queue every good row that the ledger does not know yet. `tick` hears how many rows are through.

    Raises:
        InvalidCsv: a row is bad that the first pass found good: somebody is writing to the file.
        LedgerUnavailable: Redis does not answer; what is queued stays queued, and the same call goes on from there.
    """
    total, through = Enqueued(), 0
    for jobs in _chunks(jobs_of(source, target)):
        total += to.send(jobs)
        through += len(jobs)
        if tick is not None:
            tick(through)
    return total


def jobs_of(source: Source, target: Target) -> Iterator[RenderJob]:
    """The jobs of a file that was checked before, in row order."""
    try:
        with open_table(source.path) as table:
            checker = RowChecker(table.columns, source.base)
            for record in table.records:
                found = checker.check(record)
                if not isinstance(found, list):
                    yield RenderJob.create(found, batch=target.batch, row=record.row, output=target.output)
                elif not target.skip_invalid:
                    raise InvalidCsv(changed_sentence(source))
    except CsvMistakes as mistakes:
        raise InvalidCsv(changed_sentence(source)) from mistakes


def changed_sentence(source: Source) -> str:
    """What to do when the file was written to between the passes."""
    return f"{source.name} changed while it was being read; submit it again when it is complete (what is queued stays)"


def batch_name(stem: str) -> str:
    """A file's stem as a batch name: letters, digits, dots, dashes and underscores; 'my jobs (2)' -> 'my-jobs-2'."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100].rstrip("-._")
    return name or f"batch-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"


def _chunks(jobs: Iterator[RenderJob]) -> Iterator[tuple[RenderJob, ...]]:
    while chunk := tuple(islice(jobs, CHUNK_JOBS)):
        yield chunk
