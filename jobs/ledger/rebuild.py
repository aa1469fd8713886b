"""Rebuilding a lost ledger from storage: the manifest says what was submitted, and the sidecars which jobs are done.

A job without a sidecar is queued, unless a live worker says that it holds the job. Storage knows nothing of failures,
cancellations and attempts, so those are lost with the ledger: failed and cancelled jobs are queued once more.

Parts are read newest first, so the first version of a row that is read is its last one, and those that follow are
entered as superseded. Only what the ledger does not know is entered. A row that the ledger knows keeps its current
version, unless that is an earlier one of the manifest's: Redis may have come back with less than it had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from jobs.errors import InvalidJob
from jobs.job import JOB_ID, RenderJob
from jobs.ledger.chunks import chunks
from jobs.ledger.enqueue import enqueue
from jobs.ledger.idset import IdSet
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo
from jobs.ledger.rowset import RowSet
from jobs.ledger.sidecars import Sidecars
from jobs.storage.store import Store
from jobs.submission import Part, jobs_of, part_uris, read_head


@dataclass
class Rebuilt:
    """What became of the jobs of a manifest.

    `withheld` jobs are not done and need their CSV, because their URL has a secret that storage does not keep. Of
    `unknown` jobs storage refuses to say whether they are done, and `refusal` is what it says; they are queued.
    `damaged` has one sentence for each part that could not be read.
    """

    jobs: int = 0
    recovered: int = 0
    queued: int = 0
    held: int = 0
    withheld: int = 0
    unknown: int = 0
    refusal: str | None = None
    damaged: list[str] = field(default_factory=list)


def rebuild(
    ledger: Ledger,
    batch: str,
    *,
    output: str,
    store: Store,
    settle_seconds: float,
    sleep: Callable[[float], object] = time.sleep,
) -> Rebuilt | None:
    """Tell the ledger what storage knows of a batch; None where storage knows nothing.

    Jobs that the ledger knows stay as they are, unless the manifest has a later version of their row that the ledger
    does not know; so this is safe at any time. `settle_seconds` is how long to wait for
    live workers to say what they hold: one heartbeat. Memory stays flat.

    Raises:
        SourceForbidden, OutputForbidden: storage refuses to show the manifest.
        BatchDeleted: the batch is being deleted, or was deleted meanwhile.
        RenderError: storage or Redis does not answer. Call again to continue.
    """
    rebuilt = Rebuilt()
    parts = _parts(store, output, batch, rebuilt)
    if not parts:
        return rebuilt if rebuilt.damaged else None
    ledger.begin_rebuilding(batch)
    info = ledger.open_batch(batch, output=output, source=parts[0].head.source)
    sleep(settle_seconds)
    with Sidecars(store) as sidecars:
        rebuilding = _Rebuilding(ledger, info, sidecars, rebuilt, _Manifest(store, output, parts))
        for part in parts:
            try:
                for chunk in chunks(jobs_of(store, part, output=output)):
                    rebuilding.enter(chunk, source=part.head.source)
            except InvalidJob as error:
                rebuilt.damaged.append(str(error))
        rebuilt.unknown, rebuilt.refusal = sidecars.unknown, sidecars.refusal
    if not rebuilt.damaged and not rebuilt.withheld:
        ledger.end_rebuilding(batch)
    return rebuilt


def _parts(store: Store, output: str, batch: str, rebuilt: Rebuilt) -> list[Part]:
    """Newest first: a later part may correct rows of an earlier one."""
    parts = []
    for uri in part_uris(store, output, batch):
        try:
            parts.append(read_head(store, uri))
        except InvalidJob as error:
            rebuilt.damaged.append(str(error))
    ours = (part for part in parts if part.head.batch == batch)
    return sorted(ours, key=lambda part: part.head.submitted_at, reverse=True)


@dataclass
class _Manifest:
    store: Store
    output: str
    parts: list[Part]

    @cached_property
    def ids(self) -> IdSet:
        """All jobs. Few rebuilds need them, and reading them takes as long as reading all parts once more."""
        return IdSet(self._readable_ids())

    def _readable_ids(self) -> Iterator[str]:
        for part in self.parts:
            with suppress(InvalidJob):  # it is said where the part's jobs are entered
                yield from (job.id for job, _ in jobs_of(self.store, part, output=self.output))


@dataclass
class _Rebuilding:
    ledger: Ledger
    info: BatchInfo
    sidecars: Sidecars
    rebuilt: Rebuilt
    manifest: _Manifest
    rows: RowSet = field(default_factory=RowSet)  # those whose last version was entered, or was known

    def enter(self, chunk: Sequence[tuple[RenderJob, bool]], *, source: str) -> None:
        """Enter some jobs of one part, each with whether the manifest lacks its URL's secret."""
        jobs, withheld = [job for job, _ in chunk], [job.id for job, secret in chunk if secret]
        row_prefix = self.info.row_prefix(source)
        entered = enqueue(
            self.ledger,
            jobs,
            row_prefix=row_prefix,
            sidecars=self.sidecars,
            withheld=set(withheld),
            replaces=self._replaces(jobs, row_prefix),
        )
        left_out = self.ledger.unknown(self.info.name, withheld)  # their rows keep an earlier version until then
        for job in jobs:
            if job.id not in left_out:
                self.rows.add(row_prefix, job.row)
        rebuilt = self.rebuilt
        rebuilt.jobs += len(chunk)
        rebuilt.recovered += entered.enqueued.recovered
        rebuilt.queued += entered.enqueued.added
        rebuilt.held += entered.in_flight
        rebuilt.withheld += entered.withheld

    def _replaces(self, jobs: Sequence[RenderJob], row_prefix: str) -> dict[str, str]:
        """The current versions that jobs replace: those that the manifest has too, in a part that is read later.

        A version that is not in the manifest was submitted meanwhile, or where no manifest could be written.
        """
        last = [job for job in jobs if (row_prefix, job.row) not in self.rows]
        current = self.ledger.current(self.info.name, [f"{row_prefix}{job.row}" for job in last])
        others = {job.id: id_ for job, id_ in zip(last, current, strict=True) if id_ is not None and id_ != job.id}
        return {id_: other for id_, other in others.items() if JOB_ID.fullmatch(other) and other in self.manifest.ids}
