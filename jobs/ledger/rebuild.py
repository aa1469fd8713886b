"""Rebuilding a lost ledger from storage: the manifest says what was submitted, and the sidecars which jobs are done.

A job without a sidecar is queued, unless a live worker says that it holds the job. Storage knows nothing of failures,
cancellations and attempts, so those are lost with the ledger: failed and cancelled jobs are queued once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobs.errors import InvalidJob
from jobs.job import RenderJob
from jobs.ledger.chunks import chunks
from jobs.ledger.enqueue import enqueue
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo
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

    Jobs that the ledger knows stay as they are, so this is safe at any time. `settle_seconds` is how long to wait for
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
        rebuilding = _Rebuilding(ledger, info, sidecars, rebuilt)
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
    """Oldest first: a later part may correct rows of an earlier one."""
    parts = []
    for uri in part_uris(store, output, batch):
        try:
            parts.append(read_head(store, uri))
        except InvalidJob as error:
            rebuilt.damaged.append(str(error))
    return sorted((part for part in parts if part.head.batch == batch), key=lambda part: part.head.submitted_at)


@dataclass(frozen=True)
class _Rebuilding:
    ledger: Ledger
    info: BatchInfo
    sidecars: Sidecars
    rebuilt: Rebuilt

    def enter(self, chunk: Sequence[tuple[RenderJob, bool]], *, source: str) -> None:
        """Enter some jobs of one part, each with whether the manifest lacks its URL's secret."""
        entered = enqueue(
            self.ledger,
            [job for job, _ in chunk],
            row_prefix=self.info.row_prefix(source),
            sidecars=self.sidecars,
            withheld={job.id for job, secret in chunk if secret},
        )
        rebuilt = self.rebuilt
        rebuilt.jobs += len(chunk)
        rebuilt.recovered += entered.enqueued.recovered
        rebuilt.queued += entered.enqueued.added
        rebuilt.held += entered.held
        rebuilt.withheld += entered.withheld
